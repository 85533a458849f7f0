//! Bytes and lengths.

use proptest::prelude::*;

use super::*;

#[test]
fn rewritten_sectors_are_old_or_new_and_torn_anywhere_until_synced() {
    for (loss, access) in HONEST.into_iter().zip([Access::Direct, Access::Buffered]) {
        let mut disk = SimDisk::new(1);
        let file = durable_file(&mut disk, "a", 2, access);
        one(&mut disk, write(file, 0, 2, 2)).unwrap();
        let seen = outcomes(&disk, loss, |disk| sectors(disk, "a"));
        assert!(seen.contains(&vec![1; 16]) && seen.contains(&vec![2; 16]));
        assert!(seen.len() > 20, "torn in many ways");
        assert!(seen.iter().flatten().all(|byte| [1, 2].contains(byte)), "never garbage");
        one(&mut disk, Op::SyncData { file }).unwrap();
        assert_eq!(outcomes(&disk, loss, |disk| sectors(disk, "a")), set([vec![2; 16]]));
    }
}

#[test]
fn unsynced_writes_survive_in_any_order() {
    for loss in HONEST {
        let mut disk = SimDisk::new(1);
        let file = durable_file(&mut disk, "a", 3, Access::Direct);
        for block in 0..3 {
            one(&mut disk, write(file, block, 2, 1)).unwrap();
        }
        let seen = outcomes(&disk, loss, |disk| {
            sectors(disk, "a").chunks(8).map(|block| block == [2; 8]).collect::<Vec<_>>()
        });
        assert_eq!(seen.len(), 8, "all subsets: {seen:?}");
    }
}

#[test]
fn a_sector_written_twice_may_have_either_content() {
    let mut disk = SimDisk::new(1);
    let file = durable_file(&mut disk, "a", 1, Access::Direct);
    one(&mut disk, write(file, 0, 2, 1)).unwrap();
    one(&mut disk, write(file, 0, 3, 1)).unwrap();
    let seen = outcomes(&disk, PowerLoss::StrictPosix, |disk| sectors(disk, "a")[0]);
    assert_eq!(seen, set([1, 2, 3]));
}

#[test]
fn the_length_is_old_or_new_and_garbage_only_past_the_durable_one() {
    let mut disk = SimDisk::new(1);
    let file = durable_file(&mut disk, "a", 1, Access::Direct);
    one(&mut disk, write(file, 1, 2, 1)).unwrap();
    for loss in HONEST {
        let seen = outcomes(&disk, loss, |disk| sectors(disk, "a"));
        let lengths: BTreeSet<usize> = seen.iter().map(Vec::len).collect();
        assert_eq!(lengths, set([8, 16]), "{loss:?}");
        assert!(seen.iter().all(|sectors| sectors[..8] == [1; 8]), "{loss:?}");
        let mut new = seen.iter().flat_map(|sectors| &sectors[8..]);
        match loss {
            // The length that the write made implies its bytes.
            PowerLoss::Ext4Ordered => assert!(new.all(|byte| *byte == 2)),
            _ => {
                assert!(seen.iter().any(|sectors| sectors[8..] == [2; 8]), "new");
                assert!(seen.iter().any(|sectors| sectors[8..] == [0; 8]), "zeros");
                assert!(seen.iter().any(|sectors| sectors[8..].contains(&1)), "stale bytes");
                assert!(new.any(|byte| *byte > 2), "garbage");
            }
        }
    }
}

#[test]
fn allocated_room_is_garbage_until_synced_but_not_on_ext4() {
    let mut disk = SimDisk::new(1);
    let file = create(&mut disk, "a", 2, Access::Direct);
    disk.sync_dir(p("")).unwrap();
    let clean = |disk: &SimDisk| sectors(disk, "a").iter().all(|byte| *byte == 0);
    assert_eq!(outcomes(&disk, PowerLoss::StrictPosix, clean), set([false, true]));
    assert_eq!(outcomes(&disk, PowerLoss::Ext4Ordered, clean), set([true]));
    one(&mut disk, Op::SyncData { file }).unwrap();
    one(&mut disk, write(file, 0, 2, 2)).unwrap();
    for loss in HONEST {
        let seen = outcomes(&disk, loss, |disk| sectors(disk, "a"));
        assert!(seen.iter().all(|sectors| sectors.len() == 16), "the length is durable");
        assert!(seen.iter().flatten().all(|byte| [0, 2].contains(byte)), "the zeros are durable");
    }
}

