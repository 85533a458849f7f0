//! WAL that the server hasn't got any more: the gap is exact to the segment, recorded, alarmed, and
//! streaming goes on behind it. All of it by way of a proxy that takes the words out of each error:
//! what is decided is decided by SQLSTATE and state.

use std::fs;
use std::path::Path;

use pg_types::Lsn;
use testkit::process::Stream;
use testkit::proxy::Proxy;
use testkit::servers::{Server, ServerOptions};

use super::common::{
    LIMIT, Must, Receiver, ReceiverOptions, forgetful, pg, scratch, server_flush, small_segment_mb,
};
use super::program::{ended, seawall};

/// A server that keeps no more WAL than it needs.
pub(crate) fn forgetful_server(major: u32) -> Server {
    let conf = forgetful(major).into_iter().chain(["fsync = off".to_owned()]).collect();
    let segment_size_mb = small_segment_mb(major);
    let options = ServerOptions { segment_size_mb, conf, ..Default::default() };
    Server::start(&pg(major), &options).must()
}

/// Makes WAL, and the server forget it; gives the oldest segment that it still has.
pub(crate) fn forget(server: &Server) -> Lsn {
    for _ in 0..4 {
        server.sql("DROP TABLE IF EXISTS t").must();
        server.sql("CREATE TABLE t AS SELECT generate_series(1, 60000) i").must();
        if server.install().major == 10 {
            server.sql("SELECT pg_switch_wal()").must();
        }
        server.sql("CHECKPOINT").must();
    }
    oldest_segment(server)
}

/// The oldest segment that a server has.
pub(crate) fn oldest_segment(server: &Server) -> Lsn {
    let size = u64::from(small_segment_mb(server.install().major)) << 20;
    let oldest = server.wal_segments().must().into_iter().map(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let start = testkit::servers::segment_start(&name, size);
        Lsn::new(start.unwrap_or_else(|| panic!("{name}")))
    });
    oldest.min().unwrap_or(Lsn::INVALID)
}

/// A proxy before a server whose errors have no words.
pub(crate) fn wordless(server: &Server) -> Proxy {
    let proxy = Proxy::start(server.port()).must();
    proxy.drop_words();
    proxy
}

/// A receiver by way of such a proxy.
fn by(proxy: &Proxy) -> ReceiverOptions {
    ReceiverOptions { port: Some(proxy.port()), ..ReceiverOptions::default() }
}

/// The gaps that `seawall gaps --json` tells of.
pub(crate) fn gaps(archive: &Path) -> Vec<serde_json::Value> {
    let mut command = seawall(&["gaps", "--json", "--archive"]);
    let answer = ended(command.arg(archive));
    answer.is_well();
    answer.stdout.lines().map(|line| serde_json::from_str(line).must()).collect()
}

pub(crate) fn a_gap_is_exact_and_streaming_goes_on(major: u32) {
    let (server, dir) = (forgetful_server(major), scratch());
    let proxy = wordless(&server);
    let archive = dir.path().join("archive");
    let options = ReceiverOptions { slot: false, ..by(&proxy) };
    let mut receiver = Receiver::start(&server, &archive, &options);
    receiver.await_streaming(&server);
    server.sql("CREATE TABLE u AS SELECT generate_series(1, 30000) i").must();
    let before = server_flush(&server);
    receiver.await_flush(&server, before);
    receiver.stop();
    assert_eq!(gaps(&archive), Vec::<serde_json::Value>::new());
    let oldest = forget(&server);
    assert!(oldest > before, "nothing was removed");

    let json = vec!["--json".to_owned()];
    let options = ReceiverOptions { slot: false, extra: json, ..by(&proxy) };
    let mut receiver = Receiver::start(&server, &archive, &options);
    receiver.await_streaming(&server);
    server.sql("CREATE TABLE v AS SELECT generate_series(1, 30000) i").must();
    let end = server_flush(&server);
    receiver.await_flush(&server, end);
    receiver.running.wait_for_line("ALARM: WAL is missing from", LIMIT).must();
    let events = receiver.running.text(Stream::Stdout);
    assert_eq!(events.lines().filter(|line| line.contains("\"event\":\"gap\"")).count(), 1);

    let found = gaps(&archive);
    assert_eq!(found.len(), 1, "{found:?}");
    let at = |key: &str| -> Lsn { found[0][key].as_str().unwrap_or_default().parse().must() };
    assert!(at("from") >= before, "{found:?}");
    assert_eq!(at("to"), oldest, "the oldest segment that the server still has");
    let recorded = fs::read_to_string(archive.join("gaps.json")).must();
    assert!(recorded.contains(&oldest.to_string()), "{recorded}");

    // What is behind it is whole, and the next start finds it so.
    receiver.stop();
    let options = ReceiverOptions { slot: false, ..by(&proxy) };
    let mut receiver = Receiver::start(&server, &archive, &options);
    receiver.await_streaming(&server);
    server.sql("INSERT INTO v VALUES (1)").must();
    let end = server_flush(&server);
    receiver.await_flush(&server, end);
    assert_eq!(gaps(&archive), found);
    receiver.stop();
}

