//! A record that runs over pages, on its way into a buffer; and the check of any record's CRC.

use pg_types::Lsn;
use wal_format::crc::{self, Crc32c};
use wal_format::{RECORD_HEADER_LEN, RecordHeader};

use super::reason::Reason;
use super::trouble::Stop;

/// Beyond this a buffer isn't kept for the next record: most are a hundred bytes long.
pub(super) const KEPT_BYTES: usize = 1 << 20;

/// A record on its way into the buffer.
pub(super) struct Gathering {
    pub(super) got: u32,
    /// So many bytes are kept.
    keep: usize,
    /// The CRC over the body so far, of a record that isn't kept whole.
    crc: Option<Crc32c>,
}

impl Gathering {
    /// Of more than `keep` bytes, which are at least a header, the rest only passes.
    pub(super) fn new(buffer: &mut Vec<u8>, keep: usize) -> Self {
        buffer.clear();
        if buffer.capacity() > KEPT_BYTES {
            *buffer = Vec::new();
        }
        Self { got: 0, keep, crc: None }
    }

    pub(super) fn take(&mut self, buffer: &mut Vec<u8>, bytes: &[u8]) {
        self.got = self.got.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let room = self.keep.saturating_sub(buffer.len());
        let (kept, rest) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        buffer.extend_from_slice(kept);
        if !rest.is_empty() {
            let crc = self.crc.get_or_insert_with(|| {
                let mut crc = Crc32c::new();
                crc.update(buffer.get(RECORD_HEADER_LEN..).unwrap_or_default());
                crc
            });
            crc.update(rest);
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
