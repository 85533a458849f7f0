//! GIN indexes (`Gin`; `access/ginxlog.h`, `access/ginblock.h`, 10–18).

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use wal_format::{BlockReference, Reader, RelFileLocator};

use crate::Source;
use crate::layout::{Field, Items, layout};
use crate::text::{letter, put};
use crate::tid::{Tid, read_block_id};

/// What a record of a GIN index says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Gin<'a> {
    /// `XLOG_GIN_CREATE_PTREE` (`ginxlogCreatePostingTree`)
    CreatePostingTree {
        /// `size`: of the first page's content, bytes
        size: u32,
    },
    /// `XLOG_GIN_INSERT`
    Insert(Insert<'a>),
    /// `XLOG_GIN_SPLIT`
    Split(Split),
    /// `XLOG_GIN_VACUUM_DATA_LEAF_PAGE`
    VacuumDataLeafPage(Change<'a>),
    /// `XLOG_GIN_DELETE_PAGE`
    DeletePage(DeletePage),
    /// `XLOG_GIN_UPDATE_META_PAGE`
    UpdateMetaPage(UpdateMetaPage),
    /// `XLOG_GIN_INSERT_LISTPAGE`
    InsertListPage(InsertListPage),
    /// `XLOG_GIN_DELETE_LISTPAGE`
    DeleteListPages(DeleteListPages),
    /// `XLOG_GIN_VACUUM_PAGE`: all is in the page's image.
    Nothing,
}

/// `ginxlogInsert`, and what it announces.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Insert<'a> {
    /// `flags`: `GIN_INSERT_…`
    pub flags: u16,
    /// The children that a split made, of an inner page
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<[u32; 2]>,
    /// What is inserted
    #[serde(flatten)]
    pub change: Change<'a>,
}

/// What happens to a page.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change<'a> {
    /// There is only the page's image.
    Image {
        /// Whether replay restores the page from it.
        apply: bool,
    },
    /// A key's tuple (`ginxlogInsertEntry`)
    Entry(Entry),
    /// Posting lists that are packed anew (`ginxlogRecompressDataLeaf`)
    Segments(Segments<'a>),
    /// A downlink (`ginxlogInsertDataInternal`)
    Downlink(Downlink),
}

layout! {
    /// `ginxlogInsertEntry`, without the tuple.
    Entry {
        /// `offset`
        offset: u16,
        /// `isDelete`
        delete: bool,
    }
}

/// `ginxlogInsertDataInternal`
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Downlink {
    /// `offset`
    pub offset: u16,
    /// `newitem.child_blkno`
    pub child: u32,
    /// `newitem.key`
    pub key: Tid,
}

/// `ginxlogRecompressDataLeaf`: a number, and so many actions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segments<'a> {
    count: u16,
    actions: &'a [u8],
}

/// What happens to a segment of posting lists (`ginxlogSegmentAction`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Segment<'a> {
    /// `segno`
    pub segment: u8,
    /// `type`
    #[serde(flatten)]
    pub action: Action<'a>,
}

/// `GIN_SEGMENT_…`
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action<'a> {
    /// `GIN_SEGMENT_DELETE`
    Delete,
    /// `GIN_SEGMENT_INSERT`, with the posting list's length
    Insert {
        /// Of the packed list, bytes
        bytes: u16,
    },
    /// `GIN_SEGMENT_REPLACE`
    Replace {
        /// Of the packed list, bytes
        bytes: u16,
    },
    /// `GIN_SEGMENT_ADDITEMS`
    AddItems {
        /// The tuple ids
        items: Items<'a, Tid>,
    },
    /// One that no version has: what follows can't be made out.
    Unknown {
        /// Its number
        code: u8,
    },
}

layout! {
    /// `ginxlogSplit`
    Split {
        /// `locator`
        locator: RelFileLocator,
        /// `rrlink`: the right link, or the root
        right_link: u32,
        /// `leftChildBlkno`
        left_child: u32,
        /// `rightChildBlkno`
        right_child: u32,
        /// `flags`: `GIN_INSERT_…`, `GIN_SPLIT_ROOT`
        flags: u16,
    }
}

