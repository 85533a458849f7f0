//! `catchup`: gigabytes of WAL over TCP, durable, against pg_receivewal of the server's version.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use pg_types::Lsn;
use pg_wire::command::SlotName;
use serde_json::json;
use testkit::process::seawall_bin;
use testkit::scratch::Scratch;
use testkit::servers::{self, Install, Server, ServerOptions};

use crate::measure::{Usage, argument, median, run, usages_json};
use crate::sink;

/// No run takes longer on any machine that is worth measuring on.
const LIMIT: Duration = Duration::from_secs(300);
/// The slot from whose beginning every run starts, by a copy of it.
const BASE_SLOT: &str = "base";

struct Work {
    server: Server,
    install: Install,
    start: Lsn,
    end: Lsn,
}

/// Runs the pairs: `--major`, `--mib`, `--pairs`.
///
/// # Errors
/// If a server or a program fails.
#[expect(clippy::print_stdout, reason = "a bench prints")]
pub fn bench(args: &[String]) -> Result<()> {
    let major = u32::try_from(argument(args, "--major", 17)?)?;
    let mib = argument(args, "--mib", 2048)?;
    let pairs = argument(args, "--pairs", 5)?;
    let work = make(major, mib)?;
    let bytes = work.end.saturating_since(work.start);
    let mb = bytes as f64 / 1e6;
    println!(
        "{mb:.0} MB of WAL of PostgreSQL {}, against {}",
        work.install.version,
        work.install.bin("pg_receivewal").display()
    );
    println!(
        "pair  seawall s  MB/s   cpu s | pg_receivewal s  MB/s   cpu s |  sink s | faster  cpu"
    );
    let (mut ours, mut theirs, mut sinks) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 1..=pairs {
        // Who goes first changes, so that neither has the warmer disk.
        let (our, their) = if pair % 2 == 1 {
            let our = seawall(&work, pair)?;
            (our, pg_receivewal(&work, pair)?)
        } else {
            let their = pg_receivewal(&work, pair)?;
            (seawall(&work, pair)?, their)
        };
        let slot = slot(&work, &format!("sink{pair}"))?;
        let (sink, _) = sink::drain(work.server.port(), Some(&slot), work.start, bytes)?;
        println!(
            "{pair:>4}  {:>9.2} {:>5.0} {:>7.2} | {:>15.2} {:>5.0} {:>7.2} | {sink:>7.2} | {:>5.2}x {:>4.2}",
            our.seconds,
            mb / our.seconds,
            our.cpu_seconds,
            their.seconds,
            mb / their.seconds,
            their.cpu_seconds,
            their.seconds / our.seconds,
            our.cpu_seconds / their.cpu_seconds,
        );
        ours.push(our);
        theirs.push(their);
        sinks.push(sink);
    }
    let each = || ours.iter().zip(&theirs);
    let throughput = median(each().map(|(our, their)| their.seconds / our.seconds));
    let cpu = median(each().map(|(our, their)| our.cpu_seconds / their.cpu_seconds));
    let of_sink = median(ours.iter().zip(&sinks).map(|(our, sink)| sink / our.seconds));
    let peak = ours.iter().map(|usage| usage.peak_rss_bytes).max().unwrap_or(0);
    println!("throughput {throughput:.2}x of pg_receivewal's (target 3.5x)");
    println!("CPU {cpu:.2}x of pg_receivewal's (target 0.3x)");
    println!("{:.0} % of what the server sends to a sink (target 60 %)", of_sink * 100.0);
    println!("peak memory {:.1} MiB (target 16 MiB)", peak as f64 / f64::from(1 << 20));
    println!(
        "{}",
        json!({
            "bench": "catchup", "version": work.install.version, "bytes": bytes,
            "seawall": usages_json(&ours), "pg_receivewal": usages_json(&theirs),
            "sink_seconds": sinks, "throughput_ratio": throughput, "cpu_ratio": cpu,
            "of_sink": of_sink,
        })
    );
    Ok(())
}

/// A server that has written that much WAL and keeps it.
fn make(major: u32, mib: u64) -> Result<Work> {
    let install = servers::install(major)?;
    let conf = [
        "wal_keep_size = '64GB'",
        "max_wal_size = '64GB'",
        "shared_buffers = '512MB'",
        "max_replication_slots = 100",
        "autovacuum = off",
        "fsync = off",
        "checkpoint_timeout = '1h'",
    ];
    let conf = conf.map(str::to_owned).to_vec();
    let server = Server::start(&install, &ServerOptions { conf, ..ServerOptions::default() })?;
    server.sql("SELECT pg_switch_wal()")?;
    server.sql(&format!("SELECT pg_create_physical_replication_slot('{BASE_SLOT}', true)"))?;
    let at = |server: &Server| -> Result<Lsn> { Ok(server.current_lsn()?.parse()?) };
    let start = at(&server)?.align_down(16 << 20);
    server.sql("CREATE TABLE load (id bigint, filler text)")?;
    server.init_pgbench(20)?;
    let mut round = 0;
    while at(&server)?.saturating_since(start) < mib << 20 {
        round += 1;
        server.sql(&format!(
            "INSERT INTO load SELECT i, repeat(md5(i::text), 6) FROM generate_series(1, 400000) i; \
             CREATE INDEX load_{round} ON load (id); UPDATE pgbench_accounts SET abalance = {round} \
             WHERE aid % 7 = {round} % 7"
        ))?;
    }
    server.sql("CHECKPOINT")?;
    server.sql("SELECT pg_switch_wal()")?;
    let end = at(&server)?.align_down(16 << 20);
    Ok(Work { server, install, start, end })
}

/// A copy of the slot that keeps everything.
fn slot(work: &Work, name: &str) -> Result<SlotName> {
    work.server
        .sql(&format!("SELECT pg_copy_physical_replication_slot('{BASE_SLOT}', '{name}')"))?;
    Ok(SlotName::new(name)?)
}

fn seawall(work: &Work, pair: u64) -> Result<Usage> {
    let slot = slot(work, &format!("seawall{pair}"))?;
    let scratch = Scratch::new("catchup-seawall")?;
    let mut command = Command::new(seawall_bin()?);
    command.args(["receive", "--no-loop", "-q", "-d", &work.server.conninfo()]);
    command.args(["-S", slot.as_str(), "-E", &work.end.to_string(), "-A"]);
    settle();
    run(command.arg(scratch.path().join("archive")), LIMIT).context("seawall receive")
}

fn pg_receivewal(work: &Work, pair: u64) -> Result<Usage> {
    let slot = slot(work, &format!("peer{pair}"))?;
    let scratch = Scratch::new("catchup-peer")?;
    let mut command = work.install.client_command("pg_receivewal");
    command.args(["--no-loop", "-d", &work.server.conninfo(), "-S", slot.as_str()]);
    command.args(["--endpos", &work.end.to_string(), "-D"]);
    settle();
    run(command.arg(scratch.path()), LIMIT).context("pg_receivewal")
}

/// What the run before left to be written back isn't this one's.
fn settle() {
    rustix::fs::sync();
}
