//! t
use sim::crash::{Plan, Setup, crash_points};

#[test]
fn plain() {
    for seed in 0..12 {
        let plan = Plan { every: u64::MAX, seeds: 1, again: 0, recovery: 0 };
        let at = std::time::Instant::now();
        match crash_points(seed, plan, &[], Setup::new(seed)) {
            Ok(x) => println!("{seed} {x:?} {:?}", at.elapsed()),
            Err(e) => panic!("{seed}: {e}"),
        }
    }
}

#[test]
fn crashes() {
    for seed in 0..3 {
        let plan = Plan { every: 10, seeds: 1, again: 4, recovery: 20 };
        let at = std::time::Instant::now();
        match crash_points(seed, plan, &[], Setup::new(seed)) {
            Ok(x) => println!("{seed} {x:?} {:?}", at.elapsed()),
            Err(e) => panic!("{seed}: {e}"),
        }
    }
}
