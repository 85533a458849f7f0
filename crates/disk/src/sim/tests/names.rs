//! Names and directories.

use super::*;

#[test]
fn an_unsynced_rename_is_sometimes_undone_and_never_after_the_sync() {
    for loss in HONEST {
        let mut disk = SimDisk::new(1);
        durable_file(&mut disk, "a", 1, Access::Direct);
        disk.rename(p("a"), p("b")).unwrap();
        assert_eq!(names(&disk), "b");
        let seen = outcomes(&disk, loss, names);
        assert_eq!(seen, set(["a".to_owned(), "b".to_owned()]), "never both, never neither");
        disk.sync_dir(p("")).unwrap();
        assert_eq!(outcomes(&disk, loss, names), set(["b".to_owned()]));
    }
}

#[test]
fn a_new_name_needs_the_directory_synced_except_on_ext4() {
    let mut disk = SimDisk::new(1);
    let file = create(&mut disk, "a", 1, Access::Direct);
    let (gone, there) = (String::new(), "a".to_owned());
    for loss in HONEST {
        assert_eq!(outcomes(&disk, loss, names), set([gone.clone(), there.clone()]));
    }
    one(&mut disk, Op::SyncAll { file }).unwrap();
    let strict = outcomes(&disk, PowerLoss::StrictPosix, names);
    assert_eq!(strict, set([gone, there.clone()]));
    assert_eq!(outcomes(&disk, PowerLoss::Ext4Ordered, names), set([there.clone()]));
    disk.sync_dir(p("")).unwrap();
    assert_eq!(outcomes(&disk, PowerLoss::StrictPosix, names), set([there]));
}

#[test]
fn a_removal_is_undone_and_its_bytes_are_still_there() {
    for loss in HONEST {
        let mut disk = SimDisk::new(1);
        durable_file(&mut disk, "a", 1, Access::Direct);
        disk.remove(p("a")).unwrap();
        let seen = outcomes(&disk, loss, |disk| content(disk, "a"));
        assert_eq!(seen, set([None, Some(vec![1; BLOCK])]));
        disk.sync_dir(p("")).unwrap();
        assert_eq!(outcomes(&disk, loss, |disk| content(disk, "a")), set([None]));
        assert_eq!(disk.used_bytes(), BLOCK_BYTES, "it is open still");
    }
}

#[test]
fn names_survive_in_any_order_by_posix_and_in_order_on_ext4() {
    let disk = SimDisk::new(1);
    for name in ["a", "b", "c"] {
        disk.write_new(p(name), b"").unwrap();
    }
    assert_eq!(outcomes(&disk, PowerLoss::StrictPosix, names).len(), 8);
    let prefixes = ["", "a", "a b", "a b c"].map(str::to_owned);
    assert_eq!(outcomes(&disk, PowerLoss::Ext4Ordered, names), set(prefixes));
}

#[test]
fn a_name_used_again_never_costs_the_file_that_had_it() {
    // The sequence of sealing one segment and starting the next under the old name.
    let mut disk = SimDisk::new(1);
    durable_file(&mut disk, "a.partial", 1, Access::Direct);
    disk.rename(p("a.partial"), p("a")).unwrap();
    create(&mut disk, "a.partial", 0, Access::Direct);
    disk.remove(p("a.partial")).unwrap();
    for loss in HONEST {
        let is_kept = |disk: &SimDisk| {
            let whole = Some(vec![1; BLOCK]);
            content(disk, "a") == whole || content(disk, "a.partial") == whole
        };
        assert_eq!(outcomes(&disk, loss, is_kept), set([true]));
    }
}

