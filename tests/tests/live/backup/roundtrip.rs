//! Taken under load, with tablespaces, and given back.

use std::fs;

use testkit::load::{CommitLoad, LoadOptions};

use super::super::common::{LIMIT, Must, on_each_major, server, server_flush};
use super::super::restore_wal::Kept;
use super::{backup, check_tables, list, recover, restored, seawall};
use crate::program::ended;

on_each_major!(a_backup_under_load_is_given_back, super::check);

fn check(major: u32) {
    let (kept, primary) = (Kept::new(), server(major, 1, &["full_page_writes = on"]));
    let space = primary.scratch().server_dir("space one").must();
    primary
        .sql(&format!(
            "SET allow_in_place_tablespaces = on;
             CREATE TABLESPACE one LOCATION '{}';
             CREATE TABLESPACE inside LOCATION '';
             CREATE TABLE t1 (i int PRIMARY KEY) TABLESPACE one;
             CREATE TABLE t2 (i int PRIMARY KEY) TABLESPACE inside;
             INSERT INTO t1 SELECT generate_series(1, 20000);
             INSERT INTO t2 SELECT * FROM t1",
            space.display()
        ))
        .must();
    // A file of a user's own, with as long a name as a server sends.
    let long = "x".repeat(99);
    primary.add_file(&long, "long").must();
    let mut receiver = kept.receiver(&primary);
    let load = CommitLoad::start(primary.connection(), &LoadOptions::default()).must();
    load.wait_for(100, LIMIT).must();
    let id = backup(&kept, &primary, &["-l", "it's under load", "-P"]);
    load.wait_for(load.acked_count() + 100, LIMIT).must();
    let acked = load.finish().must();
    let rows = primary.sql("SELECT count(*) FROM seawall_load").must();
    receiver.await_flush(&primary, server_flush(&primary));

    let listed = list(&kept);
    let listed = &listed["backups"][0];
    assert_eq!(listed["id"], id.as_str(), "{listed}");
    assert_eq!(listed["label"], "it's under load");
    assert_eq!(listed["windows"][0]["open"], true, "{listed}");
    // Up to 15 one within the data directory comes with that.
    let separate = if major < 16 { 1 } else { 2 };
    assert_eq!(listed["tablespaces"].as_array().map(Vec::len), Some(separate));
    let text = ended(&mut seawall(&kept, "list"));
    assert!(text.stdout.contains(&id), "{text:?}");
    for name in ["base.tar", "backup_manifest", "backup.json"] {
        assert!(kept.archive.join("backups").join(&id).join(name).exists(), "{name}");
    }

    // Where it was, the primary's tablespace is.
    let elsewhere = kept.scratch.server_dir("refused").must();
    let refused = super::restore(&kept, &elsewhere, &[]);
    refused.says(1, &["space one", "isn't empty"]);
    assert_eq!(fs::read_dir(&elsewhere).must().count(), 0, "nothing is written");

    let new = kept.scratch.server_dir("new").must().join("one");
    let mapping = format!("{}={}", space.display(), new.display());
    let wal = kept.scratch.server_dir("pg wal").must();
    let more = ["-T", &mapping, "--waldir", &wal.display().to_string(), "-j", "3"];
    let inside = ["allow_in_place_tablespaces = on"];
    let mut server = restored(&kept, primary.install(), &more, &inside);
    assert_eq!(fs::read_to_string(server.data_dir().join(&long)).must(), "long");
    assert_eq!(fs::read_link(server.wal_dir()).must(), wal);
    recover(&mut server);
    assert_eq!(server.sql("SELECT count(*) FROM seawall_load").must(), rows);
    assert!(acked.len() as u64 <= rows.parse().must());
    for table in ["t1", "t2"] {
        assert_eq!(server.sql(&format!("SELECT sum(i) FROM {table}")).must(), "200010000");
    }
    let location =
        server.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'one'");
    assert_eq!(location.must(), new.display().to_string());
    check_tables(&server);
    receiver.stop();
}
