//! Where everything is in an archive. All paths are relative to its directory.

use std::path::{Path, PathBuf};

use pg_types::{SegmentNumber, SegmentSize, TimelineId, WalFileName};

use crate::index::ENTRIES_PER_FILE;

/// The names of an archive's files; docs/FORMAT.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The size of a segment, which names depend on.
    pub segment_size: SegmentSize,
}

impl Layout {
    /// The format file.
    pub const FORMAT: &'static str = "seawall.json";
    /// Its temporary name.
    pub(crate) const FORMAT_TMP: &'static str = ".seawall.json.tmp";
    /// What is missing, and why.
    pub const GAPS: &'static str = "gaps.json";
    /// Its temporary name.
    pub(crate) const GAPS_TMP: &'static str = ".gaps.json.tmp";
    /// Up to where WAL was given up.
    pub const EXPIRED: &'static str = "expired.json";
    /// Its temporary name.
    pub(crate) const EXPIRED_TMP: &'static str = ".expired.json.tmp";
    /// Segments.
    pub const WAL: &'static str = "wal";
    /// What was told of them.
    pub const INDEX: &'static str = "index";
    /// What did not match.
    pub const QUARANTINE: &'static str = "quarantine";
    /// Base backups, a directory each.
    pub const BACKUPS: &'static str = "backups";
    /// Followers' slots, a file each.
    pub const SLOTS: &'static str = "slots";
    /// What restored servers still need, a file each.
    pub const HOLDS: &'static str = "holds";
    /// Locks, and what may be lost.
    pub const RUN: &'static str = "run";
    /// The one receiver's lock.
    pub const LOCK: &'static str = "run/receive.lock";

    /// A whole segment.
    #[must_use]
    pub fn segment(&self, timeline: TimelineId, number: SegmentNumber) -> PathBuf {
        self.wal(WalFileName::segment(timeline, number))
    }

    /// The segment that is being written.
    #[must_use]
    pub fn partial(&self, timeline: TimelineId, number: SegmentNumber) -> PathBuf {
        self.wal(WalFileName::partial(timeline, number))
    }

    /// The file that will become a segment: a dotfile ending in `.tmp`, as all temporaries.
    #[must_use]
    pub fn prepared(&self, timeline: TimelineId, number: SegmentNumber) -> PathBuf {
        let name = WalFileName::segment(timeline, number).display(self.segment_size);
        Path::new(Self::WAL).join(format!(".{name}.tmp"))
    }

    /// Any file of `wal/`.
    #[must_use]
    pub fn file(&self, name: WalFileName) -> PathBuf {
        self.wal(name)
    }

    /// A timeline's history.
    #[must_use]
    pub fn history(&self, timeline: TimelineId) -> PathBuf {
        self.wal(WalFileName::TimelineHistory(timeline))
    }

    /// The file that will become a timeline's history.
    pub(crate) fn history_tmp(&self, timeline: TimelineId) -> PathBuf {
        let name = WalFileName::TimelineHistory(timeline).display(self.segment_size);
        Path::new(Self::WAL).join(format!(".{name}.tmp"))
    }

    /// The file that a segment's proved bytes are copied to.
    pub(crate) fn copied(&self, timeline: TimelineId, number: SegmentNumber) -> PathBuf {
        let name = WalFileName::segment(timeline, number).display(self.segment_size);
        Path::new(Self::WAL).join(format!(".{name}.copy.tmp"))
    }

    /// Whether a name in `wal/` is one of our temporaries.
    pub(crate) fn is_temporary(name: &str) -> bool {
        name.starts_with('.') && name.ends_with(".tmp")
    }

    /// The index file that has this segment's entry, and the entry's place in it.
    #[must_use]
    pub fn index(&self, timeline: TimelineId, number: SegmentNumber) -> (PathBuf, u64) {
        let first = number.as_u64() / ENTRIES_PER_FILE * ENTRIES_PER_FILE;
        let name = format!("{:08X}-{first:016X}", timeline.as_u32());
        (Path::new(Self::INDEX).join(name), number.as_u64() % ENTRIES_PER_FILE)
    }

    fn wal(&self, name: WalFileName) -> PathBuf {
        Path::new(Self::WAL).join(name.display(self.segment_size).to_string())
    }
}