#[test]
fn a_gap_is_exact_and_streaming_goes_on_14() {
    a_gap_is_exact_and_streaming_goes_on(14);
}

#[test]
fn a_gap_is_exact_and_streaming_goes_on_18() {
    a_gap_is_exact_and_streaming_goes_on(18);
}

#[test]
fn a_slot_that_was_dropped_is_made_anew_and_the_gap_told() {
    let (server, dir) = (forgetful_server(18), scratch());
    let proxy = wordless(&server);
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&server, &archive, &by(&proxy));
    receiver.await_streaming(&server);
    receiver.await_flush(&server, server_flush(&server));
    receiver.stop();
    server.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").must();
    let oldest = forget(&server);
    let mut receiver = Receiver::start(&server, &archive, &by(&proxy));
    receiver.await_streaming(&server);
    receiver.await_flush(&server, server_flush(&server));
    let found = gaps(&archive);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["to"], oldest.to_string(), "{found:?}");
    receiver.stop();
}

fn an_invalidated_slot_is_made_anew(major: u32) {
    let (server, dir) = (forgetful_server(major), scratch());
    let proxy = wordless(&server);
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&server, &archive, &by(&proxy));
    receiver.await_streaming(&server);
    receiver.await_flush(&server, server_flush(&server));
    receiver.stop();
    server.set("max_slot_wal_keep_size", "1MB").must();
    let oldest = forget(&server);
    let lost = "SELECT wal_status FROM pg_replication_slots";
    assert_eq!(server.sql(lost).must(), "lost");

    let mut receiver = Receiver::start(&server, &archive, &by(&proxy));
    receiver.await_streaming(&server);
    server.sql("CREATE TABLE v(i int)").must();
    receiver.await_flush(&server, server_flush(&server));
    let kept = "(SELECT restart_lsn FROM pg_replication_slots) > '0/0'";
    server.wait_until("the slot to keep WAL again", LIMIT, kept).must();
    assert_ne!(server.sql(lost).must(), "lost");
    let found = gaps(&archive);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["to"], oldest.to_string(), "{found:?}");
    receiver.stop();

    // Without leave to make it, somebody has to be told.
    forget(&server);
    assert_eq!(server.sql(lost).must(), "lost");
    let args = ["--slot", super::common::SLOT, "-n", "-E", "0/1"];
    let told = ended(&mut super::program::receive(&server, &archive, &args));
    assert!(told.stderr.contains("slot drop") || major < 15, "{told:?}");
}

#[test]
fn an_invalidated_slot_is_made_anew_14() {
    an_invalidated_slot_is_made_anew(14);
}

#[test]
fn an_invalidated_slot_is_made_anew_16() {
    an_invalidated_slot_is_made_anew(16);
}

#[test]
fn an_invalidated_slot_is_made_anew_18() {
    an_invalidated_slot_is_made_anew(18);
}

