//! The disk of the machine: a thread for each lane, and blocking files beside them.
//!
//! Invariant: a lane's thread performs its chains in order and reports each operation once, and
//! calls `wake` after each chain. Never blocks its user: neither to submit, nor to poll, nor
//! when it is dropped, since an fsync that hangs must not keep a process from ending.

mod files;
mod sys;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

pub use self::files::RealFiles;
use self::sys::{OpenFile, too_long};
pub use self::tree::{NewFile, OldFile, Readers, Tree, TreeLock};
use crate::{
    Access, AlignedBuf, Completion, Disk, DiskError, ErrorKind, Failure, FileId, Files, Lane, Lock,
    LockError, Op, OpId, Outcome, ReadAt,
};

/// The stack of a lane's thread: system calls and paths need a few KiB, the rest is for `wake`.
const STACK_BYTES: usize = 128 << 10;

type Chain = Vec<(OpId, Op)>;

/// The disk of the machine, below one directory.
pub struct RealDisk {
    shared: Arc<Shared>,
    lanes: [Sender<Chain>; Lane::ALL.len()],
    // Behind a mutex only so that the blocking view can be shared; never contended.
    done: Mutex<Receiver<Completion>>,
    next_file: u32,
}

/// What the lanes share.
struct Shared {
    files: RealFiles,
    open: Mutex<BTreeMap<FileId, Arc<OpenFile>>>,
    /// The disk has been dropped: nothing more is begun.
    stopped: AtomicBool,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl RealDisk {
    /// Starts the lanes. `wake` is called, on a lane's thread, after the completions of a chain have
    /// been queued; it must not block. Those of a chain's first operations can be polled before.
    ///
    /// # Errors
    ///
    /// If a thread can't be started.
    pub fn new(root: PathBuf, wake: Arc<dyn Fn() + Send + Sync>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            files: RealFiles::new(root),
            open: Mutex::default(),
            stopped: AtomicBool::new(false),
            wake,
        });
        let (report, done) = mpsc::channel();
        let start = |lane: Lane| -> io::Result<Sender<Chain>> {
            let (submit, chains) = mpsc::channel();
            let (shared, report) = (Arc::clone(&shared), report.clone());
            thread::Builder::new()
                .name(format!("disk-{}", lane.name()))
                .stack_size(STACK_BYTES)
                .spawn(move || work(&shared, &chains, &report))?;
            Ok(submit)
        };
        let lanes = [start(Lane::Write)?, start(Lane::Sync)?, start(Lane::Meta)?];
        Ok(Self { shared, lanes, done: Mutex::new(done), next_file: 0 })
    }

    fn files(&self) -> &RealFiles {
        &self.shared.files
    }
}

impl Disk for RealDisk {
    fn new_file_id(&mut self) -> FileId {
        let id = FileId(self.next_file);
        self.next_file += 1;
        id
    }

    fn submit(&mut self, lane: Lane, chain: Chain) {
        let sent = self.lanes[lane.index()].send(chain);
        debug_assert!(sent.is_ok(), "a lane's thread ends only when the disk is dropped");
    }

    fn poll(&mut self) -> Option<Completion> {
        self.done.get_mut().unwrap_or_else(PoisonError::into_inner).try_recv().ok()
    }
}

