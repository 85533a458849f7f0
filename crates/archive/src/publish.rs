//! The one way by which whole files come into `wal/` that the stream didn't bring: checked, durable,
//! and never over another one.

use std::path::{Path, PathBuf};

use disk::{DiskError, ErrorKind};
use pg_types::{Branch, Lsn, SegmentNumber, TimelineId, WalFileKind, WalFileName};

use crate::open::MAX_QUARANTINED;
use crate::{ArchiveError, Catalogue, Layout};

/// What became of a file that was to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is there now.
    New,
    /// Just the same was there already.
    Already,
}

/// The history of a base backup has a dozen lines.
const MAX_BACKUP_HISTORY_BYTES: usize = 64 << 10;

impl Catalogue {
    /// Where a file that is to be published is put first. One process at a time may use it, which
    /// [`lock_staging`](Self::lock_staging) makes sure of; what an earlier one left is overwritten.
    #[must_use]
    pub fn staging(&self) -> &'static Path {
        Path::new("run/archive-wal.tmp")
    }

    /// Takes the staging file for this process.
    ///
    /// # Errors
    /// If another process has it.
    pub fn lock_staging(&self, holder: &str) -> Result<disk::Lock, ArchiveError> {
        self.files.create_dir(Path::new(Layout::RUN))?;
        let lock = self.files.lock(Path::new("run/archive-wal.lock"), holder);
        lock.map_err(|error| match error {
            disk::LockError::Held { holder, .. } => ArchiveError::StagingLocked { holder },
            error => error.into(),
        })
    }

    /// Publishes the staging file under this name, durably. A segment has to be whole and every
    /// record in it has to hold; a `.partial`, up to the end of WAL in it. If the name is there
    /// already, the two have to be the same.
    ///
    /// # Errors
    /// If the file doesn't hold, if another one has its name (both are kept then), or the disk
    /// fails. What is in the archive is as it was.
    pub fn publish(&self, name: WalFileName) -> Result<Published, ArchiveError> {
        let (staged, path) = (self.staging(), self.layout.file(name));
        match name {
            WalFileName::TimelineHistory(timeline) => {
                Branch::parse(
                    timeline,
                    &self.files.read(staged, crate::branch::MAX_HISTORY_BYTES)?,
                )?;
            }
            WalFileName::Segment { kind: WalFileKind::BackupHistory { .. }, .. } => {
                self.files.read(staged, MAX_BACKUP_HISTORY_BYTES)?;
            }
            WalFileName::Segment { timeline, number, kind: WalFileKind::Segment } => {
                self.check_whole(staged, &path, timeline, number)?;
            }
            WalFileName::Segment { timeline, number, kind: WalFileKind::Partial } => {
                return self.publish_partial(timeline, number);
            }
        }
        self.place(staged, &path)
    }

    /// Whether the staging file has the same bytes as a segment that is archived; one that can't be
    /// read has others.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn is_as_staged(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<bool, ArchiveError> {
        let (staged, path) = (self.staging(), self.layout.segment(timeline, number));
        let lens = [self.files.len(staged)?, self.len_of(&path)?];
        if lens[0] != lens[1] {
            return Ok(false);
        }
        match self.difference(staged, &path, lens[0].unwrap_or(0)) {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
            difference => Ok(difference?.is_none()),
        }
    }

    /// Puts the staging file in the place of a segment that doesn't hold, which goes to quarantine. A
    /// crash between the two leaves it missing.
    ///
    /// # Errors
    /// If the staging file doesn't hold either, or the disk fails.
    pub fn replace_damaged(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<(), ArchiveError> {
        let (staged, path) = (self.staging(), self.layout.segment(timeline, number));
        self.check_whole(staged, &path, timeline, number)?;
        self.files.sync_file(staged)?;
        for damaged in self.files_of(&path)? {
            self.aside(&damaged, "damaged")?;
        }
        self.place(staged, &path)?;
        Ok(())
    }

    /// Gives a file that holds its name.
    pub(crate) fn place(&self, staged: &Path, path: &Path) -> Result<Published, ArchiveError> {
        self.files.sync_file(staged)?;
        let renamed = match self.packed_of(path)? {
            // Compressed: just as well there.
            Some((packed, _)) => {
                Err(DiskError::new("rename", &packed, ErrorKind::Exists, "it is there"))
            }
            None => self.files.rename(staged, path),
        };
        let published = match renamed {
            Ok(()) => Published::New,
            Err(error) if error.kind() == ErrorKind::Exists => {
                let lens = [self.files.len(staged)?, self.len_of(path)?];
                let len = lens[0].unwrap_or(0);
                if lens[0] != lens[1] || self.difference(staged, path, len)?.is_some() {
                    return Err(self.differs(staged, path)?);
                }
                self.files.remove(staged)?;
                Published::Already
            }
            Err(error) => return Err(error.into()),
        };
        // Also of one that was there: whoever put it there may not have got so far.
        self.files.sync_dir(Path::new(Layout::WAL))?;
        Ok(published)
    }

    /// Keeps what has another's name, and says so.
    fn differs(&self, staged: &Path, path: &Path) -> Result<ArchiveError, DiskError> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("unknown");
        let kept = self.quarantine(staged, &format!("{name}.shipped"))?;
        Ok(ArchiveError::Differs { path: path.to_owned(), kept })
    }

    fn check_whole(
        &self,
        staged: &Path,
        path: &Path,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<(), ArchiveError> {
        let size = self.layout.segment_size.bytes();
        let path = || path.to_owned();
        let len = self.files.len(staged)?.unwrap_or(0);
        if len != size {
            return Err(ArchiveError::ShippedSize { path: path(), len, size });
        }
        let branch = self.history(timeline)?.unwrap_or_else(|| Branch::root(timeline));
        let (mut primed, _) = self.primed(&branch, number)?;
        match self.feed(staged, &mut primed)? {
            Some(error) => Err(ArchiveError::ShippedInvalid { path: path(), error }),
            None => Ok(()),
        }
    }

    /// What the server has of a timeline's last segment when it is promoted. The archive's own is
    /// kept if it has as much.
    fn publish_partial(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<Published, ArchiveError> {
        let staged = self.staging();
        let (sealed, partial) =
            (self.layout.segment(timeline, number), self.layout.partial(timeline, number));
        let shipped = self.proved_in(staged, timeline, number)?;
        let start = number.start(self.layout.segment_size);
        let ours = if self.len_of(&sealed)?.is_some() { &sealed } else { &partial };
        if self.files.len(ours)?.is_none() {
            return self.place(staged, &partial);
        }
        let archived = self.proved_in(ours, timeline, number)?;
        let common = archived.min(shipped).saturating_since(start);
        if self.difference(staged, ours, common)?.is_some() {
            return Err(self.differs(staged, ours)?);
        }
        if shipped <= archived {
            self.files.remove(staged)?;
            for path in self.files_of(ours)? {
                self.files.sync_file(&path)?;
            }
            self.files.sync_dir(Path::new(Layout::WAL))?;
            return Ok(Published::Already);
        }
        // Nobody may be writing to it.
        let lock = self.files.lock(Path::new(Layout::LOCK), "seawall archive-wal")?;
        self.files.sync_file(staged)?;
        self.files.replace(staged, &partial)?;
        self.files.sync_dir(Path::new(Layout::WAL))?;
        drop(lock);
        Ok(Published::New)
    }

    /// The end of what is proved in a file that may end before its segment does.
    fn proved_in(
        &self,
        path: &Path,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<Lsn, ArchiveError> {
        let branch = self.history(timeline)?.unwrap_or_else(|| Branch::root(timeline));
        let (mut primed, _) = self.primed(&branch, number)?;
        _ = self.feed(path, &mut primed)?;
        Ok(primed.proved())
    }

    /// Moves a file to quarantine, if there is room and it isn't there yet.
    pub(crate) fn quarantine(&self, path: &Path, name: &str) -> Result<Option<PathBuf>, DiskError> {
        let dir = Path::new(Layout::QUARANTINE);
        let to = dir.join(name);
        if self.files.names(dir)?.len() >= MAX_QUARANTINED || self.files.len(&to)?.is_some() {
            return Ok(None);
        }
        self.files.rename(path, &to)?;
        self.files.sync_dir(dir)?;
        Ok(Some(to))
    }

    /// Moves a file that can't stay out of the way, whether or not quarantine has room.
    pub(crate) fn aside(&self, path: &Path, why: &str) -> Result<String, DiskError> {
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
}
