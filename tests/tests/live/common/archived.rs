//! The archive's segments, byte by byte beside the primary's.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use pg_types::{Lsn, SegmentSize, WalFileKind, WalFileName};
use testkit::servers::{Server, segment_size_in};

use super::Must;

const CHUNK: usize = 1 << 20;
const PARTIAL: &str = ".partial";

/// A file of the archive that holds a segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// Its final name.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) start: Lsn,
    /// Whether it has its final name.
    pub(crate) sealed: bool,
}

/// An archive's segments in order, without a hole.
#[derive(Clone, Debug)]
pub(crate) struct Segments {
    pub(crate) size: SegmentSize,
    pub(crate) segments: Vec<Segment>,
}

impl Segments {
    /// Looks what is there, which has to be something: sealed segments, and behind them one
    /// `.partial`, or a few where the receiver was killed while it sealed.
    pub(crate) fn of(wal_dir: &Path) -> Self {
        let mut names: Vec<String> = fs::read_dir(wal_dir)
            .unwrap_or_else(|error| panic!("{}: {error}", wal_dir.display()))
            .map(|entry| entry.must().file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        let size = names
            .iter()
            .find_map(|name| segment_size_in(&wal_dir.join(name), name.trim_end_matches(PARTIAL)));
        let Some(size) = size else { panic!("no WAL in {}: {names:?}", wal_dir.display()) };
        let size = SegmentSize::new(size).must();
        let segments: Vec<Segment> =
            names.iter().map(|name| segment(wal_dir, name, size)).collect();
        for pair in segments.windows(2) {
            let [before, after] = pair else { continue };
            assert!(before.sealed || !after.sealed, "a sealed segment after a .partial: {names:?}");
            let end = before.start.saturating_add(size.bytes());
            assert_eq!(end, after.start, "a hole, or a segment twice: {names:?}");
        }
        Self { size, segments }
    }

    /// Where the first segment starts.
    pub(crate) fn start(&self) -> Lsn {
        self.segments.first().map_or(Lsn::INVALID, |first| first.start)
    }

    /// Where the last one ends.
    pub(crate) fn end(&self) -> Lsn {
        self.segments.last().map_or(Lsn::INVALID, |last| self.end_of(last))
    }

    fn end_of(&self, segment: &Segment) -> Lsn {
        segment.start.saturating_add(self.size.bytes())
    }

    /// Those with their final names.
    pub(crate) fn sealed(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.sealed)
    }
}

impl Segment {
    /// A hash of all its bytes.
    pub(crate) fn hash(&self) -> u64 {
        let mut file = open(&self.path);
        let (mut hasher, mut chunk) = (DefaultHasher::new(), vec![0; CHUNK]);
        loop {
            match file.read(&mut chunk).must() {
                0 => return hasher.finish(),
                len => hasher.write(&chunk[..len]),
            }
        }
    }
}

/// Holds every sealed segment, all of it, and the `.partial` up to `flushed` against the files of
/// the primary, which must still have them. Gives the bytes compared.
pub(crate) fn compare_with_primary(wal_dir: &Path, server: &Server, flushed: Lsn) -> u64 {
    let segments = Segments::of(wal_dir);
    assert!(segments.start() < flushed, "nothing is archived before {flushed}");
    assert!(segments.end() >= flushed, "{flushed} is acknowledged, but not there: {segments:?}");
    let mut compared = 0;
    for segment in &segments.segments {
        let size = segments.size.bytes();
        let until = if segment.sealed { size } else { flushed.saturating_since(segment.start) };
        let ours = open_as_it_is(segment);
        assert_eq!(ours.metadata().must().len(), size, "{}", segment.path.display());
        compare((&segment.path, ours), &server.wal_dir().join(&segment.name), until.min(size));
        compared += until.min(size);
    }
    compared
}

/// A running receiver may have sealed it since it was looked at.
fn open_as_it_is(segment: &Segment) -> File {
    match File::open(&segment.path) {
        Err(error) if error.kind() == ErrorKind::NotFound && !segment.sealed => {
            open(&segment.path.with_extension(""))
        }
        file => file.must(),
    }
}

fn compare((ours, mut our_file): (&Path, File), theirs: &Path, until: u64) {
    let mut their_file = open(theirs);
    let (mut our_chunk, mut their_chunk) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut offset = 0;
    while offset < until {
        let len = usize::try_from(until - offset).unwrap_or(CHUNK).min(CHUNK);
        our_file.read_exact(&mut our_chunk[..len]).must();
        their_file.read_exact(&mut their_chunk[..len]).must();
        if our_chunk[..len] != their_chunk[..len] {
            let differs = our_chunk.iter().zip(&their_chunk).position(|(a, b)| a != b);
            let at = offset + differs.unwrap_or_default() as u64;
            panic!("{} and {} differ from byte {at} on", ours.display(), theirs.display());
        }
        offset += len as u64;
    }
}

fn open(path: &Path) -> File {
    File::open(path).unwrap_or_else(|error| {
        let hint = if error.kind() == ErrorKind::NotFound { " (recycled?)" } else { "" };
        panic!("{}: {error}{hint}", path.display())
    })
}

fn segment(wal_dir: &Path, name: &str, size: SegmentSize) -> Segment {
    let parsed = WalFileName::parse(name, size);
    let sealed = match parsed {
        Some(WalFileName::Segment { kind: WalFileKind::Segment, .. }) => true,
        Some(WalFileName::Segment { kind: WalFileKind::Partial, .. }) => false,
        _ => panic!("a file that doesn't belong in {}: {name}", wal_dir.display()),
    };
    let start = parsed.and_then(|name| name.start(size)).unwrap_or_default();
    let final_name = name.trim_end_matches(PARTIAL).to_owned();
    Segment { name: final_name, path: wal_dir.join(name), start, sealed }
}
