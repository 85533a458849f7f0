//! Addresses of tuples.

use serde::{Serialize, Serializer};
use wal_format::Reader;

use crate::layout::Field;
use crate::text::{Put, put};

/// Block and offset (`ItemPointerData`, `storage/itemptr.h`): six bytes, the block's upper half
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tid {
    /// The block's number.
    pub block: u32,
    /// The offset in it.
    pub offset: u16,
}

impl Field for Tid {
    const SIZE: usize = 6;
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { block: read_block_id(reader)?, offset: reader.u16()? })
    }
}

/// A block's number in two halves, so that two bytes' alignment is enough (`BlockIdData`).
pub(crate) fn read_block_id(reader: &mut Reader<'_>) -> Option<u32> {
    let (high, low) = (reader.u16()?, reader.u16()?);
    Some(u32::from(high) << 16 | u32::from(low))
}

impl Put for Tid {
    fn put(self, out: &mut Vec<u8>) {
        put!(out, self.block, "/", self.offset);
    }
}

impl Serialize for Tid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("({},{})", self.block, self.offset))
    }
}
