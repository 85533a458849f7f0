//! Slots: made, read, dropped, missing, there already, and somebody else's.

use std::time::Duration;

use testkit::process::{Running, Signal};
use testkit::servers::Server;

use super::common::{
    LIMIT, Must, Receiver, ReceiverOptions, SLOT, compare_with_primary, lsn, pg, scratch, server,
    server_flush, small_segment_mb,
};
use super::gaps::wordless;
use super::program::{Ended, ended, fingerprint, receive, seawall};

fn slot(server: &Server, args: &[&str]) -> Ended {
    ended(seawall(&["slot"]).args(args).args(["-d", &server.conninfo()]))
}

fn exists(server: &Server, name: &str) -> bool {
    let count = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'");
    server.sql(&count).must() == "1"
}

pub(crate) fn a_slots_life(major: u32) {
    let server = server(major, small_segment_mb(major), &[]);
    slot(&server, &["read", "s"]).says(1, &["\"s\" doesn't exist"]);
    slot(&server, &["drop", "s"]).says(1, &["\"s\" doesn't exist"]);
    slot(&server, &["create", "s"]).is_well();
    let restart =
        lsn(&server, "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 's'");
    let read = slot(&server, &["read", "s"]);
    read.is_well();
    assert_eq!(read.stdout, format!("s: keeps WAL from {restart} on\n"));
    slot(&server, &["create", "s"]).says(1, &["exists already", "--if-not-exists"]);
    slot(&server, &["create", "s", "--if-not-exists"]).is_well();

    slot(&server, &["create", "lazy", "--no-reserve"]).is_well();
    assert_eq!(slot(&server, &["read", "lazy"]).stdout, "lazy: keeps no WAL\n");
    let json = slot(&server, &["read", "s", "--json"]);
    json.is_well();
    let value: serde_json::Value = serde_json::from_str(&json.stdout).must();
    assert_eq!(value["slot"], "s");
    assert_eq!(value["slot_type"], "physical");
    assert_eq!(value["restart_lsn"], restart.to_string());

    slot(&server, &["drop", "s"]).is_well();
    slot(&server, &["drop", "lazy", "--wait"]).is_well();
    assert!(!exists(&server, "s") && !exists(&server, "lazy"));
    slot(&server, &["create", "Not-A-Slot"]).says(2, &["lower"]);
}

#[test]
fn a_slot_is_made_read_and_dropped_14() {
    a_slots_life(14);
}

#[test]
fn a_slot_is_made_read_and_dropped_18() {
    a_slots_life(18);
}

/// An hba that lets `postgres` in for replication over TCP, and for nothing else.
const ONLY_REPLICATION: &str = "local all postgres trust\n\
                                host replication postgres 127.0.0.1/32 trust\n";

pub(crate) fn only_replication_allowed_is_enough(major: u32) {
    let options = testkit::servers::ServerOptions {
        hba: Some(ONLY_REPLICATION.into()),
        segment_size_mb: small_segment_mb(major),
        ..Default::default()
    };
    let (server, scratch) = (Server::start(&pg(major), &options).must(), scratch());
    // Reading a slot takes a plain connection below 15; that it isn't allowed is said.
    slot(&server, &["create", "s"]).is_well();
    slot(&server, &["read", "s"]).says(1, &["pg_hba.conf"]);
    let mut receiver =
        Receiver::start(&server, &scratch.path().join("archive"), &ReceiverOptions::default());
    receiver.await_streaming(&server);
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) i").must();
    let end = server_flush(&server);
    receiver.await_flush(&server, end);
    compare_with_primary(&receiver.wal_dir(), &server, end);
    receiver.stop();
}

#[test]
fn only_replication_allowed_is_enough_to_stream_14() {
    only_replication_allowed_is_enough(14);
}

