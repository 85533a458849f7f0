//! An archive's directory: made, claimed, held; and the repairs that happen between two streams.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use disk::{DiskError, Files, Lock};
use pg_types::{Branch, Lsn, SegmentNumber, Stretch};

use crate::format::MAX_LEN;
use crate::{ArchiveError, Catalogue, Format, Identity, Layout};

/// The most files that quarantine takes by itself: enough to see what went wrong, and no archive
/// is filled by one cause that repeats.
pub(crate) const MAX_QUARANTINED: usize = 16;

/// A directory that this process alone writes to.
pub struct Archive {
    catalogue: Catalogue,
    /// The last `resume` failed: an fsync of it may have been what did.
    pub(crate) doubt: AtomicBool,
    _lock: Arc<[Lock; 2]>,
}

/// Whoever writes to it can read it, too.
impl Deref for Archive {
    type Target = Catalogue;

    fn deref(&self) -> &Catalogue {
        &self.catalogue
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A directory whose lock is held, before it is known which server's WAL goes there.
#[derive(Clone)]
pub struct Claim {
    files: Arc<dyn Files>,
    format: Option<Format>,
    lock: Arc<[Lock; 2]>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Claim {
    /// What the archive says of itself; `None` in a new one.
    #[must_use]
    pub fn format(&self) -> Option<&Format> {
        self.format.as_ref()
    }

    /// The archive of this server: made if the directory is new. `random` names it.
    ///
    /// # Errors
    /// If the archive belongs to another cluster, or the disk fails.
    pub fn open(&self, server: &Identity, random: &[u8; 16]) -> Result<Archive, ArchiveError> {
        if wal_format::WalVersion::from_major(server.server_major).is_none() {
            return Err(ArchiveError::UnsupportedMajor(server.server_major));
        }
        match &self.format {
            Some(format) => {
                format.identity()?.admits(server)?;
                mend(&*self.files)?;
            }
            None => make(&*self.files, &Format::new(server, random))?,
        }
        // Also of an archive that was there: a process that was killed may have made it.
        self.files.sync_dir(Path::new(""))?;
        Ok(Archive {
            catalogue: Catalogue::new(Arc::clone(&self.files), *server),
            doubt: AtomicBool::new(false),
            _lock: Arc::clone(&self.lock),
        })
    }
}

/// What was taken back because the record that runs over its end didn't hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    /// The segment that lost its final name.
    pub segment: PathBuf,
    /// Where the evidence is, if there was room for it.
    pub evidence: Option<PathBuf>,
}

impl Archive {
    /// Takes the directory for this process: it is an archive, or empty, or doesn't exist yet.
    /// `holder` is what another process will be told of this one.
    ///
    /// # Errors
    /// If the directory is something else, or another process has it. Nothing is touched then.
    pub fn claim(files: Arc<dyn Files>, holder: &str) -> Result<Claim, ArchiveError> {
        let root = Path::new("");
        files.create_dir(root)?;
        let format = read_format(&*files)?;
        if format.is_none() {
            refuse_strangers(&*files)?;
        }
        files.create_dir(Path::new(Layout::RUN))?;
        // The first says who has it, and is held only as long as nobody removes `run/`.
        let lock = files.lock(Path::new(Layout::LOCK), holder)?;
        let lock = Arc::new([lock, files.lock_root()?]);
        // Another process may have made the archive while this one waited for nothing.
        let format = read_format(&*files)?;
        Ok(Claim { files, format, lock })
    }

    /// Whether a server that was connected to again is still the one.
    ///
    /// # Errors
    /// If it isn't.
    pub fn admits(&self, server: &Identity) -> Result<(), ArchiveError> {
        self.identity.admits(server)
    }

    /// Takes back the final name of the segment of a branch that holds the start of a record that
    /// didn't hold, if it has one already, so that it is fetched again; `proved` is that start. What
    /// is proved in it stays where it is. Segments after it, on whichever timeline, hold nothing but
    /// that record's middle.
    ///
    /// # Errors
    /// If the disk fails; the next call goes on where this one stopped.
    pub fn withdraw(
        &self,
        branch: &Branch,
        proved: Lsn,
    ) -> Result<Option<Withdrawn>, ArchiveError> {
        let size = self.layout.segment_size;
        let number = proved.segment(size);
        let Some(Stretch { timeline, .. }) = branch.stretch_of(number, size) else {
            return Ok(None);
        };
        let sealed = self.layout.segment(timeline, number);
        if self.len_of(&sealed)?.is_none() {
            return Ok(None);
        }
        let survey = self.survey()?;
        let later = number.next()..SegmentNumber::new(u64::MAX);
        // The newest first, and durably: a crash must not leave a sealed one behind a hole.
        let stretches = branch.stretches().iter().rev();
        let timelines = stretches.map(|stretch| stretch.timeline).filter(|of| *of >= timeline);
        let later = timelines.flat_map(|of| {
            survey.of(of).range(later.clone()).rev().map(move |(number, form)| (of, number, form))
        });
        for (timeline, later, form) in later {
            for kind in form.kinds().iter().rev() {
                for path in self.files_of(&self.path(timeline, later, *kind))? {
                    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                    let aside = format!("{name}.unproved-at-{}", file_lsn(proved));
                    if self.quarantine(&path, &aside)?.is_none() {
                        self.files.remove(&path)?;
                    }
                    self.files.sync_dir(Path::new(Layout::WAL))?;
                }
            }
        }
        let evidence = self.evidence(&sealed, proved)?;
        // No sync: with either name `resume` goes on, or comes here again.
        self.unseal(timeline, number, proved.saturating_since(number.start(size)))?;
        Ok(Some(Withdrawn { segment: sealed, evidence }))
    }

    /// Copies a file to quarantine, if there is room and no copy of this cause is there yet.
    fn evidence(&self, path: &Path, at: Lsn) -> Result<Option<PathBuf>, DiskError> {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
        let len = self.len_of(path)?.unwrap_or(0);
        let name = format!("{name}.unproved-at-{}", file_lsn(at));
        self.put_aside(&name, |temporary| self.copy_wal(path, temporary, len))
    }

    /// Makes a file in quarantine, durably, if there is room and none of this name is there yet.
    pub(crate) fn put_aside(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> Result<(), DiskError>,
    ) -> Result<Option<PathBuf>, DiskError> {
        let dir = Path::new(Layout::QUARANTINE);
        let to = dir.join(name);
        if self.files.names(dir)?.len() >= MAX_QUARANTINED || self.files.len(&to)?.is_some() {
            return Ok(None);
        }
        let temporary = dir.join(".evidence.tmp");
        if self.files.len(&temporary)?.is_some() {
            self.files.remove(&temporary)?;
        }
        make(&temporary)?;
        self.files.sync_file(&temporary)?;
        self.files.rename(&temporary, &to)?;
        self.files.sync_dir(dir)?;
        Ok(Some(to))
    }
}

/// An LSN in a file's name: `0-1A2B3C4D`.
pub(crate) fn file_lsn(lsn: Lsn) -> String {
    lsn.to_string().replace('/', "-")
}

pub(crate) fn read_format(files: &dyn Files) -> Result<Option<Format>, ArchiveError> {
    let path = Path::new(Layout::FORMAT);
    match files.len(path)? {
        Some(_) => Format::parse(&files.read(path, MAX_LEN)?).map(Some),
        None => Ok(None),
    }
}

/// A directory is new if it holds nothing but what an interrupted making left.
fn refuse_strangers(files: &dyn Files) -> Result<(), ArchiveError> {
    for name in files.names(Path::new(""))? {
        let ours = match name.as_str() {
            Layout::RUN | Layout::FORMAT_TMP | Layout::GAPS_TMP | "lost+found" => true,
            Layout::WAL | Layout::INDEX | Layout::QUARANTINE => {
                files.names(Path::new(&name))?.is_empty()
            }
            _ => false,
        };
        if !ours {
            return Err(ArchiveError::NotAnArchive { found: name });
        }
    }
    Ok(())
}

/// Makes the directories anew that an archive can do without. Without `wal/` it is none: that was
/// lost, or isn't mounted.
fn mend(files: &dyn Files) -> Result<(), ArchiveError> {
    if files.len(Path::new(Layout::WAL))?.is_none() {
        return Err(ArchiveError::NoWal);
    }
    for dir in [Layout::INDEX, Layout::QUARANTINE] {
        files.create_dir(Path::new(dir))?;
    }
    Ok(())
}

/// Makes a new archive: its directories, durably, then `seawall.json`, which makes it one. That
/// name is left for the caller to sync.
pub(crate) fn make(files: &dyn Files, format: &Format) -> Result<(), ArchiveError> {
    for dir in [Layout::WAL, Layout::INDEX, Layout::QUARANTINE] {
        files.create_dir(Path::new(dir))?;
    }
    let (temporary, path) = (Path::new(Layout::FORMAT_TMP), Path::new(Layout::FORMAT));
    if files.len(temporary)?.is_some() {
        files.remove(temporary)?;
    }
    files.write_new(temporary, &format.to_json())?;
    files.sync_file(temporary)?;
    files.sync_dir(Path::new(""))?;
    files.rename(temporary, path)?;
    Ok(())
}
