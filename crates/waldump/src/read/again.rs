//! A record that isn't kept, read again: its bytes at any offset, of which most are asked for one
//! after another.

use std::cell::{Cell, RefCell};

use pg_types::Lsn;
use wal_describe::far::Far;

use super::reader::Reader;
use super::trouble::Stop;

/// See the [module](self).
pub struct Again {
    cursor: RefCell<Cursor>,
    /// How many bytes of the record are before its main data.
    before: usize,
    failed: Cell<Option<Stop>>,
}

struct Cursor {
    /// It has found the record.
    reader: Reader,
    at: Lsn,
    /// The offset in the record of what is at `at`.
    offset: usize,
}

impl Again {
    /// Of the record that a reader has found, of whose main data there are `main_len` bytes.
    #[must_use]
    pub fn new(reader: &Reader, main_len: usize) -> Self {
        let reader = reader.beside();
        let before = (reader.found().header.total_len as usize).saturating_sub(main_len);
        let at = reader.found().lsn;
        let cursor = RefCell::new(Cursor { reader, at, offset: 0 });
        Self { cursor, before, failed: Cell::new(None) }
    }

    /// Why the record can't be read any more, if so.
    #[must_use]
    pub fn failed(self) -> Option<Stop> {
        self.failed.into_inner()
    }
}

impl Cursor {
    /// Shows the record from an offset on to `take`, as long as it wants more.
    fn pass(&mut self, offset: usize, take: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Stop> {
        let found = *self.reader.found();
        let total = found.header.total_len as usize;
        if offset < self.offset {
            (self.at, self.offset) = (found.lsn, 0);
        }
        while self.offset < total {
            let (at, piece) = self.reader.piece(self.at, total.saturating_sub(self.offset))?;
            let (first, len) = (self.offset, piece.len());
            let wanted = piece.get(offset.saturating_sub(first)..).unwrap_or_default();
            if !wanted.is_empty() && !take(wanted) {
                // Here again, then: what follows is likely to begin within this piece.
                return Ok(());
            }
            self.at = at.saturating_add(len as u64);
            self.offset = first.saturating_add(len);
        }
        Ok(())
    }
}

impl Far for Again {
    fn read_at(&self, offset: usize, buffer: &mut [u8]) -> bool {
        let mut got = 0;
        let offset = self.before.saturating_add(offset);
        let passed = self.cursor.borrow_mut().pass(offset, &mut |piece| {
            let place = buffer.get_mut(got..).unwrap_or_default();
            let len = place.len().min(piece.len());
            if let (Some(place), Some(piece)) = (place.get_mut(..len), piece.get(..len)) {
                place.copy_from_slice(piece);
            }
            got += len;
            got < buffer.len()
        });
        if let Err(stop) = passed {
            self.failed.set(Some(stop));
        }
        got == buffer.len()
    }
}
