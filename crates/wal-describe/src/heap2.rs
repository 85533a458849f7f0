//! Pruning, freezing, visibility and the like of table pages (`Heap2`; `access/heapam_xlog.h`).
//!
//! Three generations of pruning: 14 and 15 say how many; 16 says which, and freezes by plans; 17
//! does all in one layout.

use pg_types::Lsn;
use serde::Serialize;
use wal_format::{Reader, RelFileLocator};

use crate::heap::{Lock, OPERATION};
use crate::layout::{Field, Items, layout};
use crate::prune::{Freeze, OldPrune, Prune, Vacuum};
use crate::text::{Hex2, put, put_list};
use crate::tid::Tid;
use crate::{Source, Style};

/// What a record of a table's page says that found no place among [`crate::heap`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Heap2<'a> {
    /// `XLOG_HEAP2_REWRITE`
    Rewrite(Rewrite),
    /// `XLOG_HEAP2_PRUNE`, up to 16
    OldPrune(OldPrune<'a>),
    /// `XLOG_HEAP2_VACUUM`, up to 16
    Vacuum(Vacuum<'a>),
    /// `XLOG_HEAP2_FREEZE_PAGE`, up to 16
    Freeze(Freeze<'a>),
    /// `XLOG_HEAP2_PRUNE_…`, from 17 on
    Prune(Prune<'a>),
    /// `XLOG_HEAP2_VISIBLE`
    Visible(Visible),
    /// `XLOG_HEAP2_MULTI_INSERT`
    MultiInsert(MultiInsert<'a>),
    /// `XLOG_HEAP2_LOCK_UPDATED`
    LockUpdated(Lock),
    /// `XLOG_HEAP2_NEW_CID`
    NewCid(NewCid),
}

layout! {
    /// `xl_heap_rewrite_mapping` (10–18).
    Rewrite {
        /// `mapped_xid`
        mapped_xid: u32,
        /// `mapped_db`
        mapped_database: u32,
        /// `mapped_rel`
        mapped_relation: u32,
        /// `offset`: where in the file of mappings
        [skip 4] offset: i64,
        /// `num_mappings`
        mappings: u32,
        /// `start_lsn`
        [skip 4] start: Lsn,
    }
}

layout! {
    /// `xl_heap_visible` (10–18).
    Visible {
        /// `snapshotConflictHorizon`; `cutoff_xid` up to 15
        conflict_horizon: u32,
        /// `flags`: `VISIBILITYMAP_…`
        flags: u8,
    }
}

/// `xl_heap_multi_insert` (10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MultiInsert<'a> {
    /// `flags`: `XLH_INSERT_…`
    pub flags: u8,
    /// `ntuples`
    pub tuples: u16,
    /// `offsets`, unless the page is made anew
    pub offsets: Option<Items<'a, u16>>,
    /// Whether the tuples are there, or only the page's image.
    pub has_data: bool,
}

layout! {
    /// `xl_heap_new_cid` (10–18).
    NewCid {
        /// `top_xid`
        toplevel: u32,
        /// `cmin`
        cmin: u32,
        /// `cmax`
        cmax: u32,
        /// `combocid`
        combo: u32,
        /// `target_locator`
        locator: RelFileLocator,
        /// `target_tid`
        tid: Tid,
    }
}

/// `XLOG_HEAP_INIT_PAGE`
const INIT_PAGE: u8 = 0x80;

impl<'a> Heap2<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        let reader = &mut data;
        let major = source.version.major();
        Some(match source.info() & OPERATION {
            0x00 => Self::Rewrite(Rewrite::read(reader)?),
            0x10..=0x30 if major >= 17 => Self::Prune(Prune::read(source)?),
            0x10 => Self::OldPrune(OldPrune::read(source)?),
            0x20 => Self::Vacuum(Vacuum::read(source)?),
            0x30 => Self::Freeze(Freeze::read(source)?),
            0x40 => Self::Visible(Visible::read(reader)?),
            0x50 => Self::MultiInsert(MultiInsert::read(source)?),
            0x60 => Self::LockUpdated(Lock::read(reader)?),
            _ => Self::NewCid(NewCid::read(reader)?),
        })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Rewrite(_) => {}
            Self::OldPrune(prune) => prune.text(style, out),
            Self::Vacuum(vacuum) => vacuum.text(style, out),
            Self::Freeze(freeze) => freeze.text(out),
            Self::Prune(prune) => prune.text(out),
            Self::Visible(visible) => visible.text(style, out),
            Self::MultiInsert(insert) => insert.text(style, out),
            Self::LockUpdated(lock) => lock.text("xmax", style, out),
            Self::NewCid(new) => new.text(style, out),
        }
    }
}

impl Visible {
    fn text(self, style: &Style<'_>, out: &mut Vec<u8>) {
        if style.since(16) {
            put!(out, "snapshotConflictHorizon: ", self.conflict_horizon, ", flags: 0x");
        } else {
            put!(out, "cutoff xid ", self.conflict_horizon, " flags 0x");
        }
        put!(out, Hex2(self.flags));
    }
}

impl<'a> MultiInsert<'a> {
    fn read(source: &Source<'a>) -> Option<Self> {
        let mut reader = Reader::new(source.body.main_data);
        let flags = reader.u8()?;
        reader.take(1)?;
        let tuples = reader.u16()?;
        let offsets = if source.info() & INIT_PAGE == 0 {
            Some(Items::read(&mut reader, tuples.into())?)
        } else {
            None
        };
        Some(Self { flags, tuples, offsets, has_data: source.block_data(0).is_some() })
    }

    fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        if !style.since(16) {
            put!(out, self.tuples, " tuples flags 0x", Hex2(self.flags));
            return;
        }
        put!(out, "ntuples: ", self.tuples, ", flags: 0x", Hex2(self.flags));
        if let Some(offsets) = self.offsets.filter(|_| self.has_data) {
            put!(out, ", offsets: ");
            put_list(out, offsets.iter(), |offset, out| put!(out, offset));
        }
    }
}

impl NewCid {
    fn text(self, style: &Style<'_>, out: &mut Vec<u8>) {
        if style.since(16) {
            put!(out, "rel: ", self.locator, ", tid: ", self.tid, ", cmin: ", self.cmin);
        } else {
            put!(out, "rel ", self.locator, "; tid ", self.tid, "; cmin: ", self.cmin);
        }
        put!(out, ", cmax: ", self.cmax, ", combo: ", self.combo);
    }
}
