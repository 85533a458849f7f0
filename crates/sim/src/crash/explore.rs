//! Crashes: after every operation of a session, inside the recovery, and again while what was
//! lost comes once more.

use disk::sim::{Mutation, PowerLoss, Rng, SimDisk};

use super::session::Turn;
use super::{Ledger, Pace, Primary, Session, SessionError, Setup, Trouble, Violation};

/// How many of a recovery's first operations a second crash hits mostly: that is where a missing
/// sync of the recovery shows.
const EARLY_OPERATIONS: u64 = 14;
/// Times that a stream is withdrawn or a disk mended in one session before it counts as a loop.
const MAX_RESTARTS: u32 = 8;

/// A way to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The power goes.
    Power(PowerLoss),
    /// SIGKILL: the page cache stays.
    Kill,
}

impl Cut {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Power(PowerLoss::StrictPosix),
        Self::Power(PowerLoss::Ext4Ordered),
        Self::Power(PowerLoss::LyingFsync),
        Self::Kill,
    ];

    /// What the next process finds, and what it has to stand by.
    #[must_use]
    pub fn apply(self, disk: &SimDisk, ledger: &Ledger, seed: u64) -> (SimDisk, Ledger) {
        match self {
            Self::Power(loss) => (disk.crash(seed, loss), ledger.after_power_loss(loss)),
            Self::Kill => (disk.kill(), ledger.clone()),
        }
    }

    fn lies(self) -> bool {
        self == Self::Power(PowerLoss::LyingFsync)
    }
}

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of so many operations one is crashed after; 1 crashes after each.
    pub every: u64,
    /// Seeds for each way to die, at each operation.
    pub seeds: u64,
    /// Of so many crashes one is followed by a second; 0 for none.
    pub again: u64,
    /// Of so many crashes one is recovered from with a crash at each operation of the recovery;
    /// 0 for none.
    pub recovery: u64,
    /// How often the first start, which makes the archive, is crashed at each of its operations.
    pub making: u64,
    /// The ways to die.
    pub cuts: &'static [Cut],
}

impl Plan {
    /// Some of everything.
    pub const SAMPLE: Self =
        Self { every: 20, seeds: 1, again: 3, recovery: 20, making: 2, cuts: &Cut::ALL };
    /// Every operation.
    pub const WHOLE: Self =
        Self { every: 1, seeds: 2, again: 4, recovery: 10, making: 5, cuts: &Cut::ALL };
    /// One crash of each kind, without more.
    pub const ONCE: Self =
        Self { every: 1, seeds: 1, again: 0, recovery: 0, making: 0, cuts: &Cut::ALL };
}

/// What was explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explored {
    /// States that were recovered from, and checked.
    pub states: u64,
    /// Among them those where a lying disk had lost what was acknowledged, and it was noticed.
    pub noticed: u64,
    /// The trace of the session that was crashed.
    pub trace_hash: u64,
}

/// Explores one workload.
pub struct Explorer<'a> {
    primary: &'a Primary,
    setup: Setup,
    plan: Plan,
    rng: Rng,
    /// States that were recovered from, and checked.
    pub states: u64,
    /// Among them those where a lying disk had lost what was acknowledged.
    pub noticed: u64,
    /// The trace of the session that was crashed.
    pub trace_hash: u64,
}

impl std::fmt::Debug for Explorer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Explorer").field("states", &self.states).finish_non_exhaustive()
    }
}

impl<'a> Explorer<'a> {
    /// For this log.
    #[must_use]
    pub fn new(primary: &'a Primary, setup: Setup, plan: Plan, seed: u64) -> Self {
        let rng = Rng::new(seed);
        Self { primary, setup, plan, rng, states: 0, noticed: 0, trace_hash: 0 }
    }

