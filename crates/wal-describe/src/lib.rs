//! What the records of each resource manager say: decoded, as fields with names, and as the text
//! that the pg_waldump of the WAL's own version prints.
//!
//! [`Payload::of`] decodes a record; its text ([`describe`]) and its fields (it serialises) come
//! from the same value, so that a layout is written down once. What differs between versions is
//! asked of the version; layouts are those of the server headers, each cited at the type that
//! mirrors it.
//!
//! Never panics on a payload, never reads past one, never allocates by a number in it: what is
//! shorter than it says is [`Payload::Malformed`]. No I/O; text goes to a buffer that the caller
//! reuses.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::arithmetic_side_effects
    )
)]

pub mod brin;
pub mod btree;
pub mod cluster;
pub mod far;
pub mod gin;
pub mod gist;
pub mod hash;
pub mod heap;
pub mod heap2;
mod identify;
mod invalidation;
mod known;
mod layout;
mod path;
pub mod prune;
pub mod replication;
mod rmgr;
pub mod slru;
pub mod spgist;
pub mod standby;
#[cfg(test)]
mod tests;
mod text;
mod tid;
mod time;
pub mod transaction;
pub mod xlog;

use std::cell::RefCell;

use pg_types::Lsn;
use serde::Serialize;
use wal_format::{BlockReference, RecordBody, RecordHeader, WalVersion};

pub use identify::identify;
pub use invalidation::{Invalidation, Invalidations};
pub use layout::Items;
pub use path::fork_name;
pub use rmgr::{RmgrName, builtin_rmgrs, custom_rmgrs, rmgr_by_name, rmgr_name};
pub use tid::Tid;
pub use time::{Time, Zone};

/// A record, taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The version that wrote it.
    pub version: WalVersion,
    /// Where it starts.
    pub lsn: Lsn,
    /// Its header.
    pub header: &'a RecordHeader,
    /// Its body; of one that isn't all in memory what is.
    pub body: &'a RecordBody<'a>,
    /// The main data of one that isn't all in memory.
    pub rest: Option<far::Rest<'a>>,
}

/// Takes text off a buffer.
type Relief<'a> = dyn Fn(&mut Vec<u8>) + 'a;

/// How text is written.
pub(crate) struct Style<'a> {
    pub(crate) version: WalVersion,
    pub(crate) zone: &'a Zone,
    /// Takes text off the buffer within a list that may be long.
    pub(crate) relief: Option<&'a Relief<'a>>,
}

impl Style<'_> {
    /// Whether the text is that of this major version or of a later one.
    #[inline]
    pub(crate) fn since(&self, major: u32) -> bool {
        self.version.major() >= major
    }

    /// Lets text be taken off, within a list.
    #[inline]
    pub(crate) fn relieve(&self, out: &mut Vec<u8>) {
        if out.len() >= far::RELIEF_BYTES
            && let Some(relief) = self.relief
        {
            relief(out);
        }
    }
}

