//! Layouts as types: how a C struct's members are read from a payload, and arrays of them that
//! are looked at where they lie.
//!
//! [`layout!`] gives a struct of named fields its one decoder. Members that only some versions
//! have are read by hand, from the version's value.

use std::fmt;
use std::marker::PhantomData;
use std::str::{self, Utf8Error};

use pg_types::Lsn;
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use wal_format::{Reader, RelFileLocator, TimestampTz};

use crate::Time;
use crate::far::Far;

/// A value of fixed size in a payload, little-endian, without padding around it.
pub(crate) trait Field: Sized {
    /// Its size in an array, bytes.
    const SIZE: usize;
    /// Reads it; `None` where the payload ends.
    fn read(reader: &mut Reader<'_>) -> Option<Self>;
}

macro_rules! number_fields {
    ($($number:ty),+) => {
        $(impl Field for $number {
            const SIZE: usize = size_of::<$number>();
            #[inline]
            fn read(reader: &mut Reader<'_>) -> Option<Self> {
                reader.array().map(<$number>::from_le_bytes)
            }
        })+
    };
}

number_fields!(u8, i8, u16, u32, i32, u64, i64);

impl Field for bool {
    const SIZE: usize = 1;
    #[inline]
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        reader.u8().map(|byte| byte != 0)
    }
}

impl Field for Lsn {
    const SIZE: usize = 8;
    #[inline]
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        reader.u64().map(Lsn::new)
    }
}

impl Field for Time {
    const SIZE: usize = 8;
    #[inline]
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        reader.i64().map(|micros| Time(TimestampTz(micros)))
    }
}

impl Field for RelFileLocator {
    const SIZE: usize = 12;
    #[inline]
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (tablespace, database) = (reader.u32()?, reader.u32()?);
        Some(Self { tablespace, database, relation: reader.u32()? })
    }
}

/// A struct with its decoder. `[skip N]` before a member is the compiler's padding, as
/// is `@pad N` behind the last.
macro_rules! layout {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($(#[$field_meta:meta])* $([skip $pad:literal])? $field:ident: $type:ty,)*
            $(@pad $tail:literal)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::layout::Field for $name {
            const SIZE: usize =
                0 $($(+ $pad)? + <$type as $crate::layout::Field>::SIZE)* $(+ $tail)?;
            #[inline]
            fn read(reader: &mut wal_format::Reader<'_>) -> Option<Self> {
                $($(reader.take($pad)?;)?
                let $field = <$type as $crate::layout::Field>::read(reader)?;)*
                $(reader.take($tail)?;)?
                Some(Self { $($field),* })
            }
        }
    };
}
pub(crate) use layout;

/// An array in a payload, of which every item is there.
#[derive(Clone, Copy)]
pub struct Items<'a, T> {
    place: Place<'a>,
    item: PhantomData<T>,
}

