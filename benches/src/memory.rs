//! `memory`: the greatest resident set of one receiver, catching up and then streaming.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use testkit::peers::{ReceiveOptions, pg_receivewal};
use testkit::process::{Running, Signal, seawall_bin};
use testkit::scratch::Scratch;
use testkit::servers::{self, Server, ServerOptions};

use crate::measure::argument;

/// Catching up takes no longer.
const LIMIT: Duration = Duration::from_secs(300);

/// Measures both receivers on the same WAL: `--major`, `--mib`.
///
/// # Errors
/// If a server or a program fails.
#[expect(clippy::print_stdout, reason = "a bench prints")]
pub fn bench(args: &[String]) -> Result<()> {
    let major = u32::try_from(argument(args, "--major", 17)?)?;
    let mib = argument(args, "--mib", 512)?;
    let install = servers::install(major)?;
    let conf = ["wal_keep_size = '8GB'", "max_wal_size = '8GB'", "fsync = off"];
    let conf = conf.map(str::to_owned).to_vec();
    let server = Server::start(&install, &ServerOptions { conf, ..ServerOptions::default() })?;
    for slot in ["seawall", "peer"] {
        server.sql(&format!("SELECT pg_create_physical_replication_slot('{slot}', true)"))?;
    }
    server.init_pgbench(10)?;
    server.sql(&format!(
        "CREATE TABLE load AS SELECT i, repeat(md5(i::text), 30) t FROM \
         generate_series(1, {mib} * 1024) i"
    ))?;
    let dir = Scratch::new("memory")?;
    let mut command = Command::new(seawall_bin()?);
    command.args(["receive", "--no-loop", "-q", "-d", &server.conninfo(), "-S", "seawall"]);
    command.args(["--application-name", "seawall", "-A"]).arg(dir.path().join("archive"));
    let ours = measure(&server, Running::spawn(&mut command, "seawall")?, "seawall")?;
    let peer_dir = Scratch::new("memory-peer")?;
    let options = ReceiveOptions {
        slot: Some("peer".to_owned()),
        application_name: "peer".to_owned(),
        ..ReceiveOptions::default()
    };
    let peer = pg_receivewal(&install, &server.conninfo(), peer_dir.path(), &options)?;
    let theirs = measure(&server, peer, "peer")?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("peak memory, catching up / then streaming, PostgreSQL {}", install.version);
    println!("seawall        {:.1} / {:.1} MiB (target 16 MiB)", mib(ours.0), mib(ours.1));
    println!("pg_receivewal  {:.1} / {:.1} MiB", mib(theirs.0), mib(theirs.1));
    println!(
        "{}",
        json!({"bench": "memory", "version": install.version,
            "seawall_bytes": ours, "pg_receivewal_bytes": theirs})
    );
    Ok(())
}

/// The peak after catching up, and after some seconds of load.
fn measure(server: &Server, mut running: Running, name: &str) -> Result<(u64, u64)> {
    // pg_receivewal reports what it has written; what counts here is that all has arrived.
    let caught_up = format!(
        "SELECT coalesce(bool_or(write_lsn >= pg_current_wal_lsn() - 16 * 1024 * 1024), false) \
         FROM pg_stat_replication WHERE application_name = '{name}'"
    );
    server.wait_until("the receiver has caught up", LIMIT, &caught_up)?;
    let catching_up = running.peak_rss_bytes().context("peak memory")?;
    server.pgbench(&["-N", "-n", "-c", "8", "-j", "2", "-T", "5"]).output()?;
    let streaming = running.peak_rss_bytes().context("peak memory")?;
    running.stop(Signal::INT, LIMIT)?;
    Ok((catching_up, streaming))
}
