//! Main data that isn't all in memory: a transaction's lists may have a gigabyte. Numbers are read
//! where they lie, lists are left there until somebody goes through them.

use std::cell::OnceCell;
use std::fmt;

use wal_format::Reader;

use crate::layout::{Field, Items};
use crate::{Source, c_string};

/// A record's main data, wherever it is.
pub trait Far {
    /// Fills a buffer with the bytes at an offset of the main data; false where they can't be had.
    fn read_at(&self, offset: usize, buffer: &mut [u8]) -> bool;
}

/// The main data of a record of which [`Source`]'s body has the beginning.
#[derive(Clone, Copy)]
pub struct Rest<'a> {
    /// Where all of it is.
    pub far: &'a dyn Far,
    /// How long it is altogether.
    pub len: usize,
    /// Keeps the one name that may lie behind the lists.
    pub name: &'a OnceCell<Vec<u8>>,
}

impl fmt::Debug for Rest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").field("len", &self.len).finish_non_exhaustive()
    }
}

/// So much text is let come together before it is taken.
pub(crate) const RELIEF_BYTES: usize = 64 << 10;

/// No name is longer (`GIDSIZE`, `access/xact.h`, with the zero at its end).
const MOST_NAME_BYTES: usize = 200;

/// The largest field.
const MOST_FIELD_BYTES: usize = 16;

/// A cursor over main data.
#[derive(Clone, Copy)]
pub(crate) struct Data<'a> {
    near: Reader<'a>,
    rest: Option<Rest<'a>>,
    offset: usize,
    len: usize,
}

impl<'a> Data<'a> {
    pub(crate) fn of(source: &Source<'a>) -> Self {
        let near = Reader::new(source.body.main_data);
        let len = source.rest.map_or(near.remaining(), |rest| rest.len);
        Self { near, rest: source.rest, offset: 0, len }
    }

    /// Of a part that is all there.
    pub(crate) fn near(near: Reader<'a>) -> Self {
        Self { near, rest: None, offset: 0, len: near.remaining() }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.len.saturating_sub(self.offset)
    }

    /// The next value.
    #[inline]
    pub(crate) fn field<T: Field>(&mut self) -> Option<T> {
        if let Some(near) = self.take(T::SIZE) {
            return T::read(&mut Reader::new(near));
        }
        let rest = self.rest.filter(|_| self.remaining() >= T::SIZE)?;
        let mut bytes = [0; MOST_FIELD_BYTES];
        let bytes = bytes.get_mut(..T::SIZE)?;
        if !rest.far.read_at(self.offset, bytes) {
            return None;
        }
        self.skip(T::SIZE)?;
        T::read(&mut Reader::new(bytes))
    }

    /// The next bytes, of which all have to be near.
    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.near.take(len)?;
        self.offset = self.offset.saturating_add(len);
        Some(taken)
    }

    /// Passes bytes over.
    pub(crate) fn skip(&mut self, len: usize) -> Option<()> {
        if self.remaining() < len {
            return None;
        }
        self.near.take(len.min(self.near.remaining()))?;
        self.offset = self.offset.saturating_add(len);
        Some(())
    }

    /// A list, with a count as the server keeps it: an `int`, of which it takes a negative one for
    /// none.
    pub(crate) fn items<T: Field>(&mut self, count: i32) -> Option<Items<'a, T>> {
        let len = usize::try_from(count).unwrap_or(0).checked_mul(T::SIZE)?;
        if let Some(near) = self.take(len) {
            return Some(Items::near(near));
        }
        let (rest, offset) = (self.rest?, self.offset);
        self.skip(len)?;
        Some(Items::far(rest.far, offset, len))
    }

    /// A name, the zero at its end passed over.
    pub(crate) fn name(&mut self) -> Option<&'a [u8]> {
        if let Some(len) = self.near.rest().iter().position(|byte| *byte == 0) {
            let name = self.take(len)?;
            self.skip(1)?;
            return Some(name);
        }
        let rest = self.rest?;
        let mut bytes = vec![0; MOST_NAME_BYTES.min(self.remaining())];
        if !rest.far.read_at(self.offset, &mut bytes) {
            return None;
        }
        let len = bytes.iter().position(|byte| *byte == 0)?;
        self.skip(len.checked_add(1)?)?;
        Some(c_string(rest.name.get_or_init(|| bytes)))
    }
}
