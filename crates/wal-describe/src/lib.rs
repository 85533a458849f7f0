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

mod identify;
mod invalidation;
mod layout;
mod path;
mod rmgr;
mod text;
mod time;
mod transaction;
mod xlog;

use pg_types::Lsn;
use serde::Serialize;
use wal_format::{BlockReference, RecordBody, RecordHeader, RmgrId, WalVersion};

pub use identify::identify;
pub use invalidation::{Invalidation, Invalidations};
pub use layout::Items;
pub use path::fork_name;
pub use rmgr::{RmgrName, builtin_rmgrs, custom_rmgrs, rmgr_by_name, rmgr_name};
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
    /// Its body.
    pub body: &'a RecordBody<'a>,
}

/// How text is written.
pub(crate) struct Style<'a> {
    pub(crate) version: WalVersion,
    pub(crate) zone: &'a Zone,
}

impl Style<'_> {
    /// Whether the text is that of this major version or of a later one.
    #[inline]
    pub(crate) fn since(&self, major: u32) -> bool {
        self.version.major() >= major
    }
}

/// What a record says: its manager's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Payload<'a> {
    /// The log itself
    Xlog(xlog::Xlog<'a>),
    /// Transactions
    Transaction(transaction::Transaction<'a>),
    /// An extension's, of which nothing is known.
    Custom {
        /// The manager's number.
        rmid: u8,
    },
    /// The data is shorter than what it says of itself. Where the record's CRC holds, its writer
    /// made it so; the server's own program reads past the end.
    Malformed(Malformed),
}

/// A payload that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Malformed {
    /// How many bytes of main data there are.
    pub malformed_bytes: usize,
}

impl<'a> Payload<'a> {
    /// Decodes what the record's manager says.
    #[must_use]
    pub fn of(source: &Source<'a>) -> Self {
        let read = match source.header.rmgr {
            RmgrId(0) => xlog::Xlog::read(source).map(Self::Xlog),
            RmgrId(1) => transaction::Transaction::read(source).map(Self::Transaction),
            RmgrId(rmid) => Some(Self::Custom { rmid }),
        };
        let malformed_bytes = source.body.main_data.len();
        read.unwrap_or(Self::Malformed(Malformed { malformed_bytes }))
    }

    fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Xlog(payload) => payload.text(style, out),
            Self::Transaction(payload) => payload.text(style, out),
            Self::Custom { rmid } => text::put!(out, "rmid: ", *rmid),
            Self::Malformed(Malformed { malformed_bytes }) => {
                text::put!(out, "malformed: ", *malformed_bytes, " bytes of data");
            }
        }
    }
}

/// Appends the record's description (`rm_desc`), as pg_waldump prints it behind the record type's
/// name and before the block references.
pub fn describe(source: &Source<'_>, zone: &Zone, out: &mut Vec<u8>) {
    let style = Style { version: source.version, zone };
    Payload::of(source).text(&style, out);
}

impl<'a> Source<'a> {
    /// The bits of `xl_info` that are the manager's.
    pub(crate) fn info(&self) -> u8 {
        self.header.info & identify::RMGR_INFO
    }

    /// The block reference of this id.
    #[expect(dead_code)]
    pub(crate) fn block(&self, id: u8) -> Option<&'a BlockReference<'a>> {
        self.body.blocks.iter().find(|block| block.id == id)
    }
}

/// The bytes up to the first zero, or all of them: what `%s` prints.
pub(crate) fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}
