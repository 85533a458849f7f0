//! A page's header: what it must be, and what it says of the record that runs over its start.

use pg_types::{Geometry, Lsn};

use super::gathered::Gathered;
use super::running::check_length;
use super::{State, Validator};
use crate::{
    DecodeError, DecodeErrorKind, LONG_HEADER_LEN, PageFlags, PageHeader, SHORT_HEADER_LEN,
    Visitor, WalVersion,
};

/// The header of a page: what it must be (`XLogReaderValidatePageHeader`), and what it says of
/// the record that runs over its start.
impl Validator {
    pub(super) fn page(&mut self, visitor: &mut impl Visitor) -> Result<(), DecodeError> {
        let Some(gathered) = self.page_header.take() else { return Ok(()) };
        let start = self.position.align_down(u64::from(self.expect.geometry.block_size));
        let wrong = |kind| Err(DecodeError { at: start, kind });
        let Some(header) = PageHeader::read(gathered.as_slice()) else {
            return wrong(DecodeErrorKind::HeaderLength);
        };
        self.check_page(start, &header)?;
        let continues = header.flags.has(PageFlags::FIRST_IS_CONTRECORD);
        let overwrites = header.flags.has(PageFlags::FIRST_IS_OVERWRITE_CONTRECORD);
        match self.expected_remainder() {
            Remainder::Unknown => {
                if continues != (header.remaining > 0) {
                    return wrong(DecodeErrorKind::ContrecordUnexpected);
                }
                if continues {
                    self.state = State::Skip { remaining: header.remaining };
                }
                Ok(())
            }
            Remainder::None if continues || header.remaining != 0 => {
                wrong(DecodeErrorKind::ContrecordUnexpected)
            }
            Remainder::Bytes(_) if overwrites && !continues && header.remaining == 0 => {
                self.drop_running(visitor);
                Ok(())
            }
            Remainder::Bytes(_) if !continues => {
                let record = self.running_record().unwrap_or(Lsn::INVALID);
                wrong(DecodeErrorKind::ContrecordMissing { record })
            }
            Remainder::Bytes(expected) if header.remaining != expected => {
                wrong(DecodeErrorKind::ContrecordLength { got: header.remaining, expected })
            }
            Remainder::None | Remainder::Bytes(_) => Ok(()),
            Remainder::Invalid(error) => Err(error),
        }
    }

    fn check_page(&mut self, start: Lsn, header: &PageHeader) -> Result<(), DecodeError> {
        let wrong = |kind| Err(DecodeError { at: start, kind });
        match (self.version, WalVersion::from_magic(header.magic)) {
            (_, None) => return wrong(DecodeErrorKind::UnknownMagic(header.magic)),
            (None, version) => self.version = version,
            (Some(log), Some(version)) if log != version => {
                return wrong(DecodeErrorKind::MagicChanged { got: header.magic, log });
            }
            _ => {}
        }
        if header.flags.0 & !PageFlags::ALL != 0 {
            return wrong(DecodeErrorKind::PageFlags(header.flags.0));
        }
        if header.address != start {
            return wrong(DecodeErrorKind::PageAddress(header.address));
        }
        let (least, most) = (self.page_timeline, self.expect.timeline.as_u32());
        if header.timeline < least || header.timeline > most {
            let got = header.timeline;
            return wrong(DecodeErrorKind::PageTimeline { got, least, most });
        }
        self.page_timeline = header.timeline;
        let Geometry { segment_size, block_size } = self.expect.geometry;
        if header.flags.has(PageFlags::LONG_HEADER) != (start.segment_offset(segment_size) == 0) {
            return wrong(DecodeErrorKind::HeaderLength);
        }
        let Some(long) = header.long else { return Ok(()) };
        let expected = *self.expect.system_id.get_or_insert(long.system_id);
        if long.system_id != expected {
            return wrong(DecodeErrorKind::SystemId { got: long.system_id, expected });
        }
        if u64::from(long.segment_size) != segment_size.bytes() {
            return wrong(DecodeErrorKind::SegmentSize(long.segment_size));
        }
        if long.block_size != block_size {
            return wrong(DecodeErrorKind::BlockSize(long.block_size));
        }
        Ok(())
    }

    /// How many bytes of a record must go on behind the header of the page that begins here.
    fn expected_remainder(&self) -> Remainder {
        match &self.state {
            State::Start => Remainder::Unknown,
            State::Skip { remaining } => Remainder::Bytes(*remaining),
            State::Body(running) => Remainder::Bytes(running.remaining),
            State::Header { lsn, bytes } => match bytes.as_slice().first_chunk::<4>() {
                None => Remainder::None,
                Some(length) => {
                    let total_len = u32::from_le_bytes(*length);
                    match check_length(*lsn, total_len) {
                        Ok(()) => {
                            let have = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                            Remainder::Bytes(total_len.saturating_sub(have))
                        }
                        Err(error) => Remainder::Invalid(error),
                    }
                }
            },
            // A page's end is 8-aligned: no padding runs over it.
            State::Padding { .. } | State::SwitchPadding { .. } => Remainder::None,
        }
    }

    /// The running record was overwritten; another begins behind this page's header.
    fn drop_running(&mut self, visitor: &mut impl Visitor) {
        self.overwritten = self.running_record();
        if let Some(lsn) = self.overwritten {
            visitor.dropped(lsn);
        }
        self.state = State::Header { lsn: self.position, bytes: Gathered::new() };
    }
}

/// What must go on at a page's start.
enum Remainder {
    /// Nothing is known of the record before.
    Unknown,
    /// Nothing: a record starts here.
    None,
    /// This many bytes of the running record.
    Bytes(u32),
    /// The running record's length is nonsense.
    Invalid(DecodeError),
}

/// How long the header is of the page whose first `have` bytes end at `position`.
pub(super) fn header_len(position: Lsn, have: usize, geometry: Geometry) -> usize {
    let start = Lsn::new(position.as_u64().saturating_sub(have as u64));
    if start.segment_offset(geometry.segment_size) == 0 {
        LONG_HEADER_LEN
    } else {
        SHORT_HEADER_LEN
    }
}
