//! A piece of a segment in memory: some pages, read or mapped at once, looked at page by page.
//!
//! Mapped are pieces of finished segments: files as long as a segment behind which the log goes on
//! in the next one. Whatever may still be written, and whatever is compressed, is read.

use std::fs::File;
use std::io;

use pg_types::{Lsn, SegmentNumber};
use wal_format::{PageHeader, SHORT_HEADER_LEN};

use super::files::{Segment, Segments};
use super::map::Mapped;

/// Read at a time. It stays in the processor's nearer caches, which keeps the copy from the page
/// cache cheap: 256 KiB take a tenth longer.
const WINDOW_BYTES: usize = 64 << 10;

/// Mapped at a time: a map costs some microseconds, and counts as the program's memory.
const MAPPED_BYTES: usize = 1 << 20;

/// The bytes from `start` on; see the [module](self).
pub(super) struct Window {
    bytes: Bytes,
    start: Lsn,
    open: Option<Open>,
    /// Behind this little is read: no more is mapped than is left before it.
    horizon: Lsn,
}

enum Bytes {
    Read(Vec<u8>),
    Mapped(Mapped),
}

struct Open {
    number: SegmentNumber,
    segment: Segment,
    finished: bool,
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
        let bytes = Bytes::Read(Vec::new());
        Self { bytes, start: Lsn::INVALID, open: None, horizon: Lsn::MAX }
    }

    /// Lets little be expected to be read behind a position.
    pub(super) fn expect_until(&mut self, horizon: Lsn) {
        self.horizon = horizon;
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Read(bytes) => bytes,
            Bytes::Mapped(mapped) => mapped,
        }
    }

    /// The bytes from a position on, as many as there are in memory.
    #[inline]
    pub(super) fn from(&self, at: Lsn) -> &[u8] {
        let from = at.checked_since(self.start).and_then(|from| usize::try_from(from).ok());
        from.and_then(|from| self.bytes().get(from..)).unwrap_or_default()
    }

    /// So many bytes at a position; none if they aren't all there.
    #[inline]
    pub(super) fn get(&self, at: Lsn, len: usize) -> &[u8] {
        self.from(at).get(..len).unwrap_or_default()
    }

    /// Forgets what was read, so that it is read anew: a server may have written since.
    pub(super) fn forget(&mut self) {
        match &mut self.bytes {
            Bytes::Read(bytes) => bytes.clear(),
            Bytes::Mapped(_) => self.bytes = Bytes::Read(Vec::new()),
        }
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
        let ahead = usize::try_from(self.horizon.saturating_since(page)).unwrap_or(usize::MAX);
        let open = self.open(segments, number)?;
        if let Some(file) = open.to_map() {
            let most = MAPPED_BYTES.min(ahead).max(WINDOW_BYTES).min(left);
            if let Some(mapped) = Mapped::new(file, offset, most) {
                (self.bytes, self.start) = (Bytes::Mapped(mapped), page);
                return Ok(());
            }
        }
        let mut bytes = match std::mem::replace(&mut self.bytes, Bytes::Read(Vec::new())) {
            Bytes::Read(bytes) => bytes,
            Bytes::Mapped(_) => Vec::new(),
        };
        bytes.resize(WINDOW_BYTES.min(left), 0);
        let got = self.open(segments, number)?.segment.read_at(&mut bytes, offset);
        let got = got.map_err(|error| Missing::Read { number, offset, error })?;
        bytes.truncate(got);
        (self.bytes, self.start) = (Bytes::Read(bytes), page);
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
        let got = self.open(segments, number)?.segment.read_at(buffer, 0);
        let got = got.map_err(|error| Missing::Read { number, offset: 0, error })?;
        if got < buffer.len() {
            let wanted = buffer.len() - got;
            return Err(Missing::Short { number, offset: got as u64, wanted });
        }
        Ok(())
    }

    fn open(&mut self, segments: &Segments, number: SegmentNumber) -> Result<&mut Open, Missing> {
        let open = match self.open.take() {
            Some(open) if open.number == number => open,
            _ => {
                let opened = segments.open(number);
                let segment = opened.map_err(|error| Missing::File { number, error })?;
                let finished = is_finished(&segment, segments, number);
                Open { number, segment, finished }
            }
        };
        Ok(self.open.insert(open))
    }
}

