//! The loop of one stream: read, validate, hand to the disk, acknowledge.
//!
//! It waits only when there is nothing to read and nothing has ended on the disk. A commit that
//! waits for us is acknowledged after one write and one fsync, and no timer.

use std::cell::Cell;
use std::io::IoSliceMut;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant, SystemTime};

use archive::Writer;
use disk::Disk;
use pg_types::{Lsn, TimelineId};
use pg_wire::feedback::Horizons;
use pg_wire::stream::{EndOfTimeline, pg_micros_from_system_time};
use replication::{Event, Want};
use tokio::sync::{Notify, watch};
use tokio::time::{Sleep, sleep_until};

use crate::receive::{Observer, Progress, Receive, Report, Shutdown};
use crate::tip::{self, TipSender};
use crate::world;
use crate::{Ended, Link, SessionError};

/// Reads between two looks at signals and timers: at 128 KiB each some milliseconds.
const READS_A_TURN: u32 = 64;
/// While the stream is being caught up with, a buffer waits to be full, but not for a server that
/// sends no more.
const STALL: Duration = Duration::from_millis(50);
/// What is written is reported together with what is flushed: a status costs the server as much as
/// it costs us. An fsync that takes longer than this isn't waited for, since `remote_write` is.
const SLOW_SYNC: Duration = Duration::from_millis(2);
/// A stop lets the server answer so long; with what follows it stays below 2 s.
const GOODBYE_LIMIT: Duration = Duration::from_millis(1200);
/// How often an observer is told of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// What reading came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    /// There may be more.
    Some,
    /// Nothing is there.
    Nothing,
    /// The disk has to be waited for.
    NoRoom,
}

/// One stream.
pub(super) struct Streaming<'a> {
    link: &'a mut Link,
    writer: &'a mut Writer,
    disk: &'a mut dyn Disk,
    woken: &'a Notify,
    observer: &'a mut dyn Observer,
    standing: &'a Cell<Progress>,
    tip: &'a TipSender,
    needed: Option<watch::Receiver<Horizons>>,
    last_read: Instant,
    /// How the timeline ended, once it has.
    ended: Option<EndOfTimeline>,
    /// When the fsync under way began, that a commit may be waiting for.
    syncing_since: Option<Instant>,
    next_progress: Instant,
}

impl<'a> Streaming<'a> {
    pub(super) fn new(
        link: &'a mut Link,
        writer: &'a mut Writer,
        disk: &'a mut dyn Disk,
        woken: &'a Notify,
        observer: &'a mut dyn Observer,
        standing: &'a Cell<Progress>,
        what: &'a Receive,
    ) -> Self {
        let now = world::now();
        Self {
            link,
            writer,
            disk,
            woken,
            observer,
            standing,
            tip: &what.tip,
            needed: what.needed.clone(),
            last_read: now,
            ended: None,
            syncing_since: None,
            next_progress: now,
        }
    }

    /// Streams until the end position, until it is stopped, or until something fails.
    pub(super) async fn run(
        &mut self,
        shutdown: &mut Shutdown,
        end: Option<Lsn>,
        timeline: TimelineId,
        begun: &Report<'_>,
    ) -> Result<Ended, SessionError> {
        let mut timer = pin!(sleep_until(self.deadline().into()));
        loop {
            let mut read = Read::Some;
            for _ in 0..READS_A_TURN {
                self.complete();
                self.speak()?;
                self.events(begun)?;
                if let Some(end) = end.filter(|end| self.has_reached(*end)) {
                    self.say_goodbye().await;
                    return Ok(Ended::AtEndPosition(end));
                }
                if let Some(end) = self.ended {
                    let (at, next) = (end.switch_point, end.next_timeline);
                    if self.has_reached(at) {
                        return Err(SessionError::EndOfTimeline { timeline, at, next });
                    }
                    if self.writer.received() < at {
                        return Err(SessionError::Closed);
                    }
                    // The disk has to be waited for.
                    read = Read::NoRoom;
                    break;
                }
                read = self.read()?;
                if read != Read::Some {
                    break;
                }
            }
            if *shutdown.borrow() {
                self.observer.report(&Report::Stopping);
                self.say_goodbye().await;
                let acknowledged = self.writer.acknowledgement().map_or(Lsn::INVALID, |a| a.flush);
                return Ok(Ended::Stopped(acknowledged));
            }
            if read == Read::Some {
                self.progress(world::now());
                tokio::task::yield_now().await;
            } else {
                self.idle();
                self.wait(read, shutdown, timer.as_mut()).await?;
            }
        }
    }

