//! One run of a receiver: claim, open, resume, then the stream, an event at a time.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archive::{Archive, ArchiveError, Event, Options, Resume, Stop, Writer};
use disk::Disk;
use disk::sim::{Rng, SimDisk};
use pg_types::Lsn;

use super::{AckRule, Ledger, Primary, Violation, check};

/// Turns without any effect, after which a session is stuck: in so many each kind of event has
/// been tried some ten times.
const MAX_IDLE_TURNS: u32 = 200;
/// Idle turns, after which time passes.
const PATIENCE_TURNS: u32 = 40;
/// What the stream is behind by while catching up: more than the writer's bound.
const FAR_BEHIND: u64 = 64 << 20;

/// In which pieces the stream comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// From single bytes to 128 KiB, live and catching up by turns: many orders of events.
    Mixed,
    /// Large pieces, quickly to the end.
    Bulk,
}

/// What goes wrong beside crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing: then nothing is mended, and nothing is set aside.
    Nothing,
    /// The disk fails: something may be mended.
    Disk,
    /// The stream is wrong: a sealed segment that isn't settled may be withdrawn.
    Stream,
}

/// How a session runs.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The writer's memory.
    pub options: Options,
    /// What is acknowledged.
    pub rule: AckRule,
    /// How the stream comes.
    pub pace: Pace,
    /// The stream has one bit wrong: of this byte, this one.
    pub flip: Option<(Lsn, u8)>,
    /// What goes wrong beside crashes, and excuses what.
    pub trouble: Trouble,
}

impl Setup {
    /// Buffers so small that a segment takes many operations; by the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let buffer_bytes = [16 << 10, 32 << 10, 64 << 10][(seed % 3) as usize];
        Self {
            options: Options { buffers: 6, buffer_bytes, sync: true },
            rule: AckRule::Right,
            pace: Pace::Mixed,
            flip: None,
            trouble: Trouble::Nothing,
        }
    }
}

/// Why a session didn't begin.
#[derive(Debug)]
pub enum SessionError {
    /// The archive said no.
    Archive(ArchiveError),
    /// It began, and what it found is wrong.
    Violation(Violation),
}

impl From<ArchiveError> for SessionError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl From<Violation> for SessionError {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl SessionError {
    /// Where a disk that works can't be the reason.
    #[must_use]
    pub fn into_violation(self) -> Violation {
        match self {
            Self::Archive(error) => Violation::new(format!("the archive can't be used: {error}")),
            Self::Violation(violation) => violation,
        }
    }
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is more to come.
    Going,
    /// The whole log is archived and acknowledged, and nothing is under way.
    Done,
    /// The writer has stopped.
    Stopped,
}

/// See the [module](self).
pub struct Session<'a> {
    primary: &'a Primary,
    /// What is streamed, if all is well the same.
    served: &'a Primary,
    /// The disk.
    pub disk: SimDisk,
    archive: Archive,
    writer: Writer,
    /// How it runs; may be changed between turns.
    pub setup: Setup,
    /// What was promised so far.
    pub ledger: Ledger,
    rng: Rng,
    now: Instant,
    live: bool,
    idle_turns: u32,
    /// Times that a full disk was tried again.
    pub retries: u32,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("writer", &self.writer).finish_non_exhaustive()
    }
}

impl<'a> Session<'a> {
    /// Begins on a disk that was just booted.
    ///
    /// # Errors
    /// If the archive can't be used, or isn't what was promised.
    pub fn start(
        primary: &'a Primary,
        disk: SimDisk,
        setup: Setup,
        ledger: Ledger,
        seed: u64,
        rebuild: bool,
    ) -> Result<Self, SessionError> {
        check::sealed(&disk, primary, &ledger, setup.trouble)?;
        let claim = Archive::claim(Arc::new(disk.clone()), "the simulation")?;
        let archive = claim.open(&primary.identity(), &[7; 16])?;
        Self::resume(archive, primary, disk, setup, ledger, seed, rebuild)
    }

