//! The primary is gone, directory and all: every commit that it acknowledged is in what the archive
//! gives back.

use std::collections::HashSet;
use std::fs;

use testkit::load::{CommitLoad, LoadOptions};
use testkit::servers::full;

use super::super::common::{LIMIT, Must, Receiver, full_run, on_each_major, server};
use super::super::restore_wal::Kept;
use super::{backup, check_tables, recover, restored};

on_each_major!(nothing_acknowledged_is_lost, super::check);

fn check(major: u32) {
    let rounds = if full_run() {
        10
    } else if full(major) {
        2
    } else {
        1
    };
    for _ in 0..rounds {
        round(major);
    }
}

fn round(major: u32) {
    let (kept, mut primary) = (Kept::new(), server(major, 1, &[]));
    let receiver = kept.receiver(&primary);
    // Before commits wait for anybody: the restored server has nobody to wait for.
    backup(&kept, &primary, &[]);
    receiver.stop();
    let receiver = Receiver::start_synchronous(&primary, &kept.archive, &kept.options());
    let options = LoadOptions { clients: 6, payload_bytes: 900, ..LoadOptions::default() };
    let load = CommitLoad::start(primary.connection(), &options).must();
    load.wait_for(1500, LIMIT).must();
    primary.kill9();
    fs::remove_dir_all(primary.data_dir()).must();
    let acked = load.finish().must();
    receiver.kill9();
    let mut server = restored(&kept, primary.install(), &[], &[]);
    recover(&mut server);
    let rows = server.sql("SELECT client || ' ' || counter FROM seawall_load").must();
    let rows: HashSet<&str> = rows.lines().collect();
    let missing = acked
        .iter()
        .filter(|commit| !rows.contains(format!("{} {}", commit.client, commit.counter).as_str()));
    assert_eq!(missing.count(), 0, "of {} acknowledged commits", acked.len());
    check_tables(&server);
}