#[test]
fn a_sync_covers_what_was_written_when_it_started() {
    let mut disk = SimDisk::new(1);
    let file = durable_file(&mut disk, "a", 2, Access::Direct);
    one(&mut disk, write(file, 0, 2, 1)).unwrap();
    // The sync is the head of its lane from its submission on; the write is performed first.
    let mut performed = false;
    for seed in 0..64 {
        let mut disk = SimDisk::new(seed);
        let file = durable_file(&mut disk, "a", 2, Access::Direct);
        one(&mut disk, write(file, 0, 2, 1)).unwrap();
        disk.submit(Lane::Sync, vec![(OpId(1), Op::SyncData { file })]);
        disk.submit(Lane::Write, vec![(OpId(2), write(file, 1, 3, 1))]);
        disk.step();
        if disk.poll().is_some_and(|completion| completion.id == OpId(1)) {
            continue;
        }
        performed = true;
        disk.run();
        let seen = outcomes(&disk, PowerLoss::StrictPosix, |disk| sectors(disk, "a"));
        assert!(seen.iter().all(|sectors| sectors[..8] == [2; 8]));
        assert!(seen.iter().any(|sectors| sectors[8..] == [1; 8]));
        one(&mut disk, Op::SyncData { file }).unwrap();
        let seen = outcomes(&disk, PowerLoss::StrictPosix, |disk| sectors(disk, "a")[15]);
        assert_eq!(seen, set([3]));
    }
    assert!(performed, "no seed performs the write first");
}

#[test]
fn a_lying_disk_goes_back_to_an_earlier_sync() {
    let mut disk = SimDisk::new(1);
    let file = durable_file(&mut disk, "a", 4, Access::Direct);
    for block in 0..4 {
        one(&mut disk, write(file, block, 2, 1)).unwrap();
        one(&mut disk, Op::SyncData { file }).unwrap();
    }
    let honest = outcomes(&disk, PowerLoss::StrictPosix, |disk| sectors(disk, "a"));
    assert_eq!(honest, set([vec![2; 32]]));
    let seen = outcomes(&disk, PowerLoss::LyingFsync, |disk| sectors(disk, "a"));
    for whole in 0..=4 {
        let expect: Vec<u8> = (0..32).map(|i| if i < whole * 8 { 2 } else { 1 }).collect();
        assert!(seen.contains(&expect), "{whole} blocks");
    }
}

#[test]
fn a_kill_keeps_the_cache_and_what_is_not_durable_stays_so() {
    let mut disk = SimDisk::new(1);
    let file = durable_file(&mut disk, "a", 1, Access::Buffered);
    one(&mut disk, write(file, 0, 2, 1)).unwrap();
    disk.write_new(p("b"), b"b").unwrap();
    let lock = disk.lock(p("lock"), "me").unwrap();
    let killed = disk.kill();
    assert_eq!(names(&killed), "a b lock");
    assert_eq!(sectors(&killed, "a"), [2; 8]);
    let _again = killed.lock(p("lock"), "the next").unwrap();
    drop(lock);
    assert!(killed.lock(p("lock"), "third").is_err(), "the dead holder's drop isn't ours");
    let seen = outcomes(&killed, PowerLoss::StrictPosix, |disk| sectors(disk, "a")[0]);
    assert_eq!(seen, set([1, 2]));
}

/// One step of a random run on one file.
#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, len: usize },
    Sync,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0u64..6000, 1usize..3000).prop_map(|(offset, len)| Step::Write { offset, len });
    proptest::collection::vec(prop_oneof![3 => write, 1 => Just(Step::Sync)], 1..20)
}

proptest! {
    /// An oracle of its own: the versions that each sector and the length may have.
    #[test]
    fn every_sector_is_durable_or_a_version_since(steps in steps(), seed: u64) {
        let mut disk = SimDisk::new(seed);
        let file = create(&mut disk, "a", 0, Access::Buffered);
        disk.sync_dir(p("")).unwrap();
        let mut now: Vec<u8> = Vec::new();
        let mut versions: Vec<Vec<u8>> = vec![Vec::new()];
        let mut byte = 0;
        for step in steps {
            match step {
                Step::Write { offset, len } => {
                    byte += 1;
                    let end = offset as usize + len;
                    now.resize(now.len().max(end), 0);
                    now[offset as usize..end].fill(byte);
                    let bytes = vec![byte; len];
                    one(&mut disk, Op::Append { file, offset, bytes }).unwrap();
                    versions.push(now.clone());
                }
                Step::Sync => {
                    one(&mut disk, Op::SyncAll { file }).unwrap();
                    versions = vec![now.clone()];
                }
            }
        }
        for loss in HONEST {
            for crash in 0..8 {
                let found = content(&disk.crash(seed ^ crash, loss), "a").unwrap();
                check(&found, &versions, loss);
            }
        }
    }
}

fn check(found: &[u8], versions: &[Vec<u8>], loss: PowerLoss) {
    assert!(versions.iter().any(|version| version.len() == found.len()), "length");
    let durable = versions[0].len();
    for (index, sector) in found.chunks(512).enumerate() {
        let at = index * 512;
        if at >= durable && loss == PowerLoss::StrictPosix {
            continue;
        }
        let version_at = |version: &Vec<u8>| -> Vec<u8> {
            (at..at + sector.len()).map(|at| version.get(at).copied().unwrap_or(0)).collect()
        };
        let matches = versions.iter().any(|version| version_at(version) == sector);
        assert!(matches, "{loss:?}: sector {index} has never been so");
    }
}
