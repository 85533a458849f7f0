//! SP-GiST indexes (`SPGist`; `access/spgxlog.h`).

use serde::Serialize;
use wal_format::Reader;

use crate::layout::{Field, layout};
use crate::text::{letter, put};
use crate::{Source, Style};

/// What a record of an SP-GiST index says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum SpGist {
    /// `XLOG_SPGIST_ADD_LEAF`
    AddLeaf(AddLeaf),
    /// `XLOG_SPGIST_MOVE_LEAFS`
    MoveLeafs(MoveLeafs),
    /// `XLOG_SPGIST_ADD_NODE`
    AddNode(AddNode),
    /// `XLOG_SPGIST_SPLIT_TUPLE`
    SplitTuple(SplitTuple),
    /// `XLOG_SPGIST_PICKSPLIT`
    PickSplit(PickSplit),
    /// `XLOG_SPGIST_VACUUM_LEAF`
    VacuumLeaf(VacuumLeaf),
    /// `XLOG_SPGIST_VACUUM_ROOT`
    VacuumRoot(VacuumRoot),
    /// `XLOG_SPGIST_VACUUM_REDIRECT`
    VacuumRedirect(VacuumRedirect),
    /// A number that stands for nothing.
    Nothing,
}

layout! {
    /// `spgxlogState` (10–18).
    State {
        /// `redirectXid`; `myXid` up to 16
        redirect_xid: u32,
        /// `isBuild`
        build: bool,
        @pad 3
    }
}

layout! {
    /// `spgxlogAddLeaf` (10–18).
    AddLeaf {
        /// `newPage`
        new_page: bool,
        /// `storesNulls`
        stores_nulls: bool,
        /// `offnumLeaf`
        offset: u16,
        /// `offnumHeadLeaf`
        head_offset: u16,
        /// `offnumParent`
        parent_offset: u16,
        /// `nodeI`
        node: u16,
    }
}

layout! {
    /// `spgxlogMoveLeafs` (10–18).
    MoveLeafs {
        /// `nMoves`
        moves: u16,
        /// `newPage`
        new_page: bool,
        /// `replaceDead`
        replace_dead: bool,
        /// `storesNulls`
        stores_nulls: bool,
        /// `offnumParent`
        [skip 1] parent_offset: u16,
        /// `nodeI`
        node: u16,
        /// `stateSrc`
        [skip 2] state: State,
    }
}

layout! {
    /// `spgxlogAddNode` (10–18).
    AddNode {
        /// `offnum`
        offset: u16,
        /// `offnumNew`
        new_offset: u16,
        /// `newPage`
        new_page: bool,
        /// `parentBlk`
        parent_block: i8,
        /// `offnumParent`
        parent_offset: u16,
        /// `nodeI`
        node: u16,
        /// `stateSrc`
        [skip 2] state: State,
    }
}

layout! {
    /// `spgxlogSplitTuple` (10–18).
    SplitTuple {
        /// `offnumPrefix`
        prefix_offset: u16,
        /// `offnumPostfix`
        postfix_offset: u16,
        /// `newPage`
        new_page: bool,
        /// `postfixBlkSame`
        same_block: bool,
    }
}

layout! {
    /// `spgxlogPickSplit` (10–18).
    PickSplit {
        /// `isRootSplit`
        root_split: bool,
        /// `nDelete`
        [skip 1] deleted: u16,
        /// `nInsert`
        inserted: u16,
        /// `initSrc`
        init_source: bool,
        /// `initDest`
        init_destination: bool,
        /// `offnumInner`
        inner_offset: u16,
        /// `initInner`
        init_inner: bool,
        /// `storesNulls`
        stores_nulls: bool,
        /// `innerIsParent`
        inner_is_parent: bool,
        /// `offnumParent`
        [skip 1] parent_offset: u16,
        /// `nodeI`
        node: u16,
        /// `stateSrc`
        [skip 2] state: State,
    }
}

layout! {
    /// `spgxlogVacuumLeaf` (10–18).
    VacuumLeaf {
        /// `nDead`
        dead: u16,
        /// `nPlaceholder`
        placeholders: u16,
        /// `nMove`
        moved: u16,
        /// `nChain`
        chained: u16,
        /// `stateSrc`
        state: State,
    }
}

layout! {
    /// `spgxlogVacuumRoot` (10–18).
    VacuumRoot {
        /// `nDelete`
        deleted: u16,
        /// `stateSrc`
        [skip 2] state: State,
    }
}

