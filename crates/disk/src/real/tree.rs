//! A directory that is filled with what others name: each path is taken component by component
//! beneath an open handle, and no link is ever followed.
//!
//! Invariant: nothing outside the directory is created, opened, renamed or removed, whatever the
//! paths say and whoever exchanges a directory for a link meanwhile; nothing that exists is written
//! over. Errors name the whole path.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};

use crate::{DiskError, ErrorKind};

/// Who may read what is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Its owner.
    Owner,
    /// Its group as well.
    Group,
}

impl Readers {
    fn file(self) -> Mode {
        Mode::from_raw_mode(if self == Self::Group { 0o640 } else { 0o600 })
    }

    fn dir(self) -> Mode {
        Mode::from_raw_mode(if self == Self::Group { 0o750 } else { 0o700 })
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
    access: Readers,
}

/// A lock of a directory; given up on drop, and by the system when the process dies.
#[derive(Debug)]
#[must_use = "the lock is given up when this is dropped"]
pub struct TreeLock {
    _dir: OwnedFd,
}

/// A file that was just created: it is written from its start to its end.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
}

/// A file open for reading.
#[derive(Debug)]
pub struct OldFile {
    file: File,
    path: PathBuf,
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Tree {
    /// The directory at a path, which is the caller's own: links in it are followed.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn open(path: &Path, access: Readers) -> Result<Self, DiskError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty());
        let root = root.map_err(|errno| DiskError::from_errno("open", path, errno))?;
        Ok(Self { root, path: path.to_owned(), access })
    }

