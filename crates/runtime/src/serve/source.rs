//! Segments that followers read: one reader for all who are in the same one, with what proves its
//! bytes as they pass, and the piece that was read last.
//!
//! Whoever is ahead of the others feeds the proof. Followers at the same place cost one read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use archive::{ArchiveError, Catalogue, Proof, Reader};
use disk::{AlignedBuf, BLOCK, DiskError};
use pg_types::{Lsn, SegmentNumber, TimelineId, WalFileName};
use pg_wire::stream::EndOfTimeline;
use replication::sender::Piece;

use crate::Tip;

/// What is read to feed a proof that begins before the first piece that is wanted.
const GAP_LEN: usize = 256 << 10;

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
    open: Mutex<Open>,
}

struct Open {
    reader: Reader,
    proof: Proof,
    /// Bytes of the segment that the proof has seen.
    proved: u64,
    last: Option<Arc<Loaded>>,
}

/// The segments that somebody reads.
#[derive(Default)]
pub(super) struct Sources(Mutex<BTreeMap<Key, Weak<Source>>>);

/// What is to be read, and what decides from where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) piece: Piece,
    /// How the stream's timeline ended, if it has.
    pub(super) end: Option<EndOfTimeline>,
    pub(super) tip: Tip,
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
    pub(super) fn cached(&self, wanted: &Wanted) -> Option<Arc<Loaded>> {
        let (timeline, _, session) = self.key;
        if timeline != wanted.piece.timeline || session != wanted.tip.session {
            return None;
        }
        let open = self.open.try_lock().ok()?;
        open.last.as_ref().filter(|last| last.get(&wanted.piece).is_some()).cloned()
    }

    /// Reads a piece, and proves it. `None` if the file ends before it does.
    fn load(&self, piece: &Piece) -> Result<Option<Arc<Loaded>>, ArchiveError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = open.last.as_ref().filter(|last| last.get(piece).is_some()) {
            return Ok(Some(Arc::clone(last)));
        }
        let offset = piece.at.saturating_since(self.start);
        open.prove_up_to(offset)?;
        let capacity = piece.len.next_multiple_of(BLOCK);
        // A buffer that nobody has any more is used again.
        let spare = open.last.take().and_then(Arc::into_inner).map(|last| last.bytes);
        let spare = spare.filter(|spare| spare.capacity() == capacity);
        let mut bytes = spare.unwrap_or_else(|| AlignedBuf::zeroed(capacity));
        let len = open.reader.read_at(offset, &mut bytes)?.min(piece.len);
        if len < piece.len {
            return Ok(None);
        }
        let unseen = usize::try_from(open.proved.saturating_sub(offset)).unwrap_or(usize::MAX);
        if let Some(unseen) = bytes.get(unseen..len).filter(|unseen| !unseen.is_empty()) {
            open.feed(unseen)?;
        }
        let loaded = Arc::new(Loaded { at: piece.at, len, bytes });
        open.last = Some(Arc::clone(&loaded));
        Ok(Some(loaded))
    }
}

impl Open {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.proof.feed(bytes)?;
        self.proved += bytes.len() as u64;
        Ok(())
    }

    /// Has the proof see what is before `offset`.
    fn prove_up_to(&mut self, offset: u64) -> Result<(), ArchiveError> {
        if self.proved >= offset {
            return Ok(());
        }
        let mut buf = AlignedBuf::zeroed(GAP_LEN);
        while self.proved < offset {
            let left = usize::try_from(offset - self.proved).unwrap_or(usize::MAX);
            let len = self.reader.read_at(self.proved, &mut buf)?.min(left);
            match buf.get(..len).filter(|read| !read.is_empty()) {
                Some(read) => self.feed(read)?,
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

impl Sources {
    /// Reads a piece; `current` is where the follower read before. It takes the disk.
    pub(super) fn load(
        &self,
        catalogue: &Catalogue,
        wanted: &Wanted,
        current: Option<&Arc<Source>>,
    ) -> Result<(Arc<Source>, Arc<Loaded>), LoadError> {
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
            match source.load(&wanted.piece) {
                Ok(Some(loaded)) => return Ok((source, loaded)),
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
            let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            sources.retain(|_, source| source.strong_count() > 0);
            let source = sources.get(&key).and_then(Weak::upgrade);
            source.filter(|source| !source.failed.load(Ordering::Relaxed))
        };
        if let Some(source) = known() {
            return Ok(Some(source));
        }
        let Some(reader) = open_file(catalogue, timeline, number, tip)? else { return Ok(None) };
        let is_growing = reader.path() == catalogue.layout().partial(timeline, number);
        let proof = catalogue.prove(&reader)?;
        let open = Mutex::new(Open { reader, proof, proved: 0, last: None });
        let start = number.start(catalogue.layout().segment_size);
        let failed = AtomicBool::new(false);
        let source = Arc::new(Source { key, start, is_growing, failed, open });
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
