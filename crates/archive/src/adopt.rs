//! Taking over a directory of pg_receivewal: its files are checked, all of them, before anything is
//! touched; then they are moved into `wal/`, and `seawall.json`, written last, makes an archive of
//! the directory. Whoever is killed between leaves a directory that no receiver takes for an
//! archive, nor for a new one, and that the next adoption goes on with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::{AlignedBuf, ErrorKind, Files};
use pg_types::{Branch, Lsn, SegmentNumber, SegmentSize, TimelineId, WalFileKind, WalFileName};
use wal_format::{Record, Validator};

use crate::branch::MAX_HISTORY_BYTES;
use crate::open::{make, read_format};
use crate::{ArchiveError, Catalogue, Format, Identity, Layout};

/// What an adoption came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// How many segments are in it, the unfinished ones among them.
    pub segments: usize,
    /// How many files were moved: none, if it was an archive already.
    pub moved: usize,
    /// The end of what is proved on the newest timeline.
    pub end: Lsn,
}

/// A file of WAL, where it lies now.
type Found = BTreeMap<(TimelineId, SegmentNumber, bool), PathBuf>;

/// What a directory holds, and whose it is.
struct Directory {
    catalogue: Catalogue,
    /// Sealed ones before unfinished ones of the same number.
    segments: Found,
    others: Vec<PathBuf>,
}

/// Makes an archive of a directory of pg_receivewal, which has ended; `random` names it. Fine if it
/// is one already.
///
/// # Errors
/// If there is anything in it that isn't understood or doesn't hold: nothing is touched then. If
/// the disk fails: the next call goes on.
pub fn adopt(
    files: &Arc<dyn Files>,
    holder: &str,
    random: &[u8; 16],
) -> Result<Adopted, ArchiveError> {
    let (directory, end) = look(files)?;
    files.create_dir(Path::new(Layout::RUN))?;
    let _lock = (files.lock(Path::new(Layout::LOCK), holder)?, files.lock_root()?);
    // Whoever had the lock may have adopted it.
    let before = directory.paths().cloned().collect::<Vec<_>>();
    let after = Directory::read(files)?;
    if !after.paths().eq(&before) {
        return Err(ArchiveError::Changing);
    }
    for dir in [Layout::WAL, Layout::INDEX, Layout::QUARANTINE] {
        files.create_dir(Path::new(dir))?;
    }
    let outside = |path: &&PathBuf| !path.starts_with(Layout::WAL);
    let mut moved = 0;
    for path in directory.paths() {
        // pg_receivewal may have been told not to.
        files.sync_file(path)?;
        if outside(&path) {
            files.rename(path, &Path::new(Layout::WAL).join(path))?;
            moved += 1;
        }
    }
    files.sync_dir(Path::new(Layout::WAL))?;
    files.sync_dir(Path::new(""))?;
    if read_format(&**files)?.is_none() {
        make(&**files, &Format::new(directory.catalogue.identity(), random))?;
        files.sync_dir(Path::new(""))?;
    }
    Ok(Adopted { segments: directory.segments.len(), moved, end })
}

/// Checks everything; touches nothing.
fn look(files: &Arc<dyn Files>) -> Result<(Directory, Lsn), ArchiveError> {
    let directory = Directory::read(files)?;
    if let Some(format) = read_format(&**files)? {
        format.identity()?.admits(directory.catalogue.identity())?;
    }
    let end = directory.check()?;
    Ok((directory, end))
}

