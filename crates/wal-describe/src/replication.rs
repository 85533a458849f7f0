//! Replication origins (`ReplicationOrigin`; `replication/origin.h`), logical messages
//! (`LogicalMessage`; `replication/message.h`) and extensions' generic changes (`Generic`;
//! `access/generic_xlog.h`).

use pg_types::Lsn;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use wal_format::{BlockReference, Reader};

use crate::far::Data;
use crate::layout::{Field, Items, layout, lossy, lossy_items};
use crate::text::{Hex2, put};
use crate::{Source, Style, c_string};

/// What a record of replication origins says (10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Origin {
    /// `XLOG_REPLORIGIN_SET`
    Set(Set),
    /// `XLOG_REPLORIGIN_DROP` (`xl_replorigin_drop`)
    Drop {
        /// `node_id`
        node: u16,
    },
    /// A number that stands for nothing.
    Nothing,
}

layout! {
    /// `xl_replorigin_set`
    Set {
        /// `remote_lsn`
        remote_lsn: Lsn,
        /// `node_id`
        node: u16,
        /// `force`
        force: bool,
    }
}

/// What a logical message's record says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum LogicalMessage<'a> {
    /// `XLOG_LOGICAL_MESSAGE`
    Message(Message<'a>),
    /// A number that stands for nothing.
    Nothing,
}

/// `xl_logical_message` (10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Message<'a> {
    /// `dbId`
    pub database: u32,
    /// `transactional`
    pub transactional: bool,
    /// The prefix, up to its zero
    #[serde(serialize_with = "lossy")]
    pub prefix: &'a [u8],
    /// The payload, whatever it is
    #[serde(serialize_with = "lossy_items")]
    pub payload: Items<'a, u8>,
}

/// Parts of pages that an extension overwrites. They are the blocks' data, and the main data is
/// empty; the server's description looks at the latter all the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Generic<'a> {
    main_data: &'a [u8],
    blocks: &'a [BlockReference<'a>],
}

/// What is overwritten of a page.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Delta<'a> {
    /// The block reference's id
    pub block: u8,
    /// What is overwritten
    pub regions: Regions<'a>,
}

/// Parts of a page, each with its new bytes behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regions<'a>(&'a [u8]);

/// A part of a page.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Region {
    /// Where in the page
    pub offset: u16,
    /// How many bytes
    pub length: u16,
}

impl Origin {
    pub(crate) fn read(source: &Source<'_>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        Some(match source.info() {
            0x00 => Self::Set(Set::read(&mut data)?),
            0x10 => Self::Drop { node: data.u16()? },
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, out: &mut Vec<u8>) {
        match self {
            Self::Set(set) => {
                put!(out, "set ", set.node, "; lsn ", set.remote_lsn);
                put!(out, "; force: ", u8::from(set.force));
            }
            Self::Drop { node } => put!(out, "drop ", *node),
            Self::Nothing => {}
        }
    }
}

impl<'a> LogicalMessage<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        if source.info() != 0 {
            return Some(Self::Nothing);
        }
        let mut data = Data::of(source);
        let (database, transactional) = (data.field()?, data.field()?);
        data.skip(3)?;
        let prefix = usize::try_from(data.field::<u64>()?).ok()?;
        // A record has no more than an `int` can say.
        let payload = i32::try_from(data.field::<u64>()?).ok()?;
        let prefix = c_string(data.take(prefix)?);
        let payload = data.items(payload)?;
        Some(Self::Message(Message { database, transactional, prefix, payload }))
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        let Self::Message(message) = self else { return };
        put!(out, if message.transactional { "transactional" } else { "non-transactional" });
        put!(out, ", prefix \"", message.prefix, "\"; payload (", message.payload.len());
        put!(out, " bytes): ");
        for (index, byte) in message.payload.iter().enumerate() {
            put!(out, if index > 0 { " " } else { "" }, Hex2(byte));
            style.relieve(out);
        }
    }
}

impl<'a> Generic<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Self {
        Self { main_data: source.body.main_data, blocks: &source.body.blocks }
    }

    /// The pages of which something is overwritten.
    pub fn iter(&self) -> impl Iterator<Item = Delta<'a>> + use<'a> {
        let with_data = |block: &BlockReference<'a>| {
            block.data.map(|data| Delta { block: block.id, regions: Regions(data) })
        };
        self.blocks.iter().filter_map(with_data)
    }

    pub(crate) fn text(&self, out: &mut Vec<u8>) {
        for (index, region) in Regions(self.main_data).iter().enumerate() {
            put!(out, if index > 0 { "; " } else { "" });
            put!(out, "offset ", region.offset, ", length ", region.length);
        }
    }
}

impl Serialize for Generic<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Generic", 1)?;
        fields.serialize_field("blocks", &self.iter().collect::<Vec<_>>())?;
        fields.end()
    }
}

impl Regions<'_> {
    /// The parts in order, up to the first that isn't wholly there.
    pub fn iter(&self) -> impl Iterator<Item = Region> + use<'_> {
        let mut data = Reader::new(self.0);
        std::iter::from_fn(move || {
            let (offset, length) = (data.u16()?, data.u16()?);
            data.take(length.into())?;
            Some(Region { offset, length })
        })
    }
}

impl Serialize for Regions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}
