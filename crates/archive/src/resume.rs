//! Where streaming goes on: what is in the archive after a crash, and how much of it is proved.
//!
//! Only the newest segment is decoded, with what is needed to prove it: the segment before, and
//! those that the record running into it lies in.

use std::path::{Path, PathBuf};

use disk::{Access, AlignedBuf, DiskError};
use pg_types::{Lsn, SegmentNumber, TimelineId, WalFileName};
use wal_format::{
    DecodeError, LONG_HEADER_LEN, PageFlags, PageHeader, SHORT_HEADER_LEN, Validator,
};

use crate::index::IndexBuilder;
use crate::open::Archive;
use crate::{ArchiveError, Layout};

/// How much is read at once: large enough to be fast past the page cache, small enough to be
/// nothing beside the receiver's bound of 16 MiB.
const READ_LEN: usize = 1 << 20;

/// A writer's beginning.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The timeline that is streamed.
    pub timeline: TimelineId,
    /// Where streaming starts: a segment's start.
    pub start: Lsn,
    /// Proves the stream from `start`, and knows the record that runs over it.
    pub validator: Validator,
    /// The first segment that was decoded from its start.
    pub(crate) decoded_from: SegmentNumber,
    /// What was told of the records from there up to `start`.
    pub(crate) index: IndexBuilder,
    /// What the segment at `start` holds already.
    pub stored: Stored,
    /// What was found and mended, for the log.
    pub notes: Vec<String>,
}

/// What the segment at which streaming starts holds already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// There is no such file.
    Nothing,
    /// There is a `.partial`. What is before `proved` is proved and durable, and must come again
    /// just so; at the segment's start or before, none of it is.
    Partial {
        /// The end of what is proved in it.
        proved: Lsn,
    },
}

impl Resume {
    /// The end of what is archived without a doubt: nothing before it may be acknowledged as
    /// less again.
    #[must_use]
    pub fn proved(&self) -> Lsn {
        match self.stored {
            Stored::Partial { proved } if proved > self.start => proved,
            _ => self.validator.proved().0,
        }
    }
}

impl Archive {
    /// Where streaming of a timeline that nothing is archived of begins.
    #[must_use]
    pub fn begin(&self, timeline: TimelineId, at: Lsn) -> Resume {
        let start = at.segment_start(self.layout.segment_size);
        let Primed { validator, index, from } = self.unprimed(timeline, at);
        let (stored, notes) = (Stored::Nothing, Vec::new());
        Resume { timeline, start, validator, decoded_from: from, index, stored, notes }
    }

    /// Where streaming goes on; `None` if nothing is archived. What a crash left is mended: a
    /// `.partial` that is full gets its name, temporaries go.
    ///
    /// With `rebuild` the `.partial`'s proved bytes are copied into a new file, as they must be
    /// after a write or an fsync of it failed: what such a file holds is never believed again.
    ///
    /// # Errors
    /// If the server is on another timeline than the archive's newest, or the disk fails.
    pub fn resume(
        &self,
        server: TimelineId,
        rebuild: bool,
    ) -> Result<Option<Resume>, ArchiveError> {
        let mut notes = Vec::new();
        self.remove_temporaries()?;
        let Some(timeline) = self.newest_timeline()? else { return Ok(None) };
        if timeline != server {
            let (archive, server) = (timeline.as_u32(), server.as_u32());
            return Err(ArchiveError::OtherTimeline { archive, server });
        }
        let Some(newest) = self.newest_segment(timeline, &mut notes)? else { return Ok(None) };
        let found = self.prove(timeline, newest, &mut notes)?;
        self.files.sync_dir(Path::new(Layout::WAL))?;
        let (start, stored, primed) = match found {
            Found::Whole { primed } => {
                (newest.end(self.layout.segment_size), Stored::Nothing, primed)
            }
            Found::Partial { proved, primed } => {
                let path = self.layout.partial(timeline, newest);
                if rebuild {
                    self.rebuild(timeline, newest, proved)?;
                    notes.push(format!("{} was made anew up to {proved}", path.display()));
                }
                // Only what is fsynced after it was read may be acknowledged.
                self.files.sync_file(&path)?;
                let start = newest.start(self.layout.segment_size);
                (start, Stored::Partial { proved }, primed)
            }
        };
        let Primed { validator, index, from } = primed;
        Ok(Some(Resume { timeline, start, validator, decoded_from: from, index, stored, notes }))
    }

