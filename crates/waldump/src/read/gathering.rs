//! A record that runs over pages, on its way into a buffer; and the check of any record's CRC.

use pg_types::Lsn;
use wal_format::crc::{self, Crc32c};
use wal_format::{RECORD_HEADER_LEN, RecordHeader};

use super::reader::WHOLE_BYTES;
use super::reason::Reason;
use super::trouble::Stop;

/// Beyond this a buffer isn't kept for the next record: most are a hundred bytes long.
pub(super) const KEPT_BYTES: usize = 1 << 20;

/// A record on its way into the buffer.
pub(super) struct Gathering {
    pub(super) got: u32,
    /// The CRC over the body so far, of a record that isn't kept whole.
    crc: Option<Crc32c>,
}

impl Gathering {
    pub(super) fn new(buffer: &mut Vec<u8>) -> Self {
        buffer.clear();
        if buffer.capacity() > KEPT_BYTES {
            *buffer = Vec::new();
        }
        Self { got: 0, crc: None }
    }

    pub(super) fn take(&mut self, buffer: &mut Vec<u8>, bytes: &[u8]) {
        match &mut self.crc {
            None => buffer.extend_from_slice(bytes),
            Some(crc) => crc.update(bytes),
        }
        self.got = self.got.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    }

    /// Goes on without keeping the bytes, where there have been too many.
    pub(super) fn bound(&mut self, buffer: &[u8], header: &RecordHeader) {
        let is_long = header.total_len as usize > WHOLE_BYTES;
        if is_long && self.crc.is_none() && self.got as usize >= WHOLE_BYTES {
            let mut crc = Crc32c::new();
            crc.update(buffer.get(RECORD_HEADER_LEN..).unwrap_or_default());
            self.crc = Some(crc);
        }
    }

    pub(super) fn check_crc(
        &self,
        at: Lsn,
        header: &RecordHeader,
        buffer: &[u8],
    ) -> Result<(), Stop> {
        let Some(mut crc) = self.crc else { return check_crc(at, header, buffer) };
        crc.update(buffer.get(..20).unwrap_or_default());
        crc_is(at, header, crc.value())
    }
}

/// Whether a whole record's CRC holds; not of one that is shorter than a header.
#[inline]
pub(super) fn crc_holds(header: &RecordHeader, record: &[u8]) -> bool {
    match (record.first_chunk(), record.get(RECORD_HEADER_LEN..)) {
        (Some(head), Some(body)) => crc::record(body, head) == header.crc,
        _ => false,
    }
}

/// `ValidXLogRecord`
#[inline]
pub(super) fn check_crc(at: Lsn, header: &RecordHeader, record: &[u8]) -> Result<(), Stop> {
    let body = record.get(RECORD_HEADER_LEN..).unwrap_or_default();
    let head = record.first_chunk().unwrap_or(&[0; 20]);
    crc_is(at, header, crc::record(body, head))
}

fn crc_is(at: Lsn, header: &RecordHeader, got: u32) -> Result<(), Stop> {
    if got == header.crc {
        return Ok(());
    }
    Err(Stop::Invalid(Reason::RecordCrc { at, got, expected: header.crc }))
}
