//! Why there is no further record, in the words of the reader of each version
//! (`access/transam/xlogreader.c`): `report_invalid_record` and its callers.

use std::fmt::Write as _;

use pg_types::{Lsn, SegmentNumber, SegmentSize};
use wal_format::{MalformedRecord, RECORD_HEADER_LEN, WalVersion};

/// A page, as messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The timeline of the file that was read.
    pub timeline: u32,
    /// The page's position.
    pub page: Lsn,
    /// The size of a segment.
    pub size: SegmentSize,
}

impl Place {
    /// The name of the segment's file.
    #[must_use]
    pub fn file_name(&self) -> String {
        segment_name(self.timeline, self.page.segment(self.size), self.size)
    }
}

/// A segment's file name. The timeline is a number: what a user names may be of timeline 0.
#[must_use]
pub fn segment_name(timeline: u32, number: SegmentNumber, size: SegmentSize) -> String {
    let per_log = size.segments_per_log_id();
    let (log, rest) = (number.as_u64() / per_log, number.as_u64() % per_log);
    format!("{timeline:08X}{log:08X}{rest:08X}")
}

/// What the reader found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A position within a page header.
    RecordOffset {
        /// The position.
        at: Lsn,
        /// The header's length.
        least: u32,
        /// The position's offset in the page.
        got: u32,
    },
    /// A position that belongs to the rest of a record.
    ContrecordRequested(Lsn),
    /// `xl_tot_len` below a header's.
    RecordLength {
        /// The record.
        at: Lsn,
        /// Its `xl_tot_len`; zero is what follows the last record in a file.
        got: u32,
    },
    /// A manager that this version doesn't have.
    RecordManager {
        /// The record.
        at: Lsn,
        /// `xl_rmid`
        got: u8,
    },
    /// `xl_prev` isn't the record before.
    RecordPrev {
        /// The record.
        at: Lsn,
        /// `xl_prev`
        got: Lsn,
    },
    /// The bytes aren't those that were written.
    RecordCrc {
        /// The record.
        at: Lsn,
        /// What the bytes give.
        got: u32,
        /// What the record says.
        expected: u32,
    },
    /// A record should go on, and the page says that none does.
    ContrecordMissing(Lsn),
    /// A record should go on with another number of bytes.
    ContrecordLength {
        /// The record.
        at: Lsn,
        /// What the page says.
        got: u32,
        /// What the record's length says.
        expected: u32,
    },
    /// The record's headers contradict each other.
    Malformed {
        /// What the message names: the record up to 14, the one before it from 15 on.
        at: Lsn,
        /// How.
        how: MalformedRecord,
    },
    /// Another version's page, or none at all.
    PageMagic {
        /// `xlp_magic`
        got: u16,
        /// The page.
        place: Place,
    },
    /// Flags that no version knows, or a segment without its long header.
    PageFlags {
        /// `xlp_info`
        got: u16,
        /// The page.
        place: Place,
    },
    /// `xlp_seg_size` isn't the size of the first file that was read.
    SegmentSize,
    /// `xlp_xlog_blcksz` isn't 8192.
    BlockSize,
    /// A page that belongs elsewhere, such as one of a recycled segment.
    PageAddress {
        /// `xlp_pageaddr`
        got: Lsn,
        /// The page.
        place: Place,
    },
    /// Timelines of pages never decrease.
    PageTimeline {
        /// `xlp_tli`
        got: u32,
        /// The page before's.
        after: u32,
        /// The page.
        place: Place,
    },
}

impl Reason {
    /// The record or page that it is about.
    #[must_use]
    pub fn at(&self) -> Option<Lsn> {
        match self {
            Self::RecordOffset { at, .. }
            | Self::ContrecordRequested(at)
            | Self::RecordLength { at, .. }
            | Self::RecordManager { at, .. }
            | Self::RecordPrev { at, .. }
            | Self::RecordCrc { at, .. }
            | Self::ContrecordMissing(at)
            | Self::ContrecordLength { at, .. }
            | Self::Malformed { at, .. } => Some(*at),
            Self::PageMagic { place, .. }
            | Self::PageFlags { place, .. }
            | Self::PageAddress { place, .. }
            | Self::PageTimeline { place, .. } => Some(place.page),
            Self::SegmentSize | Self::BlockSize => None,
        }
    }

    /// What it means, for whoever looks into a broken log; `None` where the words say it all.
    #[must_use]
    pub fn verdict(&self) -> Option<String> {
        Some(match *self {
            Self::RecordLength { at, got: 0 } => {
                format!("zeros from {at} on: the end of what was written")
            }
            Self::RecordCrc { at, got, expected } => format!(
                "the record at {at} isn't what was written: its CRC is {got:08X}, and it says \
                 {expected:08X}"
            ),
            Self::RecordPrev { at, got } => format!(
                "what lies at {at} follows {got}: the segment was used before, and what was \
                 written anew ends here, or the record before is missing"
            ),
            Self::PageAddress { got, place } => format!(
                "the page at {} was written for {got}: the segment was used before, and what was \
                 written anew ends here",
                place.page
            ),
            Self::ContrecordMissing(at) | Self::ContrecordLength { at, .. } => {
                format!(
                    "the record at {at} breaks off: its server crashed, or what follows is missing"
                )
            }
            _ => return None,
        })
    }

