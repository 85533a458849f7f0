//! What `seawall waldump` has beyond pg_waldump: an archive, followed while it is written;
//! compressed and unfinished segments; JSON; times; the greatest makers; what lies behind damage;
//! and little memory, whatever a record's length.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use testkit::corpus::{self, CorpusOptions};
use testkit::process::{Running, Signal, Stream, run_unchecked, seawall_bin};

use super::{names, own, same};
use crate::common::{
    LIMIT, Must, Receiver, ReceiverOptions, lsn, pg, scratch, server, server_flush,
};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn small() -> CorpusOptions {
    CorpusOptions { segment_size_mb: 1, ..CorpusOptions::default() }
}

#[test]
fn an_object_a_record_says_what_the_line_says() {
    let corpus = corpus::shared(18, &small()).must();
    let segments = names(&corpus.dir());
    let (first, last) = (segments[0].as_str(), segments[segments.len() - 1].as_str());
    let json = text(&own(&corpus.dir(), &["--json", first, last]));
    let lines = text(&own(&corpus.dir(), &["-j", "1", first, last]));
    assert_eq!(json.lines().count(), lines.lines().count());
    for (json, line) in json.lines().zip(lines.lines()) {
        let record: Value = serde_json::from_str(json).must();
        let manager = record["rmgr"].as_str().unwrap();
        assert!(line.starts_with(&format!("rmgr: {manager} ")), "{json}\n{line}");
        let xid = record["xid"].as_u64().unwrap();
        assert!(line.contains(&format!("tx: {xid:>10}")), "{json}\n{line}");
        let blocks = record["blocks"].as_array().unwrap();
        assert_eq!(line.matches(", blkref #").count(), blocks.len(), "{json}\n{line}");
        assert!(record["fields"].is_object() || record["fields"].is_null(), "{json}");
        if let Some(name) = record["record"].as_str() {
            assert!(line.contains(&format!("desc: {name} ")), "{json}\n{line}");
        }
    }
}

#[test]
fn compressed_and_unfinished_segments_are_read_as_they_are() {
    let corpus = corpus::shared(18, &small()).must();
    let segments = names(&corpus.dir());
    let scratch = scratch();
    let dir = scratch.path();
    let expect = text(&own(&corpus.dir(), &["-j", "1", &segments[0], &segments[3]]));
    let read = |name: &str| fs::read(corpus.dir().join(name)).must();
    let packed = |program: &str, name: &str, to: &str| {
        let system = testkit::servers::system_program(program, program).must();
        let mut command = Command::new(system);
        command.args(["-q", "-c"]).arg(corpus.dir().join(name));
        let output = run_unchecked(&mut command, "", LIMIT, program).must();
        assert!(output.status.success(), "{}", said(&output));
        fs::write(dir.join(to), output.stdout).must();
    };
    packed("gzip", &segments[0], &format!("{}.gz", segments[0]));
    packed("zstd", &segments[1], &format!("{}.zst", segments[1]));
    packed("lz4", &segments[2], &format!("{}.lz4", segments[2]));
    fs::write(dir.join(format!("{}.partial", segments[3])), read(&segments[3])).must();
    for jobs in ["1", "3"] {
        let output = own(dir, &["-j", jobs, &segments[0], &format!("{}.partial", segments[3])]);
        assert!(text(&output) == expect, "-j {jobs}: {}", said(&output));
    }
    // The drop-in knows plain files only, as the server's own.
    let ours = super::ours(&pg(18), dir, &[&segments[0]]);
    assert!(said(&ours).contains("could not locate WAL file"), "{}", said(&ours));
}

#[test]
fn behind_what_is_broken_it_goes_on() {
    let corpus = corpus::shared(18, &small()).must();
    let segments = names(&corpus.dir());
    let scratch = scratch();
    let name = &segments[2];
    let whole = text(&own(&corpus.dir(), &[name]));
    let mut bytes = fs::read(corpus.dir().join(name)).must();
    bytes[300_000] ^= 0x10;
    fs::write(scratch.path().join(name), &bytes).must();
    let stopped = own(scratch.path(), &[name]);
    assert_eq!(stopped.status.code(), Some(1));
    let output = own(scratch.path(), &["--keep-going", name]);
    let told = said(&output);
    assert!(told.contains("; skipped "), "{told}");
    // All but the broken record, which may be a long one.
    let (all, kept) = (whole.lines().count(), text(&output).lines().count());
    assert!(kept < all && kept > all - 100, "{kept} of {all}: {told}");
    assert!(text(&output).lines().all(|line| whole.contains(line)));
}

