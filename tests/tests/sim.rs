//! t
use sim::crash::{AckRule, Plan, Setup, crash_points, diverge, flip, flip_again, disk_full, mutants};

#[test]
fn crashes() {
    for seed in 0..3 {
        let plan = Plan { every: 8, seeds: 1, again: 4, recovery: 20 };
        let at = std::time::Instant::now();
        match crash_points(seed, plan, &[], Setup::new(seed)) {
            Ok(x) => println!("{seed} {x:?} {:?}", at.elapsed()),
            Err(e) => panic!("{seed}: {e}"),
        }
    }
}
#[test]
fn faults() {
    for seed in 0..3 {
        let at = std::time::Instant::now();
        match mutants::run(mutants::By::Faults, seed, &[], AckRule::Right) {
            Ok(x) => println!("{seed} {x:?} {:?}", at.elapsed()),
            Err(e) => panic!("{seed}: {e}"),
        }
    }
}
#[test]
fn full() {
    for seed in 0..20 {
        let at = std::time::Instant::now();
        match disk_full(seed) {
            Ok(x) => println!("{seed} {x:?} {:?}", at.elapsed()),
            Err(e) => panic!("{seed}: {e}"),
        }
    }
}
#[test]
fn flips() {
    for seed in 0..6 {
        let at = std::time::Instant::now();
        match flip(seed, &[], AckRule::Right) {
            Ok(x) => println!("{seed} {x:?} {:?}", at.elapsed()),
            Err(e) => panic!("{seed}: {e}"),
        }
    }
}
#[test]
fn flips_again() {
    for seed in 0..20 {
        if let Err(e) = flip_again(seed) { panic!("{seed}: {e}"); }
    }
}
#[test]
fn diverges() {
    for seed in 0..20 {
        if let Err(e) = diverge(seed) { panic!("{seed}: {e}"); }
    }
}
#[test]
fn mutated() {
    let mut missed = vec![];
    for m in mutants::list() {
        let at = std::time::Instant::now();
        match mutants::caught(&m, 12) {
            Some((seed, v)) => println!("CAUGHT {} by seed {seed} in {:?}: {}", m.name, at.elapsed(), v.what),
            None => { println!("MISSED {} in {:?}", m.name, at.elapsed()); missed.push(m.name) },
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}
