//! PostgreSQL 10 to 13: streaming, restarts, promotions, slots, gaps, log shipping and base backups,
//! as from 14 on. The packages have no pg_waldump; the server's files and wal-format's reading stand for
//! it.

use std::fs;

use pg_types::{Lsn, SegmentSize, TimelineId, WalFileName};
use testkit::proxy::Proxy;
use testkit::servers::{Server, StopMode};

use super::common::{
    Decoded, Must, Receiver, ReceiverOptions, can_be_had, compare_with_primary, restart_lsn,
    scratch, server, server_flush, small_segment_mb,
};

/// Makes a module of this name with one test for each of 10 to 13.
macro_rules! on_each_old_major {
    ($name:ident, $check:path) => {
        mod $name {
            #[test]
            fn pg10() {
                super::check(10, $check);
            }
            #[test]
            fn pg11() {
                super::check(11, $check);
            }
            #[test]
            fn pg12() {
                super::check(12, $check);
            }
            #[test]
            fn pg13() {
                super::check(13, $check);
            }
        }
    };
}

on_each_old_major!(every_byte_is_the_primarys, super::stream);
on_each_old_major!(a_promotion_is_followed, super::promotion);
on_each_old_major!(a_slot_is_made_read_and_dropped, crate::slots::a_slots_life);
on_each_old_major!(only_replication_is_enough, crate::slots::only_replication_allowed_is_enough);
on_each_old_major!(a_broken_record_is_followed, super::broken_record);
on_each_old_major!(a_gap_is_exact, crate::gaps::a_gap_is_exact_and_streaming_goes_on);
on_each_old_major!(
    what_was_left_out_is_shipped,
    crate::shipping::what_streaming_left_out_is_shipped
);
on_each_old_major!(a_backup_is_given_back, crate::backup::old::a_backup_is_given_back);

/// Whether it can be had is said by who looks.
fn check(major: u32, check: fn(u32)) {
    if can_be_had(major) {
        check(major);
    }
}

fn segment_size(major: u32) -> SegmentSize {
    SegmentSize::new(u64::from(small_segment_mb(major)) << 20).must()
}

/// Rows, and a switch right behind a boundary, in the middle, and with the next one.
fn work(server: &Server) -> Lsn {
    server.sql("CREATE TABLE IF NOT EXISTS t(a text); SELECT pg_switch_wal()").must();
    server.sql("INSERT INTO t SELECT repeat('x', 200) FROM generate_series(1, 8000)").must();
    server.sql("SELECT pg_switch_wal()").must();
    server.sql("INSERT INTO t VALUES ('between'); SELECT pg_switch_wal()").must();
    server.sql("INSERT INTO t VALUES ('behind')").must();
    server_flush(server)
}

/// Segments and their switches, in a row and over restarts of both ends.
fn stream(major: u32) {
    let (mut primary, dir) = (server(major, small_segment_mb(major), &[]), scratch());
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&primary, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&primary);
    let slot_began = restart_lsn(&primary);
    receiver.await_flush(&primary, work(&primary));
    receiver.kill9();
    work(&primary);
    let mut receiver = Receiver::start_synchronous(&primary, &archive, &ReceiverOptions::default());
    receiver.await_flush(&primary, work(&primary));
    primary.restart().must();
    receiver.await_streaming(&primary);
    let end = work(&primary);
    receiver.await_flush(&primary, end);
    assert!(restart_lsn(&primary) > slot_began, "the slot stays at {slot_began}");
    compare_with_primary(&receiver.wal_dir(), &primary, end);
    let decoded = Decoded::of(&receiver.wal_dir());
    assert!(decoded.proved >= end && decoded.commits.len() > 10, "{decoded:?}");
    // A shutdown waits until all is acknowledged, switches' padding included.
    primary.stop(StopMode::Fast).must();
    receiver.stop();
    assert!(Decoded::of(&archive.join("wal")).ends_with_shutdown());
}

/// A record that a crash broke off, of which whole segments had come.
fn broken_record(major: u32) {
    super::divergence::a_record_breaks_off(major, 2, 40_000);
}

/// A switchover, with the receiver there.
fn promotion(major: u32) {
    let size = segment_size(major);
    let (mut primary, dir) = (server(major, small_segment_mb(major), &[]), scratch());
    let archive = dir.path().join("archive");
    let proxy = Proxy::start(primary.port()).must();
    proxy.drop_words();
    let options = ReceiverOptions { port: Some(proxy.port()), ..ReceiverOptions::default() };
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    let begin = server_flush(&primary);
    let standby = primary.standby(&[]).must();
    work(&primary);
    primary.stop(StopMode::Fast).must();
    standby.promote().must();
    proxy.redirect(standby.port());
    receiver.await_streaming(&standby);
    let end = work(&standby);
    receiver.await_flush(&standby, end);
    receiver.stop();

    let wal = archive.join("wal");
    let history = fs::read_to_string(standby.wal_dir().join("00000002.history")).must();
    assert_eq!(fs::read_to_string(wal.join("00000002.history")).must(), history);
    let switch = history.split_ascii_whitespace().nth(1).unwrap_or_default();
    let switch: Lsn = switch.parse().must();
    let same = |server: &Server, timeline: u32, begin: Lsn, end: Lsn| {
        let timeline = TimelineId::new(timeline).unwrap_or(TimelineId::FIRST);
        let mut number = begin.segment(size);
        while number.start(size) < end {
            let name = WalFileName::segment(timeline, number).display(size).to_string();
            let read = |dir: &std::path::Path| {
                let partial = dir.join(format!("{name}.partial"));
                fs::read(if partial.exists() { partial } else { dir.join(&name) }).must()
            };
            let until = number.end(size).min(end).saturating_since(number.start(size));
            let until = usize::try_from(until).must();
            let same = read(&wal)[..until] == read(&server.wal_dir())[..until];
            assert!(same, "{name} differs before byte {until}");
            number = number.next();
        }
    };
    same(&primary, 1, begin, switch);
    same(&standby, 2, switch, end);
}
