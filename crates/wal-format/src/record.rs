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
/// it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedRecord {
    /// The headers or the data are longer than the record.
    #[error("the record's body is shorter than its headers say")]
    Short,
    /// Bytes are left that no header speaks of.
    #[error("{0} bytes of the record's body belong to nothing")]
    Leftover(usize),
    /// A block id out of order, or one that doesn't exist.
    #[error("invalid block id {0}")]
    BlockId(u8),
    /// The first block can't share a relation with the one before.
    #[error("block {0} has the relation of the one before, and there is none")]
    NoRelation(u8),
    /// Data without a flag that says so, or the other way round.
    #[error("the data of block {0} contradicts its flags")]
    BlockData(u8),
    /// An image whose hole, length and flags contradict each other.
    #[error("the page image of block {0} contradicts its flags")]
    Image(u8),
}

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_REL: u8 = 0x80;

const IMAGE_HAS_HOLE: u8 = 0x01;
/// The size of a data page (`BLCKSZ`) in every usual build.
const PAGE: u16 = 8192;

/// What a block's header says, before its image and data are cut from the body.
struct BlockHeader {
    reference: BlockReference<'static>,
    image: Option<ImageHeader>,
    data_len: Option<u16>,
}

struct ImageHeader {
    length: u16,
    image: BlockImage<'static>,
}

impl<'a> RecordBody<'a> {
    /// Takes apart the bytes that follow a record's header, page headers already gone.
    ///
    /// # Errors
    /// If the body contradicts itself.
    pub fn read(body: &'a [u8], version: WalVersion) -> Result<Self, MalformedRecord> {
        let mut reader = Reader::new(body);
        let mut headers: Vec<BlockHeader> = Vec::new();
        let (mut origin, mut toplevel_xid) = (None, None);
        let mut main_len = 0;
        // What the headers announced so far; the headers end where just this much is left.
        let mut announced = 0_usize;
        while reader.remaining() > announced {
            match reader.u8().ok_or(MalformedRecord::Short)? {
                block_id::ORIGIN => origin = Some(reader.u16().ok_or(MalformedRecord::Short)?),
                block_id::TOPLEVEL_XID => {
                    toplevel_xid = Some(reader.u32().ok_or(MalformedRecord::Short)?);
                }
                block_id::DATA_SHORT => {
                    main_len = usize::from(reader.u8().ok_or(MalformedRecord::Short)?);
                    announced = announced.saturating_add(main_len);
                    break;
                }
                block_id::DATA_LONG => {
                    let len = reader.u32().ok_or(MalformedRecord::Short)?;
                    main_len = usize::try_from(len).map_err(|_| MalformedRecord::Short)?;
                    announced = announced.saturating_add(main_len);
                    break;
                }
                id => {
                    let header = BlockHeader::read(&mut reader, id, headers.last(), version)?;
                    announced = announced.saturating_add(header.announced());
                    headers.push(header);
                }
            }
        }
        if reader.remaining() < announced {
            return Err(MalformedRecord::Short);
        }
        let blocks = headers
            .into_iter()
            .map(|header| header.with_bytes(&mut reader))
            .collect::<Result<_, _>>()?;
        let main_data = reader.take(main_len).ok_or(MalformedRecord::Short)?;
        match reader.remaining() {
            0 => Ok(Self { blocks, main_data, origin, toplevel_xid }),
            left => Err(MalformedRecord::Leftover(left)),
        }
    }
}

impl BlockHeader {
    fn read(
        reader: &mut Reader<'_>,
        id: u8,
        before: Option<&BlockHeader>,
        version: WalVersion,
    ) -> Result<Self, MalformedRecord> {
        let short = || MalformedRecord::Short;
        if id > MAX_BLOCK_ID || before.is_some_and(|before| before.reference.id >= id) {
            return Err(MalformedRecord::BlockId(id));
        }
        let flags = reader.u8().ok_or_else(short)?;
        let data_len = reader.u16().ok_or_else(short)?;
        if (flags & HAS_DATA != 0) != (data_len > 0) {
            return Err(MalformedRecord::BlockData(id));
        }
        let image = (flags & HAS_IMAGE != 0).then(|| ImageHeader::read(reader, id, version));
        let image = image.transpose()?;
        let locator = if flags & SAME_REL != 0 {
            before.ok_or(MalformedRecord::NoRelation(id))?.reference.locator
        } else {
            RelFileLocator {
                tablespace: reader.u32().ok_or_else(short)?,
                database: reader.u32().ok_or_else(short)?,
                relation: reader.u32().ok_or_else(short)?,
            }
        };
        let block = reader.u32().ok_or_else(short)?;
        let reference = BlockReference {
            id,
            locator,
            fork: flags & FORK_MASK,
            block,
            will_init: flags & WILL_INIT != 0,
            image: None,
            data: None,
        };
        let data_len = (flags & HAS_DATA != 0).then_some(data_len);
        Ok(Self { reference, image, data_len })
    }

    fn announced(&self) -> usize {
        let image = self.image.as_ref().map_or(0, |image| usize::from(image.length));
        image.saturating_add(usize::from(self.data_len.unwrap_or(0)))
    }

    fn with_bytes<'a>(
        self,
        reader: &mut Reader<'a>,
    ) -> Result<BlockReference<'a>, MalformedRecord> {
        let mut take = |len: u16| reader.take(usize::from(len)).ok_or(MalformedRecord::Short);
        let image = match self.image {
            Some(header) => Some(BlockImage { bytes: take(header.length)?, ..header.image }),
            None => None,
        };
        let data = self.data_len.map(take).transpose()?;
        Ok(BlockReference { image, data, ..self.reference })
    }
}

impl ImageHeader {
    fn read(reader: &mut Reader<'_>, id: u8, version: WalVersion) -> Result<Self, MalformedRecord> {
        let short = || MalformedRecord::Short;
        let length = reader.u16().ok_or_else(short)?;
        let hole_offset = reader.u16().ok_or_else(short)?;
        let info = reader.u8().ok_or_else(short)?;
        let (apply, compression) = image_flags(info, version);
        let has_hole = info & IMAGE_HAS_HOLE != 0;
        let hole_length = match (compression, has_hole) {
            (Some(_), true) => reader.u16().ok_or_else(short)?,
            (Some(_), false) => 0,
            (None, _) => PAGE.saturating_sub(length),
        };
        // The same contradictions that the server looks for (`DecodeXLogRecord`).
        let whole = length == PAGE;
        let plausible = if has_hole {
            hole_offset != 0 && hole_length != 0 && !whole
        } else {
            hole_offset == 0 && hole_length == 0 && (whole != compression.is_some())
        };
        if !plausible || length > PAGE {
            return Err(MalformedRecord::Image(id));
        }
        let image = BlockImage { bytes: &[], hole_offset, hole_length, info, apply, compression };
        Ok(Self { length, image })
    }
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
