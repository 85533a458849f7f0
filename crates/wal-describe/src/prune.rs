//! What pruning, vacuum and freezing do to a table's page: which line pointers become what, and
//! which tuples are frozen how.

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use wal_format::Reader;

use crate::layout::{Field, Items, layout};
use crate::text::{letter, put, put_list};
use crate::{Source, Style};

layout! {
    /// A line pointer that now leads to another.
    Redirect {
        /// From
        from: u16,
        /// To
        to: u16,
    }
}

/// Which line pointers become what.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LinePointers<'a> {
    /// Lead to another
    pub redirected: Items<'a, Redirect>,
    /// Are dead
    pub dead: Items<'a, u16>,
    /// Are free for use
    pub unused: Items<'a, u16>,
}

/// `xl_heap_prune` (14–16).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OldPrune<'a> {
    /// `snapshotConflictHorizon`; `latestRemovedXid` up to 15
    pub conflict_horizon: u32,
    /// `nredirected`
    pub redirected_count: u16,
    /// `ndead`
    pub dead_count: u16,
    /// `isCatalogRel`, from 16 on
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog: Option<bool>,
    /// Which, unless there is only the page's image
    #[serde(flatten)]
    pub pointers: Option<LinePointers<'a>>,
}

impl<'a> OldPrune<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut reader = Reader::new(source.body.main_data);
        let (conflict_horizon, redirected_count, dead_count) =
            (reader.u32()?, reader.u16()?, reader.u16()?);
        let catalog =
            if source.version.major() >= 16 { Some(bool::read(&mut reader)?) } else { None };
        let pointers = match source.block_data(0) {
            Some(data) => {
                let mut data = Reader::new(data);
                Some(LinePointers {
                    redirected: Items::read(&mut data, redirected_count.into())?,
                    dead: Items::read(&mut data, dead_count.into())?,
                    unused: Items::read_rest(&mut data),
                })
            }
            None => None,
        };
        Some(Self { conflict_horizon, redirected_count, dead_count, catalog, pointers })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        if !style.since(16) {
            put!(out, "latestRemovedXid ", self.conflict_horizon);
            put!(out, " nredirected ", self.redirected_count, " ndead ", self.dead_count);
            return;
        }
        put!(out, "snapshotConflictHorizon: ", self.conflict_horizon);
        put!(out, ", nredirected: ", self.redirected_count, ", ndead: ", self.dead_count);
        if let Some(LinePointers { redirected, dead, unused }) = &self.pointers {
            put!(out, ", nunused: ", unused.len(), ", redirected: ");
            redirects_text(redirected, out);
            put!(out, ", dead: ");
            offsets_text(dead, out);
            put!(out, ", unused: ");
            offsets_text(unused, out);
        }
    }
}

fn redirects_text(redirected: &Items<'_, Redirect>, out: &mut Vec<u8>) {
    put_list(out, redirected.iter(), |redirect, out| put!(out, redirect.from, "->", redirect.to));
}

/// `[1, 2]`
pub(crate) fn offsets_text(offsets: &Items<'_, u16>, out: &mut Vec<u8>) {
    put_list(out, offsets.iter(), |offset, out| put!(out, offset));
}

/// `xl_heap_vacuum` (14–16).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Vacuum<'a> {
    /// `nunused`
    pub unused_count: u16,
    /// Which, unless there is only the page's image
    pub unused: Option<Items<'a, u16>>,
}

impl<'a> Vacuum<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let unused_count = Reader::new(source.body.main_data).u16()?;
        let unused = match source.block_data(0) {
            Some(data) => Some(Items::read(&mut Reader::new(data), unused_count.into())?),
            None => None,
        };
        Some(Self { unused_count, unused })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        if !style.since(16) {
            put!(out, "nunused ", self.unused_count);
            return;
        }
        put!(out, "nunused: ", self.unused_count);
        if let Some(unused) = &self.unused {
            put!(out, ", unused: ");
            offsets_text(unused, out);
        }
    }
}

layout! {
    /// `xl_heap_freeze_tuple` (10–15).
    FreezeTuple {
        /// `xmax`
        xmax: u32,
        /// `offset`
        offset: u16,
        /// `t_infomask2`
        infomask2: u16,
        /// `t_infomask`
        infomask: u16,
        /// `frzflags`
        flags: u8,
        @pad 1
    }
}

