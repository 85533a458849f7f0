//! What ended a session, and what is done about it.

use std::path::PathBuf;
use std::{fmt, io};

use archive::{ArchiveError, Gap, Stop};
use pg_types::{Lsn, TimelineId};
use pg_wire::message::{ServerMessage, SqlState};
use pg_wire::row::RowError;
use pg_wire::startup::StartupError;
use replication::ProtocolError;

use crate::TlsError;
use crate::check::Finding;

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The server refused it; the connection takes further commands.
    #[error("{0}")]
    Server(Box<ServerMessage>),
}

/// Why a session ended that shouldn't have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// No connection.
    #[error("can't connect to {endpoint}: {error}")]
    Connect {
        /// Where to.
        endpoint: String,
        /// Why not.
        error: io::Error,
    },
    /// No connection in time.
    #[error("can't connect to {endpoint}: no answer in {seconds} s")]
    ConnectTimeout {
        /// Where to.
        endpoint: String,
        /// How long was waited.
        seconds: u64,
    },
    /// TLS can't be had.
    #[error("can't connect to {endpoint}: {error}")]
    Tls {
        /// Where to.
        endpoint: String,
        /// Why not.
        error: TlsError,
    },
    /// The server runs as somebody else.
    #[error(
        "can't connect to {endpoint}: requirepeer specifies \"{wanted}\", but actual peer user is \
         \"{name}\""
    )]
    WrongPeer {
        /// Where to.
        endpoint: String,
        /// Who it must be.
        wanted: String,
        /// Who it is.
        name: String,
    },
    /// The server isn't of the kind that `target_session_attrs` asks for.
    #[error("{0} (target_session_attrs)")]
    WrongTarget(&'static str),
    /// Several attempts, each with its server and way.
    #[error("{}", AllOf(.0))]
    AllOf(Vec<(String, SessionError)>),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server shut down in order.
    #[error("the server shut down")]
    ServerShutDown,
    /// The server doesn't keep to the protocol, or refuses the connection.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// An answer that can't be read.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The server refused a command, or ended the stream.
    #[error("{command}: {message}")]
    Refused {
        /// What was asked of it.
        command: &'static str,
        /// What it said.
        message: Box<ServerMessage>,
    },
    /// The server doesn't say its version, or one that isn't known.
    #[error("the server says that its version is \"{0}\": seawall receives from 10 to 18")]
    Version(String),
    /// A setting of the server that can't be read.
    #[error("the server's {name} is \"{value}\", which can't be read")]
    Setting {
        /// Which.
        name: &'static str,
        /// What it said.
        value: String,
    },
    /// The archive can't take this server's WAL.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive's writer stopped.
    #[error("{0}")]
    Stopped(Stop),
    /// The server has other bytes than the archive for what is proved, and both hold.
    #[error(
        "the server's WAL differs from the archive's on timeline {timeline} from {at} on, and both \
         are valid: this server has another history (a clone, or one restored from an old copy). \
         The archive was left as it is{}",
        kept_in(kept)
    )]
    Diverged {
        /// The timeline that both have.
        timeline: TimelineId,
        /// The first byte that differs.
        at: Lsn,
        /// Where a piece of the server's WAL is, if there was room for it.
        kept: Option<PathBuf>,
    },
    /// What came again wasn't what is archived, and on asking once more it was.
    #[error(
        "WAL between {from} and {to} came otherwise than it is archived, and on asking again just \
         so: something on the way changes it"
    )]
    CameWrong {
        /// Where the piece starts.
        from: Lsn,
        /// Where it ends.
        to: Lsn,
    },
    /// The server hasn't got all that is archived, and the same up to there.
    #[error(
        "the server's WAL ends at {server}, before the archive's end {archived}: a standby that \
         hasn't got it yet is waited for; a primary has lost WAL that was archived"
    )]
    Behind {
        /// The server's end.
        server: Lsn,
        /// The archive's.
        archived: Lsn,
    },
    /// The server was promoted while it was asked, or another one is in its place.
    #[error("the server isn't where it was a moment ago: it was promoted meanwhile, or replaced")]
    Moved,
    /// The slot isn't there.
    #[error(
        "the replication slot \"{slot}\" doesn't exist on the server: WAL may be missing that it \
         should have kept; make it anew with --create-slot"
    )]
    NoSlot {
        /// Its name.
        slot: String,
    },
    /// The slot was invalidated.
    #[error(
        "the replication slot \"{slot}\" can't be used: {message}; drop it with `seawall slot drop \
         {slot}`, and receive with --create-slot --if-not-exists, which does that by itself"
    )]
    SlotInvalid {
        /// Its name.
        slot: String,
        /// What the server said.
        message: Box<ServerMessage>,
    },
    /// The slot is there, and shouldn't be.
    #[error("the replication slot \"{slot}\" exists already: add --if-not-exists to use it")]
    SlotExists {
        /// Its name.
        slot: String,
    },
    /// The server hasn't got the WAL that follows the archive's end; the gap is recorded.
    #[error("WAL is missing from {} to {}: {}", .0.from, .0.to, .0.reason)]
    Gap(Gap),
    /// The server is set up so that receiving from it would do harm.
    #[error("{0}. Nothing was received")]
    Unfit(Finding),
    /// The slot kept more than it may.
    #[error("the replication slot kept {retained} bytes, more than --max-slot-retention")]
    SlotLetGo {
        /// What it kept, bytes.
        retained: u64,
    },
    /// The slot that was let go can be made anew.
    #[error("the replication slot that was let go is made anew")]
    SlotAgain,
    /// The timeline that was streamed is archived to its end.
    #[error("timeline {timeline} ends at {at}, and the server goes on with timeline {next}")]
    EndOfTimeline {
        /// The one that was streamed.
        timeline: TimelineId,
        /// Where it ends.
        at: Lsn,
        /// What it goes on with.
        next: TimelineId,
    },
}

