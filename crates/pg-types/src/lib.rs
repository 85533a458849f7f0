//! The nouns of PostgreSQL's write-ahead log, as types: a position ([`Lsn`]), a timeline
//! ([`TimelineId`]) and those that it comes from ([`Branch`]), a segment ([`SegmentNumber`], [`SegmentSize`]), the names of files
//! ([`WalFileName`]), what a server says of itself ([`ServerVersion`], [`SystemId`]), and the
//! positions of a receiver, which are kept apart by type ([`Positions`]).
//!
//! Values only: no I/O, no allocation beyond the text of a name, nothing that can panic on input.

mod branch;
mod file_name;
mod lsn;
mod position;
mod segment;
mod server;

pub use branch::{Branch, BranchError, Stretch};
pub use file_name::{WalFileKind, WalFileName};
pub use lsn::{Lsn, ParseLsnError};
pub use position::{Acknowledgement, Durable, Positions, Proved, Received, Written};
pub use segment::{Geometry, InvalidSegmentSize, SegmentNumber, SegmentSize};
pub use server::{ServerVersion, SystemId, TimelineId};
