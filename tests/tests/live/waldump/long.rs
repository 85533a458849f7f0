//! Commits with lists of millions, which no server makes in a test's time: made byte by byte, and
//! printed by the server's own program as any others are. They are as long as a record may be in
//! memory, and longer; the drop-in's memory is the same.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use pg_types::{Geometry, Lsn, SegmentSize};
use sim::wal::{WalBuilder, main_data};
use testkit::process::seawall_bin;
use testkit::scratch::Scratch;
use testkit::servers::{Install, full};

use super::beyond::peak_of;
use super::{drop_in, equal, ours, theirs};
use crate::common::{Must, on_each_major, pg, scratch};

on_each_major!(lists_of_millions_are_printed_and_take_little_memory, super::lists);

/// `xl_info`: a commit, an abort; `XLOG_XACT_HAS_INFO`.
const COMMIT: u8 = 0x80;
const ABORT: u8 = 0x80 | 0x20;
/// As an object in memory a record is twenty times as long.
const WITH_JSON: u32 = 16;
const TRANSACTION: u8 = 1;
const STANDBY: u8 = 8;

/// Database, subtransactions, relations, messages, a prepared transaction, an origin, a gid,
/// statistics; applied, with the relation cache's file.
const XINFO: u32 = 0b1_1011_1111 | 1 << 29 | 1 << 30 | 1 << 31;

fn lists(major: u32) {
    let install = pg(major);
    // On the versions between just beyond what is kept of a record; of those one whose JSON is read.
    let scale = if full(major) && major != WITH_JSON { 500_000 } else { 60_000 };
    let (dir, start, end) = log(major, scale);
    let (start, end) = (start.to_string(), end.to_string());
    let args = ["-s", &start, "-e", &end];
    let their = theirs(&install, dir.path(), &args);
    assert_eq!(their.stdout.iter().filter(|byte| **byte == b'\n').count(), 6);
    equal(&their, &ours(&install, dir.path(), &args), &format!("{major}: lists"));
    let stats = ["-z", "-s", &start, "-e", &end];
    let their = theirs(&install, dir.path(), &stats);
    equal(&their, &ours(&install, dir.path(), &stats), &format!("{major}: statistics of lists"));
    little_memory(dir.path(), &args);
    if major == WITH_JSON {
        as_json(dir.path(), &args);
    }
    gone_away(dir.path(), &args);
    broken(&install, dir.path(), &args);
}

/// Whatever is made of them.
fn little_memory(dir: &Path, args: &[&str]) {
    const MOST_BYTES: u64 = 64 << 20;
    for mode in [&["-j", "1"][..], &["-j", "16"], &["--json"], &["-q"]] {
        let mut command = Command::new(seawall_bin().must());
        command.arg("waldump").args(args).args(mode).current_dir(dir).env("TZ", "UTC");
        let peak = peak_of(&mut command);
        assert!(peak < MOST_BYTES, "{mode:?}: {peak} bytes");
    }
}

/// Every field of every record.
fn as_json(dir: &Path, args: &[&str]) {
    let mut json = Command::new(seawall_bin().must());
    json.arg("waldump").args(args).arg("--json").current_dir(dir).stdout(Stdio::piped());
    let output = json.output().must();
    let mut named = 0;
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let record: serde_json::Value = serde_json::from_slice(line).must();
        assert_eq!(record["fields"]["malformed_bytes"], serde_json::Value::Null);
        let prepared = &record["fields"]["prepared"];
        assert!(prepared.is_null() || prepared["gid"] == "a name", "{prepared}");
        named += usize::from(!prepared.is_null());
    }
    assert_eq!(named, 2);
}

/// A reader that goes away in the middle of a list ends it.
fn gone_away(dir: &Path, args: &[&str]) {
    let mut away = Command::new(drop_in());
    let mut child = away.args(args).current_dir(dir).stdout(Stdio::piped()).spawn().must();
    let mut some = child.stdout.take().unwrap().take(100_000);
    io::copy(&mut some, &mut io::sink()).must();
    drop(some);
    assert_eq!(child.wait().must().code(), Some(141));
}

/// A bit of a list flipped: the same stop.
fn broken(install: &Install, dir: &Path, args: &[&str]) {
    let name = super::names(dir)[0].clone();
    let mut bytes = fs::read(dir.join(&name)).must();
    bytes[1_500_000] ^= 1;
    fs::write(dir.join(&name), bytes).must();
    equal(&theirs(install, dir, args), &ours(install, dir, args), "a broken list");
}

/// A log of a few records with so many items in each list.
fn log(major: u32, scale: u32) -> (Scratch, Lsn, Lsn) {
    let size = SegmentSize::new(16 << 20).must();
    let geometry = Geometry::new(size);
    let start = Lsn::new(16 << 20);
    let mut log = WalBuilder::new(geometry, major, start);
    log.commit(7, 1);
    log.record(TRANSACTION, COMMIT, 8, &body(&end_of_transaction(major, scale, true)));
    log.commit(9, 2);
    log.record(TRANSACTION, ABORT, 10, &body(&end_of_transaction(major, scale, false)));
    log.record(STANDBY, 0, 0, &main_data(&locks(scale)));
    log.commit(11, 3);
    let end = log.end();
    let scratch = scratch();
    for (number, segment) in (1_u64..).zip(log.bytes().chunks(16 << 20)) {
        let mut file = fs::File::create(scratch.path().join(format!("00000001{number:016X}")));
        let file = file.as_mut().must();
        file.write_all(segment).must();
        file.set_len(16 << 20).must();
    }
    (scratch, start, end)
}

/// Main data behind the header of a replication origin.
fn body(data: &[u8]) -> Vec<u8> {
    [&[253, 3, 0][..], &main_data(data)].concat()
}

/// `xl_xact_commit` or `xl_xact_abort`, with everything that may follow.
fn end_of_transaction(major: u32, scale: u32, commit: bool) -> Vec<u8> {
    let mut data = 700_000_000_000_000_i64.to_le_bytes().to_vec();
    let mut put = |numbers: &[u32]| numbers.iter().for_each(|n| data.extend(n.to_le_bytes()));
    put(&[XINFO, 5, 1663]);
    put(&[4 * scale]);
    (0..4 * scale).for_each(|i| put(&[1_000_000 + i]));
    put(&[scale]);
    (0..scale).for_each(|i| put(&[1663 + i % 3, 5, 20_000 + i]));
    if major >= 15 {
        put(&[scale]);
        for i in 0..scale {
            put(&[i % 5, 5, i]);
            if major >= 18 {
                put(&[i % 2]);
            }
        }
    }
    if commit {
        put(&[scale]);
        // Caches, catalogs, relations, files, maps, snapshots.
        (0..scale).for_each(|i| put(&[0x10_0000_u32.wrapping_sub(i % 7) & 0xFF, 5, 1000 + i, 6]));
    }
    // The prepared transaction, its name, the origin.
    put(&[12345]);
    data.extend(b"a name\0");
    data.extend(0x1234_5678_9ABC_u64.to_le_bytes());
    data.extend(700_000_000_000_001_i64.to_le_bytes());
    data
}

/// `xl_standby_locks`
fn locks(scale: u32) -> Vec<u8> {
    let mut data = scale.to_le_bytes().to_vec();
    for i in 0..scale {
        [77, 5, 30_000 + i].iter().for_each(|number: &u32| data.extend(number.to_le_bytes()));
    }
    data
}
