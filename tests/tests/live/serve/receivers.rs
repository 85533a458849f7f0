//! Receivers at the archive: real pg_receivewal, and seawall itself.

use std::fs;
use std::path::Path;

use pg_types::{Lsn, SegmentSize, TimelineId, WalFileName};
use testkit::peers::{ReceiveOptions, pg_receivewal};
use testkit::process::{Running, run};
use testkit::proxy::Proxy;
use testkit::servers::{Server, StopMode};

use super::wire::{REPLICATION, Wire, error};
use super::{Serving, conninfo, receive_and_serve, segments, served, work};
use crate::common::{
    LIMIT, Must, Receiver, ReceiverOptions, compare_with_primary, on_each_major, scratch, server,
    server_flush, until,
};
use crate::program::seawall;
use crate::status;

/// Runs pg_receivewal to its end, which has to be a good one.
fn received(server: &Server, port: u16, dir: &Path, end: Lsn, slot: Option<&str>) -> Running {
    // It ends when it has got past a position.
    let before = Lsn::new(end.as_u64() - 1);
    let options = ReceiveOptions {
        endpos: Some(before.to_string()),
        slot: slot.map(ToOwned::to_owned),
        extra: vec!["--no-loop".to_owned()],
        ..ReceiveOptions::default()
    };
    let mut running = pg_receivewal(server.install(), &conninfo(port), dir, &options).must();
    let status = running.wait(LIMIT).must();
    assert!(status.success(), "{status}: {}", running.output_tail());
    running
}

/// Every whole segment that a receiver made is the server's.
fn same_as(server: &Server, dir: &Path, least: usize) {
    let segments = segments(dir);
    assert!(segments.len() >= least, "{segments:?}");
    for ours in segments {
        let name = ours.file_name().unwrap_or_default();
        let theirs = fs::read(server.wal_dir().join(name)).must();
        assert!(fs::read(&ours).must() == theirs, "{} differs", ours.display());
    }
}

on_each_major!(pg_receivewal_gets_the_primarys_bytes, super::check);