fn kept_in(kept: &Option<PathBuf>) -> String {
    let of = |path: &PathBuf| format!("; what the server has there is in {}", path.display());
    kept.as_ref().map_or(String::new(), of)
}

/// Each attempt's error behind its name.
struct AllOf<'a>(&'a [(String, SessionError)]);

impl fmt::Display for AllOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, error)) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "; " })?;
            match error {
                // These name the server themselves.
                SessionError::Connect { .. }
                | SessionError::ConnectTimeout { .. }
                | SessionError::Tls { .. }
                | SessionError::WrongPeer { .. } => write!(f, "{error}")?,
                error => write!(f, "{name}: {error}")?,
            }
        }
        Ok(())
    }
}

impl SessionError {
    /// Several attempts as one error; a single one is its own.
    pub(crate) fn all_of(mut attempts: Vec<(String, Self)>) -> Self {
        match (attempts.pop(), attempts.is_empty()) {
            (Some((_, only)), true) => only,
            (Some(last), false) => {
                attempts.push(last);
                Self::AllOf(attempts)
            }
            (None, _) => Self::Closed,
        }
    }
}

impl From<AskError> for SessionError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Session(error) => error,
            AskError::Server(message) => Self::Refused { command: "command refused", message },
        }
    }
}

/// What is done about the end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass: connect again.
    Retry,
    /// It won't pass by itself, or going on would do harm.
    GiveUp,
}

impl SessionError {
    /// The one place that decides. `connected_before` says whether this receiver ever streamed:
    /// what a first attempt gets wrong is a mistake of the set-up, and the same later may be a
    /// server that is being worked on.
    #[must_use]
    pub fn verdict(&self, connected_before: bool) -> Verdict {
        let patient = if connected_before { Verdict::Retry } else { Verdict::GiveUp };
        match self {
            Self::Protocol(ProtocolError::Startup(StartupError::Server(message)))
            | Self::Refused { message, .. } => by_sqlstate(message.sqlstate, patient),
            Self::AllOf(attempts) => {
                let mut verdicts = attempts.iter().map(|(_, it)| it.verdict(connected_before));
                let retry = verdicts.any(|verdict| verdict == Verdict::Retry);
                if retry { Verdict::Retry } else { Verdict::GiveUp }
            }
            Self::Tls { error: TlsError::Broken(_), .. } | Self::WrongTarget(_) => Verdict::Retry,
            Self::Protocol(ProtocolError::Startup(_))
            | Self::Tls { .. }
            | Self::WrongPeer { .. }
            | Self::Archive(ArchiveError::Disk(_)) => patient,
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Broken(_)
            | Self::Closed
            | Self::ServerShutDown
            | Self::Protocol(_)
            | Self::Row(_)
            | Self::Behind { .. }
            | Self::Moved
            | Self::CameWrong { .. }
            | Self::Gap(_)
            | Self::SlotLetGo { .. }
            | Self::SlotAgain
            | Self::EndOfTimeline { .. }
            | Self::Archive(ArchiveError::LeftTimeline { .. })
            | Self::Stopped(Stop::Corrupt(_) | Stop::Disk(_) | Stop::Shipped(_)) => Verdict::Retry,
            _ => Verdict::GiveUp,
        }
    }
}

impl SessionError {
    /// Whether the server lets this user in nowhere here, as a `pg_hba.conf` does that has
    /// nothing but `replication`: neither a fault nor a full house, which pass.
    pub(crate) fn is_access_refused(&self) -> bool {
        match self {
            Self::Protocol(ProtocolError::Startup(StartupError::Server(message))) => {
                // Invalid authorization, an unknown database, no privilege to connect to it.
                // No feature: another seawall, which has no database.
                matches!(&message.sqlstate.class(), b"28" | b"3D" | b"42" | b"0A")
            }
            Self::Protocol(ProtocolError::Startup(_)) => true,
            Self::AllOf(attempts) => attempts.iter().any(|(_, error)| error.is_access_refused()),
            _ => false,
        }
    }
}

fn by_sqlstate(sqlstate: SqlState, patient: Verdict) -> Verdict {
    match sqlstate {
        SqlState::OBJECT_IN_USE
        | SqlState::TOO_MANY_CONNECTIONS
        | SqlState::CONFIGURATION_LIMIT_EXCEEDED
        | SqlState::CANNOT_CONNECT_NOW
        | SqlState::ADMIN_SHUTDOWN
        | SqlState::CRASH_SHUTDOWN
        | SqlState::INTERNAL_ERROR => Verdict::Retry,
        // The WAL is gone, the slot is gone: nothing that time heals.
        SqlState::UNDEFINED_FILE | SqlState::UNDEFINED_OBJECT => Verdict::GiveUp,
        state if state.class() == *b"08" || state.class() == *b"57" => Verdict::Retry,
        _ => patient,
    }
}
