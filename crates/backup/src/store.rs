//! Where an archive keeps its backups: `backups/ID/`, one at a time under a lock of their own, so
//! that they are taken beside the receiver.
//!
//! A directory is a backup once its `backup.json` has its name; everything else in it is durable
//! then. What has none was left by a backup that failed or was killed, and the next one removes it.

use std::path::{Path, PathBuf};

use archive::Layout;
use disk::{DiskError, ErrorKind, Files, Lock, Readers, Tree};

use crate::description::{self, Description};
use crate::{BackupError, Point, manifest};

/// The lock of whoever takes a backup.
const LOCK: &str = "run/backup.lock";
/// The name that `backup.json` has before it is durable.
const TEMPORARY: &str = ".backup.json.tmp";

/// From where on a backup that is under way needs WAL.
const HOLD: &str = ".hold.json";
const MAX_HOLD_BYTES: usize = 4096;

/// The backups of an archive, for whoever looks.
#[derive(Debug)]
pub struct Backups {
    tree: Tree,
}

/// A directory whose `backup.json` can't be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its name.
    pub id: String,
    /// What is wrong.
    pub error: BackupError,
}

/// WAL that a backup needs which isn't one yet; `None` before the server has said where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Its name.
    pub id: String,
    /// Where its WAL begins.
    pub start: Option<Point>,
}

/// The right to take a backup.
#[derive(Debug)]
pub struct Held {
    backups: Backups,
    _lock: Lock,
}

fn place(id: &str) -> PathBuf {
    Path::new(Layout::BACKUPS).join(id)
}

impl Backups {
    /// Those of the archive in this directory.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn open(archive: &Path) -> Result<Self, BackupError> {
        Ok(Self { tree: Tree::open(archive, Readers::Owner)? })
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The backups by where they end, and what can't be read.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn list(&self) -> Result<(Vec<Description>, Vec<Broken>), BackupError> {
        let (mut backups, mut broken) = (Vec::new(), Vec::new());
        for id in self.ids()? {
            match self.read(&id) {
                Ok(Some(backup)) => backups.push(backup),
                // One that is being taken, or was left.
                Ok(None) => {}
                Err(error) => broken.push(Broken { id, error }),
            }
        }
        backups.sort_by(|a, b| (a.stop.lsn, &a.id).cmp(&(b.stop.lsn, &b.id)));
        Ok((backups, broken))
    }

    /// The directory of a backup.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn directory(&self, id: &str) -> Result<Tree, BackupError> {
        Ok(self.tree.below(&place(id))?)
    }

    /// The manifest of a backup, as it was taken.
    ///
    /// # Errors
    /// If it isn't there, or the disk fails.
    pub fn manifest(&self, id: &str) -> Result<Vec<u8>, BackupError> {
        read_manifest(&self.directory(id)?)
    }

    /// Takes the right to make one. `holder` is what another process will be told of this one.
    ///
    /// # Errors
    /// If another process has it, or the disk fails.
    pub fn hold(self, files: &dyn Files, holder: &str) -> Result<Held, BackupError> {
        files.create_dir(Path::new(Layout::RUN))?;
        let lock = files.lock(Path::new(LOCK), holder)?;
        Ok(Held { backups: self, _lock: lock })
    }

    fn read(&self, id: &str) -> Result<Option<Description>, BackupError> {
        let bytes = self.tree.read(&place(id).join(description::NAME), description::MAX_BYTES)?;
        bytes.map(|bytes| Description::parse(id, &bytes)).transpose()
    }

    /// Directories that are no backups: one may be under way, the others were left.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>, BackupError> {
        let mut unfinished = Vec::new();
        for id in self.ids()? {
            if matches!(self.read(&id), Ok(None)) {
                let hold = self.tree.read(&place(&id).join(HOLD), MAX_HOLD_BYTES)?;
                let start = hold.and_then(|bytes| serde_json::from_slice(&bytes).ok());
                unfinished.push(Unfinished { id, start });
            }
        }
        Ok(unfinished)
    }

    /// Takes a backup's name of being one away, durably. Its files are [removed](Self::remove_files)
    /// afterwards, by whoever gets to it.
    ///
    /// # Errors
    /// If the disk fails; it isn't known then whether it still is one.
    pub fn unlist(&self, id: &str) -> Result<(), BackupError> {
        let dir = place(id);
        gone(self.tree.remove(&dir.join(description::NAME)))?;
        Ok(self.tree.sync_dir(&dir)?)
    }

    /// Removes what is left of a backup that is none any more.
    ///
    /// # Errors
    /// If it still is one, or the disk fails.
    pub fn remove_files(&self, id: &str) -> Result<(), BackupError> {
        if !matches!(self.read(id), Ok(None)) {
            return Err(BackupError::NotABackup(format!("{id} still is one")));
        }
        Ok(self.remove(id)?)
    }

    fn ids(&self) -> Result<Vec<String>, DiskError> {
        match self.tree.names(Path::new(Layout::BACKUPS)) {
            Err(error) if error.kind() == disk::ErrorKind::NotFound => Ok(Vec::new()),
            names => {
                Ok(names?.into_iter().filter_map(|name| name.to_str().map(str::to_owned)).collect())
            }
        }
    }

    /// Removes a directory with the files in it; `backup.json` isn't among them. Another process may
    /// be doing the same.
    fn remove(&self, id: &str) -> Result<(), DiskError> {
        let dir = place(id);
        let names = match self.tree.names(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            names => names?,
        };
        for name in names {
            gone(self.tree.remove(&dir.join(name)))?;
        }
        gone(self.tree.remove_dir(&dir))?;
        self.tree.sync_dir(Path::new(Layout::BACKUPS))
    }
}

