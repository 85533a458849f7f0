//! Transaction status (`CLOG`; `access/clog.h`), commit times (`CommitTs`; `access/commit_ts.h`)
//! and multixacts (`MultiXact`; `access/multixact.h`), which are kept in files of pages that wrap
//! around. Page numbers are 64-bit from 17 on.

use serde::Serialize;
use wal_format::Reader;

use crate::Source;
use crate::layout::{Field, Items, layout};
use crate::text::put;

/// What a record of transactions' status says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Clog {
    /// `CLOG_ZEROPAGE`
    ZeroPage {
        /// The page's number
        page: i64,
    },
    /// `CLOG_TRUNCATE` (`xl_clog_truncate`)
    Truncate {
        /// `pageno`
        page: i64,
        /// `oldestXact`
        oldest_xid: u32,
        /// `oldestXactDb`
        oldest_xid_database: u32,
    },
    /// A number that stands for nothing.
    Nothing,
}

/// What a record of commit times says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum CommitTs {
    /// `COMMIT_TS_ZEROPAGE`
    ZeroPage {
        /// The page's number
        page: i64,
    },
    /// `COMMIT_TS_TRUNCATE` (`xl_commit_ts_truncate`)
    Truncate {
        /// `pageno`
        page: i64,
        /// `oldestXid`
        oldest_xid: u32,
    },
    /// A number that stands for nothing.
    Nothing,
}

/// What a record of multixacts says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum MultiXact<'a> {
    /// `XLOG_MULTIXACT_ZERO_OFF_PAGE`, `XLOG_MULTIXACT_ZERO_MEM_PAGE`
    ZeroPage {
        /// The page's number
        page: i64,
    },
    /// `XLOG_MULTIXACT_CREATE_ID`
    Create(Create<'a>),
    /// `XLOG_MULTIXACT_TRUNCATE_ID`
    Truncate(Truncate),
    /// A number that stands for nothing.
    Nothing,
}

/// `xl_multixact_create` (10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Create<'a> {
    /// `mid`
    pub multixact: u32,
    /// `moff`
    pub offset: u32,
    /// `members`
    pub members: Items<'a, Member>,
}

layout! {
    /// `MultiXactMember` (10–18).
    Member {
        /// `xid`
        xid: u32,
        /// `status`: `MultiXactStatus…`
        status: i32,
    }
}

layout! {
    /// `xl_multixact_truncate` (10–18).
    Truncate {
        /// `oldestMultiDB`
        oldest_database: u32,
        /// `startTruncOff`
        offsets_start: u32,
        /// `endTruncOff`
        offsets_end: u32,
        /// `startTruncMemb`
        members_start: u32,
        /// `endTruncMemb`
        members_end: u32,
    }
}

fn read_page_number(reader: &mut Reader<'_>, source: &Source<'_>) -> Option<i64> {
    if source.version.major() >= 17 { reader.i64() } else { i32::read(reader).map(i64::from) }
}

impl Clog {
    pub(crate) fn read(source: &Source<'_>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        Some(match source.info() {
            0x00 => Self::ZeroPage { page: read_page_number(&mut data, source)? },
            0x10 => Self::Truncate {
                page: read_page_number(&mut data, source)?,
                oldest_xid: data.u32()?,
                oldest_xid_database: data.u32()?,
            },
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, out: &mut Vec<u8>) {
        match self {
            Self::ZeroPage { page } => put!(out, "page ", *page),
            Self::Truncate { page, oldest_xid, .. } => {
                put!(out, "page ", *page, "; oldestXact ", *oldest_xid);
            }
            Self::Nothing => {}
        }
    }
}

impl CommitTs {
    pub(crate) fn read(source: &Source<'_>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        Some(match source.info() {
            0x00 => Self::ZeroPage { page: read_page_number(&mut data, source)? },
            0x10 => Self::Truncate {
                page: read_page_number(&mut data, source)?,
                oldest_xid: data.u32()?,
            },
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, out: &mut Vec<u8>) {
        match self {
            Self::ZeroPage { page } => put!(out, *page),
            Self::Truncate { page, oldest_xid } => {
                put!(out, "pageno ", *page, ", oldestXid ", *oldest_xid);
            }
            Self::Nothing => {}
        }
    }
}

impl Member {
    /// What the member does with the row.
    fn purpose(self) -> &'static str {
        match self.status {
            0 => "keysh",
            1 => "sh",
            2 => "fornokeyupd",
            3 => "forupd",
            4 => "nokeyupd",
            5 => "upd",
            _ => "unk",
        }
    }
}

impl<'a> MultiXact<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        Some(match source.info() {
            0x00 | 0x10 => Self::ZeroPage { page: read_page_number(&mut data, source)? },
            0x20 => {
                let (multixact, offset) = (data.u32()?, data.u32()?);
                let count = i32::read(&mut data)?;
                let members = Items::read_int(&mut data, count)?;
                Self::Create(Create { multixact, offset, members })
            }
            0x30 => Self::Truncate(Truncate::read(&mut data)?),
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, out: &mut Vec<u8>) {
        match self {
            Self::ZeroPage { page } => put!(out, *page),
            Self::Create(Create { multixact, offset, members }) => {
                put!(out, *multixact, " offset ", *offset, " nmembers ", members.len(), ": ");
                for member in members.iter() {
                    put!(out, member.xid, " (", member.purpose(), ") ");
                }
            }
            Self::Truncate(truncate) => {
                put!(out, "offsets [", truncate.offsets_start, ", ", truncate.offsets_end);
                put!(out, "), members [", truncate.members_start);
                put!(out, ", ", truncate.members_end, ")");
            }
            Self::Nothing => {}
        }
    }
}
