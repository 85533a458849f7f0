//! SIGKILL at random points: no backup is listed that isn't whole, and no directory looks whole that
//! isn't.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use testkit::process::Running;
use testkit::servers::full;

use super::super::common::{LIMIT, Must, Random, on_each_major, server};
use super::super::restore_wal::Kept;
use super::{backup, backup_command, list, recover, restore, restored, seawall, verified};

on_each_major!(a_killed_backup_is_never_one, super::check_backup);
on_each_major!(a_killed_restore_is_no_cluster, super::check_restore);

fn rounds(major: u32) -> u32 {
    if full(major) { 8 } else { 3 }
}

fn check_backup(major: u32) {
    let (kept, primary) = (Kept::new(), server(major, 1, &[]));
    let receiver = kept.receiver(&primary);
    let mut random = Random::new("killed backups");
    for _ in 0..rounds(major) {
        let mut command = backup_command(&kept, &primary, &[]);
        let mut running = Running::spawn(&mut command, "seawall backup").must();
        sleep(Duration::from_millis(random.below(700)));
        running.kill9();
        for listed in list(&kept)["backups"].as_array().into_iter().flatten() {
            let data = kept.scratch.server_dir(&format!("data{}", random.below(u64::MAX))).must();
            let id = listed["id"].as_str().unwrap_or_default();
            restore(&kept, &data, &["--backup", id]).is_well();
            verified(primary.install(), &data);
            fs::remove_dir_all(&data).must();
        }
    }
    let id = backup(&kept, &primary, &[]);
    for entry in fs::read_dir(kept.archive.join("backups")).must() {
        let dir = entry.must().path();
        assert!(dir.join("backup.json").exists(), "{} wasn't cleared", dir.display());
    }
    let mut server = restored(&kept, primary.install(), &["--backup", &id], &[]);
    recover(&mut server);
    let slots = "NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name LIKE 'seawall%')";
    primary.wait_until("the backups' slots to be gone", LIMIT, slots).must();
    receiver.stop();
}

fn check_restore(major: u32) {
    let (kept, primary) = (Kept::new(), server(major, 1, &[]));
    // Without a receiver the backup brings its WAL itself, and makes the archive.
    backup(&kept, &primary, &[]);
    let mut random = Random::new("killed restores");
    let (mut whole, mut broken) = (0, 0);
    for round in 0..rounds(major) * 2 {
        let data = kept.scratch.server_dir(&format!("data{round}")).must();
        let mut command = seawall(&kept, "restore");
        let mut running = Running::spawn(command.arg("-D").arg(&data), "seawall restore").must();
        sleep(Duration::from_millis(random.below(400)));
        running.kill9();
        if data.join("global/pg_control").exists() {
            whole += 1;
            verified(primary.install(), &data);
        } else {
            broken += 1;
            // What is left is refused, unless it is told to be put aside.
            if fs::read_dir(&data).must().next().is_some() {
                restore(&kept, &data, &[]).says(1, &["isn't empty"]);
            }
        }
        fs::remove_dir_all(&data).must();
    }
    assert!(broken > 0 || whole > 0);
    let mut server = restored(&kept, primary.install(), &[], &[]);
    recover(&mut server);
}
