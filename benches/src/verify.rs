//! `verify`: every CRC, page header and link of an archive, against `pg_waldump -q` over the same
//! segments, alternating; on the WAL of small records and on a bulk load's, and by one thread from the cache.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use testkit::process::{run, seawall_bin};
use testkit::scratch::Scratch;
use testkit::servers::{self, Install, Server, ServerOptions, segments_in};

use crate::measure::{Usage, argument, median, usages_json, watch};

/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(300);

/// A load, and what makes it.
struct Load {
    name: &'static str,
    /// Makes the tables.
    begin: &'static str,
    /// Makes WAL, again and again.
    go_on: &'static str,
    /// What one thread is to read from the cache, GB/s; of bulk WAL.
    target_per_core: Option<f64>,
}

const LOADS: [Load; 2] = [
    Load {
        name: "rows",
        begin: "CREATE TABLE r (i int PRIMARY KEY, n int, t text) WITH (fillfactor = 50); INSERT INTO r SELECT i, 0, 'row ' || i FROM generate_series(1, 400000) i; CHECKPOINT",
        go_on: "UPDATE r SET n = n + 1 WHERE i % 2 = 0; DELETE FROM r WHERE i % 50 = 7; INSERT INTO r SELECT i, 0, 'row ' || i FROM generate_series(1, 400000) i WHERE i % 50 = 7; VACUUM r",
        target_per_core: None,
    },
    Load {
        name: "bulk",
        begin: "CREATE TABLE l (i int, t text); ALTER TABLE l ALTER t SET STORAGE PLAIN",
        go_on: "INSERT INTO l SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 8000) i; CREATE INDEX x ON l (i); DROP INDEX x; CREATE TABLE m AS SELECT * FROM l LIMIT 8000; DROP TABLE m",
        target_per_core: Some(3.0),
    },
];

/// How many times quicker it is to be than pg_waldump, on two cores.
const TARGET: f64 = 2.5;

/// Runs the pairs: `--major`, `--pairs`, `--mb` (how much WAL of each kind).
///
/// # Errors
/// If a server or a program fails.
#[expect(clippy::print_stdout, reason = "a bench prints")]
pub fn bench(args: &[String]) -> Result<()> {
    let major = u32::try_from(argument(args, "--major", 17)?)?;
    let pairs = argument(args, "--pairs", 7)?;
    let megabytes = argument(args, "--mb", 500)?;
    let install = servers::install(major)?;
    println!("seawall verify --full against {} -q", install.bin("pg_waldump").display());
    for load in LOADS {
        let dir = Scratch::new("verify")?;
        let archive = dir.path().join("archive");
        fill(&install, &load, megabytes, &archive)?;
        compare(&install, &load, pairs, &archive)?;
    }
    Ok(())
}

/// An archive with so much WAL.
fn fill(install: &Install, load: &Load, megabytes: u64, archive: &Path) -> Result<()> {
    let conf =
        ["wal_keep_size = '16GB'", "max_wal_size = '16GB'", "fsync = off", "autovacuum = off"];
    let conf = conf.map(str::to_owned).to_vec();
    let server = Server::start(install, &ServerOptions { conf, ..ServerOptions::default() })?;
    receive(&server, archive)?;
    for statement in load.begin.split("; ") {
        server.sql(statement)?;
    }
    let start = server.current_lsn()?;
    let made = format!("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '{start}') / 1048576");
    while server.sql(&made)?.trim().parse::<f64>()? < megabytes as f64 {
        for statement in load.go_on.split("; ") {
            server.sql(statement)?;
        }
    }
    server.sql("SELECT pg_switch_wal()")?;
    receive(&server, archive)
}

/// Receives what the server has.
fn receive(server: &Server, archive: &Path) -> Result<()> {
    let end = server.current_lsn()?;
    let mut command = Command::new(seawall_bin()?);
    command.args(["receive", "-q", "-n", "--no-slot", "-d", &server.conninfo(), "-E", &end, "-A"]);
    run(command.arg(archive), LIMIT, "seawall receive")?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a bench prints")]
fn compare(install: &Install, load: &Load, pairs: u64, archive: &Path) -> Result<()> {
    let wal = archive.join("wal");
    let segments = segments_in(&wal)?;
    let name = |place: usize| {
        let name = segments.get(place).and_then(|path| path.file_name());
        name.and_then(|name| name.to_str()).context("a segment").map(str::to_owned)
    };
    let (first, last) = (name(0)?, name(segments.len().saturating_sub(1))?);
    let mut bytes = 0;
    for segment in &segments {
        bytes += std::fs::metadata(segment)?.len();
    }
    let ours = |jobs: Option<&str>| -> Result<Usage> {
        let mut command = Command::new(seawall_bin()?);
        command.args(["verify", "--full", "-A"]).arg(archive);
        command.args(jobs.iter().flat_map(|jobs| ["--jobs", jobs]));
        measured(&mut command, 0)
    };
    let theirs = || {
        let mut command = install.client_command("pg_waldump");
        command.args(["-q", &first, &last]).current_dir(&wal);
        // It ends at the last segment's end, which is an error to it.
        measured(&mut command, 1)
    };
    // The first of each warms the cache.
    ours(None)?;
    theirs()?;
    let (mut our, mut one, mut their) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        if pair % 2 == 0 {
            our.push(ours(None)?);
            their.push(theirs()?);
        } else {
            their.push(theirs()?);
            our.push(ours(None)?);
        }
        one.push(ours(Some("1"))?);
    }
    let faster = median(our.iter().zip(&their).map(|(our, their)| their.seconds / our.seconds));
    let per_second =
        |usages: &[Usage]| bytes as f64 / 1e9 / median(usages.iter().map(|of| of.seconds));
    let per_cpu = bytes as f64 / 1e9 / median(one.iter().map(|of| of.cpu_seconds));
    println!(
        "{}: {} segments, {:.0} MB: seawall {:.2} GB/s, one thread {:.2} GB/s ({per_cpu:.2} GB per \
         second of processor{}), pg_waldump {:.2} GB/s: {faster:.2}x (target {TARGET}x)",
        load.name,
        segments.len(),
        bytes as f64 / 1e6,
        per_second(&our),
        per_second(&one),
        load.target_per_core.map_or(String::new(), |target| format!(", target {target}")),
        per_second(&their),
    );
    println!(
        "{}",
        json!({"bench": "verify", "case": load.name, "version": install.version, "bytes": bytes,
            "faster": faster, "target": TARGET, "one_thread_gb_per_s": per_second(&one),
            "gb_per_cpu_s": per_cpu, "seawall": usages_json(&our), "one": usages_json(&one),
            "pg_waldump": usages_json(&their)})
    );
    Ok(())
}

/// Runs a program that is to end with this code.
fn measured(command: &mut Command, code: i32) -> Result<Usage> {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let usage = watch(&mut child, started, LIMIT);
    let status = child.wait()?;
    // A version's last record may end the log well.
    if ![Some(0), Some(code)].contains(&status.code()) {
        bail!("{:?} ended with {status}", command.get_program());
    }
    usage
}
