//! Upstreams that come and go: a clean restart, what is said meanwhile, and a cascading standby.

use std::time::Duration;

use testkit::load::Session;
use testkit::process::{Running, Signal, Stream};
use testkit::servers::StopMode;

use super::common::{
    LIMIT, Must, Receiver, ReceiverOptions, SLOT, compare_with_primary, lsn, scratch, server,
    server_flush,
};
use super::program::{ended, receive, seawall};

fn survives_a_clean_restart(major: u32) {
    let (mut server, scratch) = (server(major, 1, &[]), scratch());
    let archive = scratch.path().join("archive");
    let mut receiver =
        Receiver::start_synchronous(&server, &archive, &ReceiverOptions::with(&["--json"]));
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) i").must();
    server.restart().must();
    receiver.await_streaming(&server);
    receiver.await_synchronous(&server);
    server.sql("INSERT INTO t SELECT generate_series(1, 100000)").must();
    let end = server_flush(&server);
    receiver.await_flush(&server, end);
    compare_with_primary(&receiver.wal_dir(), &server, end);
    let events: Vec<String> = events(&receiver.running.text(Stream::Stdout));
    let count = |name: &str| events.iter().filter(|event| *event == name).count();
    assert!(count("connected") >= 2, "{events:?}");
    assert!(count("streaming") >= 2, "{events:?}");
    assert!(count("disconnected") >= 1, "{events:?}");
    assert!(count("sealed") >= 5 && count("settled") >= 5, "{events:?}");
    assert_eq!(count("slot_created"), 1, "{events:?}");
    receiver.stop();
}

/// The names of events, each a line of JSON.
fn events(stdout: &str) -> Vec<String> {
    let name = |line: &str| {
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        value["event"].as_str().unwrap_or_else(|| panic!("no event: {line}")).to_owned()
    };
    stdout.lines().map(name).collect()
}

#[test]
fn survives_a_clean_restart_14() {
    survives_a_clean_restart(14);
}

#[test]
fn survives_a_clean_restart_18() {
    survives_a_clean_restart(18);
}

#[test]
fn quiet_says_nothing_when_all_is_well() {
    // Without a bound a slot is something to warn of.
    let (server, scratch) = (server(18, 1, &["max_slot_wal_keep_size = 1GB"]), scratch());
    let more = ["-q", "--slot", SLOT, "--create-slot"];
    let mut command = receive(&server, &scratch.path().join("archive"), &more);
    let mut quiet = Running::spawn(&mut command, "seawall receive -q").must();
    let streams = "EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')";
    server.wait_until("streaming", LIMIT, streams).must();
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) i").must();
    let end = server_flush(&server);
    let flushed = format!("(SELECT max(flush_lsn) FROM pg_stat_replication) >= '{end}'");
    server.wait_until("all to be flushed", LIMIT, &flushed).must();
    let (status, took) = quiet.stop(Signal::TERM, LIMIT).must();
    assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
    assert_eq!((quiet.text(Stream::Stdout), quiet.text(Stream::Stderr)), Default::default());
}

#[test]
fn without_sync_nothing_counts_as_flushed_and_the_end_comes() {
    let (server, scratch) = (server(18, 1, &[]), scratch());
    let archive = scratch.path().join("archive");
    let mut command = receive(&server, &archive, &["--no-slot", "--no-sync"]);
    let mut receiver = Running::spawn(&mut command, "seawall receive --no-sync").must();
    let stat = |what: &str| format!("(SELECT {what} FROM pg_stat_replication)");
    server.wait_until("streaming", LIMIT, &stat("state = 'streaming'")).must();
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) i").must();
    let end = server_flush(&server);
    server.wait_until("all to be written", LIMIT, &stat(&format!("write_lsn >= '{end}'"))).must();
    assert_eq!(
        server.sql(&format!("SELECT {}", stat("flush_lsn IS NULL"))).must(),
        "t",
        "it claims a flush"
    );
    receiver.stop(Signal::TERM, LIMIT).must();
    server.sql("INSERT INTO t VALUES (1)").must();
    let end = server_flush(&server);
    let more = ["--no-slot", "--no-sync", "-E", &end.to_string()];
    ended(&mut receive(&server, &archive, &more)).is_well();
    compare_with_primary(&archive.join("wal"), &server, end);
}

/// The primary dies in the middle of a record; what the standby has of it, it passes on. No commit
/// ends there, and a standby that shuts down waits for just this to be flushed downstream.
fn a_standby_with_half_a_record(major: u32) {
    let (mut primary, scratch) = (server(major, 1, &[]), scratch());
    let mut standby = primary.standby(&[]).must();
    let mut seawall = seawall(&["receive", "--no-slot", "-d"]);
    seawall.arg(standby.socket_conninfo());
    seawall.arg("-A").arg(scratch.path().join("archive"));
    let mut receiver = Running::spawn(&mut seawall, "seawall receive").must();
    let streams = "EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')";
    standby.wait_until("seawall to stream from the standby", LIMIT, streams).must();

    let begin = lsn(&primary, "SELECT pg_current_wal_insert_lsn()");
    let mut session = Session::open(primary.connection(), "SELECT 1").must();
    session.send("SELECT pg_logical_emit_message(true, 'live', repeat('x', 400000000))").must();
    let half = begin.saturating_add(20 << 20);
    let received = format!("pg_last_wal_receive_lsn() > '{half}'");
    standby.wait_until("half a record", LIMIT, &received).must();
    primary.kill9();
    let passed_on = standby.wait_until(
        "all of it to be passed on",
        LIMIT,
        "NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming') AND \
         (SELECT sent_lsn FROM pg_stat_replication) = pg_last_wal_receive_lsn()",
    );
    passed_on.must();
    let acknowledged = "SELECT flush_lsn < sent_lsn FROM pg_stat_replication";
    assert_eq!(
        standby.sql(acknowledged).must(),
        "t",
        "half a record was acknowledged without a need"
    );
    let took = standby.stop(StopMode::Fast).must();
    assert!(took < Duration::from_secs(10), "the standby's shutdown was held up for {took:?}");

    // The primary comes back, and gives up what it had of the record.
    drop(session);
    primary.restart().must();
    standby.restart().must();
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) i").must();
    let end = server_flush(&primary);
    let flushed = format!("(SELECT max(flush_lsn) FROM pg_stat_replication) >= '{end}'");
    standby.wait_until("seawall to go on", LIMIT, &flushed).must();
    compare_with_primary(&scratch.path().join("archive/wal"), &primary, end);
    primary.stop(StopMode::Fast).must();
    let (status, _) = receiver.stop(Signal::TERM, LIMIT).must();
    assert!(status.success(), "{}", receiver.output_tail());
}

#[test]
fn a_standby_with_half_a_record_shuts_down_14() {
    a_standby_with_half_a_record(14);
}

#[test]
fn a_standby_with_half_a_record_shuts_down_18() {
    a_standby_with_half_a_record(18);
}
