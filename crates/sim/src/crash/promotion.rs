//! A promotion: the history file is kept and the new timeline begun, with a crash at each operation
//! of it; and a gap recorded and a segment published likewise.

use std::path::Path;
use std::sync::Arc;

use archive::{Archive, ArchiveError, Catalogue, Gap, Published, Resume, Stored};
use disk::Files;
use disk::sim::{PowerLoss, Rng, SimDisk};
use pg_types::{Branch, Lsn, SegmentNumber, TimelineId, WalFileName};

use super::session::Turn;
use super::{
    AckRule, Cut, Ledger, Primary, Session, SessionError, Setup, Trouble, Violation, check,
};

/// The ways to die in which what was synced is there.
const CUTS: [Cut; 3] =
    [Cut::Power(PowerLoss::StrictPosix), Cut::Power(PowerLoss::Ext4Ordered), Cut::Kill];

/// An archive with all of a log on timeline 1, and a server that left it somewhere in it.
pub(super) struct Scene {
    pub(super) primary: Primary,
    pub(super) disk: SimDisk,
    pub(super) ledger: Ledger,
    switch: Lsn,
    history: String,
    branch: Branch,
}

impl Scene {
    pub(super) fn new(seed: u64) -> Result<Self, Violation> {
        let primary = Primary::new(seed);
        let disk = SimDisk::new(seed);
        let setup = Setup { rule: AckRule::Right, ..Setup::new(seed) };
        let ledger = Ledger::new(primary.start());
        let session = Session::start(&primary, disk.clone(), setup, ledger, seed, false);
        let mut session = session.map_err(SessionError::into_violation)?;
        if session.run()? != Turn::Done {
            return Err(Violation::new("the log wasn't archived"));
        }
        let ledger = session.ledger.clone();
        drop(session);
        let records = primary.records();
        let switch = records[Rng::new(seed ^ 0xF02C).index(records.len())].end;
        let history = format!("1\t{switch}\tno recovery target specified\n");
        let branch = Branch::parse(second(), history.as_bytes());
        let branch = branch.map_err(|error| Violation::new(error.to_string()))?;
        Ok(Self { primary, disk, ledger, switch, history, branch })
    }

    fn follow(&self, disk: &SimDisk) -> Result<Option<Resume>, ArchiveError> {
        let claim = Archive::claim(Arc::new(disk.clone()), "the simulation")?;
        let archive = claim.open(&self.primary.identity(), &[7; 16])?;
        archive.keep_history(second(), self.history.as_bytes())?;
        archive.resume(&self.branch, None, false)
    }

    /// The new timeline begins with the old one's bytes, and those are as they were.
    fn check(&self, disk: &SimDisk, resume: Option<&Resume>) -> Result<(), Violation> {
        let wrong = |what: String| Err(Violation::new(what).logged(disk));
        check::sealed(disk, &self.primary, &self.ledger, Trouble::Nothing)?;
        let Some(resume) = resume else { return wrong("nothing to go on with".into()) };
        let size = self.primary.segment_size();
        let start = self.switch.segment_start(size);
        if (resume.timeline, resume.start) != (second(), start) {
            return wrong(format!("goes on with {} at {}", resume.timeline, resume.start));
        }
        if self.switch == start {
            return Ok(());
        }
        if resume.stored != (Stored::Partial { proved: self.switch }) {
            return wrong(format!("stored: {:?}", resume.stored));
        }
        let name = WalFileName::partial(second(), start.segment(size)).display(size).to_string();
        let bytes = usize::try_from(size.bytes()).unwrap_or(0);
        let found = disk.kill().read(&Path::new("wal").join(name), bytes);
        let len = usize::try_from(self.switch.saturating_since(start)).unwrap_or(0);
        match found {
            Ok(found) if found.get(..len) == Some(self.primary.bytes(start, len)) => Ok(()),
            Ok(_) => wrong("the new timeline doesn't begin with the old one's bytes".into()),
            Err(error) => wrong(error.to_string()),
        }
    }
}

fn second() -> TimelineId {
    TimelineId::new(2).unwrap_or(TimelineId::FIRST)
}

