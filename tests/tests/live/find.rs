//! `seawall find` against what the server itself says, and where its own recovery stops.

use std::fs;
use std::path::Path;

use pg_types::Lsn;
use testkit::servers::{Server, StopMode};

use super::common::{
    Must, Receiver, ReceiverOptions, lsn, on_each_major, scratch, server, server_flush,
};
use super::program::{ended, seawall};

fn find(archive: &Path, args: &[&str]) -> serde_json::Value {
    let mut command = seawall(&["find", "--json", "--archive"]);
    let found = ended(command.arg(archive).args(args));
    found.is_well();
    serde_json::from_str(&found.stdout).must()
}

/// Commits a row by itself, and gives its time as the server has it, and where its commit ends.
fn commit(server: &Server, row: u32) -> (String, Lsn) {
    server.sql(&format!("INSERT INTO t VALUES ({row})")).must();
    let last = server
        .sql("SELECT timestamp AT TIME ZONE 'UTC' || '+00' FROM pg_last_committed_xact()")
        .must();
    (last, server_flush(server))
}

on_each_major!(a_time_is_where_recovery_stops, super::check);

fn check(major: u32) {
    let (server, dir) = (
        server(major, 1, &["track_commit_timestamp = on", "max_prepared_transactions = 2"]),
        scratch(),
    );
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&server, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&server);
    server.sql("CREATE TABLE t(i int)").must();
    let filler = "INSERT INTO t SELECT 0 FROM generate_series(1, 30000)";
    let mut commits = Vec::new();
    for row in 1..=6 {
        commits.push(commit(&server, row));
        server.sql(filler).must();
        if row == 3 {
            server.sql("SELECT pg_create_restore_point('half way')").must();
        }
    }
    receiver.await_flush(&server, server_flush(&server));
    for pair in commits.windows(2) {
        let [(time, at), (_, next)] = pair else { continue };
        let found = find(&archive, &["--time", time]);
        let lsn: Lsn = found["found"]["lsn"].as_str().unwrap_or_default().parse().must();
        // The filler's commit, between the two.
        assert!(lsn >= *at && lsn < *next, "{time}, which ended at {at}: {found}");
        assert_eq!(found["found"]["kind"], "commit");
    }
    check_xids(&server, &mut receiver, &archive);
    let end = server_flush(&server);
    let point = find(&archive, &["--name", "half way"]);
    let point: Lsn = point["found"]["lsn"].as_str().unwrap_or_default().parse().must();
    assert!(point > commits[2].1 && point < commits[3].1);
    assert_eq!(find(&archive, &["--name", "nowhere"])["found"], serde_json::Value::Null);

    let last = find(&archive, &["--time", "2200-01-01 00:00:00+00"]);
    assert_eq!(last["found"], serde_json::Value::Null);
    assert_eq!(last["searched_to"], end.to_string());
    let none = ended(seawall(&["find", "--time", "2200-01-01 00:00:00Z", "-A"]).arg(&archive));
    none.says(1, &["no commit or abort later than 2200-01-01", "the last one is of 20"]);
    let zone = ended(seawall(&["find", "--time", "2026-01-01 00:00:00", "-A"]).arg(&archive));
    zone.says(2, &["with a zone"]);
    receiver.stop();
}

/// A transaction's end is found by its xid, a prepared one's too, which its record hides behind its
/// subtransactions.
fn check_xids(server: &Server, receiver: &mut Receiver, archive: &Path) {
    let begin = "BEGIN; INSERT INTO t VALUES (7); SAVEPOINT a; INSERT INTO t VALUES (8); \
                 SAVEPOINT b; CREATE TABLE prepared (i int); SELECT pg_current_xact_id();";
    let mut ends = Vec::new();
    for (how, end, kind) in [
        ("", "COMMIT", "commit"),
        ("", "ROLLBACK", "abort"),
        ("PREPARE TRANSACTION 'p'; CHECKPOINT;", "ROLLBACK PREPARED 'p'", "abort"),
        ("DROP TABLE prepared; PREPARE TRANSACTION 'q';", "COMMIT PREPARED 'q'", "commit"),
    ] {
        let before = server_flush(server);
        let answer = server.sql(&format!("{begin} {how} {end}; DROP TABLE IF EXISTS prepared"));
        let answer = answer.must();
        let xid = answer.lines().find(|line| line.parse::<u32>().is_ok()).unwrap_or_default();
        // An abort isn't flushed at once.
        let after = lsn(server, "SELECT pg_current_wal_insert_lsn()");
        ends.push((xid.to_owned(), before, after, kind));
    }
    server.sql("CREATE TABLE flushed (i int)").must();
    receiver.await_flush(server, server_flush(server));
    for (xid, before, after, kind) in ends {
        let found = find(archive, &["--xid", &xid]);
        let lsn: Lsn = found["found"]["lsn"].as_str().unwrap_or_default().parse().must();
        assert!(lsn >= before && lsn < after, "{xid}, between {before} and {after}: {found}");
        assert_eq!(found["found"]["kind"], kind, "{xid}");
    }
    let none = ended(seawall(&["find", "--xid", "4000000000", "-A"]).arg(archive));
    none.says(1, &["transaction 4000000000 neither committed nor aborted"]);
}

/// The server's own recovery to a time ends where it was said to.
#[test]
fn the_servers_own_recovery_agrees() {
    let conf = ["track_commit_timestamp = on", "full_page_writes = on"];
    let (server, dir) = (server(18, 1, &conf), scratch());
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&server, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&server);
    server.sql("CREATE TABLE t(i int)").must();
    let mut standby = server.standby(&[]).must();
    standby.stop(StopMode::Fast).must();
    let mut target = String::new();
    for row in 1..=4 {
        let (time, _) = commit(&server, row);
        if row == 2 {
            target = time;
        }
    }
    receiver.await_flush(&server, server_flush(&server));
    receiver.stop();
    let found = find(&archive, &["--time", &target]);

    // Recovered from the archive's WAL alone, by the line that `seawall status` gives.
    let copy = standby.scratch().server_dir("wal").must();
    for entry in fs::read_dir(archive.join("wal")).must() {
        let path = entry.must().path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let to = copy.join(name.strip_suffix(".partial").unwrap_or(&name));
        fs::copy(&path, &to).must();
        std::os::unix::fs::chown(&to, None, None).must();
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(&to, readable).must();
    }
    let data = standby.data_dir().to_path_buf();
    fs::remove_file(data.join("standby.signal")).must();
    fs::write(data.join("recovery.signal"), "").must();
    let conf = format!(
        "restore_command = 'cp {}/%f %p'\nrecovery_target_time = '{target}'\nprimary_conninfo = ''\n\
         recovery_target_action = 'pause'\n",
        copy.display()
    );
    fs::write(data.join("postgresql.auto.conf"), conf).must();
    standby.restart().must();
    let paused = "pg_get_wal_replay_pause_state() = 'paused'";
    standby.wait_until("recovery to reach its target", super::common::LIMIT, paused).must();
    let stopped = standby.sql("SELECT pg_last_wal_replay_lsn()").must();
    assert_eq!(standby.sql("SELECT max(i) FROM t").must(), "2");
    let lsn: Lsn = found["found"]["lsn"].as_str().unwrap_or_default().parse().must();
    assert!(stopped.parse::<Lsn>().must() <= lsn, "it stopped at {stopped}, and not before {lsn}");
}
