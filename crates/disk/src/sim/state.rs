//! The state of a simulated disk and the operations on it, one at a time.
//!
//! Invariant: every operation, of a lane or blocking, goes through [`State::run`]: there the
//! power is checked, the operation counted, a fault applied and the outcome recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::content::SECTOR;
use super::fault::{FaultKind, Faults, Mutation, OpClass};
use super::image::{Image, Ino};
use super::lanes::Lanes;
use super::rng::Rng;
use super::trace::Trace;
use crate::{Access, BLOCK, DiskError, ErrorKind, Lane, Op, OpKind};

/// Earlier states kept for a disk that lies about fsync: a lie goes back a segment or so.
const HISTORY: usize = 24;

#[derive(Clone)]
pub(super) struct Handle {
    pub(super) ino: Ino,
    pub(super) access: Access,
    pub(super) path: PathBuf,
}

pub(super) struct State {
    pub(super) image: Image,
    pub(super) rng: Rng,
    pub(super) lanes: Lanes,
    /// By file id; readers of the blocking view have numbers past those.
    pub(super) handles: BTreeMap<u64, Handle>,
    pub(super) next_file: u32,
    pub(super) next_reader: u64,
    /// Held locks: who, and a number so that only the holder gives it up.
    pub(super) locks: BTreeMap<PathBuf, u64>,
    pub(super) next_lock: u64,
    pub(super) faults: Faults,
    pub(super) mutations: Vec<Mutation>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) operations: u64,
    pub(super) stop_at: Option<u64>,
    pub(super) rename_by_link: bool,
    pub(super) trace: Trace,
    /// Earlier states, oldest first.
    pub(super) history: Vec<Image>,
    /// The lane whose operation is being performed; none for the blocking view.
    pub(super) lane: Option<Lane>,
    /// The last rename, as `from -> to`.
    pub(super) renamed: String,
}

impl State {
    pub(super) fn new(image: Image, seed: u64) -> Self {
        Self {
            image,
            rng: Rng::new(seed),
            lanes: Lanes::default(),
            handles: BTreeMap::new(),
            next_file: 0,
            next_reader: u64::from(u32::MAX) + 1,
            locks: BTreeMap::new(),
            next_lock: 0,
            faults: Faults::default(),
            mutations: Vec::new(),
            capacity_bytes: None,
            operations: 0,
            stop_at: None,
            rename_by_link: false,
            trace: Trace::default(),
            history: Vec::new(),
            lane: None,
            renamed: String::new(),
        }
    }

    /// The same disk with another image and nothing under way: what crashes and kills start
    /// from. The mutations stay, since the program that boots has the same bugs.
    pub(super) fn successor(&self, image: Image, seed: u64) -> Self {
        let mut next = Self::new(image, seed);
        next.mutations.clone_from(&self.mutations);
        next.capacity_bytes = self.capacity_bytes;
        next.rename_by_link = self.rename_by_link;
        next.trace = self.trace.clone();
        next
    }

    pub(super) fn is_off(&self) -> bool {
        self.stop_at.is_some_and(|stop| self.operations >= stop)
    }

    /// One operation: `body` does it, and is told of a fault that it has to play itself.
    pub(super) fn run<T>(
        &mut self,
        kind: OpKind,
        path: &Path,
        other: Option<&Path>,
        body: impl FnOnce(&mut Self, Option<FaultKind>) -> Result<T, Errno>,
    ) -> Result<T, DiskError> {
        if self.is_off() {
            let message = "the simulated disk has no power any more";
            return Err(DiskError::new(kind.name(), path, ErrorKind::PowerOff, message));
        }
        if kind.is_change() {
            self.operations += 1;
        }
        let fault = self.faults.hit(kind, [Some(path), other]);
        let plays = kind.is_sync() || OpClass::Write.has(kind);
        let result = match fault.and_then(|fault| fault.errno(kind)) {
            Some(errno) if !plays => Err(errno),
            _ => body(self, fault),
        };
        let outcome = match &result {
            Ok(_) => "ok".to_owned(),
            Err(errno) => format!("{errno:?}"),
        };
        let other = other.map(|other| format!(" <- {}", other.display())).unwrap_or_default();
        let path_text = path.display();
        self.trace.record(format_args!("{} {path_text}{other}: {outcome}", kind.name()));
        result.map_err(|errno| DiskError::from_errno(kind.name(), path, errno))
    }

