//! `cargo xtask crashpoints`, `iofaults`, `mutants`, `sim`: the simulation of the archive, at
//! length. Each prints its counts as one JSON line, and the seed of what failed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sim::crash::{
    AckRule, Plan, Setup, Violation, crash_points, disk_full, diverge, fault_cases, flip,
    flip_again, io_fault, mutants,
};
use sim::fleet::live;

/// States that `crashpoints` recovers from unless told otherwise: the bar of reliability.md.
const CRASH_STATES: u64 = 50_000;
/// Faults that `iofaults` plays unless told otherwise: the bar of reliability.md.
const FAULTS: u64 = 20_000;
/// Seeds of `sim` unless told otherwise.
const SIM_SEEDS: u64 = 1_000;
/// Seeds that each mutant is tried with at most.
const MUTANT_SEEDS: u64 = 20;
/// One seed of so many is run twice, for the same trace.
const TWICE: u64 = 100;

/// Where a campaign starts, and how much it does.
struct Options {
    seed: u64,
    count: Option<u64>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self { seed: 0, count: None };
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            let mut number = || -> Result<u64> {
                let value = args.next().with_context(|| format!("{flag} wants a number"))?;
                value.parse().with_context(|| format!("{flag} {value}"))
            };
            match flag.as_str() {
                "--seed" => options.seed = number()?,
                "--count" => options.count = Some(number()?),
                other => bail!("no flag {other}: [--seed FIRST] [--count N]"),
            }
        }
        Ok(options)
    }
}

/// What one seed gave: things done, and states checked.
#[derive(Default)]
struct Done {
    count: u64,
    states: u64,
    noticed: u64,
}

/// Runs seeds on all cores until `count` things are done, or one has failed.
fn campaign(
    name: &str,
    from: u64,
    count: u64,
    run: impl Fn(u64) -> Result<Done, Violation> + Sync,
) -> Result<()> {
    let started = Instant::now();
    let (seed, failed) = (AtomicU64::new(from), AtomicBool::new(false));
    let sum = Mutex::new(Done::default());
    let failure: Mutex<Option<(u64, Violation)>> = Mutex::new(None);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let enough = || sum.lock().is_ok_and(|sum| sum.count >= count);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) && !enough() {
                    let seed = seed.fetch_add(1, Ordering::Relaxed);
                    match run(seed) {
                        Ok(done) => {
                            if let Ok(mut sum) = sum.lock() {
                                sum.count += done.count;
                                sum.states += done.states;
                                sum.noticed += done.noticed;
                            }
                        }
                        Err(violation) => {
                            failed.store(true, Ordering::Relaxed);
                            if let Ok(mut failure) = failure.lock() {
                                failure.get_or_insert((seed, violation));
                            }
                        }
                    }
                }
            });
        }
    });
    let Done { count, states, noticed } = sum.into_inner().unwrap_or_default();
    let failure = failure.into_inner().ok().flatten();
    println!(
        "{{\"command\":\"{name}\",\"first_seed\":{from},\"seeds\":{},\"count\":{count},\
         \"states\":{states},\"lies_noticed\":{noticed},\"violations\":{},\"seconds\":{:.1}}}",
        seed.into_inner() - from,
        u32::from(failure.is_some()),
        started.elapsed().as_secs_f64(),
    );
    match failure {
        Some((seed, violation)) => bail!("seed {seed} (--seed {seed} --count 1): {violation}"),
        None => Ok(()),
    }
}

/// A crash after every operation of a workload, in every way.
pub(crate) fn crashpoints(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    campaign("crashpoints", options.seed, options.count.unwrap_or(CRASH_STATES), |seed| {
        let explored = crash_points(seed, Plan::WHOLE, &[], Setup::new(seed))?;
        let (states, noticed) = (explored.states, explored.noticed);
        Ok(Done { count: states, states, noticed })
    })
}

/// Every fault at every operation of a workload.
pub(crate) fn iofaults(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    campaign("iofaults", options.seed, options.count.unwrap_or(FAULTS), |seed| {
        let mut done = Done::default();
        for case in fault_cases(seed, 0, 1) {
            done.count += 1;
            done.states += io_fault(&case, &[], AckRule::Right)?;
        }
        done.states += disk_full(seed)?;
        Ok(done)
    })
}

/// Every bug of the list, until something catches it.
pub(crate) fn mutants(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let started = Instant::now();
    let mut missed = Vec::new();
    let list = mutants::list();
    for mutant in &list {
        match mutants::caught(mutant, options.count.unwrap_or(MUTANT_SEEDS)) {
            Some((seed, violation)) => {
                println!("{}: seed {seed}: {}", mutant.name, violation.what);
            }
            None => missed.push(mutant.name),
        }
    }
    println!(
        "{{\"command\":\"mutants\",\"mutants\":{},\"missed\":{},\"seconds\":{:.1}}}",
        list.len(),
        missed.len(),
        started.elapsed().as_secs_f64(),
    );
    if missed.is_empty() { Ok(()) } else { bail!("not caught: {}", missed.join(", ")) }
}

/// Some of everything, and a life of a receiver and its primary, for many seeds.
pub(crate) fn simulate(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    campaign("sim", options.seed, options.count.unwrap_or(SIM_SEEDS), |seed| {
        let explore = || crash_points(seed, Plan::SAMPLE, &[], Setup::new(seed));
        let explored = explore()?;
        if seed % TWICE == 0 && explore()? != explored {
            return Err(Violation::new("run twice, and not the same"));
        }
        let lived = live(seed)?;
        if seed % TWICE == 0 && live(seed)? != lived {
            return Err(Violation::new("lived twice, and not the same"));
        }
        let mut states = explored.states + disk_full(seed)? + flip(seed, &[], AckRule::Right)?;
        flip_again(seed)?;
        diverge(seed)?;
        for case in fault_cases(seed, seed % 100, 100) {
            states += io_fault(&case, &[], AckRule::Right)?;
        }
        Ok(Done { count: 1, states, noticed: explored.noticed })
    })
}
