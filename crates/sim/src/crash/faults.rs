//! A disk that fails: any operation, in any way, once or for a while; and crashes after it.

use disk::OpKind;
use disk::sim::{Fault, FaultKind, Mutation, OpClass, OpMatch, Rng, SimDisk, Times};

use super::session::Turn;
use super::{
    AckRule, Explorer, Ledger, Plan, Primary, Session, SessionError, Setup, Trouble, Violation,
};

/// Starts and restarts after which a disk that isn't failing any more counts as never mended.
const MAX_STARTS: u32 = 12;
/// So many of them fail at most before the disk is well again.
const FAILING_STARTS: u32 = 3;
/// Tries of a full disk before there is room again.
const FULL_TRIES: u32 = 3;
/// Operations after a restart of which each is crashed after, now and then.
const WATCHED_OPERATIONS: u64 = 12;

/// What fails, and how.
#[derive(Clone, Debug)]
pub struct FaultCase {
    /// The workload, and all choices.
    pub seed: u64,
    /// The fault.
    pub fault: Fault,
}

/// Every fault at every operation of a seed's workload; of `of` of them the `nth` one only.
#[must_use]
pub fn fault_cases(seed: u64, nth: u64, of: u64) -> Vec<FaultCase> {
    const KINDS: [FaultKind; 6] = [
        FaultKind::Eio,
        FaultKind::Enospc,
        FaultKind::Erofs,
        FaultKind::ShortWrite,
        FaultKind::Eintr,
        FaultKind::FsyncFailsThenSucceeds,
    ];
    let (changes, reads) = operations(seed);
    let mut cases = Vec::new();
    for what in KINDS {
        for at in 0..changes {
            // Once, for a moment, until somebody mends it.
            let times = match at % 3 {
                0 => Times::Count(1),
                1 => Times::Count(4),
                _ => Times::Forever,
            };
            let at = OpMatch::nth(OpClass::Change, at);
            cases.push(FaultCase { seed, fault: Fault { at, what, times } });
        }
    }
    // Among them those that others are behind in their lane.
    for at in 0..changes {
        let at = OpMatch::nth(OpClass::Kind(OpKind::Write), at);
        let (what, times) = (FaultKind::Enospc, Times::Count(1));
        cases.push(FaultCase { seed, fault: Fault { at, what, times } });
    }
    for kind in [OpKind::Read, OpKind::Open, OpKind::List] {
        for at in 0..reads {
            let at = OpMatch::nth(OpClass::Kind(kind), at);
            let (what, times) = (FaultKind::Eio, Times::Count(1));
            cases.push(FaultCase { seed, fault: Fault { at, what, times } });
        }
    }
    let cases = cases.into_iter().enumerate();
    cases.filter(|(at, _)| *at as u64 % of == nth).map(|(_, case)| case).collect()
}

/// The operations of a workload without faults that change something, and enough of each kind
/// that don't.
fn operations(seed: u64) -> (u64, u64) {
    let primary = Primary::new(seed);
    let disk = SimDisk::new(seed);
    let (setup, ledger) = (Setup::new(seed), Ledger::new(primary.start()));
    if let Ok(mut session) = Session::start(&primary, disk.clone(), setup, ledger, seed, false) {
        _ = session.run();
    }
    // A start reads a dozen times; each compare of a restart reads once.
    (disk.operations(), 24)
}

/// Runs a workload on a disk that fails, to the end; gives the states that were checked.
///
/// # Errors
/// The first violation.
pub fn io_fault(case: &FaultCase, mutations: &[Mutation], rule: AckRule) -> Result<u64, Violation> {
    let primary = Primary::new(case.seed);
    let disk = SimDisk::new(case.seed);
    for mutation in mutations {
        disk.mutate(mutation.clone());
    }
    disk.inject(case.fault.clone());
    let mut run = FailingRun::new(&primary, case.seed, rule);
    run.until_archived(disk).map_err(|violation| violation.within(format_args!("{case:?}")))?;
    Ok(run.explorer.states)
}

