//! A connection of a client to us, from its first packet to the end of its stream: what a WAL
//! sender says, in the words of the upstream's version.
//!
//! Bytes go in ([`Sender::handle_input`]) and come out ([`Sender::poll_transmit`]). What takes an
//! archive is asked for ([`Sender::poll_ask`]) and answered ([`Sender::login`],
//! [`Sender::answer`]); until then nothing more of the client's is read. While it streams,
//! [`Sender::next_piece`] says which WAL is to be sent; its bytes never come through here.
//!
//! Invariant: no piece ends behind the limit that the last [`Sender::advance`] gave.

mod answer;
mod backup;
mod host;
mod lag;
mod login;
mod stream;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg_types::Lsn;
use pg_wire::message::SqlState;
use pg_wire::row::parse_duration;
use pg_wire::server::Verifier;
use pg_wire::server::frame::{self, ClientMessage, FrameError, MAX_BODY, MAX_LOGIN_BODY};
use pg_wire::server::grammar::{self, Command};
use pg_wire::server::response::{Refusal, Responses};
use pg_wire::server::scram::{self, Exchange, NONCE_LEN};
use pg_wire::server::startup::StartupMessage;
use pg_wire::stream::EndOfTimeline;

pub use answer::{Answer, SlotAnswer};
pub use backup::{BackupPart, BackupStart};
pub use host::Host;
pub use stream::{Piece, Standing, Status};

use self::backup::Sending;
use self::stream::{After, Stream};

/// While so many bytes of answers wait, nothing more is answered, nor read: whoever asks and doesn't
/// listen waits.
const MAX_BACKLOG: usize = 64 << 10;

/// What a connection is given that nobody can guess, and its number.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Its number: `pg_stat_replication.pid`.
    pub process_id: u32,
    /// What a cancel request has to know.
    pub cancel_key: [u8; 32],
    /// The server's part of the SCRAM nonce.
    pub nonce: [u8; NONCE_LEN],
}

/// How a user has to prove who they are.
#[derive(Clone, Debug)]
pub enum Login {
    /// Not at all.
    Trust,
    /// By SCRAM-SHA-256 against this verifier, which is nobody's if there is no such user.
    Scram(Verifier),
}

/// What somebody else has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ask {
    /// Send what is to be sent, and do a TLS handshake, of which this has come already; then
    /// [`Sender::encrypted`].
    Tls(Vec<u8>),
    /// Look how this user logs in; then [`Sender::login`].
    Login(String),
    /// Do this; then [`Sender::answer`].
    Command(Command),
    /// Cancel what another connection does.
    Cancel {
        /// Which.
        process_id: u32,
        /// What has to be its key.
        key: Vec<u8>,
    },
    /// Tell an operator: something about this client isn't right.
    Note(String),
}

enum State {
    /// Nothing has come but requests for encryption, each at most once.
    First {
        ssl: bool,
        gss: bool,
    },
    /// Somebody does a TLS handshake, which the client asked for or, since 17, just began.
    Handshake {
        asked: bool,
    },
    /// Somebody looks how the user logs in.
    LoggingIn(StartupMessage),
    Sasl(Box<Exchange>, StartupMessage),
    Idle {
        /// A message of the extended protocol was refused: all is passed over up to Sync.
        to_sync: bool,
    },
    /// A command is being done.
    Working,
    Streaming(Box<Stream>),
    /// A base backup is being sent.
    Backup(Box<backup::Sending>),
    Closed,
}

/// See the [module](self).
pub struct Sender {
    host: Arc<Host>,
    secrets: Secrets,
    state: State,
    inbox: Vec<u8>,
    /// There is more in the inbox that could be answered.
    is_halted: bool,
    outgoing: Responses,
    sent: usize,
    asks: VecDeque<Ask>,
    user: String,
    settings: BTreeMap<String, String>,
    /// The one that the client names, if it is a client for logical replication too.
    database: Option<String>,
    offers_tls: bool,
    /// What SCRAM is bound to, within TLS.
    end_point: Option<Vec<u8>>,
}

