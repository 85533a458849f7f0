//! `restore-wal`: one segment by restore_command, the whole process, beside `cp`, alternating; and
//! the same among a million segments. `cp` checks nothing, and seawall every CRC.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use testkit::process::{run, seawall_bin};
use testkit::scratch::Scratch;
use testkit::servers::{self, Server, ServerOptions, segments_in, sparse_segments_before};

use crate::measure::{argument, median};

/// Receiving what is restored takes no longer.
const LIMIT: Duration = Duration::from_secs(300);

/// What one side took in all rounds.
#[derive(Default)]
struct Side {
    ms: Vec<f64>,
    cpu_ms: f64,
}

/// Both sides, and the ratios of the pairs.
struct Pairs {
    seawall: Side,
    cp: Side,
}

/// Restores real segments of OLTP: `--major`, `--rounds`, `--segments` (how many are put before
/// them for the second half).
///
/// # Errors
/// If a server or a program fails, or what is restored isn't what is archived.
#[expect(clippy::print_stdout, reason = "a bench prints")]
pub fn bench(args: &[String]) -> Result<()> {
    let major = u32::try_from(argument(args, "--major", 17)?)?;
    let rounds = argument(args, "--rounds", 60)?;
    let many = argument(args, "--segments", 1_000_000)?;
    let dir = Scratch::new("restore-wal")?;
    let archive = dir.path().join("archive");
    let version = fill(major, &archive)?;
    let wal = archive.join("wal");
    let segments = segments_in(&wal)?;
    println!("one segment of 16 MB of pgbench, whole process; PostgreSQL {version}");
    println!("{}", version_of("cp")?);
    let few = compare(&archive, &segments, rounds, dir.path())?;
    report(&format!("{} segments", segments.len()), &few);
    let started = start_up(&archive, rounds, dir.path())?;
    println!("start-up: a history of 40 bytes in {started:.2} ms (target 3 ms)");
    sparse_segments_before(&wal, many)?;
    let among = compare(&archive, &segments, rounds, dir.path())?;
    report(&format!("{many} segments more"), &among);
    let slower = median(among.seawall.ms.iter().copied()) / median(few.seawall.ms.iter().copied());
    println!("seawall among them: {slower:.2} of its time before");
    println!(
        "{}",
        json!({"bench": "restore-wal", "version": version, "few": few.json(),
            "among": among.json(), "segments": many, "start_up_ms": started})
    );
    Ok(())
}

/// An archive of some whole segments.
fn fill(major: u32, archive: &Path) -> Result<&'static str> {
    let install = servers::install(major)?;
    let conf = ["wal_keep_size = '8GB'", "max_wal_size = '8GB'", "fsync = off"];
    let conf = conf.map(str::to_owned).to_vec();
    let server = Server::start(&install, &ServerOptions { conf, ..ServerOptions::default() })?;
    receive(&server, archive)?;
    server.init_pgbench(10)?;
    run(&mut server.pgbench(&["-N", "-n", "-c", "4", "-t", "8000"]), LIMIT, "pgbench")?;
    receive(&server, archive)?;
    fs::write(
        archive.join("wal/00000009.history"),
        "8\t0/1000000\tno recovery target specified\n",
    )?;
    Ok(install.version)
}

/// Receives what the server has.
pub(crate) fn receive(server: &Server, archive: &Path) -> Result<()> {
    let end = server.current_lsn()?;
    let mut command = Command::new(seawall_bin()?);
    command.args(["receive", "-q", "-n", "--no-slot", "-d", &server.conninfo(), "-E", &end, "-A"]);
    run(command.arg(archive), LIMIT, "seawall receive")?;
    Ok(())
}

fn compare(archive: &Path, segments: &[PathBuf], rounds: u64, dir: &Path) -> Result<Pairs> {
    let target = dir.join("RECOVERYXLOG");
    let mut pairs = Pairs { seawall: Side::default(), cp: Side::default() };
    // The first pair warms the caches.
    for round in 0..=rounds {
        let segment = &segments[usize::try_from(round)? % segments.len()];
        let name = segment.file_name().and_then(|name| name.to_str()).context("a name")?;
        let mut seawall = Command::new(seawall_bin()?);
        seawall.args(["restore-wal", name]).arg(&target).arg("-A").arg(archive);
        let mut cp = Command::new("cp");
        cp.arg(segment).arg(&target);
        let mut took = |command: &mut Command, side: fn(&mut Pairs) -> &mut Side| -> Result<()> {
            // The server has removed, or renamed, what came before.
            _ = fs::remove_file(&target);
            let (ms, cpu_ms) = timed(command)?;
            if round > 0 {
                side(&mut pairs).ms.push(ms);
                side(&mut pairs).cpu_ms += cpu_ms;
            } else if fs::read(&target)? != fs::read(segment)? {
                bail!("{name} isn't what is archived");
            }
            Ok(())
        };
        if round % 2 == 0 {
            took(&mut seawall, |pairs| &mut pairs.seawall)?;
            took(&mut cp, |pairs| &mut pairs.cp)?;
        } else {
            took(&mut cp, |pairs| &mut pairs.cp)?;
            took(&mut seawall, |pairs| &mut pairs.seawall)?;
        }
    }
    Ok(pairs)
}

/// What the least request takes, milliseconds.
fn start_up(archive: &Path, rounds: u64, dir: &Path) -> Result<f64> {
    let mut ms = Vec::new();
    for _ in 0..rounds {
        let mut command = Command::new(seawall_bin()?);
        command.args(["restore-wal", "00000009.history"]).arg(dir.join("RECOVERYHISTORY"));
        ms.push(timed(command.arg("-A").arg(archive))?.0);
    }
    Ok(median(ms))
}

/// A program from start to end: milliseconds of the clock, and of the processors.
pub(crate) fn timed(command: &mut Command) -> Result<(f64, f64)> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (cpu, started) = (children_cpu_ms()?, Instant::now());
    let status = command.status()?;
    let ms = started.elapsed().as_secs_f64() * 1000.0;
    if !status.success() {
        bail!("{:?} ended with {status}", command.get_program());
    }
    Ok((ms, children_cpu_ms()? - cpu))
}

/// What our ended children have used, in ticks of ten milliseconds: many runs make a number of it.
fn children_cpu_ms() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat")?;
    // proc(5): cutime and cstime are fields 16 and 17; the state, field 3, comes first here.
    let ticks = fields.split_whitespace().skip(13).take(2).map(str::parse::<u32>);
    let ticks: u32 = ticks.sum::<Result<u32, _>>()?;
    Ok(f64::from(ticks) * 10.0)
}

fn version_of(program: &str) -> Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[expect(clippy::print_stdout, reason = "a bench prints")]
fn report(what: &str, pairs: &Pairs) {
    println!("{what}");
    for (name, side) in [("seawall", &pairs.seawall), ("cp", &pairs.cp)] {
        let (ms, cpu) = (median(side.ms.iter().copied()), side.cpu_ms / side.ms.len() as f64);
        println!("  {name:<8} {ms:6.2} ms, {cpu:6.2} ms of processor");
    }
    println!("  ratio    {:6.2} (target 1.1)", pairs.ratio());
}

impl Pairs {
    /// The median of the pairs' ratios.
    fn ratio(&self) -> f64 {
        median(self.seawall.ms.iter().zip(&self.cp.ms).map(|(ours, theirs)| ours / theirs))
    }

    fn json(&self) -> Value {
        json!({"seawall_ms": self.seawall.ms, "cp_ms": self.cp.ms, "ratio": self.ratio()})
    }
}
