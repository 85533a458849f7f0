//! Page images: unpacked, their holes filled with zeros again (`RestoreBlockImage` of
//! xlogreader.c), and saved (`XLogRecordSaveFPWs` of pg_waldump.c).

use std::fs;
use std::path::Path;

use pg_types::Lsn;
use wal_describe::fork_name;
use wal_format::{BlockImage, BlockReference, Compression, WalVersion};

use super::pglz;
use crate::cli::words::Failure;
use crate::read::files::os_words;

/// The size of a data page (`BLCKSZ`).
pub const PAGE_BYTES: usize = 8192;

/// Unpacks an image into a page; `None` if it isn't one.
#[must_use]
pub fn restore(image: &BlockImage<'_>, page: &mut [u8; PAGE_BYTES]) -> Option<()> {
    let (offset, hole) = (usize::from(image.hole_offset), usize::from(image.hole_length));
    let len = PAGE_BYTES.checked_sub(hole)?;
    let mut unpacked = [0; PAGE_BYTES];
    let unpacked = unpacked.get_mut(..len)?;
    match image.compression {
        None => unpacked.copy_from_slice(image.bytes.get(..len)?),
        Some(Compression::Pglz) => pglz::unpack(image.bytes, unpacked)?,
        Some(Compression::Lz4) => {
            let got = lz4_flex::block::decompress_into(image.bytes, unpacked).ok()?;
            (got == len).then_some(())?;
        }
        Some(Compression::Zstd) => {
            let bytes = zrip::decompress_with_limit(image.bytes, len).ok()?;
            unpacked.copy_from_slice(bytes.get(..len)?);
        }
        Some(_) => return None,
    }
    let (before, behind) = unpacked.split_at_checked(offset.min(len))?;
    page.fill(0);
    page.get_mut(..before.len())?.copy_from_slice(before);
    page.get_mut(PAGE_BYTES.checked_sub(behind.len())?..)?.copy_from_slice(behind);
    Some(())
}

/// Where a record is, for the name of a file and for messages.
#[derive(Clone, Copy, Debug)]
pub struct Of {
    /// The timeline of the record's segment.
    pub timeline: u32,
    /// The record.
    pub lsn: Lsn,
    /// Its version.
    pub version: WalVersion,
}

/// Saves a record's images, each in a file of its own.
///
/// # Errors
/// If one can't be unpacked or written.
pub fn save(of: Of, blocks: &[BlockReference<'_>], dir: &Path) -> Result<(), Failure> {
    for block in blocks {
        let Some(image) = &block.image else { continue };
        let mut page = [0; PAGE_BYTES];
        restore(image, &mut page).ok_or_else(|| not_unpacked(of, block.id))?;
        let Some(fork) = fork_name(block.fork) else {
            return Err(Failure::fatal(format!("invalid fork number: {}", block.fork)));
        };
        let lsn = of.lsn.as_u64();
        let place = &block.locator;
        let path = dir.join(format!(
            "{:08X}-{:08X}-{:08X}.{}.{}.{}.{}_{fork}",
            of.timeline,
            lsn >> 32,
            lsn & 0xFFFF_FFFF,
            place.tablespace,
            place.database,
            place.relation,
            block.block
        ));
        fs::write(&path, page).map_err(|error| {
            let (path, words) = (path.display(), os_words(&error));
            Failure::fatal(format!("could not write file \"{path}\": {words}"))
        })?;
    }
    Ok(())
}

fn not_unpacked(of: Of, block: u8) -> Failure {
    let lsn = of.lsn;
    Failure::fatal(if of.version.major() >= 15 {
        format!("could not decompress image at {lsn}, block {block}")
    } else {
        format!("invalid compressed image at {lsn}, block {block}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(bytes: &[u8], hole: (u16, u16), method: Option<Compression>) -> BlockImage<'_> {
        let (hole_offset, hole_length) = hole;
        BlockImage { bytes, hole_offset, hole_length, info: 0, apply: true, compression: method }
    }

    #[test]
    fn every_method_gives_the_page_back() {
        let mut page = [0; PAGE_BYTES];
        page[..100].fill(7);
        page[8000..].fill(9);
        let packed: Vec<u8> = [&page[..100], &page[8000..]].concat();
        let lz4 = lz4_flex::block::compress(&packed);
        let zstd = zrip::compress(&packed, 1).unwrap();
        for (bytes, method) in [
            (packed.as_slice(), None),
            (&lz4, Some(Compression::Lz4)),
            (&zstd, Some(Compression::Zstd)),
        ] {
            let mut restored = [0xEE; PAGE_BYTES];
            restore(&image(bytes, (100, 7900), method), &mut restored).unwrap();
            assert!(restored == page, "{method:?}");
        }
        let mut restored = [0; PAGE_BYTES];
        restore(&image(&page, (0, 0), None), &mut restored).unwrap();
        assert!(restored == page);
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(
            bytes: Vec<u8>, offset: u16, length: u16, method in 0_usize..4,
        ) {
            let methods =
                [None, Some(Compression::Pglz), Some(Compression::Lz4), Some(Compression::Zstd)];
            let image = image(&bytes, (offset, length), methods[method]);
            let _ = restore(&image, &mut [0; PAGE_BYTES]);
        }
    }
}
