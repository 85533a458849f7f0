//! What is in a backup's tar files, read from their headers alone and held against the manifest:
//! the same files, of the same sizes, each once. Of an incremental backup's file with changed blocks
//! it is found where the others are.

use std::collections::BTreeMap;

use disk::Tree;

use super::{Link, TABLESPACE_MAP};
use crate::manifest::{Manifest, ManifestFile};
use crate::recovery::SIGNALS;
use crate::tar::{self, BLOCK, Entry, EntryKind, Reader};
use crate::{BackupError, Description, EntryPath};

/// A file as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// The place of its backup in the chain.
    pub(super) backup: usize,
    /// The tar file that it is in: a tablespace's, or the data directory's.
    pub(super) archive: Option<u32>,
    /// Its path there.
    pub(super) path: EntryPath,
    /// Where its bytes are in the tar file.
    pub(super) at: u64,
    /// What the manifest says of it.
    pub(super) file: ManifestFile,
}

impl Stored {
    /// Its path in the data directory.
    pub(super) fn whole_path(&self, path: &EntryPath) -> EntryPath {
        self.archive.map_or_else(|| path.clone(), |oid| path.in_tablespace(oid))
    }
}

/// A file to write.
#[derive(Debug)]
pub(super) struct Job {
    /// Its path in its archive.
    pub(super) path: EntryPath,
    /// What it is made of: itself, or changed blocks, the newest first, and a whole file behind them.
    pub(super) from: Vec<Stored>,
}

/// What there is to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Directories, those above before those in them.
    pub(super) directories: Vec<(Option<u32>, EntryPath)>,
    /// Files.
    pub(super) jobs: Vec<Job>,
    /// What the newest backup has changed blocks of.
    incremental: Vec<Stored>,
}

impl Plan {
    /// Of a chain of backups with their manifests, the full one first.
    pub(super) fn of(chain: &[(&Link, Manifest)]) -> Result<Self, BackupError> {
        let mut plans = Vec::new();
        for (place, (link, manifest)) in chain.iter().enumerate() {
            let plan = Self::of_one(place, &link.directory, &link.description, manifest);
            plans.push(plan.map_err(|error| error.of(&link.description))?);
        }
        let Some(mut newest) = plans.pop() else { return Ok(Self::default()) };
        if newest.incremental.is_empty() {
            return Ok(newest);
        }
        // By where they are and what they are called, the newest backup first.
        let older: Vec<BTreeMap<(Option<u32>, EntryPath), Stored>> =
            plans.into_iter().rev().map(Self::by_path).collect();
        let before = || older.iter().zip(chain.iter().rev().skip(1).map(|(link, _)| link));
        for changed in std::mem::take(&mut newest.incremental) {
            let wrong = |what: &str| BackupError::NotAsListed {
                path: changed.whole_path(&changed.path),
                what: what.to_owned(),
            };
            let path = changed.path.of_incremental(changed.archive);
            let path = path.ok_or_else(|| wrong("it isn't a file's name"))?;
            let mut from = vec![changed.clone()];
            let mut whole = false;
            for (backup, link) in before() {
                let at = |path: EntryPath| backup.get(&(changed.archive, path));
                let found = at(path.clone());
                whole = found.is_some();
                let found = found.or_else(|| at(path.as_incremental()));
                let lacks = || wrong("what it changes isn't in it").of(&link.description);
                from.push(found.ok_or_else(lacks)?.clone());
                if whole {
                    break;
                }
            }
            if !whole {
                return Err(wrong("no backup has the whole file"));
            }
            newest.jobs.push(Job { path, from });
        }
        Ok(newest)
    }

    fn by_path(self) -> BTreeMap<(Option<u32>, EntryPath), Stored> {
        let jobs = self.jobs.into_iter().flat_map(|job| job.from);
        let all = jobs.chain(self.incremental);
        all.map(|stored| ((stored.archive, stored.path.clone()), stored)).collect()
    }

    fn of_one(
        place: usize,
        backup: &Tree,
        description: &Description,
        manifest: &Manifest,
    ) -> Result<Self, BackupError> {
        let oids = description.tablespaces.iter().map(|tablespace| tablespace.oid).collect();
        let (plan, incremental) = (Self::default(), description.incremental.is_some());
        let mut scan = Scan { place, incremental, manifest, oids, archive: None, plan, listed: 0 };
        let tablespaces = description.tablespaces.iter();
        for archive in tablespaces.map(|tablespace| Some(tablespace.oid)).chain([None]) {
            scan.archive = archive;
            scan.tar(backup, description)?;
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

    /// How many files there are.
    pub(super) fn files(&self) -> u64 {
        self.jobs.len() as u64
    }
}

struct Scan<'a> {
    /// The backup's place in the chain.
    place: usize,
    /// Whether it may have files with changed blocks only.
    incremental: bool,
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
    fn tar(&mut self, backup: &Tree, description: &Description) -> Result<(), BackupError> {
        let file = description.open_tar(backup, self.archive)?;
        let len = file.len();
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
                if skipped {
                    return Ok(());
                }
                let stored = Stored { backup: self.place, archive, path, at, file: file.clone() };
                if self.incremental && stored.path.of_incremental(archive).is_some() {
                    self.plan.incremental.push(stored);
                } else {
                    self.plan.jobs.push(Job { path: stored.path.clone(), from: vec![stored] });
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
