//! Lanes, stopping, and that a seed is a run.

use super::*;

#[test]
fn lanes_are_in_order_each_and_interleave() {
    let mut orders = BTreeSet::new();
    for seed in 0..64 {
        let mut disk = SimDisk::new(seed);
        let file = create(&mut disk, "a", 4, Access::Direct);
        for id in 0..3 {
            disk.submit(Lane::Write, vec![(OpId(id), write(file, id, 1, 1))]);
            disk.submit(Lane::Sync, vec![(OpId(10 + id), Op::SyncData { file })]);
        }
        assert_eq!(disk.pending(), 6);
        disk.run();
        let order: Vec<u64> = std::iter::from_fn(|| disk.poll()).map(|c| c.id.0).collect();
        let lane = |sync: bool| order.iter().copied().filter(move |id| (*id >= 10) == sync);
        assert!(lane(false).is_sorted() && lane(true).is_sorted());
        orders.insert(order);
    }
    assert!(orders.len() > 10);
}

#[test]
fn after_a_failure_the_rest_of_the_chain_is_cancelled_and_no_more() {
    let mut disk = SimDisk::new(1);
    let file = create(&mut disk, "a.tmp", 1, Access::Direct);
    let what = FaultKind::Eio;
    disk.inject(Fault { at: OpMatch::next(OpClass::Sync), what, times: Times::Count(1) });
    let rename = || Op::Rename { from: "a.tmp".into(), to: "a".into() };
    let failing = vec![(OpId(1), Op::SyncAll { file }), (OpId(2), rename())];
    disk.submit(Lane::Meta, failing);
    disk.submit(Lane::Meta, vec![(OpId(3), write(file, 0, 2, 1))]);
    disk.run();
    let mut kinds = Vec::new();
    while let Some(completion) = disk.poll() {
        kinds.push(completion.result.err().map(|failure| failure.error.kind));
    }
    assert_eq!(kinds, [Some(ErrorKind::Io), Some(ErrorKind::Cancelled), None]);
    assert_eq!(names(&disk), "a.tmp");
}

#[test]
fn nothing_happens_after_the_stop() {
    let mut disk = SimDisk::new(1);
    disk.stop_at(2);
    disk.write_new(p("a"), b"a").unwrap();
    assert!(disk.is_off());
    let kind = |result: Result<(), DiskError>| result.unwrap_err().kind;
    assert_eq!(kind(disk.create_dir(p("d"))), ErrorKind::PowerOff);
    assert_eq!(kind(disk.create_dir(p(""))), ErrorKind::PowerOff);
    assert_eq!(kind(disk.sync_dir(p(""))), ErrorKind::PowerOff);
    assert_eq!(kind(disk.read(p("a"), 1).map(|_| ())), ErrorKind::PowerOff);
    assert!(disk.lock(p("a"), "me").is_err());
    disk.submit(Lane::Meta, vec![(OpId(1), Op::Remove { path: "a".into() })]);
    assert!(!disk.step());
    assert_eq!((disk.operations(), disk.pending()), (2, 1));
    let after = disk.kill();
    after.create_dir(p("d")).unwrap();
    assert_eq!(after.operations(), 1);
}

#[test]
fn an_operation_under_way_happened_in_part_or_not_or_all() {
    let mut disk = SimDisk::new(1);
    let file = durable_file(&mut disk, "a", 1, Access::Direct);
    disk.submit(Lane::Write, vec![(OpId(1), write(file, 0, 2, 1))]);
    disk.submit(Lane::Meta, vec![(OpId(2), Op::Rename { from: "a".into(), to: "b".into() })]);
    disk.submit(Lane::Meta, vec![(OpId(3), Op::Remove { path: "b".into() })]);
    let seen = outcomes(&disk, PowerLoss::StrictPosix, |disk| {
        let names = names(disk);
        let written = sectors(disk, &names).iter().filter(|byte| **byte == 2).count();
        (names, written)
    });
    let names_seen: BTreeSet<&str> = seen.iter().map(|(names, _)| names.as_str()).collect();
    assert_eq!(names_seen, set(["a", "b"]), "only the head is under way");
    let counts: BTreeSet<usize> = seen.iter().map(|(_, written)| *written).collect();
    assert!(counts.len() > 4, "{counts:?}");
    assert_eq!((names(&disk).as_str(), disk.pending()), ("a", 3), "the disk itself goes on");
}

#[test]
fn a_file_under_creation_may_be_empty() {
    let mut disk = SimDisk::new(1);
    let file = disk.new_file_id();
    let size = BLOCK_BYTES;
    let create = Op::Create { file, path: "a".into(), size, access: Access::Direct };
    disk.submit(Lane::Meta, vec![(OpId(1), create)]);
    let seen = outcomes(&disk, PowerLoss::Ext4Ordered, |disk| Files::len(disk, p("a")).unwrap());
    assert_eq!(seen, set([None, Some(0), Some(BLOCK_BYTES)]));
}

