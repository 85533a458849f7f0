//! What can be wrong with an archive, before a byte is received.

use std::path::PathBuf;

use disk::{DiskError, LockError};
use pg_types::{BranchError, Lsn, SegmentSize, SystemId, TimelineId};
use wal_format::DecodeError;

/// Why an archive can't be used. Nothing was touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The disk said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process writes to it.
    #[error(
        "the archive is in use: {} is locked by {holder}; an archive has one receiver, so stop \
         that one or choose another directory", path.display()
    )]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// What the other process wrote about itself.
        holder: String,
    },
    /// A directory with something in it that isn't an archive.
    #[error(
        "the directory isn't empty and isn't an archive of seawall: it has no seawall.json but \
         \"{found}\"; choose an empty directory, or, if it was one, restore seawall.json from a copy"
    )]
    NotAnArchive {
        /// A name that is in it.
        found: String,
    },
    /// The directory of the segments isn't there.
    #[error(
        "the archive has a seawall.json, but no directory wal/: mount it, or restore it from a \
         copy; for a new archive choose an empty directory"
    )]
    NoWal,
    /// `seawall.json` can't be understood.
    #[error("seawall.json can't be read: {0}; restore it from a copy of the archive")]
    BadFormatFile(String),
    /// Nothing is archived of a timeline.
    #[error("no WAL of timeline {timeline} is archived; `seawall status` tells what is")]
    NoWalOf {
        /// Which.
        timeline: TimelineId,
    },
    /// A position isn't archived.
    #[error(
        "the WAL of timeline {timeline} at {at} isn't archived; `seawall status` tells what is"
    )]
    NoWalAt {
        /// On which timeline, or one that it comes from.
        timeline: TimelineId,
        /// Where.
        at: Lsn,
    },
    /// A directory without `seawall.json`.
    #[error("there is no archive: no seawall.json is there; name its directory with --archive")]
    NoArchive,
    /// `gaps.json` can't be understood.
    #[error(
        "gaps.json can't be read: {0}; restore it from a copy of the archive, or, if there is \
         none, move it away: then gaps that were recorded are holes that nothing explains"
    )]
    BadGapsFile(String),
    /// A follower's slot can't be understood.
    #[error(
        "{} can't be read: {what}; restore it from a copy of the archive, or move it away and make \
         the slot anew: nothing is kept for its follower then", path.display()
    )]
    BadSlotFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// WAL was given up that a slot was just made for.
    #[error(
        "WAL of timeline {timeline} before {before} was expired just now, and the slot \"{name}\" would \
         need it: begin at or behind that"
    )]
    SlotExpired {
        /// The slot's name.
        name: String,
        /// Its timeline.
        timeline: pg_types::TimelineId,
        /// What is left begins here.
        before: Lsn,
    },
    /// Somebody came to need WAL that was just being given up.
    #[error(
        "{what} came while this ran, and needs WAL that was to go: none was removed, and the next \
         expiry keeps it"
    )]
    HeldMeanwhile {
        /// Who.
        what: String,
    },
    /// Another process serves it.
    #[error(
        "the archive is served already, by {holder}: stop that one, or let it listen here, too"
    )]
    Served {
        /// What it wrote about itself.
        holder: String,
    },
    /// Made by a later seawall.
    #[error(
        "the archive has format {format}, which this version of seawall can't write \
         (it writes format {known}); use the version that made it, or a later one"
    )]
    UnknownFormat {
        /// What `seawall.json` says.
        format: u32,
        /// What this version writes.
        known: u32,
    },
    /// Another cluster's.
    #[error(
        "the archive belongs to the cluster with system identifier {archive}, and the server has \
         {server}: it is another cluster, or it was made anew by initdb or pg_upgrade; give it an \
         archive of its own"
    )]
    OtherSystem {
        /// The archive's.
        archive: SystemId,
        /// The server's.
        server: SystemId,
    },
    /// The cluster's segments had another size when the archive was made.
    #[error(
        "the archive has segments of {archive}, and the server's are {server} (pg_resetwal \
         --wal-segsize changes them); give it an archive of its own"
    )]
    OtherSegmentSize {
        /// The archive's.
        archive: SegmentSize,
        /// The server's.
        server: SegmentSize,
    },
    /// A server built with another page size.
    #[error(
        "the archive has WAL pages of {archive} bytes, and the server's have {server}; give it an \
         archive of its own"
    )]
    OtherBlockSize {
        /// The archive's, bytes.
        archive: u32,
        /// The server's, bytes.
        server: u32,
    },
    /// A server of another major version under the same system identifier.
    #[error(
        "the archive holds WAL of PostgreSQL {archive}, and the server is {server}; give it an \
         archive of its own"
    )]
    OtherMajor {
        /// The archive's.
        archive: u32,
        /// The server's.
        server: u32,
    },
    /// No WAL of this version is known.
    #[error("PostgreSQL {0} isn't supported: seawall knows the WAL of 10 to 18")]
    UnsupportedMajor(u32),
    /// The server's history has no timeline that is archived.
    #[error(
        "the archive's newest timeline is {archive}, and the history of the server, which is on \
         timeline {server}, has none of the archive's: they have no WAL in common that anything \
         tells of; give this server an archive of its own"
    )]
    NoCommonTimeline {
        /// The archive's newest.
        archive: TimelineId,
        /// The server's.
        server: TimelineId,
    },
    /// The archive has followed a promotion that the server knows nothing of.
    #[error(
        "the server is on timeline {server}, which the archive left at {at} for timeline {archive}: \
         a standby will follow, and is waited for; a primary that was failed over from has to be \
         rebuilt, or rewound with pg_rewind"
    )]
    LeftTimeline {
        /// The one that the archive followed.
        archive: TimelineId,
        /// The server's.
        server: TimelineId,
        /// Where it was left.
        at: Lsn,
    },
    /// Another file has the name of one that was to be published.
    #[error(
        "{} is in the archive already, and isn't the same: one of the two comes from another \
         server or another history. Both were kept{}; look at them with pg_waldump",
        path.display(), kept_in(kept)
    )]
    Differs {
        /// The one in the archive.
        path: PathBuf,
        /// Where the other one is now; it is where it came from, too.
        kept: Option<PathBuf>,
    },
    /// A segment that was shipped and isn't whole.
    #[error("{} would have {len} bytes, and a segment has {size}", path.display())]
    ShippedSize {
        /// What it would be.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// A segment's.
        size: u64,
    },
    /// A segment that was shipped and doesn't hold.
    #[error("{} would not hold {error}: it isn't archived", path.display())]
    ShippedInvalid {
        /// What it would be.
        path: PathBuf,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// A directory that was to be adopted, with something in it that pg_receivewal doesn't make.
    #[error(
        "{} isn't anything that pg_receivewal makes: nothing was touched; move it elsewhere, and \
         try again", found.display()
    )]
    NotAdopted {
        /// What isn't understood.
        found: PathBuf,
    },
    /// A directory without a segment that says whose it is.
    #[error(
        "there is no WAL in the directory that says whose it is: `seawall receive` begins anew"
    )]
    NothingToAdopt,
    /// Files came or went while a directory was adopted.
    #[error("files come and go in the directory: stop pg_receivewal there, and try again")]
    Changing,
    /// A file that has a segment's name and not its size.
    #[error(
        "{} has {len} bytes, and a segment has {size}: it was cut off, or never was one; put it \
         back from a copy", path.display()
    )]
    OddSize {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// A segment's.
        size: u64,
    },
    /// A segment that was whole when it was archived, and doesn't hold any more.
    #[error(
        "{} doesn't hold any more {error}: it, or the segment before it where a record runs over \
         its start, was damaged since it was archived; put it back from a copy", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// Another `archive-wal` is under way.
    #[error("another archive-wal is under way ({holder}); the server tries again by itself")]
    StagingLocked {
        /// What it wrote about itself.
        holder: String,
    },
    /// A history file that doesn't parse.
    #[error("{0}; it has to be mended on the server, where it is in pg_wal")]
    BadHistory(#[from] BranchError),
    /// Two histories of one timeline.
    #[error(
        "{} differs from the server's: two servers were promoted to the same timeline. Keep this \
         archive as it is, and give this server an archive of its own", path.display()
    )]
    OtherHistory {
        /// The archive's.
        path: PathBuf,
    },
}

fn kept_in(kept: &Option<PathBuf>) -> String {
    kept.as_ref().map_or(String::new(), |path| format!(", the other one in {}", path.display()))
}

impl From<LockError> for ArchiveError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Held { path, holder } => Self::Locked { path, holder },
            LockError::Disk(error) => Self::Disk(error),
            other => Self::BadFormatFile(other.to_string()),
        }
    }
}
