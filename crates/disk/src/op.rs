//! Submissions and completions: the disk as the hot path sees it.
//!
//! Invariant: an operation is a value; nothing of it is performed inside [`Disk::submit`]. The
//! caller bounds what is under way by the buffers that it owns, since each comes back with the
//! completion.

use std::path::{Path, PathBuf};

use crate::{AlignedBuf, DiskError};

/// An open file. Given by [`Disk::new_file_id`], used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// An operation under way, named by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Operations of one lane are performed in order; lanes run beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Writes of WAL.
    Write,
    /// Syncs, which take long and must not hold up writes.
    Sync,
    /// Preparing, renaming, removing, index files.
    Meta,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Self; 3] = [Self::Write, Self::Sync, Self::Meta];

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Write => 0,
            Self::Sync => 1,
            Self::Meta => 2,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Meta => "meta",
        }
    }
}

/// How a file's bytes get to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Past the page cache (`O_DIRECT`); buffered where the file system refuses that. Offsets
    /// and lengths are multiples of [`BLOCK`](crate::BLOCK) either way. Not durable before a
    /// sync: the device has a cache of its own.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// One file operation. All paths are relative to the disk's root.
#[derive(Debug)]
pub enum Op {
    /// Creates a file that must not exist, of mode 0600 and `size` bytes, allocated where the
    /// file system can. If that fails, the file is removed again as well as can be.
    Create {
        /// The new open file.
        file: FileId,
        /// Its name.
        path: PathBuf,
        /// Its length in bytes; reads as zeros.
        size: u64,
        /// How it is written and read.
        access: Access,
    },
    /// Opens an existing file for reading and writing.
    Open {
        /// The new open file.
        file: FileId,
        /// Its name.
        path: PathBuf,
        /// How it is written and read.
        access: Access,
    },
    /// Writes the first `len` bytes of `buf`. Short writes are continued, EINTR is retried.
    /// After a failure any part may have been written.
    Write {
        /// An open file.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
        /// What; comes back with the completion.
        buf: AlignedBuf,
        /// How much of it, in bytes.
        len: usize,
    },
    /// A small write without alignment; only for files opened with [`Access::Buffered`].
    Append {
        /// An open file.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A small write to a file by its name, which is made if it isn't there, and closed again.
    Put {
        /// The file.
        path: PathBuf,
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Writes zeros: what was only allocated costs a commit of the file system's journal at its
    /// first fdatasync, and what was written doesn't.
    Zero {
        /// An open file.
        file: FileId,
        /// Where; a multiple of [`BLOCK`](crate::BLOCK).
        offset: u64,
        /// How many bytes; a multiple of [`BLOCK`](crate::BLOCK). As much memory is used.
        len: usize,
    },
    /// Reads up to `len` bytes to the start of `buf`; fewer only at the end of the file.
    Read {
        /// An open file.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
        /// Where to; comes back with the completion.
        buf: AlignedBuf,
        /// How much, in bytes.
        len: usize,
    },
    /// fdatasync: the bytes, and the length if it has changed.
    SyncData {
        /// An open file.
        file: FileId,
    },
    /// fsync.
    SyncAll {
        /// An open file.
        file: FileId,
    },
    /// fsync of a directory: the names in it.
    SyncDir {
        /// The directory.
        path: PathBuf,
    },
    /// Renames without replacing: fails with [`ErrorKind::Exists`](crate::ErrorKind::Exists).
    Rename {
        /// The old name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
    },
    /// Renames, and replaces what has the new name.
    Replace {
        /// The old name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
    },
    /// Removes a file's name.
    Remove {
        /// The name.
        path: PathBuf,
    },
    /// Forgets an open file; operations of other lanes that use it already still finish.
    Close {
        /// An open file.
        file: FileId,
    },
}

impl Op {
    /// What it does, without its operands.
    #[must_use]
    pub fn kind(&self) -> OpKind {
        match self {
            Self::Create { .. } => OpKind::Create,
            Self::Open { .. } => OpKind::Open,
            Self::Write { .. } => OpKind::Write,
            Self::Append { .. } | Self::Put { .. } => OpKind::Append,
            Self::Zero { .. } => OpKind::Zero,
            Self::Read { .. } => OpKind::Read,
            Self::SyncData { .. } => OpKind::SyncData,
            Self::SyncAll { .. } => OpKind::SyncAll,
            Self::SyncDir { .. } => OpKind::SyncDir,
            Self::Rename { .. } => OpKind::Rename,
            Self::Replace { .. } => OpKind::Replace,
            Self::Remove { .. } => OpKind::Remove,
            Self::Close { .. } => OpKind::Close,
        }
    }

    /// The open file that it works on or opens.
    #[must_use]
    pub fn file(&self) -> Option<FileId> {
        match self {
            Self::Create { file, .. }
            | Self::Open { file, .. }
            | Self::Write { file, .. }
            | Self::Append { file, .. }
            | Self::Zero { file, .. }
            | Self::Read { file, .. }
            | Self::SyncData { file }
            | Self::SyncAll { file }
            | Self::Close { file } => Some(*file),
            _ => None,
        }
    }

    /// The path that it names; for a rename the new one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Create { path, .. }
            | Self::Open { path, .. }
            | Self::SyncDir { path }
            | Self::Remove { path }
            | Self::Put { path, .. }
            | Self::Rename { to: path, .. }
            | Self::Replace { to: path, .. } => Some(path),
            _ => None,
        }
    }