/// `spgxlogVacuumRedirect` (10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct VacuumRedirect {
    /// `nToPlaceholder`
    pub to_placeholder: u16,
    /// `firstPlaceholder`
    pub first_placeholder: u16,
    /// `snapshotConflictHorizon`; `newestRedirectXid` up to 15
    pub conflict_horizon: u32,
    /// `isCatalogRel`, from 16 on
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog: Option<bool>,
}

/// Appends a word for each thing that is so.
fn put_words(words: &[(bool, &str)], out: &mut Vec<u8>) {
    for (_, word) in words.iter().filter(|(so, _)| *so) {
        put!(out, " (", *word, ")");
    }
}

impl SpGist {
    pub(crate) fn read(source: &Source<'_>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        let reader = &mut data;
        let has_catalog = source.version.major() >= 16;
        Some(match source.info() {
            0x10 => Self::AddLeaf(AddLeaf::read(reader)?),
            0x20 => Self::MoveLeafs(MoveLeafs::read(reader)?),
            0x30 => Self::AddNode(AddNode::read(reader)?),
            0x40 => Self::SplitTuple(SplitTuple::read(reader)?),
            0x50 => Self::PickSplit(PickSplit::read(reader)?),
            0x60 => Self::VacuumLeaf(VacuumLeaf::read(reader)?),
            0x70 => Self::VacuumRoot(VacuumRoot::read(reader)?),
            0x80 => Self::VacuumRedirect(VacuumRedirect {
                to_placeholder: reader.u16()?,
                first_placeholder: reader.u16()?,
                conflict_horizon: reader.u32()?,
                catalog: if has_catalog { Some(bool::read(reader)?) } else { None },
            }),
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        match self {
            Self::AddLeaf(add) => {
                put!(out, "off: ", add.offset, ", headoff: ", add.head_offset);
                put!(out, ", parentoff: ", add.parent_offset, ", nodeI: ", add.node);
                put_words(&[(add.new_page, "newpage"), (add.stores_nulls, "nulls")], out);
            }
            Self::MoveLeafs(moved) => {
                put!(out, "nmoves: ", moved.moves, ", parentoff: ", moved.parent_offset);
                put!(out, ", nodeI: ", moved.node);
                let words = [
                    (moved.new_page, "newpage"),
                    (moved.replace_dead, "replacedead"),
                    (moved.stores_nulls, "nulls"),
                ];
                put_words(&words, out);
            }
            Self::AddNode(add) => {
                put!(out, "off: ", add.offset, ", newoff: ", add.new_offset);
                put!(out, ", parentBlk: ", add.parent_block);
                put!(out, ", parentoff: ", add.parent_offset, ", nodeI: ", add.node);
                put_words(&[(add.new_page, "newpage")], out);
            }
            Self::SplitTuple(split) => {
                put!(out, "prefixoff: ", split.prefix_offset);
                put!(out, ", postfixoff: ", split.postfix_offset);
                put_words(&[(split.new_page, "newpage"), (split.same_block, "same")], out);
            }
            Self::PickSplit(split) => split.text(out),
            Self::VacuumLeaf(vacuum) => {
                put!(out, "ndead: ", vacuum.dead, ", nplaceholder: ", vacuum.placeholders);
                put!(out, ", nmove: ", vacuum.moved, ", nchain: ", vacuum.chained);
            }
            Self::VacuumRoot(vacuum) => put!(out, "ndelete: ", vacuum.deleted),
            Self::VacuumRedirect(vacuum) => vacuum.text(style, out),
            Self::Nothing => {}
        }
    }
}

impl PickSplit {
    fn text(self, out: &mut Vec<u8>) {
        put!(out, "ndelete: ", self.deleted, ", ninsert: ", self.inserted);
        put!(out, ", inneroff: ", self.inner_offset, ", parentoff: ", self.parent_offset);
        put!(out, ", nodeI: ", self.node);
        let words = [
            (self.inner_is_parent, "innerIsParent"),
            (self.stores_nulls, "nulls"),
            (self.root_split, "isRootSplit"),
        ];
        put_words(&words, out);
    }
}

impl VacuumRedirect {
    fn text(self, style: &Style<'_>, out: &mut Vec<u8>) {
        put!(out, "ntoplaceholder: ", self.to_placeholder);
        put!(out, ", firstplaceholder: ", self.first_placeholder);
        let label =
            if style.since(16) { ", snapshotConflictHorizon: " } else { ", newestredirectxid: " };
        put!(out, label, self.conflict_horizon);
        if let Some(catalog) = self.catalog.filter(|_| style.since(17)) {
            put!(out, ", isCatalogRel: ", letter(catalog));
        }
    }
}
