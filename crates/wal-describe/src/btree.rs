//! B-tree indexes (`Btree`; `access/nbtxlog.h`).

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use wal_format::{Reader, RelFileLocator};

use crate::layout::{Field, Items, layout};
use crate::prune::offsets_text;
use crate::text::{EpochXid, letter, put, put_list};
use crate::{Source, Style};

/// What a record of a B-tree says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Btree<'a> {
    /// `XLOG_BTREE_INSERT_LEAF`, `…_UPPER`, `…_META`, `…_POST`
    Insert(Insert),
    /// `XLOG_BTREE_SPLIT_L`, `XLOG_BTREE_SPLIT_R`
    Split(Split),
    /// `XLOG_BTREE_DEDUP`
    Dedup(Dedup),
    /// `XLOG_BTREE_VACUUM`
    Vacuum(Vacuum<'a>),
    /// `XLOG_BTREE_DELETE`
    Delete(Delete<'a>),
    /// `XLOG_BTREE_MARK_PAGE_HALFDEAD`
    MarkPageHalfDead(MarkPageHalfDead),
    /// `XLOG_BTREE_UNLINK_PAGE`, `XLOG_BTREE_UNLINK_PAGE_META`
    UnlinkPage(UnlinkPage),
    /// `XLOG_BTREE_NEWROOT`
    NewRoot(NewRoot),
    /// `XLOG_BTREE_REUSE_PAGE`
    ReusePage(ReusePage),
    /// `XLOG_BTREE_META_CLEANUP`
    MetaCleanup(Metadata),
    /// A number that stands for nothing.
    Nothing,
}

layout! {
    /// `xl_btree_insert` (10–18).
    Insert {
        /// `offnum`
        offset: u16,
    }
}

layout! {
    /// `xl_btree_split` (13–18).
    Split {
        /// `level`
        level: u32,
        /// `firstrightoff`
        first_right_offset: u16,
        /// `newitemoff`
        new_item_offset: u16,
        /// `postingoff`
        posting_offset: u16,
    }
}

layout! {
    /// `xl_btree_dedup` (13–18).
    Dedup {
        /// `nintervals`
        intervals: u16,
    }
}

/// `xl_btree_vacuum` (13–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Vacuum<'a> {
    /// `ndeleted`
    pub deleted_count: u16,
    /// `nupdated`
    pub updated_count: u16,
    /// Which, unless there is only the page's image
    #[serde(flatten)]
    pub tuples: Option<Removed<'a>>,
}

/// `xl_btree_delete` (14–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Delete<'a> {
    /// `snapshotConflictHorizon`; `latestRemovedXid` up to 15
    pub conflict_horizon: u32,
    /// `ndeleted`
    pub deleted_count: u16,
    /// `nupdated`
    pub updated_count: u16,
    /// `isCatalogRel`, from 16 on
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog: Option<bool>,
    /// Which, unless there is only the page's image
    #[serde(flatten)]
    pub tuples: Option<Removed<'a>>,
}

/// What goes from a page: whole tuples, and parts of posting lists.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Removed<'a> {
    /// Offsets of tuples that go
    pub deleted: Items<'a, u16>,
    /// Posting lists that get shorter
    pub updated: Updates<'a>,
}

/// Posting lists that get shorter: their offsets, and behind all of them an `xl_btree_update` for
/// each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Updates<'a> {
    offsets: Items<'a, u16>,
    updates: &'a [u8],
}

/// A posting list that gets shorter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Update<'a> {
    /// The tuple's offset
    pub offset: u16,
    /// Which of its tuple ids go
    pub tids: Items<'a, u16>,
}

layout! {
    /// `xl_btree_mark_page_halfdead` (10–18).
    MarkPageHalfDead {
        /// `poffset`
        parent_offset: u16,
        /// `leafblk`
        [skip 2] leaf: u32,
        /// `leftblk`
        left: u32,
        /// `rightblk`
        right: u32,
        /// `topparent`
        top_parent: u32,
    }
}

layout! {
    /// `xl_btree_unlink_page` (14–18).
    UnlinkPage {
        /// `leftsib`
        left: u32,
        /// `rightsib`
        right: u32,
        /// `level`
        level: u32,
        /// `safexid`
        [skip 4] safe_xid: u64,
        /// `leafleftsib`
        leaf_left: u32,
        /// `leafrightsib`
        leaf_right: u32,
        /// `leaftopparent`
        leaf_top_parent: u32,
    }
}

