//! The system calls: one function for each, with the path in its error.
//!
//! Invariant: EINTR is repeated here and nowhere else; a file system that can't do something
//! gets the fallback here and nowhere else. Never retries a sync that failed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, FallocateFlags, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::{Access, AlignedBuf, BLOCK, DiskError, ErrorKind, OpKind};

/// WAL holds the data of the database: its owner reads it, nobody else.
const FILE_MODE: u32 = 0o600;
/// A directory of such files.
const DIR_MODE: u32 = 0o700;

/// An open file and what is said about it in errors.
pub(super) struct OpenFile {
    file: File,
    direct: AtomicBool,
    path: Mutex<PathBuf>,
}

impl OpenFile {
    fn new(file: File, access: Access, path: &Path) -> Self {
        let this = Self { file, direct: AtomicBool::new(false), path: Mutex::new(path.to_owned()) };
        if access == Access::Direct {
            // After the opening, and not by a flag of open(2): that leaves an empty file behind
            // where the file system refuses.
            this.set_direct(true);
        }
        this
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The path it goes by, relative to the root.
    pub(super) fn path(&self) -> PathBuf {
        self.path.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has it go by its new name, if it had this one.
    pub(super) fn follow(&self, from: &Path, to: &Path) {
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        if *path == from {
            to.clone_into(&mut path);
        }
    }

    pub(super) fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> Result<u64, DiskError> {
        let metadata = self.file.metadata();
        metadata.map(|metadata| metadata.len()).map_err(|e| self.error(OpKind::List, &e))
    }

    pub(super) fn write(&self, kind: OpKind, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.check_aligned(kind, offset, bytes.len())?;
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match self.file.write_at(rest, offset + done as u64) {
                Ok(0) => return Err(self.error(kind, &io::ErrorKind::WriteZero.into())),
                Ok(part) => {
                    let next = self.next_start(done + part, bytes.len());
                    if next == done {
                        // Less than a block, and it would be less again, for ever.
                        return Err(self.error(kind, &io::ErrorKind::WriteZero.into()));
                    }
                    done = next;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.refused_direct(kind, &error)?,
            }
        }
        Ok(())
    }

    /// Reads up to `len` bytes to the start of `buf`; fewer only at the end of the file.
    pub(super) fn read(
        &self,
        offset: u64,
        buf: &mut AlignedBuf,
        len: usize,
    ) -> Result<usize, DiskError> {
        let kind = OpKind::Read;
        self.check_aligned(kind, offset, len)?;
        let Some(out) = buf.get_mut(..len) else { return Err(too_long(kind, &self.path())) };
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(part) => {
                    done += part;
                    if self.is_direct() && !done.is_multiple_of(BLOCK) {
                        // Only the end of the file isn't at a block.
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.refused_direct(kind, &error)?,
            }
        }
        Ok(done)
    }

    pub(super) fn sync(&self, kind: OpKind) -> Result<(), DiskError> {
        let result = match kind {
            OpKind::SyncData => self.file.sync_data(),
            _ => self.file.sync_all(),
        };
        result.map_err(|error| self.error(kind, &error))
    }

    /// Makes it longer, with zeros that may have no room of their own.
    pub(super) fn extend(&self, len: u64) -> Result<(), DiskError> {
        self.file.set_len(len).map_err(|error| self.error(OpKind::Extend, &error))
    }

    /// Makes room for `size` bytes and the file that long.
    fn allocate(&self, size: u64) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        let fallocate = || rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, size);
        match rustix::io::retry_on_intr(fallocate) {
            // Without it nothing reserves room, written zeros don't on copy-on-write file systems
            // either; ENOSPC then comes with the write, where it is expected too.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.set_len(size),
            result => Ok(result?),
        }
    }

    /// Where a write goes on after `done` bytes: a direct one at a block again.
    fn next_start(&self, done: usize, len: usize) -> usize {
        if done >= len || !self.is_direct() { done } else { done / BLOCK * BLOCK }
    }

    fn set_direct(&self, yes: bool) {
        let result = rustix::fs::fcntl_getfl(&self.file).and_then(|mut flags| {
            flags.set(OFlags::DIRECT, yes);
            rustix::fs::fcntl_setfl(&self.file, flags)
        });
        self.direct.store(yes && result.is_ok(), Ordering::Relaxed);
    }

    /// Goes on buffered where a file system took the flag and refuses the call.
    fn refused_direct(&self, kind: OpKind, error: &io::Error) -> Result<(), DiskError> {
        if self.is_direct() && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) {
            self.set_direct(false);
            return Ok(());
        }
        Err(self.error(kind, error))
    }

    fn check_aligned(&self, kind: OpKind, offset: u64, len: usize) -> Result<(), DiskError> {
        let aligned = offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK);
        if aligned || !self.is_direct() {
            return Ok(());
        }
        let message = "direct I/O needs offsets and lengths in whole blocks of 4096 bytes";
        Err(DiskError::new(kind.name(), &self.path(), ErrorKind::Other, message))
    }

    fn error(&self, kind: OpKind, error: &io::Error) -> DiskError {
        DiskError::from_io(kind.name(), &self.path(), error)
    }
}

