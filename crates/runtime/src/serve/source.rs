//! Segments that followers read: one reader for all who are in the same one, with what proves its
//! bytes, and the piece that was read last.
//!
//! Whoever is ahead of the others feeds the proof. What is proved goes from the file to a follower's
//! socket without coming here, if both can; otherwise followers at the same place cost one read.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use archive::{ArchiveError, Catalogue, Proof, Reader};
use disk::{AlignedBuf, BLOCK, DiskError};
use pg_types::{Lsn, SegmentNumber, TimelineId, WalFileName};
use pg_wire::stream::EndOfTimeline;
use replication::sender::Piece;

use super::proved::{Proved, State};
use crate::Tip;

/// What is read to feed a proof that begins before the first piece that is wanted.
const GAP_LEN: usize = 256 << 10;
/// Less than this is sent as it was read: the live tail, which others want as well.
const MIN_FROM_FILE: usize = 32 << 10;

/// Why a piece can't be had.
#[derive(Debug)]
pub(super) enum LoadError {
    /// It isn't archived; the name of its segment.
    Missing(String),
    /// It doesn't hold, or the disk fails.
    Broken(ArchiveError),
}

impl From<ArchiveError> for LoadError {
    fn from(error: ArchiveError) -> Self {
        Self::Broken(error)
    }
}

impl From<DiskError> for LoadError {
    fn from(error: DiskError) -> Self {
        Self::Broken(error.into())
    }
}

/// WAL that was read and proved.
#[derive(Debug)]
pub(super) struct Loaded {
    at: Lsn,
    len: usize,
    bytes: AlignedBuf,
}

impl Loaded {
    /// A piece of it, if all is here.
    pub(super) fn get(&self, piece: &Piece) -> Option<&[u8]> {
        let from = usize::try_from(piece.at.checked_since(self.at)?).ok()?;
        self.bytes.get(..self.len)?.get(from..from.checked_add(piece.len)?)
    }
}

/// A piece that is proved, and may be sent.
#[derive(Clone)]
pub(super) enum Content {
    /// It was read.
    Read(Arc<Loaded>),
    /// It is in the segment's file, at this offset.
    InFile(Arc<Source>, u64),
}

/// A file, as it was opened in a session of the receiver: a later one may have another in its place.
type Key = (TimelineId, SegmentNumber, u64);

/// A segment that is read.
pub(super) struct Source {
    key: Key,
    start: Lsn,
    /// Whether it wasn't sealed when it was opened.
    is_growing: bool,
    /// Its proof ended: it is never read again.
    failed: AtomicBool,
    reader: Reader,
    /// As it was opened, if it was sealed, and until it is known to hold.
    state: Mutex<Option<State>>,
    /// Bytes of it that are proved.
    proved: AtomicU64,
    open: Mutex<Open>,
}

struct Open {
    /// `None` if it is all proved already.
    proof: Option<Proof>,
    last: Option<Arc<Loaded>>,
}

/// The segments that somebody reads, and those that needn't be proved again.
#[derive(Default)]
pub(super) struct Sources {
    read: Mutex<BTreeMap<Key, Weak<Source>>>,
    proved: Proved,
}

/// What is to be read, and what decides from where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) piece: Piece,
    /// How the stream's timeline ended, if it has.
    pub(super) end: Option<EndOfTimeline>,
    pub(super) tip: Tip,
    /// Whether a file's bytes can be sent as they are.
    pub(super) takes_files: bool,
}

impl Wanted {
    /// The timelines whose file may have the piece: where the stream's own was left in this segment
    /// the newer one's begins with a copy of its bytes, and the server reads that.
    fn timelines(&self, number: SegmentNumber, catalogue: &Catalogue) -> [Option<TimelineId>; 2] {
        let own = Some(self.piece.timeline);
        let size = catalogue.layout().segment_size;
        match self.end {
            Some(end) if end.switch_point.segment(size) == number => [Some(end.next_timeline), own],
            _ => [own, None],
        }
    }
}

