//! The index: one fixed entry a segment, written when the segment is settled; never on the
//! acknowledgement path, and made again from the segment where it was lost.
//!
//! An index file holds the entries of 256 segments of one timeline, each in its own place, so that
//! writing one again changes nothing.
//!
//! | offset | bytes | entry, little-endian |
//! |---|---|---|
//! | 0 | 4 | `SWI1` |
//! | 4 | 4 | timeline |
//! | 8 | 8 | segment number |
//! | 16 | 8 | LSN of the first record that starts in the segment; 0 if none does |
//! | 24 | 8 | LSN of the last record that starts in it; 0 if none does |
//! | 32 | 4 | records that start in it |
//! | 36 | 4 | commits and aborts among them |
//! | 40 | 8 | least time of a commit or abort, µs since 2000; 0 where there is none |
//! | 48 | 8 | greatest time |
//! | 56 | 4 | checkpoints among them |
//! | 60 | 4 | restore points among them |
//! | 64 | 8 | LSN of the last checkpoint; 0 if none |
//! | 72 | 8 | its redo |
//! | 80 | 8 | LSN of the first restore point; 0 if none |
//! | 88 | 4 | least xid, as a number, of a transaction that a commit or abort ends; 0 where not known |
//! | 92 | 4 | greatest xid |
//! | 96 | 28 | zeros |
//! | 124 | 4 | CRC-32C of bytes 0–123 |

use std::collections::VecDeque;

use pg_types::{Lsn, SegmentNumber, SegmentSize, TimelineId};
use wal_format::{Notable, Record, TimestampTz, Visitor, crc::crc32c};

/// The bytes of an entry.
pub const ENTRY_LEN: usize = 128;
/// The entries of an index file: 32 KiB a file, and a million segments are four thousand files.
pub const ENTRIES_PER_FILE: u64 = 256;

const MAGIC: [u8; 4] = *b"SWI1";
const CRC_AT: usize = ENTRY_LEN - 4;

/// What the index knows of a segment; see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The timeline.
    pub timeline: TimelineId,
    /// The segment.
    pub number: SegmentNumber,
    /// The first record that starts in it; invalid if none does.
    pub first: Lsn,
    /// The last one.
    pub last: Lsn,
    /// How many start in it.
    pub records: u32,
    /// How many of them are commits or aborts.
    pub ends: u32,
    /// The least and the greatest time of those.
    pub times: Option<(TimestampTz, TimestampTz)>,
    /// The least and the greatest xid of those; `None` where it isn't known of each.
    pub xids: Option<(u32, u32)>,
    /// How many are checkpoints.
    pub checkpoints: u32,
    /// How many are restore points.
    pub restore_points: u32,
    /// The last checkpoint's record; invalid if none.
    pub checkpoint: Lsn,
    /// Its redo.
    pub redo: Lsn,
    /// The first restore point; invalid if none.
    pub restore_point: Lsn,
}

impl IndexEntry {
    pub(crate) fn new(timeline: TimelineId, number: SegmentNumber) -> Self {
        Self {
            timeline,
            number,
            first: Lsn::INVALID,
            last: Lsn::INVALID,
            records: 0,
            ends: 0,
            times: None,
            xids: None,
            checkpoints: 0,
            restore_points: 0,
            checkpoint: Lsn::INVALID,
            redo: Lsn::INVALID,
            restore_point: Lsn::INVALID,
        }
    }

    /// Takes a record that starts in the segment.
    fn add(&mut self, record: &Record) {
        if !self.first.is_valid() {
            self.first = record.lsn;
        }
        self.last = record.lsn;
        // A segment of 1 GiB has room for 2^25.5 records of 24 bytes.
        self.records = self.records.saturating_add(1);
    }

    /// Takes what is notable of such a record.
    fn add_notable(&mut self, record: &Record, notable: &Notable) {
        match *notable {
            Notable::Commit { time, xid } | Notable::Abort { time, xid } => {
                self.xids = match (self.ends, self.xids, xid) {
                    (0, _, Some(xid)) => Some((xid, xid)),
                    (_, Some((least, greatest)), Some(xid)) => {
                        Some((least.min(xid), greatest.max(xid)))
                    }
                    _ => None,
                };
                self.ends = self.ends.saturating_add(1);
                let (least, greatest) = self.times.unwrap_or((time, time));
                self.times = Some((least.min(time), greatest.max(time)));
            }
            Notable::Checkpoint { redo, .. } => {
                self.checkpoints = self.checkpoints.saturating_add(1);
                (self.checkpoint, self.redo) = (record.lsn, redo);
            }
            Notable::RestorePoint { .. } => {
                if self.restore_points == 0 {
                    self.restore_point = record.lsn;
                }
                self.restore_points = self.restore_points.saturating_add(1);
            }
            _ => {}
        }
    }