pub(super) fn too_long(kind: OpKind, path: &Path) -> DiskError {
    DiskError::new(kind.name(), path, ErrorKind::Other, "longer than its buffer")
}

/// The directory that all paths are relative to.
#[derive(Clone)]
pub(super) struct Root {
    path: PathBuf,
}

impl Root {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The path for the system.
    pub(super) fn at(&self, path: &Path) -> PathBuf {
        // Joining the empty path would add a slash, which the root may not like as a new name.
        if path.as_os_str().is_empty() { self.path.clone() } else { self.path.join(path) }
    }

    pub(super) fn create(
        &self,
        path: &Path,
        size: u64,
        access: Access,
    ) -> Result<OpenFile, DiskError> {
        let error = |error: &io::Error| DiskError::from_io(OpKind::Create.name(), path, error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(FILE_MODE);
        let file = OpenFile::new(options.open(self.at(path)).map_err(|e| error(&e))?, access, path);
        if let Err(failed) = file.allocate(size) {
            // The allocation's failure is what the caller has to know.
            _ = std::fs::remove_file(self.at(path));
            return Err(error(&failed));
        }
        Ok(file)
    }

    pub(super) fn open(
        &self,
        path: &Path,
        access: Access,
        write: bool,
    ) -> Result<OpenFile, DiskError> {
        let file = OpenOptions::new().read(true).write(write).open(self.at(path));
        let file = file.map_err(|e| DiskError::from_io(OpKind::Open.name(), path, &e))?;
        Ok(OpenFile::new(file, access, path))
    }

    /// A file to lock: made if need be, its content kept.
    pub(super) fn open_lock(&self, path: &Path) -> Result<File, DiskError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        options.open(self.at(path)).map_err(|e| DiskError::from_io("lock", path, &e))
    }

    /// The root directory, to lock.
    pub(super) fn open_dir(&self) -> Result<File, DiskError> {
        let root = Path::new("");
        File::open(self.at(root)).map_err(|e| DiskError::from_io("lock", root, &e))
    }

    pub(super) fn create_dir(&self, path: &Path) -> Result<(), DiskError> {
        use std::os::unix::fs::DirBuilderExt;
        let system_path = self.at(path);
        match std::fs::DirBuilder::new().mode(DIR_MODE).create(&system_path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && system_path.is_dir() => Ok(()),
            result => result.map_err(|e| DiskError::from_io(OpKind::CreateDir.name(), path, &e)),
        }
    }

    pub(super) fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        let sync = |dir: &Path| File::open(dir).and_then(|dir| dir.sync_all());
        let error = |e: io::Error| DiskError::from_io(OpKind::SyncDir.name(), path, &e);
        let dir = self.at(path);
        sync(&dir).map_err(error)?;
        if !path.as_os_str().is_empty() {
            return Ok(());
        }
        // The root may just have been made, and its own name is in the directory above.
        let root = dir.canonicalize().map_err(error)?;
        match root.parent().map(sync) {
            // Who may not read that directory hasn't made anything in it.
            Some(Err(e)) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Some(synced) => synced.map_err(error),
            None => Ok(()),
        }
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let (old, new) = (self.at(from), self.at(to));
        match rustix::fs::renameat_with(CWD, &old, CWD, &new, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.rename_by_link(from, to),
            result => result.map_err(|e| DiskError::from_errno(OpKind::Rename.name(), to, e)),
        }
    }

    /// For file systems without renameat2: a link doesn't replace either.
    ///
    /// The directory is synced between, or a power loss could keep the unlink without the link.
    /// A crash between leaves both names, which whoever starts up has to expect.
    pub(super) fn rename_by_link(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let name = OpKind::Rename.name();
        std::fs::hard_link(self.at(from), self.at(to))
            .map_err(|e| DiskError::from_io(name, to, &e))?;
        self.sync_dir(to.parent().unwrap_or(Path::new("")))?;
        std::fs::remove_file(self.at(from)).map_err(|e| DiskError::from_io(name, from, &e))
    }

    pub(super) fn replace(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        std::fs::rename(self.at(from), self.at(to))
            .map_err(|e| DiskError::from_io(OpKind::Replace.name(), to, &e))
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), DiskError> {
        std::fs::remove_file(self.at(path))
            .map_err(|e| DiskError::from_io(OpKind::Remove.name(), path, &e))
    }
}
