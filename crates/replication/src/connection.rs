//! A connection to an upstream, from the startup packet to the end of the stream.

use std::collections::VecDeque;
use std::time::Instant;

use pg_types::{Acknowledgement, Lsn, ServerVersion};
use pg_wire::feedback::Horizons;
use pg_wire::message::{BackendMessage, ServerMessage, frontend};
use pg_wire::query::{self, QueryResult, Reply, Rows};
use pg_wire::startup::{ServerInfo, Startup, StartupStep};
use pg_wire::stream::{EndOfTimeline, PrimaryKeepalive};

use crate::ProtocolError;
use crate::base_backup::{BackupEvent, Transfer};
use crate::inbox::{Inbox, Item};
use crate::stream::Stream;
pub use crate::stream::Timing;

/// Where the next bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Into [`Connection::space`].
    Input,
    /// WAL from this position on, up to so many bytes, to where it is validated; then, in the
    /// same system call if one likes, into [`Connection::space`].
    Wal {
        /// Where it belongs.
        at: Lsn,
        /// The most that may be read.
        len: usize,
    },
    /// So many bytes of a base backup, to where they are kept; then, as with WAL, into
    /// [`Connection::space`].
    Backup {
        /// The most that may be read.
        len: usize,
    },
    /// Nothing: the connection has ended.
    Nothing,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The server takes commands.
    Ready(Box<ServerInfo>),
    /// A command's answer.
    Reply(Result<Rows, Box<ServerMessage>>),
    /// The stream has begun.
    Streaming,
    /// The timeline that was streamed ends; the connection takes commands again.
    EndOfTimeline(EndOfTimeline),
    /// The stream has ended because we said so; the connection takes commands again.
    StreamEnded,
    /// The server has sent all it has, and shuts down.
    ServerShutDown,
    /// The server ended the stream with an error.
    StreamFailed(Box<ServerMessage>),
    /// Something of a base backup.
    Backup(BackupEvent),
    /// For a person.
    Notice(Box<ServerMessage>),
}

enum State {
    Startup(Box<Startup>),
    /// The server waits for a command.
    Idle,
    Query(QueryResult),
    /// A command was sent whose CopyIn takes these bytes.
    Uploading(QueryResult, Vec<u8>),
    /// START_REPLICATION was sent.
    Starting(QueryResult, Lsn),
    Streaming(Stream),
    /// BASE_BACKUP was sent.
    Backup(Transfer),
    /// CopyDone was sent, or answered: what comes is passed over until the server takes commands.
    Ending {
        ours: bool,
        result: QueryResult,
    },
    Closed,
}

/// A connection; the [crate] says what it is for.
pub struct Connection {
    state: State,
    inbox: Inbox,
    outgoing: Vec<u8>,
    sent: usize,
    events: VecDeque<Event>,
    timing: Timing,
}

impl Connection {
    /// A connection that begins with the startup packet.
    #[must_use]
    pub fn new(startup: Startup, timing: Timing) -> Self {
        let outgoing = startup.initial_bytes().to_vec();
        let (inbox, events) = (Inbox::new(), VecDeque::new());
        Self { state: State::Startup(Box::new(startup)), inbox, outgoing, sent: 0, events, timing }
    }

    /// The timing of streams that begin from now on.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Where the next bytes are to be read.
    #[must_use]
    pub fn want(&self) -> Want {
        match &self.state {
            State::Closed => Want::Nothing,
            State::Streaming(stream) => match stream.place() {
                Some((at, len)) => Want::Wal { at, len },
                None => Want::Input,
            },
            State::Backup(transfer) if transfer.missing() > 0 => {
                Want::Backup { len: transfer.missing() }
            }
            _ => Want::Input,
        }
    }

    /// Where bytes that aren't WAL are to be read.
    pub fn space(&mut self) -> &mut [u8] {
        match &self.state {
            State::Backup(transfer) => self.inbox.space_in_backup(transfer.copy()),
            _ => self.inbox.space(),
        }
    }

    /// The end of the server's WAL, as it last said.
    #[must_use]
    pub fn wal_end(&self) -> Option<Lsn> {
        match &self.state {
            State::Streaming(stream) => Some(stream.wal_end()),
            _ => None,
        }
    }

    /// Whether the server waits for all that it sent to be durable, proved or not, to end.
    #[must_use]
    pub fn wants_tail(&self) -> bool {
        matches!(&self.state, State::Streaming(stream) if stream.tail_request().is_some())
    }