    /// The entry as it is in the file.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ENTRY_LEN] {
        let (least, greatest) =
            self.times.map_or((0, 0), |(least, greatest)| (least.0, greatest.0));
        let mut bytes = Vec::with_capacity(ENTRY_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.timeline.as_u32().to_le_bytes());
        bytes.extend_from_slice(&self.number.as_u64().to_le_bytes());
        bytes.extend_from_slice(&self.first.as_u64().to_le_bytes());
        bytes.extend_from_slice(&self.last.as_u64().to_le_bytes());
        bytes.extend_from_slice(&self.records.to_le_bytes());
        bytes.extend_from_slice(&self.ends.to_le_bytes());
        bytes.extend_from_slice(&least.to_le_bytes());
        bytes.extend_from_slice(&greatest.to_le_bytes());
        bytes.extend_from_slice(&self.checkpoints.to_le_bytes());
        bytes.extend_from_slice(&self.restore_points.to_le_bytes());
        bytes.extend_from_slice(&self.checkpoint.as_u64().to_le_bytes());
        bytes.extend_from_slice(&self.redo.as_u64().to_le_bytes());
        bytes.extend_from_slice(&self.restore_point.as_u64().to_le_bytes());
        let (least, greatest) = self.xids.unwrap_or_default();
        bytes.extend_from_slice(&least.to_le_bytes());
        bytes.extend_from_slice(&greatest.to_le_bytes());
        bytes.resize(CRC_AT, 0);
        bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        let mut entry = [0; ENTRY_LEN];
        entry.copy_from_slice(&bytes);
        entry
    }

    /// Reads an entry; `None` where none was written, or the CRC doesn't hold.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; ENTRY_LEN]) -> Option<Self> {
        let (covered, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c(covered) != u32::from_le_bytes(*crc) {
            return None;
        }
        let u32_at = |at: usize| Some(u32::from_le_bytes(*covered.get(at..)?.first_chunk()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(*covered.get(at..)?.first_chunk()?));
        let lsn_at = |at: usize| u64_at(at).map(Lsn::new);
        let time_at = |at: usize| {
            let bytes: &[u8; 8] = covered.get(at..)?.first_chunk()?;
            Some(TimestampTz(i64::from_le_bytes(*bytes)))
        };
        let ends = u32_at(36)?;
        let times = (time_at(40)?, time_at(48)?);
        let xids = (u32_at(88)?, u32_at(92)?);
        covered.starts_with(&MAGIC).then_some(())?;
        Some(Self {
            timeline: TimelineId::new(u32_at(4)?)?,
            number: SegmentNumber::new(u64_at(8)?),
            first: lsn_at(16)?,
            last: lsn_at(24)?,
            records: u32_at(32)?,
            ends,
            times: (ends > 0).then_some(times),
            xids: (xids.0 > 0).then_some(xids),
            checkpoints: u32_at(56)?,
            restore_points: u32_at(60)?,
            checkpoint: lsn_at(64)?,
            redo: lsn_at(72)?,
            restore_point: lsn_at(80)?,
        })
    }
}

/// Makes entries of the records that pass: of the segments that aren't settled yet.
#[derive(Clone, Debug)]
pub(crate) struct IndexBuilder {
    timeline: TimelineId,
    segment_size: SegmentSize,
    /// By number; as many as one record has run over, or two.
    open: VecDeque<IndexEntry>,
}

impl IndexBuilder {
    pub(crate) fn new(timeline: TimelineId, segment_size: SegmentSize) -> Self {
        Self { timeline, segment_size, open: VecDeque::new() }
    }

    /// The entry of a settled segment; nothing that comes later belongs to it.
    pub(crate) fn settle(&mut self, number: SegmentNumber) -> IndexEntry {
        while let Some(entry) = self.open.front() {
            if entry.number > number {
                break;
            }
            if let Some(entry) = self.open.pop_front().filter(|entry| entry.number == number) {
                return entry;
            }
        }
        IndexEntry::new(self.timeline, number)
    }
}

impl Visitor for IndexBuilder {
    #[inline]
    fn record(&mut self, record: &Record) {
        let number = record.lsn.segment(self.segment_size);
        match self.open.back_mut() {
            Some(entry) if entry.number == number => entry.add(record),
            _ => {
                let mut entry = IndexEntry::new(self.timeline, number);
                entry.add(record);
                self.open.push_back(entry);
            }
        }
    }

    fn notable(&mut self, record: &Record, notable: &Notable) {
        // The record before was this one, so that its segment's entry is the last.
        if let Some(entry) = self.open.back_mut() {
            entry.add_notable(record, notable);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let mut entry = IndexEntry::new(TimelineId::FIRST, SegmentNumber::new(77));
        assert_eq!(IndexEntry::from_bytes(&entry.to_bytes()), Some(entry));
        entry.times = Some((TimestampTz(-5), TimestampTz(9)));
        (entry.ends, entry.records, entry.xids) = (2, 3, Some((3, u32::MAX)));
        (entry.first, entry.redo) = (Lsn::new(1), Lsn::new(2));
        assert_eq!(IndexEntry::from_bytes(&entry.to_bytes()), Some(entry));
    }

    #[test]
    fn a_torn_or_missing_entry_is_none() {
        assert_eq!(IndexEntry::from_bytes(&[0; ENTRY_LEN]), None);
        let bytes = IndexEntry::new(TimelineId::FIRST, SegmentNumber::new(77)).to_bytes();
        for at in 0..ENTRY_LEN {
            let mut torn = bytes;
            torn[at] ^= 1;
            assert_eq!(IndexEntry::from_bytes(&torn), None, "{at}");
        }
    }
}
