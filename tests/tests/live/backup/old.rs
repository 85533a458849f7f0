//! PostgreSQL 10 to 13: the older grammar, no manifest before 13, and `recovery.conf` before 12.

use std::path::Path;

use testkit::load::{CommitLoad, LoadOptions};
use testkit::process::run;
use testkit::servers::Server;

use super::super::common::{LIMIT, Must, server, server_flush, small_segment_mb};
use super::super::restore_wal::Kept;
use super::{backup, list, recover, restore, standbys};

/// The first version whose backups have a manifest of the server's.
const MANIFESTS_SINCE: u32 = 13;

/// A server of what was restored, its tablespace in `space`; not started.
fn restored(kept: &Kept, primary: &Server, space: &Path, more: &[&str], conf: &[&str]) -> Server {
    let install = primary.install();
    let location =
        primary.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'one'");
    let mapping = format!("{}={}", location.must(), space.display());
    Server::of_data_dir(install, conf, |data| {
        let mut args = vec!["-T", mapping.as_str()];
        args.extend(more);
        restore(kept, data, &args).is_well();
        if install.major >= MANIFESTS_SINCE {
            let mut verify = install.client_command("pg_verifybackup");
            run(verify.args(["-n", "-e"]).arg(data), LIMIT, "pg_verifybackup").must();
        }
        Ok(())
    })
    .must()
}

/// To the end, to a restore point, and as a standby that is promoted.
pub(crate) fn a_backup_is_given_back(major: u32) {
    let (kept, primary) = (Kept::new(), server(major, small_segment_mb(major), &[]));
    let dir = |name: &str| kept.scratch.server_dir(name).must();
    primary.sql(&format!("CREATE TABLESPACE one LOCATION '{}'", dir("space").display())).must();
    primary.sql("CREATE TABLE t TABLESPACE one AS SELECT generate_series(1, 20000) i").must();
    let mut receiver = kept.receiver(&primary);
    let load = CommitLoad::start(primary.connection(), &LoadOptions::default()).must();
    load.wait_for(100, LIMIT).must();
    let id = backup(&kept, &primary, &["-P"]);
    load.wait_for(load.acked_count() + 100, LIMIT).must();
    primary.sql("SELECT pg_create_restore_point('here')").must();
    primary.sql("DELETE FROM t WHERE i > 5000").must();
    load.finish().must();
    let count = "SELECT count(*) FROM seawall_load";
    let rows = primary.sql(count).must();
    receiver.await_flush(&primary, server_flush(&primary));
    let listed = list(&kept);
    assert_eq!(listed["backups"][0]["id"], id.as_str(), "{listed}");
    assert_eq!(listed["backups"][0]["windows"][0]["open"], true, "{listed}");

    let here = ["--target-name", "here", "--target-action", "promote"];
    let mut earlier = restored(&kept, &primary, &dir("earlier"), &here, &[]);
    recover(&mut earlier);
    assert_eq!(earlier.sql("SELECT count(*) FROM t").must(), "20000");
    drop(earlier);

    let mut end = restored(&kept, &primary, &dir("end"), &[], &[]);
    recover(&mut end);
    assert_eq!(end.sql("SELECT count(*) FROM t").must(), "5000");
    assert_eq!(end.sql(count).must(), rows);
    drop(end);

    let conninfo = primary.conninfo();
    let follow = ["--standby", "--primary-conninfo", &conninfo];
    let quick = ["wal_retrieve_retry_interval = 100ms", "hot_standby = on"];
    let mut standby = restored(&kept, &primary, &dir("standby"), &follow, &quick);
    standby.restart().must();
    primary.wait_until("the standby to stream", LIMIT, standbys::STREAMS).must();
    primary.sql("INSERT INTO t SELECT generate_series(1, 7)").must();
    standbys::await_all(&standby, &primary);
    assert_eq!(standby.sql("SELECT count(*) FROM t").must(), "5007");
    standby.promote().must();
    standby.sql("INSERT INTO t VALUES (8)").must();
    receiver.stop();
}
