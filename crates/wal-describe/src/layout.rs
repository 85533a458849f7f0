//! Layouts as types: how a C struct's members are read from a payload, and arrays of them that
//! are looked at where they lie.
//!
//! [`layout!`] gives a struct of named fields its one decoder. Members that only some versions
//! have are read by hand, from the version's value.

use std::fmt;
use std::marker::PhantomData;

use pg_types::Lsn;
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use wal_format::{Reader, RelFileLocator, TimestampTz};

use crate::Time;

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
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Items<'a, T> {
    bytes: &'a [u8],
    item: PhantomData<T>,
}

#[expect(private_bounds, reason = "what an item can be is this crate's own business")]
impl<'a, T: Field> Items<'a, T> {
    /// The next `count` items, if so many are left.
    pub(crate) fn read(reader: &mut Reader<'a>, count: usize) -> Option<Self> {
        let bytes = reader.take(count.checked_mul(T::SIZE)?)?;
        Some(Self { bytes, item: PhantomData })
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
        Self { bytes: &[], item: PhantomData }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len().checked_div(T::SIZE).unwrap_or(0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let mut reader = Reader::new(self.bytes);
        std::iter::from_fn(move || T::read(&mut reader))
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