fn a_missing_slot_is_no_reason_to_make_one(major: u32) {
    let (server, scratch) = (server(major, 1, &[]), scratch());
    let archive = scratch.path().join("archive");
    let missing = ["\"gone\" doesn't exist", "--create-slot"];
    ended(&mut receive(&server, &archive, &["--slot", "gone"])).says(1, &missing);
    assert!(!exists(&server, "gone"));

    // With something archived, too, and that stays as it is.
    let mut receiver = Receiver::start(&server, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&server);
    receiver.await_flush(&server, server_flush(&server));
    receiver.stop();
    slot(&server, &["drop", SLOT]).is_well();
    let before = fingerprint(&archive);
    let texts = ["doesn't exist", "--create-slot"];
    ended(&mut receive(&server, &archive, &["--slot", SLOT])).says(1, &texts);
    // A file prepared for the next segment holds nothing yet, and is made anew.
    let kept = before.into_iter().filter(|(path, ..)| path.extension() != Some("tmp".as_ref()));
    assert_eq!(fingerprint(&archive), kept.collect::<Vec<_>>());
}

#[test]
fn a_missing_slot_is_named_14() {
    a_missing_slot_is_no_reason_to_make_one(14);
}

#[test]
fn a_missing_slot_is_named_18() {
    a_missing_slot_is_no_reason_to_make_one(18);
}

#[test]
fn a_slot_that_is_there_is_used_only_if_that_was_said() {
    let (server, scratch) = (server(18, 1, &[]), scratch());
    let archive = scratch.path().join("archive");
    slot(&server, &["create", "s"]).is_well();
    let create = ["--slot", "s", "--create-slot"];
    let refused = ended(&mut receive(&server, &archive, &create));
    refused.says(1, &["\"s\" exists already", "--if-not-exists"]);
    let mut command = receive(&server, &archive, &create);
    let running = Running::spawn(command.arg("--if-not-exists"), "seawall receive").must();
    server
        .wait_until("streaming with the slot", LIMIT, "(SELECT active FROM pg_replication_slots)")
        .must();
    drop(running);
}

#[test]
fn a_slot_that_somebody_else_uses_is_waited_for() {
    let (server, scratch) = (server(18, 1, &[]), scratch());
    let mut first =
        Receiver::start(&server, &scratch.path().join("first"), &ReceiverOptions::default());
    first.await_streaming(&server);
    let user = server.sql("SELECT active_pid FROM pg_replication_slots").must();
    let more = ["--slot", SLOT, "--application-name", "second"];
    let mut command = receive(&server, &scratch.path().join("second"), &more);
    let mut second = Running::spawn(&mut command, "the second receiver").must();
    let said = second.wait_for_line("is active for PID", LIMIT).must();
    assert!(said.text.contains(&user) && said.text.contains(SLOT), "{} {user}", said.text);
    assert!(said.text.contains("connecting again in"), "{}", said.text);
    first.stop();
    let streams = "EXISTS (SELECT FROM pg_stat_replication WHERE application_name = 'second' \
                   AND state = 'streaming')";
    server.wait_until("the second one to stream", Duration::from_secs(30), streams).must();
    let (status, _) = second.stop(Signal::TERM, LIMIT).must();
    assert!(status.success(), "{}", second.output_tail());
}

/// What a slot is like is known by SQLSTATEs, and said in our own words.
#[test]
fn slots_are_told_apart_without_the_servers_words() {
    let (server, scratch) = (server(18, 1, &[]), scratch());
    let proxy = wordless(&server);
    let port = Some(proxy.port());
    let archive = scratch.path().join("archive");
    let conninfo = proxy.conninfo();
    let receive = |slot: &str, more: &[&str]| {
        let mut command = seawall(&["receive", "-d", &conninfo, "--slot", slot, "-A"]);
        command.arg(&archive).args(more);
        command
    };
    ended(&mut receive("gone", &[])).says(1, &["\"gone\" doesn't exist", "--create-slot"]);
    slot(&server, &["create", "s"]).is_well();
    ended(&mut receive("s", &["--create-slot"])).says(1, &["exists already", "--if-not-exists"]);
    let options = ReceiverOptions { port, ..ReceiverOptions::default() };
    let mut first = Receiver::start(&server, &scratch.path().join("first"), &options);
    first.await_streaming(&server);
    let mut second = Running::spawn(&mut receive(SLOT, &[]), "the second receiver").must();
    second.wait_for_line("connecting again in", LIMIT).must();
    first.stop();
    let streams = "EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')";
    server.wait_until("the second one to stream", Duration::from_secs(30), streams).must();
    let (status, _) = second.stop(Signal::TERM, LIMIT).must();
    assert!(status.success(), "{}", second.output_tail());
}
