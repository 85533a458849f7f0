//! Servers that aren't what they were: crashed in the middle of a record, which is followed; cloned,
//! or restored from an old copy, which is refused with everything left as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use pg_types::{Lsn, SegmentSize, TimelineId, WalFileName};
use testkit::load::Commits;
use testkit::process::run;
use testkit::proxy::{Action, At, Fault, Proxy};
use testkit::servers::{Server, ServerOptions, StopMode, as_server_user};

use super::common::{
    Decoded, LIMIT, Must, Receiver, ReceiverOptions, compare_with_primary, pg, scratch, server,
    server_flush, small_segment_mb,
};
use super::program::{Ended, ended, fingerprint, receive};

fn name(at: Lsn, size: SegmentSize) -> String {
    WalFileName::segment(TimelineId::FIRST, at.segment(size)).display(size).to_string()
}

fn wait_for_file(path: &Path) {
    let from = Instant::now();
    while !path.exists() {
        assert!(from.elapsed() < LIMIT, "{} never came", path.display());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A record over four segments, of which the receiver gets what lies before a position so many
/// segments and bytes behind the end of the first; then the server loses all but the first.
pub(crate) fn a_record_breaks_off(major: u32, segments: u64, bytes: u64) {
    let (mut primary, dir) = (server(major, small_segment_mb(major), &[]), scratch());
    let size = SegmentSize::new(u64::from(small_segment_mb(major)) << 20).must();
    let archive = dir.path().join("archive");
    let proxy = Proxy::start(primary.port()).must();
    proxy.drop_words();
    let options = ReceiverOptions { port: Some(proxy.port()), ..ReceiverOptions::default() };
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    primary
        .sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i; SELECT pg_switch_wal()")
        .must();
    receiver.await_flush(&primary, server_flush(&primary));
    let broken = server_flush(&primary);
    let second = broken.segment(size).end(size);
    let cut = second.saturating_add(segments * size.bytes() + bytes);
    proxy.add(Fault { at: At::Lsn(cut.as_u64()), action: Action::Stall, times: 1000 });
    let len = size.bytes() * 7 / 2;
    primary.sql(&format!("SELECT pg_logical_emit_message(true, '', repeat('x', {len}))")).must();
    assert!(server_flush(&primary).saturating_since(second) > 2 * size.bytes());
    // What it got is durable: idle, it writes even what isn't proved.
    let last = Lsn::new(cut.as_u64() - 1);
    let file = archive.join("wal").join(name(last, size));
    if cut.segment_offset(size) == 0 {
        wait_for_file(&file);
    } else {
        wait_for_file(&file.with_extension("partial"));
        let written =
            format!("EXISTS (SELECT FROM pg_stat_replication WHERE write_lsn >= '{broken}')");
        primary.wait_until("the receiver to be idle", LIMIT, &written).must();
    }
    primary.kill9();
    proxy.clear_faults();
    proxy.cut_all();
    for segment in primary.wal_segments().must() {
        let found = segment.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if found >= name(second, size) {
            fs::remove_file(segment).must();
        }
    }
    primary.restart().must();
    let end = server_flush(&primary);
    assert!(end.saturating_since(second) < size.bytes(), "the record wasn't broken off: {end}");

    // At once, and not only when there is as much as before again.
    receiver.await_streaming(&primary);
    receiver.await_flush(&primary, end);
    primary.sql("INSERT INTO t SELECT generate_series(1, 100000)").must();
    let end = server_flush(&primary);
    receiver.await_flush(&primary, end);
    compare_with_primary(&receiver.wal_dir(), &primary, end);
    let decoded = Decoded::of(&receiver.wal_dir());
    assert_eq!(decoded.broken_off.len(), 1, "{:?}", decoded.broken_off);
    assert!(decoded.broken_off[0] >= broken && decoded.broken_off[0] < second);
    if major >= 14 {
        let theirs = Commits::read(primary.install(), &receiver.wal_dir()).must();
        assert_eq!(theirs.len(), decoded.commits.len(), "commits by pg_waldump, and by wal-format");
    }
    receiver.stop();
}

#[test]
fn a_record_broken_off_at_a_segments_end_is_followed_14() {
    a_record_breaks_off(14, 0, 0);
}

#[test]
fn a_record_broken_off_at_a_segments_end_is_followed_18() {
    a_record_breaks_off(18, 0, 0);
}

#[test]
fn a_broken_record_of_which_more_had_come_is_followed() {
    a_record_breaks_off(18, 0, 40_000);
}

#[test]
fn a_broken_record_of_which_whole_segments_had_come_is_followed_14() {
    a_record_breaks_off(14, 2, 40_000);
}

#[test]
fn a_broken_record_of_which_whole_segments_had_come_is_followed_18() {
    a_record_breaks_off(18, 2, 40_000);
}

/// Everything in an archive but what was set aside, and the log of a stream that began.
fn kept(archive: &Path) -> Vec<(PathBuf, u64, u64)> {
    let mut files = fingerprint(archive);
    files.retain(|(path, ..)| !path.starts_with(archive.join("quarantine")));
    files.retain(|(path, ..)| path.extension() != Some("tmp".as_ref()));
    files
}

fn is_refused(ended: &Ended, archive: &Path, before: &[(PathBuf, u64, u64)]) {
    ended.says(5, &["ALARM: the server's WAL differs", "another history", "quarantine"]);
    assert_eq!(kept(archive), before, "something was changed");
    assert!(fs::read_dir(archive.join("quarantine")).must().count() > 0);
}

/// Two copies of a cluster go ways of their own.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// The archive ends in a segment, and the clone is further.
    Within,
    /// The archive ends with a segment, and the clone is further.
    AtAnEnd,
    /// The clone isn't as far as the archive.
    Behind,
}

fn a_clone_is_refused(major: u32, place: Place) {
    let (one, other, dir) = (server(major, 1, &[]), server(major, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&one, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&one);
    one.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) i").must();
    if place == Place::AtAnEnd {
        // The slot's later records would begin the next one.
        one.sql("SELECT pg_switch_wal()").must();
    }
    receiver.await_flush(&one, server_flush(&one));
    receiver.stop();
    if place == Place::Within {
        // What a stop may leave to the next start is done then: a name, an entry of the index.
        let mut receiver = Receiver::start(&one, &archive, &ReceiverOptions::default());
        receiver.await_streaming(&one);
        receiver.stop();
    }
    let mut names = fs::read_dir(archive.join("wal")).must().flatten();
    let open = names.any(|file| file.path().extension() == Some("partial".as_ref()));
    assert_eq!(open, place != Place::AtAnEnd, "where the archive ends");
    let rows = if place == Place::Behind { 1000 } else { 500_000 };
    other.sql(&format!("CREATE TABLE u AS SELECT generate_series(1, {rows}) i")).must();
    let before = kept(&archive);
    let refused = ended(&mut receive(&other, &archive, &["--no-slot"]));
    is_refused(&refused, &archive, &before);
    // The right one goes on.
    let end = server_flush(&one);
    let mut receiver = Receiver::start(&one, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&one);
    receiver.await_flush(&one, end);
    compare_with_primary(&receiver.wal_dir(), &one, end);
    receiver.stop();
}

#[test]
fn a_clone_is_refused_14() {
    a_clone_is_refused(14, Place::Within);
}

#[test]
fn a_clone_is_refused_18() {
    a_clone_is_refused(18, Place::Within);
}

#[test]
fn a_clone_is_refused_where_the_archive_ends_with_a_segment() {
    a_clone_is_refused(18, Place::AtAnEnd);
}

#[test]
fn a_clone_that_is_behind_is_refused() {
    a_clone_is_refused(18, Place::Behind);
}

fn copy(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    as_server_user(&mut copy);
    run(copy.arg("-a").arg(from.join(".")).arg(to), LIMIT, "copying a cluster").must();
}

/// The receiver runs all the time; the server comes back as it was an hour ago.
fn an_old_copy_is_refused(major: u32, rows_since: u32) {
    let (mut primary, dir) = (server(major, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let options = ReceiverOptions { slot: false, ..ReceiverOptions::default() };
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) i").must();
    primary.stop(StopMode::Fast).must();
    let (data, old) = (primary.data_dir().to_owned(), primary.data_dir().with_file_name("old"));
    copy(&data, &primary.scratch().server_dir("old").must());
    primary.restart().must();
    receiver.await_streaming(&primary);
    primary.sql("INSERT INTO t SELECT generate_series(1, 100000)").must();
    receiver.await_flush(&primary, server_flush(&primary));
    primary.stop(StopMode::Fast).must();
    fs::rename(&data, data.with_file_name("lost")).must();
    fs::rename(&old, &data).must();
    let before = kept(&archive);
    primary.restart().must();
    primary.sql(&format!("INSERT INTO t SELECT generate_series(1, {rows_since})")).must();
    let status = receiver.wait();
    assert_eq!(status.code(), Some(5), "{}", receiver.running.output_tail());
    let said = receiver.running.output_tail();
    assert!(said.contains("ALARM: the server's WAL differs"), "{said}");
    assert_eq!(kept(&archive), before, "something was changed");
}

#[test]
fn an_old_copy_is_refused_14() {
    an_old_copy_is_refused(14, 300_000);
}

#[test]
fn an_old_copy_is_refused_18() {
    an_old_copy_is_refused(18, 300_000);
}

#[test]
fn an_old_copy_is_refused_before_it_is_as_far_as_the_archive() {
    an_old_copy_is_refused(18, 10);
}

/// What pg_upgrade and initdb leave at the same address, while the receiver runs.
#[test]
fn a_new_cluster_is_refused_while_it_runs() {
    let (one, dir) = (server(18, 1, &[]), scratch());
    let options =
        ServerOptions { new_system_id: true, segment_size_mb: 1, ..ServerOptions::default() };
    let upgraded = Server::start(&pg(18), &options).must();
    let archive = dir.path().join("archive");
    let proxy = Proxy::start(one.port()).must();
    let options = ReceiverOptions { port: Some(proxy.port()), ..ReceiverOptions::default() };
    let mut receiver = Receiver::start(&one, &archive, &options);
    receiver.await_streaming(&one);
    one.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) i").must();
    receiver.await_flush(&one, server_flush(&one));
    let before = kept(&archive);
    proxy.redirect(upgraded.port());
    let status = receiver.wait();
    let said = receiver.running.output_tail();
    assert_eq!(status.code(), Some(6), "{said}");
    assert!(said.contains("pg_upgrade") && said.contains("an archive of its own"), "{said}");
    assert_eq!(kept(&archive), before, "something was changed");
}