    /// Performs an operation that changes something; `start` is when it began.
    pub(super) fn change(&mut self, op: &Op, start: u64) -> Result<(), DiskError> {
        match op {
            Op::Create { file, path, size, access } => {
                let ino = self.create(path, *size)?;
                self.open_handle(file.0.into(), ino, *access, path);
                Ok(())
            }
            Op::Write { file, offset, buf, len } => {
                let handle = self.handle(op, file.0)?;
                let Some(bytes) = buf.get(..*len) else {
                    return Err(too_long(op.kind(), &handle.path));
                };
                self.write(op.kind(), &handle, *offset, bytes)
            }
            Op::Append { file, offset, bytes } => {
                let handle = self.handle(op, file.0)?;
                self.write(op.kind(), &handle, *offset, bytes)
            }
            Op::Zero { file, offset, len } => {
                let handle = self.handle(op, file.0)?;
                self.write(op.kind(), &handle, *offset, &vec![0; *len])
            }
            Op::Put { path, offset, bytes } => {
                let ino = match self.image.lookup_file(path) {
                    Ok(ino) => ino,
                    Err(_) => self.create(path, 0)?,
                };
                let handle = Handle { ino, access: Access::Buffered, path: path.clone() };
                self.write(op.kind(), &handle, *offset, bytes)
            }
            Op::SyncData { file } | Op::SyncAll { file } => {
                let handle = self.handle(op, file.0)?;
                self.sync_file(op.kind(), Ok(handle.ino), &handle.path, start)
            }
            Op::SyncDir { path } => self.sync_dir(path, start),
            Op::Rename { from, to } => self.rename(from, to),
            Op::Replace { from, to } => self.replace(from, to),
            Op::Remove { path } => self.run(op.kind(), path, None, |s, _| s.image.remove(path)),
            Op::Open { .. } | Op::Read { .. } | Op::Close { .. } => Ok(()),
        }
    }

    pub(super) fn handle(&self, op: &Op, file: u32) -> Result<Handle, DiskError> {
        self.handles
            .get(&u64::from(file))
            .cloned()
            .ok_or_else(|| DiskError::not_open(op.kind().name(), file.into()))
    }

    pub(super) fn open_handle(&mut self, key: u64, ino: Ino, access: Access, path: &Path) {
        let handle = Handle { ino, access, path: path.to_owned() };
        let old = self.handles.insert(key, handle);
        debug_assert!(old.is_none(), "a file id is used once");
    }

    pub(super) fn create(&mut self, path: &Path, size: u64) -> Result<Ino, DiskError> {
        self.run(OpKind::Create, path, None, |s, _| {
            s.room_for(size)?;
            s.image.create(path, size)
        })
    }

    pub(super) fn write(
        &mut self,
        kind: OpKind,
        handle: &Handle,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), DiskError> {
        let direct = handle.access == Access::Direct;
        let block = BLOCK as u64;
        if direct && !(offset.is_multiple_of(block) && bytes.len().is_multiple_of(BLOCK)) {
            return Err(unaligned(kind, &handle.path));
        }
        self.trace.bytes(bytes);
        self.run(kind, &handle.path, None, |s, fault| {
            let errno = fault.and_then(|fault| fault.errno(kind));
            let done = match (fault, errno) {
                (Some(FaultKind::ShortWrite), _) => s.some_sectors(bytes.len()),
                (_, Some(Errno::ROFS)) => 0,
                (_, Some(_)) => s.some_sectors(bytes.len()),
                _ => bytes.len(),
            };
            s.put(handle.ino, offset, &bytes[..done], direct)?;
            match errno {
                Some(errno) => Err(errno),
                None => s.put(handle.ino, offset + done as u64, &bytes[done..], direct),
            }
        })
    }

    /// Fails the operation where the file isn't, or the disk is full; there nothing is written.
    fn put(&mut self, ino: Ino, offset: u64, bytes: &[u8], direct: bool) -> Result<(), Errno> {
        let len = self.image.file(ino).ok_or(Errno::BADF)?.len;
        let end = offset.checked_add(bytes.len() as u64).ok_or(Errno::FBIG)?;
        self.room_for(end.saturating_sub(len))?;
        let seq = self.image.tick();
        self.image.file_mut(ino).ok_or(Errno::BADF)?.write(seq, offset, bytes, direct);
        Ok(())
    }

