//! Where a data directory is to be, looked at before anything is touched.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use archive::Layout;
use disk::DiskError;

use crate::{BackupError, Description};

/// Where a tablespace is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// The tablespace.
    pub oid: u32,
    /// The directory, absolute.
    pub location: PathBuf,
}

/// Where a data directory is to be.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The data directory.
    pub data: PathBuf,
    /// The archive that it comes from.
    pub archive: PathBuf,
    /// The tablespaces that aren't within the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// Where `pg_wal` is to be, if not in the data directory; absolute.
    pub waldir: Option<PathBuf>,
    /// What is there may be renamed, with this behind its name.
    pub replace: Option<String>,
}

fn refused(path: &Path, why: impl Into<String>) -> BackupError {
    BackupError::Refused { path: path.to_owned(), why: why.into() }
}

fn failed(path: &Path, error: &io::Error) -> BackupError {
    DiskError::from_io("look", path, error).into()
}

/// What is at a path.
enum There {
    Nothing,
    Empty,
    Something,
}

fn look(path: &Path) -> Result<There, BackupError> {
    let mut entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // A link to nowhere isn't nothing.
            let nothing = fs::symlink_metadata(path).is_err();
            return Ok(if nothing { There::Nothing } else { There::Something });
        }
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(refused(path, "it isn't a directory"));
        }
        Err(error) => return Err(failed(path, &error)),
    };
    Ok(if entries.next().is_none() { There::Empty } else { There::Something })
}

impl Destination {
    /// Takes each tablespace to where it was, or to where `mapping` says, by the old location. Those
    /// within the data directory stay there.
    ///
    /// # Errors
    /// If the mapping names a location that the backup hasn't.
    pub fn map_tablespaces(
        &mut self,
        backup: &Description,
        mapping: &[(PathBuf, PathBuf)],
    ) -> Result<(), BackupError> {
        for (old, _) in mapping {
            if !backup.tablespaces.iter().any(|known| Path::new(&known.location) == old) {
                let known: Vec<&str> =
                    backup.tablespaces.iter().map(|known| known.location.as_str()).collect();
                let why =
                    format!("the backup has no tablespace there; it has [{}]", known.join(", "));
                return Err(refused(old, why));
            }
        }
        for tablespace in &backup.tablespaces {
            let was = Path::new(&tablespace.location);
            let mapped = mapping.iter().find(|(old, _)| old == was).map(|(_, new)| new.as_path());
            let location = mapped.unwrap_or(was);
            if location.is_absolute() {
                let (oid, location) = (tablespace.oid, location.to_owned());
                self.tablespaces.push(Tablespace { oid, location });
            }
        }
        Ok(())
    }

    pub(super) fn location(&self, oid: u32) -> Option<&Path> {
        let tablespace = self.tablespaces.iter().find(|tablespace| tablespace.oid == oid);
        tablespace.map(|tablespace| tablespace.location.as_path())
    }

    /// Looks whether a cluster of this major version may be made there. Touches nothing.
    ///
    /// # Errors
    /// If not.
    pub fn examine(&self, server_major: u32) -> Result<(), BackupError> {
        self.refuse_archives()?;
        self.refuse_running()?;
        let replaced = match look(&self.data)? {
            There::Something => {
                self.refuse_other_major(server_major)?;
                if self.replace.is_none() {
                    let why = "the directory isn't empty; empty it, or add --replace to have it \
                               renamed aside";
                    return Err(refused(&self.data, why));
                }
                true
            }
            There::Nothing | There::Empty => false,
        };
        for other in self.others() {
            let inside = |a: &Path, b: &Path| a.starts_with(b);
            if inside(other, &self.data) {
                return Err(refused(other, "it is within the data directory"));
            }
            match look(other)? {
                There::Something if replaced && self.was_used(other) => {}
                There::Something => {
                    let why = "the directory isn't empty, and isn't one of the cluster's that is \
                               replaced; choose another with --tablespace-mapping or --waldir";
                    return Err(refused(other, why));
                }
                There::Nothing | There::Empty => {}
            }
        }
        Ok(())
    }

    /// Renames aside what is replaced; gives what it is called now.
    pub(super) fn set_aside(&self) -> Result<Vec<PathBuf>, BackupError> {
        let Some(suffix) = &self.replace else { return Ok(Vec::new()) };
        let mut aside = Vec::new();
        // The tablespaces first: that they are the old cluster's is what its links say.
        for path in self.others().chain([self.data.as_path()]) {
            if !matches!(look(path)?, There::Something) {
                continue;
            }
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            let to = PathBuf::from(name);
            if fs::symlink_metadata(&to).is_ok() {
                return Err(refused(&to, "it is there already"));
            }
            let renamed = fs::rename(path, &to);
            renamed.map_err(|error| DiskError::from_io("rename", path, &error))?;
            aside.push(to);
        }
        Ok(aside)
    }

    fn others(&self) -> impl Iterator<Item = &Path> {
        let tablespaces = self.tablespaces.iter().map(|tablespace| tablespace.location.as_path());
        tablespaces.chain(self.waldir.as_deref())
    }

