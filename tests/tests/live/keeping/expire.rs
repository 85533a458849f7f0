//! What is expired, and that all which is kept is given back.

use std::fs::{self, File};
use std::path::Path;

use serde_json::Value;
use testkit::load::{CommitLoad, LoadOptions};
use testkit::servers::{Server, full};

use super::super::backup::{backup, list, recover, restore, restored, seawall};
use super::super::common::{LIMIT, Must, Receiver, on_each_major, server, server_flush};
use super::super::restore_wal::{Kept, SIZE, name, restore as restore_wal, work};
use super::{assert_sound, flip};
use crate::program::{Ended, ended, fingerprint};

on_each_major!(what_is_kept_is_given_back, super::check);
on_each_major!(nothing_goes_where_what_stays_is_not_sure, super::check_refusals);

pub(super) fn expire(kept: &Kept, more: &[&str]) -> Ended {
    ended(seawall(kept, "expire").args(more))
}

/// What it says with --json.
fn told(kept: &Kept, more: &[&str]) -> Value {
    let ended = ended(seawall(kept, "expire").arg("--json").args(more));
    ended.is_well();
    serde_json::from_str(&ended.stdout).must()
}

fn listed(kept: &Kept) -> Vec<String> {
    let listed = list(kept);
    let backups = listed["backups"].as_array().cloned().unwrap_or_default();
    backups.iter().map(|backup| backup["id"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The data directory of each listed backup starts, and has what there was.
fn each_restores(kept: &Kept, primary: &Server) {
    for id in listed(kept) {
        let more = ["--backup", &id, "--hold", "0"];
        let mut server = restored(kept, primary.install(), &more, &[]);
        recover(&mut server);
        let count = server.sql("SELECT count(*) FROM t").must();
        assert!(count.parse::<u64>().must() >= 20_000, "{count}");
    }
}

fn check(major: u32) {
    let (kept, mut primary) = (Kept::new(), server(major, 1, &[]));
    let mut receiver = kept.receiver(&primary);
    work(&primary);
    let load = CommitLoad::start(primary.connection(), &LoadOptions::default()).must();
    let mut ids = Vec::new();
    for _ in 0..4 {
        load.wait_for(load.acked_count() + 50, LIMIT).must();
        work(&primary);
        ids.push(backup(&kept, &primary, &[]));
    }
    receiver.await_flush(&primary, server_flush(&primary));
    let all = kept.sealed();

    // A dry run says what would go, and changes nothing.
    let said = told(&kept, &["--keep-backups", "2"]);
    assert_eq!(said["dry_run"], true);
    let fates: Vec<_> =
        said["backups"].as_array().into_iter().flatten().map(|of| of["kept"] == true).collect();
    assert_eq!(fates, [false, false, true, true], "{said:#}");
    assert!(said["wal"][0]["expired_segments"].as_u64() > Some(2), "{said:#}");
    assert_eq!(said["wal"][0]["kept_for"], format!("the backup {}", ids[2]), "{said:#}");
    assert_eq!(listed(&kept), ids);
    // All of them are of the last hour.
    let said = told(&kept, &["--keep-for", "1h"]);
    assert!(
        said["backups"].as_array().into_iter().flatten().all(|of| of["kept"] == true),
        "{said:#}"
    );
    assert_eq!(
        said["wal"][0]["expired_segments"].as_u64(),
        Some(before_first(&kept, &ids[0])),
        "{said:#}"
    );

    // A slot keeps its WAL, though not its backup; who restores keeps a backup.
    let slots = kept.archive.join("slots");
    fs::create_dir(&slots).must();
    let held = all[2].start(SIZE);
    let slot = serde_json::json!({"name": "f", "temporary": false, "restart_lsn": held.to_string(),
        "timeline": 1, "created": "2026-01-31T12:00:00Z", "lost": null});
    fs::write(slots.join("f.json"), slot.to_string()).must();
    std::os::unix::fs::chown(&slots, Some(owner(&kept)), None).must();
    std::os::unix::fs::chown(slots.join("f.json"), Some(owner(&kept)), None).must();
    let reading = File::open(kept.archive.join("backups").join(&ids[0])).must();
    reading.lock_shared().must();
    let done = expire(&kept, &["--keep-backups", "2", "--yes"]);
    done.is_well();
    assert!(done.stdout.contains("somebody restores it just now"), "{done:?}");
    assert_eq!(listed(&kept), [&ids[0], &ids[2], &ids[3]].map(String::as_str));
    assert!(kept.segment(all[2]).exists());
    drop(reading);
    expire(&kept, &["--keep-backups", "2", "--yes"]).is_well();
    assert_eq!(listed(&kept), ids[2..]);
    assert!(!kept.archive.join("backups").join(&ids[0]).exists());
    assert!(kept.segment(all[2]).exists() && !kept.segment(all[1]).exists());
    fs::remove_file(slots.join("f.json")).must();
    expire(&kept, &["--keep-backups", "2", "--yes"]).is_well();
    assert!(!kept.segment(all[2]).exists());

    // What is left is whole, nothing is taken for missing, and it is said what was expired.
    clear_answers(&kept, &name(1, all[2]));
    assert_sound(&kept, &["--full"]);
    receiver.kill9();
    let mut receiver = kept.receiver(&primary);
    load.wait_for(load.acked_count() + 50, LIMIT).must();
    load.finish().must();
    work(&primary);
    receiver.await_flush(&primary, server_flush(&primary));
    assert_sound(&kept, &[]);
    each_restores(&kept, &primary);
    if full(major) {
        a_timeline_goes(&kept, &mut primary, &mut receiver);
    }
    receiver.stop();
}

/// A timeline that no kept backup needs goes, all but its history.
fn a_timeline_goes(kept: &Kept, primary: &mut Server, receiver: &mut Receiver) {
    primary.make_standby().must();
    primary.restart().must();
    primary.promote().must();
    primary.wait_until("the promotion", LIMIT, "NOT pg_is_in_recovery()").must();
    receiver.await_flush(primary, work(primary));
    backup(kept, primary, &[]);
    expire(kept, &["--keep-backups", "1", "--yes"]).is_well();
    assert_eq!(kept.sealed(), [], "timeline 1 is gone");
    assert!(kept.archive.join("wal/00000002.history").exists());
    receiver.await_flush(primary, work(primary));
    assert_sound(kept, &["--full"]);
    each_restores(kept, primary);
}

fn owner(kept: &Kept) -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(&kept.archive).must().uid()
}

/// How many whole segments are before a backup's first.
fn before_first(kept: &Kept, id: &str) -> u64 {
    let description = fs::read(kept.archive.join("backups").join(id).join("backup.json")).must();
    let description: Value = serde_json::from_slice(&description).must();
    let start: pg_types::Lsn =
        description["start"]["lsn"].as_str().unwrap_or_default().parse().must();
    kept.sealed().into_iter().filter(|number| *number < start.segment(SIZE)).count() as u64
}

/// `gaps`, `status`, `find` and `restore-wal` of an archive whose oldest WAL was expired.
fn clear_answers(kept: &Kept, expired: &str) {
    let gaps = ended(&mut seawall(kept, "gaps"));
    gaps.is_well();
    assert!(gaps.stdout.starts_with("no WAL is missing"), "{gaps:?}");
    let status = ended(&mut seawall(kept, "status"));
    assert!(status.stdout.contains("missing     nothing"), "{status:?}");
    assert!(status.stdout.contains("recoverable on timeline 1: everything"), "{status:?}");
    let found = ended(seawall(kept, "find").args(["--time", "2000-01-01 00:00:00+00"]));
    found.is_well();
    let target = kept.scratch.path().join("target");
    let refused = restore_wal(&kept.archive, expired, &target, &[]);
    refused.says(200, &["it was expired (20", "what is kept of its timeline begins at"]);
    let checked = ended(seawall(kept, "check").args(["--no-server", "-v"]));
    assert!(checked.stdout.contains("gaps: nothing is missing"), "{checked:?}");
}

fn check_refusals(major: u32) {
    let (kept, primary) = (Kept::new(), server(major, 1, &[]));
    let mut receiver = kept.receiver(&primary);
    receiver.await_flush(&primary, work(&primary));
    // It prepares and seals whenever it likes, and would be what changes something.
    receiver.stop();
    let before = fingerprint(&kept.archive);
    expire(&kept, &["--keep-backups", "1", "--yes"])
        .says(1, &["no backup is there from which timeline 1"]);
    assert_eq!(fingerprint(&kept.archive), before);
    let mut receiver = kept.receiver(&primary);
    let first = backup(&kept, &primary, &[]);
    receiver.await_flush(&primary, work(&primary));
    let second = backup(&kept, &primary, &[]);
    receiver.await_flush(&primary, work(&primary));
    receiver.stop();
    let refused = |says: &[&str], code: i32| {
        let before = fingerprint(&kept.archive);
        expire(&kept, &["--keep-backups", "1", "--yes"]).says(code, says);
        assert_eq!(fingerprint(&kept.archive), before, "nothing is touched");
    };
    let dir = |id: &str| kept.archive.join("backups").join(id);
    let harmed = |path: &Path, at: usize, says: &[&str], code: i32| {
        flip(path, at);
        refused(says, code);
        flip(path, at);
    };
    let sealed = kept.sealed();
    let last = kept.segment(sealed[sealed.len() - 1]);
    harmed(&last, 500_000, &["nothing is expired", "doesn't hold"], 4);
    harmed(&dir(&second).join("base.tar"), 700, &["nothing is expired", "was changed"], 4);
    let stray = dir(&second).join("stray");
    fs::write(&stray, "").must();
    refused(&["nothing is expired", "it isn't part of the backup"], 4);
    fs::remove_file(&stray).must();
    harmed(&dir(&second).join("backup.json"), 3, &["what it needs isn't known"], 1);
    harmed(&dir(&first).join("backup.json"), 3, &["what it needs isn't known"], 1);
    let aside = kept.scratch.path().join("aside");
    let middle = kept.segment(sealed[sealed.len() - 2]);
    fs::rename(&middle, &aside).must();
    refused(&["nothing is expired", "WAL is missing"], 4);
    fs::rename(&aside, &middle).must();
    // What goes anyway may be damaged.
    flip(&dir(&first).join("base.tar"), 700);
    flip(&kept.segment(sealed[0]), 500_000);
    expire(&kept, &["--keep-backups", "1", "--yes"]).is_well();
    assert_eq!(listed(&kept), [second]);
    assert_sound(&kept, &["--full"]);
    let data = kept.scratch.server_dir("data").must();
    restore(&kept, &data, &[]).is_well();
    let unasked = ended(&mut seawall(&kept, "expire"));
    assert_eq!(unasked.code, Some(2), "{unasked:?}");
}
