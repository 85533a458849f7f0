//! A piece of a segment in memory: a few pages, read at once, looked at page by page.

use std::io;

use pg_types::{Lsn, SegmentNumber};

use super::files::{Segment, Segments};

/// Read at a time. It stays in the processor's nearer caches, which keeps the copy from the page
/// cache cheap: 256 KiB take a tenth longer.
const WINDOW_BYTES: usize = 64 << 10;

/// The bytes from `start` on; see the [module](self).
pub(super) struct Window {
    bytes: Vec<u8>,
    start: Lsn,
    open: Option<(SegmentNumber, Segment)>,
}

/// Why bytes aren't there.
#[derive(Debug)]
pub(super) enum Missing {
    /// The file.
    File { number: SegmentNumber, error: io::Error },
    /// They can't be read.
    Read { number: SegmentNumber, offset: u64, error: io::Error },
    /// The file ends before them.
    Short { number: SegmentNumber, offset: u64, wanted: usize },
}

impl Window {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), start: Lsn::INVALID, open: None }
    }

    /// The bytes from a position on, as many as there are in memory.
    #[inline]
    pub(super) fn from(&self, at: Lsn) -> &[u8] {
        let from = at.checked_since(self.start).and_then(|from| usize::try_from(from).ok());
        from.and_then(|from| self.bytes.get(from..)).unwrap_or_default()
    }

    /// So many bytes at a position; none if they aren't all there.
    #[inline]
    pub(super) fn get(&self, at: Lsn, len: usize) -> &[u8] {
        self.from(at).get(..len).unwrap_or_default()
    }

    /// Forgets what was read, so that it is read anew: a server may have written since.
    pub(super) fn forget(&mut self) {
        self.bytes.clear();
    }

    /// Forgets the file too: another may have its name by now.
    pub(super) fn close(&mut self) {
        self.forget();
        self.open = None;
    }

    /// Lets there be `len` bytes from `page` on, all in one segment.
    pub(super) fn fill(
        &mut self,
        segments: &Segments,
        page: Lsn,
        len: usize,
    ) -> Result<(), Missing> {
        if self.get(page, len).len() == len {
            return Ok(());
        }
        let size = segments.size;
        let number = page.segment(size);
        let offset = page.segment_offset(size);
        let left = usize::try_from(size.bytes() - offset).unwrap_or(WINDOW_BYTES);
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(WINDOW_BYTES.min(left), 0);
        let got = self.open(segments, number)?.read_at(&mut bytes, offset);
        let got = got.map_err(|error| Missing::Read { number, offset, error })?;
        bytes.truncate(got);
        (self.bytes, self.start) = (bytes, page);
        if got < len {
            let offset = offset.saturating_add(got as u64);
            return Err(Missing::Short { number, offset, wanted: len - got });
        }
        Ok(())
    }

    /// The first bytes of a segment, into a buffer of their own.
    pub(super) fn first_page(
        &mut self,
        segments: &Segments,
        number: SegmentNumber,
        buffer: &mut [u8],
    ) -> Result<(), Missing> {
        let got = self.open(segments, number)?.read_at(buffer, 0);
        let got = got.map_err(|error| Missing::Read { number, offset: 0, error })?;
        if got < buffer.len() {
            let wanted = buffer.len() - got;
            return Err(Missing::Short { number, offset: got as u64, wanted });
        }
        Ok(())
    }

    fn open(
        &mut self,
        segments: &Segments,
        number: SegmentNumber,
    ) -> Result<&mut Segment, Missing> {
        let open = match self.open.take() {
            Some(open) if open.0 == number => open,
            _ => {
                let opened = segments.open(number);
                (number, opened.map_err(|error| Missing::File { number, error })?)
            }
        };
        Ok(&mut self.open.insert(open).1)
    }
}
