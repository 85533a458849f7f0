//! Records: the header, and the block references and data in a whole record's body.
//!
//! | offset | bytes | `XLogRecord`, `access/xlogrecord.h`, 10–18 |
//! |---|---|---|
//! | 0 | 4 | `xl_tot_len`: the record's length with this header, without page headers |
//! | 4 | 4 | `xl_xid` |
//! | 8 | 8 | `xl_prev`: the start of the record before |
//! | 16 | 1 | `xl_info` |
//! | 17 | 1 | `xl_rmid` |
//! | 18 | 2 | zeros |
//! | 20 | 4 | `xl_crc`: CRC-32C over the body and then over bytes 0–19 |
//!
//! The body is a run of headers (`XLogRecordBlockHeader` for each block, at last one
//! `XLogRecordDataHeader`), then each block's image and data, then the main data.

use pg_types::Lsn;

use crate::bytes::Reader;
use crate::{RmgrId, WalVersion};

/// The bytes of a record's header (`SizeOfXLogRecord`).
pub const RECORD_HEADER_LEN: usize = 24;
/// No record is longer: a reader refuses to allocate more (`MaxAllocSize`, `utils/memutils.h`);
/// from 16 on writers stop at 1020 MiB (`XLogRecordMaxSize`).
pub const MAX_RECORD_LEN: u32 = 0x3FFF_FFFF;
/// The greatest block id (`XLR_MAX_BLOCK_ID`).
pub const MAX_BLOCK_ID: u8 = 32;
/// The headers of a body have no more bytes: of 33 blocks at most 4, of an image 5 and 2 more, 12 of
/// the relation and 4 of the block's number; 3 of the origin, 5 of the transaction above, 5 of the
/// main data (`access/xlogrecord.h`).
pub const MAX_HEADERS_LEN: usize = 33 * 27 + 13;

/// The first byte of each header in a body (`XLR_BLOCK_ID_*`).
pub(crate) mod block_id {
    pub(crate) const DATA_SHORT: u8 = 255;
    pub(crate) const DATA_LONG: u8 = 254;
    pub(crate) const ORIGIN: u8 = 253;
    /// From 14 on.
    pub(crate) const TOPLEVEL_XID: u8 = 252;
}

/// A record's header; see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// `xl_tot_len`, bytes
    pub total_len: u32,
    /// `xl_xid`
    pub xid: u32,
    /// `xl_prev`
    pub prev: Lsn,
    /// `xl_info`
    pub info: u8,
    /// `xl_rmid`
    pub rmgr: RmgrId,
    /// `xl_crc`
    pub crc: u32,
}

impl RecordHeader {
    /// Of no record.
    pub const NONE: Self =
        Self { total_len: 0, xid: 0, prev: Lsn::INVALID, info: 0, rmgr: RmgrId::XLOG, crc: 0 };

    /// Reads a header. Checks nothing.
    #[must_use]
    #[inline]
    pub fn read(bytes: &[u8; RECORD_HEADER_LEN]) -> Self {
        let [l0, l1, l2, l3, x0, x1, x2, x3, p @ .., info, rmgr, _, _, c0, c1, c2, c3] = *bytes;
        Self {
            total_len: u32::from_le_bytes([l0, l1, l2, l3]),
            xid: u32::from_le_bytes([x0, x1, x2, x3]),
            prev: Lsn::new(u64::from_le_bytes(p)),
            info,
            rmgr: RmgrId(rmgr),
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
        }
    }
}

/// Which relation: tablespace, database, file (`RelFileLocator`, `storage/relfilelocator.h`;
/// `RelFileNode` up to 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct RelFileLocator {
    /// `spcOid`
    pub tablespace: u32,
    /// `dbOid`
    pub database: u32,
    /// `relNumber` (`relNode` up to 15)
    pub relation: u32,
}

/// How a page image was compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// PostgreSQL's own.
    Pglz,
    /// LZ4, from 15 on.
    Lz4,
    /// Zstandard, from 15 on.
    Zstd,
}

/// A full-page image, perhaps without its hole of zeros, perhaps compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockImage<'a> {
    /// The image as it is in the record.
    pub bytes: &'a [u8],
    /// Where in the page the hole begins.
    pub hole_offset: u16,
    /// How long the hole is; zero where there is none.
    pub hole_length: u16,
    /// `bimg_info`, as it is.
    pub info: u8,
    /// Whether replay restores the page from it (`BKPIMAGE_APPLY`).
    pub apply: bool,
    /// How it was compressed.
    pub compression: Option<Compression>,
}

