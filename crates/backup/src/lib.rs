//! Base backups: taken into an archive, and given back as data directories.
//!
//! - [`Intake`] takes a backup's bytes as they come, writes its tar files, and holds every file in
//!   them against the manifest ([`Manifest`]); [`Backups`] is where they are kept: a backup is one
//!   once its `backup.json` ([`Description`]) has its name.
//! - An incremental backup stands on another ([`chain()`]), and is given back with it.
//! - [`Window`] says from where to where recovery from a backup is possible, and [`choose()`] which
//!   backup a [`Target`] is reached from: decided from the archive's WAL, before anything is
//!   written.
//! - [`Contents`] says whether one still is what it was, and [`Plan`] which of them, and what WAL, may
//!   go.
//! - [`restore()`] makes the data directory, and [`Recovery`] its configuration.
//! - [`send`] gives a stored backup back in the form that a client of the replication protocol wants.
//!
//! Invariants: a tar file's names are input ([`EntryPath`]), and what they name is created beneath
//! the target or nowhere; a data directory has its `global/pg_control` only once everything else
//! of it is durable. Never here: sockets, clocks, WAL that is delivered.

mod chain;
mod checksum;
mod choose;
mod description;
mod error;
mod hold;
mod intake;
mod label;
mod manifest;
mod path;
mod recovery;
mod restore;
mod retention;
pub mod send;
mod store;
mod stored_tar;
pub mod tar;
mod verify;
mod window;

pub use chain::{chain, sound};
pub use checksum::Algorithm;
pub use choose::{Chosen, Target, choose};
pub use description::{Description, Incremental, Point, TablespaceArchive};
pub use error::BackupError;
pub use hold::RestoreHold;
pub use intake::{Intake, Taken};
pub use label::BackupLabel;
pub use manifest::{Manifest, ManifestError, ManifestFile};
pub use path::{EntryPath, PathFault};
pub use recovery::{Recovery, Standby, quote_conf, quote_shell};
pub use restore::{Destination, Link, Restored, Tablespace, can_restore, restore};
pub use retention::{Candidate, Fate, Inventory, Kept, NoPlan, Plan, Policy};
pub use store::{Backups, Broken, Held, Unfinished};
pub use stored_tar::StoredTar;
pub use verify::{Contents, Fault, FaultKind, Member};
pub use window::Window;