    /// Whether the stream runs.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        matches!(self.state, State::Streaming(_))
    }

    /// `len` bytes of WAL were put where [`want`](Self::want) said.
    pub fn handle_wal(&mut self, len: usize, now: Instant) {
        if let State::Streaming(stream) = &mut self.state {
            stream.wal(len, now);
        }
    }

    /// `len` bytes of a base backup were put where they are kept.
    pub fn handle_backup(&mut self, len: usize) {
        if let State::Backup(transfer) = &mut self.state {
            transfer.took(len);
        }
    }

    /// `len` bytes were put into [`space`](Self::space).
    ///
    /// # Errors
    /// If the server doesn't keep to the protocol; the connection is of no more use then.
    pub fn handle_input(&mut self, len: usize, now: Instant) -> Result<(), ProtocolError> {
        self.inbox.add(len);
        loop {
            if self.want() != Want::Input {
                return Ok(());
            }
            let item = match &self.state {
                State::Backup(transfer) => self.inbox.next_in_backup(transfer.copy()),
                _ => self.inbox.next(self.is_streaming()),
            };
            match item? {
                Item::Nothing => return Ok(()),
                Item::Wal(header, len) => {
                    if let State::Streaming(stream) = &mut self.state {
                        stream.wal_begins(&header, len, now)?;
                    }
                }
                Item::Backup(len) => {
                    if let State::Backup(transfer) = &mut self.state {
                        transfer.bytes_follow(len)?;
                    }
                }
                Item::Message(tag) => {
                    // The body is lent to the message, and given back behind it.
                    let inbox = std::mem::replace(&mut self.inbox, Inbox::new());
                    let handled = BackendMessage::parse(tag, inbox.body())
                        .map_err(ProtocolError::from)
                        .and_then(|message| self.message(message, now));
                    self.inbox = inbox;
                    handled?;
                    if !matches!(self.state, State::Startup(_)) {
                        self.inbox.established();
                    }
                }
            }
        }
    }

    /// Sends a command; the answer is an [`Event::Reply`]. Only when the server waits for one.
    pub fn query(&mut self, text: &str) {
        match frontend::query(text) {
            Ok(bytes) => self.outgoing.extend_from_slice(&bytes),
            Err(error) => debug_assert!(false, "commands are ours, without NULs: {error}"),
        }
        self.state = State::Query(QueryResult::new());
    }

    /// Sends `START_REPLICATION` with this text, from `start` on; [`Event::Streaming`] follows,
    /// or [`Event::StreamFailed`], or [`Event::EndOfTimeline`].
    pub fn start_streaming(&mut self, text: &str, start: Lsn) {
        self.query(text);
        self.state = State::Starting(QueryResult::new(), start);
    }

    /// Sends `BASE_BACKUP` with this text; [`Event::Backup`]s follow until it has ended.
    pub fn start_backup(&mut self, text: &str, version: ServerVersion) {
        self.query(text);
        self.state = State::Backup(Transfer::new(version));
    }

    /// Sends a command and, when the server asks for them, these bytes; the answer is an
    /// [`Event::Reply`].
    pub fn upload(&mut self, text: &str, bytes: Vec<u8>) {
        self.query(text);
        self.state = State::Uploading(QueryResult::new(), bytes);
    }

    /// Ends the stream: CopyDone. [`Event::StreamEnded`] follows.
    pub fn stop_streaming(&mut self) {
        if self.is_streaming() {
            if let Want::Wal { len, .. } = self.want() {
                self.inbox.skip(len);
            }
            self.outgoing.extend_from_slice(&frontend::copy_done());
            self.state = State::Ending { ours: true, result: QueryResult::new() };
        }
    }

    /// Says good-bye.
    pub fn terminate(&mut self) {
        if !matches!(self.state, State::Closed) {
            self.outgoing.extend_from_slice(&frontend::terminate());
            self.state = State::Closed;
        }
    }

    /// What may be acknowledged now, `None` for nothing yet. It is sent at once if it has grown.
    ///
    /// `durable_tail` says that all that was received is durable, and that what isn't proved of
    /// it is the beginning of a record whose headers hold. Then, and only when a server that
    /// wants to end asks whether just this has arrived, its end is acknowledged: no commit ends
    /// in that tail, and a cascading server waits for it to shut down.
    pub fn acknowledge(&mut self, may: Option<Acknowledgement>, durable_tail: bool) {
        if let State::Streaming(stream) = &mut self.state {
            stream.acknowledge(may, durable_tail);
        }
    }

    /// Puts the status that is due, if one is, among the bytes to send. `time_us`: microseconds
    /// since 2000, for people.
    pub fn send_status(&mut self, now: Instant, time_us: i64) {
        if let State::Streaming(stream) = &mut self.state
            && let Some(status) = stream.status(now, time_us)
        {
            self.outgoing.extend_from_slice(&status.encode());
        }
    }

    /// Tells the server what those who stream from us need of it, if it doesn't know yet.
    pub fn send_feedback(&mut self, needed: Horizons, time_us: i64) {
        if let State::Streaming(stream) = &mut self.state
            && let Some(feedback) = stream.feedback(needed, time_us)
        {
            self.outgoing.extend_from_slice(&feedback.encode());
        }
    }

    /// Bytes to send; [`transmitted`](Self::transmitted) says how many were.
    #[must_use]
    pub fn poll_transmit(&self) -> Option<&[u8]> {
        self.outgoing.get(self.sent..).filter(|bytes| !bytes.is_empty())
    }

    /// So many bytes of [`poll_transmit`](Self::poll_transmit) are sent.
    pub fn transmitted(&mut self, len: usize) {
        self.sent = self.sent.saturating_add(len);
        if self.sent >= self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
        }
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Streaming(stream) => Some(stream.next_timeout()),
            _ => None,
        }
    }

    /// The time has come. `reading` says whether the socket is being read at all.
    ///
    /// # Errors
    /// If the server was silent for too long.
    pub fn handle_timeout(&mut self, now: Instant, reading: bool) -> Result<(), ProtocolError> {
        match &mut self.state {
            State::Streaming(stream) => stream.check_silence(now, reading),
            _ => Ok(()),
        }
    }

    fn message(&mut self, message: BackendMessage<'_>, now: Instant) -> Result<(), ProtocolError> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Startup(startup) => self.in_startup(startup, message),
            State::Idle => self.in_idle(message),
            State::Query(mut result) => {
                let reply = result.handle(message)?;
                self.hand_out(&mut result);
                match reply {
                    None => self.state = State::Query(result),
                    Some(Reply::CopyBoth) => return Err(unexpected("CopyBothResponse", QUERY)),
                    Some(reply) => self.reply(reply),
                }
                Ok(())
            }
            State::Uploading(result, bytes) => self.in_upload(result, bytes, message),
            State::Starting(result, start) => self.in_starting(result, start, message, now),
            State::Streaming(stream) => self.in_stream(stream, message, now),
            State::Backup(transfer) => self.in_backup(transfer, message),
            State::Ending { ours, result } => self.in_ending(ours, result, message),
            State::Closed => Ok(()),
        }
    }

    fn in_startup(
        &mut self,
        mut startup: Box<Startup>,
        message: BackendMessage<'_>,
    ) -> Result<(), ProtocolError> {
        let step = startup.handle(message)?;
        for notice in startup.take_notices() {
            self.events.push_back(Event::Notice(Box::new(notice)));
        }
        match step {
            StartupStep::Ready(info) => {
                self.events.push_back(Event::Ready(Box::new(info)));
                self.state = State::Idle;
                return Ok(());
            }
            StartupStep::Send(bytes) => self.outgoing.extend_from_slice(&bytes),
            _ => {}
        }
        self.state = State::Startup(startup);
        Ok(())
    }

    fn in_idle(&mut self, message: BackendMessage<'_>) -> Result<(), ProtocolError> {
        match message {
            BackendMessage::NoticeResponse(notice) => {
                self.events.push_back(Event::Notice(notice));
            }
            BackendMessage::ParameterStatus { .. } => {}
            BackendMessage::ErrorResponse(error) => {
                self.events.push_back(Event::StreamFailed(error));
                return Ok(());
            }
            other => return Err(unexpected(other.name(), "between commands")),
        }
        self.state = State::Idle;
        Ok(())
    }

    fn in_backup(
        &mut self,
        mut transfer: Transfer,
        message: BackendMessage<'_>,
    ) -> Result<(), ProtocolError> {
        let ended = match message {
            BackendMessage::NoticeResponse(notice) => {
                self.events.push_back(Event::Notice(notice));
                false
            }
            message => transfer.message(message, &mut |event| {
                self.events.push_back(Event::Backup(event));
            })?,
        };
        if !ended {
            self.state = State::Backup(transfer);
        } else if !transfer.is_fatal() {
            self.state = State::Idle;
        }
        Ok(())
    }

    fn in_starting(
        &mut self,
        mut result: QueryResult,
        start: Lsn,
        message: BackendMessage<'_>,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        let reply = result.handle(message)?;
        self.hand_out(&mut result);
        match reply {
            None => self.state = State::Starting(result, start),
            Some(Reply::CopyBoth) => {
                self.events.push_back(Event::Streaming);
                self.state = State::Streaming(Stream::new(start, self.timing, now));
            }
            // Started exactly where the timeline ends: there is no stream, only its end.
            Some(Reply::Rows(rows)) => self.stream_ended(&rows, false)?,
            Some(Reply::Error(error)) => {
                self.state = if error.is_fatal() { State::Closed } else { State::Idle };
                self.events.push_back(Event::StreamFailed(error));
            }
            Some(_) => return Err(unexpected("unknown", QUERY)),
        }
        Ok(())
    }

    fn in_upload(
        &mut self,
        mut result: QueryResult,
        bytes: Vec<u8>,
        message: BackendMessage<'_>,
    ) -> Result<(), ProtocolError> {
        if message == BackendMessage::CopyInResponse {
            for piece in bytes.chunks(UPLOAD_LEN) {
                match frontend::copy_data(piece) {
                    Ok(message) => self.outgoing.extend_from_slice(&message),
                    Err(error) => debug_assert!(false, "a piece is short: {error}"),
                }
            }
            self.outgoing.extend_from_slice(&frontend::copy_done());
            self.state = State::Query(result);
            return Ok(());
        }
        // It refuses before it asks.
        let reply = result.handle(message)?;
        self.hand_out(&mut result);
        match reply {
            None => self.state = State::Uploading(result, bytes),
            Some(Reply::CopyBoth) => return Err(unexpected("CopyBothResponse", QUERY)),
            Some(reply) => self.reply(reply),
        }
        Ok(())
    }

    fn in_stream(
        &mut self,
        mut stream: Stream,
        message: BackendMessage<'_>,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        match message {
            BackendMessage::CopyData(payload) => {
                let keepalive = payload.try_into().ok().and_then(PrimaryKeepalive::parse);
                stream.keepalive(&keepalive.ok_or(ProtocolError::StreamMessage)?, now);
                self.state = State::Streaming(stream);
            }
            BackendMessage::CopyDone => {
                self.outgoing.extend_from_slice(&frontend::copy_done());
                self.state = State::Ending { ours: false, result: QueryResult::new() };
            }
            // Without CopyDone: the server shuts down, and closes the socket.
            BackendMessage::CommandComplete { .. } => {
                self.events.push_back(Event::ServerShutDown);
            }
            BackendMessage::ErrorResponse(error) => {
                self.events.push_back(Event::StreamFailed(error));
            }
            BackendMessage::NoticeResponse(notice) => {
                self.events.push_back(Event::Notice(notice));
                self.state = State::Streaming(stream);
            }
            BackendMessage::ParameterStatus { .. } => self.state = State::Streaming(stream),
            other => return Err(unexpected(other.name(), "in the stream")),
        }
        Ok(())
    }

    fn in_ending(
        &mut self,
        ours: bool,
        mut result: QueryResult,
        message: BackendMessage<'_>,
    ) -> Result<(), ProtocolError> {
        if matches!(message, BackendMessage::CopyData(_)) {
            self.state = State::Ending { ours, result };
            return Ok(());
        }
        let reply = result.handle(message)?;
        self.hand_out(&mut result);
        match reply {
            None => self.state = State::Ending { ours, result },
            Some(Reply::Rows(rows)) => self.stream_ended(&rows, ours)?,
            Some(Reply::Error(error)) => self.events.push_back(Event::StreamFailed(error)),
            Some(_) => return Err(unexpected("CopyBothResponse", "at the stream's end")),
        }
        Ok(())
    }

    fn stream_ended(&mut self, rows: &Rows, ours: bool) -> Result<(), ProtocolError> {
        let event = match EndOfTimeline::from_rows(rows)? {
            Some(end) => Event::EndOfTimeline(end),
            None if ours => Event::StreamEnded,
            None => Event::ServerShutDown,
        };
        self.events.push_back(event);
        self.state = State::Idle;
        Ok(())
    }

    fn reply(&mut self, reply: Reply) {
        self.state = State::Idle;
        match reply {
            Reply::Rows(rows) => self.events.push_back(Event::Reply(Ok(rows))),
            Reply::Error(error) => {
                if error.is_fatal() {
                    self.state = State::Closed;
                }
                self.events.push_back(Event::Reply(Err(error)));
            }
            _ => {}
        }
    }

    fn hand_out(&mut self, result: &mut QueryResult) {
        while let Some(event) = result.poll_event() {
            if let query::Event::Notice(notice) = event {
                self.events.push_back(Event::Notice(notice));
            }
        }
    }
}

/// How much of what is uploaded goes into a message, as pg_basebackup does it.
const UPLOAD_LEN: usize = 64 << 10;

const QUERY: &str = "in the answer to a command";

fn unexpected(message: &'static str, place: &'static str) -> ProtocolError {
    ProtocolError::Unexpected { message, place }
}