    /// As the reader of this version says it.
    #[must_use]
    pub fn text(&self, version: WalVersion) -> String {
        let since_16 = version.major() >= 16;
        match *self {
            Self::RecordOffset { at, least, got } if since_16 => {
                format!("invalid record offset at {at}: expected at least {least}, got {got}")
            }
            Self::RecordOffset { at, .. } => format!("invalid record offset at {at}"),
            Self::ContrecordRequested(at) => format!("contrecord is requested by {at}"),
            Self::RecordLength { at, got } => {
                let wanted = if since_16 { "expected at least" } else { "wanted" };
                format!("invalid record length at {at}: {wanted} {RECORD_HEADER_LEN}, got {got}")
            }
            Self::RecordManager { at, got } => {
                format!("invalid resource manager ID {got} at {at}")
            }
            Self::RecordPrev { at, got } => {
                format!("record with incorrect prev-link {got} at {at}")
            }
            Self::RecordCrc { at, .. } => {
                format!("incorrect resource manager data checksum in record at {at}")
            }
            Self::ContrecordMissing(at) => format!("there is no contrecord flag at {at}"),
            Self::ContrecordLength { at, got, expected } => {
                format!("invalid contrecord length {got} (expected {expected}) at {at}")
            }
            Self::Malformed { at, how } => malformed(at, how, version),
            Self::PageMagic { got, place } => {
                on_page(&format!("invalid magic number {got:04X}"), &place, since_16)
            }
            Self::PageFlags { got, place } => {
                on_page(&format!("invalid info bits {got:04X}"), &place, since_16)
            }
            Self::SegmentSize => other_system("incorrect segment size in page header"),
            Self::BlockSize => other_system("incorrect XLOG_BLCKSZ in page header"),
            Self::PageAddress { got, place } => {
                on_page(&format!("unexpected pageaddr {got}"), &place, since_16)
            }
            Self::PageTimeline { got, after, place } => {
                let what = format!("out-of-sequence timeline ID {got} (after {after})");
                on_page(&what, &place, since_16)
            }
        }
    }
}

fn other_system(what: &str) -> String {
    format!("WAL file is from different database system: {what}")
}

fn on_page(what: &str, place: &Place, since_16: bool) -> String {
    let (name, page) = (place.file_name(), place.page);
    let offset = page.segment_offset(place.size);
    let mut text = what.to_owned();
    _ = if since_16 {
        write!(text, " in WAL segment {name}, LSN {page}, offset {offset}")
    } else {
        write!(text, " in log segment {name}, offset {offset}")
    };
    text
}

fn malformed(at: Lsn, how: MalformedRecord, version: WalVersion) -> String {
    // Up to 14 there is one method, and the flag says whether it was used.
    let compressed =
        if version.major() >= 15 { "BKPIMAGE_COMPRESSED" } else { "BKPIMAGE_IS_COMPRESSED" };
    let what = match how {
        MalformedRecord::BlockId(id) => format!("invalid block_id {id}"),
        MalformedRecord::BlockOrder(id) => format!("out-of-order block_id {id}"),
        MalformedRecord::NoRelation(_) => "BKPBLOCK_SAME_REL set but no previous rel".to_owned(),
        MalformedRecord::DataMissing(_) => "BKPBLOCK_HAS_DATA set, but no data included".to_owned(),
        MalformedRecord::DataUnflagged { length, .. } => {
            format!("BKPBLOCK_HAS_DATA not set, but data length is {length}")
        }
        MalformedRecord::HoleMissing { offset, length, image, .. } => format!(
            "BKPIMAGE_HAS_HOLE set, but hole offset {offset} length {length} \
             block image length {image}"
        ),
        MalformedRecord::HoleUnflagged { offset, length, .. } => {
            format!("BKPIMAGE_HAS_HOLE not set, but hole offset {offset} length {length}")
        }
        MalformedRecord::CompressedLength { image, .. } => {
            format!("{compressed} set, but block image length {image}")
        }
        _ => "record with invalid length".to_owned(),
    };
    format!("{what} at {at}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reason: Reason, major: u32, expect: &str) {
        let version = WalVersion::from_major(major).unwrap();
        assert_eq!(reason.text(version), expect, "{major}");
    }

    #[test]
    fn the_words_changed_in_16() {
        let end = Reason::RecordLength { at: Lsn::new(0x1_0000_0028), got: 0 };
        check(end, 15, "invalid record length at 1/28: wanted 24, got 0");
        check(end, 16, "invalid record length at 1/28: expected at least 24, got 0");
        let (timeline, size) = (1, SegmentSize::DEFAULT);
        let place = Place { timeline, page: Lsn::new(0x200_2000), size };
        let stale = Reason::PageAddress { got: Lsn::new(0x100_2000), place };
        check(
            stale,
            14,
            "unexpected pageaddr 0/1002000 in log segment 000000010000000000000002, offset 8192",
        );
        check(
            stale,
            18,
            "unexpected pageaddr 0/1002000 in WAL segment 000000010000000000000002, \
             LSN 0/2002000, offset 8192",
        );
    }
}