layout! {
    /// How some tuples are frozen: `xl_heap_freeze_plan` (16), `xlhp_freeze_plan` (17, 18).
    Plan {
        /// `xmax`
        xmax: u32,
        /// `t_infomask2`
        infomask2: u16,
        /// `t_infomask`
        infomask: u16,
        /// `frzflags`
        flags: u8,
        /// `ntuples`
        [skip 1] tuples: u16,
    }
}

/// Plans, and behind all of them the offsets of their tuples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plans<'a> {
    plans: Items<'a, Plan>,
    offsets: &'a [u8],
}

/// A plan and its tuples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PlanOffsets<'a> {
    /// The plan
    #[serde(flatten)]
    pub plan: Plan,
    /// The tuples' offsets
    pub offsets: Items<'a, u16>,
}

impl<'a> Plans<'a> {
    const NONE: Self = Self { plans: Items::none(), offsets: &[] };

    /// Takes the offsets, of which there are as many as the plans say.
    fn read(plans: Items<'a, Plan>, offsets: &mut Reader<'a>) -> Option<Self> {
        let count = plans.iter().map(|plan| usize::from(plan.tuples));
        let count = count.fold(0_usize, usize::saturating_add);
        let offsets = offsets.take(count.checked_mul(u16::SIZE)?)?;
        Some(Self { plans, offsets })
    }

    /// The plans in order.
    pub fn iter(&self) -> impl Iterator<Item = PlanOffsets<'a>> + use<'a> {
        let mut offsets = Reader::new(self.offsets);
        self.plans.iter().map_while(move |plan| {
            let offsets = Items::read(&mut offsets, plan.tuples.into())?;
            Some(PlanOffsets { plan, offsets })
        })
    }

    fn text(&self, out: &mut Vec<u8>) {
        put_list(out, self.iter(), |PlanOffsets { plan, offsets }, out| {
            put!(out, "{ xmax: ", plan.xmax, ", infomask: ", plan.infomask);
            put!(out, ", infomask2: ", plan.infomask2, ", ntuples: ", plan.tuples);
            put!(out, ", offsets: ");
            offsets_text(&offsets, out);
            put!(out, " }");
        });
    }
}

impl Serialize for Plans<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.plans.len()))?;
        for plan in self.iter() {
            seq.serialize_element(&plan)?;
        }
        seq.end()
    }
}

/// `xl_heap_freeze_page` (10–16).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Freeze<'a> {
    /// Tuple by tuple, up to 15
    Tuples {
        /// `cutoff_xid`
        cutoff_xid: u32,
        /// `ntuples`
        tuple_count: u16,
        /// Which, unless there is only the page's image
        tuples: Option<Items<'a, FreezeTuple>>,
    },
    /// By plans, 16
    Plans {
        /// `snapshotConflictHorizon`
        conflict_horizon: u32,
        /// `nplans`
        plan_count: u16,
        /// `isCatalogRel`
        catalog: bool,
        /// Which, unless there is only the page's image
        plans: Option<Plans<'a>>,
    },
}

impl<'a> Freeze<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut reader = Reader::new(source.body.main_data);
        let (xid, count) = (reader.u32()?, reader.u16()?);
        let mut data = source.block_data(0).map(Reader::new);
        if source.version.major() < 16 {
            let tuples = match &mut data {
                Some(data) => Some(Items::read(data, count.into())?),
                None => None,
            };
            return Some(Self::Tuples { cutoff_xid: xid, tuple_count: count, tuples });
        }
        let catalog = bool::read(&mut reader)?;
        let plans = match &mut data {
            Some(data) => {
                let plans = Items::read(data, count.into())?;
                Some(Plans::read(plans, data)?)
            }
            None => None,
        };
        Some(Self::Plans { conflict_horizon: xid, plan_count: count, catalog, plans })
    }

    pub(crate) fn text(&self, out: &mut Vec<u8>) {
        match self {
            Self::Tuples { cutoff_xid, tuple_count, .. } => {
                put!(out, "cutoff xid ", *cutoff_xid, " ntuples ", *tuple_count);
            }
            Self::Plans { conflict_horizon, plan_count, plans, .. } => {
                put!(out, "snapshotConflictHorizon: ", *conflict_horizon);
                put!(out, ", nplans: ", *plan_count);
                if let Some(plans) = plans {
                    put!(out, ", plans: ");
                    plans.text(out);
                }
            }
        }
    }
}