/// A reference to a block of a relation (`XLogRecordBlockHeader` and what follows it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockReference<'a> {
    /// Its id, 0 to [`MAX_BLOCK_ID`].
    pub id: u8,
    /// The relation.
    pub locator: RelFileLocator,
    /// The fork: 0 main, 1 free space map, 2 visibility map, 3 init.
    pub fork: u8,
    /// The block's number.
    pub block: u32,
    /// Whether replay makes the page anew (`BKPBLOCK_WILL_INIT`).
    pub will_init: bool,
    /// Its full-page image.
    pub image: Option<BlockImage<'a>>,
    /// Its own data; `None` where the header says that it has none.
    pub data: Option<&'a [u8]>,
}

/// A whole record's body, taken apart (`DecodeXLogRecord`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBody<'a> {
    /// By increasing id; at most 33.
    pub blocks: Vec<BlockReference<'a>>,
    /// The main data.
    pub main_data: &'a [u8],
    /// Where the change came from (`RepOriginId`).
    pub origin: Option<u16>,
    /// The top-level transaction of a subtransaction's first record, from 14 on.
    pub toplevel_xid: Option<u32>,
}

/// A body whose headers contradict each other or its length. Where the CRC held, its writer made
/// it so. Each is what the server looks for too (`DecodeXLogRecord`), with the numbers of its
/// message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedRecord {
    /// The headers or the data are longer than the record.
    #[error("the record's body is shorter than its headers say")]
    Short,
    /// Bytes are left that no header speaks of.
    #[error("{0} bytes of the record's body belong to nothing")]
    Leftover(usize),
    /// A block id that doesn't exist.
    #[error("invalid block id {0}")]
    BlockId(u8),
    /// Block ids increase.
    #[error("block {0} comes out of order")]
    BlockOrder(u8),
    /// The first block can't share a relation with the one before.
    #[error("block {0} has the relation of the one before, and there is none")]
    NoRelation(u8),
    /// The flags say that there is data.
    #[error("block {0} has no data, against its flags")]
    DataMissing(u8),
    /// The flags say that there is none.
    #[error("block {id} has {length} bytes of data, against its flags")]
    DataUnflagged {
        /// The block.
        id: u8,
        /// Its data's length.
        length: u16,
    },
    /// The flags say that the image has a hole, and the lengths that it hasn't.
    #[error("the image of block {id} has no hole, against its flags")]
    HoleMissing {
        /// The block.
        id: u8,
        /// Where the hole should begin.
        offset: u16,
        /// How long it should be.
        length: u16,
        /// The image's length.
        image: u16,
    },
    /// The other way round.
    #[error("the image of block {id} has a hole of {length} bytes, against its flags")]
    HoleUnflagged {
        /// The block.
        id: u8,
        /// Where the hole begins.
        offset: u16,
        /// How long it is.
        length: u16,
    },
    /// A compressed image as long as a page.
    #[error("the compressed image of block {id} has {image} bytes")]
    CompressedLength {
        /// The block.
        id: u8,
        /// The image's length.
        image: u16,
    },
}

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_REL: u8 = 0x80;

const IMAGE_HAS_HOLE: u8 = 0x01;
/// The size of a data page (`BLCKSZ`) in every usual build.
const PAGE: u16 = 8192;

