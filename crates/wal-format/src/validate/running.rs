//! A record as its body passes: its length, and its CRC.

use pg_types::Lsn;

use super::{Finished, Record, State, Visitor};
use crate::crc::Crc32c;
use crate::notable::{self, Notable, PREFIX_LEN};
use crate::record::{MAX_RECORD_LEN, RECORD_HEADER_LEN, RecordHeader};
use crate::{DecodeError, DecodeErrorKind, WalVersion};

/// A record in the middle of its body.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) lsn: Lsn,
    pub(super) header: RecordHeader,
    /// The first 20 bytes, which the CRC covers last.
    pub(super) header_bytes: [u8; RECORD_HEADER_LEN],
    pub(super) crc: Crc32c,
    pub(super) remaining: u32,
    /// Of a record that may be notable, what is kept to tell.
    pub(super) prefix: Vec<u8>,
}

impl Running {
    pub(super) fn new(
        lsn: Lsn,
        header: RecordHeader,
        header_bytes: [u8; RECORD_HEADER_LEN],
    ) -> Self {
        let remaining = header.total_len.saturating_sub(HEADER_LEN);
        let (crc, prefix) = (Crc32c::new(), Vec::new());
        Self { lsn, header, header_bytes, crc, remaining, prefix }
    }

    /// Takes what belongs to the body; gives how many bytes that was.
    pub(super) fn feed(&mut self, bytes: &[u8], visitor: &mut impl Visitor) -> usize {
        let left = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let used = left.min(bytes.len());
        let (body, _) = bytes.split_at_checked(used).unwrap_or((bytes, &[]));
        self.crc.update(body);
        if notable::may_be_notable(&self.header) {
            let wanted = PREFIX_LEN.saturating_sub(self.prefix.len());
            self.prefix.extend_from_slice(body.get(..wanted).unwrap_or(body));
        }
        visitor.body(body);
        self.remaining = self.remaining.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX));
        used
    }

    /// The record whose last byte lies before `end`, if its CRC holds.
    pub(super) fn finish(
        &self,
        end: Lsn,
        version: Option<WalVersion>,
    ) -> Result<State, DecodeError> {
        let mut crc = self.crc;
        crc.update(covered_last(&self.header_bytes));
        check_crc(self.lsn, crc.value(), &self.header)?;
        let notable = Notable::of(&self.header, &self.prefix, version);
        let record = Record { lsn: self.lsn, end: end.max_align(), header: self.header };
        Ok(State::Padding { until: record.end, record: Some(Finished { record, notable }) })
    }
}

/// The part of a header that the CRC covers, behind the body: all but the CRC itself.
#[inline]
pub(super) fn covered_last(header: &[u8; RECORD_HEADER_LEN]) -> &[u8; RECORD_HEADER_LEN - 4] {
    header.first_chunk().unwrap_or(&[0; RECORD_HEADER_LEN - 4])
}

#[inline]
pub(super) fn check_crc(lsn: Lsn, got: u32, header: &RecordHeader) -> Result<(), DecodeError> {
    let expected = header.crc;
    if got == expected {
        Ok(())
    } else {
        Err(DecodeError { at: lsn, kind: DecodeErrorKind::RecordCrc { got, expected } })
    }
}

/// [`RECORD_HEADER_LEN`], as the lengths in records are.
pub(super) const HEADER_LEN: u32 = 24;
const _: () = assert!(HEADER_LEN as usize == RECORD_HEADER_LEN);

pub(super) fn check_length(lsn: Lsn, total_len: u32) -> Result<(), DecodeError> {
    if !(HEADER_LEN..=MAX_RECORD_LEN).contains(&total_len) {
        Err(DecodeError { at: lsn, kind: DecodeErrorKind::RecordLength(total_len) })
    } else {
        Ok(())
    }
}