impl Directory {
    fn read(files: &Arc<dyn Files>) -> Result<Self, ArchiveError> {
        let root = Path::new("");
        let mut paths: Vec<PathBuf> = Vec::new();
        for name in files.names(root)? {
            match name.as_str() {
                Layout::WAL => {
                    let inside = files.names(Path::new(Layout::WAL))?;
                    let there = inside.iter().filter(|name| !Layout::is_temporary(name));
                    paths.extend(there.map(|name| Path::new(Layout::WAL).join(name)));
                }
                Layout::FORMAT
                | Layout::FORMAT_TMP
                | Layout::GAPS
                | Layout::GAPS_TMP
                | Layout::INDEX
                | Layout::QUARANTINE
                | Layout::RUN
                | "lost+found" => {}
                _ => paths.push(PathBuf::from(name)),
            }
        }
        paths.sort();
        if let Some(compressed) = paths.iter().find(|path| is_compressed(path)) {
            return Err(ArchiveError::Compressed { path: compressed.clone() });
        }
        let identity = whose(files, &paths)?;
        let size = identity.geometry.segment_size;
        let (mut segments, mut others) = (BTreeMap::new(), Vec::new());
        for path in paths {
            let other = match name_of(&path, size) {
                Some(WalFileName::Segment { timeline, number, kind: WalFileKind::Segment }) => {
                    segments.insert((timeline, number, false), path)
                }
                Some(WalFileName::Segment { timeline, number, kind: WalFileKind::Partial }) => {
                    segments.insert((timeline, number, true), path)
                }
                Some(_) => {
                    others.push(path);
                    None
                }
                None => Some(path),
            };
            // A second one of a name, beside `wal/` and in it, isn't understood either.
            if let Some(found) = other {
                return Err(ArchiveError::NotAdopted { found });
            }
        }
        let catalogue = Catalogue::new(Arc::clone(files), identity);
        Ok(Self { catalogue, segments, others })
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.others.iter().chain(self.segments.values())
    }

    /// Decodes everything; gives the end of what is proved.
    fn check(&self) -> Result<Lsn, ArchiveError> {
        let size = self.catalogue.layout().segment_size;
        for path in &self.others {
            if let Some(WalFileName::TimelineHistory(timeline)) = name_of(path, size) {
                Branch::parse(timeline, &self.catalogue.files.read(path, MAX_HISTORY_BYTES)?)?;
            }
        }
        // The validator at the end of the last segment, and where that is.
        let mut passed: Option<(TimelineId, SegmentNumber, Validator)> = None;
        let mut end = Lsn::INVALID;
        for (&(timeline, number, partial), path) in &self.segments {
            let goes_on = passed.take().filter(|(on, next, _)| (*on, *next) == (timeline, number));
            let unprimed = || self.catalogue.unprimed(timeline, number.start(size)).validator;
            let mut validator = goes_on.map_or_else(unprimed, |(.., validator)| validator);
            let Some(reader) = self.catalogue.reader(path.clone(), timeline, number)? else {
                return Err(ArchiveError::Changing);
            };
            if !partial && reader.len() != size.bytes() {
                let (len, size) = (reader.len(), size.bytes());
                return Err(ArchiveError::OddSize { path: path.clone(), len, size });
            }
            let error = reader.feed(0, &mut validator, &mut |_: &Record| {})?;
            end = validator.proved().0;
            match error {
                Some(error) if !partial => {
                    return Err(ArchiveError::Damaged { path: path.clone(), error });
                }
                // It ends where it isn't WAL any more.
                Some(_) => {}
                None => passed = Some((timeline, number.next(), validator)),
            }
        }
        Ok(end)
    }
}

fn name_of(path: &Path, size: SegmentSize) -> Option<WalFileName> {
    WalFileName::parse(path.file_name()?.to_str()?, size)
}

/// What pg_receivewal's `--compress` makes.
fn is_compressed(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_suffix(".partial").unwrap_or(name);
    name.ends_with(".gz") || name.ends_with(".lz4")
}

/// Whose WAL it is, as the first file says that is a segment's.
fn whose(files: &Arc<dyn Files>, paths: &[PathBuf]) -> Result<Identity, ArchiveError> {
    let mut page = AlignedBuf::zeroed(disk::BLOCK);
    for path in paths {
        // The least segments have the most names.
        if !matches!(name_of(path, SegmentSize::MIN), Some(WalFileName::Segment { .. })) {
            continue;
        }
        let file = match files.open_read(path, disk::Access::Buffered) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            file => file?,
        };
        let len = file.read_at(0, &mut page, disk::BLOCK)?;
        if let Some(identity) = page.get(..len).and_then(Identity::of_segment) {
            return Ok(identity);
        }
    }
    // What is there is named, rather than what isn't.
    let strange = paths.iter().find(|path| name_of(path, SegmentSize::MIN).is_none());
    match strange {
        Some(found) => Err(ArchiveError::NotAdopted { found: found.clone() }),
        None => Err(ArchiveError::NothingToAdopt),
    }
}
