//! Real pg_receivewal by way of the proxy: unharmed without faults, and each fault does its harm.

use std::fs;

use super::*;
use crate::peers::{ReceiveOptions, pg_receivewal};
use crate::process::run;
use crate::servers::{Server, ServerOptions, install, parse_lsn};

const LIMIT: Duration = Duration::from_secs(60);

fn lsn(text: &str) -> u64 {
    parse_lsn(text).expect("an LSN")
}

/// Switches to a new segment and gives a position in it.
fn next_segment(server: &Server) -> u64 {
    let answer = server.sql("SELECT pg_switch_wal(); SELECT pg_current_wal_insert_lsn()");
    lsn(answer.expect("sql").lines().last().expect("a line"))
}

fn differing_bytes(a: &[u8], b: &[u8]) -> Vec<(usize, u8)> {
    let pairs = a.iter().zip(b).enumerate();
    pairs.filter(|(_, (a, b))| a != b).map(|(at, (a, b))| (at, a ^ b)).collect()
}

#[test]
fn faults_do_what_they_say_and_nothing_else_changes() {
    let install = install(17).expect("PostgreSQL can be had");
    let options = ServerOptions { segment_size_mb: 1, ..ServerOptions::default() };
    let server = Server::start(&install, &options).expect("starts");
    let archive = tempfile::tempdir().expect("a directory");
    let proxy = Proxy::start(server.port()).expect("a proxy");
    let slot = Some("s".to_owned());
    let receive = ReceiveOptions { slot, synchronous: true, ..ReceiveOptions::default() };
    // A slot first, so that pg_receivewal starts from a known segment.
    let peer = pg_receivewal(&install, &proxy.conninfo(), archive.path(), &receive);
    let mut peer = peer.expect("pg_receivewal starts");
    let walsender = "EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')";
    server.wait_until("streaming", LIMIT, walsender).expect("streams");

    let base = next_segment(&server);
    let segment_start = base & !0xf_ffff;
    let (flip, cut) = (segment_start + 0x2_0123, segment_start + 0x9_0456);
    let (dribble, delay, stall) =
        (segment_start + 0x4_0000, segment_start + 0x6_0000, segment_start + 0x18_0000);
    let dribbled = Action::Dribble { bytes: 3000, pause: Duration::ZERO };
    proxy.add(Fault { at: At::Lsn(flip), action: Action::FlipBit(3), times: 1 });
    proxy.add(Fault { at: At::Lsn(dribble), action: dribbled, times: 1 });
    let delayed = Action::Delay(Duration::from_millis(300));
    proxy.add(Fault { at: At::Lsn(delay), action: delayed, times: 1 });
    proxy.add(Fault { at: At::Lsn(cut), action: Action::Cut, times: 1 });
    proxy.add(Fault { at: At::Lsn(stall), action: Action::Stall, times: 1 });
    server
        .sql("CREATE TABLE t AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 6000) i")
        .expect("sql");
    let end = lsn(&server.current_lsn().expect("lsn"));
    assert!(end > stall, "the load was too short");
    // pg_receivewal waits five seconds before it comes again after the cut, at the segment's
    // start: the flipped byte comes right then.
    proxy.wait_until("the stall", LIMIT, |p| p.fired().len() == 5).expect("all fire");
    thread::sleep(Duration::from_millis(200));
    assert!(proxy.max_flush() <= stall, "something went past the stall");
    proxy.resume();
    proxy.wait_until("the end", LIMIT, |p| p.max_flush() >= end).expect("all arrives");
    peer.kill9();

    let at_cut = |w: &&WalPassed| w.connection == proxy.fired()[3].connection;
    assert!(proxy.wal_passed().iter().filter(at_cut).count() > 0);
    let queries = proxy.messages();
    let starts = queries.iter().filter(|message| {
        matches!(&message.kind, ClientMessageKind::Query(q) if q.starts_with("START_REPLICATION"))
    });
    assert_eq!(starts.count(), 2, "{queries:?}");
    for path in crate::servers::segments_in(archive.path()).expect("segments") {
        let name = path.file_name().expect("a name");
        let ours = fs::read(server.wal_dir().join(name)).expect("the primary's");
        assert_eq!(differing_bytes(&fs::read(&path).expect("received"), &ours), []);
    }
}

#[test]
fn a_flipped_bit_arrives_flipped_and_alone() {
    let install = install(14).expect("PostgreSQL can be had");
    let options = ServerOptions { segment_size_mb: 1, ..ServerOptions::default() };
    let server = Server::start(&install, &options).expect("starts");
    let proxy = Proxy::start(server.port()).expect("a proxy");
    let archive = tempfile::tempdir().expect("a directory");
    let start = next_segment(&server) & !0xf_ffff;
    proxy.add(Fault { at: At::Lsn(start + 0x1234), action: Action::FlipBit(7), times: 9 });
    let peer =
        pg_receivewal(&install, &proxy.conninfo(), archive.path(), &ReceiveOptions::default());
    let _peer = peer.expect("pg_receivewal starts");
    let walsender = "EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')";
    server.wait_until("streaming", LIMIT, walsender).expect("streams");
    server
        .sql("CREATE TABLE t AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 6000) i")
        .expect("sql");
    let name = server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").expect("sql");
    server.sql("SELECT pg_switch_wal()").expect("sql");
    let sealed = archive.path().join(&name);
    proxy.wait_until("a sealed segment", LIMIT, |_| sealed.exists()).expect("is sealed");
    let mut differences = Vec::new();
    for path in crate::servers::segments_in(archive.path()).expect("segments") {
        let ours = fs::read(server.wal_dir().join(path.file_name().expect("a name")));
        let ours = ours.expect("the primary's");
        differences.extend(differing_bytes(&fs::read(&path).expect("received"), &ours));
    }
    assert_eq!((differences, proxy.fired().len()), (vec![(0x1234, 0x80)], 1));
}

#[test]
fn a_server_that_is_not_there_shows_as_a_closed_connection() {
    let nobody = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = nobody.local_addr().expect("an address").port();
    drop(nobody);
    let proxy = Proxy::start(port).expect("a proxy");
    let install = install(18).expect("PostgreSQL can be had");
    let mut psql = install.client_command("psql");
    psql.args(["-X", "-d", &proxy.conninfo(), "-c", "SELECT 1"]);
    let refused = run(&mut psql, LIMIT, "psql");
    assert!(refused.is_err_and(|error| error.to_string().contains("closed the connection")));
}
