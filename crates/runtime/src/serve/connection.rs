//! One client's connection: its socket, its machine, and what it is answered.
//!
//! A turn reads what the client says, does what the machine asks, and writes until the socket takes
//! no more; then it waits. What takes the disk is done on another thread, and where that is WAL the
//! whole connection goes there for as long as the socket takes it: a follower that catches up isn't
//! handed to and fro for each piece.

use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use pg_types::{SegmentSize, TimelineId};
use pg_wire::message::SqlState;
use pg_wire::server::grammar::{BaseBackup, Command};
use pg_wire::server::response::Refusal;
use pg_wire::stream::{EndOfTimeline, pg_micros_from_system_time};
use replication::sender::{Answer, Ask, Sender};
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::ServeReport;
use super::commands::{self, Done};
use super::hub::{Hub, LOGIN_LIMIT, Member, Way, starting_up};
use super::push::{Pushed, Sending};
use super::slots::{self, Held};
use super::source::Source;
use crate::outgoing::{BackupFeed, Given};
use crate::socket::Socket;
use crate::stream::Stream;
use crate::{Shutdown, TipReceiver, world};

/// What is read at once: commands and replies have some dozen bytes.
const INPUT_LEN: usize = 8 << 10;
pub(super) struct Connection {
    pub(super) hub: Arc<Hub>,
    me: Arc<Member>,
    pub(super) socket: Socket,
    way: Way,
    pub(super) sender: Sender,
    pub(super) tip: TipReceiver,
    /// Whether there was an archive when it came.
    is_ready: bool,
    segment_size: SegmentSize,
    login_until: Instant,
    /// Whether it has been told that this one logged in.
    announced: bool,
    pub(super) sending: Option<Sending>,
    pub(super) source: Option<Arc<Source>>,
    /// How the stream's timeline ended, once it has.
    pub(super) end: Option<EndOfTimeline>,
    slot: Option<Held>,
    /// Whether it made slots that go with it.
    has_temporary: bool,
    /// A slot that somebody uses is waited for.
    waiting: Option<Command>,
    releases: watch::Receiver<u64>,
    /// A base backup that it is being sent.
    feed: Option<BackupFeed>,
}

impl Connection {
    pub(super) fn new(hub: Arc<Hub>, stream: Stream, is_local: bool, me: Arc<Member>) -> Self {
        let (host, is_ready) = hub.host();
        let segment_size = host.geometry.segment_size;
        let mut sender = Sender::new(Arc::new(host), me.secrets());
        if hub.tls().is_some() && !is_local {
            sender.offer_tls();
        }
        let (tip, releases) = (hub.tip.clone(), hub.slots.releases());
        Self {
            hub,
            me,
            socket: Socket::Plain(stream),
            way: if is_local { Way::Local } else { Way::Plain },
            sender,
            tip,
            is_ready,
            segment_size,
            login_until: world::now() + LOGIN_LIMIT,
            announced: false,
            sending: None,
            source: None,
            end: None,
            slot: None,
            has_temporary: false,
            waiting: None,
            releases,
            feed: None,
        }
    }

    pub(super) async fn run(self, mut shutdown: Shutdown) {
        let (hub, me) = (Arc::clone(&self.hub), Arc::clone(&self.me));
        if let Some(mut this) = Box::new(self).serve(&mut shutdown).await {
            this.give_back().await;
            if this.announced {
                let (pid, name) = (me.pid, this.sender.application_name());
                hub.tell(&ServeReport::Disconnected { pid, name });
            }
        } else {
            hub.trouble("serving a client failed in a way that should not be");
            hub.slots.abandon(me.pid);
        }
        hub.leave(&me);
    }

