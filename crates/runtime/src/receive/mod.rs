//! A receiver: sessions, one after another, until somebody stops it or it must stop itself.

mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use archive::{
    Archive, ArchiveError, Claim, Event, Gap, LostBranch, Options, Resume, Stop, Withdrawn, Writer,
};
use disk::Disk;
use pg_types::{Branch, Lsn, Positions, TimelineId};
use pg_wire::command::{SlotName, drop_replication_slot, start_replication};
use pg_wire::message::{ServerMessage, SqlState};
use pg_wire::row::SlotState;
use pg_wire::settings::ConnectionSettings;
use replication::{StartFrom, Timing, start_from};
use tokio::sync::{Notify, watch};

use crate::gap::oldest_kept;
use crate::session::{connect, create_slot, history, read_slot};
use crate::{AskError, Ended, Facts, Link, SessionError, Verdict};

/// The first pause before another attempt; each failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause: progress resumes within 30 s of the end of a fault, connecting included.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What the disk has under way is waited for after a session, however long it takes: what ended
/// later would be taken for the next session's. After each so long, somebody is told.
const DRAIN_NOTE_INTERVAL: Duration = Duration::from_secs(60);

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
}

/// What a receiver tells whoever started it. Texts are made where they are shown.
#[derive(Debug)]
#[non_exhaustive]
pub enum Report<'a> {
    /// Connected, and whose WAL it is.
    Connected(&'a Facts),
    /// The slot was made.
    SlotCreated(&'a SlotName),
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
    /// The end of the server's WAL.
    pub upstream: Lsn,
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
        archive: None,
        rebuild: false,
        corrupt_at: None,
        ended: None,
        behind: None,
        streamed: false,
        progressed: false,
        slot_made: false,
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
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
        if receiver.progressed || began.elapsed() > LONGEST_PAUSE {
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
    let random = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    pause.mul_f64(0.5 + random / 2.0)
}

struct Receiver<'a> {
    what: &'a Receive,
    claim: &'a Claim,
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
        observer.report(&Report::Connected(&facts));
        let archive = self.open(&facts)?;
        let (branch, resume, begins) = tokio::select! {
            result = self.plan(&mut link, &archive, &facts, observer) => result?,
            _ = shutdown.changed() => return Ok(Ended::Stopped(Lsn::INVALID)),
        };
        for note in &resume.notes {
            observer.report(&Report::Note(note));
        }
        if let Some(lost) = &resume.lost {
            observer.report(&Report::LostBranch(lost));
        }
        let (timeline, start, proved) = (resume.timeline, resume.start, resume.proved());
        let mut writer = Writer::new(&archive, resume, self.what.writer, disk);
        let text = start_replication(self.what.slot.as_ref(), start, timeline);
        link.connection.start_streaming(&text, start);
        let begun = Report::Streaming { timeline, start, proved, begins };
        let mut stream = stream::Streaming::new(&mut link, &mut writer, disk, woken, observer);
        let result = stream.run(shutdown, self.what.end_position, timeline, &begun).await;
        let stopped = matches!(result, Ok(Ended::Stopped(_)));
        self.progressed = writer.positions().proved.0 > proved;
        self.streamed |= self.progressed;
        if !stopped {
            tokio::select! {
                () = finish(&mut writer, disk, woken, observer) => {}
                // Whoever stops us doesn't wait for a disk that is stuck.
                _ = shutdown.wait_for(|stop| *stop) => return Ok(Ended::Stopped(Lsn::INVALID)),
            }
        }
        self.clear_up(&archive, timeline, &writer, observer)?;
        if let Err(SessionError::Refused { message, .. }) = &result
            && message.sqlstate == SqlState::UNDEFINED_FILE
        {
            let removed = writer.received();
            let gap = self.find_gap(&archive, &facts, &branch, (timeline, proved), removed);
            tokio::select! {
                gap = gap => if let Some(gap) = gap? {
                    return Err(SessionError::Gap(archive.record_gap(gap)?));
                },
                _ = shutdown.wait_for(|stop| *stop) => return Ok(Ended::Stopped(Lsn::INVALID)),
            }
        }
        result.map_err(|error| explain(error, self.what.slot.as_ref()))
    }

    /// The archive of this server; the same in every session.
    fn open(&mut self, facts: &Facts) -> Result<Arc<Archive>, ArchiveError> {
        let identity = facts.identity();
        if let Some(archive) = &self.archive {
            archive.admits(&identity)?;
            return Ok(Arc::clone(archive));
        }
        let mut name = [0; 16];
        // A name is for people; a machine without randomness has a worse one.
        _ = getrandom::fill(&mut name);
        let archive = Arc::new(self.claim.open(&identity, &name)?);
        // Kept whatever becomes of this session: an archive is made once.
        self.archive = Some(Arc::clone(&archive));
        Ok(archive)
    }

    /// What is missing between the end of what is proved on a timeline and what the server still
    /// has; `removed` is a position that it hasn't.
    async fn find_gap(
        &self,
        archive: &Archive,
        facts: &Facts,
        branch: &Branch,
        (timeline, from): (TimelineId, Lsn),
        removed: Lsn,
    ) -> Result<Option<Gap>, SessionError> {
        let (size, end) = (archive.layout().segment_size, facts.system.xlogpos);
        let kept = oldest_kept(&self.what.settings, branch, size, removed.segment(size), end);
        let Some((to_timeline, to)) = kept.await? else { return Ok(None) };
        let reason = "the server had removed it".to_owned();
        let found = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
        Ok(Some(Gap { timeline, from, to_timeline, to, reason, found }))
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
        let branch = history(link, archive, facts.system.timeline).await?;
        if let Some(gap) = self.behind.take() {
            let resume = archive.begin_on(gap.to_timeline, gap.to);
            return Ok((branch, resume, None));
        }
        if let Some(resume) = archive.resume(&branch, self.ended, self.rebuild)? {
            self.rebuild = false;
            self.look_at_slot(link, facts, resume.proved(), observer).await?;
            return Ok((branch, resume, None));
        }
        let slot = match &self.what.slot {
            None => None,
            Some(slot) => {
                match read_slot(link, &self.what.settings, facts.version, slot).await {
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

    /// Makes the slot if that was asked for; whether it did.
    async fn ensure_slot(
        &mut self,
        link: &mut Link,
        facts: &Facts,
        observer: &mut dyn Observer,
    ) -> Result<bool, SessionError> {
        let Some(slot) = self.what.slot.as_ref().filter(|_| self.what.create_slot) else {
            return Ok(false);
        };
        if create_slot(link, facts.version, slot, true).await? {
            observer.report(&Report::SlotCreated(slot));
            self.slot_made = true;
            return Ok(true);
        }
        if self.what.if_not_exists || self.slot_made {
            return self.remake_slot(link, facts, slot, observer).await;
        }
        Err(SessionError::SlotExists { slot: slot.as_str().to_owned() })
    }

    /// Makes a slot anew that keeps no WAL: it was invalidated, and some versions stream from it all
    /// the same, and keep nothing. Whether it did. Below 15 such a slot heals by itself.
    async fn remake_slot(
        &mut self,
        link: &mut Link,
        facts: &Facts,
        slot: &SlotName,
        observer: &mut dyn Observer,
    ) -> Result<bool, SessionError> {
        if facts.version.major() < 15 {
            return Ok(false);
        }
        match read_slot(link, &self.what.settings, facts.version, slot).await? {
            Some(state) if state.restart_lsn.is_none() => {}
            _ => return Ok(false),
        }
        observer.report(&Report::Note(
            "the replication slot keeps no WAL: it was invalidated (see max_slot_wal_keep_size), \
             or never used; it is made anew",
        ));
        link.ask(&drop_replication_slot(slot, false)).await?;
        create_slot(link, facts.version, slot, true).await?;
        observer.report(&Report::SlotCreated(slot));
        Ok(true)
    }

    /// Says what is wrong with a slot that is there, before it is streamed from.
    async fn look_at_slot(
        &self,
        link: &mut Link,
        facts: &Facts,
        archived: Lsn,
        observer: &mut dyn Observer,
    ) -> Result<(), SessionError> {
        let size = facts.geometry.segment_size;
        let Some(slot) = self.what.slot.as_ref().filter(|_| facts.version.major() >= 15) else {
            return Ok(());
        };
        let name = slot.as_str();
        match read_slot(link, &self.what.settings, facts.version, slot).await? {
            None => Err(SessionError::NoSlot { slot: name.to_owned() }),
            Some(SlotState { restart_lsn: None, .. }) => {
                let note = format!(
                    "the replication slot \"{name}\" keeps no WAL: it was invalidated (see \
                     max_slot_wal_keep_size), or never used; `seawall slot drop {name}`, then \
                     receive with --create-slot"
                );
                observer.report(&Report::Note(&note));
                Ok(())
            }
            // WAL is kept by whole segments.
            Some(SlotState { restart_lsn: Some(kept), .. })
                if kept.segment_start(size) > archived =>
            {
                let note = format!(
                    "the replication slot \"{name}\" keeps WAL from {kept} on, and the archive ends \
                     at {archived}: somebody else advanced it, and what is between may be gone"
                );
                observer.report(&Report::Note(&note));
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    /// Repairs what the session's end left, before another begins.
    fn clear_up(
        &mut self,
        archive: &Archive,
        timeline: TimelineId,
        writer: &Writer,
        observer: &mut dyn Observer,
    ) -> Result<(), SessionError> {
        match writer.stop() {
            Some(Stop::Disk(_)) => self.rebuild = true,
            Some(Stop::Corrupt(_)) => {
                let proved = writer.positions().proved.0;
                if let Some(withdrawn) = archive.withdraw(timeline, proved)? {
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
async fn finish(
    writer: &mut Writer,
    disk: &mut dyn Disk,
    woken: &Notify,
    observer: &mut dyn Observer,
) {
    drain(writer, disk, woken, observer).await;
    writer.close();
    drain(writer, disk, woken, observer).await;
}

/// Waits for what the disk has under way: the archive is looked at only when it stands still.
async fn drain(
    writer: &mut Writer,
    disk: &mut dyn Disk,
    woken: &Notify,
    observer: &mut dyn Observer,
) {
    loop {
        while let Some(completion) = disk.poll() {
            writer.handle(completion, Instant::now());
        }
        // After the completions: what they made possible is to be waited for, too.
        while let Some((lane, chain)) = writer.poll_submission() {
            disk.submit(lane, chain);
        }
        if !writer.is_busy() {
            return;
        }
        if tokio::time::timeout(DRAIN_NOTE_INTERVAL, woken.notified()).await.is_err() {
            observer.report(&Report::Note(
                "the disk hasn't ended what it was given a minute ago and more; receiving waits",
            ));
        }
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
