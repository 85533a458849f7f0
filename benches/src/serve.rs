//! `serve`: one archive to many sinks, against a real cascading standby that serves the same ones.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pg_types::Lsn;
use serde_json::json;
use testkit::process::{Running, Signal, children_of, cpu_seconds, peak_rss_bytes, seawall_bin};
use testkit::scratch::Scratch;
use testkit::servers::{self, Server, ServerOptions, free_port};

use crate::measure::{argument, median};
use crate::{delay, sink};

/// Receivers start and stop within this.
const LIMIT: Duration = Duration::from_secs(120);

/// The servers before the sinks, and what there is to be sent.
struct Work {
    primary: Server,
    standby: Server,
    seawall: Running,
    port: u16,
    start: Lsn,
    bytes: u64,
    archive: Scratch,
}

/// What one run came to.
#[derive(Clone, Copy)]
struct Run {
    bytes_per_second: f64,
    cpu_per_gb: f64,
}

/// Runs the pairs with 1, 8 and 32 sinks, then commits one by one: `--major`, `--mib`, `--pairs`,
/// `--commits`.
///
/// # Errors
/// If a server or a program fails.
#[expect(clippy::print_stdout, reason = "a bench prints")]
pub fn bench(args: &[String]) -> Result<()> {
    let major = u32::try_from(argument(args, "--major", 17)?)?;
    let (mib, pairs) = (argument(args, "--mib", 512)?, argument(args, "--pairs", 5)?);
    let commits = usize::try_from(argument(args, "--commits", 200)?)?;
    let work = make(major, mib)?;
    let version = &work.primary.install().version;
    println!("{mib} MiB of WAL of PostgreSQL {version}, to each sink; CPU is the server's alone");
    println!("sinks  seawall MB/s  s/GB | cascading standby MB/s  s/GB | faster  cpu  RSS MiB");
    // Proved by the first who asks, and remembered.
    let first = run(&work, work.port, 1, || cpu_seconds(work.seawall.pid()))?;
    let (speed, cpu) = (first.bytes_per_second / 1e6, first.cpu_per_gb);
    println!("first {speed:>13.0} {cpu:>5.2} | the first time, when each byte is proved");
    for sinks in [1_usize, 8, 32] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            let our = || run(&work, work.port, sinks, || cpu_seconds(work.seawall.pid()));
            let their = || run(&work, work.standby.port(), sinks, || cpu_of(&work.standby));
            // Who goes first changes, so that neither has the warmer cache.
            if pair % 2 == 0 {
                ours.push(our()?);
                theirs.push(their()?);
            } else {
                theirs.push(their()?);
                ours.push(our()?);
            }
        }
        let each = || ours.iter().zip(&theirs);
        let faster =
            median(each().map(|(our, their)| our.bytes_per_second / their.bytes_per_second));
        let cpu = median(each().map(|(our, their)| our.cpu_per_gb / their.cpu_per_gb));
        let rss = peak_rss_bytes(work.seawall.pid()).unwrap_or(0) as f64 / f64::from(1 << 20);
        let middle = |runs: &[Run], of: fn(&Run) -> f64| median(runs.iter().map(of));
        let speed = |runs: &[Run]| middle(runs, |run| run.bytes_per_second) / 1e6;
        println!(
            "{sinks:>5} {:>13.0} {:>5.2} | {:>22.0} {:>5.2} | {faster:>5.2}x {cpu:>4.2} {rss:>8.1}",
            speed(&ours),
            middle(&ours, |run| run.cpu_per_gb),
            speed(&theirs),
            middle(&theirs, |run| run.cpu_per_gb),
        );
        println!(
            "{}",
            json!({
                "bench": "serve", "version": version, "sinks": sinks, "bytes": work.bytes,
                "throughput_ratio": faster, "cpu_ratio": cpu, "seawall_peak_rss_mib": rss,
            })
        );
    }
    let ports = (work.port, work.standby.port());
    let tip = work.archive.path().join("archive/run/tip.sock");
    let delay::Delays { ours, theirs, behind_durable } =
        delay::measure(&work.primary, ports, &tip, commits)?;
    println!(
        "a commit alone: {ours:.2} ms to a sink by seawall, {theirs:.2} ms by the cascading \
         standby; {behind_durable:.3} ms behind what is told to be durable here"
    );
    println!(
        "{}",
        json!({
            "bench": "serve", "commit_to_sink_ms": ours, "standby_commit_to_sink_ms": theirs,
            "durable_to_sink_ms": behind_durable,
        })
    );
    println!(
        "targets: 1.5x the throughput, 0.5x the CPU, 1 MiB for each sink, 1 ms behind durable"
    );
    Ok(())
}

