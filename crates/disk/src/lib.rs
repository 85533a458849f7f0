//! File operations as submissions and completions, and the disk that performs them.
//!
//! Purpose: the archive talks to one interface, [`Disk`] on the hot path and [`Files`] where
//! blocking is fine, and runs unchanged on [`RealDisk`] and on [`sim::SimDisk`], whose power loss
//! finds the fsync that is missing.
//!
//! Invariants:
//! - every operation that was submitted completes exactly once, and its buffer comes back with it;
//! - the operations of one [`Lane`] are performed in the order of their submission, and after a
//!   failure the rest of that chain is cancelled: a rename never follows a failed fsync;
//! - a failure names the operation and the path.
//!
//! What it never does: retry a failed fsync, interpret a byte that it stores, replace a file in
//! [`Op::Rename`], remove what it wasn't told to remove.

mod buffer;
mod error;
mod files;
mod op;
mod real;
pub mod sim;

pub use buffer::{AlignedBuf, BLOCK};
pub use error::{DiskError, ErrorKind, LockError};
pub use files::{Files, Lock, ReadAt};
pub use op::{Access, Completion, Disk, Failure, FileId, Lane, Op, OpId, OpKind, Outcome};
pub use real::{NewFile, OldFile, Readers, RealDisk, RealFiles, Tree, TreeLock};