/// Where an array is.
#[derive(Clone, Copy)]
enum Place<'a> {
    Near(&'a [u8]),
    Far { far: &'a dyn Far, offset: usize, len: usize },
}

#[expect(private_bounds, reason = "what an item can be is this crate's own business")]
impl<'a, T: Field> Items<'a, T> {
    /// The next `count` items, if so many are left.
    pub(crate) fn read(reader: &mut Reader<'a>, count: usize) -> Option<Self> {
        Some(Self::near(reader.take(count.checked_mul(T::SIZE)?)?))
    }

    /// These bytes' items.
    pub(crate) fn near(bytes: &'a [u8]) -> Self {
        Self { place: Place::Near(bytes), item: PhantomData }
    }

    /// Items that are read when they are looked at.
    pub(crate) fn far(far: &'a dyn Far, offset: usize, len: usize) -> Self {
        Self { place: Place::Far { far, offset, len }, item: PhantomData }
    }

    /// As [`Self::read`], with a count as the server keeps it: an `int`, of which it takes a
    /// negative one for none.
    pub(crate) fn read_int(reader: &mut Reader<'a>, count: i32) -> Option<Self> {
        Self::read(reader, usize::try_from(count).unwrap_or(0))
    }

    /// As many as are left.
    pub(crate) fn read_rest(reader: &mut Reader<'a>) -> Self {
        let count = reader.remaining().checked_div(T::SIZE).unwrap_or(0);
        Self::read(reader, count).unwrap_or(Self::none())
    }

    /// None at all.
    #[must_use]
    pub const fn none() -> Self {
        Self { place: Place::Near(&[]), item: PhantomData }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes().checked_div(T::SIZE).unwrap_or(0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    fn bytes(&self) -> usize {
        match self.place {
            Place::Near(bytes) => bytes.len(),
            Place::Far { len, .. } => len,
        }
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let (near, mut far) = match self.place {
            Place::Near(bytes) => (bytes, None),
            Place::Far { far, offset, len } => (&[][..], Some(Pieces::new(far, offset, len))),
        };
        let mut reader = Reader::new(near);
        std::iter::from_fn(move || T::read(&mut reader).or_else(|| far.as_mut()?.next()))
    }
}

/// A far array's items, some of which are here.
struct Pieces<'a> {
    far: &'a dyn Far,
    offset: usize,
    left: usize,
    piece: Vec<u8>,
    used: usize,
}

impl<'a> Pieces<'a> {
    /// Read at a time: some thousand items.
    const PIECE_BYTES: usize = 64 << 10;

    fn new(far: &'a dyn Far, offset: usize, left: usize) -> Self {
        Self { far, offset, left, piece: Vec::new(), used: 0 }
    }

    fn next<T: Field>(&mut self) -> Option<T> {
        if self.used >= self.piece.len() {
            let most = Self::PIECE_BYTES.checked_div(T::SIZE)?.checked_mul(T::SIZE)?;
            self.piece.resize(most.min(self.left), 0);
            if !self.far.read_at(self.offset, &mut self.piece) {
                self.left = 0;
                return None;
            }
            self.offset = self.offset.saturating_add(self.piece.len());
            self.left = self.left.saturating_sub(self.piece.len());
            self.used = 0;
        }
        let item = T::read(&mut Reader::new(self.piece.get(self.used..)?))?;
        self.used = self.used.saturating_add(T::SIZE);
        Some(item)
    }
}

impl<T: Field + PartialEq> PartialEq for Items<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<T: Field + fmt::Debug> fmt::Debug for Items<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: Field + Serialize> Serialize for Items<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.len()))?;
        for item in self.iter() {
            seq.serialize_element(&item)?;
        }
        seq.end()
    }
}

/// Bytes that are text to whoever reads JSON, in whatever encoding they are.
pub(crate) fn lossy<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&String::from_utf8_lossy(bytes))
}

/// The same of bytes that may be far.
pub(crate) fn lossy_items<S: Serializer>(
    bytes: &Items<'_, u8>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Lossy(*bytes))
}

/// Bytes as [`String::from_utf8_lossy`] shows them, of which only some are here at a time.
struct Lossy<'a>(Items<'a, u8>);

impl fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PIECE_BYTES: usize = 4 << 10;
        let mut bytes = self.0.iter();
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        loop {
            let room = PIECE_BYTES.saturating_sub(piece.len());
            piece.extend(bytes.by_ref().take(room));
            let is_last = piece.len() < PIECE_BYTES;
            // A character that breaks off here may go on in the next piece.
            let begun = match piece.utf8_chunks().last().map(|chunk| chunk.invalid()) {
                Some(tail) if !is_last && str::from_utf8(tail).is_err_and(is_begun) => tail.len(),
                _ => 0,
            };
            let whole = piece.len().saturating_sub(begun);
            f.write_str(&String::from_utf8_lossy(piece.get(..whole).unwrap_or_default()))?;
            if is_last {
                return Ok(());
            }
            piece.drain(..whole);
        }
    }
}

/// Whether nothing is wrong but that bytes are missing at the end.
fn is_begun(error: Utf8Error) -> bool {
    error.error_len().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_std_shows_them() {
        for text in ["", "plain", "ä€😀", "broken \u{fffd}"] {
            for tail in [&b""[..], b"\xff", b"\xf0\x9f\x98", b"\xe2\x82x", b"\xc3"] {
                for repeat in [1, 1000, 1023, 4096] {
                    let mut bytes = [text.as_bytes(), tail].concat().repeat(repeat);
                    bytes.extend_from_slice(tail);
                    let shown = Lossy(Items::near(&bytes)).to_string();
                    assert!(shown == String::from_utf8_lossy(&bytes), "{text:?} {tail:?} {repeat}");
                }
            }
        }
    }
}