/// Runs a workload on a disk that becomes full at some moment, and has room again later. It never
/// stops for that, and loses nothing.
///
/// # Errors
/// The first violation.
pub fn disk_full(seed: u64) -> Result<u64, Violation> {
    let primary = Primary::new(seed);
    let disk = SimDisk::new(seed);
    let mut run = FailingRun::new(&primary, seed, AckRule::Right);
    let mut rng = Rng::new(seed);
    let full_at = rng.below(100);
    let room = rng.below(3 << 19);
    let (setup, ledger) = (run.setup, Ledger::new(primary.start()));
    let session = Session::start(&primary, disk, setup, ledger, seed, false);
    let mut session = session.map_err(SessionError::into_violation)?;
    let mut is_full = false;
    loop {
        if !is_full && session.disk.operations() >= full_at {
            is_full = true;
            session.disk.set_capacity(Some(session.disk.used_bytes() + room));
        }
        if session.retries == FULL_TRIES {
            session.retries += 1;
            run.explorer.crash(&session.disk, &session.ledger)?;
            session.disk.set_capacity(None);
        }
        match session.turn().map_err(|v| v.within(format_args!("full disk, seed {seed}")))? {
            Turn::Going => {}
            Turn::Done => break,
            Turn::Stopped => {
                let what = format!("a full disk stopped it: {:?}, seed {seed}", session.stop());
                return Err(Violation::new(what).logged(&session.disk));
            }
        }
    }
    session.finish()?;
    Ok(run.explorer.states)
}

struct FailingRun<'a> {
    primary: &'a Primary,
    setup: Setup,
    rng: Rng,
    explorer: Explorer<'a>,
    starts: u32,
}

impl<'a> FailingRun<'a> {
    fn new(primary: &'a Primary, seed: u64, rule: AckRule) -> Self {
        let setup = Setup { trouble: Trouble::Disk, rule, ..Setup::new(seed) };
        let explorer = Explorer::new(primary, setup, Plan::ONCE, seed);
        Self { primary, setup, rng: Rng::new(seed ^ 0xFA17), explorer, starts: 0 }
    }

    /// Starts again and again, in the same process or after a crash, until all is archived.
    fn until_archived(&mut self, mut disk: SimDisk) -> Result<(), Violation> {
        let mut ledger = Ledger::new(self.primary.start());
        let mut rebuild = false;
        loop {
            self.count_start(&disk)?;
            let (setup, seed) = (self.setup, self.rng.next());
            let promised = ledger.clone();
            let started =
                Session::start(self.primary, disk.clone(), setup, promised, seed, rebuild);
            match started {
                Err(SessionError::Violation(violation)) => return Err(violation),
                Err(SessionError::Archive(_)) => {
                    rebuild = true;
                    if self.rng.coin() {
                        let cut = super::Cut::ALL[self.rng.index(2)];
                        (disk, ledger) = cut.apply(&disk, &ledger, self.rng.next());
                        rebuild = false;
                    }
                }
                Ok(session) => match self.stream(session)? {
                    None => return Ok(()),
                    Some(left) => (disk, ledger, rebuild) = (left.0, left.1, true),
                },
            }
        }
    }

    fn count_start(&mut self, disk: &SimDisk) -> Result<(), Violation> {
        self.starts += 1;
        if self.starts > FAILING_STARTS {
            disk.clear_faults();
        }
        if self.starts > MAX_STARTS {
            return Err(Violation::new("never mended").logged(disk));
        }
        Ok(())
    }

    /// Streams to the end, restarting where the disk fails; gives what is left where a restart
    /// failed.
    fn stream(&mut self, mut session: Session<'a>) -> Result<Option<(SimDisk, Ledger)>, Violation> {
        let mut watched = 0..0;
        loop {
            let operations = session.disk.operations();
            if watched.contains(&operations) && self.rng.below(6) == 0 {
                self.explorer.crash(&session.disk, &session.ledger)?;
                watched.start = operations + 1;
            }
            if session.retries >= FULL_TRIES {
                session.disk.clear_faults();
            }
            match session.turn()? {
                Turn::Going => continue,
                Turn::Done => return session.finish().map(|()| None),
                Turn::Stopped => {}
            }
            if !matches!(session.stop(), Some(archive::Stop::Disk(_))) {
                let what = format!("a failing disk stopped it with {:?}", session.stop());
                return Err(Violation::new(what).logged(&session.disk));
            }
            session.drain()?;
            // What was written and not synced was promised for this process's end, not for a disk
            // that loses it.
            session.ledger.write = session.ledger.flush;
            let (disk, ledger) = (session.disk.clone(), session.ledger.clone());
            self.explorer.crash(&disk, &ledger)?;
            self.count_start(&disk)?;
            session = match session.reconnect(true) {
                Ok(session) => session,
                Err(SessionError::Violation(violation)) => return Err(violation),
                Err(SessionError::Archive(_)) => return Ok(Some((disk, ledger))),
            };
            let now = session.disk.operations();
            watched = now..now + WATCHED_OPERATIONS;
        }
    }
}
