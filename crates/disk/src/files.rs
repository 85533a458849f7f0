//! The blocking view of a disk: for starting up, for the catalogue, for tools.
//!
//! Invariant: the same files as [`Disk`](crate::Disk) sees, by the same rules of durability;
//! nothing here syncs unless its name says so. Never on the acknowledgement path.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::{Access, AlignedBuf, DiskError, LockError};

/// A file open for reading at any place.
pub trait ReadAt: Send + Sync {
    /// Reads up to `len` bytes at `offset` to the start of `buf`; fewer only at the file's end.
    ///
    /// With [`Access::Direct`] the offset and `len` are multiples of [`BLOCK`](crate::BLOCK).
    ///
    /// # Errors
    ///
    /// If the disk can't read, or `len` is more than the buffer holds.
    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<usize, DiskError>;

    /// The file's length in bytes, now.
    ///
    /// # Errors
    ///
    /// If the system can't tell.
    fn len(&self) -> Result<u64, DiskError>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    ///
    /// If the system can't tell.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }

    /// Whether to read a part costs reading all before it.
    fn is_in_order(&self) -> bool {
        false
    }

    /// What the system can send the file's bytes from by itself; `None` where they aren't in a
    /// file as they are read.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Blocking file operations; all paths are relative to the disk's root.
///
/// Every function's error is the failed system call with its path.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
pub trait Files: Send + Sync {
    /// Makes a directory of mode 0700; fine when it exists. The empty path is the root.
    fn create_dir(&self, path: &Path) -> Result<(), DiskError>;

    /// Gives each name in a directory, in no order: there may be a million.
    fn visit(&self, dir: &Path, visitor: &mut dyn FnMut(&str)) -> Result<(), DiskError>;

    /// The names in a directory, ordered.
    fn names(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let mut names = Vec::new();
        self.visit(dir, &mut |name| names.push(name.to_owned()))?;
        names.sort_unstable();
        Ok(names)
    }

    /// A file's length in bytes; `None` if there is no such file.
    fn len(&self, path: &Path) -> Result<Option<u64>, DiskError>;

    /// Opens a file for reading.
    fn open_read(&self, path: &Path, access: Access) -> Result<Box<dyn ReadAt>, DiskError>;

    /// The whole of a small file; fails if it has more than `max` bytes.
    fn read(&self, path: &Path, max: usize) -> Result<Vec<u8>, DiskError>;

    /// Creates a file that must not exist, and writes it. After a failure a part may be there.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError>;

    /// Writes behind a file's end. After a failure a part may be there.
    fn append(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError>;

    /// fsync of a file.
    fn sync_file(&self, path: &Path) -> Result<(), DiskError>;

    /// fsync of a directory: the names in it. Of the root, the empty path, its own name too.
    fn sync_dir(&self, path: &Path) -> Result<(), DiskError>;

    /// Renames without replacing.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;

    /// Renames, and replaces what has the new name.
    fn replace(&self, from: &Path, to: &Path) -> Result<(), DiskError>;

    /// Removes a file's name.
    fn remove(&self, path: &Path) -> Result<(), DiskError>;

    /// Makes a new file `to` from the first `len` bytes of `from`, read past the page cache, and
    /// extends it with zeros to the length of `from`. Doesn't sync. After a failure a part may be
    /// there, so `to` is a temporary name.
    fn copy(&self, from: &Path, to: &Path, len: u64) -> Result<(), DiskError>;

    /// Locks a file for as long as the [`Lock`] lives, creates it if need be, and writes
    /// `holder`, which is for people, into it.
    fn lock(&self, path: &Path, holder: &str) -> Result<Lock, LockError>;

    /// Locks the root directory itself, which removing files doesn't undo. Where a file system
    /// can't lock directories, as NFS can't, it gives a lock that holds nobody up.
    fn lock_root(&self) -> Result<Lock, LockError>;
}

/// A holder's text isn't longer; what is read of it is bounded.
pub(crate) const HOLDER_BYTES: usize = 4096;
/// What is said of whoever holds the root: a directory says nothing of them.
pub(crate) const UNKNOWN_HOLDER: &str = "a process that isn't named any more";

/// A held lock; given up on drop, and by the system when the process dies.
#[must_use = "the lock is given up when this is dropped"]
pub struct Lock {
    _held: Box<dyn Held>,
}

impl Lock {
    pub(crate) fn new(held: impl Held + 'static) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").finish_non_exhaustive()
    }
}

/// Whatever gives the lock up when dropped.
pub(crate) trait Held: Send + Sync {}
