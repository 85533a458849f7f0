//! `compress`: real segments of OLTP by each method: how small, how fast, and one of them by
//! restore_command, the whole process, beside pgBackRest's archive-get of the same method,
//! alternating. pgBackRest checks no CRC of WAL, and seawall every one.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use compression::Method;
use serde_json::{Value, json};
use testkit::process::{Running, Signal, run, seawall_bin};
use testkit::scratch::Scratch;
use testkit::servers::{self, Server, ServerOptions, segments_in};

use crate::measure::{argument, median};
use crate::restore_wal::{receive, timed};

/// As segments are compressed.
const PIECE_LEN: usize = 256 << 10;
/// Receiving and compressing what is restored takes no longer.
const LIMIT: Duration = Duration::from_secs(300);

/// `--major` (pgBackRest's has to know it), `--rounds`.
///
/// # Errors
/// If a server or a program fails, or what is restored isn't what was archived.
#[expect(clippy::print_stdout, reason = "a bench prints")]
pub fn bench(args: &[String]) -> Result<()> {
    let major = u32::try_from(argument(args, "--major", 15)?)?;
    let rounds = argument(args, "--rounds", 40)?;
    let dir = Scratch::new("compress")?;
    let install = servers::install(major)?;
    let conf = ["wal_keep_size = '8GB'", "max_wal_size = '8GB'", "fsync = off"];
    let conf = conf.map(str::to_owned).to_vec();
    let server = Server::start(&install, &ServerOptions { conf, ..ServerOptions::default() })?;
    let plain = dir.path().join("plain");
    receive(&server, &plain)?;
    server.init_pgbench(10)?;
    run(&mut server.pgbench(&["-N", "-n", "-c", "4", "-t", "8000"]), LIMIT, "pgbench")?;
    receive(&server, &plain)?;
    let mut segments = segments_in(&plain.join("wal"))?;
    // What isn't settled stays plain.
    segments.pop();
    println!("segments of 16 MB of pgbench; PostgreSQL {}; {}", install.version, peer_version()?);
    let mut results = Vec::new();
    for method in Method::ALL {
        let archive = dir.path().join(method.to_string());
        let peer = Peer::fill(&server, &segments, method, dir.path())?;
        compressed_copy(&server, &plain, &archive, method)?;
        results.push(one(method, &segments, &archive, &peer, rounds, dir.path())?);
    }
    println!("{}", json!({"bench": "compress", "version": install.version, "methods": results}));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a bench prints")]
fn one(
    method: Method,
    segments: &[PathBuf],
    archive: &Path,
    peer: &Peer,
    rounds: u64,
    dir: &Path,
) -> Result<Value> {
    let (ratio, packing, unpacking) = speeds(method, segments)?;
    let target = dir.join("RECOVERYXLOG");
    let (mut ours, mut theirs, mut cpu) = (Vec::new(), Vec::new(), (0.0, 0.0));
    // The first pair warms the caches.
    for round in 0..=rounds {
        let segment = &segments[usize::try_from(round)? % segments.len()];
        let name = segment.file_name().and_then(|name| name.to_str()).context("a name")?;
        let mut seawall = Command::new(seawall_bin()?);
        seawall.args(["restore-wal", name]).arg(&target).arg("-A").arg(archive);
        let mut get = peer.command("archive-get");
        get.arg(name).arg(&target);
        let took = |command: &mut Command, cpu: &mut f64| -> Result<f64> {
            _ = fs::remove_file(&target);
            let (ms, used) = timed(command)?;
            *cpu += used;
            if round == 0 && fs::read(&target)? != fs::read(segment)? {
                bail!("{name} isn't what was archived");
            }
            Ok(ms)
        };
        let pair = if round % 2 == 0 {
            let our = took(&mut seawall, &mut cpu.0)?;
            (our, took(&mut get, &mut cpu.1)?)
        } else {
            let their = took(&mut get, &mut cpu.1)?;
            (took(&mut seawall, &mut cpu.0)?, their)
        };
        if round > 0 {
            ours.push(pair.0);
            theirs.push(pair.1);
        }
    }
    let pairs = median(ours.iter().zip(&theirs).map(|(our, their)| our / their));
    let (our, their) = (median(ours.iter().copied()), median(theirs.iter().copied()));
    let runs = (rounds + 1) as f64;
    let (our_cpu, their_cpu) = (cpu.0 / runs, cpu.1 / runs);
    println!(
        "{method:<5} {ratio:5.1} times smaller; packs {packing:5.0} MB/s, unpacks {unpacking:5.0} \
         MB/s; restore {our:6.2} ms, pgBackRest {their:6.2} ms, ratio {pairs:.2} (target 0.5); \
         of the processors {our_cpu:.1} and {their_cpu:.1} ms"
    );
    Ok(json!({"method": method.to_string(), "times_smaller": ratio, "pack_mb_s": packing,
        "unpack_mb_s": unpacking, "seawall_ms": our, "pgbackrest_ms": their, "ratio": pairs,
        "seawall_cpu_ms": our_cpu, "pgbackrest_cpu_ms": their_cpu}))
}

/// How many times smaller all of them are, and how fast one thread packs and unpacks them.
fn speeds(method: Method, segments: &[PathBuf]) -> Result<(f64, f64, f64)> {
    let (mut plain, mut packed) = (0, 0);
    let (mut packing, mut unpacking) = (Duration::ZERO, Duration::ZERO);
    for segment in segments.iter().take(20) {
        let bytes = fs::read(segment)?;
        let started = Instant::now();
        let mut small = Vec::with_capacity(bytes.len());
        for piece in bytes.chunks(PIECE_LEN) {
            method.pack(piece, &mut small)?;
        }
        packing += started.elapsed();
        let (started, mut again) = (Instant::now(), Vec::with_capacity(bytes.len()));
        method.decoder(small.as_slice(), bytes.len() as u64).read_to_end(&mut again)?;
        unpacking += started.elapsed();
        if again != bytes {
            bail!("{method} of {} isn't what it was", segment.display());
        }
        (plain, packed) = (plain + bytes.len(), packed + small.len());
    }
    let rate = |took: Duration| plain as f64 / 1e6 / took.as_secs_f64();
    Ok((plain as f64 / packed as f64, rate(packing), rate(unpacking)))
}

/// The archive with its settled segments compressed, by the program itself.
fn compressed_copy(server: &Server, plain: &Path, to: &Path, method: Method) -> Result<()> {
    let status = Command::new("cp").arg("-r").args([plain, to]).status()?;
    if !status.success() {
        bail!("cp ended with {status}");
    }
    let mut command = Command::new(seawall_bin()?);
    command.args(["receive", "-q", "--no-slot", "-d", &server.conninfo(), "-Z"]);
    command.arg(method.to_string()).arg("-A").arg(to);
    let mut running = Running::spawn(&mut command, "seawall receive")?;
    let until = Instant::now() + LIMIT;
    while segments_in(&to.join("wal"))?.len() > 1 {
        if Instant::now() > until {
            bail!("the segments weren't compressed");
        }
        sleep(Duration::from_millis(50));
    }
    running.stop(Signal::TERM, LIMIT)?;
    Ok(())
}

/// A repository of pgBackRest's with the same segments.
struct Peer {
    repository: PathBuf,
    data: PathBuf,
    method: &'static str,
}

fn peer_version() -> Result<String> {
    let output = Command::new("pgbackrest").arg("version").output();
    let output = output.context("pgbackrest is missing: apt-get install pgbackrest")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Peer {
    fn fill(server: &Server, segments: &[PathBuf], method: Method, dir: &Path) -> Result<Self> {
        let repository = dir.join(format!("pgbackrest-{method}"));
        fs::create_dir(&repository)?;
        let method = match method {
            Method::Zstd => "zst",
            Method::Lz4 => "lz4",
            Method::Gzip => "gz",
        };
        let peer = Self { repository, data: server.data_dir().to_owned(), method };
        run(peer.command("stanza-create").arg("--no-online"), LIMIT, "stanza-create")?;
        for segment in segments {
            run(peer.command("archive-push").arg(segment), LIMIT, "archive-push")?;
        }
        Ok(peer)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new("pgbackrest");
        command.args(["--stanza=bench", "--log-level-console=off", "--log-level-file=off"]);
        command.arg(format!("--repo1-path={}", self.repository.display()));
        command.arg(format!("--pg1-path={}", self.data.display()));
        command.arg(format!("--lock-path={}", self.repository.join("lock").display()));
        if name == "archive-push" {
            command.arg(format!("--compress-type={}", self.method));
        }
        command.arg(name);
        command
    }
}
