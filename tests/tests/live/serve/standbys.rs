//! Real standbys whose primary_conninfo names the archive alone.

use testkit::load::Session;
use testkit::proxy::Proxy;
use testkit::servers::{Server, StopMode, free_port};

use super::wire::{REPLICATION, Wire};
use super::{Serving, await_replay, conninfo, receive_and_serve, served, standby_of, work};
use crate::common::{
    LIMIT, Must, Receiver, ReceiverOptions, SLOT, forgetful, on_each_major, scratch, server,
    server_flush, until,
};
use crate::status;

const COUNT: &str = "SELECT count(*) FROM t";

on_each_major!(a_standby_streams_and_is_promoted_at_last, super::check);

fn check(major: u32) {
    let (mut primary, dir) = (server(major, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let proxy = Proxy::start(primary.port()).must();
    let (mut options, port) = served(&[]);
    options.port = Some(proxy.port());
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    let other = primary.standby(&[]).must();
    let mut standby = standby_of(&primary, port, &[]);
    standby.restart().must();
    await_replay(&standby, work(&primary));
    assert_eq!(standby.sql(COUNT).must(), primary.sql(COUNT).must());
    streams_from(&standby, port);

    // Restarts of the archive and of the standby.
    receiver.stop();
    let during = work(&primary);
    let mut receiver = Receiver::start(&primary, &archive, &options);
    await_replay(&standby, during);
    standby.restart().must();
    await_replay(&standby, work(&primary));

    // The upstream is promoted: the archive follows, and the standby follows the archive, by the
    // process that it had.
    let process = "SELECT pid FROM pg_stat_wal_receiver";
    let before = standby.sql(process).must();
    let end = server_flush(&primary);
    primary.stop(StopMode::Fast).must();
    other.wait_until("all", LIMIT, &format!("pg_last_wal_replay_lsn() >= '{end}'")).must();
    other.promote().must();
    proxy.redirect(other.port());
    receiver.await_streaming(&other);
    await_replay(&standby, work(&other));
    assert_eq!(standby.sql(COUNT).must(), other.sql(COUNT).must());
    let timeline = "SELECT received_tli FROM pg_stat_wal_receiver";
    assert_eq!(standby.sql(timeline).must(), "2");
    assert_eq!(standby.sql(process).must(), before);

    standby.promote().must();
    standby.sql("INSERT INTO t VALUES ('mine')").must();
    receiver.stop();
}

/// That and nothing else is where its WAL comes from.
fn streams_from(standby: &Server, port: u16) {
    let streams = format!(
        "EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = {port})"
    );
    standby.wait_until("streaming from the archive", LIMIT, &streams).must();
}

/// What the primary has removed long since.
#[test]
fn a_standby_that_was_away_too_long_for_the_primary_catches_up() {
    let lines = forgetful(18);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (primary, dir) = (server(18, 1, &lines), scratch());
    let archive = dir.path().join("archive");
    let (mut receiver, port) = receive_and_serve(&primary, &archive);
    let mut standby = standby_of(&primary, port, &[]);
    let kept = primary.wal_segments().must();
    for _ in 0..6 {
        receiver.await_flush(&primary, work(&primary));
        primary.sql("CHECKPOINT").must();
    }
    assert!(!kept.last().is_some_and(|path| path.exists()), "the primary still has {kept:?}");
    standby.restart().must();
    await_replay(&standby, work(&primary));
    assert_eq!(standby.sql(COUNT).must(), primary.sql(COUNT).must());
    receiver.stop();
}

/// primary → seawall → seawall → standby → standby, the second seawall in two processes.
#[test]
fn a_chain_of_archives_and_standbys() {
    let (primary, dir) = (server(14, 1, &[]), scratch());
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    let (first, port) = receive_and_serve(&primary, &one);
    let from_first = ReceiverOptions { port: Some(port), ..ReceiverOptions::default() };
    let second = Receiver::start(&primary, &two, &from_first);
    second.running.wait_for_line("streaming timeline 1", LIMIT).must();
    let serving = Serving::start(&two, &["--serve-auth", "trust"]);
    let mut near = standby_of(&primary, serving.port, &[]);
    let mut far = standby_of(&primary, serving.port, &[]);
    far.add_conf(&format!("primary_conninfo = '{}'", conninfo(near.port()))).must();
    near.restart().must();
    far.restart().must();
    await_replay(&far, work(&primary));
    assert_eq!(far.sql(COUNT).must(), primary.sql(COUNT).must());
    serving.stop();
    second.stop();
    first.stop();
}

#[test]
fn what_a_standbys_queries_need_is_kept_on_the_primary_14() {
    what_queries_need_is_kept(14, false);
}

#[test]
fn what_a_standbys_queries_need_is_kept_on_the_primary_18() {
    what_queries_need_is_kept(18, false);
}

#[test]
fn what_queries_need_is_kept_where_another_process_serves() {
    what_queries_need_is_kept(17, true);
}

/// A standby that waits for no query replays what would end one, if the primary didn't know of it.
fn what_queries_need_is_kept(major: u32, by_another: bool) {
    let (primary, dir) = (server(major, 1, &["autovacuum = off"]), scratch());
    let archive = dir.path().join("archive");
    let flag = ["--hot-standby-feedback"];
    let (options, port) = match by_another {
        true => (ReceiverOptions::with(&flag), free_port().must()),
        false => served(&flag),
    };
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    let another = by_another.then(|| Serving::on(port, &archive, &["--serve-auth", "trust"]));
    let (mut wire, _) = Wire::log_in(port, REPLICATION);
    wire.query("CREATE_REPLICATION_SLOT standby PHYSICAL");
    let conf = [
        "hot_standby_feedback = on",
        "wal_receiver_status_interval = 1s",
        "max_standby_streaming_delay = 0",
        "primary_slot_name = 'standby'",
    ];
    let mut standby = standby_of(&primary, port, &conf);
    standby.restart().must();
    await_replay(&standby, work(&primary));
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM t LIMIT 1";
    let mut reader = Session::open(standby.connection(), begin).must();
    let oldest = reader.run("SELECT pg_snapshot_xmin(pg_current_snapshot())", LIMIT).must();
    let slot = |is: &str| {
        format!("EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND {is})")
    };
    let is_known = slot(&format!("xmin::text = '{}'", oldest.join("")));
    primary.wait_until("the reader to be known", LIMIT, &is_known).must();

    let rows = primary.sql(COUNT).must();
    for sql in ["DELETE FROM t", "VACUUM t", "SELECT pg_switch_wal()"] {
        primary.sql(sql).must();
    }
    await_replay(&standby, server_flush(&primary));
    assert_eq!(reader.run(COUNT, LIMIT).must(), [rows]);
    assert_eq!(primary.sql(&format!("SELECT {is_known}")).must(), "t");
    reader.close();
    let is_past = slot(&format!("xmin::text::bigint > {}", oldest.join("")));
    primary.wait_until("the reader to be forgotten", LIMIT, &is_past).must();
    // Its slot remembers it, as the server's does, also over a restart of who serves.
    standby.stop(StopMode::Fast).must();
    let is_kept = slot("xmin IS NOT NULL");
    let are_gone = || {
        let status = status::json(&archive);
        status["server"]["followers"].as_array().is_some_and(Vec::is_empty).then_some(())
    };
    drop(wire);
    until(LIMIT, "the standby to be gone", are_gone);
    receiver.await_flush(&primary, work(&primary));
    assert_eq!(primary.sql(&format!("SELECT {is_kept}")).must(), "t");
    let another = another.map(|another| {
        another.stop();
        Serving::on(port, &archive, &["--serve-auth", "trust"])
    });
    primary.wait_until("what the slot remembers", LIMIT, &is_kept).must();
    let (mut wire, _) = Wire::log_in(port, REPLICATION);
    wire.query("DROP_REPLICATION_SLOT standby");
    primary.wait_until("the standby to be forgotten", LIMIT, &slot("xmin IS NULL")).must();
    if let Some(another) = another {
        another.stop();
    }
    receiver.stop();
}

/// What clients saw committed is on the standby behind the archive, after the primary's death.
#[test]
fn what_was_committed_is_behind_the_only_synchronous_standby() {
    let (mut primary, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let (options, port) = served(&[]);
    let receiver = Receiver::start_synchronous(&primary, &archive, &options);
    let mut standby = standby_of(&primary, port, &[]);
    standby.restart().must();
    let load = testkit::load::CommitLoad::start(
        primary.connection(),
        &testkit::load::LoadOptions::default(),
    );
    let load = load.must();
    load.wait_for(300, LIMIT).must();
    primary.kill9();
    let acked = load.finish().must();
    receiver.stop();
    // Also where the archive is served again without anybody to receive from.
    let serving = Serving::on(port, &archive, &["--serve-auth", "trust"]);
    standby.restart().must();
    let least = format!("(SELECT count(*) FROM seawall_load) >= {}", acked.len());
    standby.wait_until("all that was acknowledged", LIMIT, &least).must();
    standby.promote().must();
    serving.stop();
}
