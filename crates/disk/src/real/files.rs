//! The blocking view of the real disk.
//!
//! Invariant: no threads, no state but the root; each call is its system calls.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::sys::{OpenFile, Root};
use crate::files::{HOLDER_BYTES, Held, UNKNOWN_HOLDER};
use crate::{
    Access, AlignedBuf, BLOCK, DiskError, ErrorKind, Files, Lock, LockError, OpKind, ReadAt,
};

/// How much `copy` moves at a time: large enough for direct reads to be quick, and small beside
/// the sixteen megabytes that a receiver may have.
const COPY_BYTES: usize = 1 << 20;

/// The blocking view of a real disk, without threads: for tools.
#[derive(Clone)]
pub struct RealFiles {
    pub(super) root: Root,
}

impl RealFiles {
    /// The files below a directory, which may be missing still.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root: Root::new(root) }
    }

    fn write_holder(file: &File, holder: &str) -> io::Result<()> {
        file.set_len(0)?;
        file.write_all_at(&holder.as_bytes()[..holder.len().min(HOLDER_BYTES)], 0)
    }
}

impl Files for RealFiles {
    fn create_dir(&self, path: &Path) -> Result<(), DiskError> {
        self.root.create_dir(path)
    }

    fn visit(&self, dir: &Path, visitor: &mut dyn FnMut(&str)) -> Result<(), DiskError> {
        let error = |e: &io::Error| DiskError::from_io(OpKind::List.name(), dir, e);
        for entry in std::fs::read_dir(self.root.at(dir)).map_err(|e| error(&e))? {
            visitor(&entry.map_err(|e| error(&e))?.file_name().to_string_lossy());
        }
        Ok(())
    }

    fn len(&self, path: &Path) -> Result<Option<u64>, DiskError> {
        match std::fs::metadata(self.root.at(path)) {
            Ok(metadata) if metadata.is_dir() => Ok(Some(0)),
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(DiskError::from_io(OpKind::List.name(), path, &e)),
        }
    }

    fn open_read(&self, path: &Path, access: Access) -> Result<Box<dyn ReadAt>, DiskError> {
        Ok(Box::new(self.root.open(path, access, false)?))
    }

    fn read(&self, path: &Path, max: usize) -> Result<Vec<u8>, DiskError> {
        let name = OpKind::Read.name();
        let error = |e: &io::Error| DiskError::from_io(name, path, e);
        let file = File::open(self.root.at(path)).map_err(|e| error(&e))?;
        let mut bytes = Vec::new();
        // One byte more than allowed tells that there is more.
        file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|e| error(&e))?;
        if bytes.len() > max {
            let message = format!("it has more than {max} bytes");
            return Err(DiskError::new(name, path, ErrorKind::Other, message));
        }
        Ok(bytes)
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let file = self.root.create(path, 0, Access::Buffered)?;
        file.write(OpKind::Append, 0, bytes)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let file = self.root.open(path, Access::Buffered, true)?;
        file.write(OpKind::Append, file.len()?, bytes)
    }

    fn sync_file(&self, path: &Path) -> Result<(), DiskError> {
        self.root.open(path, Access::Buffered, false)?.sync(OpKind::SyncAll)
    }

    fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        self.root.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.root.rename(from, to)
    }

    fn replace(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.root.replace(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.root.remove(path)
    }

    fn copy(&self, from: &Path, to: &Path, len: u64) -> Result<(), DiskError> {
        let source = self.root.open(from, Access::Direct, false)?;
        let whole = source.len()?;
        let short = |has: u64| {
            let message = format!("it has {has} bytes and not {len}");
            DiskError::new("copy", from, ErrorKind::ShortRead, message)
        };
        if whole < len {
            return Err(short(whole));
        }
        let target = self.root.create(to, 0, Access::Buffered)?;
        let mut buf = AlignedBuf::zeroed(COPY_BYTES);
        let mut at = 0;
        while at < len {
            // Whole blocks are read, since the reads are direct; what is past `len` isn't written.
            let want = (len - at).min(COPY_BYTES as u64) as usize;
            let got = source.read(at, &mut buf, want.next_multiple_of(BLOCK))?.min(want);
            if got < want {
                return Err(short(at + got as u64));
            }
            target.write(OpKind::Write, at, &buf[..got])?;
            at += got as u64;
        }
        if whole > len { target.extend(whole) } else { Ok(()) }
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Lock, LockError> {
        let error = |e: &io::Error| LockError::Disk(DiskError::from_io("lock", path, e));
        let file = self.root.open_lock(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = Vec::new();
                // Without the text the lock is held all the same.
                _ = (&file).take(HOLDER_BYTES as u64).read_to_end(&mut text);
                let holder = String::from_utf8_lossy(&text).into_owned();
                return Err(LockError::Held { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(e)) => return Err(error(&e)),
        }
        Self::write_holder(&file, holder).map_err(|e| error(&e))?;
        Ok(Lock::new(HeldFile { _file: file }))
    }

    fn lock_root(&self) -> Result<Lock, LockError> {
        let file = self.root.open_dir()?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                Err(LockError::Held { path: PathBuf::new(), holder: UNKNOWN_HOLDER.to_owned() })
            }
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Lock::new(HeldFile { _file: file })),
        }
    }
}

/// The lock is the open file's; closing it gives the lock up.
struct HeldFile {
    _file: File,
}

impl Held for HeldFile {}

impl ReadAt for OpenFile {
    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<usize, DiskError> {
        self.read(offset, buf, len)
    }

    fn len(&self) -> Result<u64, DiskError> {
        Self::len(self)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (!self.is_direct()).then(|| self.as_fd())
    }
}