/// What a record says: its manager's value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Payload<'a> {
    /// The log itself
    Xlog(xlog::Xlog<'a>),
    /// Transactions
    Transaction(transaction::Transaction<'a>),
    /// Files
    Storage(cluster::Storage),
    /// Transactions' status
    Clog(slru::Clog),
    /// Databases
    Database(cluster::Database<'a>),
    /// Tablespaces
    Tablespace(cluster::Tablespace<'a>),
    /// Multixacts
    MultiXact(slru::MultiXact<'a>),
    /// The map of catalogs
    RelMap(cluster::RelMap),
    /// For a hot standby
    Standby(standby::Standby<'a>),
    /// Tables' pages, the rest
    Heap2(heap2::Heap2<'a>),
    /// Tables' pages
    Heap(heap::Heap<'a>),
    /// B-tree indexes
    Btree(btree::Btree<'a>),
    /// Hash indexes
    Hash(hash::Hash),
    /// GIN indexes
    Gin(gin::Gin<'a>),
    /// GiST indexes
    Gist(gist::Gist),
    /// Sequences
    Sequence(cluster::Sequence),
    /// SP-GiST indexes
    SpGist(spgist::SpGist),
    /// BRIN indexes
    Brin(brin::Brin),
    /// Commit times
    CommitTs(slru::CommitTs),
    /// Replication origins
    Origin(replication::Origin),
    /// Extensions' changes
    Generic(replication::Generic<'a>),
    /// Logical messages
    LogicalMessage(replication::LogicalMessage<'a>),
    /// An extension's, of which nothing is known.
    Custom {
        /// The manager's number.
        rmid: u8,
    },
    /// The data is shorter than what it says of itself. Where the record's CRC holds, its writer
    /// made it so; the server's own program reads past the end.
    Malformed(Malformed),
    /// A record type of 10–13 that isn't known to be what it is in 14.
    NotDescribed(NotDescribed),
}

/// A payload that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Malformed {
    /// How many bytes of main data there are.
    pub malformed_bytes: usize,
}

/// A payload that nothing is said of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NotDescribed {
    /// How many bytes of main data there are.
    pub undescribed_bytes: usize,
}

impl<'a> Payload<'a> {
    /// Decodes what the record's manager says.
    #[must_use]
    pub fn of(source: &Source<'a>) -> Self {
        let header = source.header;
        if !known::is_known(source.version, header.rmgr, header.info) {
            let undescribed_bytes = source.body.main_data.len();
            return Self::NotDescribed(NotDescribed { undescribed_bytes });
        }
        let read = match header.rmgr.0 {
            0 => xlog::Xlog::read(source).map(Self::Xlog),
            1 => transaction::Transaction::read(source).map(Self::Transaction),
            2 => cluster::Storage::read(source).map(Self::Storage),
            3 => slru::Clog::read(source).map(Self::Clog),
            4 => cluster::Database::read(source).map(Self::Database),
            5 => cluster::Tablespace::read(source).map(Self::Tablespace),
            6 => slru::MultiXact::read(source).map(Self::MultiXact),
            7 => cluster::RelMap::read(source).map(Self::RelMap),
            8 => standby::Standby::read(source).map(Self::Standby),
            9 => heap2::Heap2::read(source).map(Self::Heap2),
            10 => heap::Heap::read(source).map(Self::Heap),
            11 => btree::Btree::read(source).map(Self::Btree),
            12 => hash::Hash::read(source).map(Self::Hash),
            13 => gin::Gin::read(source).map(Self::Gin),
            14 => gist::Gist::read(source).map(Self::Gist),
            15 => cluster::Sequence::read(source).map(Self::Sequence),
            16 => spgist::SpGist::read(source).map(Self::SpGist),
            17 => brin::Brin::read(source).map(Self::Brin),
            18 => slru::CommitTs::read(source).map(Self::CommitTs),
            19 => replication::Origin::read(source).map(Self::Origin),
            20 => Some(Self::Generic(replication::Generic::read(source))),
            21 => replication::LogicalMessage::read(source).map(Self::LogicalMessage),
            rmid => Some(Self::Custom { rmid }),
        };
        let malformed_bytes = source.body.main_data.len();
        read.unwrap_or(Self::Malformed(Malformed { malformed_bytes }))
    }

    fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Xlog(payload) => payload.text(style, out),
            Self::Transaction(payload) => payload.text(style, out),
            Self::Storage(payload) => payload.text(style, out),
            Self::Clog(payload) => payload.text(out),
            Self::Database(payload) => payload.text(out),
            Self::Tablespace(payload) => payload.text(out),
            Self::MultiXact(payload) => payload.text(out),
            Self::RelMap(payload) => payload.text(style, out),
            Self::Standby(payload) => payload.text(style, out),
            Self::Heap2(payload) => payload.text(style, out),
            Self::Heap(payload) => payload.text(style, out),
            Self::Btree(payload) => payload.text(style, out),
            Self::Hash(payload) => payload.text(style, out),
            Self::Gin(payload) => payload.text(out),
            Self::Gist(payload) => payload.text(style, out),
            Self::Sequence(payload) => payload.text(out),
            Self::SpGist(payload) => payload.text(style, out),
            Self::Brin(payload) => payload.text(out),
            Self::CommitTs(payload) => payload.text(out),
            Self::Origin(payload) => payload.text(out),
            Self::Generic(payload) => payload.text(out),
            Self::LogicalMessage(payload) => payload.text(style, out),
            Self::Custom { rmid } => text::put!(out, "rmid: ", *rmid),
            Self::Malformed(Malformed { malformed_bytes }) => {
                text::put!(out, "malformed: ", *malformed_bytes, " bytes of data");
            }
            Self::NotDescribed(NotDescribed { undescribed_bytes }) => {
                let bytes = *undescribed_bytes;
                text::put!(out, "not described for this version: ", bytes, " bytes of data");
            }
        }
    }
}

/// Appends the record's description (`rm_desc`), as pg_waldump prints it behind the record type's
/// name and before the block references.
pub fn describe(source: &Source<'_>, zone: &Zone, out: &mut Vec<u8>) {
    let style = Style { version: source.version, zone, relief: None };
    Payload::of(source).text(&style, out);
}

/// As [`describe`], of a record whose text may be long: `relieve` takes it off the buffer now and
/// then.
pub fn describe_long(
    source: &Source<'_>,
    zone: &Zone,
    relieve: &mut dyn FnMut(&mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    let relieve = RefCell::new(relieve);
    let relief = |out: &mut Vec<u8>| relieve.borrow_mut()(out);
    let style = Style { version: source.version, zone, relief: Some(&relief) };
    Payload::of(source).text(&style, out);
}

impl<'a> Source<'a> {
    /// The bits of `xl_info` that are the manager's.
    pub(crate) fn info(&self) -> u8 {
        self.header.info & identify::RMGR_INFO
    }

    /// The block reference of this id.
    pub(crate) fn block(&self, id: u8) -> Option<&'a BlockReference<'a>> {
        self.body.blocks.iter().find(|block| block.id == id)
    }

    /// The data of the block reference of this id; where there is only the page's image, none.
    pub(crate) fn block_data(&self, id: u8) -> Option<&'a [u8]> {
        self.block(id)?.data
    }
}

/// The bytes up to the first zero, or all of them: what `%s` prints.
pub(crate) fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}
