//! The blocking view of the simulated disk: the same state, the same counts and faults.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::state::{Handle, State, too_long, unaligned};
use super::{SimDisk, locked};
use crate::files::{HOLDER_BYTES, Held, UNKNOWN_HOLDER};
use crate::{
    Access, AlignedBuf, BLOCK, DiskError, ErrorKind, Files, Lock, LockError, OpKind, ReadAt,
};

/// How much `copy` writes at a time: a unit in which it can be interrupted.
const COPY_BYTES: usize = 1 << 20;

impl Files for SimDisk {
    fn create_dir(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = self.state();
        if state.image.lookup_dir(path).is_ok() && !state.is_off() {
            return Ok(());
        }
        state.run(OpKind::CreateDir, path, None, |s, _| s.image.create_dir(path))
    }

    fn visit(&self, dir: &Path, visitor: &mut dyn FnMut(&str)) -> Result<(), DiskError> {
        let names: Vec<Arc<str>> = self.state().run(OpKind::List, dir, None, |s, _| {
            let ino = s.image.lookup_dir(dir)?;
            Ok(s.image.names(ino).map(|(name, _)| Arc::clone(name)).collect())
        })?;
        // The visitor may use the disk.
        names.iter().for_each(|name| visitor(name));
        Ok(())
    }

    fn len(&self, path: &Path) -> Result<Option<u64>, DiskError> {
        self.state().run(OpKind::List, path, None, |s, _| match s.image.lookup(path) {
            Ok(ino) => Ok(Some(s.image.file(ino).map_or(0, |inode| inode.len))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        })
    }

    fn open_read(&self, path: &Path, access: Access) -> Result<Box<dyn ReadAt>, DiskError> {
        let mut state = self.state();
        let ino = state.run(OpKind::Open, path, None, |s, _| s.image.lookup_file(path))?;
        let key = state.next_reader;
        state.next_reader += 1;
        state.open_handle(key, ino, access, path);
        drop(state);
        Ok(Box::new(SimReader { disk: self.clone(), key }))
    }

    fn read(&self, path: &Path, max: usize) -> Result<Vec<u8>, DiskError> {
        self.state().run(OpKind::Read, path, None, |s, _| {
            let ino = s.image.lookup_file(path)?;
            let inode = s.image.file(ino).ok_or(Errno::NOENT)?;
            if inode.len > max as u64 {
                return Err(Errno::FBIG);
            }
            let mut bytes = vec![0; inode.len as usize];
            inode.read(0, &mut bytes, false);
            Ok(bytes)
        })
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.state();
        let ino = state.create(path, 0)?;
        let handle = Handle { ino, access: Access::Buffered, path: path.to_owned() };
        state.write(OpKind::Append, &handle, 0, bytes)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.state();
        let ino = state.run(OpKind::Open, path, None, |s, _| s.image.lookup_file(path))?;
        let end = state.image.file(ino).map_or(0, |inode| inode.len);
        let handle = Handle { ino, access: Access::Buffered, path: path.to_owned() };
        state.write(OpKind::Append, &handle, end, bytes)
    }

    fn sync_file(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = self.state();
        let kind = OpKind::SyncAll;
        let ino = state.image.lookup_file(path);
        let start = state.image.seq;
        state.sync_file(kind, ino, path, start)
    }

    fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = self.state();
        let start = state.image.seq;
        state.sync_dir(path, start)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.state().rename(from, to)
    }