impl Source {
    /// The piece, if it is what was read last and nobody reads just now.
    pub(super) fn cached(&self, wanted: &Wanted) -> Option<Content> {
        let (timeline, _, session) = self.key;
        if timeline != wanted.piece.timeline || session != wanted.tip.session {
            return None;
        }
        let open = self.open.try_lock().ok()?;
        let last = open.last.as_ref().filter(|last| last.get(&wanted.piece).is_some());
        last.map(|last| Content::Read(Arc::clone(last)))
    }

    /// What the system sends its bytes from.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.reader.descriptor()
    }

    fn proved(&self) -> u64 {
        self.proved.load(Ordering::Acquire)
    }

    /// A piece, once it is proved. `None` if the file ends before it does.
    fn load(self: &Arc<Self>, wanted: &Wanted) -> Result<Option<Content>, ArchiveError> {
        let piece = &wanted.piece;
        let offset = piece.at.saturating_since(self.start);
        let from_file =
            wanted.takes_files && piece.len >= MIN_FROM_FILE && self.descriptor().is_some();
        let in_file = || Some(Content::InFile(Arc::clone(self), offset));
        if from_file && offset.saturating_add(piece.len as u64) <= self.proved() {
            return Ok(in_file());
        }
        let read = self.read(piece, offset)?;
        Ok(if from_file && read.is_some() { in_file() } else { read.map(Content::Read) })
    }

    /// Reads a piece, and proves what isn't proved yet.
    fn read(&self, piece: &Piece, offset: u64) -> Result<Option<Arc<Loaded>>, ArchiveError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = open.last.as_ref().filter(|last| last.get(piece).is_some()) {
            return Ok(Some(Arc::clone(last)));
        }
        self.prove_up_to(offset, &mut open)?;
        let capacity = piece.len.next_multiple_of(BLOCK);
        // A buffer that nobody has any more is used again.
        let spare = open.last.take().and_then(Arc::into_inner).map(|last| last.bytes);
        let spare = spare.filter(|spare| spare.capacity() == capacity);
        let mut bytes = spare.unwrap_or_else(|| AlignedBuf::zeroed(capacity));
        let len = self.reader.read_at(offset, &mut bytes)?.min(piece.len);
        if len < piece.len {
            return Ok(None);
        }
        let unseen = usize::try_from(self.proved().saturating_sub(offset)).unwrap_or(usize::MAX);
        if let Some(unseen) = bytes.get(unseen..len).filter(|unseen| !unseen.is_empty()) {
            self.feed(unseen, &mut open)?;
        }
        let loaded = Arc::new(Loaded { at: piece.at, len, bytes });
        open.last = Some(Arc::clone(&loaded));
        Ok(Some(loaded))
    }

    fn feed(&self, bytes: &[u8], open: &mut Open) -> Result<(), ArchiveError> {
        if let Some(proof) = &mut open.proof {
            proof.feed(bytes)?;
        }
        self.proved.fetch_add(bytes.len() as u64, Ordering::Release);
        Ok(())
    }

    /// Has the proof see what is before `offset`.
    fn prove_up_to(&self, offset: u64, open: &mut Open) -> Result<(), ArchiveError> {
        if self.proved() >= offset {
            return Ok(());
        }
        let mut buf = AlignedBuf::zeroed(GAP_LEN);
        while self.proved() < offset {
            let left = usize::try_from(offset - self.proved()).unwrap_or(usize::MAX);
            let len = self.reader.read_at(self.proved(), &mut buf)?.min(left);
            match buf.get(..len).filter(|read| !read.is_empty()) {
                Some(read) => self.feed(read, open)?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Once all of it is proved: as it was before and after, which is said once.
    fn take_state(&self) -> Option<State> {
        if self.proved() < self.reader.len() {
            return None;
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        state.filter(|state| State::of(&self.reader).as_ref() == Some(state))
    }
}

impl Sources {
    /// Has a piece proved; `current` is where the follower read before. It takes the disk.
    pub(super) fn load(
        &self,
        catalogue: &Catalogue,
        wanted: &Wanted,
        current: Option<&Arc<Source>>,
    ) -> Result<(Arc<Source>, Content), LoadError> {
        let layout = catalogue.layout();
        let number = wanted.piece.at.segment(layout.segment_size);
        let mut found = None;
        for timeline in wanted.timelines(number, catalogue).into_iter().flatten() {
            let key = (timeline, number, wanted.tip.session);
            let source = match current.filter(|source| source.key == key) {
                Some(current) => Some(Arc::clone(current)),
                None => self.open(catalogue, key, &wanted.tip)?,
            };
            let Some(source) = source else { continue };
            match source.load(wanted) {
                Ok(Some(content)) => {
                    if let Some(state) = source.take_state() {
                        self.proved.add(timeline, number, state);
                    }
                    return Ok((source, content));
                }
                Ok(None) => {}
                Err(error) => {
                    source.failed.store(true, Ordering::Relaxed);
                    // An unfinished segment before a gap, or in a hole that is being filled, ends
                    // where it isn't WAL any more.
                    let ends =
                        source.is_growing && number != wanted.tip.end.segment(layout.segment_size);
                    found = if ends { found } else { Some(error) };
                }
            }
        }
        let name = WalFileName::segment(wanted.piece.timeline, number);
        let missing = LoadError::Missing(name.display(layout.segment_size).to_string());
        Err(found.map_or(missing, LoadError::Broken))
    }

    fn open(
        &self,
        catalogue: &Catalogue,
        key: Key,
        tip: &Tip,
    ) -> Result<Option<Arc<Source>>, ArchiveError> {
        let (timeline, number, _) = key;
        let known = || {
            let mut sources = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            sources.retain(|_, source| source.strong_count() > 0);
            let source = sources.get(&key).and_then(Weak::upgrade);
            source.filter(|source| !source.failed.load(Ordering::Relaxed))
        };
        if let Some(source) = known() {
            return Ok(Some(source));
        }
        let Some(reader) = open_file(catalogue, timeline, number, tip)? else { return Ok(None) };
        let is_growing = reader.path() == catalogue.layout().partial(timeline, number);
        let state = if is_growing { None } else { State::of(&reader) };
        let is_proved = state.is_some_and(|state| self.proved.holds(timeline, number, state));
        let (proof, proved) = match is_proved {
            true => (None, reader.len()),
            false => (Some(catalogue.prove(&reader)?), 0),
        };
        let source = Arc::new(Source {
            key,
            start: number.start(catalogue.layout().segment_size),
            is_growing,
            failed: AtomicBool::new(false),
            reader,
            state: Mutex::new(state.filter(|_| !is_proved)),
            proved: AtomicU64::new(proved),
            open: Mutex::new(Open { proof, last: None }),
        });
        let mut sources = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        sources.insert(key, Arc::downgrade(&source));
        Ok(Some(source))
    }
}

/// A segment, sealed or not. It may be sealed in between.
fn open_file(
    catalogue: &Catalogue,
    timeline: TimelineId,
    number: SegmentNumber,
    tip: &Tip,
) -> Result<Option<Reader>, ArchiveError> {
    if let Some(sealed) = catalogue.open_segment(timeline, number)? {
        return Ok(Some(sealed));
    }
    // Of the timeline that is received it is known up to where it holds; of others the bytes tell.
    let unfinished = match timeline == tip.timeline {
        true => catalogue.open_growing(timeline, number)?,
        false => catalogue.open_partial(timeline, number)?,
    };
    match unfinished {
        None => catalogue.open_segment(timeline, number),
        unfinished => Ok(unfinished),
    }
}