/// The allocation of a body's blocks, kept for the next record's.
#[derive(Debug, Default)]
pub struct SpareBlocks(Vec<BlockReference<'static>>);

impl<'a> RecordBody<'a> {
    /// Takes apart the bytes that follow a record's header, page headers already gone.
    ///
    /// # Errors
    /// If the body contradicts itself.
    pub fn read(body: &'a [u8], version: WalVersion) -> Result<Self, MalformedRecord> {
        Self::read_into(&mut SpareBlocks::default(), body, version)
    }

    /// As [`Self::read`], without allocating where the spare has room.
    ///
    /// # Errors
    /// If the body contradicts itself.
    pub fn read_into(
        spare: &mut SpareBlocks,
        body: &'a [u8],
        version: WalVersion,
    ) -> Result<Self, MalformedRecord> {
        Self::read_head(spare, body, 0, version)
    }

    /// As [`Self::read_into`], of a body whose last `missing` bytes aren't there: they are the
    /// main data's.
    ///
    /// # Errors
    /// If the body contradicts itself, or a block's bytes are missing too.
    pub fn read_head(
        spare: &mut SpareBlocks,
        body: &'a [u8],
        missing: usize,
        version: WalVersion,
    ) -> Result<Self, MalformedRecord> {
        let mut blocks = recycle(std::mem::take(&mut spare.0));
        let short = || MalformedRecord::Short;
        let mut reader = Reader::new(body);
        let headers = Headers::read(&mut reader, missing, version, |block| blocks.push(block))?;
        let Headers { main_len, origin, toplevel_xid, .. } = headers;
        for block in &mut blocks {
            if let Some(image) = &mut block.image {
                image.bytes = reader.take(image.bytes.len()).ok_or_else(short)?;
            }
            if let Some(data) = &mut block.data {
                *data = reader.take(data.len()).ok_or_else(short)?;
            }
        }
        let there = main_len.checked_sub(missing).ok_or_else(short)?;
        let main_data = reader.take(there).ok_or_else(short)?;
        match reader.remaining() {
            // Made of its parts here alone: moving a whole one whose parts were just written costs the
            // processor as much as reading them did.
            0 => Ok(Self { blocks, main_data, origin, toplevel_xid }),
            left => Err(MalformedRecord::Leftover(left)),
        }
    }

    /// What [`Self::read`] would find wrong, and else the bytes of the record's page images
    /// (`XLogRecGetLen`): for whoever wants to know no more. The body's last `missing` bytes needn't
    /// be there, whosever they are: its headers, [`MAX_HEADERS_LEN`] at the most, are enough.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn image_bytes_of(
        body: &[u8],
        missing: usize,
        version: WalVersion,
    ) -> Result<u32, MalformedRecord> {
        let mut reader = Reader::new(body);
        // At most 33 of at most 64 KiB.
        let mut image_bytes = 0_usize;
        let headers = Headers::read(&mut reader, missing, version, |block| {
            let of_block = block.image.map_or(0, |image| image.bytes.len());
            image_bytes = image_bytes.saturating_add(of_block);
        })?;
        let left = reader.remaining().saturating_add(missing).checked_sub(headers.announced);
        let left = left.and_then(|left| left.checked_sub(headers.main_len));
        match left.ok_or(MalformedRecord::Short)? {
            0 => Ok(u32::try_from(image_bytes).unwrap_or(u32::MAX)),
            left => Err(MalformedRecord::Leftover(left)),
        }
    }

    /// Leaves the allocation for the next record.
    pub fn give_back(self, spare: &mut SpareBlocks) {
        spare.0 = recycle(self.blocks);
    }
}

/// The same allocation for blocks of other bytes: std collects in place.
fn recycle<'b>(mut blocks: Vec<BlockReference<'_>>) -> Vec<BlockReference<'b>> {
    blocks.clear();
    blocks.into_iter().map_while(|_| None).collect()
}

impl BlockReference<'_> {
    /// The bytes of its image and its data.
    fn bytes(&self) -> usize {
        let image = self.image.map_or(0, |image| image.bytes.len());
        image.saturating_add(self.data.map_or(0, <[u8]>::len))
    }
}

/// The headers that a body begins with.
struct Headers {
    /// How long the main data is.
    main_len: usize,
    origin: Option<u16>,
    toplevel_xid: Option<u32>,
    /// The bytes of images and data that they announced.
    announced: usize,
}

