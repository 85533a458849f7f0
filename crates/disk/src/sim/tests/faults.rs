//! Faults, capacity, and mutants.

use super::*;
use crate::OpKind;

fn inject(disk: &SimDisk, class: OpClass, what: FaultKind) {
    let at = OpMatch::next(class);
    disk.inject(Fault { at, what, times: Times::Count(1) });
}

#[test]
fn a_failed_fsync_loses_its_pages_and_the_next_one_succeeds() {
    let mut cached = BTreeSet::new();
    for seed in 0..64 {
        let mut disk = SimDisk::new(seed);
        let file = durable_file(&mut disk, "a", 1, Access::Buffered);
        one(&mut disk, write(file, 0, 2, 1)).unwrap();
        inject(&disk, OpClass::Sync, FaultKind::FsyncFailsThenSucceeds);
        let error = one(&mut disk, Op::SyncData { file }).unwrap_err();
        assert_eq!(error.to_string(), "fdatasync of a: Input/output error (os error 5)");
        one(&mut disk, Op::SyncData { file }).unwrap();
        cached.insert(sectors(&disk, "a")[0]);
        let reader = disk.open_read(p("a"), Access::Direct).unwrap();
        let mut buf = filled(9, 1);
        assert_eq!(reader.read_at(0, &mut buf, BLOCK).unwrap(), BLOCK);
        assert!(buf.iter().all(|byte| *byte == 1), "the platter has the old bytes");
        let seen = outcomes(&disk, PowerLoss::StrictPosix, |disk| sectors(disk, "a")[0]);
        assert_eq!(seen, set([1]), "the second success covers nothing");
    }
    assert_eq!(cached, set([1, 2]), "the cache may show the lost bytes");
}

#[test]
fn direct_writes_before_a_failed_fsync_are_lost_or_not() {
    let mut seen = BTreeSet::new();
    for seed in 0..64 {
        let mut disk = SimDisk::new(seed);
        let file = durable_file(&mut disk, "a", 1, Access::Direct);
        one(&mut disk, write(file, 0, 2, 1)).unwrap();
        inject(&disk, OpClass::Sync, FaultKind::Eio);
        one(&mut disk, Op::SyncData { file }).unwrap_err();
        one(&mut disk, Op::SyncData { file }).unwrap();
        seen.extend(outcomes(&disk, PowerLoss::StrictPosix, |disk| sectors(disk, "a")[0]));
    }
    assert_eq!(seen, set([1, 2]));
}

#[test]
fn a_length_that_a_failed_fsync_left_is_durable_with_the_next() {
    let mut disk = SimDisk::new(3);
    let file = durable_file(&mut disk, "a", 1, Access::Buffered);
    one(&mut disk, write(file, 1, 2, 1)).unwrap();
    inject(&disk, OpClass::Sync, FaultKind::Eio);
    one(&mut disk, Op::SyncData { file }).unwrap_err();
    one(&mut disk, Op::SyncData { file }).unwrap();
    let seen = outcomes(&disk, PowerLoss::StrictPosix, |disk| sectors(disk, "a"));
    assert_eq!(seen, set([[[1; 8], [0; 8]].concat()]));
}

#[test]
fn a_failed_write_may_have_been_done_in_part() {
    for (what, kind) in [(FaultKind::Eio, ErrorKind::Io), (FaultKind::Enospc, ErrorKind::NoSpace)] {
        let mut counts = BTreeSet::new();
        for seed in 0..64 {
            let mut disk = SimDisk::new(seed);
            let file = durable_file(&mut disk, "a", 1, Access::Direct);
            inject(&disk, OpClass::Write, what);
            disk.submit(Lane::Write, vec![(OpId(1), write(file, 0, 2, 1))]);
            disk.run();
            let failure = disk.poll().unwrap().result.unwrap_err();
            assert_eq!(failure.error.kind, kind);
            assert!(failure.buf.is_some(), "the buffer comes back");
            counts.insert(sectors(&disk, "a").iter().filter(|byte| **byte == 2).count());
        }
        assert!(counts.contains(&0) && counts.contains(&8) && counts.len() > 4, "{counts:?}");
    }
}

#[test]
fn short_and_interrupted_writes_are_not_seen() {
    for what in [FaultKind::ShortWrite, FaultKind::Eintr] {
        let mut disk = SimDisk::new(5);
        let file = durable_file(&mut disk, "a", 1, Access::Direct);
        inject(&disk, OpClass::Write, what);
        one(&mut disk, write(file, 0, 2, 1)).unwrap();
        assert_eq!(sectors(&disk, "a"), [2; 8]);
        assert_eq!(disk.faults_happened(), 1);
    }
}