    /// Runs the workload on this disk, which is new, and crashes it as planned.
    ///
    /// # Errors
    /// The first violation.
    pub fn explore(&mut self, disk: SimDisk) -> Result<(), Violation> {
        let ledger = Ledger::new(self.primary.start());
        let seed = self.rng.next();
        for _ in 0..self.plan.making {
            self.cut_recovery(|| disk.kill(), &ledger, seed, true)?;
        }
        let session = Session::start(self.primary, disk, self.setup, ledger, seed, false);
        let mut session = session.map_err(SessionError::into_violation)?;
        let mut restarts = 0;
        let mut crashed_at = u64::MAX;
        loop {
            let operations = session.disk.operations();
            if operations != crashed_at {
                crashed_at = operations;
                if self.rng.below(self.plan.every) == 0 {
                    self.crash(&session.disk.clone(), &session.ledger.clone())?;
                }
            }
            match session.turn()? {
                Turn::Going => {}
                Turn::Done => break,
                Turn::Stopped => session = self.mend(session, &mut restarts)?,
            }
        }
        self.trace_hash = session.disk.trace_hash();
        session.finish()
    }

    /// Crashes in every way, and recovers.
    ///
    /// # Errors
    /// The first violation.
    pub fn crash(&mut self, disk: &SimDisk, ledger: &Ledger) -> Result<(), Violation> {
        for cut in self.plan.cuts.iter().copied() {
            let seeds = if cut == Cut::Kill { 1 } else { self.plan.seeds };
            for _ in 0..seeds {
                let seed = self.rng.next();
                self.cut(disk, ledger, cut, seed).map_err(|violation| {
                    let at = disk.operations();
                    violation.within(format_args!("{cut:?} after operation {at}, seed {seed:#x}"))
                })?;
            }
        }
        Ok(())
    }

    fn cut(
        &mut self,
        disk: &SimDisk,
        ledger: &Ledger,
        cut: Cut,
        seed: u64,
    ) -> Result<(), Violation> {
        let (booted, mut left) = cut.apply(disk, ledger, seed);
        if cut.lies() {
            // What such a disk loses is found in the comparison with the slot's position, and
            // what is proved then is all that is stood by.
            let probe = cut.apply(disk, ledger, seed).0;
            let proved = Session::proved_on(self.primary, &probe);
            let proved = proved.map_err(SessionError::into_violation)?;
            self.noticed += u64::from(proved < left.flush);
            left.flush = left.flush.min(proved);
            left.write = left.flush;
        }
        if self.plan.recovery > 0 && self.rng.below(self.plan.recovery) == 0 {
            self.cut_recovery(|| cut.apply(disk, ledger, seed).0, &left, seed, false)?;
        }
        let again = self.plan.again > 0 && self.rng.below(self.plan.again) == 0;
        // A kill alone shows little: what the next process finds isn't durable yet.
        let again = again || (self.plan.again > 0 && cut == Cut::Kill);
        self.recover(booted, left, again)
    }

    /// Goes on to the end, and crashes after each of the next operations.
    pub(super) fn watch(
        &mut self,
        mut session: Session<'_>,
        operations: u64,
    ) -> Result<(), Violation> {
        let mut next = session.disk.operations();
        let end = next + operations;
        let mut restarts = 0;
        loop {
            if (next..end).contains(&session.disk.operations()) {
                self.crash(&session.disk, &session.ledger)?;
                next = session.disk.operations() + 1;
            }
            match session.turn()? {
                Turn::Going => {}
                Turn::Done => return session.finish(),
                Turn::Stopped => session = self.mend(session, &mut restarts)?,
            }
        }
    }