/// All processes of a server together.
fn cpu_of(server: &Server) -> Option<f64> {
    Some(children_of(server.pid()?).into_iter().filter_map(cpu_seconds).sum())
}

/// Every sink takes everything, at the same time.
fn run(work: &Work, port: u16, sinks: usize, cpu: impl Fn() -> Option<f64>) -> Result<Run> {
    let before = cpu().context("reading the server's CPU time")?;
    let began = Instant::now();
    let (start, bytes) = (work.start, work.bytes);
    let drains: Vec<_> =
        (0..sinks).map(|_| thread::spawn(move || sink::drain(port, None, start, bytes))).collect();
    // Kept open, so that processes that serve them are still there to be asked.
    let mut kept = Vec::new();
    for drain in drains {
        let Ok(drained) = drain.join() else { bail!("a sink panicked") };
        kept.push(drained?);
    }
    let seconds = began.elapsed().as_secs_f64();
    let used = cpu().context("reading the server's CPU time")? - before;
    let total = bytes as f64 * sinks as f64;
    Ok(Run { bytes_per_second: total / seconds, cpu_per_gb: used / (total / 1e9) })
}

fn make(major: u32, mib: u64) -> Result<Work> {
    let install = servers::install(major)?;
    let conf = ["wal_keep_size = '64GB'", "max_wal_size = '64GB'", "max_wal_senders = 100"];
    let conf = [&conf[..], &["fsync = off", "autovacuum = off"]].concat();
    let conf = conf.into_iter().map(str::to_owned).collect();
    let primary = Server::start(&install, &ServerOptions { conf, ..ServerOptions::default() })?;
    primary.sql("SELECT pg_switch_wal()")?;
    let standby = primary.standby(&["max_wal_senders = 100", "wal_keep_size = '64GB'"])?;
    let (archive, port) = (Scratch::new("serve")?, free_port()?);
    let mut command = Command::new(seawall_bin()?);
    command.args(["receive", "--no-slot", "-d", &primary.conninfo(), "--serve-auth", "trust"]);
    command.args(["--serve", &format!("127.0.0.1:{port}"), "-A"]);
    let seawall = Running::spawn(command.arg(archive.path().join("archive")), "seawall receive")?;
    seawall.wait_for_line("streaming timeline", LIMIT)?;
    let at = |server: &Server| -> Result<Lsn> { Ok(server.current_lsn()?.parse()?) };
    let start = at(&primary)?.align_down(16 << 20).saturating_add(16 << 20);
    primary.sql("CREATE TABLE load (id bigint, filler text)")?;
    while at(&primary)?.saturating_since(start) < (mib + 16) << 20 {
        let rows = "SELECT i, repeat(md5(i::text), 6) FROM generate_series(1, 200000) i";
        primary.sql(&format!("INSERT INTO load {rows}"))?;
    }
    let end = at(&primary)?;
    standby.wait_until("all of it", LIMIT, &format!("pg_last_wal_replay_lsn() >= '{end}'"))?;
    let flushed = format!(
        "EXISTS (SELECT FROM pg_stat_replication WHERE application_name = 'seawall' \
         AND flush_lsn >= '{end}')"
    );
    primary.wait_until("all of it in the archive", LIMIT, &flushed)?;
    Ok(Work { primary, standby, seawall, port, start, bytes: mib << 20, archive })
}

impl Drop for Work {
    fn drop(&mut self) {
        self.seawall.kill(Signal::TERM);
    }
}
