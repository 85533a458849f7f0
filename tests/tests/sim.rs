//! The archive on a simulated disk: a sample of what `cargo xtask crashpoints`, `iofaults`,
//! `mutants` and `sim` run at length.

use disk::OpKind;
use disk::sim::{Fault, FaultKind, Mutation, OpClass, OpMatch, Times};
use sim::crash::mutants::{self, By};
use sim::crash::{
    AckRule, FaultCase, Plan, Setup, Violation, compress, crash_points, disk_full, diverge, flip,
    flip_again, io_fault, promote, publish, record_gap,
};
use sim::fleet::live;

/// Fails with the seed and the way to the violation.
fn hold<T>(result: Result<T, Violation>) -> T {
    match result {
        Ok(value) => value,
        Err(violation) => panic!("{violation}"),
    }
}

#[test]
fn a_crash_at_any_operation_loses_nothing_that_was_acknowledged() {
    let mut noticed = 0;
    // Two of each shape of the log; one of them without a rename that doesn't replace.
    for seed in 0..6 {
        let explored = hold(crash_points(seed, Plan::SAMPLE, &[], Setup::new(seed)));
        assert!(explored.states > 50, "{explored:?}");
        noticed += explored.noticed;
    }
    assert!(noticed > 0, "a disk that lies about fsync was never noticed");
}

#[test]
fn the_making_of_an_archive_can_be_crashed_anywhere() {
    for seed in 0..4 {
        hold(mutants::run(By::Making, seed, &[], AckRule::Right));
    }
}

#[test]
fn a_killed_receiver_believes_nothing_that_it_has_not_synced_again() {
    for seed in 0..2 {
        hold(mutants::run(By::Kills, seed, &[], AckRule::Right));
    }
}

#[test]
fn a_failing_disk_is_not_believed() {
    for seed in 0..4 {
        hold(mutants::run(By::Faults, seed, &[], AckRule::Right));
    }
}

#[test]
fn a_full_disk_is_waited_for() {
    let states: u64 = (0..20).map(|seed| hold(disk_full(seed))).sum();
    assert!(states > 40, "{states}");
}

#[test]
fn a_write_that_finds_no_room_is_done_again_in_its_place() {
    for seed in 0..6 {
        for nth in 0..40 {
            let at = OpMatch::nth(OpClass::Kind(OpKind::Write), nth);
            let fault = Fault { at, what: FaultKind::Enospc, times: Times::Count(1) };
            hold(io_fault(&FaultCase { seed, fault }, &[], AckRule::Right));
        }
    }
}

#[test]
fn a_promotion_can_be_crashed_anywhere() {
    let states: u64 = (0..12).map(|seed| hold(promote(seed))).sum();
    assert!(states > 200, "{states}");
}

#[test]
fn a_gap_and_a_shipped_segment_can_be_crashed_anywhere() {
    let states: u64 = (0..3).map(|seed| hold(record_gap(seed)) + hold(publish(seed))).sum();
    assert!(states > 50, "{states}");
}

#[test]
fn a_compression_can_be_crashed_anywhere() {
    let states: u64 = (0..3).map(|seed| hold(compress(seed, &[]))).sum();
    assert!(states > 100, "{states}");
    // None of its syncs is there for nothing.
    for (class, path) in
        [(OpClass::Kind(OpKind::SyncAll), "*compress.tmp"), (OpClass::Kind(OpKind::SyncDir), "wal")]
    {
        let forgets = [Mutation::DropSync { class, path: path.to_owned() }];
        assert!((0..6).any(|seed| compress(seed, &forgets).is_err()), "{path} needn't be synced");
    }
}

#[test]
fn a_flipped_bit_is_withdrawn_and_fetched_again() {
    for seed in 0..6 {
        hold(flip(seed, &[], AckRule::Right));
    }
}

#[test]
fn a_flipped_bit_in_what_comes_again_is_no_divergence() {
    for seed in 0..20 {
        hold(flip_again(seed));
    }
}

#[test]
fn another_history_changes_nothing_that_is_stored() {
    for seed in 0..20 {
        hold(diverge(seed));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..3 {
        let plan = Plan { every: 100, ..Plan::SAMPLE };
        let first = hold(crash_points(seed, plan, &[], Setup::new(seed)));
        assert_eq!(hold(crash_points(seed, plan, &[], Setup::new(seed))), first);
    }
}

/// Seeds for each mutant: the first is known to show it, the rest are for the day it doesn't.
const SEEDS: u64 = 6;

#[test]
fn every_mutant_is_caught() {
    for mutant in mutants::list() {
        let caught = mutants::caught(&mutant, SEEDS);
        assert!(caught.is_some(), "nothing caught the mutant: {}", mutant.name);
    }
}

/// Lives of a receiver and its primary, each of 24 faults.
const LIVES: u64 = 1000;
/// One life of so many is lived twice, for the same trace.
const TWICE: u64 = 100;

#[test]
fn lives_of_a_receiver_and_its_primary_lose_nothing_that_was_acknowledged() {
    let next = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= LIVES {
                        break;
                    }
                    let lived = hold(live(seed));
                    if seed.is_multiple_of(TWICE) {
                        assert_eq!(hold(live(seed)), lived, "seed {seed}, lived twice");
                    }
                }
            });
        }
    });
}