layout! {
    /// `xl_btree_newroot` (10–18).
    NewRoot {
        /// `rootblk`
        root: u32,
        /// `level`
        level: u32,
    }
}

/// `xl_btree_reuse_page` (14–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ReusePage {
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
    /// `xl_btree_metadata` (14–18).
    Metadata {
        /// `version`
        version: u32,
        /// `root`
        root: u32,
        /// `level`
        level: u32,
        /// `fastroot`
        fast_root: u32,
        /// `fastlevel`
        fast_level: u32,
        /// `last_cleanup_num_delpages`
        last_cleanup_deleted_pages: u32,
        /// `allequalimage`
        all_equal_image: bool,
    }
}

impl<'a> Btree<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        let reader = &mut data;
        let catalog = source.version.major() >= 16;
        Some(match source.info() {
            0x00 | 0x10 | 0x20 | 0x50 => Self::Insert(Insert::read(reader)?),
            0x30 | 0x40 => Self::Split(Split::read(reader)?),
            0x60 => Self::Dedup(Dedup::read(reader)?),
            0x70 => {
                let conflict_horizon = reader.u32()?;
                let (deleted_count, updated_count) = (reader.u16()?, reader.u16()?);
                let catalog = if catalog { Some(bool::read(reader)?) } else { None };
                let tuples = Removed::read(source, deleted_count, updated_count)?;
                Self::Delete(Delete {
                    conflict_horizon,
                    deleted_count,
                    updated_count,
                    catalog,
                    tuples,
                })
            }
            0x80 | 0x90 => Self::UnlinkPage(UnlinkPage::read(reader)?),
            0xA0 => Self::NewRoot(NewRoot::read(reader)?),
            0xB0 => Self::MarkPageHalfDead(MarkPageHalfDead::read(reader)?),
            0xC0 => {
                let (deleted_count, updated_count) = (reader.u16()?, reader.u16()?);
                let tuples = Removed::read(source, deleted_count, updated_count)?;
                Self::Vacuum(Vacuum { deleted_count, updated_count, tuples })
            }
            0xD0 => Self::ReusePage(ReusePage {
                locator: RelFileLocator::read(reader)?,
                block: reader.u32()?,
                conflict_horizon: reader.u64()?,
                catalog: if catalog { Some(bool::read(reader)?) } else { None },
            }),
            0xE0 => Self::MetaCleanup(Metadata::read(&mut Reader::new(source.block_data(0)?))?),
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Nothing => {}
            _ if style.since(16) => self.named_text(style, out),
            _ => self.terse_text(out),
        }
    }

    /// As from 16 on.
    fn named_text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        let tells_catalog = |catalog: Option<bool>| catalog.filter(|_| style.since(17));
        match self {
            Self::Insert(insert) => put!(out, "off: ", insert.offset),
            Self::Split(split) => {
                put!(out, "level: ", split.level, ", firstrightoff: ", split.first_right_offset);
                put!(out, ", newitemoff: ", split.new_item_offset);
                put!(out, ", postingoff: ", split.posting_offset);
            }
            Self::Dedup(dedup) => put!(out, "nintervals: ", dedup.intervals),
            Self::Vacuum(vacuum) => {
                put!(out, "ndeleted: ", vacuum.deleted_count);
                put!(out, ", nupdated: ", vacuum.updated_count);
                if let Some(tuples) = &vacuum.tuples {
                    tuples.text(out);
                }
            }
            Self::Delete(delete) => {
                put!(out, "snapshotConflictHorizon: ", delete.conflict_horizon);
                put!(out, ", ndeleted: ", delete.deleted_count);
                put!(out, ", nupdated: ", delete.updated_count);
                if let Some(catalog) = tells_catalog(delete.catalog) {
                    put!(out, ", isCatalogRel: ", letter(catalog));
                }
                if let Some(tuples) = &delete.tuples {
                    tuples.text(out);
                }
            }
            Self::MarkPageHalfDead(mark) => {
                put!(out, "topparent: ", mark.top_parent, ", leaf: ", mark.leaf);
                put!(out, ", left: ", mark.left, ", right: ", mark.right);
            }
            Self::UnlinkPage(unlink) => {
                put!(out, "left: ", unlink.left, ", right: ", unlink.right);
                put!(out, ", level: ", unlink.level, ", safexid: ", EpochXid(unlink.safe_xid));
                put!(out, ", leafleft: ", unlink.leaf_left, ", leafright: ", unlink.leaf_right);
                put!(out, ", leaftopparent: ", unlink.leaf_top_parent);
            }
            Self::NewRoot(root) => put!(out, "level: ", root.level),
            Self::ReusePage(reuse) => {
                put!(out, "rel: ", reuse.locator);
                put!(out, ", snapshotConflictHorizon: ", EpochXid(reuse.conflict_horizon));
                if let Some(catalog) = tells_catalog(reuse.catalog) {
                    put!(out, ", isCatalogRel: ", letter(catalog));
                }
            }
            Self::MetaCleanup(metadata) => {
                put!(out, "last_cleanup_num_delpages: ", metadata.last_cleanup_deleted_pages);
            }
            Self::Nothing => {}
        }
    }

    /// As up to 15.
    fn terse_text(&self, out: &mut Vec<u8>) {
        match self {
            Self::Insert(insert) => put!(out, "off ", insert.offset),
            Self::Split(split) => {
                put!(out, "level ", split.level, ", firstrightoff ", split.first_right_offset);
                put!(out, ", newitemoff ", split.new_item_offset);
                put!(out, ", postingoff ", split.posting_offset);
            }
            Self::Dedup(dedup) => put!(out, "nintervals ", dedup.intervals),
            Self::Vacuum(vacuum) => {
                put!(out, "ndeleted ", vacuum.deleted_count);
                put!(out, "; nupdated ", vacuum.updated_count);
            }
            Self::Delete(delete) => {
                put!(out, "latestRemovedXid ", delete.conflict_horizon);
                put!(out, "; ndeleted ", delete.deleted_count);
                put!(out, "; nupdated ", delete.updated_count);
            }
            Self::MarkPageHalfDead(mark) => {
                put!(out, "topparent ", mark.top_parent, "; leaf ", mark.leaf);
                put!(out, "; left ", mark.left, "; right ", mark.right);
            }
            Self::UnlinkPage(unlink) => {
                put!(out, "left ", unlink.left, "; right ", unlink.right);
                put!(out, "; level ", unlink.level, "; safexid ", EpochXid(unlink.safe_xid));
                put!(out, "; leafleft ", unlink.leaf_left, "; leafright ", unlink.leaf_right);
                put!(out, "; leaftopparent ", unlink.leaf_top_parent);
            }
            Self::NewRoot(root) => put!(out, "lev ", root.level),
            Self::ReusePage(reuse) => {
                put!(out, "rel ", reuse.locator);
                put!(out, "; latestRemovedXid ", EpochXid(reuse.conflict_horizon));
            }
            Self::MetaCleanup(metadata) => {
                put!(out, "last_cleanup_num_delpages ", metadata.last_cleanup_deleted_pages);
            }
            Self::Nothing => {}
        }
    }
}

