//! `sync`: pgbench with a synchronous standby, seawall against `pg_receivewal --synchronous`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use testkit::peers::{ReceiveOptions, pg_receivewal};
use testkit::process::{Running, Signal, seawall_bin};
use testkit::scratch::Scratch;
use testkit::servers::{self, Server, ServerOptions};

use crate::measure::{argument, median};

/// Receivers start and stop within this.
const LIMIT: Duration = Duration::from_secs(60);
/// The name under which both are the synchronous standby.
const NAME: &str = "standby";

/// Runs the pairs at 1, 8 and 32 clients: `--major`, `--seconds`, `--pairs`,
/// `--clients` for one of them.
///
/// # Errors
/// If a server or a program fails.
#[expect(clippy::print_stdout, reason = "a bench prints")]
pub fn bench(args: &[String]) -> Result<()> {
    let major = u32::try_from(argument(args, "--major", 17)?)?;
    let seconds = argument(args, "--seconds", 5)?;
    let pairs = argument(args, "--pairs", 5)?;
    let install = servers::install(major)?;
    let conf = ["wal_keep_size = '2GB'", "max_connections = 100", "max_wal_size = '8GB'"];
    let conf = conf.map(str::to_owned).to_vec();
    let server = Server::start(&install, &ServerOptions { conf, ..ServerOptions::default() })?;
    server.init_pgbench(10)?;
    println!("pgbench -N, PostgreSQL {}, transactions per second", install.version);
    println!("clients  seawall  pg_receivewal  alone | seawall/pg_receivewal");
    let only = argument(args, "--clients", 0)?;
    for clients in [1, 8, 32].into_iter().filter(|clients| [0, u64::from(*clients)].contains(&only))
    {
        let (mut ours, mut theirs, mut alone) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..pairs {
            let load = |server: &Server| transactions(server, clients, seconds);
            let our = |server: &Server| with_receiver(server, seawall(server)?, load);
            let their = |server: &Server| with_receiver(server, peer(server)?, load);
            if pair % 2 == 0 {
                ours.push(our(&server)?);
                theirs.push(their(&server)?);
            } else {
                theirs.push(their(&server)?);
                ours.push(our(&server)?);
            }
            alone.push(load(&server)?);
        }
        let ratio = median(ours.iter().zip(&theirs).map(|(our, their)| our / their));
        println!(
            "{clients:>7} {:>8.0} {:>14.0} {:>6.0} | {ratio:.2}x (target 1.1x)",
            median(ours.iter().copied()),
            median(theirs.iter().copied()),
            median(alone.iter().copied()),
        );
        println!(
            "{}",
            json!({
                "bench": "sync", "version": install.version, "clients": clients,
                "seawall_tps": ours, "pg_receivewal_tps": theirs, "alone_tps": alone,
                "ratio": ratio,
            })
        );
    }
    Ok(())
}

/// A receiver and the directory that it fills.
struct Peer {
    running: Running,
    slot: &'static str,
    _dir: Scratch,
}

fn seawall(server: &Server) -> Result<Peer> {
    let dir = Scratch::new("sync-seawall")?;
    let mut command = Command::new(seawall_bin()?);
    command.args(["receive", "--no-loop", "-d", &server.conninfo(), "-S", "seawall"]);
    command.args(["--create-slot", "--application-name", NAME, "-A"]);
    command.arg(dir.path().join("archive"));
    let running = Running::spawn(&mut command, "seawall")?;
    Ok(Peer { running, slot: "seawall", _dir: dir })
}

fn peer(server: &Server) -> Result<Peer> {
    let dir = Scratch::new("sync-peer")?;
    let options = ReceiveOptions {
        slot: Some("peer".to_owned()),
        synchronous: true,
        application_name: NAME.to_owned(),
        ..ReceiveOptions::default()
    };
    let running = pg_receivewal(server.install(), &server.conninfo(), dir.path(), &options)?;
    Ok(Peer { running, slot: "peer", _dir: dir })
}

/// Runs a load with this receiver as the synchronous standby.
fn with_receiver(
    server: &Server,
    mut peer: Peer,
    load: impl Fn(&Server) -> Result<f64>,
) -> Result<f64> {
    server.set_synchronous_standbys(NAME)?;
    let sync = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')";
    server.wait_until("the receiver is the synchronous standby", LIMIT, sync)?;
    let result = load(server);
    server.set_synchronous_standbys("")?;
    peer.running.stop(Signal::INT, LIMIT)?;
    let gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_replication)";
    server.wait_until("the receiver is gone", LIMIT, gone)?;
    server.sql(&format!("SELECT pg_drop_replication_slot('{}')", peer.slot))?;
    result
}

/// pgbench's transactions per second, without connecting.
fn transactions(server: &Server, clients: u32, seconds: u64) -> Result<f64> {
    let threads = clients.min(2).to_string();
    let (clients, seconds) = (clients.to_string(), seconds.to_string());
    let args = ["-N", "-n", "-c", &clients, "-j", &threads, "-T", &seconds];
    let output = server.pgbench(&args).output().context("pgbench")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let number = line.and_then(|line| line.split(' ').next()).context("pgbench's tps")?;
    number.parse().with_context(|| format!("pgbench's tps: {text}"))
}