    /// Serves until the client goes away, or has to: `None` if a thread panicked that had it.
    async fn serve(self: Box<Self>, shutdown: &mut Shutdown) -> Option<Box<Self>> {
        let (mut this, mut stopping) = (self, false);
        loop {
            // A socket that breaks is a client that went away.
            let Ok(more) = this.hear(&mut stopping, shutdown).await else { return Some(this) };
            let mut pushed = this.push();
            if matches!(pushed, Ok(Pushed::NeedsDisk)) {
                let work = blocking(move || {
                    let pushed = this.push_and_wait();
                    (this, pushed)
                });
                (this, pushed) = work.await?;
            }
            let Ok(pushed) = pushed else { return Some(this) };
            this.show().await;
            let blocked = pushed == Pushed::Full;
            if this.sender.is_closed() && (blocked || !this.has_output()) {
                // Whoever doesn't take the last word doesn't get it.
                return Some(this);
            }
            if more || pushed == Pushed::Enough || this.sender.is_behind() {
                tokio::task::yield_now().await;
            } else if this.wait(blocked, stopping, shutdown).await.is_err() {
                return Some(this);
            }
        }
    }

    /// Takes what the client says, and what others have to say to it; whether there may be more.
    async fn hear(&mut self, stopping: &mut bool, shutdown: &mut Shutdown) -> io::Result<bool> {
        if *shutdown.borrow() && !std::mem::replace(stopping, true) {
            self.sender.shut_down();
        }
        let more = self.read()?;
        self.due();
        self.asks().await?;
        self.follow_tip().await;
        Ok(more)
    }

    fn has_output(&self) -> bool {
        self.sending.is_some() || self.sender.poll_transmit().is_some()
    }

    /// Reads once; whether there may be more.
    fn read(&mut self) -> io::Result<bool> {
        if !self.sender.wants_input() {
            return Ok(false);
        }
        let mut input = [0; INPUT_LEN];
        match self.socket.try_read(&mut input)? {
            None => Ok(false),
            Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(len) => {
                self.sender.handle_input(input.get(..len).unwrap_or_default(), world::now());
                Ok(len == INPUT_LEN)
            }
        }
    }

    /// Does what the machine asks.
    async fn asks(&mut self) -> io::Result<()> {
        while let Some(ask) = self.sender.poll_ask() {
            match ask {
                Ask::Tls(received) => self.handshake(received).await?,
                Ask::Login(_) if !self.is_ready => self.sender.refuse(&starting_up()),
                Ask::Login(user) => {
                    let (hub, way) = (Arc::clone(&self.hub), self.way.clone());
                    // It reads the users' file.
                    match blocking(move || hub.login(&user, &way)).await {
                        Some(Ok(how)) => self.sender.login(how, world::now()),
                        Some(Err(refusal)) => self.sender.refuse(&refusal),
                        None => self.sender.refuse(&internal()),
                    }
                }
                Ask::Command(command) => self.command(command).await,
                Ask::Cancel { process_id, key } => self.hub.cancel(process_id, &key),
                Ask::Note(text) => {
                    let (pid, address) = (self.me.pid, &self.me.address);
                    self.hub.tell(&ServeReport::Note { pid, address, text: &text });
                }
                _ => {}
            }
        }
        if !self.announced && self.sender.is_logged_in() {
            self.announced = true;
            self.hub.logged_in(&self.me);
            let (user, name) = (self.sender.user(), self.sender.application_name());
            self.me.show(|shown| (shown.user, shown.name) = (user.to_owned(), name.to_owned()));
            let (pid, address) = (self.me.pid, self.me.address.as_str());
            self.hub.tell(&ServeReport::Connected { pid, address, user, name });
        }
        Ok(())
    }

