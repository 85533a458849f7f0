//! What can be wrong with a backup, or with where it is to go.

use std::path::PathBuf;

use archive::ArchiveError;
use disk::{DiskError, LockError};
use pg_types::{Lsn, TimelineId};

use crate::tar::TarError;
use crate::{Description, EntryPath, ManifestError};

/// Why a backup can't be taken, found, or given back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The archive can't be read, or hasn't got what was asked for.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A tar file that no server makes.
    #[error("{0}; nothing of it is believed")]
    Tar(#[from] TarError),
    /// A manifest that doesn't hold.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A stored file that doesn't unpack.
    #[error(
        "{} doesn't unpack any more: {why}; put it back from a copy, or restore another backup",
        name.display()
    )]
    Unpack {
        /// Which.
        name: PathBuf,
        /// Why.
        why: String,
    },
    /// What is wrong with a stored backup.
    #[error("the backup {id}: {error}")]
    Stored {
        /// Which; of a chain it may be any.
        id: String,
        /// What.
        error: Box<BackupError>,
    },
    /// Another backup is under way.
    #[error("another backup into this archive is under way ({holder}); wait for it")]
    Locked {
        /// What it wrote about itself.
        holder: String,
    },
    /// What was received isn't what the manifest says.
    #[error("{path} isn't as the backup's manifest says: {what}")]
    NotAsListed {
        /// The file.
        path: EntryPath,
        /// What is wrong with it.
        what: String,
    },
    /// The backup's stream isn't one.
    #[error("the server's backup isn't one: {0}")]
    NotABackup(String),
    /// `backup.json` can't be understood.
    #[error("the backup {id} has a backup.json that can't be read: {why}")]
    BadDescription {
        /// Which.
        id: String,
        /// Why.
        why: String,
    },
    /// There is no such backup.
    #[error("there is no backup {id}; `seawall list` tells which there are")]
    NoBackup {
        /// What was asked for.
        id: String,
    },
    /// There is no such hold.
    #[error("there is no hold {name}; `seawall list` tells which there are")]
    NoHold {
        /// What was asked for.
        name: String,
    },
    /// What it holds isn't known.
    #[error(
        "holds/{name}.json can't be read: {what}; restore it from a copy of the archive, or remove \
         it if the server that was restored then has recovered"
    )]
    BadHold {
        /// The hold.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A backup that an incremental one stands on.
    #[error(
        "the incremental backup {id} needs the backup {parent}: {why}; put it back from a copy, or \
         restore another backup"
    )]
    MissingLink {
        /// The backup that can't be given back.
        id: String,
        /// The one that it needs.
        parent: String,
        /// What is wrong with that.
        why: String,
    },
    /// Pages without checksums below pages with them.
    #[error(
        "the incremental backup {id} can't be put together: the cluster got checksums between \
         {parent} and it, and no server reads pages of both kinds; restore one that was taken before, \
         or a full one"
    )]
    NewChecksums {
        /// The first one with checksums.
        id: String,
        /// The one that it stands on.
        parent: String,
    },
    /// What the server itself found damaged.
    #[error(
        "the backup {id} isn't sound: when {link} was taken the server found its own files damaged \
         ({damage})"
    )]
    DamagedOnServer {
        /// The backup.
        id: String,
        /// The one of those that it stands on, or itself.
        link: String,
        /// What it found first.
        damage: String,
    },
    /// No backup lies on the timeline's history.
    #[error("no backup lies on timeline {timeline} or those that it comes from{why}")]
    NoneOnBranch {
        /// The timeline.
        timeline: TimelineId,
        /// Those that can't be used, and why.
        why: String,
    },
    /// A recovery target that can't be reached.
    #[error(
        "{target} can't be reached on timeline {timeline}: {why}; the nearest possible is {nearest}"
    )]
    Unreachable {
        /// The target, as it was given.
        target: String,
        /// On which timeline.
        timeline: TimelineId,
        /// Why not.
        why: String,
        /// What is possible.
        nearest: String,
    },
    /// The directory can't be restored to.
    #[error("{}: {why}", path.display())]
    Refused {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A tablespace's link doesn't fit into a tar file.
    #[error(
        "symbolic link target too long for tar format: file name \"{name}\", target \"{target}\""
    )]
    LongLink {
        /// Where the link is.
        name: String,
        /// Where it leads.
        target: String,
    },
    /// WAL that a backup needs isn't whole.
    #[error(
        "the WAL that the backup needs isn't whole: it is proved up to {proved}, and needed up to {needed}"
    )]
    WalMissing {
        /// What is proved.
        proved: Lsn,
        /// What is needed.
        needed: Lsn,
    },
}

impl BackupError {
    /// Says which backup it is about.
    pub(crate) fn of(self, backup: &Description) -> Self {
        Self::Stored { id: backup.id.clone(), error: Box::new(self) }
    }
}

impl From<LockError> for BackupError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Held { holder, .. } => Self::Locked { holder },
            error => Self::Archive(error.into()),
        }
    }
}