#[test]
fn the_greatest_makers_make_all_of_it() {
    let corpus = corpus::shared(18, &small()).must();
    let segments = names(&corpus.dir());
    let (first, last) = (segments[0].as_str(), segments[segments.len() - 1].as_str());
    let lines = text(&own(&corpus.dir(), &[first, last])).lines().count();
    for what in ["relations", "rmgrs", "xids"] {
        let table = text(&own(&corpus.dir(), &["--top", what, first, last]));
        let one = text(&own(&corpus.dir(), &["-j", "1", "--top", what, first, last]));
        assert_eq!(table, one);
        let total = table.lines().last().unwrap().split_whitespace().nth(3).unwrap();
        if what != "relations" {
            assert_eq!(total, lines.to_string(), "{table}");
        }
        let json = text(&own(&corpus.dir(), &["--json", "--top", what, first, last]));
        let bytes: u64 = json
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).must()["bytes"].as_u64().unwrap())
            .sum();
        assert!(bytes > 20_000_000, "{bytes}");
    }
}

/// Times, an archive, and following it while a receiver writes it.
#[test]
fn an_archive_is_read_by_time_and_followed() {
    let server = server(18, 1, &[]);
    let scratch = scratch();
    let archive = scratch.path().join("archive");
    let archive_arg = archive.display().to_string();
    let mut receiver = Receiver::start(&server, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&server);
    server.sql("CREATE TABLE t(i int)").must();
    let mut command = Command::new(seawall_bin().must());
    command.args(["waldump", "-f", "-r", "Transaction", "-A", &archive_arg]);
    let following = Running::spawn(&mut command, "waldump -f").must();
    let commit = |i: u32| {
        server
            .sql(&format!("INSERT INTO t VALUES ({i}); SELECT clock_timestamp()::timestamptz(6)"))
            .must()
    };
    let times: Vec<String> = (0..3)
        .map(|i| {
            let time = commit(i);
            // Each segment has one of them.
            server.sql("SELECT pg_switch_wal()").must();
            time
        })
        .collect();
    let end = server_flush(&server);
    receiver.await_flush(&server, end);
    let xid = server.sql("INSERT INTO t VALUES (9) RETURNING xmin").must();
    following.wait_for_line(&format!("tx: {xid:>10}"), LIMIT).must();
    following.kill(Signal::INT);
    let mut following = following;
    assert!(following.wait(LIMIT).must().success(), "{}", following.text(Stream::Stderr));
    // Between two times lies the commit between them.
    let shown = own(
        scratch.path(),
        &[
            "-A",
            &archive_arg,
            "-r",
            "Transaction",
            "--from-time",
            &times[0],
            "--to-time",
            &times[1],
        ],
    );
    assert_eq!(text(&shown).matches(" COMMIT ").count(), 1, "{}{}", text(&shown), said(&shown));
    // Around one lie the commits before and after it.
    let around =
        own(scratch.path(), &["-A", &archive_arg, "-r", "Transaction", "--at-time", &times[1]]);
    assert_eq!(text(&around).matches(" COMMIT ").count(), 2, "{}", text(&around));
    let args = ["-A", &archive_arg, "-r", "Transaction", "--from-time", &times[2]];
    let last = text(&own(scratch.path(), &args));
    assert_eq!(last.matches(" COMMIT ").count(), 1, "{last}");
    let late = own(scratch.path(), &["-A", &archive_arg, "--from-time", "2100-01-01 00:00:00Z"]);
    assert!(said(&late).contains("--from-time"), "{}", said(&late));
    let none = own(scratch.path(), &["-A", &scratch.path().display().to_string()]);
    assert_eq!(none.status.code(), Some(1), "{}", said(&none));
    receiver.stop();
    what_is_too_early_is_not_read(&archive, scratch.path(), &times);
}

