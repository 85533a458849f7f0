//! A receiver: sessions, one after another, until somebody stops it or it must stop itself.

mod guard;
mod likeness;
mod slot;
mod stream;

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use archive::{
    Archive, ArchiveError, Claim, Event, Gap, LostBranch, Options, Resume, Stop, Withdrawn, Writer,
};
use disk::Disk;
use pg_types::{Branch, Lsn, Positions, TimelineId};
use pg_wire::command::{SlotName, start_replication};
use pg_wire::feedback::Horizons;
use pg_wire::message::{ServerMessage, SqlState};
use pg_wire::settings::ConnectionSettings;
use replication::{StartFrom, Timing, start_from};
use tokio::sync::{Notify, watch};

use self::guard::{Guard, Look};
use crate::check::{Finding, Intent, Level, Settings, judge};
use crate::gap::oldest_kept;
use crate::session::{connect, history, read_slot};
use crate::tip::{Tip, TipSender, publish};
use crate::world;
use crate::{AskError, Ended, Facts, Link, SessionError, Verdict};

/// The first pause before another attempt; each failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause: progress resumes within 30 s of the end of a fault, connecting included.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What the disk has under way is waited for after a session, however long it takes: what ended
/// later would be taken for the next session's. After each so long, somebody is told.
const REST_NOTE_INTERVAL: Duration = Duration::from_secs(60);

/// What to receive, and how.
#[derive(Clone, Debug)]
pub struct Receive {
    /// From where.
    pub settings: ConnectionSettings,
    /// The slot that keeps WAL for this receiver.
    pub slot: Option<SlotName>,
    /// Whether to make the slot.
    pub create_slot: bool,
    /// Whether it may be there already.
    pub if_not_exists: bool,
    /// The most that the slot may keep for a receiver that doesn't get any further, bytes: then it
    /// is let go. It needs `create_slot`.
    pub max_slot_retention: Option<u64>,
    /// Where a new archive begins, if somebody else has the server keep WAL from here on.
    pub start_position: Option<Lsn>,
    /// End when everything before this is durable.
    pub end_position: Option<Lsn>,
    /// Whether to connect again after a failure.
    pub reconnect: bool,
    /// How often to report, at least.
    pub status_interval: Duration,
    /// The writer's bounds.
    pub writer: Options,
    /// Where whoever hands WAL on learns up to where it may be.
    pub tip: TipSender,
    /// What those to whom it is handed on need of the server, if that is to be told the server.
    pub needed: Option<watch::Receiver<Horizons>>,
}

