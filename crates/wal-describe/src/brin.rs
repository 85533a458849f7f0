//! BRIN indexes (`BRIN`; `access/brin_xlog.h`, 10–18).

use serde::Serialize;
use wal_format::Reader;

use crate::Source;
use crate::layout::{Field, layout};
use crate::text::put;

/// What a record of a BRIN index says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Brin {
    /// `XLOG_BRIN_CREATE_INDEX`
    CreateIndex(CreateIndex),
    /// `XLOG_BRIN_INSERT`
    Insert(Insert),
    /// `XLOG_BRIN_UPDATE`
    Update(Update),
    /// `XLOG_BRIN_SAMEPAGE_UPDATE`
    SamePageUpdate(SamePageUpdate),
    /// `XLOG_BRIN_REVMAP_EXTEND`
    RevmapExtend(RevmapExtend),
    /// `XLOG_BRIN_DESUMMARIZE`
    Desummarize(Desummarize),
    /// A number that stands for nothing.
    Nothing,
}

layout! {
    /// `xl_brin_createidx`
    CreateIndex {
        /// `pagesPerRange`
        pages_per_range: u32,
        /// `version`
        version: u16,
    }
}

layout! {
    /// `xl_brin_insert`
    Insert {
        /// `heapBlk`
        heap_block: u32,
        /// `pagesPerRange`
        pages_per_range: u32,
        /// `offnum`
        offset: u16,
    }
}

layout! {
    /// `xl_brin_update`
    Update {
        /// `oldOffnum`
        old_offset: u16,
        /// `insert`
        [skip 2] insert: Insert,
    }
}

layout! {
    /// `xl_brin_samepage_update`
    SamePageUpdate {
        /// `offnum`
        offset: u16,
    }
}

layout! {
    /// `xl_brin_revmap_extend`
    RevmapExtend {
        /// `targetBlk`
        target_block: u32,
    }
}

layout! {
    /// `xl_brin_desummarize`
    Desummarize {
        /// `pagesPerRange`
        pages_per_range: u32,
        /// `heapBlk`
        heap_block: u32,
        /// `regOffset`
        page_offset: u16,
    }
}

/// `XLOG_BRIN_OPMASK`: without `XLOG_BRIN_INIT_PAGE`.
const OPERATION: u8 = 0x70;

impl Brin {
    pub(crate) fn read(source: &Source<'_>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        let reader = &mut data;
        Some(match source.info() & OPERATION {
            0x00 => Self::CreateIndex(CreateIndex::read(reader)?),
            0x10 => Self::Insert(Insert::read(reader)?),
            0x20 => Self::Update(Update::read(reader)?),
            0x30 => Self::SamePageUpdate(SamePageUpdate::read(reader)?),
            0x40 => Self::RevmapExtend(RevmapExtend::read(reader)?),
            0x50 => Self::Desummarize(Desummarize::read(reader)?),
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, out: &mut Vec<u8>) {
        match self {
            Self::CreateIndex(create) => {
                put!(out, "v", create.version, " pagesPerRange ", create.pages_per_range);
            }
            Self::Insert(insert) => {
                put!(out, "heapBlk ", insert.heap_block);
                put!(out, " pagesPerRange ", insert.pages_per_range, " offnum ", insert.offset);
            }
            Self::Update(update) => {
                put!(out, "heapBlk ", update.insert.heap_block);
                put!(out, " pagesPerRange ", update.insert.pages_per_range);
                put!(out, " old offnum ", update.old_offset);
                put!(out, ", new offnum ", update.insert.offset);
            }
            Self::SamePageUpdate(update) => put!(out, "offnum ", update.offset),
            Self::RevmapExtend(extend) => put!(out, "targetBlk ", extend.target_block),
            Self::Desummarize(range) => {
                put!(out, "pagesPerRange ", range.pages_per_range);
                put!(out, ", heapBlk ", range.heap_block, ", page offset ", range.page_offset);
            }
            Self::Nothing => {}
        }
    }
}