    /// Has TLS spoken on the socket from now on; `received` is what the client has said of it.
    async fn handshake(&mut self, received: Vec<u8>) -> io::Result<()> {
        while self.push()? == Pushed::Full {
            self.socket.writable().await?;
        }
        let Some(tls) = self.hub.tls() else { return Err(io::ErrorKind::Unsupported.into()) };
        let socket = std::mem::replace(&mut self.socket, Socket::Closed);
        let Socket::Plain(stream) = socket else { return Err(io::ErrorKind::InvalidInput.into()) };
        let secured = tokio::select! {
            secured = tls.accept(stream, received) => secured,
            () = sleep_until(self.login_until.into()) => return Err(io::ErrorKind::TimedOut.into()),
            () = self.me.woken.notified() => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let secured = secured.map_err(|error| {
            let (pid, address, text) = (self.me.pid, &self.me.address, &error.to_string());
            self.hub.tell(&ServeReport::Note { pid, address, text });
            io::Error::other(error)
        })?;
        self.socket = Socket::Tls(Box::new(secured.stream));
        self.way = Way::Tls { common_name: secured.common_name };
        self.sender.encrypted(secured.end_point, secured.has_alpn);
        Ok(())
    }

    async fn command(&mut self, command: Command) {
        if let Command::BaseBackup(asked) = command {
            return self.base_backup(asked);
        }
        let (hub, pid) = (Arc::clone(&self.hub), self.me.pid);
        let asked = command.clone();
        self.releases.mark_unchanged();
        let done = blocking(move || commands::run(&hub, &asked, pid)).await;
        let Some(done) = done else { return self.sender.refuse(&internal()) };
        let mut answer = match done {
            Done::Answer(answer) => {
                let is_temporary = matches!(command, Command::CreateSlot { temporary: true, .. });
                self.has_temporary |= is_temporary;
                answer
            }
            Done::Stream(answer, held) => {
                self.begin(&answer, held);
                answer
            }
            Done::Wait => {
                self.waiting = Some(command);
                return;
            }
        };
        if let Answer::Stream { start, timeline, end, .. } = &mut answer {
            self.hub.hold(&self.me, *timeline, *start, self.segment_size);
            *end = end.filter(|_| !self.me.is_held());
        }
        self.sender.answer(answer, world::now());
    }

    /// Has a stored backup read, whose parts are waited for then.
    fn base_backup(&mut self, asked: BaseBackup) {
        let Some(tip) = *self.tip.borrow() else {
            return self.sender.answer(Answer::Refused(commands::starting_up()), world::now());
        };
        match BackupFeed::start(Arc::clone(&self.hub.what.backups), asked, tip.timeline) {
            Ok(feed) => self.feed = Some(feed),
            Err(error) => {
                self.hub.trouble(&format!("a backup can't be read for a client: {error}"));
                self.sender.answer(Answer::Refused(internal()), world::now());
            }
        }
    }

    fn begin(&mut self, answer: &Answer, held: Option<Held>) {
        let Answer::Stream { start, timeline, end, .. } = *answer else { return };
        self.slot = held;
        (self.end, self.source) = (end, None);
        let slot = self.slot.as_ref().map(|held| held.name.clone());
        self.me.show(|shown| shown.slot = slot);
        let (pid, name) = (self.me.pid, self.sender.application_name());
        self.hub.tell(&ServeReport::Streaming { pid, name, timeline, start });
    }

    /// Lets the stream go on as far as it may.
    async fn follow_tip(&mut self) {
        let Some(tip) = *self.tip.borrow_and_update() else { return };
        let Some(timeline) = self.sender.standing().map(|standing| standing.timeline) else {
            return;
        };
        if tip.timeline == timeline {
            return self.sender.advance(tip.end, None);
        }
        if self.end.is_none() {
            // The timeline has ended while it was streamed.
            let hub = Arc::clone(&self.hub);
            let end = blocking(move || {
                let catalogue = hub.catalogue()?;
                let branch = commands::branch(&catalogue, tip.timeline);
                Some(
                    branch
                        .map_err(|error| slots::failed(&error))
                        .and_then(|branch| commands::end_of(&branch, timeline)),
                )
            });
            match end.await.flatten() {
                Some(Ok(end)) => self.end = end,
                Some(Err(refusal)) => return self.sender.fail(&refusal),
                None => return,
            }
        }
        if let Some(end) = self.end {
            // The new timeline's file, which has the old one's end, may not be as far yet.
            let limit = end.switch_point.min(tip.end);
            self.sender.advance(limit, self.end.filter(|_| !self.me.is_held()));
        }
    }

    /// Tells others where the stream stands, and keeps the slot at what the follower has.
    async fn show(&mut self) {
        let standing = self.sender.standing().copied();
        let in_backup = self.sender.is_in_backup();
        let before = self.me.horizons();
        self.me.show(|shown| (shown.standing, shown.in_backup) = (standing, in_backup));
        let horizons = self.me.horizons();
        if horizons != before {
            if let Some((held, horizons)) = self.slot.as_ref().zip(horizons) {
                self.hub.slots.need(held, horizons);
            }
            self.hub.need();
        }
        let Some(standing) = standing else { return self.end_stream().await };
        let Some(held) = &self.slot else { return };
        // What it says of the future isn't archived yet.
        let at = standing.flush.min(standing.limit);
        if !at.is_valid() {
            return;
        }
        if held.flushed(at, self.segment_size) {
            self.save_slot(standing.timeline).await;
        }
    }

    async fn save_slot(&mut self, timeline: TimelineId) {
        let Some(mut held) = self.slot.take() else { return };
        let hub = Arc::clone(&self.hub);
        let saved = blocking(move || {
            let saved = hub.slots.save(&mut held, timeline);
            (held, saved)
        });
        let Some((held, saved)) = saved.await else { return };
        self.slot = Some(held);
        if let Err(error) = saved {
            // It keeps more than it has to until it can be written.
            self.hub.trouble(&error.to_string());
        }
    }

    /// Gives the slot back that a stream used which has ended.
    async fn end_stream(&mut self) {
        if self.slot.is_none() {
            return;
        }
        let timeline = self.tip.borrow().map(|tip| tip.timeline);
        if let Some(timeline) = timeline {
            self.save_slot(timeline).await;
        }
        if let Some(held) = self.slot.take() {
            self.hub.slots.release(&held);
            self.me.show(|shown| shown.slot = None);
        }
        self.source = None;
    }

    async fn give_back(&mut self) {
        self.end_stream().await;
        if self.has_temporary {
            let (hub, pid) = (Arc::clone(&self.hub), self.me.pid);
            if let Some(Err(error)) = blocking(move || hub.slots.drop_temporary(pid)).await {
                self.hub.trouble(&error.to_string());
            }
        }
    }

    /// Waits until something can be read or written, or is due.
    async fn wait(
        &mut self,
        blocked: bool,
        stopping: bool,
        shutdown: &mut Shutdown,
    ) -> io::Result<()> {
        let deadline = match self.announced {
            true => self.sender.next_timeout(),
            false => Some(self.login_until),
        };
        let (reading, streaming) = (self.sender.wants_input(), self.sender.standing().is_some());
        let timer = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let waiting = self.waiting.clone();
        let wanted = self.sender.wants_backup();
        let feeding = wanted.is_some() || !self.sender.is_in_backup();
        let feed = self.feed.as_mut().filter(|_| feeding);
        let mut given = None;
        let fed = async {
            match feed {
                Some(feed) => feed.next(wanted.flatten()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ready = self.socket.readable(), if reading => ready?,
            ready = self.socket.writable(), if blocked => ready?,
            changed = self.tip.changed(), if streaming && !blocked => {
                // Whoever told of it is gone; what is there is served on.
                if changed.is_err() {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
            _ = self.releases.changed(), if waiting.is_some() => {}
            () = self.me.woken.notified() => {}
            _ = shutdown.changed(), if !stopping => {}
            () = timer => {}
            part = fed => given = Some(part),
        }
        if let Some(begin) = given.as_ref().and_then(Given::begins) {
            self.me.show(|shown| shown.backup = Some(begin));
        }
        if let Some((part, feed)) = given.zip(self.feed.as_mut())
            && !feed.hand_over(part, &mut self.sender)
        {
            self.feed = None;
        }
        if let Some(command) = waiting {
            self.waiting = None;
            self.command(command).await;
        }
        Ok(())
    }

    /// Does what it is time for.
    fn due(&mut self) {
        let now = world::now();
        if self.me.must_leave() {
            let text = "sorry, too many clients already";
            self.sender.refuse(&Refusal::fatal(SqlState::TOO_MANY_CONNECTIONS, text));
        } else if !self.announced && now >= self.login_until {
            let text = "canceling authentication due to timeout";
            self.sender.refuse(&Refusal::fatal(SqlState::QUERY_CANCELED, text));
        }
        if self.me.take_cancelled() {
            if self.sender.is_in_backup() {
                self.feed = None;
            }
            self.sender.cancel();
        }
        let time_us = pg_micros_from_system_time(SystemTime::now());
        self.sender.handle_timeout(now, time_us);
    }
}

/// Does what takes the disk on another thread; `None` if that panicked.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

pub(super) fn internal() -> Refusal {
    Refusal::error(SqlState::INTERNAL_ERROR, "something failed that should not have")
}
