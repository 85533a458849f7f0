//! A segment on its way from a temporary name to its final one.

use disk::FileId;
use pg_types::SegmentNumber;

/// A segment that isn't done with.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: SegmentNumber,
    pub(super) file: FileId,
    /// Bytes from its start that a write has ended for.
    pub(super) written: u64,
    /// Bytes from its start that an fsync has ended for.
    pub(super) synced: u64,
    /// Bytes from its start that an fsync under way covers.
    pub(super) syncing: u64,
    /// Bytes from its start that zeros were written for, or the stream.
    pub(super) zeroed: u64,
    pub(super) name: Name,
}

/// What a segment's file is called, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// Its temporary name: the next start removes it.
    Temporary,
    /// `.partial`, which a loss of power may undo.
    Renamed,
    /// `.partial`, durably.
    Partial,
    /// On its way to its final name: after a crash it has one of the two.
    Sealing,
    /// Its final name.
    Sealed,
}

impl Segment {
    pub(super) fn new(number: SegmentNumber, file: FileId, name: Name, stored: u64) -> Self {
        Self { number, file, written: stored, synced: stored, syncing: stored, zeroed: 0, name }
    }

    /// Whether it would be found after a loss of power.
    pub(super) fn is_named(&self) -> bool {
        !matches!(self.name, Name::Temporary | Name::Renamed)
    }

    /// Whether it would be found by the next process.
    pub(super) fn is_renamed(&self) -> bool {
        self.name != Name::Temporary
    }
}

/// The file that the next segment will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prepared {
    /// None is wanted.
    Nothing,
    /// It is being allocated.
    UnderWay(SegmentNumber),
    /// The disk had no room for it.
    NoRoom(SegmentNumber),
    /// It is allocated.
    Ready(SegmentNumber, FileId),
}