impl Open {
    /// The file, if it may be mapped.
    fn to_map(&self) -> Option<&File> {
        match &self.segment {
            Segment::Plain(file) if self.finished => Some(file),
            Segment::Plain(_) | Segment::Packed(_) => None,
        }
    }
}

/// Whether a segment won't be written to any more: it is there as a whole, and the log goes on in
/// the next one, whose file may have been made in advance.
fn is_finished(segment: &Segment, segments: &Segments, number: SegmentNumber) -> bool {
    let Segment::Plain(file) = segment else { return false };
    let is_whole = file.metadata().is_ok_and(|of| of.len() == segments.size.bytes());
    if !is_whole {
        return false;
    }
    let next = number.next();
    let mut page = [0; SHORT_HEADER_LEN];
    let read = segments.open(next).and_then(|mut next| next.read_at(&mut page, 0));
    let starts = next.start(segments.size);
    read.is_ok() && PageHeader::read(&page).is_some_and(|header| header.address == starts)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use pg_types::SegmentSize;

    use super::super::files::Forms;
    use super::*;

    /// Two segments of a megabyte, of which the second's first page may say where it lies.
    fn window(goes_on: bool) -> (tempfile::TempDir, Segments, Window) {
        let dir = tempfile::tempdir().unwrap();
        let size = SegmentSize::new(1 << 20).unwrap();
        let (timeline, branch, forms) = (1, None, Forms::Plain);
        let segments = Segments { dir: dir.path().into(), size, timeline, branch, forms };
        for number in [1, 2].map(SegmentNumber::new) {
            let path = dir.path().join(segments.name_of(number));
            let mut bytes = vec![0; 1 << 20];
            if goes_on {
                bytes[8..16].copy_from_slice(&number.start(size).as_u64().to_le_bytes());
            }
            fs::write(path, bytes).unwrap();
        }
        (dir, segments, Window::new())
    }

    fn is_mapped(window: &Window) -> bool {
        matches!(window.bytes, Bytes::Mapped(_))
    }

    #[test]
    fn only_what_is_finished_is_mapped() {
        let at = Lsn::new(1 << 20);
        for goes_on in [true, false] {
            let (_dir, segments, mut window) = window(goes_on);
            window.fill(&segments, at, 8192).unwrap();
            assert_eq!(is_mapped(&window), goes_on);
            // Behind the second there is none.
            window.fill(&segments, Lsn::new(2 << 20), 8192).unwrap();
            assert!(!is_mapped(&window));
        }
    }

    #[test]
    fn no_more_is_mapped_than_is_read() {
        let (_dir, segments, mut window) = window(true);
        let at = Lsn::new((1 << 20) + 8192);
        window.expect_until(at.saturating_add(300_000));
        window.fill(&segments, at, 8192).unwrap();
        assert_eq!(window.bytes().len(), 300_000);
        window.expect_until(Lsn::INVALID);
        window.close();
        window.fill(&segments, at, 8192).unwrap();
        assert_eq!(window.bytes().len(), WINDOW_BYTES);
    }

    /// A file that was cut off is read, and said to be short, and kills nobody.
    #[test]
    fn a_segment_that_is_cut_off_is_read() {
        let (_dir, segments, mut window) = window(true);
        let path = segments.dir.join(segments.name_of(SegmentNumber::new(1)));
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(10_000).unwrap();
        let at = Lsn::new(1 << 20);
        window.fill(&segments, at, 8192).unwrap();
        assert!(!is_mapped(&window));
        let short = window.fill(&segments, at.saturating_add(8192), 8192);
        assert!(matches!(short, Err(Missing::Short { offset: 10_000, .. })), "{short:?}");
    }

    #[test]
    fn what_is_mapped_is_what_the_file_has() {
        let (_dir, segments, mut window) = window(true);
        let path = segments.dir.join(segments.name_of(SegmentNumber::new(1)));
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"here", 500_000).unwrap();
        window.fill(&segments, Lsn::new((1 << 20) + 491_520), 16_384).unwrap();
        assert!(is_mapped(&window));
        assert_eq!(window.get(Lsn::new((1 << 20) + 500_000), 4), b"here");
    }
}