    /// Takes what has ended on the disk, and gives it what is to be done.
    fn complete(&mut self) {
        let mut any = false;
        while let Some(completion) = self.disk.poll() {
            self.writer.handle(completion, world::now());
            any = true;
        }
        if any && let Some(may) = self.writer.acknowledgement() {
            // Before anything else is written: followers have it as soon as it is durable.
            tip::advance(self.tip, may.flush);
        }
        self.submit();
    }

    fn submit(&mut self) {
        while let Some((lane, chain)) = self.writer.poll_submission() {
            self.disk.submit(lane, chain);
        }
    }

    /// Acknowledges what may be, unless there will soon be more, and sends what is to be sent.
    fn speak(&mut self) -> Result<(), SessionError> {
        if !self.is_flushed_soon(world::now()) {
            self.acknowledge();
        }
        self.send()
    }

    fn acknowledge(&mut self) {
        let durable_tail = self.link.connection.wants_tail()
            && self.writer.validator().tail_is_plausible()
            && self.writer.all_durable();
        self.link.connection.acknowledge(self.writer.acknowledgement(), durable_tail);
    }

    fn send(&mut self) -> Result<(), SessionError> {
        let time_us = pg_micros_from_system_time(SystemTime::now());
        self.link.connection.send_status(world::now(), time_us);
        let needed = self.needed.as_mut().map(|needed| *needed.borrow_and_update());
        self.link.connection.send_feedback(needed.unwrap_or_default(), time_us);
        self.link.transmit()
    }

    /// Whether the next acknowledgement is worth waiting for.
    fn is_flushed_soon(&mut self, now: Instant) -> bool {
        self.syncing_since = self.writer.is_syncing().then(|| self.syncing_since.unwrap_or(now));
        self.syncing_since.is_some_and(|since| now < since + SLOW_SYNC)
    }

    /// Hands on what happened, and ends the stream where that ends it.
    fn events(&mut self, begun: &Report<'_>) -> Result<(), SessionError> {
        while let Some(event) = self.writer.poll_event() {
            self.observer.report(&Report::Archive(&event));
        }
        while let Some(event) = self.link.connection.poll_event() {
            match event {
                Event::Streaming => self.observer.report(begun),
                Event::Notice(notice) => self.observer.report(&Report::Notice(&notice)),
                Event::StreamFailed(message) => {
                    return Err(SessionError::Refused { command: "streaming", message });
                }
                Event::ServerShutDown => return Err(SessionError::ServerShutDown),
                Event::EndOfTimeline(end) => self.ended = Some(end),
                _ => {}
            }
        }
        match self.writer.stop() {
            Some(stop) => Err(SessionError::Stopped(stop.clone())),
            None => Ok(()),
        }
    }

    /// Whether everything before `end` is durable, or all there is of a record that runs over it.
    fn has_reached(&mut self, end: Lsn) -> bool {
        if self.writer.received() < end {
            return false;
        }
        self.writer.flush_all();
        self.submit();
        let (positions, may) = (self.writer.positions(), self.writer.acknowledgement());
        if !positions.durable.0.is_valid() {
            // Nothing is ever synced: what is written is all there will be.
            let proved = may.is_some_and(|may| may.write >= end);
            return proved || positions.written.0 == positions.received.0;
        }
        let flushed = may.is_some_and(|may| may.flush >= end);
        flushed || positions.written.0 >= end && self.writer.all_durable()
    }

    /// Reads once.
    fn read(&mut self) -> Result<Read, SessionError> {
        let read = match self.link.connection.want() {
            Want::Wal { len, .. } => self.read_wal(len)?,
            _ if self.link.read_input()? => Read::Some,
            _ => Read::Nothing,
        };
        if read == Read::Some {
            self.last_read = world::now();
        }
        Ok(read)
    }

