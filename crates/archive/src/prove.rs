//! Proving what is stored: a validator is fed files, and begins as far back as the record does that
//! runs over where it is wanted.

use std::path::{Path, PathBuf};

use disk::{Access, AlignedBuf, DiskError, ErrorKind};
use pg_types::{Branch, Lsn, SegmentNumber, TimelineId};
use wal_format::{
    DecodeError, Expect, LONG_HEADER_LEN, PageFlags, PageHeader, SHORT_HEADER_LEN, Validator,
    Visitor,
};

use crate::index::IndexBuilder;
use crate::reader::feed;
use crate::{ArchiveError, Catalogue};

/// How much is read at once: large enough to be fast past the page cache, small enough to be
/// nothing beside the receiver's bound of 16 MiB.
pub(crate) const READ_LEN: usize = 1 << 20;

/// A validator that knows the record running over its position, and what it has seen.
#[derive(Clone, Debug)]
pub(crate) struct Primed {
    pub(crate) validator: Validator,
    pub(crate) index: IndexBuilder,
    /// The first segment that was decoded from its start.
    pub(crate) from: SegmentNumber,
}

impl Primed {
    /// The end of what is proved.
    pub(crate) fn proved(&self) -> Lsn {
        self.validator.proved().0
    }
}

impl Catalogue {
    /// A validator at the start of `number` that knows the record running over it, from as far
    /// back as that begins; one that doesn't where the segments before it are missing or damaged.
    pub(crate) fn primed(
        &self,
        branch: &Branch,
        number: SegmentNumber,
    ) -> Result<(Primed, Option<String>), ArchiveError> {
        let size = self.layout.segment_size;
        let mut before = Vec::new();
        let mut from = number;
        while let Some(previous) = from.previous() {
            let Some(path) = self.whole_segment(branch, previous)? else { break };
            from = previous;
            // What doesn't unpack is said below.
            let starts_a_record = match self.starts_a_record(&path) {
                Err(error) if error.kind() == ErrorKind::Corrupt => true,
                starts => starts?,
            };
            before.push(path);
            if starts_a_record {
                break;
            }
        }
        let timeline = branch.timeline();
        let mut primed = self.unprimed(timeline, from.start(size));
        for path in before.iter().rev() {
            let error = match self.feed(path, &mut primed) {
                Err(error) if error.kind() == ErrorKind::Corrupt => Some(error.to_string()),
                ended => ended?.map(|error| error.to_string()),
            };
            if let Some(error) = error {
                let unprimed = self.unprimed(timeline, number.start(size));
                let note = format!(
                    "{} is damaged: {error}; the record that runs over its end can't be proved",
                    path.display()
                );
                return Ok((unprimed, Some(note)));
            }
        }
        // What lies on older timelines is settled there.
        let begin = branch.stretches().last().map_or(Lsn::INVALID, |newest| newest.begin);
        primed.from = primed.from.max(begin.segment(size).min(number));
        Ok((primed, None))
    }

    /// A sealed segment of a branch, of its whole size.
    fn whole_segment(
        &self,
        branch: &Branch,
        number: SegmentNumber,
    ) -> Result<Option<PathBuf>, DiskError> {
        let size = self.layout.segment_size;
        let Some(stretch) = branch.stretch_of(number, size) else { return Ok(None) };
        let path = self.layout.segment(stretch.timeline, number);
        Ok((self.len_of(&path)? == Some(size.bytes())).then_some(path))
    }

    /// A validator at the start of the segment of `at` that knows nothing before it.
    pub(crate) fn unprimed(&self, timeline: TimelineId, at: Lsn) -> Primed {
        let size = self.layout.segment_size;
        let validator = Validator::new(self.expect(timeline), at.segment_start(size));
        Primed { validator, index: IndexBuilder::new(timeline, size), from: at.segment(size) }
    }

    /// Whether any record begins in a whole segment, by its first page's header.
    fn starts_a_record(&self, path: &Path) -> Result<bool, DiskError> {
        let mut block = AlignedBuf::zeroed(disk::BLOCK);
        let (file, _) = self.open_wal(path, Access::Direct)?;
        let len = file.read_at(0, &mut block, disk::BLOCK)?;
        let header = block.get(..len).and_then(PageHeader::read);
        let Some(header) = header else { return Ok(true) };
        if !header.flags.has(PageFlags::FIRST_IS_CONTRECORD) {
            return Ok(true);
        }
        let pages = self.layout.segment_size.bytes() / u64::from(self.identity.geometry.block_size);
        let headers = LONG_HEADER_LEN as u64 + (pages - 1) * SHORT_HEADER_LEN as u64;
        let room = self.layout.segment_size.bytes() - headers;
        Ok(u64::from(header.remaining).next_multiple_of(8) < room)
    }

    /// Feeds a whole segment; gives what stopped it.
    pub(crate) fn feed(
        &self,
        path: &Path,
        to: &mut Primed,
    ) -> Result<Option<DecodeError>, DiskError> {
        self.feed_to(path, &mut to.validator, &mut to.index)
    }

    /// The same for somebody who wants to see the records.
    pub(crate) fn feed_to(
        &self,
        path: &Path,
        validator: &mut Validator,
        visitor: &mut impl Visitor,
    ) -> Result<Option<DecodeError>, DiskError> {
        let partial = path.extension().is_some_and(|extension| extension == "partial");
        let (file, _) = match self.open_wal(path, Access::Direct) {
            // It has got its final name since it was looked at.
            Err(error) if partial && error.kind() == ErrorKind::NotFound => {
                self.open_wal(&path.with_extension(""), Access::Direct)?
            }
            file => file?,
        };
        feed(&*file, 0..file.len()?, validator, visitor)
    }

    pub(crate) fn expect(&self, timeline: TimelineId) -> Expect {
        let system_id = Some(self.identity.system_id);
        Expect { geometry: self.identity.geometry, timeline, system_id }
    }

    /// The first byte in which two files differ, of so many.
    pub(crate) fn difference(
        &self,
        one: &Path,
        other: &Path,
        len: u64,
    ) -> Result<Option<u64>, DiskError> {
        let (one, _) = self.open_wal(one, Access::Direct)?;
        let (other, _) = self.open_wal(other, Access::Direct)?;
        self.first_difference(&*one, &*other, len)
    }
}
