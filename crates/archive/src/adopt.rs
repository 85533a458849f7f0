//! Taking over a directory of pg_receivewal: its files are checked, all of them, before anything is
//! touched; then they are moved into `wal/`, and `seawall.json`, written last, makes an archive of
//! the directory. Whoever is killed between leaves a directory that no receiver takes for an
//! archive, nor for a new one, and that the next adoption goes on with.
//!
//! What `pg_receivewal --compress` made is taken as well: whole segments stay compressed, and an
//! unfinished one is unpacked, as far as it goes, so that streaming goes on in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compression::Method;
use disk::{Access, AlignedBuf, DiskError, ErrorKind, Files, ReadAt};
use pg_types::{Branch, Lsn, SegmentNumber, SegmentSize, TimelineId, WalFileKind, WalFileName};
use wal_format::{Record, Validator};

use crate::branch::MAX_HISTORY_BYTES;
use crate::open::{make, read_format};
use crate::packed::{Packed, parse_name};
use crate::reader::Reader;
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

/// Files of WAL, where they lie now, and how they are compressed.
type Found = BTreeMap<(TimelineId, SegmentNumber, bool), (PathBuf, Option<Method>)>;

/// What a directory holds, and whose it is.
struct Directory {
    catalogue: Catalogue,
    /// Sealed ones before unfinished ones of the same number.
    segments: Found,
    others: Vec<PathBuf>,
    /// Unfinished ones that an adoption has unpacked before it was killed.
    unpacked: Vec<PathBuf>,
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
    moved += directory.unpack_unfinished(files)?;
    for path in directory.paths() {
        if directory.is_packed_unfinished(path) {
            continue;
        }
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
        let identity = whose(files, &paths)?;
        let size = identity.geometry.segment_size;
        let (mut segments, mut others) = (Found::new(), Vec::new());
        let mut unpacked = Vec::new();
        for path in paths {
            let other = match name_of(&path, size) {
                Some((
                    WalFileName::Segment { timeline, number, kind: WalFileKind::Segment },
                    method,
                )) => segments.insert((timeline, number, false), (path, method)),
                Some((
                    WalFileName::Segment { timeline, number, kind: WalFileKind::Partial },
                    method,
                )) => {
                    let key = (timeline, number, true);
                    match (segments.insert(key, (path, method)), method) {
                        // The plain one in `wal/` was made of the other.
                        (Some((packed, Some(_))), None) => {
                            unpacked.push(packed);
                            None
                        }
                        (other, _) => other,
                    }
                }
                Some(_) => {
                    others.push(path);
                    None
                }
                None => Some((path, None)),
            };
            // A second one of a name, beside `wal/` and in it, isn't understood either.
            if let Some((found, _)) = other {
                return Err(ArchiveError::NotAdopted { found });
            }
        }
        let catalogue = Catalogue::new(Arc::clone(files), identity);
        Ok(Self { catalogue, segments, others, unpacked })
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.others.iter().chain(self.segments.values().map(|(path, _)| path))
    }

    fn is_packed_unfinished(&self, path: &Path) -> bool {
        let mut unfinished = self.segments.iter().filter(|((.., partial), _)| *partial);
        unfinished.any(|(_, (found, method))| found == path && method.is_some())
    }

    /// Makes plain ones in `wal/` of the unfinished ones that are compressed, as far as those go.
    fn unpack_unfinished(&self, files: &Arc<dyn Files>) -> Result<usize, ArchiveError> {
        let (catalogue, mut done) = (&self.catalogue, self.unpacked.clone());
        let size = catalogue.layout.segment_size.bytes();
        for (&(timeline, number, partial), (path, method)) in &self.segments {
            let Some(method) = method.filter(|_| partial) else { continue };
            let temporary = catalogue.layout.copied(timeline, number);
            if files.len(&temporary)?.is_some() {
                files.remove(&temporary)?;
            }
            let packed = Packed::open(files, path, method, size, true)?;
            catalogue.unpack(&packed, &temporary, size)?;
            files.sync_file(&temporary)?;
            files.rename(&temporary, &catalogue.layout.partial(timeline, number))?;
            done.push(path.clone());
        }
        files.sync_dir(Path::new(Layout::WAL))?;
        for path in &done {
            files.remove(path)?;
        }
        Ok(done.len())
    }

    /// Opens one of the segments.
    fn open(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
        partial: bool,
        (path, method): &(PathBuf, Option<Method>),
    ) -> Result<Reader, DiskError> {
        let files = &self.catalogue.files;
        let size = self.catalogue.layout.segment_size.bytes();
        let file: Box<dyn ReadAt> = match method {
            Some(method) => Box::new(Packed::open(files, path, *method, size, partial)?),
            None => files.open_read(path, Access::Buffered)?,
        };
        Reader::new(file, path.clone(), timeline, number)
    }

    /// Decodes everything; gives the end of what is proved.
    fn check(&self) -> Result<Lsn, ArchiveError> {
        let size = self.catalogue.layout().segment_size;
        for path in &self.others {
            if let Some((WalFileName::TimelineHistory(timeline), _)) = name_of(path, size) {
                Branch::parse(timeline, &self.catalogue.files.read(path, MAX_HISTORY_BYTES)?)?;
            }
        }
        // The validator at the end of the last segment, and where that is.
        let mut passed: Option<(TimelineId, SegmentNumber, Validator)> = None;
        let mut end = Lsn::INVALID;
        for (&(timeline, number, partial), found) in &self.segments {
            let path = &found.0;
            let goes_on = passed.take().filter(|(on, next, _)| (*on, *next) == (timeline, number));
            let unprimed = || self.catalogue.unprimed(timeline, number.start(size)).validator;
            let mut validator = goes_on.map_or_else(unprimed, |(.., validator)| validator);
            let reader = match self.open(timeline, number, partial, found) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(ArchiveError::Changing);
                }
                reader => reader?,
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

/// What a file's name stands for. `--compress` puts the method's ending before `.partial`.
fn name_of(path: &Path, size: SegmentSize) -> Option<(WalFileName, Option<Method>)> {
    let name = path.file_name()?.to_str()?;
    let unfinished = name.strip_suffix(".partial").map(Method::of_name);
    match unfinished {
        Some((plain, Some(method))) => {
            let name = WalFileName::parse(&format!("{plain}.partial"), size)?;
            Some((name, Some(method)))
        }
        _ => parse_name(name, size),
    }
}

/// Whose WAL it is, as the first file says that is a segment's.
fn whose(files: &Arc<dyn Files>, paths: &[PathBuf]) -> Result<Identity, ArchiveError> {
    let mut page = AlignedBuf::zeroed(disk::BLOCK);
    for path in paths {
        // The least segments have the most names.
        let Some((WalFileName::Segment { .. }, method)) = name_of(path, SegmentSize::MIN) else {
            continue;
        };
        let most = SegmentSize::MAX.bytes();
        let opened: Result<Box<dyn ReadAt>, DiskError> = match method {
            Some(method) => {
                Packed::open(files, path, method, most, true).map(|file| Box::new(file) as _)
            }
            None => files.open_read(path, Access::Buffered),
        };
        let file = match opened {
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
