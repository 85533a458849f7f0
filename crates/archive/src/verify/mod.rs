//! Whether what was proved when it came still holds: every byte of `wal/` and `index/` read again.
//!
//! Segments are read in [`Run`]s, each by whoever has time for it, with a validator that knows
//! nothing of what is before the run. What runs over a border, and the link of the first record
//! behind it, is told by the validator that the run before ended with
//! ([`verify_border`](crate::Catalogue::verify_border)). So all of it is proved in parallel that one
//! validator would prove in order.
//!
//! Behind damage the proof begins anew on the next page, so that all of it is named, and nothing
//! that holds. Never here: threads, and a change to any file.

mod names;
mod run;
mod unfinished;

use std::path::PathBuf;

use disk::DiskError;
use pg_types::{Lsn, TimelineId};
use wal_format::DecodeErrorKind;

pub use names::Names;
pub(crate) use names::index_name;
pub use run::{Border, Run, RunEnd, RunVerdict};
pub use unfinished::Unfinished;

/// Something in the archive that doesn't hold any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, relative to the archive.
    pub path: PathBuf,
    /// The timeline whose WAL it concerns.
    pub timeline: TimelineId,
    /// Where in the WAL: the start of the record or page; of the segment, where all of it is meant;
    /// invalid where no position is.
    pub at: Lsn,
    /// What is wrong.
    pub kind: DamageKind,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DamageKind {
    /// A record or a page that isn't what it was.
    #[error("{0}")]
    Wal(DecodeErrorKind),
    /// Not of a segment's size.
    #[error("it has {len} bytes, and a segment has {size}")]
    Size {
        /// What it has.
        len: u64,
        /// A segment's.
        size: u64,
    },
    /// The disk doesn't give it.
    #[error("it can't be read: {0}")]
    Unreadable(String),
    /// There is so much more that it isn't listed.
    #[error("more of it is damaged from here on")]
    More,
    /// Of an unfinished segment, less is proved than was acknowledged.
    #[error("it is proved no further than this, and was acknowledged up to {0}")]
    Short(Lsn),
    /// Of an unfinished segment, WAL follows what doesn't hold.
    #[error("it doesn't hold from here on, and WAL is behind it, at {0}")]
    Behind(Lsn),
    /// It was archived, as the index tells, and isn't there.
    #[error("it is gone: the index knows that it was archived")]
    Gone,
    /// A history file that can't be read.
    #[error("{0}")]
    BadHistory(String),
    /// A history file that isn't there.
    #[error("it is missing: which timelines this one comes from isn't known")]
    NoHistory,
    /// Two history files that contradict each other.
    #[error("it contradicts the history of timeline {0}, which it comes from")]
    OtherHistory(TimelineId),
    /// An entry of the index whose CRC doesn't hold.
    #[error("the index's entry for {0} doesn't hold")]
    IndexTorn(String),
    /// An entry of the index that isn't in its place.
    #[error("the index has another segment's entry in the place of {0}")]
    IndexPlace(String),
    /// An entry of the index that says something else than the segment.
    #[error("the index's entry for {segment} says {what} that the segment hasn't")]
    IndexDiffers {
        /// The segment's name.
        segment: String,
        /// What differs.
        what: &'static str,
    },
    /// A file of the index that isn't one.
    #[error("it is no file of the index")]
    BadIndex,
    /// `gaps.json` or `expired.json`.
    #[error("{0}")]
    BadFile(String),
}

impl DamageKind {
    /// Whether WAL is damaged, or what leads to it; the index only makes looking quicker.
    #[must_use]
    pub fn concerns_recovery(&self) -> bool {
        !matches!(
            self,
            Self::IndexTorn(_) | Self::IndexPlace(_) | Self::IndexDiffers { .. } | Self::BadIndex
        )
    }

    fn unreadable(error: &DiskError) -> Self {
        Self::Unreadable(error.message.clone())
    }
}