    fn resume(
        archive: Archive,
        primary: &'a Primary,
        mut disk: SimDisk,
        setup: Setup,
        ledger: Ledger,
        seed: u64,
        rebuild: bool,
    ) -> Result<Self, SessionError> {
        let found = match archive.resume(&primary.branch(), None, rebuild) {
            // The same archive, asked again, doubts what the first call may have failed to sync.
            Err(_) if setup.trouble == Trouble::Disk => {
                archive.resume(&primary.branch(), None, false)?
            }
            found => found?,
        };
        let resume = found.unwrap_or_else(|| archive.begin(&primary.branch(), primary.start()));
        check::resumed(&disk, primary, &ledger, &resume, setup.trouble)
            .map_err(|violation| violation.within(format_args!("resumed: {:?}", brief(&resume))))?;
        let writer = Writer::new(&archive, resume, setup.options, &mut disk);
        let mut this = Self {
            primary,
            served: primary,
            disk,
            archive,
            writer,
            setup,
            ledger,
            rng: Rng::new(seed),
            now: Instant::now(),
            live: true,
            idle_turns: 0,
            retries: 0,
        };
        this.after_event()?;
        Ok(this)
    }

    /// What was found, without starting: the end of what is proved.
    ///
    /// # Errors
    /// As [`start`](Self::start)'s.
    pub fn proved_on(primary: &Primary, disk: &SimDisk) -> Result<Lsn, SessionError> {
        let claim = Archive::claim(Arc::new(disk.clone()), "the simulation")?;
        let archive = claim.open(&primary.identity(), &[7; 16])?;
        let resume = archive.resume(&primary.branch(), None, false)?;
        Ok(resume.map_or(primary.start(), |resume| resume.proved()))
    }

    /// Why the writer takes no more.
    #[must_use]
    pub fn stop(&self) -> Option<&Stop> {
        self.writer.stop()
    }

    /// Streams another server's log from now on.
    pub fn serve(&mut self, log: &'a Primary) {
        self.served = log;
    }

    /// The real writer.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// One event, chosen by the seed: bytes come, the disk performs an operation, the stream
    /// pauses, or it begins or ends to be far behind.
    ///
    /// # Errors
    /// If a promise is broken, or nothing goes on.
    pub fn turn(&mut self) -> Result<Turn, Violation> {
        if self.writer.stop().is_some() {
            return Ok(Turn::Stopped);
        }
        if self.is_done() {
            return Ok(Turn::Done);
        }
        if self.writer.next_timeout().is_some() && self.rng.below(8) == 0 {
            // Whatever else is under way.
            self.pass_time();
            self.after_event()?;
        }
        let moved = match self.rng.below(16) {
            0..6 => self.receive(),
            6..14 => self.step()?,
            14 => {
                self.flush();
                false
            }
            _ => {
                self.live = self.rng.coin() || self.writer.received() == self.primary.end();
                false
            }
        };
        self.after_event()?;
        self.idle_turns = if moved { 0 } else { self.idle_turns + 1 };
        if self.idle_turns > PATIENCE_TURNS {
            self.pass_time();
            self.after_event()?;
        }
        if self.idle_turns > MAX_IDLE_TURNS {
            let positions = self.writer.positions();
            let what = format!("stuck with {positions:?}, ledger at {}", self.ledger.flush);
            return Err(Violation::new(what).logged(&self.disk));
        }
        Ok(Turn::Going)
    }

    /// Runs until it is done, or stops.
    ///
    /// # Errors
    /// As [`turn`](Self::turn)'s.
    pub fn run(&mut self) -> Result<Turn, Violation> {
        loop {
            match self.turn()? {
                Turn::Going => {}
                end => return Ok(end),
            }
        }
    }

    /// Performs what is queued, after the writer has stopped.
    ///
    /// # Errors
    /// If a promise is broken.
    pub fn drain(&mut self) -> Result<(), Violation> {
        while self.step()? || self.disk.pending() > 0 {
            if self.disk.is_off() {
                break;
            }
        }
        Ok(())
    }

    /// Ends, and goes on where the archive ends: as another connection does.
    ///
    /// # Errors
    /// As [`start`](Self::start)'s.
    pub fn reconnect(mut self, rebuild: bool) -> Result<Self, SessionError> {
        self.drain()?;
        let seed = self.rng.next();
        self.writer.close();
        self.drain()?;
        let Self { archive, primary, disk, setup, mut ledger, .. } = self;
        if rebuild {
            // `write` promises what survives this process, not what a failing disk keeps.
            ledger.write = ledger.flush;
        }
        Self::resume(archive, primary, disk, setup, ledger, seed, rebuild)
    }