impl<'a> Removed<'a> {
    /// `Some(None)` where there is only the page's image.
    #[expect(clippy::option_option, reason = "what isn't there, and what is too short")]
    fn read(source: &Source<'a>, deleted: u16, updated: u16) -> Option<Option<Self>> {
        let Some(data) = source.block_data(0) else { return Some(None) };
        let mut data = Reader::new(data);
        let deleted = Items::read(&mut data, deleted.into())?;
        let offsets: Items<'a, u16> = Items::read(&mut data, updated.into())?;
        let updates = data.rest();
        for _ in 0..offsets.len() {
            let count = data.u16()?;
            Items::<u16>::read(&mut data, count.into())?;
        }
        Some(Some(Self { deleted, updated: Updates { offsets, updates } }))
    }

    /// `delvacuum_desc`
    fn text(&self, out: &mut Vec<u8>) {
        put!(out, ", deleted: ");
        offsets_text(&self.deleted, out);
        put!(out, ", updated: ");
        put_list(out, self.updated.iter(), |update, out| {
            put!(out, "{ off: ", update.offset, ", nptids: ", update.tids.len(), ", ptids: ");
            offsets_text(&update.tids, out);
            put!(out, " }");
        });
    }
}

impl<'a> Updates<'a> {
    /// The posting lists in order.
    pub fn iter(&self) -> impl Iterator<Item = Update<'a>> + use<'a> {
        let mut updates = Reader::new(self.updates);
        self.offsets.iter().map_while(move |offset| {
            let count = updates.u16()?;
            Some(Update { offset, tids: Items::read(&mut updates, count.into())? })
        })
    }
}

impl Serialize for Updates<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.offsets.len()))?;
        for update in self.iter() {
            seq.serialize_element(&update)?;
        }
        seq.end()
    }
}