    pub(super) fn extend(&mut self, ino: Ino, path: &Path, len: u64) -> Result<(), DiskError> {
        self.run(OpKind::Extend, path, None, |s, _| {
            let old = s.image.file(ino).ok_or(Errno::BADF)?.len;
            s.room_for(len.saturating_sub(old))?;
            let seq = s.image.tick();
            s.image.file_mut(ino).ok_or(Errno::BADF)?.extend(seq, len);
            Ok(())
        })
    }

    pub(super) fn sync_file(
        &mut self,
        kind: OpKind,
        ino: Result<Ino, Errno>,
        path: &Path,
        start: u64,
    ) -> Result<(), DiskError> {
        let dropped = self.drops(kind, path);
        self.run(kind, path, None, |s, fault| {
            let ino = ino?;
            if let Some(errno) = fault.and_then(|fault| fault.errno(kind)) {
                s.image.fail_sync_file(ino, start, &mut s.rng);
                return Err(errno);
            }
            if !dropped {
                s.image.sync_file(ino, start);
            }
            s.remember();
            Ok(())
        })
    }

    pub(super) fn sync_dir(&mut self, path: &Path, start: u64) -> Result<(), DiskError> {
        let kind = OpKind::SyncDir;
        let dropped = self.drops(kind, path);
        self.run(kind, path, None, |s, fault| {
            let dir = s.image.lookup_dir(path)?;
            if let Some(errno) = fault.and_then(|fault| fault.errno(kind)) {
                return Err(errno);
            }
            if !dropped {
                s.image.sync_dir(dir, start);
                let open = s.open_inos();
                s.image.forget_unreachable(&open);
            }
            s.remember();
            Ok(())
        })
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.run(OpKind::Rename, to, Some(from), |s, _| {
            if s.rename_by_link {
                s.image.link(from, to)?;
                let dir = s.image.lookup_dir(to.parent().unwrap_or(Path::new("")))?;
                s.image.sync_dir(dir, s.image.seq);
                s.image.remove(from)?;
            } else {
                s.image.rename(from, to, false)?;
            }
            s.follow(from, to);
            Ok(())
        })
    }

    pub(super) fn replace(&mut self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.run(OpKind::Replace, to, Some(from), |s, _| {
            s.image.rename(from, to, true)?;
            s.follow(from, to);
            Ok(())
        })
    }

    pub(super) fn open_inos(&self) -> BTreeSet<Ino> {
        self.handles.values().map(|handle| handle.ino).collect()
    }

    pub(super) fn drops(&self, kind: OpKind, path: &Path) -> bool {
        let (lane, renamed) = (self.lane, &*self.renamed);
        self.mutations.iter().any(|mutation| mutation.drops(kind, path, lane, renamed))
    }

    /// Keeps this moment for a disk that lies; of the older half each second one goes.
    fn remember(&mut self) {
        self.history.push(self.image.clone());
        if self.history.len() > HISTORY {
            let mut index = 0;
            self.history.retain(|_| {
                index += 1;
                index > HISTORY / 2 || index % 2 == 0
            });
        }
    }

    /// An open file goes by its new name, in errors and for mutations.
    fn follow(&mut self, from: &Path, to: &Path) {
        self.renamed = format!("{} -> {}", from.display(), to.display());
        for handle in self.handles.values_mut().filter(|handle| handle.path == from) {
            to.clone_into(&mut handle.path);
        }
    }

    fn room_for(&self, bytes: u64) -> Result<(), Errno> {
        let Some(capacity) = self.capacity_bytes else { return Ok(()) };
        if bytes == 0 {
            return Ok(());
        }
        let used = self.image.used_bytes(&self.open_inos());
        if used.saturating_add(bytes) > capacity { Err(Errno::NOSPC) } else { Ok(()) }
    }

    fn some_sectors(&mut self, len: usize) -> usize {
        self.rng.index(len / SECTOR + 1) * SECTOR
    }
}

pub(super) fn too_long(kind: OpKind, path: &Path) -> DiskError {
    DiskError::new(kind.name(), path, ErrorKind::Other, "longer than its buffer")
}

pub(super) fn unaligned(kind: OpKind, path: &Path) -> DiskError {
    let message = "direct I/O needs offsets and lengths in whole blocks of 4096 bytes";
    DiskError::new(kind.name(), path, ErrorKind::Other, message)
}
