//! `seawall expire --backup ID`: one backup goes, unless somebody needs it.

use std::fs::{self, File};

use super::super::backup::{backup, list, seawall};
use super::super::common::{Must, server};
use super::super::restore_wal::{Kept, work};
use super::expire::expire;
use super::{assert_sound, flip, verify_command};
use crate::program::{ended, fingerprint};

fn listed(kept: &Kept) -> Vec<String> {
    let listed = list(kept);
    let backups = listed["backups"].as_array().cloned().unwrap_or_default();
    backups.iter().map(|backup| backup["id"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn one_backup_goes_by_name_unless_it_is_needed() {
    let (kept, primary) = (Kept::new(), server(18, 1, &["summarize_wal = on"]));
    let mut receiver = kept.receiver(&primary);
    work(&primary);
    let one = backup(&kept, &primary, &[]);
    work(&primary);
    let two = backup(&kept, &primary, &["--incremental"]);
    work(&primary);
    let three = backup(&kept, &primary, &["--incremental"]);
    let four = backup(&kept, &primary, &[]);
    receiver.await_flush(&primary, work(&primary));
    receiver.stop();
    let sealed = kept.sealed();
    let remove = |id: &str| expire(&kept, &["--backup", id, "--yes"]);
    let refused = |id: &str, code: i32, says: &[&str]| {
        let before = fingerprint(&kept.archive.join("backups"));
        remove(id).says(code, says);
        assert_eq!(fingerprint(&kept.archive.join("backups")), before);
    };

    refused(&one, 1, &[&one, "stays", &two, "builds on it"]);
    refused(&two, 1, &[&two, "stays", &three, "builds on it"]);
    refused("20200101T000000Z", 1, &["there is no backup"]);
    refused("../wal", 1, &["there is no backup"]);
    let dry = expire(&kept, &["--backup", &three]);
    dry.is_well();
    assert!(dry.stdout.contains("--yes removes it"), "{dry:?}");
    // Somebody restores it.
    let reading = File::open(kept.archive.join("backups").join(&three)).must();
    reading.lock_shared().must();
    refused(&three, 3, &["somebody reads it"]);
    drop(reading);
    assert_eq!(listed(&kept), [&one, &two, &three, &four].map(String::as_str));

    remove(&three).is_well();
    remove(&two).is_well();
    assert_eq!(listed(&kept), [&one, &four].map(String::as_str));
    assert!(!kept.archive.join("backups").join(&two).exists());
    assert_eq!(kept.sealed(), sealed, "WAL stays");
    assert_sound(&kept, &["--full"]);

    // A damaged one goes, and one that can't be read; what is left then stays.
    let dir = |id: &str| kept.archive.join("backups").join(id);
    flip(&dir(&one).join("base.tar"), 700);
    refused(&four, 4, &["recovery is possible from it", "no other one"]);
    remove(&one).is_well();
    assert_eq!(listed(&kept), [four.as_str()]);
    refused(&four, 4, &["recovery is possible from it", "no other one"]);
    let copy = dir("20200101T000000Z");
    fs::create_dir(&copy).must();
    fs::write(copy.join("backup.json"), "{").must();
    assert!(ended(&mut seawall(&kept, "list")).stdout.contains("BROKEN"));
    refused(&four, 1, &["may build on it"]);
    fs::remove_dir_all(&copy).must();

    // One that was put there from another cluster's archive is named, and goes.
    let path = dir(&four).join("backup.json");
    let key = "\"system_identifier\": \"";
    let text = fs::read_to_string(&path).must();
    fs::write(&path, text.replace(key, &format!("{key}1"))).must();
    let verified = ended(&mut verify_command(&kept, &[]));
    assert_eq!(verified.code, Some(4), "{verified:?}");
    assert!(
        verified.stdout.contains("it is of the cluster with system identifier 1"),
        "{verified:?}"
    );
    remove(&four).is_well();
    assert!(listed(&kept).is_empty());
}
