//! Points in time: exactly the rows that were committed then, or a refusal before anything is
//! written.

use std::fs;

use pg_types::Lsn;
use testkit::proxy::Proxy;
use testkit::servers::{Server, StopMode, full};

use super::super::common::{
    LIMIT, Must, Receiver, ReceiverOptions, on_each_major, server, server_flush,
};
use super::super::restore_wal::Kept;
use super::{backup, list, recover, restore, restored};

/// What is known of a commit.
struct Row {
    xid: String,
    time: String,
    end: Lsn,
}

/// Commits a row by itself.
fn commit(server: &Server, row: u32) -> Row {
    let insert = format!("INSERT INTO r VALUES ({row}) RETURNING pg_current_xact_id()");
    let xid = server.sql(&insert).must();
    let time = "SELECT timestamp AT TIME ZONE 'UTC' || '+00' FROM pg_last_committed_xact()";
    Row { xid, time: server.sql(time).must(), end: server_flush(server) }
}

fn rows(server: &Server) -> String {
    server.sql("SELECT coalesce(string_agg(i::text, ' ' ORDER BY i), '') FROM r").must()
}

on_each_major!(a_target_has_exactly_its_rows, super::check);

fn check(major: u32) {
    let (kept, primary) = (Kept::new(), server(major, 1, &["track_commit_timestamp = on"]));
    let mut receiver = kept.receiver(&primary);
    primary.sql("CREATE TABLE r (i int)").must();
    let first = backup(&kept, &primary, &[]);
    let mut commits = Vec::new();
    for row in 1..=4 {
        commits.push(commit(&primary, row));
        if row == 3 {
            primary.sql("SELECT pg_create_restore_point('after three')").must();
        }
    }
    let second = backup(&kept, &primary, &[]);
    commits.extend([commit(&primary, 5), commit(&primary, 6)]);
    receiver.await_flush(&primary, server_flush(&primary));
    let of = |row: usize| &commits[row - 1];
    let lsn = of(2).end.to_string();
    let check = |more: &[&str], expect: &str, from: &str| {
        let more = [more, &["--target-action", "promote", "-v"]].concat();
        let mut server = restored(&kept, primary.install(), &more, &[]);
        recover(&mut server);
        assert_eq!(rows(&server), expect, "{more:?}");
        let label = fs::read_to_string(server.data_dir().join("backup_label.old")).must();
        let started = list(&kept)["backups"]
            .as_array()
            .and_then(|all| all.iter().find(|backup| backup["id"] == from).cloned());
        let start = started.must_some()["start"]["lsn"].as_str().unwrap_or_default().to_owned();
        assert!(label.contains(&format!("START WAL LOCATION: {start} ")), "{start}, {label}");
    };
    check(&["--target-time", &of(2).time], "1 2", &first);
    check(&["--target-lsn", &lsn], "1 2", &first);
    if full(major) {
        check(&["--target-xid", &of(3).xid], "1 2 3", &first);
        check(&["--target-xid", &of(3).xid, "--target-exclusive"], "1 2", &first);
        check(&["--target-time", &of(3).time, "--target-exclusive"], "1 2", &first);
        check(&["--target-name", "after three"], "1 2 3", &first);
        check(&["--target-immediate", "--backup", &first], "", &first);
        check(&["--target-time", &of(5).time], "1 2 3 4 5", &second);
    }
    let mut all = restored(&kept, primary.install(), &[], &[]);
    recover(&mut all);
    assert_eq!(rows(&all), "1 2 3 4 5 6");
    refusals(&kept, &primary, &commits);
    receiver.stop();
}

/// A recovery to before a promotion leaves a history in which the promoted timeline was left before it
/// was begun (028_pitr_timelines.pl): what is done since is archived, and recovered.
fn before_a_promotion(major: u32) {
    let (kept, primary) = (Kept::new(), server(major, 1, &[]));
    let mut receiver = kept.receiver(&primary);
    primary.sql("CREATE TABLE r (i int)").must();
    backup(&kept, &primary, &[]);
    let promoted = primary.standby(&[]).must();
    for sql in ["INSERT INTO r VALUES (1)", "SELECT pg_create_restore_point('before')"] {
        primary.sql(sql).must();
    }
    primary.sql("INSERT INTO r VALUES (2)").must();
    let end = server_flush(&primary);
    receiver.await_flush(&primary, end);
    receiver.stop();
    promoted.wait_until("it all", LIMIT, &format!("pg_last_wal_replay_lsn() >= '{end}'")).must();
    promoted.promote().must();
    let mut receiver = kept.receiver(&promoted);
    promoted.sql("INSERT INTO r VALUES (3)").must();
    receiver.await_flush(&promoted, server_flush(&promoted));
    receiver.stop();

    let more = ["--target-name", "before", "--target-action", "promote"];
    let mut again = restored(&kept, primary.install(), &more, &[]);
    recover(&mut again);
    assert_eq!(rows(&again), "1");
    again.sql("INSERT INTO r VALUES (4)").must();
    let history = fs::read_to_string(again.data_dir().join("pg_wal/00000003.history")).must();
    let left: Vec<Lsn> = history
        .lines()
        .filter_map(|line| line.split('\t').nth(1).and_then(|at| at.parse().ok()))
        .collect();
    assert!(left[1] < left[0], "{history}");
    let mut receiver = kept.receiver(&again);
    receiver.await_flush(&again, server_flush(&again));
    let mut newest = restored(&kept, primary.install(), &[], &[]);
    recover(&mut newest);
    assert_eq!(rows(&newest), "1 4");
    receiver.stop();
}