impl Headers {
    /// Reads them; `take` gets each block's, with the bytes of [`block_header`].
    #[inline]
    fn read<'a>(
        reader: &mut Reader<'a>,
        missing: usize,
        version: WalVersion,
        mut take: impl FnMut(BlockReference<'a>),
    ) -> Result<Self, MalformedRecord> {
        let short = || MalformedRecord::Short;
        let (mut main_len, mut origin, mut toplevel_xid) = (0, None, None);
        let mut before = None;
        // The headers end where just what they announced is left.
        let mut announced = 0_usize;
        while reader.remaining().saturating_add(missing) > announced {
            match reader.u8().ok_or_else(short)? {
                block_id::ORIGIN => origin = Some(reader.u16().ok_or_else(short)?),
                block_id::TOPLEVEL_XID => toplevel_xid = Some(reader.u32().ok_or_else(short)?),
                block_id::DATA_SHORT => {
                    main_len = usize::from(reader.u8().ok_or_else(short)?);
                    break;
                }
                block_id::DATA_LONG => {
                    let len = reader.u32().ok_or_else(short)?;
                    main_len = usize::try_from(len).map_err(|_| MalformedRecord::Short)?;
                    break;
                }
                id => {
                    let block = block_header(reader, id, before, version)?;
                    announced = announced.saturating_add(block.bytes());
                    before = Some((id, block.locator));
                    take(block);
                }
            }
        }
        Ok(Self { main_len, origin, toplevel_xid, announced })
    }
}

/// Stands for an image and data of which only the length is known; a length has 16 bits.
static UNKNOWN: [u8; 1 << 16] = [0; 1 << 16];

/// A block's header (`XLogRecordBlockHeader` and what follows it), behind the one of `before`. Its
/// image and data are zeros of the right number until it is known where they lie.
#[inline]
fn block_header<'a>(
    reader: &mut Reader<'_>,
    id: u8,
    before: Option<(u8, RelFileLocator)>,
    version: WalVersion,
) -> Result<BlockReference<'a>, MalformedRecord> {
    let short = || MalformedRecord::Short;
    if id > MAX_BLOCK_ID {
        return Err(MalformedRecord::BlockId(id));
    }
    if before.is_some_and(|(before, _)| before >= id) {
        return Err(MalformedRecord::BlockOrder(id));
    }
    let flags = reader.u8().ok_or_else(short)?;
    let data = reader.u16().ok_or_else(short)?;
    match (flags & HAS_DATA != 0, data) {
        (true, 0) => return Err(MalformedRecord::DataMissing(id)),
        (false, length @ 1..) => return Err(MalformedRecord::DataUnflagged { id, length }),
        _ => {}
    }
    let image =
        if flags & HAS_IMAGE != 0 { Some(image_header(reader, id, version)?) } else { None };
    let locator = if flags & SAME_REL != 0 {
        before.ok_or(MalformedRecord::NoRelation(id))?.1
    } else {
        RelFileLocator {
            tablespace: reader.u32().ok_or_else(short)?,
            database: reader.u32().ok_or_else(short)?,
            relation: reader.u32().ok_or_else(short)?,
        }
    };
    let block = reader.u32().ok_or_else(short)?;
    let unknown = |len: u16| UNKNOWN.get(..usize::from(len)).unwrap_or_default();
    let image = image.map(|(image, length)| BlockImage { bytes: unknown(length), ..image });
    Ok(BlockReference {
        id,
        locator,
        fork: flags & FORK_MASK,
        block,
        will_init: flags & WILL_INIT != 0,
        image,
        data: if data > 0 { Some(unknown(data)) } else { None },
    })
}

/// An image's header (`XLogRecordBlockImageHeader`), and its length.
fn image_header(
    reader: &mut Reader<'_>,
    id: u8,
    version: WalVersion,
) -> Result<(BlockImage<'static>, u16), MalformedRecord> {
    let short = || MalformedRecord::Short;
    let image = reader.u16().ok_or_else(short)?;
    let offset = reader.u16().ok_or_else(short)?;
    let info = reader.u8().ok_or_else(short)?;
    let (apply, compression) = image_flags(info, version);
    let has_hole = info & IMAGE_HAS_HOLE != 0;
    let length = match (compression, has_hole) {
        (Some(_), true) => reader.u16().ok_or_else(short)?,
        (Some(_), false) => 0,
        (None, _) => PAGE.wrapping_sub(image),
    };
    // The same contradictions that the server looks for, and one more: nothing is longer than a
    // page, and no hole lies outside of it.
    let outside = u32::from(offset).saturating_add(u32::from(length)) > u32::from(PAGE);
    if has_hole && (offset == 0 || length == 0 || image >= PAGE || outside) {
        return Err(MalformedRecord::HoleMissing { id, offset, length, image });
    }
    if !has_hole && (offset != 0 || length != 0) {
        return Err(MalformedRecord::HoleUnflagged { id, offset, length });
    }
    if compression.is_some() && image >= PAGE {
        return Err(MalformedRecord::CompressedLength { id, image });
    }
    let header = BlockImage {
        bytes: &[],
        hole_offset: offset,
        hole_length: length,
        info,
        apply,
        compression,
    };
    Ok((header, image))
}