#[test]
fn every_kind_of_operation_can_fail() {
    let disk = SimDisk::new(1);
    disk.write_new(p("a"), b"a").unwrap();
    let at = OpMatch::next(OpClass::Any);
    disk.inject(Fault { at, what: FaultKind::Erofs, times: Times::Forever });
    let results = [
        disk.create_dir(p("d")),
        disk.write_new(p("b"), b""),
        disk.rename(p("a"), p("b")),
        disk.replace(p("a"), p("b")),
        disk.remove(p("a")),
        disk.copy(p("a"), p("b"), 1),
        disk.sync_dir(p("")),
        disk.sync_file(p("a")),
        disk.read(p("a"), 1).map(|_| ()),
        disk.names(p("")).map(|_| ()),
    ];
    assert_eq!(disk.faults_happened(), results.len() as u64);
    for result in results {
        assert_eq!(result.unwrap_err().kind, ErrorKind::ReadOnly);
    }
    disk.clear_faults();
    assert_eq!(names(&disk), "a");
}

#[test]
fn a_full_disk_has_room_again() {
    let mut disk = SimDisk::new(1);
    let file = create(&mut disk, "a", 1, Access::Buffered);
    disk.set_capacity(Some(2 * BLOCK_BYTES));
    let create = |disk: &mut SimDisk| {
        let file = disk.new_file_id();
        let size = 2 * BLOCK_BYTES;
        one(disk, Op::Create { file, path: "b".into(), size, access: Access::Direct })
    };
    assert_eq!(create(&mut disk).unwrap_err().kind, ErrorKind::NoSpace);
    assert_eq!(names(&disk), "a");
    one(&mut disk, write(file, 0, 2, 2)).unwrap();
    let error = one(&mut disk, write(file, 2, 2, 1)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSpace);
    one(&mut disk, write(file, 0, 3, 2)).unwrap();
    disk.remove(p("a")).unwrap();
    assert_eq!(create(&mut disk).unwrap_err().kind, ErrorKind::NoSpace, "it is open still");
    one(&mut disk, Op::Close { file }).unwrap();
    create(&mut disk).unwrap();
}

#[test]
fn a_dropped_sync_is_missed() {
    let run = |mutation: Option<Mutation>| {
        let mut disk = SimDisk::new(1);
        disk.create_dir(p("wal")).unwrap();
        disk.sync_dir(p("")).unwrap();
        mutation.into_iter().for_each(|mutation| disk.mutate(mutation));
        let file = create(&mut disk, "wal/.1.tmp", 1, Access::Direct);
        one(&mut disk, Op::SyncAll { file }).unwrap();
        disk.rename(p("wal/.1.tmp"), p("wal/1.partial")).unwrap();
        disk.sync_dir(p("wal")).unwrap();
        one(&mut disk, write(file, 0, 2, 1)).unwrap();
        one(&mut disk, Op::SyncData { file }).unwrap();
        outcomes(&disk, PowerLoss::StrictPosix, |disk| sectors(disk, "wal/1.partial"))
    };
    let drop = |class, path: &str| Some(Mutation::DropSync { class, path: path.into() });
    let whole = set([vec![2; 8]]);
    assert_eq!(run(None), whole);
    assert_eq!(run(drop(OpClass::Sync, "elsewhere")), whole);
    assert!(run(drop(OpClass::Kind(OpKind::SyncDir), "wal")).contains(&Vec::new()));
    assert!(run(drop(OpClass::Kind(OpKind::SyncData), "wal/*.partial")).contains(&vec![0; 8]));
    assert_eq!(run(drop(OpClass::Kind(OpKind::SyncAll), "wal/.*.tmp")), whole, "synced later");
}

#[test]
fn a_sync_before_its_write_covers_nothing() {
    let run = |mutate: bool| {
        let mut disk = SimDisk::new(1);
        let file = durable_file(&mut disk, "a", 1, Access::Direct);
        if mutate {
            disk.mutate(Mutation::SyncBeforeWrite);
        }
        let results =
            chain(&mut disk, Lane::Write, vec![write(file, 0, 2, 1), Op::SyncData { file }]);
        assert!(results.len() == 2 && results.iter().all(Result::is_ok));
        outcomes(&disk, PowerLoss::StrictPosix, |disk| sectors(disk, "a")[0])
    };
    assert_eq!(run(false), set([2]));
    assert_eq!(run(true), set([1, 2]));
}

#[test]
fn a_sync_reported_early_is_reported_once_and_done_later() {
    let mut disk = SimDisk::new(1);
    let file = durable_file(&mut disk, "a", 1, Access::Direct);
    one(&mut disk, write(file, 0, 2, 1)).unwrap();
    disk.mutate(Mutation::CompleteBeforeDone);
    disk.submit(Lane::Sync, vec![(OpId(7), Op::SyncData { file })]);
    assert_eq!(disk.poll().unwrap().id, OpId(7));
    let seen = outcomes(&disk, PowerLoss::StrictPosix, |disk| sectors(disk, "a")[0]);
    assert_eq!(seen, set([1, 2]));
    disk.run();
    assert!(disk.poll().is_none());
    let seen = outcomes(&disk, PowerLoss::StrictPosix, |disk| sectors(disk, "a")[0]);
    assert_eq!(seen, set([2]));
}