    /// Whether a link of the cluster that is there leads to this directory.
    fn was_used(&self, location: &Path) -> bool {
        let mut links = vec![self.data.join("pg_wal")];
        if let Ok(entries) = fs::read_dir(self.data.join("pg_tblspc")) {
            links.extend(entries.flatten().map(|entry| entry.path()));
        }
        links.iter().any(|link| fs::read_link(link).is_ok_and(|target| target == location))
    }

    fn refuse_archives(&self) -> Result<(), BackupError> {
        if self.data.join(Layout::FORMAT).exists() {
            return Err(refused(
                &self.data,
                "it is an archive: -D is the data directory to make, and -A the archive",
            ));
        }
        let archive = self.archive.canonicalize().map_err(|error| failed(&self.archive, &error))?;
        for path in self.others().chain([self.data.as_path()]) {
            let real = real(path);
            if real.starts_with(&archive) || archive.starts_with(&real) {
                return Err(refused(
                    path,
                    format!("it and the archive {} lie in one another", archive.display()),
                ));
            }
        }
        Ok(())
    }

    /// A server that runs there has the directory for its working directory.
    fn refuse_running(&self) -> Result<(), BackupError> {
        let Ok(text) = fs::read_to_string(self.data.join("postmaster.pid")) else { return Ok(()) };
        let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else {
            return Ok(());
        };
        let process = PathBuf::from(format!("/proc/{pid}"));
        let elsewhere = match fs::read_link(process.join("cwd")) {
            Ok(cwd) => cwd != real(&self.data),
            // Of another user: it may be the server.
            Err(error) => error.kind() == ErrorKind::NotFound,
        };
        if elsewhere {
            return Ok(());
        }
        Err(refused(&self.data, format!("a server runs there (process {pid}); stop it first")))
    }

    fn refuse_other_major(&self, server_major: u32) -> Result<(), BackupError> {
        let Ok(version) = fs::read_to_string(self.data.join("PG_VERSION")) else { return Ok(()) };
        if version.trim() == server_major.to_string() {
            return Ok(());
        }
        let version: String = version.trim().chars().take(10).collect();
        Err(refused(
            &self.data,
            format!("it is of PostgreSQL {version}, and the backup is of {server_major}"),
        ))
    }
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing = Vec::new();
    let mut at = absolute.as_path();
    loop {
        if let Ok(real) = at.canonicalize() {
            return missing.iter().rev().fold(real, |path, name| path.join(name));
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                at = parent;
            }
            _ => return absolute,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(root: &Path) -> Destination {
        let archive = root.join("archive");
        fs::create_dir_all(&archive).unwrap();
        fs::write(archive.join("seawall.json"), "{}").unwrap();
        Destination {
            data: root.join("data"),
            archive,
            tablespaces: Vec::new(),
            waldir: None,
            replace: None,
        }
    }

    #[track_caller]
    fn check(destination: &Destination, expect: &str) {
        match destination.examine(18) {
            Ok(()) => assert_eq!(expect, "", "it was accepted"),
            Err(error) => {
                assert!(!expect.is_empty() && error.to_string().contains(expect), "{error}");
            }
        }
    }

    #[test]
    fn only_what_is_empty_or_may_be_replaced() {
        let root = tempfile::tempdir().unwrap();
        let mut to = destination(root.path());
        check(&to, "");
        fs::create_dir(&to.data).unwrap();
        check(&to, "");
        fs::write(to.data.join("PG_VERSION"), "17\n").unwrap();
        check(&to, "it is of PostgreSQL 17, and the backup is of 18");
        fs::write(to.data.join("PG_VERSION"), "18\n").unwrap();
        check(&to, "isn't empty");
        to.replace = Some(".old".to_owned());
        check(&to, "");
        let tablespace = root.path().join("space");
        fs::create_dir(&tablespace).unwrap();
        fs::write(tablespace.join("x"), "").unwrap();
        to.tablespaces.push(Tablespace { oid: 1, location: tablespace.clone() });
        check(&to, "isn't one of the cluster's that is replaced");
        fs::create_dir(to.data.join("pg_tblspc")).unwrap();
        std::os::unix::fs::symlink(&tablespace, to.data.join("pg_tblspc/1")).unwrap();
        check(&to, "");
        let aside = to.set_aside().unwrap();
        assert_eq!(aside, [root.path().join("space.old"), root.path().join("data.old")]);
        assert!(root.path().join("data.old/PG_VERSION").exists() && !to.data.exists());
    }

    #[test]
    fn no_archive_and_no_running_server() {
        let root = tempfile::tempdir().unwrap();
        let mut to = destination(root.path());
        to.replace = Some(".old".to_owned());
        to.data = to.archive.clone();
        check(&to, "it is an archive");
        to.data = to.archive.join("wal");
        check(&to, "lie in one another");
        to.data = root.path().to_owned();
        check(&to, "lie in one another");
        to.data = root.path().join("data");
        fs::create_dir(&to.data).unwrap();
        let pid = std::process::id();
        fs::write(to.data.join("postmaster.pid"), format!("{pid}\n")).unwrap();
        // This process isn't there, so that it is no server of that directory.
        check(&to, "");
        to.data = std::env::current_dir().unwrap();
        assert!(!to.data.join("postmaster.pid").exists());
    }
}
