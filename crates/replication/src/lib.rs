//! Physical replication without I/O: the connection that a receiver has to its upstream, as a
//! state machine.
//!
//! [`Connection`] says where the next bytes are to be read ([`Connection::want`]), so that the
//! payload of a stream goes from the socket straight to where it is validated and written; it
//! takes bytes, positions and the time, and gives bytes to send and events.
//!
//! [`sender`] is the other side: a connection of a client to us.
//!
//! Never here: sockets, clocks, sleeping, what to do about an error. Never done: acknowledging
//! anything but what [`pg_types::Positions::acknowledgement`] gave, with the one exception that
//! [`Connection::acknowledge`] words.

mod base_backup;
mod connection;
mod error;
mod inbox;
pub mod sender;
mod start;
mod stream;

pub use base_backup::BackupEvent;
pub use connection::{Connection, Event, Timing, Want};
pub use error::ProtocolError;
pub use start::{StartFrom, start_from};