    /// Its buffer, for a completion without success.
    #[must_use]
    pub fn into_buf(self) -> Option<AlignedBuf> {
        match self {
            Self::Write { buf, .. } | Self::Read { buf, .. } => Some(buf),
            _ => None,
        }
    }
}

/// What an operation does, without its operands. The blocking view has some of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OpKind {
    /// [`Op::Create`], and the first step of `write_new`, `copy` and `lock`.
    Create,
    /// [`Op::Open`] and `open_read`.
    Open,
    /// [`Op::Write`], and the steps of `copy`.
    Write,
    /// [`Op::Append`], and the second step of `write_new` and `lock`.
    Append,
    /// [`Op::Zero`].
    Zero,
    /// [`Op::Read`] and every blocking read.
    Read,
    /// [`Op::SyncData`].
    SyncData,
    /// [`Op::SyncAll`] and `sync_file`.
    SyncAll,
    /// [`Op::SyncDir`] and `sync_dir`.
    SyncDir,
    /// [`Op::Rename`] and `rename`.
    Rename,
    /// [`Op::Replace`] and `replace`.
    Replace,
    /// [`Op::Remove`] and `remove`.
    Remove,
    /// [`Op::Close`].
    Close,
    /// `create_dir`.
    CreateDir,
    /// The last step of `copy`: to the old length.
    Extend,
    /// `list`, `names` and `len`.
    List,
}

impl OpKind {
    /// Whether it makes something durable.
    #[must_use]
    pub const fn is_sync(self) -> bool {
        matches!(self, Self::SyncData | Self::SyncAll | Self::SyncDir)
    }

    /// Whether it changes what a crash can find.
    #[must_use]
    pub const fn is_change(self) -> bool {
        !matches!(self, Self::Open | Self::Read | Self::Close | Self::List)
    }

    /// The word for it in an error.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Write => "write",
            Self::Append => "append",
            Self::Zero => "zeroing",
            Self::Read => "read",
            Self::SyncData => "fdatasync",
            Self::SyncAll => "fsync",
            Self::SyncDir => "fsync of directory",
            Self::Rename => "rename",
            Self::Replace => "replace",
            Self::Remove => "remove",
            Self::Close => "close",
            Self::CreateDir => "mkdir",
            Self::Extend => "extend",
            Self::List => "listing",
        }
    }
}

/// What a successful operation gives back.
#[derive(Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// All of the write is done; here is its buffer.
    Wrote(AlignedBuf),
    /// The buffer, and how many bytes were read to its start.
    Read(AlignedBuf, usize),
}

/// The end of one operation.
#[derive(Debug)]
pub struct Completion {
    /// Which.
    pub id: OpId,
    /// How it ended.
    pub result: Result<Outcome, Failure>,
}

/// A failed operation, with the buffer that it had.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub error: DiskError,
    /// The buffer of a write or read.
    pub buf: Option<AlignedBuf>,
}

/// A disk that performs operations while its user goes on.
pub trait Disk: Send {
    /// A number for a file to be opened; no two are equal.
    fn new_file_id(&mut self) -> FileId;

    /// Queues a chain in a lane; its operations are performed in order, and after the first
    /// failure the rest completes as [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    ///
    /// A sync covers the writes whose completion had been polled when it was submitted, and those
    /// before it in its own lane; writes that end while it is queued or running may be missed.
    fn submit(&mut self, lane: Lane, chain: Vec<(OpId, Op)>);

    /// The next completion, if there is one. Never blocks.
    fn poll(&mut self) -> Option<Completion>;
}
