//! `dump` and `stats`: pg_waldump and seawall's drop-in on the same files, output to a pipe that
//! is read to its end.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use testkit::process::seawall_bin;
use testkit::scratch::Scratch;
use testkit::servers::{self, Install, Server, ServerOptions, StopMode, segments_in};

use crate::measure::{Usage, argument, median, usages_json, wait, watch};

/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(300);

/// What is read.
struct Work {
    install: Install,
    dir: Scratch,
    first: String,
    last: String,
    bytes: u64,
}

/// A comparison: its name, the options of both programs, those of seawall alone, and the target.
struct Case {
    name: &'static str,
    options: &'static [&'static str],
    jobs: Option<&'static str>,
    target: f64,
}

const TEXT: [Case; 3] = [
    Case { name: "text, all cores", options: &[], jobs: None, target: 4.0 },
    Case { name: "text, --jobs 1", options: &[], jobs: Some("1"), target: 2.0 },
    Case { name: "-q", options: &["-q"], jobs: None, target: 2.5 },
];

const STATS: [Case; 2] = [
    Case { name: "--stats=record", options: &["--stats=record"], jobs: None, target: 2.0 },
    Case { name: "--stats=record, 1", options: &["--stats=record"], jobs: Some("1"), target: 1.0 },
];

/// Text: `--major`, `--pairs`, `--transactions`.
///
/// # Errors
/// If a server or a program fails, or the outputs differ.
pub fn dump(args: &[String]) -> Result<()> {
    bench("dump", &TEXT, args)
}

/// Statistics, with the same arguments.
///
/// # Errors
/// As [`dump`].
pub fn stats(args: &[String]) -> Result<()> {
    bench("stats", &STATS, args)
}

#[expect(clippy::print_stdout, reason = "a bench prints")]
fn bench(name: &str, cases: &[Case], args: &[String]) -> Result<()> {
    let major = u32::try_from(argument(args, "--major", 17)?)?;
    let pairs = argument(args, "--pairs", 21)?;
    let work = make(major, argument(args, "--transactions", 20_000)?)?;
    // The kernel's writing of what was just made would take part of a processor meanwhile.
    rustix::fs::sync();
    println!(
        "{:.0} MB of WAL of PostgreSQL {}, against {}",
        work.bytes as f64 / 1e6,
        work.install.version,
        work.install.bin("pg_waldump").display()
    );
    println!("{:<18} seawall s   cpu s    MiB | pg_waldump s   cpu s    MiB | faster", "");
    for case in cases {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // The first pair tells how much memory they take, the others how long.
        for pair in 0..=pairs {
            // Who goes first changes.
            let run_ours = || piped(&mut our_command(&work, case)?, pair == 0);
            let run_theirs = || piped(&mut their_command(&work, case), pair == 0);
            let (our, their) = if pair % 2 == 0 {
                let our = run_ours()?;
                (our, run_theirs()?)
            } else {
                let their = run_theirs()?;
                (run_ours()?, their)
            };
            if our.1 != their.1 {
                bail!("{}: {} and {} bytes of output", case.name, our.1, their.1);
            }
            ours.push(our.0);
            theirs.push(their.0);
        }
        let peaks = [&mut ours, &mut theirs].map(|usages| usages.remove(0).peak_rss_bytes);
        let ratio =
            median(ours.iter().zip(&theirs).map(|(our, their)| their.seconds / our.seconds));
        let of = |usages: &[Usage], peak: u64| {
            let seconds = median(usages.iter().map(|usage| usage.seconds));
            let cpu = median(usages.iter().map(|usage| usage.cpu_seconds));
            format!("{seconds:>9.3} {cpu:>7.3} {:>6.1}", peak as f64 / f64::from(1 << 20))
        };
        println!(
            "{:<18} {} | {:>12} | {ratio:>5.2}x (target {}x)",
            case.name,
            of(&ours, peaks[0]),
            of(&theirs, peaks[1]),
            case.target
        );
        println!(
            "{}",
            json!({"bench": name, "case": case.name, "version": work.install.version,
                "faster": ratio, "target": case.target, "peak_rss_bytes": peaks,
                "seawall": usages_json(&ours), "pg_waldump": usages_json(&theirs)})
        );
    }
    Ok(())
}