    /// Takes back what couldn't be proved, and goes on with a stream that is right.
    ///
    /// # Errors
    /// As [`start`](Self::start)'s.
    pub fn withdraw(mut self) -> Result<Self, SessionError> {
        self.drain()?;
        let proved = self.writer.validator().proved().0;
        let withdrawn = self.archive.withdraw(&self.primary.branch(), proved)?;
        if let Some(withdrawn) = withdrawn {
            let size = self.primary.segment_size();
            self.ledger.sealed.retain(|number| number.end(size) <= proved);
            let number = proved.segment(size);
            let expected = self.archive.layout().segment(self.primary.timeline(), number);
            if withdrawn.segment != expected {
                return Err(Violation::new(format!("withdrew {withdrawn:?}")).into());
            }
            if let Some(path) = withdrawn.evidence {
                self.ledger.keep(&self.disk, path);
            }
        }
        self.setup.flip = None;
        self.reconnect(false)
    }

    /// Checks the archive once [`Turn::Done`] was reached.
    ///
    /// # Errors
    /// If it isn't just what the primary's log is.
    pub fn finish(&self) -> Result<(), Violation> {
        check::converged(&self.disk, self.primary, &self.archive, self.setup.trouble)
            .map_err(|violation| violation.logged(&self.disk))
    }

    fn is_done(&self) -> bool {
        // Also by the writer itself: a rule that says too much must not end it early.
        self.ledger.flush == self.primary.end()
            && self.writer.acknowledgement().is_some_and(|ack| ack.flush == self.primary.end())
            && self.writer.received() == self.primary.end()
            && !self.writer.is_busy()
            // What found no room is still to be tried again.
            && self.writer.next_timeout().is_none()
            && self.disk.pending() == 0
    }

    fn receive(&mut self) -> bool {
        let from = self.writer.received();
        let wanted = self.piece();
        let Some(room) = self.writer.place(&mut self.disk) else { return false };
        let bytes = self.served.bytes(from, wanted.min(room.len()));
        let Some(place) = room.get_mut(..bytes.len()).filter(|place| !place.is_empty()) else {
            return false;
        };
        place.copy_from_slice(bytes);
        if let Some((at, bit)) = self.setup.flip.filter(|(at, _)| *at >= from)
            && let Some(byte) = place.get_mut(at.saturating_since(from) as usize)
        {
            *byte ^= 1 << bit;
        }
        self.writer.take(bytes.len());
        true
    }

    fn piece(&mut self) -> usize {
        match (self.setup.pace, self.rng.below(8)) {
            (Pace::Bulk, _) => 256 << 10,
            (_, 0) => 1 + self.rng.index(50),
            (_, 1..4) => 1 + self.rng.index(4_000),
            (_, 4..7) => 1 + self.rng.index(24_000),
            _ => 128 << 10,
        }
    }

    /// One operation of the disk, and whatever it lets the writer do.
    fn step(&mut self) -> Result<bool, Violation> {
        let stepped = self.disk.step();
        while let Some(completion) = self.disk.poll() {
            self.writer.handle(completion, self.now);
            self.after_event()?;
        }
        self.submit();
        Ok(stepped)
    }

    fn flush(&mut self) {
        let received = self.writer.received();
        let live = self.live || received == self.primary.end();
        let behind = if live { 0 } else { FAR_BEHIND };
        self.writer.flush(received.saturating_add(behind));
    }

    fn pass_time(&mut self) {
        if let Some(at) = self.writer.next_timeout() {
            self.now = at.max(self.now) + Duration::from_millis(1);
            self.writer.handle_timeout(self.now, &mut self.disk);
            self.retries += 1;
            self.idle_turns = 0;
        }
    }

    fn submit(&mut self) {
        while let Some((lane, chain)) = self.writer.poll_submission() {
            self.disk.submit(lane, chain);
        }
    }

    /// What follows each event: submissions, and the status that the primary may be sent now.
    fn after_event(&mut self) -> Result<(), Violation> {
        self.submit();
        while let Some(event) = self.writer.poll_event() {
            if let Event::Sealed(_, number) = event {
                self.ledger.sealed.insert(number);
            }
        }
        if let Some(ack) = self.setup.rule.of(&self.writer) {
            let acknowledged = self.ledger.acknowledge(ack);
            acknowledged.map_err(|violation| violation.logged(&self.disk))?;
        }
        Ok(())
    }
}

fn brief(resume: &Resume) -> impl fmt::Debug {
    (resume.start, resume.stored, resume.proved(), resume.notes.clone())
}
