//! Changes of table pages (`Heap`; `access/heapam_xlog.h`). The text of 16 lists by names; before,
//! it is terse.

use serde::{Serialize, Serializer};
use wal_format::Reader;

use crate::far::Data;
use crate::invalidation::Invalidations;
use crate::layout::{Field, Items, layout};
use crate::text::{Hex2, put, put_list};
use crate::{Source, Style};

/// What a record of a table's page says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Heap<'a> {
    /// `XLOG_HEAP_INSERT`
    Insert(Insert),
    /// `XLOG_HEAP_DELETE`
    Delete(Delete),
    /// `XLOG_HEAP_UPDATE`, `XLOG_HEAP_HOT_UPDATE`
    Update(Update),
    /// `XLOG_HEAP_TRUNCATE`
    Truncate(Truncate<'a>),
    /// `XLOG_HEAP_CONFIRM`: a speculative insertion stays.
    Confirm(Confirm),
    /// `XLOG_HEAP_LOCK`
    Lock(Lock),
    /// `XLOG_HEAP_INPLACE`
    Inplace(Inplace<'a>),
}

layout! {
    /// `xl_heap_insert` (`access/heapam_xlog.h`, 10–18).
    Insert {
        /// `offnum`
        offset: u16,
        /// `flags`: `XLH_INSERT_…`
        flags: u8,
    }
}

layout! {
    /// `xl_heap_delete` (10–18).
    Delete {
        /// `xmax`
        xmax: u32,
        /// `offnum`
        offset: u16,
        /// `infobits_set`
        infobits: InfoBits,
        /// `flags`: `XLH_DELETE_…`
        flags: u8,
    }
}

layout! {
    /// `xl_heap_update` (10–18).
    Update {
        /// `old_xmax`
        old_xmax: u32,
        /// `old_offnum`
        old_offset: u16,
        /// `old_infobits_set`
        old_infobits: InfoBits,
        /// `flags`: `XLH_UPDATE_…`
        flags: u8,
        /// `new_xmax`
        new_xmax: u32,
        /// `new_offnum`
        new_offset: u16,
    }
}

/// `xl_heap_truncate` (11–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Truncate<'a> {
    /// `dbId`
    pub database: u32,
    /// `flags`: `XLH_TRUNCATE_…`
    pub flags: u8,
    /// `relids`
    pub relations: Items<'a, u32>,
}

layout! {
    /// `xl_heap_confirm` (10–18).
    Confirm {
        /// `offnum`
        offset: u16,
    }
}

layout! {
    /// `xl_heap_lock` and `xl_heap_lock_updated` (10–18).
    Lock {
        /// `xmax`; `locking_xid` up to 15
        xmax: u32,
        /// `offnum`
        offset: u16,
        /// `infobits_set`
        infobits: InfoBits,
        /// `flags`: `XLH_LOCK_…`
        flags: u8,
    }
}

/// `xl_heap_inplace` (10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Inplace<'a> {
    /// `offnum`
    pub offset: u16,
    /// From 18 on
    #[serde(flatten)]
    pub invalidations: Option<Invalidations<'a>>,
}

/// What became of a tuple's xmax (`XLHL_…`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InfoBits(pub u8);

impl Field for InfoBits {
    const SIZE: usize = 1;
    #[inline]
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        reader.u8().map(Self)
    }
}

/// `XLHL_…` in their order.
const INFOBITS: [(u8, &str); 5] = [
    (0x01, "IS_MULTI"),
    (0x02, "LOCK_ONLY"),
    (0x04, "EXCL_LOCK"),
    (0x08, "KEYSHR_LOCK"),
    (0x10, "KEYS_UPDATED"),
];
/// `XLH_TRUNCATE_…` in their order: as 16 names them, and as versions before do.
const TRUNCATE_FLAGS: [(u8, &str); 2] = [(0x01, "CASCADE"), (0x02, "RESTART_SEQS")];
const OLD_TRUNCATE_FLAGS: [(u8, &str); 2] = [(0x01, "cascade"), (0x02, "restart_seqs")];

/// The names of those bits that are set.
fn names_of(bits: u8, names: &'static [(u8, &'static str)]) -> impl Iterator<Item = &'static str> {
    names.iter().filter(move |(bit, _)| bits & bit != 0).map(|(_, name)| *name)
}

/// Each name with a space behind it, as versions before 16 print them.
fn put_spaced(bits: u8, names: &'static [(u8, &'static str)], out: &mut Vec<u8>) {
    for name in names_of(bits, names) {
        put!(out, name, " ");
    }
}

/// As the names of the bits that are set.
impl Serialize for InfoBits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(names_of(self.0, &INFOBITS))
    }
}

impl InfoBits {
    fn text(self, out: &mut Vec<u8>) {
        if self.0 == 0 {
            put!(out, "[]");
        } else {
            put_list(out, names_of(self.0, &INFOBITS), |name, out| put!(out, name));
        }
    }
}

