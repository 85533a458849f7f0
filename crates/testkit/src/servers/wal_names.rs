//! As much about WAL file names as tests need, without the product's own code for it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// The segment files (24 hexadecimal digits) of a directory, in order.
pub fn segments_in(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_segment_name))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    Ok(paths)
}

/// Makes so many segments that have a size and no content, before the first one of a directory.
pub fn sparse_segments_before(dir: &Path, count: u64) -> Result<(), Error> {
    let segments = segments_in(dir)?;
    let Some(first) = segments.first() else { return Ok(()) };
    let size = fs::metadata(first).map_err(Error::io("look at", first))?.len();
    let name = first.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let start = segment_start(name, size).unwrap_or_default() / size;
    for number in start.saturating_sub(count)..start {
        let (high, low) = ((number * size) >> 32, number * size % (1 << 32) / size);
        let path = dir.join(format!("{}{high:08X}{low:08X}", name.get(..8).unwrap_or_default()));
        let made = File::create_new(&path).and_then(|file| file.set_len(size));
        made.map_err(Error::io("make", &path))?;
    }
    Ok(())
}

/// Whether a file's name is a segment's.
pub fn is_segment_name(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

/// The LSN where the segment of this name begins.
pub fn segment_start(name: &str, segment_size_bytes: u64) -> Option<u64> {
    let high = u64::from_str_radix(name.get(8..16)?, 16).ok()?;
    let low = u64::from_str_radix(name.get(16..24)?, 16).ok()?;
    Some((high << 32) + low.checked_mul(segment_size_bytes)?)
}

/// The segment size that the first page of the file `path` states, if the file holds the segment
/// `name` at all: one that the server has made in advance is empty, or still another's.
///
/// `XLogLongPageHeaderData`: xlp_pageaddr u64 at 8, xlp_seg_size u32 at 32.
pub fn segment_size_in(path: &Path, name: &str) -> Option<u64> {
    let mut header = [0; 36];
    File::open(path).ok()?.read_exact_at(&mut header, 0).ok()?;
    let page = u64::from_le_bytes(*header[8..].first_chunk()?);
    let size = u64::from(u32::from_le_bytes(*header[32..].first_chunk()?));
    (size > 0 && segment_start(name, size) == Some(page)).then_some(size)
}

/// An LSN as PostgreSQL prints it.
pub fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

/// An LSN as PostgreSQL prints it, read.
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let half = |digits| u32::from_str_radix(digits, 16).ok().map(u64::from);
    Some(half(high)? << 32 | half(low)?)
}