/// `xl_heap_prune` and what it announces in the data of block 0 (17, 18;
/// `heap_xlog_deserialize_prune_and_freeze`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prune<'a> {
    /// `reason`
    pub reason: u8,
    /// `flags`: `XLHP_…`
    pub flags: u8,
    /// `XLHP_IS_CATALOG_REL`
    pub catalog: bool,
    /// The conflict horizon, if there is one
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict_horizon: Option<u32>,
    /// What is done, unless there is only the page's image
    #[serde(flatten)]
    pub work: Option<Work<'a>>,
}

/// What is done to the page.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Work<'a> {
    /// What is frozen
    pub plans: Plans<'a>,
    /// What is pruned
    #[serde(flatten)]
    pub pointers: LinePointers<'a>,
}

/// `XLHP_…`, `access/heapam_xlog.h`
const IS_CATALOG_REL: u8 = 1 << 1;
const HAS_CONFLICT_HORIZON: u8 = 1 << 3;
const HAS_FREEZE_PLANS: u8 = 1 << 4;
const HAS_REDIRECTIONS: u8 = 1 << 5;
const HAS_DEAD_ITEMS: u8 = 1 << 6;
const HAS_NOW_UNUSED_ITEMS: u8 = 1 << 7;

impl<'a> Prune<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut reader = Reader::new(source.body.main_data);
        let (reason, flags) = (reader.u8()?, reader.u8()?);
        let has_horizon = flags & HAS_CONFLICT_HORIZON != 0;
        let conflict_horizon = if has_horizon { Some(reader.u32()?) } else { None };
        let work = match source.block_data(0) {
            Some(data) => Some(Work::read(flags, data)?),
            None => None,
        };
        let catalog = flags & IS_CATALOG_REL != 0;
        Some(Self { reason, flags, catalog, conflict_horizon, work })
    }

    pub(crate) fn text(&self, out: &mut Vec<u8>) {
        if let Some(conflict_horizon) = self.conflict_horizon {
            put!(out, "snapshotConflictHorizon: ", conflict_horizon);
        }
        put!(out, ", isCatalogRel: ", letter(self.catalog));
        if let Some(work) = &self.work {
            work.text(out);
        }
    }
}

impl<'a> Work<'a> {
    fn read(flags: u8, data: &'a [u8]) -> Option<Self> {
        let mut data = Reader::new(data);
        let has = |part: u8| flags & part != 0;
        let plans = if has(HAS_FREEZE_PLANS) {
            let count = data.u16()?;
            data.take(2)?;
            Items::read(&mut data, count.into())?
        } else {
            Items::none()
        };
        let redirected =
            if has(HAS_REDIRECTIONS) { read_counted(&mut data)? } else { Items::none() };
        let dead = if has(HAS_DEAD_ITEMS) { read_counted(&mut data)? } else { Items::none() };
        let unused =
            if has(HAS_NOW_UNUSED_ITEMS) { read_counted(&mut data)? } else { Items::none() };
        let plans = if plans.is_empty() { Plans::NONE } else { Plans::read(plans, &mut data)? };
        Some(Self { plans, pointers: LinePointers { redirected, dead, unused } })
    }

    fn text(&self, out: &mut Vec<u8>) {
        let LinePointers { redirected, dead, unused } = &self.pointers;
        put!(out, ", nplans: ", self.plans.plans.len(), ", nredirected: ", redirected.len());
        put!(out, ", ndead: ", dead.len(), ", nunused: ", unused.len());
        if !self.plans.plans.is_empty() {
            put!(out, ", plans: ");
            self.plans.text(out);
        }
        if !redirected.is_empty() {
            put!(out, ", redirected: ");
            redirects_text(redirected, out);
        }
        if !dead.is_empty() {
            put!(out, ", dead: ");
            offsets_text(dead, out);
        }
        if !unused.is_empty() {
            put!(out, ", unused: ");
            offsets_text(unused, out);
        }
    }
}

/// `xlhp_prune_items`: a number, and so many items.
fn read_counted<'a, T: Field>(data: &mut Reader<'a>) -> Option<Items<'a, T>> {
    let count = data.u16()?;
    Items::read(data, count.into())
}