    /// A directory in this one.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn below(&self, path: &Path) -> Result<Self, DiskError> {
        let root = self.dir(path)?;
        Ok(Self { root, path: self.path.join(path), access: self.access })
    }

    /// Locks the directory, as several may who read it; waits for who has it to themselves. Where a
    /// file system can't lock directories, as NFS can't, it gives a lock that holds nobody up.
    ///
    /// # Errors
    /// If the directory can't be opened.
    pub fn lock_shared(&self) -> Result<TreeLock, DiskError> {
        let dir = self.dir(Path::new(""))?;
        // Another error than being interrupted means that there are no such locks.
        while let Err(rustix::io::Errno::INTR) =
            rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockShared)
        {}
        Ok(TreeLock { _dir: dir })
    }

    /// Locks the directory for this process alone; `None` if somebody reads it.
    ///
    /// # Errors
    /// If the directory can't be opened.
    pub fn try_lock(&self) -> Result<Option<TreeLock>, DiskError> {
        let dir = self.dir(Path::new(""))?;
        match rustix::fs::flock(&dir, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Ok(()) | Err(_) => Ok(Some(TreeLock { _dir: dir })),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory; fine if it is there. The one above it has to be.
    ///
    /// # Errors
    /// If it can't be made, or something else has its name.
    pub fn create_dir(&self, path: &Path) -> Result<(), DiskError> {
        let (parent, name) = self.parent(path)?;
        match rustix::fs::mkdirat(&parent, name, self.access.dir()) {
            Ok(()) if self.access == Readers::Group => {
                // What umask took away.
                let dir = rustix::fs::openat(&parent, name, DIRECTORY, Mode::empty());
                let set = dir.and_then(|dir| rustix::fs::fchmod(dir, self.access.dir()));
                set.map_err(|errno| self.error("create directory", path, errno))
            }
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST) => {
                let there = rustix::fs::openat(&parent, name, DIRECTORY, Mode::empty());
                there.map(drop).map_err(|errno| self.error("create directory", path, errno))
            }
            Err(errno) => Err(self.error("create directory", path, errno)),
        }
    }

    /// Creates a file that must not exist.
    ///
    /// # Errors
    /// If it can't be created.
    pub fn create(&self, path: &Path) -> Result<NewFile, DiskError> {
        let (parent, name) = self.parent(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let error = |errno| self.error("create", path, errno);
        let file = rustix::fs::openat(&parent, name, flags, self.access.file()).map_err(error)?;
        if self.access == Readers::Group {
            rustix::fs::fchmod(&file, self.access.file()).map_err(error)?;
        }
        Ok(NewFile { file: file.into(), path: self.path.join(path) })
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// If it can't be opened, or is a link.
    pub fn open_file(&self, path: &Path) -> Result<OldFile, DiskError> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::empty());
        let file = file.map_err(|errno| self.error("open", path, errno))?;
        Ok(OldFile { file: file.into(), path: self.path.join(path) })
    }

    /// The whole of a small file; `None` if there is none.
    ///
    /// # Errors
    /// If it can't be read, or has more than `max` bytes.
    pub fn read(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError> {
        let file = match self.open_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        file.read_to_end(max).map(Some)
    }

    /// Makes a symbolic link that must not exist.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn link_to(&self, target: &Path, path: &Path) -> Result<(), DiskError> {
        let (parent, name) = self.parent(path)?;
        let linked = rustix::fs::symlinkat(target, &parent, name);
        linked.map_err(|errno| self.error("link", path, errno))
    }

    /// Renames within the tree, without replacing.
    ///
    /// # Errors
    /// If it can't be renamed, or the name is taken.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        use rustix::io::Errno;
        let ((old_dir, old), (new_dir, new)) = (self.parent(from)?, self.parent(to)?);
        let renamed =
            match rustix::fs::renameat_with(&old_dir, old, &new_dir, new, RenameFlags::NOREPLACE) {
                // File systems without it: nothing else makes names in this tree.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    rustix::fs::renameat(&old_dir, old, &new_dir, new)
                }
                renamed => renamed,
            };
        renamed.map_err(|errno| self.error("rename", to, errno))
    }

    /// Removes a file or a link.
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let (parent, name) = self.parent(path)?;
        let removed = rustix::fs::unlinkat(&parent, name, AtFlags::empty());
        removed.map_err(|errno| self.error("remove", path, errno))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn remove_dir(&self, path: &Path) -> Result<(), DiskError> {
        let (parent, name) = self.parent(path)?;
        let removed = rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR);
        removed.map_err(|errno| self.error("remove", path, errno))
    }

    /// The names in a directory, ordered; the empty path is the tree's own.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn names(&self, path: &Path) -> Result<Vec<PathBuf>, DiskError> {
        let error = |errno| self.error("list", path, errno);
        let dir = rustix::fs::Dir::read_from(self.dir(path)?).map_err(error)?;
        let mut names = Vec::new();
        for entry in dir {
            let entry = entry.map_err(error)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(PathBuf::from(OsStr::from_bytes(name)));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// fsync of a directory: the names in it.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        let synced = rustix::fs::fsync(self.dir(path)?);
        synced.map_err(|errno| self.error("fsync", path, errno))
    }

    /// Makes everything durable that was written to this file system: one call for thousands of
    /// files, where an fsync of each would wait for the journal thousands of times.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync_all(&self) -> Result<(), DiskError> {
        let synced = rustix::fs::syncfs(&self.root);
        synced.map_err(|errno| self.error("sync of the file system", Path::new(""), errno))
    }

    /// The open directory that a path names.
    fn dir(&self, path: &Path) -> Result<OwnedFd, DiskError> {
        let open = |dir: BorrowedFd<'_>, name: &OsStr| {
            rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())
                .map_err(|errno| self.error("open", path, errno))
        };
        let mut dir = open(self.root.as_fd(), OsStr::new("."))?;
        for component in path.components() {
            let Component::Normal(name) = component else { return Err(self.outside(path)) };
            dir = open(dir.as_fd(), name)?;
        }
        Ok(dir)
    }

    /// The open directory that a path is in, and its name there.
    fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), DiskError> {
        let Some(Component::Normal(name)) = path.components().next_back() else {
            return Err(self.outside(path));
        };
        Ok((self.dir(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn outside(&self, path: &Path) -> DiskError {
        let message = "the path leads out of the directory";
        DiskError::new("open", &self.path.join(path), ErrorKind::Other, message)
    }

    fn error(&self, op: &'static str, path: &Path, errno: rustix::io::Errno) -> DiskError {
        DiskError::from_errno(op, &self.path.join(path), errno)
    }
}

impl NewFile {
    /// Goes on with these bytes.
    ///
    /// # Errors
    /// If the disk fails, or is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| DiskError::from_io("write", &self.path, &error))
    }

    /// Writes at this place.
    ///
    /// # Errors
    /// If the disk fails, or is full.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|error| DiskError::from_io("write", &self.path, &error))
    }

    /// Gives it this length; what is added reads as zeros.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn set_len(&self, len: u64) -> Result<(), DiskError> {
        let set = self.file.set_len(len);
        set.map_err(|error| DiskError::from_io("set the length", &self.path, &error))
    }

    /// fsync.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync(&self) -> Result<(), DiskError> {
        self.file.sync_all().map_err(|error| DiskError::from_io("fsync", &self.path, &error))
    }

    /// The same file once more, for another thread to sync.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn again(&self) -> Result<Self, DiskError> {
        let file = self.file.try_clone();
        let file = file.map_err(|error| DiskError::from_io("open", &self.path, &error))?;
        Ok(Self { file, path: self.path.clone() })
    }
}

