//! What can go wrong, with the operation and the path that it went wrong for.
//!
//! Invariant: every error of this crate names both. Never carries a handle or a buffer, so that
//! it can be cloned, compared and kept as the first failure of a latched writer.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// A class of failures that wants one reaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// ENOSPC or EDQUOT: wait until there is room.
    NoSpace,
    /// EROFS: the file system was mounted, or has turned itself, read-only.
    ReadOnly,
    /// EIO: what was written may be lost.
    Io,
    /// The name is taken.
    Exists,
    /// No such file or directory.
    NotFound,
    /// Not performed, because an earlier operation of its chain failed.
    Cancelled,
    /// The file ends before what was asked for.
    ShortRead,
    /// What was read can't be what was written: a compressed file that doesn't unpack.
    Corrupt,
    /// The simulated disk has been stopped (`SimDisk::stop_at`); the real one never says it.
    PowerOff,
    /// Anything else; the message says what.
    Other,
}

/// A failed operation.
///
/// Reads as `fsync of wal/000000010000000000000001: Input/output error (os error 5)`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op} of {}: {message}", shown(path).display())]
pub struct DiskError {
    /// The operation as a word for people: `fsync`, `write`, `rename`.
    pub op: &'static str,
    /// The path, relative to the disk's root.
    pub path: PathBuf,
    /// The class.
    pub kind: ErrorKind,
    /// The system's error number, if a system call failed.
    pub errno: Option<i32>,
    /// What happened.
    pub message: String,
}

/// The root itself has the empty path, which nobody would see.
fn shown(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

impl DiskError {
    /// An error that no system call reported.
    pub fn new(op: &'static str, path: &Path, kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self { op, path: path.to_owned(), kind, errno: None, message: message.to_string() }
    }

    /// The error that the operating system gave.
    #[must_use]
    pub fn from_io(op: &'static str, path: &Path, error: &io::Error) -> Self {
        let errno = error.raw_os_error();
        let kind = match errno.map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => ErrorKind::NoSpace,
            Some(Errno::ROFS) => ErrorKind::ReadOnly,
            Some(Errno::IO) => ErrorKind::Io,
            Some(Errno::EXIST) => ErrorKind::Exists,
            Some(Errno::NOENT) => ErrorKind::NotFound,
            _ if error.kind() == io::ErrorKind::UnexpectedEof => ErrorKind::ShortRead,
            _ => ErrorKind::Other,
        };
        Self { op, path: path.to_owned(), kind, errno, message: error.to_string() }
    }

    /// The class of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn from_errno(op: &'static str, path: &Path, errno: Errno) -> Self {
        Self::from_io(op, path, &errno.into())
    }

    pub(crate) fn cancelled(op: &'static str, path: &Path) -> Self {
        let message = "not done, because an earlier operation of its chain failed";
        Self::new(op, path, ErrorKind::Cancelled, message)
    }

    pub(crate) fn not_open(op: &'static str, number: u64) -> Self {
        let path = PathBuf::from(format!("open file {number}"));
        Self::new(op, &path, ErrorKind::Other, "there is none of this number")
    }
}

/// Why a lock wasn't given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another holder has it.
    #[error("{} is locked by {holder}", path.display())]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// What the holder wrote about itself; for people, and empty if it hasn't written yet.
        holder: String,
    },
    /// The lock's file couldn't be opened, locked or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_operation_path_and_cause() {
        let error = DiskError::from_errno("fsync", Path::new("wal/0001"), Errno::IO);
        assert_eq!(error.to_string(), "fsync of wal/0001: Input/output error (os error 5)");
        assert_eq!(error.kind(), ErrorKind::Io);
    }

    #[test]
    fn a_quota_is_a_lack_of_space() {
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            let kind = DiskError::from_errno("write", Path::new("x"), errno).kind;
            assert_eq!(kind, ErrorKind::NoSpace);
        }
    }
}