layout! {
    /// `ginxlogDeletePage` (12–18).
    DeletePage {
        /// `parentOffset`
        parent_offset: u16,
        /// `rightLink`
        [skip 2] right_link: u32,
        /// `deleteXid`
        delete_xid: u32,
    }
}

layout! {
    /// `GinMetaPageData`
    Metadata {
        /// `head`
        head: u32,
        /// `tail`
        tail: u32,
        /// `tailFreeSize`
        tail_free_size: u32,
        /// `nPendingPages`
        pending_pages: u32,
        /// `nPendingHeapTuples`
        pending_heap_tuples: i64,
        /// `nTotalPages`
        total_pages: u32,
        /// `nEntryPages`
        entry_pages: u32,
        /// `nDataPages`
        data_pages: u32,
        /// `nEntries`
        [skip 4] entries: i64,
        /// `ginVersion`
        version: i32,
        @pad 4
    }
}

layout! {
    /// `ginxlogUpdateMeta`
    UpdateMetaPage {
        /// `locator`
        locator: RelFileLocator,
        /// `metadata`
        [skip 4] metadata: Metadata,
        /// `prevTail`
        previous_tail: u32,
        /// `newRightlink`
        new_right_link: u32,
        /// `ntuples`
        tuples: i32,
    }
}

layout! {
    /// `ginxlogInsertListPage`
    InsertListPage {
        /// `rightlink`
        right_link: u32,
        /// `ntuples`
        tuples: i32,
    }
}

layout! {
    /// `ginxlogDeleteListPages`
    DeleteListPages {
        /// `metadata`
        metadata: Metadata,
        /// `ndeleted`
        deleted: i32,
    }
}

/// `GIN_INSERT_…`, `GIN_SPLIT_ROOT`
const IS_DATA: u16 = 0x01;
const IS_LEAF: u16 = 0x02;
const SPLIT_ROOT: u16 = 0x04;

impl<'a> Gin<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        let reader = &mut data;
        Some(match source.info() {
            0x10 => Self::CreatePostingTree { size: reader.u32()? },
            0x20 => Self::Insert(Insert::read(source, reader)?),
            0x30 => Self::Split(Split::read(reader)?),
            0x50 => Self::DeletePage(DeletePage::read(reader)?),
            0x60 => Self::UpdateMetaPage(UpdateMetaPage::read(reader)?),
            0x70 => Self::InsertListPage(InsertListPage::read(reader)?),
            0x80 => Self::DeleteListPages(DeleteListPages::read(reader)?),
            0x90 => {
                let block = source.block(0)?;
                Self::VacuumDataLeafPage(Change::read(block, |data| {
                    Segments::read(data).map(Change::Segments)
                })?)
            }
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, out: &mut Vec<u8>) {
        match self {
            Self::Insert(insert) => insert.text(out),
            Self::Split(split) => {
                put!(out, "isrootsplit: ", letter(split.flags & SPLIT_ROOT != 0), " ");
                put_page_kind(split.flags, out);
            }
            Self::VacuumDataLeafPage(change) => change.text(out),
            Self::DeleteListPages(delete) => put!(out, "ndeleted: ", delete.deleted),
            Self::CreatePostingTree { .. }
            | Self::DeletePage(_)
            | Self::UpdateMetaPage(_)
            | Self::InsertListPage(_)
            | Self::Nothing => {}
        }
    }
}

fn put_page_kind(flags: u16, out: &mut Vec<u8>) {
    put!(out, "isdata: ", letter(flags & IS_DATA != 0));
    put!(out, " isleaf: ", letter(flags & IS_LEAF != 0));
}

