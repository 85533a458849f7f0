//! What can be wrong with a log, as data.

use pg_types::{Lsn, SystemId};

use crate::{RmgrId, WalVersion};

/// The first thing that is wrong, and where: a record's or a page's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {at}: {kind}")]
pub struct DecodeError {
    /// The start of the record, or of the page whose header it is.
    pub at: Lsn,
    /// What is wrong.
    pub kind: DecodeErrorKind,
}

/// What is wrong with a page or a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// No version from 10 to 18 writes this magic.
    #[error("unknown page magic {0:04X}: not WAL of PostgreSQL 10 to 18")]
    UnknownMagic(u16),
    /// Another version's page in the middle of a log.
    #[error("page magic {got:04X}, but the log is of version {}", .log.major())]
    MagicChanged {
        /// What the page says.
        got: u16,
        /// What the pages before it said.
        log: WalVersion,
    },
    /// Flags that no version knows.
    #[error("invalid page flags {0:04X}")]
    PageFlags(u16),
    /// A page that belongs elsewhere, such as one of a recycled segment.
    #[error("page address {0}, which belongs elsewhere")]
    PageAddress(Lsn),
    /// The timeline of pages never decreases, and never passes the one that is read.
    #[error("page of timeline {got} where {least} to {most} was expected")]
    PageTimeline {
        /// What the page says.
        got: u32,
        /// The last page's.
        least: u32,
        /// The timeline that is read.
        most: u32,
    },
    /// A segment's first page has a long header, and no other has.
    #[error("page header of the wrong length for its place in the segment")]
    HeaderLength,
    /// Another cluster's.
    #[error("WAL of system identifier {got}, expected {expected}")]
    SystemId {
        /// What the page says.
        got: SystemId,
        /// The cluster's.
        expected: SystemId,
    },
    /// Not this cluster's segment size.
    #[error("segment size of {0} bytes in the page header")]
    SegmentSize(u32),
    /// Not this cluster's page size.
    #[error("WAL block size of {0} bytes in the page header")]
    BlockSize(u32),
    /// A record should go on here, and the page says that none does.
    #[error("the record from {record} doesn't go on here")]
    ContrecordMissing {
        /// The start of the record that breaks off; invalid where it lies before the start.
        record: Lsn,
    },
    /// The page begins with the rest of a record that never began.
    #[error("the rest of a record that didn't begin")]
    ContrecordUnexpected,
    /// A record should go on with another number of bytes.
    #[error("{got} bytes left of a record that has {expected} left")]
    ContrecordLength {
        /// What the page says.
        got: u32,
        /// What the record's length says.
        expected: u32,
    },
    /// Shorter than a record's header, or longer than any record. Zero is what follows the last
    /// record in a file.
    #[error("invalid record length {0}")]
    RecordLength(u32),
    /// A resource manager that this version can't have.
    #[error("invalid resource manager {}", .0.0)]
    RecordManager(RmgrId),
    /// The link to the record before.
    #[error("record with prev-link {got}, expected {expected}")]
    RecordPrev {
        /// What the record says.
        got: Lsn,
        /// The record before.
        expected: Lsn,
    },
    /// The first record that is read must at least point back.
    #[error("record with prev-link {0}, which isn't before it")]
    RecordPrevAhead(Lsn),
    /// The bytes aren't those that were written.
    #[error("CRC {got:08X} where the record says {expected:08X}")]
    RecordCrc {
        /// What the bytes give.
        got: u32,
        /// What the record says.
        expected: u32,
    },
    /// Between records there are zeros.
    #[error("padding after a record isn't zero")]
    Padding,
    /// After XLOG_SWITCH there are zeros.
    #[error("the rest of the segment after XLOG_SWITCH isn't zero")]
    SwitchPadding,
    /// A page says that a broken-off record is overwritten, and the record that says which one
    /// doesn't follow.
    #[error("no XLOG_OVERWRITE_CONTRECORD for the broken-off record {record}")]
    OverwriteMissing {
        /// The start of the record that broke off.
        record: Lsn,
    },
}