/// The index says where commits are late enough: with all that is earlier made unreadable the
/// answers are those of before.
fn what_is_too_early_is_not_read(archive: &Path, dir: &Path, times: &[String]) {
    let archive_arg = archive.display().to_string();
    let ask = |option: &str| own(dir, &["-A", &archive_arg, option, &times[2]]);
    let options = ["--from-time", "--at-time"];
    let before = options.map(|option| text(&ask(option)));
    let wal = archive.join("wal");
    // The segments of the first two commits; the third's begins behind the second commit.
    let second = text(&own(dir, &["-A", &archive_arg, "--at-time", &times[1]]));
    let second = second.lines().next().unwrap().split("lsn: ").nth(1).unwrap();
    let second = testkit::servers::parse_lsn(second.split(',').next().unwrap()).unwrap() >> 20;
    let early: Vec<String> = names(&wal)
        .into_iter()
        .take_while(|name| u64::from_str_radix(&name[16..], 16).unwrap() <= second)
        .collect();
    assert!(early.len() >= 2, "{early:?}");
    for name in &early {
        // The first page stays, which says what the segment is.
        let mut bytes = fs::read(wal.join(name)).must();
        bytes[8192..].fill(0xA5);
        fs::write(wal.join(name), bytes).must();
    }
    let all = own(dir, &["-q", "-A", &archive_arg]);
    assert!(!all.status.success() && said(&all).contains("A5A5"), "{}", said(&all));
    for (option, before) in options.iter().zip(before) {
        let output = ask(option);
        assert!(text(&output) == before && !before.is_empty(), "{option}: {}", said(&output));
    }
}

/// A message of hundreds of megabytes is as long three times over as text, and never in memory.
#[test]
fn a_record_of_any_length_takes_little_memory() {
    /// What the program may have at the most.
    const MOST_BYTES: u64 = 64 << 20;
    let mut server = server(18, 16, &[]);
    let start = lsn(&server, "SELECT pg_switch_wal()");
    server.sql("SELECT pg_logical_emit_message(true, 'p', repeat('seawall!', 12500000))").must();
    server.sql("SELECT pg_logical_emit_message(false, 'q', 'end'); CHECKPOINT").must();
    let end = server_flush(&server);
    let start = server.sql(&format!("SELECT '{start}'::pg_lsn + 16777215")).must();
    let start = testkit::servers::parse_lsn(&start).unwrap() & !0xFF_FFFF;
    let args =
        ["-s", &testkit::servers::lsn_text(start), "-e", &end.to_string(), "-r", "LogicalMessage"];
    let wal = server.wal_dir();
    let shown = same(&pg(18), &wal, &args);
    assert!(shown.len() > 300_000_000 && shown.contains("prefix \"q\""), "{}", shown.len());
    drop(shown);
    for mode in [&[][..], &["--json"], &["-q"]] {
        let mut command = Command::new(seawall_bin().must());
        command.arg("waldump").args(args).args(mode).current_dir(&wal).env("TZ", "UTC");
        let peak = peak_of(&mut command);
        assert!(peak < MOST_BYTES, "{mode:?}: {peak} bytes");
    }
    server.kill9();
}

/// Runs a program with its output thrown away as it comes; its greatest resident set.
pub(super) fn peak_of(command: &mut Command) -> u64 {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().must();
    let mut stdout = child.stdout.take().unwrap();
    let reading = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    let mut peak = 0;
    while !reading.is_finished() {
        peak = testkit::process::peak_rss_bytes(child.id()).unwrap_or(0).max(peak);
        std::thread::sleep(Duration::from_millis(1));
    }
    reading.join().unwrap().must();
    child.wait().must();
    assert!(peak > 0, "it was never seen");
    peak
}

/// Where a reader goes away early nothing is said about it.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let corpus = corpus::shared(18, &small()).must();
    let segments = names(&corpus.dir());
    let mut command = Command::new(super::drop_in());
    command.arg(&segments[0]).arg(&segments[segments.len() - 1]).current_dir(corpus.dir());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().must();
    drop(child.stdout.take());
    let output = child.wait_with_output().must();
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(141), ""));
}