/// Crashes `what` at each operation, in each way, and hands each disk that is found to `after`.
/// Gives how many.
pub(super) fn crash_each(
    disk: &SimDisk,
    seed: u64,
    what: impl Fn(&SimDisk) -> Result<(), ArchiveError>,
    after: impl Fn(&SimDisk) -> Result<(), Violation>,
) -> Result<u64, Violation> {
    let mut states = 0;
    for operations in 0.. {
        let stopped = disk.kill();
        stopped.stop_at(stopped.operations() + operations);
        let result = what(&stopped);
        if !stopped.is_off() {
            result.map_err(|error| Violation::new(error.to_string()).logged(&stopped))?;
            stopped.stop_at(u64::MAX);
            after(&stopped)?;
            return Ok(states + 1);
        }
        for cut in CUTS {
            let (booted, _) = cut.apply(&stopped, &Ledger::new(Lsn::INVALID), seed ^ operations);
            let context = |violation: Violation| {
                violation.within(format_args!("{cut:?} after {operations} operations, seed {seed}"))
            };
            after(&booted).map_err(context)?;
            states += 1;
        }
    }
    Ok(states)
}

/// A promotion is followed whatever happens meanwhile. Gives the states that were checked.
///
/// # Errors
/// The first violation.
pub fn promote(seed: u64) -> Result<u64, Violation> {
    let scene = Scene::new(seed)?;
    let follow = |disk: &SimDisk| scene.follow(disk).map(drop);
    crash_each(&scene.disk, seed, follow, |disk| {
        let resume = scene.follow(disk);
        let resume = resume.map_err(|e| Violation::new(e.to_string()).logged(disk))?;
        scene.check(disk, resume.as_ref())
    })
}

/// A gap that was recorded before a crash is there after it, or was not yet said to be.
///
/// # Errors
/// The first violation.
pub fn record_gap(seed: u64) -> Result<u64, Violation> {
    let scene = Scene::new(seed)?;
    let gap = |from: u64, to: u64| Gap {
        timeline: TimelineId::FIRST,
        from: Lsn::new(from),
        to_timeline: second(),
        to: Lsn::new(to),
        reason: "the server had removed it".to_owned(),
        found: "2026-01-01T00:00:00Z".to_owned(),
    };
    let (first, other) = (gap(0x10_0000, 0x20_0000), gap(0x40_0000, 0x50_0000));
    let archive = |disk: &SimDisk| {
        let claim = Archive::claim(Arc::new(disk.clone()), "the simulation")?;
        claim.open(&scene.primary.identity(), &[7; 16])
    };
    let began = scene.disk.kill();
    let recorded = archive(&began).and_then(|archive| archive.record_gap(first.clone()));
    recorded.map_err(|error| Violation::new(error.to_string()))?;
    let record = |disk: &SimDisk| archive(disk)?.record_gap(other.clone()).map(drop);
    crash_each(&began, seed, record, |disk| {
        let gaps = archive(disk).and_then(|archive| archive.gaps());
        let gaps = gaps.map_err(|e| Violation::new(e.to_string()).logged(disk))?;
        let both = gaps == [first.clone(), other.clone()];
        if both || gaps == [first.clone()] {
            return Ok(());
        }
        Err(Violation::new(format!("{gaps:?}")).logged(disk))
    })
}

/// A segment that is published is whole under its name whenever the name is there, and a second
/// try finds it, or does it.
///
/// # Errors
/// The first violation.
pub fn publish(seed: u64) -> Result<u64, Violation> {
    let scene = Scene::new(seed)?;
    let size = scene.primary.segment_size();
    let number: SegmentNumber = scene.primary.start().segment(size);
    let name = WalFileName::segment(TimelineId::FIRST, number);
    let path = Path::new("wal").join(name.display(size).to_string());
    let bytes = usize::try_from(size.bytes()).unwrap_or(0);
    let content = scene.primary.bytes(number.start(size), bytes).to_vec();
    let empty = scene.disk.kill();
    empty.remove(&path).map_err(|error| Violation::new(error.to_string()))?;
    let ship = |disk: &SimDisk| -> Result<Published, ArchiveError> {
        let catalogue = Catalogue::open(Arc::new(disk.clone()))?;
        let _lock = catalogue.lock_staging("the simulation")?;
        if disk.len(catalogue.staging())?.is_some() {
            disk.remove(catalogue.staging())?;
        }
        disk.write_new(catalogue.staging(), &content)?;
        catalogue.publish(name)
    };
    crash_each(
        &empty,
        seed,
        |disk| ship(disk).map(drop),
        |disk| {
            let whole = |disk: &SimDisk| match disk.read(&path, bytes) {
                Ok(found) if found == content => Ok(()),
                Ok(_) => Err(Violation::new("half a segment has its name").logged(disk)),
                Err(error) => Err(Violation::new(error.to_string()).logged(disk)),
            };
            if disk.len(&path).ok().flatten().is_some() {
                whole(disk)?;
            }
            ship(disk).map_err(|error| Violation::new(error.to_string()).logged(disk))?;
            // What was said to be done survives.
            whole(&disk.crash(seed, PowerLoss::StrictPosix))
        },
    )
}
