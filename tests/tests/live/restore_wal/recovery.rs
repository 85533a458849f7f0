//! Real servers that have nothing but the archive.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::load::{CommitLoad, LoadOptions};
use testkit::process::run;
use testkit::servers::{Server, StopMode, full};

use super::super::common::{LIMIT, Must, Receiver, lsn, on_each_major, server, server_flush};
use super::super::program::ended;
use super::{Kept, work};

on_each_major!(every_acknowledged_commit_is_recovered, super::primary_is_lost);

/// The primary dies under load; a server made of a base backup and the archive, the unfinished
/// segment with it, has every commit that was acknowledged.
fn primary_is_lost(major: u32) {
    let kept = Kept::new();
    let mut primary = server(major, 1, &[]);
    let options = kept.options();
    let receiver = Receiver::start_synchronous(&primary, &kept.archive, &options);
    let restore = kept.restore_command("--partial");
    let mut restored = primary.base_backup("recovery.signal", &[&restore]).must();
    // The primary's own waits for a standby.
    restored.add_file("postgresql.auto.conf", "").must();
    let options = LoadOptions { payload_bytes: 2000, ..LoadOptions::default() };
    let load = CommitLoad::start(primary.connection(), &options).must();
    load.wait_for(if full(major) { 1500 } else { 300 }, LIMIT).must();
    primary.kill9();
    let acked = load.finish().must();
    // Whether it still tries to reach the primary or not makes no difference.
    if major.is_multiple_of(2) {
        receiver.kill9();
    }
    restored.restart().must();
    restored.wait_until("the end of recovery", LIMIT, "NOT pg_is_in_recovery()").must();
    let rows = restored.sql("SELECT client || ' ' || counter FROM seawall_load").must();
    let rows: HashSet<&str> = rows.lines().collect();
    let lost = acked
        .iter()
        .filter(|commit| !rows.contains(format!("{} {}", commit.client, commit.counter).as_str()));
    assert_eq!(lost.count(), 0, "of {} commits; {}", acked.len(), restored.log_text());
    assert!(restored.wal_dir().join("00000002.history").exists());
    let mut check = restored.install().client_command("pg_amcheck");
    check.args(["-h"]).arg(restored.socket_dir()).args(["-p", &restored.port().to_string()]);
    run(check.args(["-U", "postgres", "--install-missing", "-a"]), LIMIT, "pg_amcheck").must();
}

on_each_major!(a_standby_comes_back_by_the_archive, super::standby_was_away);

/// A standby that was down for longer than the primary kept its WAL, and then streams again.
fn standby_was_away(major: u32) {
    let kept = Kept::new();
    let small = ["max_wal_size = 2MB", "min_wal_size = 2MB"];
    let primary = server(major, 1, &small);
    let mut receiver = kept.receiver(&primary);
    let restore = kept.restore_command("--standby");
    let mut standby = primary.standby(&[&restore, "wal_retrieve_retry_interval = 100ms"]).must();
    standby.stop(StopMode::Fast).must();
    // Not before the standby is made: its base backup takes the WAL with it.
    primary.set("wal_keep_size", "0").must();
    let left = standby.wal_segments().must().pop();
    for _ in 0..3 {
        work(&primary);
        primary.sql("CHECKPOINT").must();
    }
    receiver.await_flush(&primary, server_flush(&primary));
    let name = left.as_ref().and_then(|path| path.file_name()).unwrap_or_default();
    primary.sql("CHECKPOINT").must();
    assert!(!primary.wal_dir().join(name).exists(), "the primary keeps what the standby wants");
    standby.restart().must();
    let end = server_flush(&primary);
    let replayed = format!("pg_last_wal_replay_lsn() >= '{end}'");
    standby.wait_until("the standby to have it all", LIMIT, &replayed).must();
    let streams = "EXISTS (SELECT FROM pg_stat_replication WHERE application_name = 'walreceiver' \
                   AND state = 'streaming')";
    primary.wait_until("the standby to stream", LIMIT, streams).must();
    let log = standby.log_text();
    assert!(log.contains("restored log file"), "{log}");
    let rows = "SELECT count(*) FROM t";
    assert_eq!(standby.sql(rows).must(), primary.sql(rows).must());
    receiver.stop();
}

/// A standby without a primary to stream from: its archive isn't there for ten seconds, and nobody
/// who reads from it notices.
#[test]
fn a_hot_standby_outlives_an_outage_of_the_archive() {
    const OUTAGE: Duration = Duration::from_secs(10);
    let kept = Kept::new();
    let primary = server(18, 1, &[]);
    let mut receiver = kept.receiver(&primary);
    let mount = kept.scratch.path().join("mount");
    symlink(&kept.archive, &mount).must();
    let restore = kept.restore_from(&mount, "--standby --retry-for 500ms --partial");
    let conf = [restore.as_str(), "wal_retrieve_retry_interval = 100ms"];
    let mut standby = primary.base_backup("standby.signal", &conf).must();
    let follows = |standby: &Server, receiver: &mut Receiver| {
        let end = work(&primary);
        receiver.await_flush(&primary, end);
        let replayed = format!("pg_last_wal_replay_lsn() >= '{end}'");
        standby.wait_until("the standby to have it all", LIMIT, &replayed).must();
    };
    standby.restart().must();
    follows(&standby, &mut receiver);
    let replayed = lsn(&standby, "SELECT pg_last_wal_replay_lsn()");
    fs::remove_file(&mount).must();
    work(&primary);
    let until = Instant::now() + OUTAGE;
    while Instant::now() < until {
        assert_eq!(standby.sql("SELECT pg_is_in_recovery()").must(), "t");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(lsn(&standby, "SELECT pg_last_wal_replay_lsn()"), replayed);
    symlink(&kept.archive, &mount).must();
    follows(&standby, &mut receiver);
    let log = standby.log_text();
    assert!(log.contains("isn't mounted"), "{log}");
    receiver.stop();
}

/// Whatever the directory is called.
#[test]
fn the_line_that_status_shows_works_as_it_is() {
    let mut kept = Kept::new();
    kept.archive = kept.archive.with_file_name("it's 100% \"odd\", \\ and $(false)");
    let primary = server(18, 1, &[]);
    let mut receiver = kept.receiver(&primary);
    let mut status = Command::new(&kept.program);
    status.args(["status", "--json", "-A"]).arg(&kept.archive);
    let status: serde_json::Value = serde_json::from_str(&ended(&mut status).stdout).must();
    let line = status["restore_command"].as_str().unwrap_or_default();
    let mut restored = primary.base_backup("recovery.signal", &[line]).must();
    receiver.await_flush(&primary, work(&primary));
    let rows = primary.sql("SELECT count(*) FROM t").must();
    receiver.stop();
    restored.restart().must();
    restored.wait_until("the end of recovery", LIMIT, "NOT pg_is_in_recovery()").must();
    assert_eq!(restored.sql("SELECT count(*) FROM t").must(), rows);
}