#[test]
fn before_a_promotion_14() {
    before_a_promotion(14);
}

#[test]
fn before_a_promotion_18() {
    before_a_promotion(18);
}

trait MustSome<T> {
    fn must_some(self) -> T;
}

impl<T> MustSome<T> for Option<T> {
    #[track_caller]
    fn must_some(self) -> T {
        self.unwrap_or_else(|| panic!("nothing is there"))
    }
}

/// What can't be reached is refused with nothing written; what is named in its place is reached.
fn refusals(kept: &Kept, primary: &Server, commits: &[Row]) {
    let data = kept.scratch.server_dir("refused").must();
    let check = |more: &[&str], texts: &[&str]| {
        let refused = restore(kept, &data, more);
        refused.says(1, texts);
        assert_eq!(fs::read_dir(&data).must().count(), 0, "{more:?} wrote something");
        let (_, nearest) = refused.stderr.rsplit_once("the nearest possible is ").must_some();
        nearest.trim().to_owned()
    };
    let early = check(&["--target-time", "2020-01-01 00:00:00+00"], &["it comes before"]);
    let late = check(
        &["--target-time", &commits[5].time],
        &["no commit or abort is later", &commits[5].time[..19]],
    );
    let behind = check(&["--target-lsn", "F/0"], &["no record starts there or behind"]);
    check(&["--target-lsn", "0/100"], &["it comes before"]);
    check(&["--target-xid", "4000000000"], &["neither committed nor aborted"]);
    check(&["--target-name", "nowhere"], &["the restore point \"nowhere\"", "none of that name"]);
    restore(kept, &data, &["--target-timeline", "9"]).says(1, &["timeline 9 isn't archived"]);
    restore(kept, &data, &["--backup", "x"]).says(1, &["there is no backup x"]);
    for (nearest, expect) in [(early, ""), (late, "1 2 3 4 5"), (behind, "1 2 3 4 5 6")] {
        let (flag, value) = nearest.split_once(' ').must_some();
        let more = [flag, value.trim_matches('\''), "--target-action", "promote"];
        let mut server = restored(kept, primary.install(), &more, &[]);
        recover(&mut server);
        assert_eq!(rows(&server), expect, "{more:?}");
    }
}

/// Both branches of a promotion can be had.
fn each_branch_has_its_own_rows(major: u32) {
    let (kept, mut old) = (Kept::new(), server(major, 1, &["track_commit_timestamp = on"]));
    let proxy = Proxy::start(old.port()).must();
    let options = ReceiverOptions { port: Some(proxy.port()), slot: false, ..kept.options() };
    let mut receiver = Receiver::start(&old, &kept.archive, &options);
    receiver.await_streaming(&old);
    old.sql("CREATE TABLE r (i int)").must();
    backup(&kept, &old, &[]);
    let new = old.standby(&[]).must();
    let last = commit(&old, 1).end;
    let replayed = format!("pg_last_wal_replay_lsn() >= '{last}'");
    new.wait_until("the standby to have it all", LIMIT, &replayed).must();
    new.promote().must();
    commit(&old, 100);
    receiver.await_flush(&old, server_flush(&old));
    old.stop(StopMode::Immediate).must();
    proxy.redirect(new.port());
    receiver.await_streaming(&new);
    let second = commit(&new, 2);
    commit(&new, 3);
    receiver.await_flush(&new, server_flush(&new));
    let check = |more: &[&str], expect: &str| {
        let mut server = restored(&kept, old.install(), more, &[]);
        recover(&mut server);
        assert_eq!(rows(&server), expect, "{more:?}");
    };
    check(&[], "1 2 3");
    check(&["--target-timeline", "1"], "1 100");
    check(&["--target-timeline", "current"], "1 100");
    check(&["--target-time", &second.time, "--target-action", "promote"], "1 2");
    let windows = list(&kept)["backups"][0]["windows"].clone();
    assert_eq!(windows.as_array().map(Vec::len), Some(2), "{windows}");
    receiver.stop();
}

#[test]
fn each_branch_has_its_own_rows_14() {
    each_branch_has_its_own_rows(14);
}

#[test]
fn each_branch_has_its_own_rows_18() {
    each_branch_has_its_own_rows(18);
}