    fn remove_temporaries(&self) -> Result<(), DiskError> {
        let dir = Path::new(Layout::WAL);
        for name in self.files.names(dir)?.iter().filter(|name| Layout::is_temporary(name)) {
            self.files.remove(&dir.join(name))?;
        }
        Ok(())
    }

    /// The newest segment, in just one form, of its full size.
    fn newest_segment(
        &self,
        timeline: TimelineId,
        notes: &mut Vec<String>,
    ) -> Result<Option<SegmentNumber>, ArchiveError> {
        let size = self.layout.segment_size;
        loop {
            let Some(WalFileName::Segment { number, .. }) = self.segments_of(timeline)?.pop()
            else {
                return Ok(None);
            };
            let forms =
                [self.layout.segment(timeline, number), self.layout.partial(timeline, number)];
            let mut whole = Vec::new();
            for path in forms {
                match self.files.len(&path)? {
                    Some(len) if len == size.bytes() => whole.push(path),
                    Some(0) => self.files.remove(&path)?,
                    Some(len) => notes.push(self.aside(&path, &format!("odd-size-{len}"))?),
                    None => {}
                }
            }
            match &whole[..] {
                [] => {}
                [_] => return Ok(Some(number)),
                _ => notes.push(self.keep_longer(timeline, number)?),
            }
        }
    }

    /// A segment under both its names: the one of which more is proved stays.
    fn keep_longer(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<String, ArchiveError> {
        let (sealed, partial) =
            (self.layout.segment(timeline, number), self.layout.partial(timeline, number));
        let mut ends = [Lsn::INVALID; 2];
        for (path, end) in [&sealed, &partial].into_iter().zip(&mut ends) {
            let mut primed = self.primed(timeline, number)?.0;
            let ended = self.feed(path, &mut primed)?;
            let validator = primed.validator;
            *end = if ended.is_none() { validator.position() } else { validator.proved().0 };
        }
        let [sealed_end, partial_end] = ends;
        let loser = if sealed_end >= partial_end { &partial } else { &sealed };
        Ok(self.aside(loser, "double")?)
    }

    /// Moves a file that can't stay out of the way, whether or not quarantine has room.
    fn aside(&self, path: &Path, why: &str) -> Result<String, DiskError> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("unknown");
        let moved = self.quarantine(path, &format!("{name}.{why}"))?;
        match moved {
            Some(to) => Ok(format!("{} was moved aside to {}", path.display(), to.display())),
            None => {
                let to = Path::new(Layout::QUARANTINE).join(format!("{name}.{why}.last"));
                self.files.replace(path, &to)?;
                self.files.sync_dir(Path::new(Layout::QUARANTINE))?;
                Ok(format!("{} was moved aside to {}", path.display(), to.display()))
            }
        }
    }

    /// Proves the newest segment, and gives it the name that it deserves.
    fn prove(
        &self,
        timeline: TimelineId,
        newest: SegmentNumber,
        notes: &mut Vec<String>,
    ) -> Result<Found, ArchiveError> {
        let (sealed, partial) =
            (self.layout.segment(timeline, newest), self.layout.partial(timeline, newest));
        let is_sealed = self.files.len(&sealed)?.is_some();
        let path = if is_sealed { &sealed } else { &partial };
        let (primed, note) = self.primed(timeline, newest)?;
        notes.extend(note);
        let mut at_end = primed.clone();
        let error = self.feed(path, &mut at_end)?;
        let proved = at_end.validator.proved().0;
        match (is_sealed, error) {
            (true, None) => Ok(Found::Whole { primed: at_end }),
            (false, None) => {
                self.files.sync_file(&partial)?;
                self.files.rename(&partial, &sealed)?;
                Ok(Found::Whole { primed: at_end })
            }
            (true, Some(error)) => {
                notes.push(format!("{}: {error}; it is fetched again", sealed.display()));
                self.files.rename(&sealed, &partial)?;
                Ok(Found::Partial { proved, primed })
            }
            (false, Some(_)) => Ok(Found::Partial { proved, primed }),
        }
    }

