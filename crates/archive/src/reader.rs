//! The one way to read archived WAL.
//!
//! [`open_segment`](Catalogue::open_segment) gives a sealed segment,
//! [`open_partial`](Catalogue::open_partial) an unfinished one up to the end of what is proved in
//! it; a compressed file stands for its segment. Whoever passes the bytes on has them proved as they pass, by a [`Proof`]: a file that was
//! whole when it was sealed may have been damaged since.
//!
//! Of one segment alone everything can be proved but the record that runs into it. That one begins
//! in the segment before, mostly on its last page: so the pages there are looked at from the last
//! one back, by their headers, until one has a record's start on it, and the proof begins on that
//! page. It costs a read or two. Where the segment before isn't archived, the rest of that record
//! stays unproved, and the proof says so.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use disk::{Access, AlignedBuf, DiskError, ErrorKind, ReadAt};
use pg_types::{Branch, SegmentNumber, TimelineId, WalFileName};
use wal_format::{
    DecodeError, LONG_HEADER_LEN, PageFlags, PageHeader, Record, SHORT_HEADER_LEN, Validator,
    Visitor,
};

use crate::prove::READ_LEN;
use crate::{ArchiveError, Catalogue};

/// A segment that is open for reading.
pub struct Reader {
    file: Box<dyn ReadAt>,
    path: PathBuf,
    timeline: TimelineId,
    number: SegmentNumber,
    /// How many bytes there are to be read.
    len: u64,
}

impl Reader {
    pub(crate) fn new(
        file: Box<dyn ReadAt>,
        path: PathBuf,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<Self, DiskError> {
        let len = file.len()?;
        Ok(Self { file, path, timeline, number, len })
    }

    /// Its file, relative to the archive; a compressed one has its method's ending.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which segment it is.
    pub(crate) fn number(&self) -> SegmentNumber {
        self.number
    }

    /// How many bytes it has: a segment's size, or fewer where it is unfinished.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Has it end sooner: where its timeline was left.
    #[must_use]
    pub fn up_to(self, len: u64) -> Self {
        Self { len: self.len.min(len), ..self }
    }

    /// Reads as much as the buffer takes from `offset` on, to the buffer's start; fewer bytes only
    /// at the end.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn read_at(&self, offset: u64, buf: &mut AlignedBuf) -> Result<usize, DiskError> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        Ok(self.file.read_at(offset, buf, buf.capacity())?.min(left))
    }

    /// Whether to read a part costs reading all before it: then it is read by one thread, from front
    /// to end.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.file.is_in_order()
    }

    /// What the system can send the bytes from by itself; `None` if the file isn't a segment as it
    /// is, but compressed, say.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }

    /// Feeds all from `offset` on; gives what stopped it.
    pub(crate) fn feed(
        &self,
        offset: u64,
        validator: &mut Validator,
        visitor: &mut impl Visitor,
    ) -> Result<Option<DecodeError>, DiskError> {
        feed(&*self.file, offset..self.len, validator, visitor)
    }

    /// The header of the page at `offset`.
    fn page_header(
        &self,
        offset: u64,
        page: &mut AlignedBuf,
    ) -> Result<Option<PageHeader>, DiskError> {
        let len = self.read_at(offset, page)?;
        Ok(page.get(..len).and_then(PageHeader::read))
    }
}

/// Feeds these bytes of a file; gives what stopped it.
pub(crate) fn feed(
    file: &dyn ReadAt,
    bytes: Range<u64>,
    validator: &mut Validator,
    visitor: &mut impl Visitor,
) -> Result<Option<DecodeError>, DiskError> {
    let (mut buf, mut at) = (AlignedBuf::zeroed(READ_LEN), bytes.start);
    loop {
        let left = usize::try_from(bytes.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = if left == 0 { 0 } else { file.read_at(at, &mut buf, READ_LEN)?.min(left) };
        let Some(read) = buf.get(..len).filter(|read| !read.is_empty()) else { return Ok(None) };
        if let Err(error) = validator.feed(read, visitor) {
            return Ok(Some(error));
        }
        at += len as u64;
    }
}

/// Proves a segment as its bytes pass.
pub struct Proof {
    validator: Validator,
    path: PathBuf,
    before: Option<PathBuf>,
}

impl Proof {
    /// Takes the segment's next bytes.
    ///
    /// # Errors
    /// If they don't hold.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.validator
            .feed(bytes, &mut |_: &Record| {})
            .map_err(|error| ArchiveError::Damaged { path: self.path.clone(), error })
    }

    /// What has seen the segment so far.
    pub(crate) fn into_validator(self) -> Validator {
        self.validator
    }

    /// The segment that would have to be archived for the record that runs into this one to be
    /// proved; `None` if all is.
    #[must_use]
    pub fn lacks(&self) -> Option<&Path> {
        self.before.as_deref()
    }
}

