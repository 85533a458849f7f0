//! `scale`: what whoever looks waits for, where there are a million segments: `list`, `status` and
//! `expire --dry-run`, beside the same with a few.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use archive::{ENTRIES_PER_FILE, ENTRY_LEN, IndexEntry};
use pg_types::{Lsn, SegmentNumber, TimelineId};
use serde_json::{Value, json};
use testkit::process::{run as run_checked, seawall_bin};
use testkit::scratch::Scratch;
use testkit::servers::{self, Server, ServerOptions, sparse_segments_before};
use wal_format::TimestampTz;

use crate::measure::{argument, median, run};

/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(300);
/// Each is to take no longer with a million, seconds.
const TARGET_S: f64 = 2.0;
/// Small ones, so that a million have room in the log.
const SEGMENT_BYTES: u64 = 1 << 20;
/// Where the server begins: behind a million.
const FIRST: &str = "000000010000010000000000";

/// `--major`, `--segments`, `--rounds`.
///
/// # Errors
/// If a server or a program fails.
#[expect(clippy::print_stdout, reason = "a bench prints")]
pub fn bench(args: &[String]) -> Result<()> {
    let major = u32::try_from(argument(args, "--major", 18)?)?;
    let many = argument(args, "--segments", 1_000_000)?;
    let rounds = argument(args, "--rounds", 5)?;
    let dir = Scratch::new("scale")?;
    let archive = dir.path().join("archive");
    let id = fill(major, &archive)?;
    let few = times(&archive, rounds)?;
    let first = segment_of(&archive, &id)?.saturating_sub(many);
    sparse_segments_before(&archive.join("wal"), many)?;
    index(&archive, first, many)?;
    // Backups from the beginning on, so that what can be recovered from them is all of it.
    for (place, number) in [first, first + many / 2, first + many - 10].into_iter().enumerate() {
        older_backup(&archive, &id, &format!("older{place}"), number)?;
    }
    let among = times(&archive, rounds)?;
    println!("{many} segments, 4 backups, seconds (target {TARGET_S} s each)");
    for ((name, few), (_, among)) in few.iter().zip(&among) {
        println!("{name:<18} {few:.3} with a few, {among:.3} among them, {:.1}x", among / few);
    }
    let of = |times: &[(&str, f64)]| {
        let pairs = times.iter().map(|(name, seconds)| ((*name).to_owned(), json!(seconds)));
        Value::Object(pairs.collect())
    };
    println!(
        "{}",
        json!({"bench": "scale", "segments": many, "target_s": TARGET_S, "few": of(&few), "among": of(&among)})
    );
    Ok(())
}

/// An archive of a few segments and a backup; gives its name.
fn fill(major: u32, archive: &Path) -> Result<String> {
    let install = servers::install(major)?;
    let segment_size_mb = 1;
    let mut server =
        Server::start(&install, &ServerOptions { segment_size_mb, ..ServerOptions::default() })?;
    server.reset_wal(FIRST)?;
    let mut backup = Command::new(seawall_bin()?);
    backup.args(["backup", "-q", "-w", "-c", "fast", "-d", &server.conninfo(), "-A"]).arg(archive);
    let output = run_checked(&mut backup, LIMIT, "seawall backup")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn description(archive: &Path, id: &str) -> Result<Value> {
    let text = fs::read(archive.join("backups").join(id).join("backup.json"))?;
    Ok(serde_json::from_slice(&text)?)
}

/// The number of the segment that a backup begins in.
fn segment_of(archive: &Path, id: &str) -> Result<u64> {
    let description = description(archive, id)?;
    let lsn: Lsn = description["start"]["lsn"].as_str().context("its start")?.parse()?;
    Ok(lsn.as_u64() / SEGMENT_BYTES)
}

/// What a receiver would have told of the segments.
fn index(archive: &Path, first: u64, count: u64) -> Result<()> {
    let mut number = first;
    let entry_len = u64::try_from(ENTRY_LEN)?;
    while number < first + count {
        let file = number / ENTRIES_PER_FILE * ENTRIES_PER_FILE;
        let path = archive.join("index").join(format!("00000001-{file:016X}"));
        let mut bytes = fs::read(&path).unwrap_or_default();
        bytes.resize(usize::try_from(ENTRIES_PER_FILE * entry_len)?, 0);
        while number < (file + ENTRIES_PER_FILE).min(first + count) {
            let start = number * SEGMENT_BYTES;
            let time = TimestampTz(i64::try_from(number)? * 1_000_000);
            let entry = IndexEntry {
                timeline: TimelineId::FIRST,
                number: SegmentNumber::new(number),
                first: Lsn::new(start + 40),
                last: Lsn::new(start + SEGMENT_BYTES - 80),
                records: 10_000,
                ends: 100,
                times: Some((time, time)),
                xids: Some((1000, 2000)),
                checkpoints: 0,
                restore_points: 0,
                checkpoint: Lsn::INVALID,
                redo: Lsn::INVALID,
                restore_point: Lsn::INVALID,
            };
            let at = usize::try_from((number - file) * entry_len)?;
            bytes[at..at + ENTRY_LEN].copy_from_slice(&entry.to_bytes());
            number += 1;
        }
        fs::write(path, bytes)?;
    }
    Ok(())
}

/// A backup that says that it began there; nobody looks into it.
fn older_backup(archive: &Path, from: &str, id: &str, segment: u64) -> Result<()> {
    let mut description = description(archive, from)?;
    let at = |offset| Lsn::new(segment * SEGMENT_BYTES + offset).to_string();
    description["id"] = id.into();
    description["start"]["lsn"] = at(40).into();
    description["checkpoint"] = at(100).into();
    description["stop"]["lsn"] = at(400).into();
    let dir = archive.join("backups").join(id);
    fs::create_dir(&dir)?;
    fs::write(dir.join("backup.json"), description.to_string())?;
    Ok(())
}

fn times(archive: &Path, rounds: u64) -> Result<Vec<(&'static str, f64)>> {
    let commands: [(&str, &[&str]); 3] = [
        ("list", &["list"]),
        ("status", &["status"]),
        ("expire --dry-run", &["expire", "--keep-backups", "2", "--dry-run"]),
    ];
    let mut times = Vec::new();
    for (name, args) in commands {
        let mut seconds = Vec::new();
        for _ in 0..rounds {
            let mut command = Command::new(seawall_bin()?);
            seconds.push(run(command.args(args).arg("-A").arg(archive), LIMIT)?.seconds);
        }
        times.push((name, median(seconds)));
    }
    Ok(times)
}
