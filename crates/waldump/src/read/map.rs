//! A piece of a finished segment, mapped: the one module of this crate with `unsafe`.
//!
//! What is mapped needn't be copied, which is half of what reading costs where nothing else is
//! made of a record. Only what nobody writes to is mapped ([`super::window`] sees to that), a piece
//! at a time, since what is mapped counts as the program's memory. Its pages are made to be there
//! at once, and where that fails, as on a disk that can't be read, nothing is mapped: reading then
//! says what is wrong.

use std::fs::File;
use std::ops::Deref;

use memmap2::{Advice, Mmap, MmapOptions};

/// Bytes of a file.
pub(super) struct Mapped(Mmap);

impl Mapped {
    /// Maps so many bytes of a file that has them; `None` where it can't be done.
    pub(super) fn new(file: &File, offset: u64, len: usize) -> Option<Self> {
        let mut options = MmapOptions::new();
        options.offset(offset).len(len);
        #[expect(unsafe_code, reason = "a file that nobody writes to is mapped, to be read")]
        // SAFETY: a finished segment isn't written to: an archive's never, a server's not before it
        // has another name. If somebody does so nonetheless while a piece is mapped, what is read is
        // any bytes, of which nothing is believed that isn't checked where it is used; if somebody
        // cuts the file off, the kernel ends the program by SIGBUS.
        let map = unsafe { options.map(file) }.ok()?;
        map.advise(Advice::PopulateRead).ok()?;
        Some(Self(map))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