fn check(major: u32) {
    let (primary, dir) = (server(major, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let (receiver, port) = receive_and_serve(&primary, &archive);
    let first = dir.path().join("first");
    fs::create_dir(&first).must();
    // It streams live: its end isn't there yet when it starts.
    let end = server_flush(&primary).saturating_add(3 << 20);
    let options = ReceiveOptions {
        endpos: Some(end.to_string()),
        slot: Some("follower".to_owned()),
        ..ReceiveOptions::default()
    };
    let mut live = pg_receivewal(primary.install(), &conninfo(port), &first, &options).must();
    live.wait_for_line("starting log streaming", LIMIT).must();
    while server_flush(&primary) < end {
        work(&primary);
    }
    // The last record before the end has to be whole.
    primary.sql("SELECT pg_switch_wal()").must();
    primary.sql("CREATE TABLE more(a int)").must();
    assert!(live.wait(LIMIT).must().success(), "{}", live.output_tail());
    same_as(&primary, &first, 2);
    slot_is_kept(&archive);

    // With the receiver gone, another process serves what is archived.
    let done = server_flush(&primary);
    let mut receiver = receiver;
    receiver.await_flush(&primary, done);
    receiver.stop();
    let alone = Serving::start(&archive, &["--serve-auth", "trust"]);
    let further = work(&primary);
    received(&primary, alone.port, &first, done, Some("follower"));
    same_as(&primary, &first, 3);
    // And what a receiver brings that comes again, which tells it.
    let mut receiver = Receiver::start(&primary, &archive, &ReceiverOptions::default());
    received(&primary, alone.port, &first, further, None);
    same_as(&primary, &first, 4);
    receiver.await_flush(&primary, further);
    alone.stop();
    receiver.stop();
}

/// The slot is a file that says where its follower is.
fn slot_is_kept(archive: &Path) {
    let slot = fs::read_to_string(archive.join("slots/follower.json")).must();
    let slot: serde_json::Value = serde_json::from_str(&slot).must();
    assert_eq!((&slot["name"], &slot["temporary"]), (&"follower".into(), &false.into()));
    let at: Lsn = slot["restart_lsn"].as_str().unwrap_or_default().parse().must();
    assert!(at.is_valid(), "{slot}");
}

/// A receiver that was away during a promotion goes on where it was, on the old timeline, and is
/// led to the new one.
fn a_promotion_is_followed(major: u32) {
    let (mut primary, dir) = (server(major, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let proxy = Proxy::start(primary.port()).must();
    let (mut options, port) = served(&[]);
    options.port = Some(proxy.port());
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).must();
    let first = work(&primary);
    receiver.await_flush(&primary, first);
    received(&primary, port, &copy, first, None);
    // A slot that knows where to begin, for whoever has nothing.
    let (mut wire, _) = Wire::log_in(port, REPLICATION);
    wire.query("CREATE_REPLICATION_SLOT resumed PHYSICAL RESERVE_WAL;");
    // One stays for all of it.
    let away = dir.path().join("away");
    fs::create_dir(&away).must();
    let live = pg_receivewal(primary.install(), &conninfo(port), &away, &ReceiveOptions::default());
    let live = live.must();
    live.wait_for_line("starting log streaming", LIMIT).must();

    let standby = primary.standby(&[]).must();
    work(&primary);
    primary.stop(StopMode::Fast).must();
    standby.promote().must();
    proxy.redirect(standby.port());
    receiver.await_streaming(&standby);
    let end = work(&standby);
    receiver.await_flush(&standby, end);
    let finished = received(&standby, port, &copy, end, None);
    assert!(
        finished.output_tail().contains("switched to timeline 2"),
        "{}",
        finished.output_tail()
    );
    live.wait_for_line("switched to timeline 2", LIMIT).must();
    if major >= 15 {
        from_a_slot(&standby, port, &dir.path().join("resumed"), end);
    }
    for dir in [&copy, &away] {
        let on_second = |path: &Path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("00000002"))
        };
        let segments = segments(dir);
        let (new, old): (Vec<_>, Vec<_>) = segments.iter().partition(|path| on_second(path));
        assert!(!old.is_empty() && dir == &away || !new.is_empty(), "{segments:?}");
        for (paths, server) in [(old, &primary), (new, &standby)] {
            for path in paths {
                let theirs = server.wal_dir().join(path.file_name().unwrap_or_default());
                assert!(fs::read(path).must() == fs::read(theirs).must(), "{}", path.display());
            }
        }
    }
    receiver.stop();
}

/// pg_receivewal begins in an empty directory where its slot is: before the promotion.
fn from_a_slot(server: &Server, port: u16, dir: &Path, end: Lsn) {
    fs::create_dir(dir).must();
    received(server, port, dir, end, Some("resumed"));
    let names = fs::read_dir(dir).must().map(|entry| entry.must().file_name());
    let names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    for begin in ["00000001", "00000002.history", "000000020"] {
        assert!(names.iter().any(|name| name.starts_with(begin)), "{begin}: {names:?}");
    }
}

#[test]
fn a_promotion_is_followed_14() {
    a_promotion_is_followed(14);
}

#[test]
fn a_promotion_is_followed_18() {
    a_promotion_is_followed(18);
}

/// primary → seawall → seawall: the second has the first one for its server.
#[test]
fn seawall_receives_from_seawall() {
    let (primary, dir) = (server(18, 1, &[]), scratch());
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    let (first, port) = receive_and_serve(&primary, &one);
    let options = ReceiverOptions { port: Some(port), ..ReceiverOptions::default() };
    let second = Receiver::start(&primary, &two, &options);
    second.running.wait_for_line("streaming timeline 1", LIMIT).must();
    let end = work(&primary);
    let has_all = || {
        let server = &status::json(&one)["server"];
        let follower = &server["followers"][0];
        assert_eq!(server["followers"].as_array().map(Vec::len), Some(1), "{server}");
        let flush: Lsn = follower["flush"].as_str().unwrap_or("0/0").parse().must();
        (flush >= end).then(|| follower.clone())
    };
    let follower = crate::common::until(LIMIT, "the second seawall to have it all", has_all);
    assert_eq!(follower["state"], "streaming");
    assert_eq!(follower["application_name"], "live");
    assert_eq!(follower["slot"], crate::common::SLOT);
    compare_with_primary(&two.join("wal"), &primary, end);
    second.stop();
    first.stop();
}

/// What was shipped behind a hole is handed on at once; where a receiver fills the hole, that comes
/// first.
#[test]
fn a_hole_is_told_of_and_filled() {
    let (primary, dir) = (server(17, 1, &["wal_keep_size = '1GB'"]), scratch());
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&primary, &archive, &ReceiverOptions::default());
    primary.sql("SELECT pg_switch_wal()").must();
    receiver.await_flush(&primary, server_flush(&primary));
    receiver.stop();
    let hole = server_flush(&primary).align_down(1 << 20);
    for _ in 0..3 {
        work(&primary);
        primary.sql("SELECT pg_switch_wal()").must();
    }
    let behind = hole.saturating_add(1 << 20);
    let name = WalFileName::segment(TimelineId::FIRST, behind.segment(SegmentSize::MIN));
    let name = name.display(SegmentSize::MIN).to_string();
    let newer = segments(&primary.data_dir().join("pg_wal"));
    let shipped = newer.iter().find(|path| path.ends_with(&name)).must();
    let mut ship = seawall(&["archive-wal", "-A"]);
    run(ship.arg(&archive).arg(shipped), LIMIT, "seawall archive-wal").must();
    let streams = |port: u16, from: Lsn| {
        let (mut wire, _) = Wire::log_in(port, REPLICATION);
        wire.query(&format!("START_REPLICATION {from} TIMELINE 1"));
        wire.message().map(|(tag, body)| if tag == b'E' { error(&body) } else { String::new() })
    };
    let serving = Serving::start(&archive, &["--serve-auth", "trust"]);
    assert_eq!(streams(serving.port, behind).must(), "");
    let missing = streams(serving.port, hole).must();
    assert!(missing.contains("has already been removed"), "{missing}");
    serving.stop();
    let (mut receiver, port) = receive_and_serve(&primary, &archive);
    receiver.await_flush(&primary, work(&primary));
    let filled = || streams(port, hole).filter(String::is_empty);
    until(LIMIT, "the hole to be filled", filled);
    receiver.stop();
    compare_with_primary(&archive.join("wal"), &primary, server_flush(&primary));
}