    /// A validator at the start of `number` that knows the record running over it, from as far
    /// back as that begins; one that doesn't where the segments before it are missing or damaged.
    fn primed(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<(Primed, Option<String>), ArchiveError> {
        let size = self.layout.segment_size;
        let mut from = number;
        while let Some(before) = from.previous() {
            let path = self.layout.segment(timeline, before);
            if self.files.len(&path)? != Some(size.bytes()) {
                break;
            }
            from = before;
            if self.starts_a_record(&path)? {
                break;
            }
        }
        let mut primed = self.unprimed(timeline, from.start(size));
        while from < number {
            let path = self.layout.segment(timeline, from);
            if let Some(error) = self.feed(&path, &mut primed)? {
                let unprimed = self.unprimed(timeline, number.start(size));
                let note = format!(
                    "{} is damaged: {error}; the record that runs over its end can't be proved",
                    path.display()
                );
                return Ok((unprimed, Some(note)));
            }
            from = from.next();
        }
        Ok((primed, None))
    }

    /// A validator at the start of the segment of `at` that knows nothing before it.
    fn unprimed(&self, timeline: TimelineId, at: Lsn) -> Primed {
        let size = self.layout.segment_size;
        let validator = Validator::new(self.expect(timeline), at.segment_start(size));
        Primed { validator, index: IndexBuilder::new(timeline, size), from: at.segment(size) }
    }

    /// Whether any record begins in a whole segment, by its first page's header.
    fn starts_a_record(&self, path: &Path) -> Result<bool, DiskError> {
        let mut block = AlignedBuf::zeroed(disk::BLOCK);
        let file = self.files.open_read(path, Access::Direct)?;
        let len = file.read_at(0, &mut block, disk::BLOCK)?;
        let header = block.get(..len).and_then(PageHeader::read);
        let Some(header) = header else { return Ok(true) };
        if !header.flags.has(PageFlags::FIRST_IS_CONTRECORD) {
            return Ok(true);
        }
        let pages = self.layout.segment_size.bytes() / u64::from(self.geometry.block_size);
        let headers = LONG_HEADER_LEN as u64 + (pages - 1) * SHORT_HEADER_LEN as u64;
        let room = self.layout.segment_size.bytes() - headers;
        Ok(u64::from(header.remaining).next_multiple_of(8) < room)
    }

    /// Feeds a whole segment; gives what stopped it.
    fn feed(&self, path: &Path, to: &mut Primed) -> Result<Option<DecodeError>, DiskError> {
        let file = self.files.open_read(path, Access::Direct)?;
        let mut buf = AlignedBuf::zeroed(READ_LEN);
        let mut offset = 0;
        loop {
            let len = file.read_at(offset, &mut buf, READ_LEN)?;
            let Some(bytes) = buf.get(..len).filter(|bytes| !bytes.is_empty()) else {
                return Ok(None);
            };
            if let Err(error) = to.validator.feed(bytes, &mut to.index) {
                return Ok(Some(error));
            }
            offset += len as u64;
        }
    }

    /// Copies what is proved of a `.partial` into a new file that takes its place.
    fn rebuild(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
        proved: Lsn,
    ) -> Result<(), DiskError> {
        let (temporary, partial): (PathBuf, PathBuf) =
            (self.layout.prepared(timeline, number), self.layout.partial(timeline, number));
        let len = proved.saturating_since(number.start(self.layout.segment_size));
        self.files.copy(&partial, &temporary, len)?;
        self.files.sync_file(&temporary)?;
        self.files.replace(&temporary, &partial)?;
        self.files.sync_dir(Path::new(Layout::WAL))
    }
}

/// A validator that knows the record running over its position, and what it has seen.
#[derive(Clone, Debug)]
struct Primed {
    validator: Validator,
    index: IndexBuilder,
    /// The first segment that was decoded from its start.
    from: SegmentNumber,
}

/// What the newest segment turned out to be.
enum Found {
    /// Whole: every record that ends in it is proved.
    Whole {
        /// At its end.
        primed: Primed,
    },
    /// Proved up to here only.
    Partial {
        /// The end of what is proved.
        proved: Lsn,
        /// At its start.
        primed: Primed,
    },
}
