//! Segments: the files that the log is cut into.

use std::fmt;

use crate::Lsn;

/// The size of a segment: a power of two from 1 MiB to 1 GiB (`IsValidWalSegSize`,
/// `access/xlog_internal.h`, 11–18; fixed when the cluster is made).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSize(u32);

/// The number is no segment size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes is no WAL segment size: a power of two from 1 MiB to 1 GiB was expected")]
pub struct InvalidSegmentSize(pub u64);

impl SegmentSize {
    /// 16 MiB, what `initdb` takes unless told otherwise.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);
    /// The least that a server takes.
    pub const MIN: SegmentSize = SegmentSize(1 << 20);
    /// The most that a server takes.
    pub const MAX: SegmentSize = SegmentSize(1 << 30);

    /// The size of `bytes` bytes.
    ///
    /// # Errors
    /// If a server couldn't have it.
    pub const fn new(bytes: u64) -> Result<Self, InvalidSegmentSize> {
        if bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 {
            // In range: at most 2^30.
            Ok(Self(bytes as u32))
        } else {
            Err(InvalidSegmentSize(bytes))
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// How many segments share the middle eight digits of a file name (`XLogSegmentsPerXLogId`).
    #[must_use]
    pub const fn segments_per_log_id(self) -> u64 {
        0x1_0000_0000 / self.bytes()
    }
}

impl fmt::Display for SegmentSize {
    /// As PostgreSQL writes it: `16MB`, `1GB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 >> 20 {
            1024 => f.write_str("1GB"),
            mib => write!(f, "{mib}MB"),
        }
    }
}

impl fmt::Debug for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of a segment (`XLogSegNo`): its first byte is `number × segment size`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(u64);

impl SegmentNumber {
    /// The segment with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The segment after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The segment before this one; none before the first.
    #[must_use]
    pub const fn previous(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The position of its first byte; [`Lsn::MAX`] where no position is left.
    #[must_use]
    pub const fn start(self, size: SegmentSize) -> Lsn {
        Lsn::new(self.0.saturating_mul(size.bytes()))
    }

    /// The position after its last byte.
    #[must_use]
    pub const fn end(self, size: SegmentSize) -> Lsn {
        self.next().start(size)
    }
}

impl fmt::Debug for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#X}", self.0)
    }
}

/// How a cluster's log is cut: into segments, and these into pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The size of a segment.
    pub segment_size: SegmentSize,
    /// The size of a WAL page (`XLOG_BLCKSZ`), a power of two from 1 to 64 KiB; nearly always
    /// 8192.
    pub block_size: u32,
}

impl Geometry {
    /// Pages of 8 KiB, as every usual build has them.
    #[must_use]
    pub const fn new(segment_size: SegmentSize) -> Self {
        Self { segment_size, block_size: 8192 }
    }

    /// With pages of `block_size` bytes; `None` where no server could have been built so.
    #[must_use]
    pub const fn with_block_size(segment_size: SegmentSize, block_size: u32) -> Option<Self> {
        if block_size.is_power_of_two() && block_size >= 1024 && block_size <= 65536 {
            Some(Self { segment_size, block_size })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sizes_that_a_server_takes() {
        assert!(SegmentSize::new(1 << 20).is_ok());
        assert!(SegmentSize::new(1 << 30).is_ok());
        for bytes in [0, 1, 1 << 19, (1 << 20) + 1, 3 << 20, 1 << 31] {
            assert_eq!(SegmentSize::new(bytes), Err(InvalidSegmentSize(bytes)));
        }
    }

    #[test]
    fn a_segment_ends_where_the_next_starts() {
        let size = SegmentSize::MIN;
        let segment = Lsn::new(0x2_0010_0001).segment(size);
        assert_eq!(segment.as_u64(), 0x2001);
        assert_eq!(segment.start(size), Lsn::new(0x2_0010_0000));
        assert_eq!(segment.end(size), segment.next().start(size));
    }
}