    fn replace(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.state().replace(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.state().run(OpKind::Remove, path, None, |s, _| s.image.remove(path))
    }

    fn copy(&self, from: &Path, to: &Path, len: u64) -> Result<(), DiskError> {
        let mut state = self.state();
        let source = state.run(OpKind::Open, from, None, |s, _| s.image.lookup_file(from))?;
        let whole = state.image.file(source).map_or(0, |inode| inode.len);
        if whole < len {
            let message = format!("it has {whole} bytes and not {len}");
            return Err(DiskError::new("copy", from, ErrorKind::ShortRead, message));
        }
        let ino = state.create(to, 0)?;
        let handle = Handle { ino, access: Access::Buffered, path: to.to_owned() };
        let mut at = 0;
        while at < len {
            let mut part = vec![0; COPY_BYTES.min((len - at) as usize)];
            state.run(OpKind::Read, from, None, |s, _| {
                let inode = s.image.file(source).ok_or(Errno::NOENT)?;
                Ok(inode.read(at, &mut part, true))
            })?;
            state.write(OpKind::Write, &handle, at, &part)?;
            at += part.len() as u64;
        }
        state.extend(ino, to, whole)
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Lock, LockError> {
        let mut state = self.state();
        if state.locks.contains_key(path) {
            let mut text = vec![0; HOLDER_BYTES];
            let ino = state.image.lookup_file(path).ok();
            let inode = ino.and_then(|ino| state.image.file(ino));
            let len = inode.map_or(0, |inode| inode.read(0, &mut text, false));
            let holder = String::from_utf8_lossy(&text[..len]).into_owned();
            return Err(LockError::Held { path: path.to_owned(), holder });
        }
        // A lock's file is written anew each time, and nothing needs it to survive.
        let found =
            state.run(OpKind::Open, path, None, |s, _| match s.image.lookup_file(path) {
                Err(Errno::NOENT) => Ok(None),
                found => found.map(Some),
            })?;
        let ino = match found {
            Some(ino) => ino,
            None => state.create(path, 0)?,
        };
        if let Some(inode) = state.image.file_mut(ino) {
            *inode = super::inode::Inode::default();
        }
        let handle = Handle { ino, access: Access::Buffered, path: path.to_owned() };
        let holder = &holder.as_bytes()[..holder.len().min(HOLDER_BYTES)];
        state.write(OpKind::Append, &handle, 0, holder)?;
        let number = state.next_lock;
        state.next_lock += 1;
        state.locks.insert(path.to_owned(), number);
        drop(state);
        let (state, path) = (Arc::clone(&self.state), path.to_owned());
        Ok(Lock::new(SimLock { state, path, number }))
    }

    fn lock_root(&self) -> Result<Lock, LockError> {
        let mut state = self.state();
        let path = PathBuf::new();
        if state.locks.contains_key(&path) {
            return Err(LockError::Held { path, holder: UNKNOWN_HOLDER.to_owned() });
        }
        let number = state.next_lock;
        state.next_lock += 1;
        state.locks.insert(path.clone(), number);
        drop(state);
        Ok(Lock::new(SimLock { state: Arc::clone(&self.state), path, number }))
    }
}

struct SimLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    number: u64,
}

impl Held for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = locked(&self.state);
        if state.locks.get(&self.path) == Some(&self.number) {
            state.locks.remove(&self.path);
        }
    }
}

/// A file open for reading; it keeps a removed file alive, as an open handle does.
struct SimReader {
    disk: SimDisk,
    key: u64,
}

impl SimReader {
    fn handle(&self, state: &State) -> Result<Handle, DiskError> {
        let handle = state.handles.get(&self.key).cloned();
        handle.ok_or_else(|| DiskError::not_open("read", self.key))
    }
}

impl ReadAt for SimReader {
    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<usize, DiskError> {
        let mut state = self.disk.state();
        let handle = self.handle(&state)?;
        let direct = handle.access == Access::Direct;
        let Some(out) = buf.get_mut(..len) else {
            return Err(too_long(OpKind::Read, &handle.path));
        };
        if direct && !(offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK)) {
            return Err(unaligned(OpKind::Read, &handle.path));
        }
        state.run(OpKind::Read, &handle.path, None, |s, _| {
            let inode = s.image.file(handle.ino).ok_or(Errno::BADF)?;
            Ok(inode.read(offset, out, direct))
        })
    }

    fn len(&self) -> Result<u64, DiskError> {
        let mut state = self.disk.state();
        let handle = self.handle(&state)?;
        state.run(OpKind::List, &handle.path, None, |s, _| {
            Ok(s.image.file(handle.ino).ok_or(Errno::BADF)?.len)
        })
    }
}

impl Drop for SimReader {
    fn drop(&mut self) {
        self.disk.state().handles.remove(&self.key);
    }
}