/// `XLOG_HEAP_OPMASK`: without `XLOG_HEAP_INIT_PAGE`.
pub(crate) const OPERATION: u8 = 0x70;

impl<'a> Heap<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        let reader = &mut data;
        Some(match source.info() & OPERATION {
            0x00 => Self::Insert(Insert::read(reader)?),
            0x10 => Self::Delete(Delete::read(reader)?),
            0x20 | 0x40 => Self::Update(Update::read(reader)?),
            0x30 => Self::Truncate(Truncate::read(Data::of(source))?),
            0x50 => Self::Confirm(Confirm::read(reader)?),
            0x60 => Self::Lock(Lock::read(reader)?),
            _ => Self::Inplace(Inplace::read(reader, source.version.major())?),
        })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Insert(insert) => insert.text(style, out),
            Self::Delete(delete) => delete.text(style, out),
            Self::Update(update) => update.text(style, out),
            Self::Truncate(truncate) => truncate.text(style, out),
            Self::Confirm(confirm) => put_offset(confirm.offset, style, out),
            Self::Lock(lock) => lock.text("xid", style, out),
            Self::Inplace(inplace) => {
                put_offset(inplace.offset, style, out);
                if let Some(invalidations) = &inplace.invalidations {
                    invalidations.text(style, out);
                }
            }
        }
    }
}

fn put_offset(offset: u16, style: &Style<'_>, out: &mut Vec<u8>) {
    put!(out, if style.since(16) { "off: " } else { "off " }, offset);
}

impl Insert {
    fn text(self, style: &Style<'_>, out: &mut Vec<u8>) {
        put_offset(self.offset, style, out);
        let label = if style.since(16) { ", flags: 0x" } else { " flags 0x" };
        put!(out, label, Hex2(self.flags));
    }
}

impl Delete {
    fn text(self, style: &Style<'_>, out: &mut Vec<u8>) {
        if style.since(16) {
            put!(out, "xmax: ", self.xmax, ", off: ", self.offset, ", infobits: ");
            self.infobits.text(out);
            put!(out, ", flags: 0x", Hex2(self.flags));
        } else {
            put!(out, "off ", self.offset, " flags 0x", Hex2(self.flags), " ");
            put_spaced(self.infobits.0, &INFOBITS, out);
        }
    }
}

impl Update {
    fn text(self, style: &Style<'_>, out: &mut Vec<u8>) {
        if style.since(16) {
            put!(out, "old_xmax: ", self.old_xmax, ", old_off: ", self.old_offset);
            put!(out, ", old_infobits: ");
            self.old_infobits.text(out);
            put!(out, ", flags: 0x", Hex2(self.flags), ", new_xmax: ", self.new_xmax);
            put!(out, ", new_off: ", self.new_offset);
        } else {
            put!(out, "off ", self.old_offset, " xmax ", self.old_xmax);
            put!(out, " flags 0x", Hex2(self.flags), " ");
            put_spaced(self.old_infobits.0, &INFOBITS, out);
            put!(out, "; new off ", self.new_offset, " xmax ", self.new_xmax);
        }
    }
}

impl Lock {
    /// `label` is what versions before 16 call the xmax.
    pub(crate) fn text(self, label: &str, style: &Style<'_>, out: &mut Vec<u8>) {
        if style.since(16) {
            put!(out, "xmax: ", self.xmax, ", off: ", self.offset, ", infobits: ");
            self.infobits.text(out);
            put!(out, ", flags: 0x", Hex2(self.flags));
        } else {
            put!(out, "off ", self.offset, ": ", label, " ", self.xmax);
            put!(out, ": flags 0x", Hex2(self.flags), " ");
            put_spaced(self.infobits.0, &INFOBITS, out);
        }
    }
}

impl<'a> Truncate<'a> {
    fn read(mut data: Data<'a>) -> Option<Self> {
        let (database, count, flags) = (data.field()?, data.field::<u32>()?, data.field()?);
        data.skip(3)?;
        let relations = data.items(i32::try_from(count).ok()?)?;
        Some(Self { database, flags, relations })
    }

    fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        if style.since(16) {
            put!(out, "flags: ");
            put_list(out, names_of(self.flags, &TRUNCATE_FLAGS), |name, out| put!(out, name));
            put!(out, ", nrelids: ", self.relations.len(), ", relids: ");
            put_list(out, self.relations.iter(), |relation, out| {
                put!(out, relation);
                style.relieve(out);
            });
        } else {
            put_spaced(self.flags, &OLD_TRUNCATE_FLAGS, out);
            put!(out, "nrelids ", self.relations.len(), " relids");
            for relation in self.relations.iter() {
                put!(out, " ", relation);
                style.relieve(out);
            }
        }
    }
}

impl<'a> Inplace<'a> {
    fn read(reader: &mut Reader<'a>, major: u32) -> Option<Self> {
        let offset = reader.u16()?;
        let invalidations = if major >= 18 {
            reader.take(2)?;
            Some(Invalidations::read(&mut Data::near(*reader))?)
        } else {
            None
        };
        Some(Self { offset, invalidations })
    }
}