impl Sender {
    /// A connection that has just been made.
    #[must_use]
    pub fn new(host: Arc<Host>, secrets: Secrets) -> Self {
        Self {
            host,
            secrets,
            state: State::First { ssl: false, gss: false },
            inbox: Vec::new(),
            is_halted: false,
            outgoing: Responses::default(),
            sent: 0,
            asks: VecDeque::new(),
            user: String::new(),
            settings: BTreeMap::new(),
            database: None,
            offers_tls: false,
            end_point: None,
        }
    }

    /// Who it is.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// `application_name`, as the client gave it.
    #[must_use]
    pub fn application_name(&self) -> &str {
        self.settings.get("application_name").map_or("", String::as_str)
    }

    /// Whether it has proved who it is.
    #[must_use]
    pub fn is_logged_in(&self) -> bool {
        matches!(
            self.state,
            State::Idle { .. } | State::Working | State::Streaming(_) | State::Backup(_)
        )
    }

    /// Whether the connection has ended, but for what is still to be sent.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether more of the client's bytes are taken now: of one that asks and doesn't listen they
    /// aren't.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.is_closed() && self.inbox.len() <= MAX_BODY && !self.has_backlog()
    }

    /// Whether it has said more than was answered so far, since it didn't take the answers; now it
    /// is [`handle_timeout`](Self::handle_timeout)'s.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.is_halted && !self.has_backlog()
    }

    fn has_backlog(&self) -> bool {
        self.outgoing.as_bytes().len().saturating_sub(self.sent) >= MAX_BACKLOG
    }

    /// Where the stream stands, while there is one.
    #[must_use]
    pub fn standing(&self) -> Option<&Standing> {
        match &self.state {
            State::Streaming(stream) => Some(stream.standing()),
            _ => None,
        }
    }

    /// What came from the client.
    pub fn handle_input(&mut self, bytes: &[u8], now: Instant) {
        self.inbox.extend_from_slice(bytes);
        self.go_on(now);
    }

    /// There is TLS for whoever asks for it.
    pub fn offer_tls(&mut self) {
        self.offers_tls = true;
    }

    /// The handshake is done that [`Ask::Tls`] asked for; `end_point` is the hash of our
    /// certificate, if it has one. `has_alpn` says whether the client named the protocol, as one
    /// that began by itself has to: it might take us for a server of another kind.
    pub fn encrypted(&mut self, end_point: Option<Vec<u8>>, has_alpn: bool) {
        let State::Handshake { asked } = self.state else { return };
        if asked || has_alpn {
            self.end_point = end_point;
            self.state = State::First { ssl: true, gss: true };
        } else {
            let note = "received direct SSL connection request without ALPN protocol negotiation \
                        extension";
            self.asks.push_back(Ask::Note(note.to_owned()));
            self.state = State::Closed;
        }
    }

    /// How the user logs in whom [`Ask::Login`] asked about.
    pub fn login(&mut self, how: Login, now: Instant) {
        let State::LoggingIn(startup) = std::mem::replace(&mut self.state, State::Closed) else {
            return;
        };
        match how {
            Login::Trust => self.logged_in(&startup),
            Login::Scram(verifier) => {
                let end_point = self.end_point.clone();
                let mechanisms: &[&str] = match end_point {
                    Some(_) => &[scram::MECHANISM_PLUS, scram::MECHANISM],
                    None => &[scram::MECHANISM],
                };
                let exchange = Exchange::new(verifier, self.secrets.nonce, end_point);
                self.outgoing.authentication_sasl(mechanisms);
                self.state = State::Sasl(Box::new(exchange), startup);
            }
        }
        self.go_on(now);
    }

    /// Ends the connection with an error.
    pub fn refuse(&mut self, refusal: &Refusal) {
        self.outgoing.refusal(refusal);
        self.state = State::Closed;
    }

    /// What came of the command that [`Ask::Command`] asked for.
    pub fn answer(&mut self, answer: Answer, now: Instant) {
        let State::Working = std::mem::replace(&mut self.state, State::Idle { to_sync: false })
        else {
            return;
        };
        if let Answer::Backup(backup) = answer {
            let sending = Sending::new(backup, self.host.version, now, &mut self.outgoing);
            self.state = State::Backup(Box::new(sending));
        } else if let Answer::Stream { start, timeline, limit, end } = answer {
            let is_over = end.is_some_and(|end| start >= end.switch_point);
            let stream = Stream::new(start, timeline, limit, end, self.timeout(), now);
            if is_over {
                answer::streamed(&mut self.outgoing, end);
            } else {
                self.outgoing.copy_both();
                if start > limit {
                    let text = format!(
                        "requested starting point {start} is ahead of the WAL flush position of \
                         this server {limit}"
                    );
                    self.outgoing.refusal(&Refusal::error(SqlState::INTERNAL_ERROR, text));
                    self.outgoing.ready();
                } else {
                    self.state = State::Streaming(Box::new(stream));
                }
            }
        } else {
            self.note_refused(&answer);
            answer.write(&self.host, self.database.as_deref(), &mut self.outgoing);
        }
        self.go_on(now);
    }

    /// More may be sent than before; `end` is where the timeline ends, once it is known to.
    pub fn advance(&mut self, limit: Lsn, end: Option<EndOfTimeline>) {
        if let State::Streaming(stream) = &mut self.state {
            stream.advance(limit, end);
            self.end_if_done();
        }
    }

    /// The stream, or the base backup, can't go on.
    pub fn fail(&mut self, refusal: &Refusal) {
        if matches!(self.state, State::Streaming(_) | State::Backup(_)) {
            self.note(&refusal.message);
            self.outgoing.refusal(refusal);
            self.outgoing.ready();
            self.state = State::Idle { to_sync: false };
        }
    }

    /// Has an operator told of a command that fails: whoever sent it tries again, perhaps for ever.
    fn note_refused(&mut self, answer: &Answer) {
        match answer {
            Answer::Refused(refusal) => self.note(&refusal.message),
            Answer::History { timeline, content: None } => {
                self.note(&format!("the history of timeline {timeline} isn't archived"));
            }
            _ => {}
        }
    }

    fn note(&mut self, error: &str) {
        let name = self.application_name();
        let by = if name.is_empty() { String::new() } else { format!("{name}: ") };
        self.asks.push_back(Ask::Note(format!("{by}{error}")));
    }

    /// Somebody who knows the key wants it cancelled.
    pub fn cancel(&mut self) {
        self.fail(&Refusal::error(
            SqlState::QUERY_CANCELED,
            "canceling statement due to user request",
        ));
    }

    /// What a cancel request has to know.
    #[must_use]
    pub fn cancel_key(&self) -> &[u8] {
        &self.secrets.cancel_key
    }

    /// The server ends: a client that streams gets all that there is first.
    pub fn shut_down(&mut self) {
        match &mut self.state {
            State::Streaming(stream) => {
                stream.shut_down();
                self.end_if_done();
            }
            State::Closed => {}
            _ => self.refuse(&Refusal::fatal(
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command",
            )),
        }
    }

    /// The WAL to be sent next: only once all of [`poll_transmit`](Self::poll_transmit) is sent.
    #[must_use]
    pub fn next_piece(&self) -> Option<Piece> {
        match &self.state {
            State::Streaming(stream) => stream.next_piece(),
            _ => None,
        }
    }

    /// The header that goes before a piece, `time_us` microseconds since 2000.
    #[must_use]
    pub fn piece_header(&self, piece: &Piece, time_us: i64) -> [u8; Piece::HEADER_LEN] {
        piece.header(self.standing().map_or(Lsn::INVALID, |standing| standing.limit), time_us)
    }

    /// A piece is on its way, all of it.
    pub fn piece_sent(&mut self, piece: &Piece, now: Instant) {
        if let State::Streaming(stream) = &mut self.state {
            stream.piece_sent(piece, now);
            self.end_if_done();
        }
    }

    /// Whether a base backup is being sent.
    #[must_use]
    pub fn is_in_backup(&self) -> bool {
        matches!(self.state, State::Backup(_))
    }

    /// Whether the next part of a base backup is wanted: only once all of
    /// [`poll_transmit`](Self::poll_transmit) is sent, and not before the time that is given.
    #[must_use]
    pub fn wants_backup(&self) -> Option<Option<Instant>> {
        match &self.state {
            State::Backup(sending) if self.poll_transmit().is_none() => Some(sending.not_before()),
            _ => None,
        }
    }

    /// The next part of a base backup.
    pub fn backup_part(&mut self, part: BackupPart<'_>, now: Instant) {
        if let State::Backup(sending) = &mut self.state
            && sending.part(part, now, &mut self.outgoing)
        {
            self.state = State::Idle { to_sync: false };
            self.go_on(now);
        }
    }

    /// Bytes to send; [`transmitted`](Self::transmitted) says how many were.
    #[must_use]
    pub fn poll_transmit(&self) -> Option<&[u8]> {
        self.outgoing.as_bytes().get(self.sent..).filter(|bytes| !bytes.is_empty())
    }

    /// So many bytes of [`poll_transmit`](Self::poll_transmit) are sent.
    pub fn transmitted(&mut self, len: usize) {
        self.sent = self.sent.saturating_add(len);
        if self.sent >= self.outgoing.as_bytes().len() {
            self.outgoing.clear();
            self.sent = 0;
        }
    }

    /// What somebody has to do.
    pub fn poll_ask(&mut self) -> Option<Ask> {
        self.asks.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Streaming(stream) => stream.next_timeout(),
            _ => None,
        }
    }

    /// The time has come.
    pub fn handle_timeout(&mut self, now: Instant, time_us: i64) {
        // What came while something ran that was cancelled.
        if self.is_halted || !matches!(self.state, State::Streaming(_)) {
            self.go_on(now);
        }
        let State::Streaming(stream) = &mut self.state else { return };
        match stream.handle_timeout(now, time_us) {
            stream::Timeout::Nothing => {}
            stream::Timeout::Keepalive(bytes) => self.outgoing.copy_data(&bytes),
            stream::Timeout::Gone => {
                // As the real server does: whoever doesn't answer isn't told.
                let note = "it didn't answer within wal_sender_timeout".to_owned();
                self.asks.push_back(Ask::Note(note));
                self.state = State::Closed;
            }
        }
    }

    /// Reads as much of the inbox as may be read now.
    fn go_on(&mut self, now: Instant) {
        let inbox = std::mem::take(&mut self.inbox);
        let mut rest = inbox.as_slice();
        self.is_halted = false;
        while !rest.is_empty() {
            if self.has_backlog() {
                self.is_halted = true;
                break;
            }
            let done = match &self.state {
                State::First { .. } => self.first_packet(rest),
                State::Handshake { .. }
                | State::LoggingIn(_)
                | State::Working
                | State::Backup(_)
                | State::Closed => break,
                State::Sasl(..) => self.message(rest, MAX_LOGIN_BODY, now),
                State::Idle { .. } | State::Streaming(_) => self.message(rest, MAX_BODY, now),
            };
            match done {
                Ok(Some(len)) => rest = rest.get(len..).unwrap_or_default(),
                Ok(None) => break,
                Err(error) => {
                    // Nobody is there who would understand an answer.
                    self.asks.push_back(Ask::Note(error.to_string()));
                    self.state = State::Closed;
                }
            }
        }
        if !self.is_closed() {
            self.inbox = rest.to_vec();
        }
    }

    fn message(
        &mut self,
        bytes: &[u8],
        limit: usize,
        now: Instant,
    ) -> Result<Option<usize>, FrameError> {
        let Some((tag, body, len)) = frame::message(bytes, limit)? else { return Ok(None) };
        let message = ClientMessage::parse(tag, body);
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Sasl(exchange, startup) => self.in_sasl(exchange, startup, message),
            State::Idle { to_sync } => self.in_idle(to_sync, message),
            State::Streaming(stream) => self.in_stream(stream, message, tag, now),
            _ => {}
        }
        Ok(Some(len))
    }

    fn in_idle(&mut self, to_sync: bool, message: ClientMessage<'_>) {
        let violation = |text: &str| Refusal::error(SqlState::PROTOCOL_VIOLATION, text);
        self.state = State::Idle { to_sync };
        match message {
            ClientMessage::Terminate => self.state = State::Closed,
            ClientMessage::Sync => {
                self.state = State::Idle { to_sync: false };
                self.outgoing.ready();
            }
            ClientMessage::Unknown(tag) => self.not_a_message(tag),
            ClientMessage::Password(_) => self.not_a_message(b'p'),
            _ if to_sync => {}
            ClientMessage::Query(Some(text)) => self.command(&String::from_utf8_lossy(text)),
            ClientMessage::Query(None) => {
                self.outgoing.refusal(&violation("invalid string in message"));
                self.outgoing.ready();
            }
            ClientMessage::Extended => {
                let text = "extended query protocol not supported in a replication connection";
                self.outgoing.refusal(&violation(text));
                self.state = State::Idle { to_sync: true };
            }
            ClientMessage::FunctionCall => {
                let text = "fastpath function calls not supported in a replication connection";
                self.outgoing.refusal(&violation(text));
                self.outgoing.ready();
            }
            // What was on its way when a stream ended.
            ClientMessage::CopyData(_)
            | ClientMessage::CopyDone
            | ClientMessage::CopyFail
            | ClientMessage::Flush => {}
        }
    }

    fn not_a_message(&mut self, tag: u8) {
        let text = format!("invalid frontend message type {tag}");
        self.asks.push_back(Ask::Note(text.clone()));
        self.refuse(&Refusal::fatal(SqlState::PROTOCOL_VIOLATION, text));
    }

    fn command(&mut self, text: &str) {
        let refusal = match grammar::parse(text, self.host.version.major()) {
            Ok(Command::Show(name)) if name.eq_ignore_ascii_case("all") => {
                let all = self.host.settings(&self.settings, &self.user);
                return answer::settings(&mut self.outgoing, all);
            }
            Ok(Command::Show(name)) => match self.host.setting(&name, &self.settings, &self.user) {
                Some((name, value)) => return answer::setting(&mut self.outgoing, name, &value),
                None => Refusal::error(
                    SqlState::UNDEFINED_OBJECT,
                    format!("unrecognized configuration parameter \"{name}\""),
                ),
            },
            Ok(Command::Sql) if self.database.is_some() => Refusal::error(
                SqlState::FEATURE_NOT_SUPPORTED,
                "SQL isn't served here: this is seawall, which has WAL and no database",
            ),
            Ok(Command::Sql) => Refusal::error(
                SqlState::FEATURE_NOT_SUPPORTED,
                "cannot execute SQL commands in WAL sender for physical replication",
            ),
            Ok(Command::Other(name)) => Refusal::error(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("{name} isn't served by seawall: it serves physical replication"),
            ),
            Ok(command) => {
                self.asks.push_back(Ask::Command(command));
                self.state = State::Working;
                return;
            }
            Err(refusal) => refusal,
        };
        self.outgoing.refusal(&refusal);
        self.outgoing.ready();
    }

    fn in_stream(
        &mut self,
        mut stream: Box<Stream>,
        message: ClientMessage<'_>,
        tag: u8,
        now: Instant,
    ) {
        match message {
            ClientMessage::CopyData(payload) => match stream.reply(payload, now) {
                After::Nothing => {}
                After::Refused(refusal) => {
                    self.state = State::Streaming(stream);
                    return self.fail(&refusal);
                }
                After::Unknown(kind) => {
                    let text = format!("unexpected message type 0x{kind:02X} in its stream");
                    self.asks.push_back(Ask::Note(text));
                    return;
                }
                After::FromTheFuture(position) => self.asks.push_back(Ask::Note(format!(
                    "it says that it has flushed up to {position}, and the archive ends before"
                ))),
            },
            ClientMessage::CopyDone => stream.client_is_done(),
            ClientMessage::Terminate => return,
            _ => {
                let kind = char::from(tag);
                let text = format!("invalid standby message type \"{kind}\"");
                self.asks.push_back(Ask::Note(text.clone()));
                return self.refuse(&Refusal::fatal(SqlState::PROTOCOL_VIOLATION, text));
            }
        }
        self.state = State::Streaming(stream);
        self.end_if_done();
    }

    /// Says what a stream that has come to its end has to say.
    fn end_if_done(&mut self) {
        let State::Streaming(stream) = &mut self.state else { return };
        if stream.has_shut_down() {
            // Without CopyDone, as the real server.
            self.outgoing.complete("COPY 0");
            self.state = State::Closed;
            return;
        }
        if stream.say_done() {
            self.outgoing.copy_done();
        }
        if let Some(end) = stream.ended() {
            answer::streamed(&mut self.outgoing, end);
            self.state = State::Idle { to_sync: false };
        }
    }

    /// `wal_sender_timeout`, as the client or the server has it; zero for none.
    fn timeout(&self) -> Duration {
        let own = self.settings.get("wal_sender_timeout");
        own.and_then(|text| parse_duration(text)).unwrap_or(self.host.wal_sender_timeout)
    }
}