impl Catalogue {
    /// A sealed segment; `None` if it isn't archived.
    ///
    /// # Errors
    /// If it isn't whole, or the disk fails.
    pub fn open_segment(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<Option<Reader>, ArchiveError> {
        let path = self.layout.segment(timeline, number);
        let reader = self.reader(&path, timeline, number)?;
        reader.map(|reader| self.whole(reader)).transpose()
    }

    fn whole(&self, reader: Reader) -> Result<Reader, ArchiveError> {
        let (len, size) = (reader.len, self.layout.segment_size.bytes());
        if len != size {
            return Err(ArchiveError::OddSize { path: reader.path, len, size });
        }
        Ok(reader)
    }

    /// An unfinished segment, up to the end of what is proved in it; `None` if it isn't archived.
    ///
    /// # Errors
    /// If the segment before it is damaged where a record runs from it into this one, or the disk
    /// fails.
    pub fn open_partial(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<Option<Reader>, ArchiveError> {
        let path = self.layout.partial(timeline, number);
        let Some(reader) = self.reader(&path, timeline, number)? else { return Ok(None) };
        let reader = reader.up_to(self.layout.segment_size.bytes());
        let mut validator = self.prove(&reader)?.validator;
        // Where it ends isn't WAL any more.
        _ = reader.feed(0, &mut validator, &mut |_: &Record| {})?;
        let start = number.start(self.layout.segment_size);
        Ok(Some(reader.up_to(validator.proved().0.saturating_since(start))))
    }

    /// A history, of a timeline or of a base backup, as it is; `None` if it isn't archived.
    ///
    /// # Errors
    /// If it has more than `max` bytes, or the disk fails.
    pub fn small_file(&self, name: WalFileName, max: usize) -> Result<Option<Vec<u8>>, DiskError> {
        match self.files.read(&self.layout.file(name), max) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            content => content.map(Some),
        }
    }

    pub(crate) fn reader(
        &self,
        path: &Path,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<Option<Reader>, DiskError> {
        let (file, path) = match self.open_wal(path, Access::Buffered) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        Reader::new(file, path, timeline, number).map(Some)
    }

    /// What proves a segment, from its first byte on.
    ///
    /// # Errors
    /// If a record runs into it from a segment that is damaged there, or the disk fails.
    pub fn prove(&self, reader: &Reader) -> Result<Proof, ArchiveError> {
        let Reader { path, timeline, number, .. } = reader;
        let start = number.start(self.layout.segment_size);
        let unprimed = || Validator::new(self.expect(*timeline), start);
        let mut page = AlignedBuf::zeroed(disk::BLOCK);
        let header = reader.page_header(0, &mut page)?;
        // What isn't a page of this place fails as soon as it is fed.
        let continues = header.is_some_and(|header| {
            header.address == start && header.flags.has(PageFlags::FIRST_IS_CONTRECORD)
        });
        let (validator, before) = match continues {
            true => self.prime(*timeline, *number, &mut page)?,
            false => (Some(unprimed()), None),
        };
        let validator = validator.unwrap_or_else(unprimed);
        Ok(Proof { validator, path: path.clone(), before })
    }

    /// A validator that knows the record which runs over the start of `number`; or the segment
    /// that isn't there to begin it in.
    pub(crate) fn prime(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
        page: &mut AlignedBuf,
    ) -> Result<(Option<Validator>, Option<PathBuf>), ArchiveError> {
        let branch = self.history(timeline)?.unwrap_or_else(|| Branch::root(timeline));
        let size = self.layout.segment_size;
        let (mut before, mut at) = (Vec::new(), number);
        let from = loop {
            let Some(previous) = at.previous() else { return Ok((None, None)) };
            let on = branch.stretch_of(previous, size).map_or(timeline, |on| on.timeline);
            let Some(reader) = self.open_segment(on, previous)? else {
                return Ok((None, Some(self.layout.segment(on, previous))));
            };
            at = previous;
            let from = self.last_page_with_a_start(&reader, page)?;
            before.push(reader);
            if let Some(offset) = from {
                break offset;
            }
        };
        let start = at.start(size).saturating_add(from);
        let mut validator = Validator::new(self.expect(timeline), start);
        let mut offset = from;
        for reader in before.iter().rev() {
            if let Some(error) = reader.feed(offset, &mut validator, &mut |_: &Record| {})? {
                return Err(ArchiveError::Damaged { path: reader.path.clone(), error });
            }
            offset = 0;
        }
        Ok((Some(validator), None))
    }

    /// The last page of a segment on which a record starts; `None` if one runs through all of it.
    fn last_page_with_a_start(
        &self,
        reader: &Reader,
        page: &mut AlignedBuf,
    ) -> Result<Option<u64>, ArchiveError> {
        let block_size = u64::from(self.identity.geometry.block_size);
        let start = reader.number.start(self.layout.segment_size);
        let mut offset = reader.len;
        while let Some(previous) = offset.checked_sub(block_size) {
            offset = previous;
            let header = reader.page_header(offset, page)?;
            let address = start.saturating_add(offset);
            // What is wrong with it is said by the proof that begins here.
            let Some(header) = header.filter(|header| header.address == address) else {
                return Ok(Some(offset));
            };
            if !header.flags.has(PageFlags::FIRST_IS_CONTRECORD) {
                return Ok(Some(offset));
            }
            let header_len = if offset == 0 { LONG_HEADER_LEN } else { SHORT_HEADER_LEN };
            let room = block_size - header_len as u64;
            if u64::from(header.remaining).next_multiple_of(8) < room {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }
}