/// What isn't there needn't be removed.
fn gone(removed: Result<(), DiskError>) -> Result<(), DiskError> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

impl Held {
    /// Removes what backups left that failed or were killed; gives their names.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn clear(&self) -> Result<Vec<String>, BackupError> {
        let mut removed = Vec::new();
        for id in self.backups.ids()? {
            if self.backups.read(&id).is_ok_and(|backup| backup.is_none()) {
                self.backups.remove(&id)?;
                removed.push(id);
            }
        }
        Ok(removed)
    }

    /// Makes the directory of a new backup, named by its time, and gives its name.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn begin(&self, time: &str) -> Result<(String, Tree), BackupError> {
        let tree = &self.backups.tree;
        tree.create_dir(Path::new(Layout::BACKUPS))?;
        let taken = self.backups.ids()?;
        let mut id = time.to_owned();
        let mut number = 1;
        while taken.contains(&id) {
            number += 1;
            id = format!("{time}-{number}");
        }
        tree.create_dir(&place(&id))?;
        tree.sync_dir(Path::new(Layout::BACKUPS))?;
        tree.sync_dir(Path::new(""))?;
        let directory = self.backups.directory(&id)?;
        Ok((id, directory))
    }

    /// Makes a directory a backup: everything in it is durable, and so is the WAL that it needs.
    ///
    /// # Errors
    /// If the disk fails; it isn't one then, or it is not known to be durable.
    pub fn finish(&self, backup: &Description) -> Result<(), BackupError> {
        let (tree, dir) = (&self.backups.tree, place(&backup.id));
        let mut file = tree.create(&dir.join(TEMPORARY))?;
        file.write(&backup.to_json())?;
        file.sync()?;
        tree.sync_dir(&dir)?;
        tree.rename(&dir.join(TEMPORARY), &dir.join(description::NAME))?;
        tree.sync_dir(&dir)?;
        gone(tree.remove(&dir.join(HOLD)))?;
        Ok(())
    }

    /// Says from where on WAL has to stay for a backup that has begun; to whoever expires it.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn hold_wal(&self, id: &str, start: Point) -> Result<(), BackupError> {
        let (tree, path) = (&self.backups.tree, place(id).join(HOLD));
        gone(tree.remove(&path))?;
        let text = serde_json::to_vec(&start).unwrap_or_default();
        // No process that needs it lives through a loss of power.
        Ok(tree.create(&path)?.write(&text)?)
    }

    /// Removes a backup that failed.
    ///
    /// # Errors
    /// If the disk fails; the next backup removes it then.
    pub fn abandon(&self, id: &str) -> Result<(), BackupError> {
        Ok(self.backups.remove(id)?)
    }
}

/// The stored manifest of a backup.
pub(crate) fn read_manifest(directory: &Tree) -> Result<Vec<u8>, BackupError> {
    let text = directory.read(Path::new(manifest::NAME), manifest::MAX_MANIFEST_BYTES)?;
    text.ok_or_else(|| BackupError::NotABackup("it has no manifest".to_owned()))
}

#[cfg(test)]
mod tests {
    use disk::RealFiles;

    use super::*;
    use crate::description::tests::sample;

    #[test]
    fn only_what_is_finished_is_a_backup() {
        let dir = tempfile::tempdir().unwrap();
        let files = RealFiles::new(dir.path().to_owned());
        let open = || Backups::open(dir.path()).unwrap();
        let held = open().hold(&files, "one").unwrap();
        assert!(
            matches!(open().hold(&files, "two"), Err(BackupError::Locked { holder }) if holder == "one")
        );
        let (first, tree) = held.begin("t").unwrap();
        tree.create(Path::new("base.tar")).unwrap().write(b"x").unwrap();
        let (second, _) = held.begin("t").unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("t", "t-2"));
        assert_eq!(open().list().unwrap(), (vec![], vec![]));
        held.finish(&sample("t-2")).unwrap();
        assert_eq!(open().list().unwrap(), (vec![sample("t-2")], vec![]));
        assert_eq!(held.clear().unwrap(), ["t"]);
        assert!(!dir.path().join("backups/t").exists());
        std::fs::write(dir.path().join("backups/t-2/backup.json"), "{").unwrap();
        let (none, broken) = open().list().unwrap();
        assert_eq!((none, broken[0].id.as_str()), (vec![], "t-2"));
        assert!(held.clear().unwrap().is_empty(), "what can't be read isn't removed");
    }
}