impl Drop for RealDisk {
    fn drop(&mut self) {
        // The threads are detached: each ends after the operation that it is in.
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

fn work(shared: &Shared, chains: &Receiver<Chain>, report: &Sender<Completion>) {
    while let Ok(chain) = chains.recv() {
        let mut failed = false;
        for (id, op) in chain {
            if shared.stopped.load(Ordering::Relaxed) {
                return;
            }
            let result = if failed { Err(shared.cancel(op)) } else { shared.perform(op) };
            failed |= result.is_err();
            if report.send(Completion { id, result }).is_err() {
                return;
            }
        }
        // Once for the chain: a commit waits for its end, and waking costs as much as an fsync of
        // a fast disk. Whoever wants to know of its middle looks.
        (shared.wake)();
    }
}

impl Shared {
    fn perform(&self, op: Op) -> Result<Outcome, Failure> {
        match op {
            Op::Write { file, offset, buf, len } => match self.write(file, offset, &buf, len) {
                Ok(()) => Ok(Outcome::Wrote(buf)),
                Err(error) => Err(Failure { error, buf: Some(buf) }),
            },
            Op::Read { file, offset, mut buf, len } => {
                let file = self.file(file, "read");
                match file.and_then(|file| file.read(offset, &mut buf, len)) {
                    Ok(read) => Ok(Outcome::Read(buf, read)),
                    Err(error) => Err(Failure { error, buf: Some(buf) }),
                }
            }
            op => match self.small(&op) {
                Ok(()) => Ok(Outcome::Done),
                Err(error) => Err(Failure { error, buf: None }),
            },
        }
    }

    fn write(&self, id: FileId, at: u64, buf: &AlignedBuf, len: usize) -> Result<(), DiskError> {
        let kind = crate::OpKind::Write;
        let file = self.file(id, kind.name())?;
        let Some(bytes) = buf.get(..len) else { return Err(too_long(kind, &file.path())) };
        file.write(kind, at, bytes)
    }

    /// The operations without a buffer.
    fn small(&self, op: &Op) -> Result<(), DiskError> {
        let root = &self.files.root;
        let kind = op.kind();
        match op {
            Op::Create { file, path, size, access } => {
                self.insert(*file, root.create(path, *size, *access)?);
                Ok(())
            }
            Op::Open { file, path, access } => {
                self.insert(*file, root.open(path, *access, true)?);
                Ok(())
            }
            Op::Append { file, offset, bytes } => {
                self.file(*file, kind.name())?.write(kind, *offset, bytes)
            }
            Op::Zero { file, offset, len } => {
                // Never touched, so that all of it is one page of the kernel's.
                self.file(*file, kind.name())?.write(kind, *offset, &AlignedBuf::zeroed(*len))
            }
            Op::Put { path, offset, bytes } => {
                let file = match root.open(path, Access::Buffered, true) {
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        root.create(path, 0, Access::Buffered)?
                    }
                    file => file?,
                };
                file.write(kind, *offset, bytes)
            }
            Op::SyncData { file } | Op::SyncAll { file } => {
                self.file(*file, kind.name())?.sync(kind)
            }
            Op::SyncDir { path } => root.sync_dir(path),
            Op::Rename { from, to } => {
                root.rename(from, to)?;
                self.follow(from, to);
                Ok(())
            }
            Op::Replace { from, to } => {
                root.replace(from, to)?;
                self.follow(from, to);
                Ok(())
            }
            Op::Remove { path } => root.remove(path),
            Op::Close { file } => {
                self.open().remove(file);
                Ok(())
            }
            // With a buffer; performed where that is given back.
            Op::Write { .. } | Op::Read { .. } => Ok(()),
        }
    }

    fn cancel(&self, op: Op) -> Failure {
        let open = op.file().and_then(|file| self.open().get(&file).cloned());
        let path = match (op.path(), open) {
            (Some(path), _) => path.to_owned(),
            (None, Some(open)) => open.path(),
            (None, None) => PathBuf::new(),
        };
        Failure { error: DiskError::cancelled(op.kind().name(), &path), buf: op.into_buf() }
    }

    fn file(&self, id: FileId, op: &'static str) -> Result<Arc<OpenFile>, DiskError> {
        let file = self.open().get(&id).cloned();
        file.ok_or_else(|| DiskError::not_open(op, id.0.into()))
    }

    fn insert(&self, id: FileId, file: OpenFile) {
        let old = self.open().insert(id, Arc::new(file));
        debug_assert!(old.is_none(), "a file id is used once");
    }

    fn follow(&self, from: &Path, to: &Path) {
        for file in self.open().values() {
            file.follow(from, to);
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<FileId, Arc<OpenFile>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for RealDisk {
    fn create_dir(&self, path: &Path) -> Result<(), DiskError> {
        self.files().create_dir(path)
    }

    fn visit(&self, dir: &Path, visitor: &mut dyn FnMut(&str)) -> Result<(), DiskError> {
        self.files().visit(dir, visitor)
    }

    fn len(&self, path: &Path) -> Result<Option<u64>, DiskError> {
        self.files().len(path)
    }

    fn open_read(&self, path: &Path, access: Access) -> Result<Box<dyn ReadAt>, DiskError> {
        self.files().open_read(path, access)
    }

    fn read(&self, path: &Path, max: usize) -> Result<Vec<u8>, DiskError> {
        self.files().read(path, max)
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        self.files().write_new(path, bytes)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        self.files().append(path, bytes)
    }

    fn sync_file(&self, path: &Path) -> Result<(), DiskError> {
        self.files().sync_file(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        self.files().sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.files().rename(from, to)
    }

    fn replace(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.files().replace(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.files().remove(path)
    }

    fn copy(&self, from: &Path, to: &Path, len: u64) -> Result<(), DiskError> {
        self.files().copy(from, to, len)
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Lock, LockError> {
        self.files().lock(path, holder)
    }

    fn lock_root(&self) -> Result<Lock, LockError> {
        self.files().lock_root()
    }
}