    /// Reads WAL to where it belongs, and with it the header of the next message.
    fn read_wal(&mut self, len: usize) -> Result<Read, SessionError> {
        let Some(place) = self.writer.place(self.disk) else { return Ok(Read::NoRoom) };
        let connection = &mut self.link.connection;
        let wanted = len.min(place.len());
        let (place, _) = place.split_at_mut(wanted);
        let header: &mut [u8] = if wanted == len { connection.space() } else { &mut [] };
        let mut slices = [IoSliceMut::new(place), IoSliceMut::new(header)];
        let got = self.link.socket.try_read_vectored(&mut slices).map_err(SessionError::Broken)?;
        let got = match got {
            None => return Ok(Read::Nothing),
            Some(0) => return Err(SessionError::Closed),
            Some(got) => got,
        };
        let (now, wal) = (world::now(), got.min(wanted));
        self.writer.take(wal);
        self.link.connection.handle_wal(wal, now);
        if got > wal {
            self.link.connection.handle_input(got - wal, now)?;
        }
        Ok(Read::Some)
    }

    /// Nothing can be read: whoever waits for an fsync gets one.
    fn idle(&mut self) {
        let upstream = self.link.connection.wal_end().unwrap_or(Lsn::INVALID);
        if self.link.connection.wants_tail() || world::now().duration_since(self.last_read) >= STALL
        {
            if !self.writer.all_durable() {
                self.writer.flush_all();
            }
        } else {
            self.writer.flush(upstream);
        }
        self.submit();
    }

    /// Waits until something can be read, has ended on the disk, or is due.
    async fn wait(
        &mut self,
        read: Read,
        shutdown: &mut Shutdown,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<(), SessionError> {
        let reading = read == Read::Nothing;
        let sending = self.link.connection.poll_transmit().is_some();
        let deadline = self.deadline().into();
        if timer.is_elapsed() || timer.deadline() > deadline {
            // Only then: setting it costs two system calls, and being woken early costs less.
            timer.as_mut().reset(deadline);
        }
        let socket = &self.link.socket;
        let needs = async {
            // Without anybody who could tell of it, or when that one has ended, nothing comes.
            match &mut self.needed {
                Some(needed) => match needed.changed().await {
                    Ok(()) => {}
                    Err(_) => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = socket.readable(), if reading => result.map_err(SessionError::Broken)?,
            () = self.woken.notified() => {}
            result = socket.writable(), if sending => result.map_err(SessionError::Broken)?,
            _ = shutdown.changed() => {}
            () = timer => {}
            () = needs => {}
        }
        let now = world::now();
        self.writer.handle_timeout(now, self.disk);
        self.link.connection.handle_timeout(now, reading)?;
        self.progress(now);
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let stall = self.last_read + STALL;
        let unwritten = !self.writer.all_durable() && stall > world::now();
        let timeouts = [
            self.link.connection.next_timeout(),
            self.writer.next_timeout(),
            unwritten.then_some(stall),
            self.writer.is_syncing().then(|| world::now() + SLOW_SYNC),
        ];
        timeouts.into_iter().flatten().fold(self.next_progress, Instant::min)
    }

    fn progress(&mut self, now: Instant) {
        if now < self.next_progress {
            return;
        }
        self.next_progress = now + PROGRESS_INTERVAL;
        let before = self.standing.get();
        let progress = Progress {
            positions: self.writer.positions(),
            upstream: self.link.connection.wal_end().unwrap_or(before.upstream),
            acknowledged: self.writer.acknowledgement().map_or(before.acknowledged, |a| a.flush),
        };
        self.standing.set(progress);
        self.observer.progress(&progress);
    }

    /// Acknowledges what is durable, and ends the stream; a server that doesn't answer is left.
    async fn say_goodbye(&mut self) {
        self.complete();
        self.acknowledge();
        if self.send().is_err() {
            return;
        }
        self.link.connection.stop_streaming();
        let link = &mut *self.link;
        let answered = async {
            while let Ok(event) = link.next_event().await {
                if matches!(event, Event::StreamEnded | Event::EndOfTimeline(_)) {
                    break;
                }
            }
        };
        _ = tokio::time::timeout(GOODBYE_LIMIT, answered).await;
        self.link.connection.terminate();
        _ = self.link.transmit();
    }
}
