//! A position in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use crate::{SegmentNumber, SegmentSize};

/// A log sequence number: a byte position in the write-ahead log (`XLogRecPtr`,
/// `access/xlogdefs.h`, 10–18).
///
/// Arithmetic is explicit and checked: two positions subtract to a number of bytes, and a number
/// of bytes moves a position. Zero is [`Lsn::INVALID`], as `InvalidXLogRecPtr` is.
///
/// Its text is the server's up to 18: `16/B374D848`, upper-case hex without leading zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// No position; where no WAL can be.
    pub const INVALID: Lsn = Lsn(0);
    /// The greatest position that fits the type.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The position at this byte.
    #[must_use]
    pub const fn new(byte: u64) -> Self {
        Self(byte)
    }

    /// The byte that this position is.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether this is a position at all.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` later; `None` past the end of the number range.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(byte) => Some(Self(byte)),
            None => None,
        }
    }

    /// The position `bytes` later, or [`Lsn::MAX`].
    #[must_use]
    pub const fn saturating_add(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// The bytes from `earlier` up to here; `None` if `earlier` is later.
    #[must_use]
    pub const fn checked_since(self, earlier: Lsn) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// The bytes from `earlier` up to here; zero if `earlier` is later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The next position that is a multiple of `alignment` (a power of two), or this one.
    #[must_use]
    pub const fn align_up(self, alignment: u64) -> Self {
        Self(self.0.saturating_add(alignment - 1) & !(alignment - 1))
    }

    /// The last position that is a multiple of `alignment` (a power of two), or this one.
    #[must_use]
    pub const fn align_down(self, alignment: u64) -> Self {
        Self(self.0 & !(alignment - 1))
    }

    /// Where a record may start or end: `MAXALIGN`, 8 bytes on every platform that we read.
    #[must_use]
    pub const fn max_align(self) -> Self {
        self.align_up(8)
    }

    /// How far this lies in a block of `size` bytes (a power of two).
    #[must_use]
    pub const fn offset_in(self, size: u64) -> u64 {
        self.0 & (size - 1)
    }

    /// The segment that holds the byte at this position.
    #[must_use]
    pub const fn segment(self, size: SegmentSize) -> SegmentNumber {
        SegmentNumber::new(self.0 / size.bytes())
    }

    /// How far this lies in its segment, in bytes.
    #[must_use]
    pub const fn segment_offset(self, size: SegmentSize) -> u64 {
        self.offset_in(size.bytes())
    }

    /// The first position of this one's segment.
    #[must_use]
    pub const fn segment_start(self, size: SegmentSize) -> Self {
        self.align_down(size.bytes())
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text isn't an LSN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid LSN \"{0}\": expected two hexadecimal numbers such as 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    /// Reads what the server's `pg_lsn` reads: one to eight hex digits, `/`, one to eight.
    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let half = |digits: &str| {
            let plain = (1..=8).contains(&digits.len())
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_the_servers() {
        assert_eq!(Lsn::new(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!(Lsn::new(0x28).to_string(), "0/28");
        assert_eq!("16/b374D848".parse(), Ok(Lsn::new(0x16_B374_D848)));
        assert_eq!("0/0".parse(), Ok(Lsn::INVALID));
    }

    #[test]
    fn what_is_not_an_lsn_is_refused() {
        for text in
            ["", "/", "1", "1/", "/1", "1/123456789", "1/-1", "1/+1", "1/0x1", "g/1", "1/1 "]
        {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn alignment_saturates_at_the_end() {
        assert_eq!(Lsn::new(9).max_align(), Lsn::new(16));
        assert_eq!(Lsn::new(8).max_align(), Lsn::new(8));
        assert_eq!(Lsn::MAX.max_align(), Lsn::new(!7));
    }
}