/// `BKPIMAGE_APPLY` and `BKPIMAGE_COMPRESS_*`: the bits moved in 15.
fn image_flags(info: u8, version: WalVersion) -> (bool, Option<Compression>) {
    if version.names_image_compression() {
        let compression = match info {
            info if info & 0x04 != 0 => Some(Compression::Pglz),
            info if info & 0x08 != 0 => Some(Compression::Lz4),
            info if info & 0x10 != 0 => Some(Compression::Zstd),
            _ => None,
        };
        (info & 0x02 != 0, compression)
    } else {
        (info & 0x04 != 0, (info & 0x02 != 0).then_some(Compression::Pglz))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_allocation_is_used_again() {
        let version = WalVersion::from_major(18).unwrap();
        // Two blocks of relation 1/2/3, the second with that relation by its flag; no data.
        let mut body = vec![0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 7, 0, 0, 0];
        body.extend([1, SAME_REL, 0, 0, 8, 0, 0, 0]);
        body.extend([block_id::DATA_SHORT, 2, 0xAA, 0xBB]);
        let mut spare = SpareBlocks::default();
        let read = RecordBody::read_into(&mut spare, &body, version).unwrap();
        assert_eq!(read, RecordBody::read(&body, version).unwrap());
        assert_eq!((read.blocks.len(), read.main_data), (2, &[0xAA, 0xBB][..]));
        let place = read.blocks.as_ptr().addr();
        read.give_back(&mut spare);
        let again = RecordBody::read_into(&mut spare, &body, version).unwrap();
        assert_eq!(again.blocks.as_ptr().addr(), place);
    }

    #[test]
    fn image_bytes_are_told_by_the_headers() {
        let version = WalVersion::from_major(18).unwrap();
        // A block with a whole page as its image and 3 bytes of data; 200 bytes of main data.
        let mut body = vec![0, HAS_IMAGE | HAS_DATA, 3, 0, 0, 32, 0, 0, 0];
        body.extend([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 7, 0, 0, 0, block_id::DATA_SHORT, 200]);
        let headers = body.len();
        body.resize(headers + 8192 + 3 + 200, 0xAA);
        assert_eq!(RecordBody::read(&body, version).unwrap().main_data.len(), 200);
        for kept in [headers, headers + 1, headers + 8192, body.len()] {
            let missing = body.len() - kept;
            assert_eq!(RecordBody::image_bytes_of(&body[..kept], missing, version), Ok(8192));
            let more = RecordBody::image_bytes_of(&body[..kept], missing + 1, version);
            assert_eq!(more, Err(MalformedRecord::Leftover(1)));
        }
        let fewer = RecordBody::image_bytes_of(&body[..headers], 8192 + 3 + 199, version);
        assert_eq!(fewer, Err(MalformedRecord::Short));
    }

    proptest::proptest! {
        /// The shorter way finds what the longer one finds, at every length of every body, and
        /// wherever that is cut off behind the headers.
        #[test]
        fn image_bytes_alone_are_refused_for_the_same_reason(
            mut body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..90),
            ids in proptest::collection::vec((0..90_usize, 0..4_u8), 0..3),
            major in 10..=18_u32,
        ) {
            for (at, id) in ids {
                if let Some(byte) = body.get_mut(at) {
                    *byte = if id == 3 { block_id::DATA_SHORT } else { id };
                }
            }
            let version = WalVersion::from_major(major).unwrap();
            for len in 0..=body.len() {
                let images = RecordBody::read(&body[..len], version).map(|read| {
                    read.blocks.iter().filter_map(|block| block.image).map(|image| image.bytes.len() as u32).sum()
                });
                let short = RecordBody::image_bytes_of(&body[..len], 0, version);
                proptest::prop_assert_eq!(images, short);
                for kept in 0..len {
                    let short = RecordBody::image_bytes_of(&body[..kept], len - kept, version);
                    proptest::prop_assert!(short == images || short == Err(MalformedRecord::Short));
                }
            }
        }
    }
}
