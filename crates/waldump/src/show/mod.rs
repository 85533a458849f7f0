//! What is shown of records: lines of text, JSON, statistics, the greatest makers of WAL, and page
//! images as files.

pub mod images;
pub mod json;
pub mod line;
pub mod pglz;
pub mod stats;
pub mod top;

use wal_format::RecordBody;

/// The bytes of a record's page images (`XLogRecGetLen`).
#[must_use]
#[inline]
pub fn image_bytes(body: &RecordBody<'_>) -> u32 {
    let images = body.blocks.iter().filter_map(|block| block.image.as_ref());
    // At most 33 of at most 8 KiB.
    images.map(|image| u32::try_from(image.bytes.len()).unwrap_or(0)).sum()
}
