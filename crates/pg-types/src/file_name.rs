//! The names of files in a WAL directory, as the server writes them (`XLogFileName`,
//! `TLHistoryFileName`, `BackupHistoryFileName`, `access/xlog_internal.h`, 10–18).

use std::fmt;

use crate::{Lsn, SegmentNumber, SegmentSize, TimelineId};

/// What a name in a WAL directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WalFileKind {
    /// 24 hex digits: a whole segment.
    Segment,
    /// A segment's name and `.partial`: one that is still being written, or was when its timeline
    /// ended.
    Partial,
    /// A segment's name, 8 hex digits and `.backup`: the history of a base backup.
    BackupHistory {
        /// Where in the segment the backup started, in bytes.
        offset: u32,
    },
}

/// The name of a file of WAL: a segment, in one of its forms, or a timeline's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WalFileName {
    /// A segment's file.
    Segment {
        /// The timeline.
        timeline: TimelineId,
        /// The segment's number.
        number: SegmentNumber,
        /// Which of its files.
        kind: WalFileKind,
    },
    /// `00000002.history`.
    TimelineHistory(TimelineId),
}

impl WalFileName {
    /// The whole segment's name.
    #[must_use]
    pub const fn segment(timeline: TimelineId, number: SegmentNumber) -> Self {
        Self::Segment { timeline, number, kind: WalFileKind::Segment }
    }

    /// The unfinished segment's name.
    #[must_use]
    pub const fn partial(timeline: TimelineId, number: SegmentNumber) -> Self {
        Self::Segment { timeline, number, kind: WalFileKind::Partial }
    }

    /// Reads a name exactly as a server writes it: upper-case digits, nothing before or after.
    /// `None` for every other name, and for a segment that no cluster with segments of this size
    /// can have.
    #[must_use]
    pub fn parse(name: &str, size: SegmentSize) -> Option<Self> {
        if let Some(timeline) = name.strip_suffix(".history") {
            return Some(Self::TimelineHistory(TimelineId::new(hex8(timeline)?)?));
        }
        let (digits, suffix) = name.split_at_checked(24)?;
        let kind = match suffix {
            "" => WalFileKind::Segment,
            ".partial" => WalFileKind::Partial,
            _ => {
                let offset = suffix.strip_prefix('.')?.strip_suffix(".backup")?;
                WalFileKind::BackupHistory { offset: hex8(offset)? }
            }
        };
        let timeline = TimelineId::new(hex8(digits.get(..8)?)?)?;
        let log_id = u64::from(hex8(digits.get(8..16)?)?);
        let in_log = u64::from(hex8(digits.get(16..)?)?);
        let per_log = size.segments_per_log_id();
        (in_log < per_log).then(|| {
            let number = SegmentNumber::new(log_id * per_log + in_log);
            Self::Segment { timeline, number, kind }
        })
    }

    /// The name as text.
    #[must_use]
    pub fn display(self, size: SegmentSize) -> impl fmt::Display {
        Named { name: self, per_log: size.segments_per_log_id() }
    }
}

struct Named {
    name: WalFileName,
    per_log: u64,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            WalFileName::TimelineHistory(timeline) => {
                write!(f, "{:08X}.history", timeline.as_u32())
            }
            WalFileName::Segment { timeline, number, kind } => {
                let (log, rest) = (number.as_u64() / self.per_log, number.as_u64() % self.per_log);
                write!(f, "{:08X}{log:08X}{rest:08X}", timeline.as_u32())?;
                match kind {
                    WalFileKind::Segment => Ok(()),
                    WalFileKind::Partial => f.write_str(".partial"),
                    WalFileKind::BackupHistory { offset } => write!(f, ".{offset:08X}.backup"),
                }
            }
        }
    }
}

/// The position where a segment's file begins.
impl WalFileName {
    /// The first position of the segment; `None` for a timeline's history.
    #[must_use]
    pub fn start(self, size: SegmentSize) -> Option<Lsn> {
        match self {
            Self::Segment { number, .. } => Some(number.start(size)),
            Self::TimelineHistory(_) => None,
        }
    }
}

fn hex8(digits: &str) -> Option<u32> {
    let upper =
        digits.len() == 8 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    upper.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, size: SegmentSize) {
        let parsed = WalFileName::parse(name, size).unwrap_or_else(|| panic!("{name} is a name"));
        assert_eq!(parsed.display(size).to_string(), name);
    }

    #[test]
    fn names_come_back_as_they_were() {
        check("000000010000000000000001", SegmentSize::DEFAULT);
        check("0000000A00000012000000FF", SegmentSize::DEFAULT);
        check("0000000A0000001200000FFF", SegmentSize::MIN);
        check("000000010000000000000001.partial", SegmentSize::DEFAULT);
        check("000000010000000000000001.00000028.backup", SegmentSize::DEFAULT);
        check("0000000B.history", SegmentSize::MAX);
    }

    #[test]
    fn a_name_that_no_server_writes_is_none() {
        for name in [
            "",
            "00000000.history",
            "1.history",
            "0000000b.history",
            "00000001000000000000000",
            "0000000100000000000000010",
            "000000010000000000000100",
            "000000010000000000000001.part",
            "000000010000000000000001.0000028.backup",
            "000000000000000000000001",
            "00000001000000000000000\u{e9}",
            ".000000010000000000000001.tmp",
        ] {
            assert_eq!(WalFileName::parse(name, SegmentSize::DEFAULT), None, "{name}");
        }
    }
}
