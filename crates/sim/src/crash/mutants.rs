//! Bugs that the harness must catch: each sync left out, each guard of an acknowledgement.
//!
//! No sync is here twice, and none of the archive's is missing: one that nothing catches is one
//! that nothing needs, and isn't made.

use disk::sim::{Mutation, OpClass};
use disk::{Lane, OpKind};

use super::{AckRule, Cut, Plan, Setup, Violation, crash_points, fault_cases, flip, io_fault};

/// A bug.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// What is wrong.
    pub name: &'static str,
    /// On the disk.
    pub mutation: Option<Mutation>,
    /// In what is acknowledged.
    pub rule: AckRule,
    /// What shows it.
    pub by: By,
    /// A seed that has shown it, which is tried first.
    pub seed: u64,
}

/// A part of the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Crashes of a workload.
    Crashes,
    /// Crashes while the archive is being made.
    Making,
    /// SIGKILLs, and losses of power after them.
    Kills,
    /// Faults of the disk, and crashes after them.
    Faults,
    /// A bit of the stream flipped, and crashes of the withdrawal.
    Flips,
}

/// Every mutant there is.
#[must_use]
pub fn list() -> Vec<Mutant> {
    let mut list = syncs();
    let rules = [
        ("durable, not proved", AckRule::DurableUnproved),
        ("proved, not durable", AckRule::ProvedNotDurable),
        ("written as flushed", AckRule::WrittenAsFlushed),
        ("received as flushed", AckRule::ReceivedAsFlushed),
        ("proved as written", AckRule::ProvedAsWritten),
        ("less than before", AckRule::BelowTheFloor),
        ("in the middle of a record", AckRule::WithinARecord),
    ];
    for (name, rule) in rules {
        list.push(Mutant { name, mutation: None, rule, by: By::Crashes, seed: 0 });
    }
    for (name, mutation) in [
        ("synced before it is written", Mutation::SyncBeforeWrite),
        ("synced when it is submitted", Mutation::CompleteBeforeDone),
    ] {
        let mutation = Some(mutation);
        list.push(Mutant { name, mutation, rule: AckRule::Right, by: By::Crashes, seed: 0 });
    }
    list
}

/// Each sync, left out.
fn syncs() -> Vec<Mutant> {
    const DATA: OpClass = OpClass::Kind(OpKind::SyncData);
    const FILE: OpClass = OpClass::Kind(OpKind::SyncAll);
    const DIR: OpClass = OpClass::Kind(OpKind::SyncDir);
    let (write, sync, meta) = (Some(Lane::Write), Some(Lane::Sync), Some(Lane::Meta));
    [
        (By::Crashes, 0, "data behind a write", write, DATA, "wal/*", "*"),
        (By::Crashes, 0, "data of a segment", sync, DATA, "wal/*", "*"),
        (By::Crashes, 0, "the name of a .partial", meta, DIR, "wal", "wal/.*.tmp -> *"),
        (By::Crashes, 0, "the name of a sealed segment", meta, DIR, "wal", "wal/*.partial -> *"),
        (By::Making, 0, "seawall.json", None, FILE, ".seawall.json.tmp", "*"),
        (By::Making, 0, "the directories, before", None, DIR, "", ""),
        (By::Making, 0, "the name of seawall.json", None, DIR, "", "*seawall.json"),
        (By::Kills, 0, "what a start finds in a .partial", None, FILE, "wal/*.partial", "*"),
        (By::Kills, 1, "the names that a start finds", None, DIR, "wal", "*"),
        (By::Faults, 0, "a file made anew", None, FILE, "wal/.*.copy.tmp", "*"),
        (By::Faults, 0, "the name of a file made anew", None, DIR, "wal", "*.copy.tmp -> *"),
        (By::Flips, 3, "evidence", None, FILE, "quarantine/*", "*"),
        (By::Flips, 3, "the name of evidence", None, DIR, "quarantine", "*"),
        (By::Flips, 3, "withdrawing the newest first", None, DIR, "wal", "* -> quarantine/*"),
    ]
    .into_iter()
    .map(|(by, seed, name, lane, class, path, after)| {
        let (path, after) = (path.to_owned(), after.to_owned());
        let mutation = Some(Mutation::DropSyncIn { lane, class, path, after });
        Mutant { name, mutation, rule: AckRule::Right, by, seed }
    })
    .collect()
}

/// Runs the part of the harness on the workload of a seed.
///
/// # Errors
/// The first violation, which for a mutant is what is wanted.
pub fn run(by: By, seed: u64, mutations: &[Mutation], rule: AckRule) -> Result<u64, Violation> {
    let setup = Setup { rule, ..Setup::new(seed) };
    match by {
        By::Crashes => {
            let plan = Plan { every: 8, ..Plan::SAMPLE };
            crash_points(seed, plan, mutations, setup).map(|found| found.states)
        }
        By::Making => {
            let plan = Plan { every: u64::MAX, making: 20, ..Plan::SAMPLE };
            crash_points(seed, plan, mutations, setup).map(|found| found.states)
        }
        By::Kills => {
            let plan = Plan { every: 3, cuts: &[Cut::Kill], ..Plan::SAMPLE };
            crash_points(seed, plan, mutations, setup).map(|found| found.states)
        }
        By::Faults => {
            let mut states = 0;
            for case in fault_cases(seed, seed % 40, 40) {
                states += io_fault(&case, mutations, rule)?;
            }
            Ok(states)
        }
        By::Flips => flip(seed, mutations, rule),
    }
}

/// What catches a mutant, and with which seed; `None` if none of so many does.
#[must_use]
pub fn caught(mutant: &Mutant, seeds: u64) -> Option<(u64, Violation)> {
    let mutations: Vec<Mutation> = mutant.mutation.clone().into_iter().collect();
    [mutant.seed].into_iter().chain(0..seeds).find_map(|seed| {
        run(mutant.by, seed, &mutations, mutant.rule).err().map(|violation| (seed, violation))
    })
}
