//! Page headers.
//!
//! | offset | bytes | short header: `XLogPageHeaderData`, `access/xlog_internal.h`, 10–18 |
//! |---|---|---|
//! | 0 | 2 | `xlp_magic` |
//! | 2 | 2 | `xlp_info`: flags |
//! | 4 | 4 | `xlp_tli`: timeline |
//! | 8 | 8 | `xlp_pageaddr`: the page's own position |
//! | 16 | 4 | `xlp_rem_len`: bytes of the running record from here on, headers not counted |
//! | 20 | 4 | zeros, up to `MAXALIGN` |
//!
//! The long header, on the first page of a segment, goes on (`XLogLongPageHeaderData`):
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 24 | 8 | `xlp_sysid` |
//! | 32 | 4 | `xlp_seg_size` |
//! | 36 | 4 | `xlp_xlog_blcksz` |

use pg_types::{Lsn, SystemId};

use crate::bytes::Reader;

/// The bytes of a page header that isn't a segment's first (`SizeOfXLogShortPHD`).
pub const SHORT_HEADER_LEN: usize = 24;
/// The bytes of a segment's first page header (`SizeOfXLogLongPHD`).
pub const LONG_HEADER_LEN: usize = 40;

/// `xlp_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFlags(pub u16);

impl PageFlags {
    /// The page begins with the rest of a record (`XLP_FIRST_IS_CONTRECORD`).
    pub const FIRST_IS_CONTRECORD: u16 = 0x0001;
    /// The header is a long one (`XLP_LONG_HEADER`).
    pub const LONG_HEADER: u16 = 0x0002;
    /// Page images could be left away (`XLP_BKP_REMOVABLE`).
    pub const BKP_REMOVABLE: u16 = 0x0004;
    /// The record that should go on here never will: its server crashed
    /// (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`, from 10.19, 11.14, 12.9, 13.5, 14.1).
    pub const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
    /// Every flag that a server of 10–18 knows (`XLP_ALL_FLAGS`).
    pub const ALL: u16 = 0x000F;

    /// Whether all of these bits are set.
    #[must_use]
    pub const fn has(self, bits: u16) -> bool {
        self.0 & bits == bits
    }
}

/// A page's header; see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// `xlp_magic`
    pub magic: u16,
    /// `xlp_info`
    pub flags: PageFlags,
    /// `xlp_tli`; a number, since a damaged page may have zero.
    pub timeline: u32,
    /// `xlp_pageaddr`
    pub address: Lsn,
    /// `xlp_rem_len`
    pub remaining: u32,
    /// The rest of a long header, where the bytes reach that far.
    pub long: Option<LongHeader>,
}

/// What only a segment's first page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongHeader {
    /// `xlp_sysid`
    pub system_id: SystemId,
    /// `xlp_seg_size`, bytes
    pub segment_size: u32,
    /// `xlp_xlog_blcksz`, bytes
    pub block_size: u32,
}

impl PageHeader {
    /// What a page of zeros says.
    pub const NONE: Self = Self {
        magic: 0,
        flags: PageFlags(0),
        timeline: 0,
        address: Lsn::INVALID,
        remaining: 0,
        long: None,
    };

    /// Its own length, as its flags say it (`XLogPageHeaderSize`).
    #[must_use]
    #[inline]
    pub const fn header_len(&self) -> usize {
        if self.flags.has(PageFlags::LONG_HEADER) { LONG_HEADER_LEN } else { SHORT_HEADER_LEN }
    }

    /// Reads a header: 24 bytes, or 40 to have the long one's fields as well where the flags say
    /// that they are there. Checks nothing; `None` if the bytes are too few.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let magic = reader.u16()?;
        let flags = PageFlags(reader.u16()?);
        let timeline = reader.u32()?;
        let address = Lsn::new(reader.u64()?);
        let remaining = reader.u32()?;
        reader.u32()?;
        let long = if flags.has(PageFlags::LONG_HEADER) { LongHeader::read(reader) } else { None };
        Some(Self { magic, flags, timeline, address, remaining, long })
    }
}

impl LongHeader {
    /// Reads what a long header would have on this page, whatever its flags say.
    #[must_use]
    pub fn of_page(page: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(page);
        reader.take(SHORT_HEADER_LEN)?;
        Self::read(reader)
    }

    fn read(mut reader: Reader<'_>) -> Option<Self> {
        Some(Self {
            system_id: SystemId(reader.u64()?),
            segment_size: reader.u32()?,
            block_size: reader.u32()?,
        })
    }
}