impl<'a> Insert<'a> {
    fn read(source: &Source<'a>, reader: &mut Reader<'a>) -> Option<Self> {
        let flags = reader.u16()?;
        let children = if flags & IS_LEAF == 0 {
            Some([read_block_id(reader)?, read_block_id(reader)?])
        } else {
            None
        };
        let change = Change::read(source.block(0)?, |data| {
            Some(match (flags & IS_DATA != 0, flags & IS_LEAF != 0) {
                (false, _) => Change::Entry(Entry::read(data)?),
                (true, true) => Change::Segments(Segments::read(data)?),
                (true, false) => Change::Downlink(Downlink {
                    offset: data.u16()?,
                    child: read_block_id(data)?,
                    key: Tid::read(data)?,
                }),
            })
        })?;
        Some(Self { flags, children, change })
    }

    fn text(&self, out: &mut Vec<u8>) {
        put_page_kind(self.flags, out);
        if let Some([left, right]) = self.children {
            put!(out, " children: ", left, "/", right);
        }
        self.change.text(out);
    }
}

impl<'a> Change<'a> {
    /// Where the block has an image, its data isn't looked at.
    fn read(
        block: &BlockReference<'a>,
        read: impl FnOnce(&mut Reader<'a>) -> Option<Self>,
    ) -> Option<Self> {
        match block.image {
            Some(image) => Some(Self::Image { apply: image.apply }),
            None => read(&mut Reader::new(block.data?)),
        }
    }

    fn text(&self, out: &mut Vec<u8>) {
        match self {
            Self::Image { apply: true } => put!(out, " (full page image)"),
            Self::Image { apply: false } => {
                put!(out, " (full page image, for WAL verification)");
            }
            Self::Entry(entry) => put!(out, " isdelete: ", letter(entry.delete)),
            Self::Segments(segments) => segments.text(out),
            Self::Downlink(downlink) => {
                put!(out, " pitem: ", downlink.child, "-", downlink.key);
            }
        }
    }
}

impl<'a> Segments<'a> {
    fn read(data: &mut Reader<'a>) -> Option<Self> {
        let count = data.u16()?;
        let actions = data.rest();
        for _ in 0..count {
            if let Action::Unknown { .. } = Segment::read(data)?.action {
                break;
            }
        }
        Some(Self { count, actions })
    }

    /// The actions in order, up to one that no version has.
    pub fn iter(&self) -> impl Iterator<Item = Segment<'a>> + use<'a> {
        let mut actions = Reader::new(self.actions);
        let mut known = true;
        (0..self.count).map_while(move |_| {
            let segment = if known { Segment::read(&mut actions) } else { None }?;
            known = !matches!(segment.action, Action::Unknown { .. });
            Some(segment)
        })
    }

    /// `desc_recompress_leaf`
    fn text(&self, out: &mut Vec<u8>) {
        put!(out, " ", self.count, " segments:");
        for Segment { segment, action } in self.iter() {
            put!(out, " ", segment);
            match action {
                Action::AddItems { items } => put!(out, " (add ", items.len(), " items)"),
                Action::Delete => put!(out, " (delete)"),
                Action::Insert { .. } => put!(out, " (insert)"),
                Action::Replace { .. } => put!(out, " (replace)"),
                Action::Unknown { code } => put!(out, " unknown action ", code, " ???"),
            }
        }
    }
}

impl Serialize for Segments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(None)?;
        for segment in self.iter() {
            seq.serialize_element(&segment)?;
        }
        seq.end()
    }
}

impl<'a> Segment<'a> {
    fn read(data: &mut Reader<'a>) -> Option<Self> {
        let (segment, code) = (data.u8()?, data.u8()?);
        let action = match code {
            1 => Action::Delete,
            2 => Action::Insert { bytes: skip_posting_list(data)? },
            3 => Action::Replace { bytes: skip_posting_list(data)? },
            4 => {
                let count = data.u16()?;
                Action::AddItems { items: Items::read(data, count.into())? }
            }
            code => Action::Unknown { code },
        };
        Some(Self { segment, action })
    }
}

/// A packed posting list (`GinPostingList`): the first tuple id, a length, and so many bytes, at
/// an even number of bytes in all.
fn skip_posting_list(data: &mut Reader<'_>) -> Option<u16> {
    Tid::read(data)?;
    let bytes = data.u16()?;
    data.take(usize::from(bytes).next_multiple_of(2))?;
    Some(bytes)
}