#[test]
fn blocking_and_queued_operations_work_on_the_same_files() {
    let mut disk = SimDisk::new(1);
    disk.create_dir(p("d")).unwrap();
    disk.write_new(p("d/a"), &[1; 5000]).unwrap();
    let file = disk.new_file_id();
    let open = Op::Open { file, path: "d/a".into(), access: Access::Buffered };
    let append = Op::Append { file, offset: 5000, bytes: vec![2; 100] };
    let read = Op::Read { file, offset: 0, buf: filled(9, 2), len: 2 * BLOCK };
    disk.submit(
        Lane::Meta,
        [open, append, read].into_iter().zip(0..).map(|(op, id)| (OpId(id), op)).collect(),
    );
    disk.run();
    let last = std::iter::from_fn(|| disk.poll()).last().unwrap();
    let Ok(Outcome::Read(buf, len)) = last.result else { panic!("the read fails") };
    assert_eq!(len, 5100);
    assert!(buf[..5000].iter().all(|b| *b == 1) && buf[5000..5100].iter().all(|b| *b == 2));
    disk.copy(p("d/a"), p("d/b"), 4500).unwrap();
    let copy = content(&disk, "d/b").unwrap();
    assert_eq!(copy, [vec![1; 4500], vec![0; 600]].concat());
    assert_eq!(disk.copy(p("d/a"), p("d/c"), 5101).unwrap_err().kind, ErrorKind::ShortRead);
    assert_eq!(disk.names(p("d")).unwrap(), ["a", "b"]);
    assert_eq!(disk.len(p("d/b")).unwrap(), Some(5100));
    let unaligned = Op::Write { file, offset: 1, buf: filled(3, 1), len: 1 };
    one(&mut disk, unaligned).unwrap();
}

#[test]
fn a_reader_keeps_a_removed_file() {
    let disk = SimDisk::new(1);
    disk.write_new(p("a"), b"abc").unwrap();
    let reader = disk.open_read(p("a"), Access::Buffered).unwrap();
    disk.remove(p("a")).unwrap();
    disk.sync_dir(p("")).unwrap();
    let mut buf = AlignedBuf::zeroed(BLOCK);
    assert_eq!(reader.read_at(1, &mut buf, 10).unwrap(), 2);
    assert_eq!(&buf[..2], b"bc");
}

#[test]
fn a_lock_says_who_holds_it() {
    let disk = SimDisk::new(1);
    let held = disk.lock(p("lock"), "a longer holder").unwrap();
    let error = disk.lock(p("lock"), "b").unwrap_err();
    assert_eq!(error.to_string(), "lock is locked by a longer holder");
    drop(held);
    let _held = disk.lock(p("lock"), "b").unwrap();
    assert_eq!(content(&disk, "lock").unwrap(), b"b");
}

/// A run with everything in it, from one seed.
fn busy_run(seed: u64) -> SimDisk {
    let mut disk = SimDisk::new(seed);
    let mut rng = Rng::new(seed);
    let file = create(&mut disk, "a", 64, Access::Direct);
    let at = OpMatch::nth(OpClass::Sync, 3);
    disk.inject(Fault { at, what: FaultKind::Eio, times: Times::Count(1) });
    for id in 0..40 {
        let op = write(file, rng.below(60), id as u8, 1 + rng.index(4));
        disk.submit(Lane::Write, vec![(OpId(id), op)]);
        disk.submit(Lane::Sync, vec![(OpId(100 + id), Op::SyncData { file })]);
        disk.step();
    }
    let next = disk.crash(seed, PowerLoss::StrictPosix);
    next.write_new(p("b"), b"b").unwrap();
    next
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..10 {
        let (a, b) = (busy_run(seed), busy_run(seed));
        assert_eq!((a.trace_hash(), a.log()), (b.trace_hash(), b.log()));
        assert_eq!(content(&a, "a"), content(&b, "a"));
        assert!(a.log().contains(&format!("power loss: StrictPosix, seed {seed}")));
    }
    let hashes: BTreeSet<u64> = (0..50).map(|seed| busy_run(seed).trace_hash()).collect();
    assert_eq!(hashes.len(), 50);
}

#[test]
fn the_trace_tells_content_apart() {
    let hash = |bytes: &[u8]| {
        let disk = SimDisk::new(1);
        disk.write_new(p("a"), bytes).unwrap();
        disk.trace_hash()
    };
    assert_ne!(hash(b"a"), hash(b"b"));
}

#[test]
fn a_put_makes_its_file_once() {
    let mut disk = SimDisk::new(1);
    for (offset, byte) in [(4, 1), (0, 2)] {
        let put = Op::Put { path: "entries".into(), offset, bytes: vec![byte; 4] };
        one(&mut disk, put).unwrap();
    }
    let read = disk.read(std::path::Path::new("entries"), 100).unwrap();
    assert_eq!(read, [2, 2, 2, 2, 1, 1, 1, 1]);
}
