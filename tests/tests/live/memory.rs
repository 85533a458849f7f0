//! What one receiver needs: at most 16 MiB, whatever it receives.
//!
//! The tests' program isn't optimised, and how much of it is resident depends on the page cache. So
//! what it takes beside that is held against a bound here, and all of an optimised one by `cargo
//! xtask bench memory`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use testkit::load::Session;
use testkit::process::Running;
use testkit::servers::{Server, is_segment_name};

use super::common::{
    LIMIT, Must, Receiver, ReceiverOptions, compare_with_primary, scratch, server, server_flush,
};
use super::program::{ended, receive, seawall};

/// The bound on a receiver's memory without its program's pages.
const MOST_BYTES: u64 = 12 << 20;

/// Writing, streaming and syncing a record of 600 MB in segments of 1 MB, on a slow disk.
const LONG: Duration = Duration::from_secs(180);

/// The payload of the large record.
const LARGE_BYTES: u64 = 600 << 20;

pub(crate) fn assert_small(receiver: &Running, when: &str) {
    let Some(peak) = receiver.peak_own_bytes() else {
        panic!("{when}: it has ended: {}", receiver.output_tail());
    };
    assert!(peak <= MOST_BYTES, "{when}: {peak} bytes of its own at the peak");
}

fn sealed_segments(wal_dir: &Path) -> usize {
    let names =
        fs::read_dir(wal_dir).must().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| is_segment_name(name)).count()
}

fn wait_for_segments(receiver: &Receiver, count: usize) {
    let deadline = Instant::now() + LONG;
    while sealed_segments(&receiver.wal_dir()) < count {
        assert!(
            Instant::now() < deadline,
            "no {count} sealed segments in {LONG:?}: {}",
            receiver.running.output_tail()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn await_flush(receiver: &Running, wal_dir: &Path, server: &Server) {
    let end = server_flush(server);
    let flushed = format!("(SELECT max(flush_lsn) FROM pg_stat_replication) >= '{end}'");
    if let Err(error) = server.wait_until("all of it to be durable", LONG, &flushed) {
        panic!("{error}\n{}", receiver.output_tail());
    }
    compare_with_primary(wal_dir, server, end);
}

/// A synchronous commit of one record of 600 MB; the receiver is killed in its middle, twice.
/// Then all of it, and more, is caught up with by another one.
#[test]
fn a_record_of_600_mb_and_a_gigabyte_of_wal() {
    let (server, scratch) = (server(18, 1, &["wal_sender_timeout = 60s"]), scratch());
    let slot = ["slot", "create", "late", "-d", &server.conninfo()];
    ended(&mut seawall(&slot)).is_well();
    let archive = scratch.path().join("archive");
    let mut receiver = Receiver::start_synchronous(&server, &archive, &ReceiverOptions::default());
    let before = sealed_segments(&receiver.wal_dir());

    let mut session = Session::open(server.connection(), "SELECT 1").must();
    let emit = format!(
        "SELECT 'is flushed at ' || pg_logical_emit_message(true, 'live', repeat('x', {LARGE_BYTES}))"
    );
    session.send(&emit).must();
    for segments in [150, 400] {
        wait_for_segments(&receiver, before + segments);
        assert_small(&receiver.running, "in the middle of a record");
        receiver.kill9();
        receiver = Receiver::start(&server, &archive, &ReceiverOptions::default());
    }
    let answer = session.line(LONG).must();
    let output = receiver.running.output_tail();
    assert!(answer.is_some_and(|line| line.starts_with("is flushed")), "no commit: {output}");
    assert_small(&receiver.running, "after a record of 600 MB");
    let (_, took) = session.timed_row("SELECT txid_current()", LIMIT).must();
    assert!(took < Duration::from_secs(10), "a commit after the large one took {took:?}");
    server
        .sql(
            "SET synchronous_commit = local;
             CREATE TABLE t AS SELECT repeat(md5(i::text), 50) FROM generate_series(1, 230000) i",
        )
        .must();
    await_flush(&receiver.running, &receiver.wal_dir(), &server);
    assert_small(&receiver.running, "streaming");
    receiver.stop();
    server.set_synchronous_standbys("").must();
    catches_up(&server, scratch.path());
}

/// Receives everything that the slot has kept.
fn catches_up(server: &Server, dir: &Path) {
    let kept = "SELECT (pg_current_wal_flush_lsn() - restart_lsn) >= 1000000000 \
                FROM pg_replication_slots WHERE slot_name = 'late'";
    assert_eq!(server.sql(kept).must(), "t", "less than a gigabyte to catch up with");
    let archive = dir.join("late");
    let mut command = receive(server, &archive, &["--slot", "late"]);
    let receiver = Running::spawn(&mut command, "seawall receive").must();
    await_flush(&receiver, &archive.join("wal"), server);
    assert_small(&receiver, "after catching up");
}
