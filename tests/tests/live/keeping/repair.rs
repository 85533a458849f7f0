//! `seawall repair`: what is missing or damaged comes back from another archive, a directory or a
//! command, proved, and the damaged file is kept aside.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::super::backup::seawall;
use super::super::common::{Must, Receiver, ReceiverOptions, server, server_flush};
use super::super::gaps::gaps;
use super::super::restore_wal::{Kept, work};
use super::{assert_sound, flip};
use crate::program::{Ended, ended};

fn repair(kept: &Kept, more: &[&str]) -> Ended {
    ended(seawall(kept, "repair").args(["-q", "--json"]).args(more))
}

fn told(ended: &Ended) -> (u64, u64) {
    let value: Value = serde_json::from_str(&ended.stdout).must();
    let count = |key: &str| value[key].as_u64().unwrap_or_default();
    (count("filled"), count("replaced"))
}

/// A copy of `wal/` that the servers' user can read.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).must();
    for entry in fs::read_dir(from).must().map(Must::must) {
        fs::copy(entry.path(), to.join(entry.file_name())).must();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(to.join(entry.file_name()), mode).must();
    }
}

#[test]
fn what_is_missing_or_damaged_comes_back() {
    let (kept, primary) = (Kept::new(), server(18, 1, &[]));
    let other = kept.scratch.server_dir("other").must().join("archive");
    let options = || {
        let extra = ["-Z", "zstd"].map(str::to_owned).to_vec();
        ReceiverOptions { slot: false, extra, ..kept.options() }
    };
    let mut receiver = kept.receiver(&primary);
    let mut second = Receiver::start(&primary, &other, &options());
    work(&primary);
    // A record that runs over two borders and more.
    primary.sql("SELECT pg_logical_emit_message(true, 'x', repeat('y', 2500000))").must();
    let end = work(&primary);
    receiver.await_flush(&primary, end);
    let has_it = format!(
        "(SELECT count(*) = 2 FROM pg_stat_replication WHERE flush_lsn >= '{}')",
        server_flush(&primary)
    );
    primary.wait_until("the other archive", super::super::common::LIMIT, &has_it).must();
    receiver.stop();
    second.running.stop(testkit::process::Signal::TERM, super::super::common::LIMIT).must();
    let sealed = kept.sealed();
    let plain = kept.scratch.path().join("plain");
    copy(&kept.archive.join("wal"), &plain);
    let [from_plain, from_other] = [&plain, &other].map(|dir| dir.display().to_string());
    let whole: Vec<Vec<u8>> =
        sealed.iter().map(|number| fs::read(kept.segment(*number)).must()).collect();
    let same = || {
        for (number, whole) in sealed.iter().zip(&whole) {
            assert!(fs::read(kept.segment(*number)).must() == *whole, "{number:?} differs");
        }
        assert_eq!(gaps(&kept.archive), [Value::Null; 0]);
        assert_sound(&kept, &["--full"]);
    };

    // Nothing to do.
    assert_eq!(told(&repair(&kept, &["--from", &from_other])), (0, 0));
    // Missing, from an archive that has it compressed; damaged, wherever of a record.
    for (place, number) in sealed.iter().enumerate() {
        match place % 3 {
            0 if place > 0 && place + 1 < sealed.len() => {
                fs::remove_file(kept.segment(*number)).must();
            }
            1 => flip(&kept.segment(*number), 500_000),
            _ => {}
        }
    }
    let done = repair(&kept, &["--from", &from_other]);
    done.is_well();
    let (filled, replaced) = told(&done);
    assert!(filled > 1 && replaced > 1, "{done:?}");
    same();
    let quarantined = fs::read_dir(kept.archive.join("quarantine")).must().count() as u64;
    assert_eq!(quarantined, replaced);

    // From a directory, and by a command; a source that has it damaged is passed over.
    let (gone, bad) = (sealed[sealed.len() / 2], sealed[1]);
    let name = |number| super::super::restore_wal::name(1, number);
    let broken = kept.scratch.path().join("broken");
    copy(&plain, &broken);
    flip(&broken.join(name(gone)), 700_000);
    let from_broken = broken.display().to_string();
    for source in
        [["--from", from_plain.as_str()], ["--command", &format!("cp {from_plain}/%f %p")]]
    {
        fs::remove_file(kept.segment(gone)).must();
        flip(&kept.segment(bad), 300_000);
        let failed = repair(&kept, &["--from", &from_broken]);
        assert_eq!(failed.code, Some(1), "{failed:?}");
        // Where a record runs on from it, it is taken, and named as damaged when that is seen.
        assert!(failed.stderr.contains(&format!("{} is ", name(gone))), "{failed:?}");
        repair(&kept, &[source.as_slice(), &["--from", &from_broken]].concat()).is_well();
        same();
    }
    // Another cluster's archive is refused.
    let stranger = kept.scratch.server_dir("stranger").must().join("archive");
    let options_of = testkit::servers::ServerOptions {
        new_system_id: true,
        segment_size_mb: 1,
        ..Default::default()
    };
    let elsewhere =
        testkit::servers::Server::start(&super::super::common::pg(18), &options_of).must();
    let mut third = Receiver::start(&elsewhere, &stranger, &options());
    let streams = "EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')";
    elsewhere.wait_until("a third receiver", super::super::common::LIMIT, streams).must();
    third.running.stop(testkit::process::Signal::TERM, super::super::common::LIMIT).must();
    let refused = repair(&kept, &["--from", &stranger.display().to_string()]);
    refused.says(6, &["the archive of another cluster"]);
}