#[test]
fn a_slot_that_somebody_advanced_is_told_of() {
    let (server, dir) = (super::common::server(18, 1, &[]), scratch());
    let proxy = wordless(&server);
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&server, &archive, &by(&proxy));
    receiver.await_streaming(&server);
    receiver.await_flush(&server, server_flush(&server));
    receiver.stop();
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) i").must();
    let advance = "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_flush_lsn()) \
                   FROM pg_replication_slots";
    server.sql(advance).must();
    let mut receiver = Receiver::start(&server, &archive, &by(&proxy));
    receiver.running.wait_for_line("somebody else advanced it", LIMIT).must();
    // The server happens to have it still.
    receiver.await_streaming(&server);
    receiver.await_flush(&server, server_flush(&server));
    receiver.stop();
    assert_eq!(gaps(&archive), Vec::<serde_json::Value>::new());
}

/// The same, and the server has removed what it was let go of.
fn a_slot_that_was_advanced_leaves_a_gap(major: u32) {
    let (server, dir) = (forgetful_server(major), scratch());
    let proxy = wordless(&server);
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&server, &archive, &by(&proxy));
    receiver.await_streaming(&server);
    let before = server_flush(&server);
    receiver.await_flush(&server, before);
    receiver.stop();
    server.sql("CREATE TABLE u AS SELECT generate_series(1, 100000) i").must();
    let advance = "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_flush_lsn()) \
                   FROM pg_replication_slots";
    server.sql(advance).must();
    let oldest = forget(&server);
    assert!(oldest > before, "nothing was removed");
    let mut receiver = Receiver::start(&server, &archive, &by(&proxy));
    receiver.running.wait_for_line("somebody else advanced it", LIMIT).must();
    receiver.await_streaming(&server);
    receiver.await_flush(&server, server_flush(&server));
    receiver.stop();
    let found = gaps(&archive);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["to"], oldest.to_string(), "{found:?}");
}

#[test]
fn a_slot_that_was_advanced_leaves_a_gap_14() {
    a_slot_that_was_advanced_leaves_a_gap(14);
}

#[test]
fn a_slot_that_was_advanced_leaves_a_gap_18() {
    a_slot_that_was_advanced_leaves_a_gap(18);
}

#[test]
fn a_hole_that_nothing_explains_is_told() {
    let (server, dir) = (super::common::server(18, 1, &[]), scratch());
    let proxy = wordless(&server);
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&server, &archive, &by(&proxy));
    receiver.await_streaming(&server);
    server.sql("CREATE TABLE u AS SELECT generate_series(1, 100000) i").must();
    receiver.await_flush(&server, server_flush(&server));
    receiver.stop();
    let mut sealed: Vec<_> = fs::read_dir(archive.join("wal")).must().flatten().collect();
    sealed.retain(|entry| entry.file_name().len() == 24);
    sealed.sort_by_key(fs::DirEntry::file_name);
    let lost = sealed[1].file_name();
    fs::remove_file(sealed[1].path()).must();
    let found = gaps(&archive);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["reason"], serde_json::Value::Null);
    // Streaming goes on at the archive's end; the server still has what is missing.
    let end = server_flush(&server);
    let mut receiver = Receiver::start(&server, &archive, &by(&proxy));
    receiver.await_streaming(&server);
    receiver.await_flush(&server, end);
    receiver.running.wait_for_line("is missing, which was there before", LIMIT).must();
    receiver.stop();
    assert_eq!(gaps(&archive), found);
    let mut ship = seawall(&["archive-wal", "--archive"]);
    ended(ship.arg(&archive).arg(server.wal_dir().join(lost))).is_well();
    assert_eq!(gaps(&archive), Vec::<serde_json::Value>::new());
    super::common::compare_with_primary(&archive.join("wal"), &server, end);
    let none = ended(&mut seawall(&["gaps", "--archive", "/nonexistent"]));
    none.says(6, &["/nonexistent", "no archive"]);
}
