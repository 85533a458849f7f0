//! What is in a backup's tar files, read from their headers alone and held against the manifest:
//! the same files, of the same sizes, each once.

use std::path::Path;

use disk::Tree;

use super::TABLESPACE_MAP;
use crate::intake::tar_name;
use crate::manifest::{Manifest, ManifestFile};
use crate::recovery::SIGNALS;
use crate::tar::{self, BLOCK, Entry, EntryKind, Reader};
use crate::{BackupError, Description, EntryPath};

/// A file to write.
#[derive(Debug)]
pub(super) struct Job {
    /// The tar file that it is in: a tablespace's, or the data directory's.
    pub(super) archive: Option<u32>,
    /// Its path there.
    pub(super) path: EntryPath,
    /// Where its bytes are in the tar file.
    pub(super) at: u64,
    /// What the manifest says of it.
    pub(super) file: ManifestFile,
}

/// What there is to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Directories, those above before those in them.
    pub(super) directories: Vec<(Option<u32>, EntryPath)>,
    /// Files.
    pub(super) jobs: Vec<Job>,
}

impl Plan {
    pub(super) fn of(
        backup: &Tree,
        description: &Description,
        manifest: &Manifest,
    ) -> Result<Self, BackupError> {
        let oids = description.tablespaces.iter().map(|tablespace| tablespace.oid).collect();
        let mut scan = Scan { manifest, oids, archive: None, plan: Self::default(), listed: 0 };
        let tablespaces = description.tablespaces.iter();
        let archives = tablespaces.map(|t| (Some(t.oid), t.bytes));
        for (archive, bytes) in archives.chain([(None, description.base_bytes)]) {
            scan.archive = archive;
            scan.tar(backup, bytes)?;
        }
        if scan.listed != manifest.files.len() {
            let missing = format!(
                "its tar files have {} of the {} files that its manifest lists",
                scan.listed,
                manifest.files.len()
            );
            return Err(BackupError::NotABackup(missing));
        }
        Ok(scan.plan)
    }

    /// Files and their bytes.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.jobs.len() as u64, self.jobs.iter().map(|job| job.file.size).sum())
    }
}

struct Scan<'a> {
    manifest: &'a Manifest,
    /// The tablespaces there are.
    oids: Vec<u32>,
    archive: Option<u32>,
    plan: Plan,
    /// Files that the manifest lists.
    listed: usize,
}

impl Scan<'_> {
    /// Goes from header to header.
    fn tar(&mut self, backup: &Tree, bytes: u64) -> Result<(), BackupError> {
        let file = backup.open_file(Path::new(&tar_name(self.archive)))?;
        let len = file.len()?;
        if len != bytes {
            let what =
                format!("{} has {len} bytes, and should have {bytes}", tar_name(self.archive));
            return Err(BackupError::NotABackup(what));
        }
        let (mut reader, mut header) = (Reader::new(), [0; BLOCK]);
        while reader.position() < len {
            file.read_exact_at(&mut header, reader.position())?;
            reader.feed(&header, self)?;
            reader.skip_data(self)?;
        }
        if reader.position() != len || !reader.finish()? {
            return Err(tar::TarError::Truncated.into());
        }
        Ok(())
    }
}

impl tar::Visitor for Scan<'_> {
    type Error = BackupError;

    fn entry(&mut self, entry: &Entry, at: u64) -> Result<(), BackupError> {
        let (archive, path) = (self.archive, entry.path.clone());
        let whole = match archive {
            Some(oid) => path.in_tablespace(oid),
            None => path.clone(),
        };
        let wrong = |what: String| BackupError::NotAsListed { path: whole.clone(), what };
        match entry.kind {
            EntryKind::Directory => self.plan.directories.push((archive, path)),
            // Made from what `backup.json` and the user say.
            EntryKind::Link if whole.is_link_of(&self.oids) => {}
            EntryKind::Link => {
                return Err(wrong("it is a link, which comes from a map only".to_owned()));
            }
            EntryKind::File { size } => {
                let Some(file) = self.manifest.files.get(&whole) else {
                    return Err(wrong("it isn't listed".to_owned()));
                };
                if file.size != size {
                    return Err(wrong(format!(
                        "it has {size} bytes, and should have {}",
                        file.size
                    )));
                }
                self.listed += 1;
                let skipped =
                    SIGNALS.iter().any(|signal| whole.is(signal)) || whole.is(TABLESPACE_MAP);
                if !skipped {
                    self.plan.jobs.push(Job { archive, path, at, file: file.clone() });
                }
            }
        }
        Ok(())
    }

    fn data(&mut self, _bytes: &[u8]) -> Result<(), BackupError> {
        Ok(())
    }

    fn entry_end(&mut self) -> Result<(), BackupError> {
        Ok(())
    }
}