    /// Recovers and goes on to the end; with `again` there is a second crash on the way.
    pub(super) fn recover(
        &mut self,
        disk: SimDisk,
        ledger: Ledger,
        again: bool,
    ) -> Result<(), Violation> {
        self.states += 1;
        let mut setup = self.setup;
        setup.pace = if again { Pace::Mixed } else { Pace::Bulk };
        setup.flip = None;
        disk.set_capacity(None);
        let booted_at = disk.operations();
        let seed = self.rng.next();
        let session = Session::start(self.primary, disk, setup, ledger, seed, false);
        let mut session = session.map_err(SessionError::into_violation)?;
        let mut second = again.then(|| {
            let span = if self.rng.coin() { EARLY_OPERATIONS } else { 150 };
            session.disk.operations() - booted_at + self.rng.below(span)
        });
        let mut restarts = 0;
        loop {
            if second.is_some_and(|at| session.disk.operations() - booted_at >= at) {
                second = None;
                session.setup.pace = Pace::Bulk;
                for cut in [Cut::Power(PowerLoss::StrictPosix), Cut::Power(PowerLoss::Ext4Ordered)]
                {
                    let seed = self.rng.next();
                    let (disk, ledger) = cut.apply(&session.disk, &session.ledger, seed);
                    self.recover(disk, ledger, false).map_err(|violation| {
                        violation.within(format_args!("second crash, {cut:?}, seed {seed:#x}"))
                    })?;
                }
            }
            match session.turn()? {
                Turn::Going => {}
                Turn::Done => return session.finish(),
                Turn::Stopped => session = self.mend(session, &mut restarts)?,
            }
        }
    }

    /// Crashes at each operation of claim, open and resume.
    fn cut_recovery(
        &mut self,
        disk: impl Fn() -> SimDisk,
        ledger: &Ledger,
        seed: u64,
        again: bool,
    ) -> Result<(), Violation> {
        for at in 0.. {
            let disk = disk();
            let already = disk.operations();
            disk.stop_at(already + at);
            let (primary, setup) = (self.primary, self.setup);
            match Session::start(primary, disk.clone(), setup, ledger.clone(), seed, false) {
                Ok(_) => break,
                // Whatever it is: the disk doesn't answer any more.
                Err(_) if disk.is_off() => {}
                Err(error) => return Err(error.into_violation()),
            }
            let cuts = [Cut::ALL[0], Cut::ALL[1], Cut::Kill];
            let cut = cuts[self.rng.index(cuts.len())];
            let (disk, ledger) = cut.apply(&disk, ledger, self.rng.next());
            self.recover(disk, ledger, again && cut == Cut::Kill).map_err(|violation| {
                violation.within(format_args!("{cut:?} in recovery, after operation {at}"))
            })?;
        }
        Ok(())
    }

    /// Goes on after a stop where one is expected: a stream that is wrong.
    pub(super) fn mend<'s>(
        &mut self,
        session: Session<'s>,
        restarts: &mut u32,
    ) -> Result<Session<'s>, Violation> {
        *restarts += 1;
        let stop = session.stop().cloned();
        let disk = session.disk.clone();
        match stop {
            Some(archive::Stop::Corrupt(_))
                if self.setup.trouble == Trouble::Stream && *restarts < MAX_RESTARTS =>
            {
                session.withdraw().map_err(SessionError::into_violation)
            }
            stop => {
                let what = format!("stopped without a reason: {stop:?}, restarts {restarts}");
                Err(Violation::new(what).logged(&disk))
            }
        }
    }
}

/// Explores the workload of a seed.
///
/// # Errors
/// The first violation.
pub fn crash_points(
    seed: u64,
    plan: Plan,
    mutations: &[Mutation],
    setup: Setup,
) -> Result<Explored, Violation> {
    let primary = Primary::new(seed);
    let disk = SimDisk::new(seed);
    // Some file systems have no rename that doesn't replace.
    disk.set_rename_by_link(seed % 4 == 3);
    for mutation in mutations {
        disk.mutate(mutation.clone());
    }
    let mut explorer = Explorer::new(&primary, setup, plan, seed);
    explorer.explore(disk).map_err(|v| v.within(format_args!("workload of seed {seed}")))?;
    let Explorer { states, noticed, trace_hash, .. } = explorer;
    Ok(Explored { states, noticed, trace_hash })
}