/// A byte that was changed on the disk is found before it is sent, also where the file has been
/// proved and sent before.
#[test]
fn damage_is_not_handed_on() {
    let (primary, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&primary, &archive, &ReceiverOptions::default());
    let end = work(&primary);
    receiver.await_flush(&primary, end);
    receiver.stop();
    let sealed = segments(&archive.join("wal"));
    let serving = Serving::start(&archive, &["--serve-auth", "trust"]);
    let whole = dir.path().join("whole");
    fs::create_dir(&whole).must();
    let first = sealed[0].file_name().unwrap_or_default();
    fs::copy(&sealed[0], whole.join(first)).must();
    received(&primary, serving.port, &whole, end, None);
    same_as(&primary, &whole, 3);
    let damaged = sealed.get(1).unwrap_or_else(|| panic!("{sealed:?}"));
    let mut bytes = fs::read(damaged).must();
    bytes[700_000] ^= 1;
    fs::write(damaged, bytes).must();
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).must();
    // It begins with the first segment, as if it had been there.
    fs::copy(&sealed[0], copy.join(sealed[0].file_name().unwrap_or_default())).must();
    let options =
        ReceiveOptions { extra: vec!["--no-loop".to_owned()], ..ReceiveOptions::default() };
    let mut running =
        pg_receivewal(primary.install(), &conninfo(serving.port), &copy, &options).must();
    assert!(!running.wait(LIMIT).must().success());
    assert!(running.output_tail().contains("doesn't hold any more"), "{}", running.output_tail());
    serving.running.wait_for_line("doesn't hold any more", LIMIT).must();
    assert_eq!(segments(&copy).len(), 1, "nothing of it was taken for whole");
    serving.stop();
}

/// Segments that are compressed by now are had like plain ones.
#[test]
fn compressed_segments_are_served_as_they_were() {
    let (primary, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let (options, port) = served(&["-Z", "lz4"]);
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    let end = work(&primary);
    receiver.await_flush(&primary, end);
    let packed = || {
        let entries = fs::read_dir(archive.join("wal")).must().map(|entry| entry.must().path());
        let mut packed: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|end| end == "lz4")).collect();
        packed.sort();
        (packed.len() >= 2).then_some(packed)
    };
    let packed = crate::common::until(LIMIT, "two segments to be compressed", packed);
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).must();
    // It goes on behind the first of them, as if it had had it.
    let first = packed[0].file_stem().unwrap_or_default();
    fs::copy(primary.wal_dir().join(first), copy.join(first)).must();
    received(&primary, port, &copy, end, None);
    same_as(&primary, &copy, 3);
    receiver.stop();
}
