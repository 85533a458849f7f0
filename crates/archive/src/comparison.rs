//! A server's WAL held against what is archived, apart from any stream: is it the same history?
//!
//! A stream tells only where it overlaps what is stored, and only if its beginning fits on the
//! record before it. Here the server's bytes are validated by themselves, so that another history
//! is told from damage: both hold, and they differ. Nothing that is archived is changed.

use std::path::{Path, PathBuf};

use disk::{Access, AlignedBuf, BLOCK, DiskError, ReadAt};
use pg_types::{Lsn, TimelineId, WalFileKind};
use wal_format::{Record, Validator};

use crate::open::{Archive, file_lsn};
use crate::{ArchiveError, Catalogue};

/// How much is compared at most: a segment of the usual size. Two histories differ in each of
/// their records that has a time or a transaction in it.
const WINDOW_BYTES: u64 = 16 << 20;
/// How much is read at once of what is archived, and kept at most of what the server has.
const CHUNK_BYTES: usize = 1 << 20;
/// How far behind the window a record may run that is to prove a difference in it.
const PROOF_BYTES: u64 = 16 << 20;

/// What a comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// The same bytes.
    Same,
    /// Both hold, and they differ from this byte on.
    Differs(Lsn),
    /// One of them doesn't hold, or can't be had: nothing follows from it.
    Unsure,
}

/// See the [module](self).
pub struct Comparison {
    timeline: TimelineId,
    from: Lsn,
    until: Lsn,
    /// The archived segment, and where it starts.
    stored: Box<dyn ReadAt>,
    start: Lsn,
    /// What is read of it, from a multiple of the buffer's size on.
    chunk: AlignedBuf,
    chunk_at: Option<Lsn>,
    /// The server's bytes of the same chunk.
    came: Vec<u8>,
    theirs: Validator,
    ours: Validator,
    ours_failed: bool,
    theirs_failed: bool,
    difference: Option<Lsn>,
}

impl Catalogue {
    /// A comparison of the segment that ends at `until` or has it, up to there; `None` if it isn't
    /// archived.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn comparison(
        &self,
        timeline: TimelineId,
        until: Lsn,
    ) -> Result<Option<Comparison>, DiskError> {
        let size = self.layout.segment_size;
        let number = Lsn::new(until.as_u64().saturating_sub(1)).segment(size);
        let start = number.start(size);
        let mut found = None;
        for kind in [WalFileKind::Segment, WalFileKind::Partial] {
            let path = self.path(timeline, number, kind);
            if found.is_none() && self.len_of(&path)?.is_some() {
                found = Some(path);
            }
        }
        let Some(path) = found else { return Ok(None) };
        let page = u64::from(self.identity.geometry.block_size);
        let window = Lsn::new(until.as_u64().saturating_sub(WINDOW_BYTES)).align_down(page);
        let from = start.max(window);
        let validator = Validator::new(self.expect(timeline), from);
        Ok(Some(Comparison {
            timeline,
            from,
            until,
            stored: self.open_wal(&path, Access::Direct)?.0,
            start,
            chunk: AlignedBuf::zeroed(CHUNK_BYTES),
            chunk_at: None,
            came: Vec::new(),
            theirs: validator.clone(),
            ours: validator,
            ours_failed: false,
            theirs_failed: false,
            difference: None,
        }))
    }
}

impl Comparison {
    /// The timeline of what is compared.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Where the server's bytes are to be read from: a page's start.
    #[must_use]
    pub fn from(&self) -> Lsn {
        self.from
    }

    /// What is known so far; `None` if more of the server's bytes are needed.
    #[must_use]
    pub fn likeness(&self) -> Option<Likeness> {
        let position = self.theirs.position();
        match self.difference {
            None if position >= self.until => Some(Likeness::Same),
            None => self.theirs_failed.then_some(Likeness::Unsure),
            Some(_) if self.theirs_failed || self.ours_failed => Some(Likeness::Unsure),
            Some(at) if self.theirs.proved().0 > at => Some(Likeness::Differs(at)),
            Some(_) => {
                let enough = self.until.saturating_add(PROOF_BYTES);
                (position >= enough).then_some(Likeness::Unsure)
            }
        }
    }

    /// Takes the server's next bytes.
    ///
    /// # Errors
    /// If what is archived can't be read.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), DiskError> {
        while !bytes.is_empty() && self.likeness().is_none() {
            let position = self.theirs.position();
            let stored = if position < self.until { self.stored_at(position)? } else { 0..0 };
            let len =
                if position < self.until { stored.len().min(bytes.len()) } else { bytes.len() };
            let Some((now, later)) = bytes.split_at_checked(len).filter(|_| len > 0) else {
                // What is archived ends here.
                self.ours_failed = true;
                self.until = position;
                return Ok(());
            };
            self.theirs_failed |= self.theirs.feed(now, &mut |_: &Record| {}).is_err();
            let ours = self.chunk.get(stored).and_then(|stored| stored.get(..len));
            if let Some(ours) = ours.filter(|ours| !ours.is_empty()) {
                // The rest of a record that began before is proved by nothing.
                let first = self.theirs.records_from().unwrap_or(Lsn::MAX);
                let differs = |byte: &usize| {
                    position.saturating_add(*byte as u64) >= first
                        && ours.get(*byte) != now.get(*byte)
                };
                if self.difference.is_none() && ours != now {
                    let byte = (0..len).find(differs);
                    self.difference = byte.map(|byte| position.saturating_add(byte as u64));
                }
                self.ours_failed |= self.ours.feed(ours, &mut |_: &Record| {}).is_err();
                let room = CHUNK_BYTES.saturating_sub(self.came.len());
                self.came.extend_from_slice(now.get(..room).unwrap_or(now));
            }
            bytes = later;
        }
        Ok(())
    }

    /// Where in the chunk the bytes from a position on are, up to the chunk's end or the window's.
    fn stored_at(&mut self, position: Lsn) -> Result<std::ops::Range<usize>, DiskError> {
        let in_segment = position.saturating_since(self.start);
        let offset = in_segment / CHUNK_BYTES as u64 * CHUNK_BYTES as u64;
        let at = self.start.saturating_add(offset);
        if self.chunk_at != Some(at) {
            let len = self.stored.read_at(offset, &mut self.chunk, CHUNK_BYTES)?;
            debug_assert_eq!(len % BLOCK, 0, "segments are whole blocks");
            self.chunk_at = Some(at);
            if self.difference.is_none() {
                self.came.clear();
            }
        }
        let begin = usize::try_from(in_segment - offset).unwrap_or(CHUNK_BYTES);
        let left = usize::try_from(self.until.saturating_since(position)).unwrap_or(CHUNK_BYTES);
        Ok(begin..CHUNK_BYTES.min(begin.saturating_add(left)))
    }
}

impl Archive {
    /// Keeps what the server has where it differs, if there is room in quarantine: a piece of a
    /// segment, from a multiple of a megabyte in it on, or from where the comparison began.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn keep_difference(&self, of: &Comparison) -> Result<Option<PathBuf>, ArchiveError> {
        let Some(at) = of.difference else { return Ok(None) };
        let segment = self.layout.segment(of.timeline, of.start.segment(self.layout.segment_size));
        let name = segment.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = format!("{name}.server-at-{}", file_lsn(at));
        Ok(self.put_aside(&name, |temporary: &Path| self.files.write_new(temporary, &of.came))?)
    }
}