/// WAL of pgbench and of bulk loads, in a directory of its own.
fn make(major: u32, transactions: u64) -> Result<Work> {
    let install = servers::install(major)?;
    let conf = ["wal_keep_size = '8GB'", "max_wal_size = '8GB'", "fsync = off", "autovacuum = off"];
    let conf = conf.map(str::to_owned).to_vec();
    let mut server = Server::start(&install, &ServerOptions { conf, ..ServerOptions::default() })?;
    server.init_pgbench(5)?;
    server.pgbench(&["-n", "-c", "4", "-t", &(transactions / 4).to_string()]).output()?;
    server.sql("CREATE TABLE l AS SELECT i, md5(i::text) FROM generate_series(1, 200000) i; CREATE INDEX ON l(i); DELETE FROM l WHERE i % 3 = 0; VACUUM l")?;
    server.stop(StopMode::Fast)?;
    let dir = Scratch::new("dump")?;
    let mut bytes = 0;
    let mut names = Vec::new();
    for segment in segments_in(&server.wal_dir())? {
        let name = segment.file_name().context("a name")?.to_string_lossy().into_owned();
        if servers::segment_size_in(&segment, &name).is_none() {
            continue;
        }
        bytes += std::fs::copy(&segment, dir.path().join(&name))?;
        names.push(name);
    }
    let (first, last) =
        (names.first().context("WAL")?.clone(), names.last().context("WAL")?.clone());
    Ok(Work { install, dir, first, last, bytes })
}

fn their_command(work: &Work, case: &Case) -> Command {
    let mut command = work.install.client_command("pg_waldump");
    arguments(&mut command, work.dir.path(), work, case);
    command
}

/// The drop-in, or the subcommand where it has to be told how many threads.
fn our_command(work: &Work, case: &Case) -> Result<Command> {
    let seawall = seawall_bin()?;
    let mut command = match case.jobs {
        None => Command::new(drop_in(&seawall)),
        Some(jobs) => {
            let mut command = Command::new(&seawall);
            command.args(["waldump", "--jobs", jobs]);
            command
        }
    };
    command.env("TZ", "UTC");
    arguments(&mut command, work.dir.path(), work, case);
    Ok(command)
}

fn drop_in(seawall: &Path) -> PathBuf {
    seawall.with_file_name("pg_waldump")
}

fn arguments(command: &mut Command, dir: &Path, work: &Work, case: &Case) {
    command.args(case.options).arg(&work.first).arg(&work.last).current_dir(dir);
}

/// Runs a program whose output is read; how many bytes it printed. It ends with 1, at the end of
/// the log. It has ended when its output has: looking for its end now and then would add
/// milliseconds to the few that it takes. Only where it is `watched` its peak memory is known.
fn piped(command: &mut Command, watched: bool) -> Result<(Usage, u64)> {
    /// Readers of dumps read so much at once.
    const READ_BYTES: usize = 64 << 10;
    let started = std::time::Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut stdout = child.stdout.take().context("its output")?;
    let reading = thread::spawn(move || {
        let (mut bytes, mut buffer) = (0_u64, vec![0; READ_BYTES]);
        loop {
            match stdout.read(&mut buffer) {
                Ok(0) | Err(_) => return (bytes, started.elapsed().as_secs_f64()),
                Ok(len) => bytes += len as u64,
            }
        }
    });
    let usage = if watched { watch(&mut child, started, LIMIT) } else { wait(&child, started) };
    let status = child.wait()?;
    let (bytes, seconds) = reading.join().unwrap_or_default();
    if status.code() != Some(1) {
        bail!("{:?} ended with {status}", command.get_program());
    }
    Ok((Usage { seconds, ..usage? }, bytes))
}