/// What a receiver tells whoever started it. Texts are made where they are shown.
#[derive(Debug)]
#[non_exhaustive]
pub enum Report<'a> {
    /// Connected, and whose WAL it is.
    Connected(&'a Facts),
    /// The slot was made.
    SlotCreated(&'a SlotName),
    /// The slot was dropped, since it kept too much: an alarm. It is made anew in time.
    SlotLetGo {
        /// Which.
        slot: &'a SlotName,
        /// What it kept, bytes.
        retained: u64,
        /// What it may keep, bytes.
        limit: u64,
    },
    /// The server streams.
    Streaming {
        /// On which timeline.
        timeline: TimelineId,
        /// From where.
        start: Lsn,
        /// Up to where the archive is proved already.
        proved: Lsn,
        /// What a new archive begins with; `None` where something was archived before.
        begins: Option<StartFrom>,
    },
    /// The server is set up in a way that isn't good.
    Finding(&'a Finding),
    /// Something was found and mended in the archive.
    Note(&'a str),
    /// Something happened to the archive.
    Archive(&'a Event),
    /// The server says something to a person.
    Notice(&'a ServerMessage),
    /// A timeline was received to its end.
    TimelineEnded {
        /// Which.
        timeline: TimelineId,
        /// Where.
        at: Lsn,
        /// The one that the server went on with.
        next: TimelineId,
    },
    /// WAL that the server hasn't got any more, recorded: an alarm.
    Gap(&'a Gap),
    /// What is archived and isn't part of the server's history: an alarm.
    LostBranch(&'a LostBranch),
    /// A segment lost its final name again.
    Withdrawn(&'a Withdrawn),
    /// A session ended; there will be another.
    Disconnected {
        /// Why.
        error: &'a SessionError,
        /// How long until the next attempt.
        pause: Duration,
    },
    /// Ending: somebody said so.
    Stopping,
}

/// Where a receiver stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How far everything is.
    pub positions: Positions,
    /// The end of the server's WAL, as far as it was told.
    pub upstream: Lsn,
    /// Before this nothing is kept for this receiver: the flush position, or, until one may be
    /// reported, that of the sessions before.
    pub acknowledged: Lsn,
}

/// Watches a receiver.
pub trait Observer {
    /// Something happened.
    fn report(&mut self, report: &Report<'_>);
    /// Called while streaming, some times a second at most.
    fn progress(&mut self, progress: &Progress);
}

/// Says when to stop: whoever holds the other end sets it to true.
pub type Shutdown = watch::Receiver<bool>;

/// Receives until the end position, until it is stopped, or until it must give up.
///
/// `woken` is notified when the disk has completions.
///
/// # Errors
/// What made it give up.
pub async fn receive(
    what: &Receive,
    claim: &Claim,
    disk: &mut dyn Disk,
    woken: &Arc<Notify>,
    mut shutdown: Shutdown,
    observer: &mut dyn Observer,
) -> Result<Ended, SessionError> {
    let mut receiver = Receiver {
        what,
        claim,
        here: what.settings.clone(),
        archive: None,
        rebuild: false,
        corrupt_at: None,
        ended: None,
        behind: None,
        streamed: false,
        progressed: false,
        slot_made: false,
        is_checked: false,
        guard: Guard::new(what.max_slot_retention),
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let began = world::now();
        receiver.progressed = false;
        let result = receiver.session(disk, woken, &mut shutdown, observer).await;
        let error = match result {
            Ok(ended) => return Ok(ended),
            Err(error) => error,
        };
        if *shutdown.borrow() {
            return Ok(Ended::Stopped(Lsn::INVALID));
        }
        if let SessionError::Gap(gap) = error {
            observer.report(&Report::Gap(&gap));
            receiver.behind = Some(gap);
            continue;
        }
        if matches!(error, SessionError::SlotAgain) {
            continue;
        }
        if let SessionError::EndOfTimeline { timeline, at, next } = error
            && receiver.ended.replace(timeline) != Some(timeline)
        {
            observer.report(&Report::TimelineEnded { timeline, at, next });
            continue;
        }
        let give_up = error.verdict(receiver.streamed) == Verdict::GiveUp
            || !what.reconnect
            || receiver.corrupt_again(&error);
        if give_up {
            return Err(error);
        }
        // A connection that brought something and was cut isn't a server that refuses.
        if receiver.progressed || world::now().duration_since(began) > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        let now = jittered(pause);
        observer.report(&Report::Disconnected { error: &error, pause: now });
        tokio::select! {
            () = tokio::time::sleep(now) => {}
            _ = shutdown.changed() => return Ok(Ended::Stopped(Lsn::INVALID)),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Between half of a pause and all of it, so that many receivers don't come back at once.
fn jittered(pause: Duration) -> Duration {
    let random = world::random().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    pause.mul_f64(0.5 + random / 2.0)
}

struct Receiver<'a> {
    what: &'a Receive,
    claim: &'a Claim,
    /// How to reach the server that the session is with, by further connections.
    here: ConnectionSettings,
    archive: Option<Arc<Archive>>,
    /// A write or fsync failed: what the newest file holds isn't believed.
    rebuild: bool,
    /// Where the last session found WAL that doesn't hold, and whether the one before did.
    corrupt_at: Option<(Lsn, u32)>,
    /// The timeline that was streamed to its end.
    ended: Option<TimelineId>,
    /// The gap that the next session begins behind.
    behind: Option<Gap>,
    /// Whether any session ever streamed.
    streamed: bool,
    /// Whether the last session brought WAL that the archive didn't have.
    progressed: bool,
    /// Whether the slot is this receiver's own making.
    slot_made: bool,
    /// Whether the server's set-up was looked at.
    is_checked: bool,
    guard: Guard,
}

/// The same WAL failing in so many sessions isn't an accident of the network.
const CORRUPT_SESSIONS: u32 = 2;

impl Receiver<'_> {
    /// One session: connect, stream, and leave the archive so that another can go on.
    async fn session(
        &mut self,
        disk: &mut dyn Disk,
        woken: &Notify,
        shutdown: &mut Shutdown,
        observer: &mut dyn Observer,
    ) -> Result<Ended, SessionError> {
        let timing = Timing {
            status_interval: self.what.status_interval,
            wal_sender_timeout: Duration::ZERO,
        };
        let (mut link, facts) = tokio::select! {
            result = connect(&self.what.settings, timing) => result?,
            _ = shutdown.changed() => return Ok(Ended::Stopped(Lsn::INVALID)),
        };
        self.here = link.same_server(&self.what.settings);
        observer.report(&Report::Connected(&facts));
        let archive = self.open(&facts)?;
        let (branch, resume, begins) = tokio::select! {
            result = self.plan(&mut link, &archive, &facts, observer) => result?,
            _ = shutdown.changed() => return Ok(Ended::Stopped(Lsn::INVALID)),
        };
        self.check(&mut link, &facts, begins.is_some(), observer).await?;
        for note in &resume.notes {
            observer.report(&Report::Note(note));
        }
        if let Some(lost) = &resume.lost {
            observer.report(&Report::LostBranch(lost));
        }
        let (timeline, start, proved) = (resume.timeline, resume.start, resume.proved());
        let acknowledged = resume.acknowledged();
        // What is behind a hole can be acknowledged, and can't be handed on yet.
        let tip = Tip { version: facts.version, timeline, end: proved, session: 0 };
        publish(&self.what.tip, tip);
        let mut writer = Writer::new(&archive, resume, self.what.writer, disk);
        let text = start_replication(self.slot(), start, timeline);
        link.connection.start_streaming(&text, start);
        let begun = Report::Streaming { timeline, start, proved, begins };
        let upstream = facts.system.xlogpos;
        let positions = writer.positions();
        let standing = Cell::new(Progress { positions, upstream, acknowledged });
        let settings = &self.here;
        let what = self.what;
        let mut stream =
            stream::Streaming::new(&mut link, &mut writer, disk, woken, observer, &standing, what);
        let result = tokio::select! {
            result = stream.run(shutdown, self.what.end_position, timeline, &begun) => result,
            look = self.guard.watch(settings, &standing) => Err(match look {
                Look::LetGo { retained } => SessionError::SlotLetGo { retained },
                Look::TakeBack => SessionError::SlotAgain,
            }),
        };
        // The server doesn't drop a slot that is streamed from, and what is asked of it below may
        // need the connection's place.
        drop(link);
        if let Err(SessionError::SlotLetGo { retained }) = result {
            self.let_go(retained, observer).await;
        }
        let stopped = matches!(result, Ok(Ended::Stopped(_)));
        self.progressed = writer.positions().proved.0 > proved;
        self.streamed |= self.progressed;
        if !stopped && !self.rest(&mut writer, disk, woken, shutdown, observer, &standing).await {
            return Ok(Ended::Stopped(Lsn::INVALID));
        }
        tokio::select! {
            result = self.second_look(&archive, timeline, proved, &writer) => result?,
            _ = shutdown.wait_for(|stop| *stop) => return Ok(Ended::Stopped(Lsn::INVALID)),
        }
        let here = branch.up_to(timeline).unwrap_or_else(|| branch.clone());
        self.clear_up(&archive, &here, proved, &writer, observer)?;
        if let Err(SessionError::Refused { message, .. }) = &result
            && message.sqlstate == SqlState::UNDEFINED_FILE
        {
            let removed = writer.received();
            // What came and didn't get to the disk any more is missing, too.
            let positions = writer.positions();
            let end = proved.max(positions.proved.0.min(positions.written.0));
            let gap = self.find_gap(&archive, &branch, (timeline, end), removed);
            tokio::select! {
                gap = gap => return Err(SessionError::Gap(archive.record_gap(gap?)?)),
                _ = shutdown.wait_for(|stop| *stop) => return Ok(Ended::Stopped(Lsn::INVALID)),
            }
        }
        result.map_err(|error| explain(error, self.slot()))
    }

    /// Lets the disk come to rest after a session; `false` if that wasn't waited for, since
    /// whoever stops us doesn't wait for a disk that is stuck.
    async fn rest(
        &mut self,
        writer: &mut Writer,
        disk: &mut dyn Disk,
        woken: &Notify,
        shutdown: &mut Shutdown,
        observer: &mut dyn Observer,
        standing: &Cell<Progress>,
    ) -> bool {
        let mut finished = pin!(finish(writer, disk, woken));
        loop {
            tokio::select! {
                () = &mut finished => return true,
                _ = shutdown.wait_for(|stop| *stop) => return false,
                () = tokio::time::sleep(REST_NOTE_INTERVAL) => observer.report(&Report::Note(
                    "the disk hasn't ended what it was given a minute ago and more; receiving waits",
                )),
                look = self.guard.watch(&self.here, standing) => {
                    if let Look::LetGo { retained } = look {
                        self.let_go(retained, observer).await;
                    }
                }
            }
        }
    }

    /// Looks once at how the server is set up. What can't work stops a receiver that begins; one
    /// that has been at work is worth more to the server than its end.
    async fn check(
        &mut self,
        link: &mut Link,
        facts: &Facts,
        begins: bool,
        observer: &mut dyn Observer,
    ) -> Result<(), SessionError> {
        // Whoever says where it begins has the server keep what is needed for as long as it takes.
        if std::mem::replace(&mut self.is_checked, true) || self.what.start_position.is_some() {
            return Ok(());
        }
        let intent = Intent {
            application_name: self.what.settings.application_name.as_deref().unwrap_or_default(),
            has_slot: self.what.slot.is_some(),
            has_bound: self.what.max_slot_retention.is_some(),
        };
        let settings = Settings::ask(link, facts.version).await?;
        let findings = judge(facts.version, &settings, &intent);
        for finding in findings.iter().filter(|finding| finding.level > Level::Fine) {
            if finding.level == Level::Error && begins {
                return Err(SessionError::Unfit(finding.clone()));
            }
            observer.report(&Report::Finding(finding));
        }
        Ok(())
    }

    /// The archive of this server; the same in every session.
    fn open(&mut self, facts: &Facts) -> Result<Arc<Archive>, ArchiveError> {
        let identity = facts.identity();
        if let Some(archive) = &self.archive {
            archive.admits(&identity)?;
            return Ok(Arc::clone(archive));
        }
        let archive = Arc::new(self.claim.open(&identity, &world::random_name())?);
        // Kept whatever becomes of this session: an archive is made once.
        self.archive = Some(Arc::clone(&archive));
        Ok(archive)
    }

    /// What is missing between the end of what is proved on a timeline and what the server still
    /// has; `removed` is a position that it hasn't.
    async fn find_gap(
        &self,
        archive: &Archive,
        branch: &Branch,
        (timeline, from): (TimelineId, Lsn),
        removed: Lsn,
    ) -> Result<Gap, SessionError> {
        let size = archive.layout().segment_size;
        let kept = oldest_kept(&self.here, branch, size, removed.segment(size));
        let (to_timeline, to) = kept.await?;
        let reason = match self.guard.has_let_go() {
            true => {
                "the slot had been let go (--max-slot-retention), and the server had removed it"
            }
            false => "the server had removed it",
        };
        let reason = reason.to_owned();
        let found = world::timestamp().strftime("%FT%TZ").to_string();
        Ok(Gap { timeline, from, to_timeline, to, reason, found })
    }

    /// Where to start: at the archive's end, or where the slot begins.
    async fn plan(
        &mut self,
        link: &mut Link,
        archive: &Archive,
        facts: &Facts,
        observer: &mut dyn Observer,
    ) -> Result<(Branch, Resume, Option<StartFrom>), SessionError> {
        let created = self.ensure_slot(link, facts, observer).await?;
        self.look_before(link, facts, observer).await?;
        let branch = history(link, archive, facts.system.timeline).await?;
        if let Some(gap) = self.behind.take() {
            // A server that was put in its place meanwhile may have what that one hadn't.
            self.refuse_other(archive, gap.timeline, gap.from, gap.from).await?;
            let resume = archive.begin_on(gap.to_timeline, gap.to);
            self.take_back(link, facts, &resume, observer).await?;
            return Ok((branch, resume, None));
        }
        if let Some(resume) = archive.resume(&branch, self.ended, self.rebuild)? {
            self.rebuild = false;
            self.take_back(link, facts, &resume, observer).await?;
            let resume = self.within_history(archive, facts, &branch, resume, observer).await?;
            self.look_at_slot(link, facts, resume.proved(), observer).await?;
            return Ok((branch, resume, None));
        }
        let slot = match self.slot() {
            None => None,
            Some(slot) => {
                match read_slot(link, &self.here, facts.version, slot).await {
                    Ok(None) => {
                        return Err(SessionError::NoSlot { slot: slot.as_str().to_owned() });
                    }
                    Ok(state) => state,
                    // Below 15 it takes a plain connection, which a pg_hba may refuse.
                    Err(AskError::Session(error))
                        if facts.version.major() < 15 && error.is_access_refused() =>
                    {
                        if !created {
                            let note = format!("the slot's position can't be read: {error}");
                            observer.report(&Report::Note(&note));
                        }
                        None
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let begins = match self.what.start_position {
            Some(kept) => StartFrom::Slot(kept),
            None => start_from(slot.as_ref(), &facts.system, &branch),
        };
        let resume = archive.begin(&branch, begins.lsn());
        Ok((branch, resume, Some(begins)))
    }

    /// Repairs what the session's end left, before another begins.
    fn clear_up(
        &mut self,
        archive: &Archive,
        branch: &Branch,
        archived: Lsn,
        writer: &Writer,
        observer: &mut dyn Observer,
    ) -> Result<(), SessionError> {
        match writer.stop() {
            Some(Stop::Disk(_)) => self.rebuild = true,
            // While what is archived comes again, that was proved before.
            Some(Stop::Corrupt(_)) if writer.positions().proved.0 >= archived => {
                let proved = writer.positions().proved.0;
                if let Some(withdrawn) = archive.withdraw(branch, proved)? {
                    // Its timeline's end is to be received again, perhaps.
                    self.ended = None;
                    observer.report(&Report::Withdrawn(&withdrawn));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the same WAL failed before.
    fn corrupt_again(&mut self, error: &SessionError) -> bool {
        let SessionError::Stopped(Stop::Corrupt(error)) = error else { return false };
        let times = match self.corrupt_at {
            Some((at, times)) if error.at <= at => times + 1,
            _ => 1,
        };
        self.corrupt_at = Some((error.at, times));
        times >= CORRUPT_SESSIONS
    }
}

/// Lets the disk come to rest, and closes the session's files.
async fn finish(writer: &mut Writer, disk: &mut dyn Disk, woken: &Notify) {
    drain(writer, disk, woken).await;
    writer.close();
    drain(writer, disk, woken).await;
}

/// Waits for what the disk has under way: the archive is looked at only when it stands still.
async fn drain(writer: &mut Writer, disk: &mut dyn Disk, woken: &Notify) {
    loop {
        while let Some(completion) = disk.poll() {
            writer.handle(completion, world::now());
        }
        // After the completions: what they made possible is to be waited for, too.
        while let Some((lane, chain)) = writer.poll_submission() {
            disk.submit(lane, chain);
        }
        if !writer.is_busy() {
            return;
        }
        woken.notified().await;
    }
}

/// Names what the server's code means for a receiver.
fn explain(error: SessionError, slot: Option<&SlotName>) -> SessionError {
    match (error, slot) {
        (SessionError::Refused { message, .. }, Some(slot))
            if message.sqlstate == SqlState::UNDEFINED_OBJECT =>
        {
            SessionError::NoSlot { slot: slot.as_str().to_owned() }
        }
        (SessionError::Refused { message, .. }, Some(slot))
            if message.sqlstate == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE =>
        {
            SessionError::SlotInvalid { slot: slot.as_str().to_owned(), message }
        }
        (error, _) => error,
    }
}
