//! A damaged or incomplete archive never opens a server before the archive's end.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use pg_types::SegmentNumber;

use super::super::common::{LIMIT, Must, server};
use super::{Kept, SIZE, work};

fn recovery_never_opens_too_early(major: u32) {
    let kept = Kept::new();
    let primary = server(major, 1, &[]);
    let mut receiver = kept.receiver(&primary);
    // Hot standbys are open for reading as soon as they are consistent; this one never is.
    let conf = [kept.restore_command("--partial --retry-for 0"), "hot_standby = off".to_owned()];
    let conf: Vec<&str> = conf.iter().map(String::as_str).collect();
    let mut restored = primary.base_backup("recovery.signal", &conf).must();
    restored.add_file("postgresql.auto.conf", "").must();
    receiver.await_flush(&primary, work(&primary));
    let rows = primary.sql("SELECT count(*) FROM t").must();
    receiver.stop();

    let sealed = kept.sealed();
    let continued = |number: &&SegmentNumber| fs::read(kept.segment(**number)).must()[2] & 1 == 1;
    let damaged = sealed[sealed.len() / 2..].iter().find(continued);
    let Some(damaged) = damaged.copied() else { panic!("no record runs over {sealed:?}") };
    let path = kept.segment(damaged);
    let before = kept.segment(SegmentNumber::new(damaged.as_u64() - 1));
    let size = usize::try_from(SIZE.bytes()).must();
    let aside = kept.scratch.path().join("aside");
    let [whole, whole_before] = [&path, &before].map(|path| fs::read(path).must());
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x10;
        bytes
    };
    let harms: [(&str, &dyn Fn()); 7] = [
        ("is missing", &|| fs::rename(&path, &aside).must()),
        ("Permission denied", &|| {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).must();
        }),
        ("was cut off", &|| fs::write(&path, &whole[..size / 2]).must()),
        ("doesn't hold any more", &|| fs::write(&path, flipped(&whole, size / 2)).must()),
        ("doesn't hold any more", &|| fs::write(&path, flipped(&whole, 41)).must()),
        ("doesn't hold any more", &|| fs::write(&before, flipped(&whole_before, size - 9)).must()),
        ("isn't mounted", &|| fs::rename(&kept.archive, kept.scratch.path().join("away")).must()),
    ];
    let mut from = 0;
    for (says, harm) in harms {
        harm();
        let opened = restored.restart();
        let log = restored.log_text();
        let said = log.get(from..).unwrap_or_default();
        assert!(opened.is_err(), "it opened though {says:?}: {said}");
        assert!(said.contains(says), "nothing of {says:?} in {said}");
        assert!(!restored.wal_dir().join("00000002.history").exists(), "{said}");
        from = log.len();
        if aside.exists() {
            fs::rename(&aside, &path).must();
        }
        if !kept.archive.exists() {
            fs::rename(kept.scratch.path().join("away"), &kept.archive).must();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).must();
        fs::write(&path, &whole).must();
        fs::write(&before, &whole_before).must();
    }
    // Mended, it goes on to the last record.
    restored.restart().must();
    restored.wait_until("the end of recovery", LIMIT, "NOT pg_is_in_recovery()").must();
    assert_eq!(restored.sql("SELECT count(*) FROM t").must(), rows);
}

#[test]
fn recovery_never_opens_too_early_14() {
    recovery_never_opens_too_early(14);
}

#[test]
fn recovery_never_opens_too_early_18() {
    recovery_never_opens_too_early(18);
}
