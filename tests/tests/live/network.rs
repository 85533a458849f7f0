//! A network that cuts, dribbles, delays and stalls: no harm, and the receiver comes after.

use std::fs;
use std::time::Duration;

use pg_types::Lsn;
use testkit::proxy::{Action, At, Fault, Proxy};
use testkit::servers::Server;

use super::common::{
    LIMIT, Must, Random, Receiver, ReceiverOptions, compare_with_primary, scratch, server,
    server_flush,
};

/// WAL that each test makes, bytes; faults lie in it.
const WAL_BYTES: u64 = 10 << 20;

/// Standard streams, the runtime's and the signals' own, the lock, the socket, directories, and the
/// few segments that a writer has open: some twenty. A leak of one a connection is more.
const MOST_FILES: usize = 30;

/// Some 10 MB of WAL in records of all sizes; the end of it.
fn make_wal(server: &Server) -> Lsn {
    server
        .sql(
            "CREATE TABLE t AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 8000) i;
             SELECT pg_logical_emit_message(true, 'live', repeat('x', 2500000));
             INSERT INTO t SELECT 'y' FROM generate_series(1, 40000)",
        )
        .must();
    server_flush(server)
}

/// Streams by way of a proxy with these faults, which are given the position where they begin.
fn survives(server: &Server, faults: &[(u64, Action)], start_up: &[(u64, Action)]) -> Proxy {
    let proxy = Proxy::start(server.port()).must();
    let begin = server_flush(server);
    for (offset, action) in faults {
        let at = At::Lsn(begin.saturating_add(*offset).as_u64());
        proxy.add(Fault { at, action: *action, times: 1 });
    }
    for (byte, action) in start_up {
        proxy.add(Fault { at: At::Byte(*byte), action: *action, times: 1 });
    }
    let scratch = scratch();
    let options = ReceiverOptions { port: Some(proxy.port()), ..ReceiverOptions::default() };
    let mut receiver = Receiver::start(server, &scratch.path().join("archive"), &options);
    receiver.await_streaming(server);
    let end = make_wal(server);
    assert!(end > begin.saturating_add(WAL_BYTES), "{begin} to {end} is too little WAL");
    receiver.await_flush(server, end);
    compare_with_primary(&receiver.wal_dir(), server, end);
    let files = open_files(&receiver);
    assert!(files <= MOST_FILES, "{files} open files after {} connections", proxy.connections());
    for status in proxy.statuses() {
        assert!(status.flush <= status.write, "{status:?}");
        assert_eq!(status.apply, 0, "{status:?}");
    }
    receiver.stop();
    proxy
}

fn open_files(receiver: &Receiver) -> usize {
    fs::read_dir(format!("/proc/{}/fd", receiver.running.pid())).must().count()
}

fn cuts_anywhere(major: u32) {
    let server = server(major, 1, &[]);
    let mut random = Random::new("where the connection is cut");
    let mut cuts: Vec<(u64, Action)> =
        (0..20).map(|_| (random.below(WAL_BYTES), Action::Cut)).collect();
    // Edges: of a page, of a segment, and beside them.
    for edge in [0x2_0000, 0x10_0000, 0x20_2000] {
        cuts.extend([edge - 1, edge, edge + 1].map(|at| (at, Action::Cut)));
    }
    // In the answers that come before the stream, and in the stream's first messages.
    let early = [3, 400].map(|at| (at + random.below(100), Action::Cut));
    let proxy = survives(&server, &cuts, &early);
    assert_eq!(proxy.fired().len(), cuts.len() + early.len(), "{:?}", proxy.fired());
}

#[test]
fn a_connection_cut_anywhere_is_made_again_14() {
    cuts_anywhere(14);
}

#[test]
fn a_connection_cut_anywhere_is_made_again_18() {
    cuts_anywhere(18);
}

#[test]
fn single_bytes_are_put_together() {
    let server = server(18, 1, &[]);
    let dribble = |bytes| Action::Dribble { bytes, pause: Duration::ZERO };
    let slow = Action::Dribble { bytes: 300, pause: Duration::from_millis(1) };
    let faults = [(0x1_0000, dribble(100_000)), (0x0f_ff80, slow), (0x30_0000, dribble(30_000))];
    let proxy = survives(&server, &faults, &[(0, dribble(1200))]);
    assert_eq!(proxy.connections(), 1, "nothing was wrong with the connection");
}

#[test]
fn delays_are_borne() {
    let server = server(18, 1, &["wal_sender_timeout = 3s"]);
    let delay = |ms| Action::Delay(Duration::from_millis(ms));
    let faults = [(0x1_0000, delay(300)), (0x10_0000, delay(2000)), (0x50_0010, delay(200))];
    let proxy = survives(&server, &faults, &[(200, delay(300))]);
    assert_eq!(proxy.connections(), 1, "nothing was wrong with the connection");
}

#[test]
fn a_silent_connection_is_given_up() {
    let server = server(18, 1, &["wal_sender_timeout = 2s"]);
    let proxy = survives(&server, &[(0x28_0000, Action::Stall)], &[]);
    assert_eq!(proxy.connections(), 2, "silence for twice wal_sender_timeout is an end");
    let stalled = proxy.fired()[0].when;
    let next = proxy.statuses().into_iter().find(|status| status.connection == 1);
    let pause = next.map_or(LIMIT, |status| status.when.duration_since(stalled));
    assert!(pause < Duration::from_secs(10), "{pause:?}");
}

#[test]
fn an_idle_server_is_not_given_up() {
    let server = server(18, 1, &["wal_sender_timeout = 1s", "autovacuum = off"]);
    let proxy = Proxy::start(server.port()).must();
    let scratch = scratch();
    let options = ReceiverOptions { port: Some(proxy.port()), ..ReceiverOptions::default() };
    let mut receiver = Receiver::start(&server, &scratch.path().join("archive"), &options);
    receiver.await_streaming(&server);
    // Our status comes so often that it has no reason to speak.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(proxy.connections(), 1, "an idle server was taken for a dead one");
    receiver.stop();
}

#[test]
fn a_server_that_falls_silent_before_the_stream_holds_no_stop_up() {
    let (server, scratch) = (server(18, 1, &[]), scratch());
    // While authenticating, and in the answers to each of the commands before the stream.
    for byte in [5, 350, 440, 520, 600, 690] {
        let proxy = Proxy::start(server.port()).must();
        proxy.add(Fault { at: At::Byte(byte), action: Action::Stall, times: 1 });
        let options = ReceiverOptions { port: Some(proxy.port()), ..ReceiverOptions::default() };
        let archive = scratch.path().join(byte.to_string());
        let receiver = Receiver::start(&server, &archive, &options);
        proxy.wait_until("the stall", LIMIT, |proxy| !proxy.fired().is_empty()).must();
        receiver.stop();
    }
}
