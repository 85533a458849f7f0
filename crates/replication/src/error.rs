//! A peer that doesn't keep to the protocol.

use pg_types::Lsn;
use pg_wire::message::{FrameError, MessageError};
use pg_wire::query::QueryError;
use pg_wire::row::RowError;
use pg_wire::startup::StartupError;

/// Why a connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Starting up failed.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// A frame that can't be.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message that can't be read.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// An answer that is none.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A row that can't be read.
    #[error(transparent)]
    Row(#[from] RowError),
    /// A message that doesn't belong here.
    #[error("the server sent an unexpected {message} message {place}")]
    Unexpected {
        /// Its name.
        message: &'static str,
        /// Where in the protocol.
        place: &'static str,
    },
    /// A message in the stream that is neither WAL nor a keepalive.
    #[error("the stream has a message of unknown kind or wrong length")]
    StreamMessage,
    /// A message of a base backup that none has there.
    #[error("the base backup has a message of unknown kind, or one where it doesn't belong")]
    BackupMessage,
    /// WAL from elsewhere than where the last ended.
    #[error("the server sent WAL from {got} where {expected} was to follow")]
    NotContiguous {
        /// Where it should go on.
        expected: Lsn,
        /// Where it does.
        got: Lsn,
    },
    /// The server was silent for longer than a living one is.
    #[error("no message from the server for {seconds} s")]
    Silent {
        /// How long.
        seconds: u64,
    },
}
