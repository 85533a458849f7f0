//! GiST indexes (`Gist`; `access/gistxlog.h`).

use serde::Serialize;
use wal_format::{Reader, RelFileLocator};

use crate::layout::{Field, layout};
use crate::text::{EpochXid, letter, put};
use crate::{Source, Style};

/// What a record of a GiST index says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Gist {
    /// `XLOG_GIST_PAGE_UPDATE`
    PageUpdate(PageUpdate),
    /// `XLOG_GIST_DELETE`
    Delete(Delete),
    /// `XLOG_GIST_PAGE_REUSE`
    PageReuse(PageReuse),
    /// `XLOG_GIST_PAGE_SPLIT`
    PageSplit(PageSplit),
    /// `XLOG_GIST_PAGE_DELETE`
    PageDelete(PageDelete),
    /// `XLOG_GIST_ASSIGN_LSN`
    Nothing,
}

layout! {
    /// `gistxlogPageUpdate` (10–18).
    PageUpdate {
        /// `ntodelete`
        deleted: u16,
        /// `ntoinsert`
        inserted: u16,
    }
}

/// `gistxlogDelete` (12–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Delete {
    /// `snapshotConflictHorizon`; `latestRemovedXid` up to 15
    pub conflict_horizon: u32,
    /// `ntodelete`
    pub deleted: u16,
    /// `isCatalogRel`, from 16 on
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog: Option<bool>,
}

/// `gistxlogPageReuse` (13–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PageReuse {
    /// `locator`
    pub locator: RelFileLocator,
    /// `block`
    pub block: u32,
    /// `snapshotConflictHorizon`; `latestRemovedFullXid` up to 15
    pub conflict_horizon: u64,
    /// `isCatalogRel`, from 16 on
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog: Option<bool>,
}

layout! {
    /// `gistxlogPageSplit` (10–18).
    PageSplit {
        /// `origrlink`
        old_right_link: u32,
        /// `orignsn`
        [skip 4] old_nsn: u64,
        /// `origleaf`
        leaf: bool,
        /// `npage`
        [skip 1] pages: u16,
        /// `markfollowright`
        mark_follow_right: bool,
    }
}

layout! {
    /// `gistxlogPageDelete` (13–18).
    PageDelete {
        /// `deleteXid`
        delete_xid: u64,
        /// `downlinkOffset`
        downlink_offset: u16,
    }
}

impl Gist {
    pub(crate) fn read(source: &Source<'_>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        let reader = &mut data;
        let has_catalog = source.version.major() >= 16;
        let catalog = |reader: &mut Reader<'_>| {
            if has_catalog { bool::read(reader).map(Some) } else { Some(None) }
        };
        Some(match source.info() {
            0x00 => Self::PageUpdate(PageUpdate::read(reader)?),
            0x10 => Self::Delete(Delete {
                conflict_horizon: reader.u32()?,
                deleted: reader.u16()?,
                catalog: catalog(reader)?,
            }),
            0x20 => Self::PageReuse(PageReuse {
                locator: RelFileLocator::read(reader)?,
                block: reader.u32()?,
                conflict_horizon: reader.u64()?,
                catalog: catalog(reader)?,
            }),
            0x30 => Self::PageSplit(PageSplit::read(reader)?),
            0x60 => Self::PageDelete(PageDelete::read(reader)?),
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        let horizon =
            if style.since(16) { "snapshotConflictHorizon " } else { "latestRemovedXid " };
        let tells_catalog = |catalog: Option<bool>| catalog.filter(|_| style.since(17));
        let catalog = match self {
            Self::Delete(delete) => {
                put!(out, "delete: ", horizon, delete.conflict_horizon);
                put!(out, ", nitems: ", delete.deleted);
                tells_catalog(delete.catalog)
            }
            Self::PageReuse(reuse) => {
                put!(out, "rel ", reuse.locator, "; blk ", reuse.block, "; ");
                put!(out, horizon, EpochXid(reuse.conflict_horizon));
                tells_catalog(reuse.catalog)
            }
            Self::PageSplit(split) => {
                put!(out, "page_split: splits to ", split.pages, " pages");
                None
            }
            Self::PageDelete(delete) => {
                put!(out, "deleteXid ", EpochXid(delete.delete_xid));
                put!(out, "; downlink ", delete.downlink_offset);
                None
            }
            Self::PageUpdate(_) | Self::Nothing => None,
        };
        if let Some(catalog) = catalog {
            put!(out, ", isCatalogRel ", letter(catalog));
        }
    }
}
