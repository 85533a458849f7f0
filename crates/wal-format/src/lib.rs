//! The write-ahead log as bytes: pages, records, block references, and the streaming
//! [`Validator`] that proves them.
//!
//! Every byte that this crate reads comes from outside. It never panics on one, never indexes
//! unchecked, never allocates by a length that it read, and never takes a wrong byte for the end
//! of the log: each error names its kind and its position, and the caller decides what it means.
//!
//! No I/O. Layouts are those of 10–18, little-endian, each cited at the type that mirrors it; what
//! differs between versions is asked of a [`WalVersion`] value.

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

mod bytes;
pub mod crc;
mod error;
mod notable;
mod page;
mod record;
mod rmgr;
mod validate;
mod version;

pub use bytes::Reader;
pub use error::{DecodeError, DecodeErrorKind};
pub use notable::{Notable, RestorePointName, TimestampTz, is_switch};
pub use page::{LONG_HEADER_LEN, LongHeader, PageFlags, PageHeader, SHORT_HEADER_LEN};
pub use record::{
    BlockImage, BlockReference, Compression, MAX_BLOCK_ID, MAX_HEADERS_LEN, MAX_RECORD_LEN,
    MalformedRecord, RECORD_HEADER_LEN, RecordBody, RecordHeader, RelFileLocator, SpareBlocks,
};
pub use rmgr::RmgrId;
pub use validate::{Expect, Record, Validator, Visitor};
pub use version::WalVersion;
