//! A killed primary's acknowledged commits are found in what a synchronous standby received.

use super::*;
use crate::peers::{ReceiveOptions, pg_receivewal};
use crate::proxy::Proxy;
use crate::servers::{Server, ServerOptions, full, install, majors_for_this_run};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn acknowledged_commits_are_found_in_a_synchronous_standbys_wal() {
    for major in majors_for_this_run().into_iter().filter(|&major| full(major)) {
        let install = install(major).expect("PostgreSQL can be had");
        let options = ServerOptions { segment_size_mb: 1, ..ServerOptions::default() };
        let mut server = Server::start(&install, &options).expect("starts");
        let archive = tempfile::tempdir().expect("a directory");
        // The proxy does no harm here, and must do none by itself.
        let proxy = Proxy::start(server.port()).expect("a proxy");
        let receive = ReceiveOptions { synchronous: true, ..ReceiveOptions::default() };
        let _peer = pg_receivewal(&install, &proxy.conninfo(), archive.path(), &receive)
            .expect("pg_receivewal starts");
        server.set_synchronous_standbys("peer").expect("set");
        let in_sync = "EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')";
        server.wait_until("the synchronous standby", LIMIT, in_sync).expect("in sync");
        let load = LoadOptions { payload_bytes: 2000, ..LoadOptions::default() };
        let load = CommitLoad::start(server.connection(), &load).expect("a load");
        load.wait_for(1500, LIMIT).expect("commits go on");
        server.kill9();
        let acked = load.finish().expect("clients end");
        assert!(proxy.max_flush() > 0 && !proxy.wal_passed().is_empty());
        let commits = Commits::read(&install, archive.path()).expect("pg_waldump reads it");
        let checked = commits.check(&acked);
        assert!(checked.acknowledged >= 1500 && commits.segments() >= 2);
        assert!(checked.missing.is_empty(), "{checked}; pg_waldump: {:?}", commits.ends());
        let unknown = Acked { xid: 4_000_000_000, ..acked[0] };
        assert_eq!(commits.check(&[unknown]).missing.len(), 1);
    }
}
