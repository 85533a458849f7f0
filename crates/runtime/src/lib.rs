//! Sockets, clocks and signals: drives [`replication`] and [`archive`].
//!
//! One thread reads the socket, validates and speaks; the disk's own threads write and sync
//! beside it ([`disk::RealDisk`]). Decisions aren't made here but in the machines, with one
//! exception: what a failure means for the next attempt ([`receive()`]).

mod base_backup;
pub mod check;
mod error;
mod gap;
mod link;
mod open;
mod outgoing;
mod passfile;
mod receive;
mod serve;
mod session;
mod socket;
mod stream;
mod tip;
mod tip_socket;
mod tls;
mod user;
mod world;

pub use base_backup::{BackupFailure, BackupReceived, Intake, base_backup, keep_wal};
pub use error::{AskError, SessionError, Verdict};
pub use link::Link;
pub use outgoing::{BackupSource, GivenPart, Opened, StoredBackups};
pub use passfile::read_passwords;
pub use receive::{Observer, Progress, Receive, Report, Shutdown, receive};
pub use serve::{
    Auth, Follower, InvalidListen, Listen, Serve, ServeError, ServeReport, Server, TlsFiles,
    Watcher,
};
pub use session::{Ended, Facts, connect, create_slot, line_of_history, read_slot};
pub use tip::{Tip, TipReceiver, TipSender, publish_archived};
pub use tip_socket::{Followed, Needs, announce, follow};
pub use tls::TlsError;
pub use user::user_name;
pub use world::{Wire, World, within};