#[test]
fn a_replacement_without_fsync_loses_bytes_by_posix_and_not_on_ext4() {
    let disk = SimDisk::new(1);
    disk.write_new(p("a"), b"old").unwrap();
    disk.sync_file(p("a")).unwrap();
    disk.sync_dir(p("")).unwrap();
    disk.write_new(p("a.tmp"), b"new").unwrap();
    disk.replace(p("a.tmp"), p("a")).unwrap();
    let look = |disk: &SimDisk| content(disk, "a").unwrap();
    let ordered = outcomes(&disk, PowerLoss::Ext4Ordered, look);
    assert_eq!(ordered, set([b"old".to_vec(), b"new".to_vec()]));
    let strict = outcomes(&disk, PowerLoss::StrictPosix, look);
    assert!(strict.len() > 2 && strict.contains(&Vec::new()), "an empty file among it");
    disk.sync_dir(p("")).unwrap();
    assert_eq!(outcomes(&disk, PowerLoss::Ext4Ordered, look), set([b"new".to_vec()]));
    assert!(outcomes(&disk, PowerLoss::StrictPosix, look).len() > 1);
}

#[test]
fn between_directories_the_target_is_synced_first() {
    let start = || {
        let mut disk = SimDisk::new(1);
        disk.create_dir(p("q")).unwrap();
        durable_file(&mut disk, "a", 1, Access::Direct);
        disk.rename(p("a"), p("q/a")).unwrap();
        disk
    };
    let places = |disk: &SimDisk| {
        let at = |path| content(disk, path).is_some();
        (at("a"), at("q/a"))
    };
    let disk = start();
    let moved_or_not = set([(true, false), (false, true)]);
    assert_eq!(outcomes(&disk, PowerLoss::StrictPosix, places), moved_or_not);
    assert_eq!(outcomes(&disk, PowerLoss::Ext4Ordered, places), moved_or_not);
    disk.sync_dir(p("q")).unwrap();
    let strict = outcomes(&disk, PowerLoss::StrictPosix, places);
    assert_eq!(strict, set([(false, true), (true, true)]));
    assert_eq!(outcomes(&disk, PowerLoss::Ext4Ordered, places), set([(false, true)]));
    let disk = start();
    disk.sync_dir(p("")).unwrap();
    let strict = outcomes(&disk, PowerLoss::StrictPosix, places);
    assert_eq!(strict, set([(false, false), (false, true)]), "it can be lost");
}

#[test]
fn a_directory_without_its_name_takes_its_files_along() {
    let disk = SimDisk::new(1);
    disk.create_dir(p("d")).unwrap();
    disk.write_new(p("d/a"), b"a").unwrap();
    disk.sync_file(p("d/a")).unwrap();
    disk.sync_dir(p("d")).unwrap();
    let there = |disk: &SimDisk| content(disk, "d/a").is_some();
    assert_eq!(outcomes(&disk, PowerLoss::StrictPosix, there), set([false, true]));
    disk.sync_dir(p("")).unwrap();
    assert_eq!(outcomes(&disk, PowerLoss::StrictPosix, there), set([true]));
}

#[test]
fn a_rename_by_link_leaves_one_name_or_both() {
    let mut disk = SimDisk::new(1);
    disk.set_rename_by_link(true);
    durable_file(&mut disk, "a", 1, Access::Direct);
    disk.rename(p("a"), p("b")).unwrap();
    let seen = outcomes(&disk, PowerLoss::StrictPosix, names);
    assert_eq!(seen, set(["a b".to_owned(), "b".to_owned()]));
    assert_eq!(disk.rename(p("b"), p("b")).unwrap_err().kind, ErrorKind::Exists);
}

#[test]
fn a_rename_never_replaces_and_errors_are_those_of_the_system() {
    let disk = SimDisk::new(1);
    disk.write_new(p("a"), b"a").unwrap();
    disk.write_new(p("b"), b"b").unwrap();
    let kind = |result: Result<(), DiskError>| result.unwrap_err().kind;
    assert_eq!(kind(disk.rename(p("a"), p("b"))), ErrorKind::Exists);
    assert_eq!(kind(disk.write_new(p("a"), b"")), ErrorKind::Exists);
    assert_eq!(kind(disk.remove(p("c"))), ErrorKind::NotFound);
    assert_eq!(kind(disk.write_new(p("d/a"), b"")), ErrorKind::NotFound);
    assert_eq!(kind(disk.write_new(p("../a"), b"")), ErrorKind::Other);
    assert_eq!(Files::len(&disk, p("c")).unwrap(), None);
    disk.replace(p("a"), p("b")).unwrap();
    assert_eq!(content(&disk, "b").unwrap(), b"a");
}