impl OldFile {
    /// Fills `buf` from this place on.
    ///
    /// # Errors
    /// If the disk fails, or the file ends before.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DiskError> {
        let read = self.file.read_exact_at(buf, offset);
        read.map_err(|error| DiskError::from_io("read", &self.path, &error))
    }

    /// Its length.
    ///
    /// # Errors
    /// If the system can't tell.
    pub fn len(&self) -> Result<u64, DiskError> {
        let metadata = self.file.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|error| DiskError::from_io("list", &self.path, &error))
    }

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// If the system can't tell.
    pub fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }

    fn read_to_end(&self, max: usize) -> Result<Vec<u8>, DiskError> {
        use io::Read;
        let mut bytes = Vec::new();
        let read = (&self.file).take(max as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| DiskError::from_io("read", &self.path, &error))?;
        if bytes.len() > max {
            let message = format!("it has more than {max} bytes");
            return Err(DiskError::new("read", &self.path, ErrorKind::Other, message));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_leaves_the_directory_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink(outside.join("new"), inside.join("dangling")).unwrap();
        let tree = Tree::open(&inside, Readers::Owner).unwrap();
        for path in ["../x", "/etc/x", "a/../../x", "", ".", "..", "link/x", "dangling"] {
            assert!(tree.create(Path::new(path)).is_err(), "{path}");
            assert!(tree.open_file(Path::new(path)).is_err(), "{path}");
        }
        for path in ["../x", "link", "link/x", "dangling"] {
            assert!(tree.create_dir(Path::new(path)).is_err(), "{path}");
        }
        assert!(std::fs::read_dir(&outside).unwrap().next().is_none());
        tree.create_dir(Path::new("a")).unwrap();
        tree.create_dir(Path::new("a")).unwrap();
        tree.create(Path::new("a/f")).unwrap().write(b"x").unwrap();
        assert!(tree.create(Path::new("a/f")).is_err(), "never over another");
        assert!(tree.create_dir(Path::new("a/f")).is_err());
        assert!(tree.rename(Path::new("a/f"), Path::new("link")).is_err());
        assert_eq!(tree.names(Path::new("a")).unwrap(), [PathBuf::from("f")]);
        assert_eq!(tree.read(Path::new("a/f"), 1).unwrap(), Some(b"x".to_vec()));
        assert!(tree.read(Path::new("a/f"), 0).is_err());
        assert_eq!(tree.read(Path::new("a/g"), 1).unwrap(), None);
    }
}
