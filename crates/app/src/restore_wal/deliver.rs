//! The file beside `%p`, and the copying into it.
//!
//! A segment goes in pieces, and there are three jobs with each: to read (and so unpack) it, to write
//! it, to prove it when all before it is proved. A few threads do whatever can be done: several may
//! read at once, one proves, and one writes, since the file system has others wait in turn.
//!
//! It is written under a name of its own and renamed when all of it has held, so that whatever is
//! at `%p` is whole. Never a link to the archive's file: the server renames and overwrites what it
//! was given. Never an fsync: the server does that for what it keeps.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use archive::{Proof, Reader};
use disk::AlignedBuf;
use rustix::fs::OFlags;

use super::{Kind, Refusal};

/// The name beside `%p`. A server that starts up after a crash removes what begins so from
/// `pg_wal` (`RemoveTempXlogFiles`, `access/transam/xlog.c`, 10–18).
const TEMPORARY: &str = "xlogtemp.seawall";
/// WAL is its owner's to read, nobody else's.
const FILE_MODE: u32 = 0o600;
/// What is read, proved and written at once: it fits into a processor's own cache. Compressed
/// segments are frames of as much.
const PIECE: usize = archive::FRAME_LEN;
/// Proving is done by one at a time: more have nothing to do.
const MAX_THREADS: usize = 4;

/// A file that is being delivered; removed unless it is [published](Self::publish).
pub(super) struct Target {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    published: bool,
}

impl Target {
    /// Opens the temporary file, which one process at a time has: one that a killed server left
    /// behind may still be writing.
    pub(super) fn create(path: &Path) -> Result<Self, Refusal> {
        let temporary = path.with_file_name(TEMPORARY);
        let failed = |error: io::Error| Refusal::target("create", &temporary, &error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        // Nobody's link is followed.
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let file = options.open(&temporary).map_err(failed)?;
        let ours = file.metadata().map_err(failed)?;
        let held = file.try_lock().is_ok() && {
            let named = fs::symlink_metadata(&temporary).ok();
            // Another process may have renamed it between.
            named.is_some_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino()))
        };
        if !held {
            let message = format!("{} is in use by another restore-wal", temporary.display());
            return Err(Refusal::new(Kind::Unsure, message));
        }
        // ext4 writes a file out when it is closed if it was ever truncated to nothing, even from
        // nothing (`auto_da_alloc`).
        if file.metadata().map_err(failed)?.len() > 0 {
            file.set_len(0).map_err(failed)?;
        }
        Ok(Self { file, temporary, path: path.to_owned(), published: false })
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Refusal> {
        let written = self.file.write_all_at(bytes, at);
        written.map_err(|error| Refusal::target("write", &self.temporary, &error))
    }

    /// Gives it its name.
    pub(super) fn publish(mut self) -> Result<(), Refusal> {
        let renamed = fs::rename(&self.temporary, &self.path);
        renamed.map_err(|error| Refusal::target("make", &self.path, &error))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.published {
            // The lock is still held: it is ours.
            _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Delivers a segment, `size` bytes with zeros behind its end, proving what is written.
pub(super) fn copy(reader: &Reader, proof: Proof, path: &Path, size: u64) -> Result<(), Refusal> {
    let target = Target::create(path)?;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = if reader.is_in_order() { 1 } else { processors.min(MAX_THREADS) };
    let delivery = Delivery::new(reader, &target, proof, threads);
    // If one panics, the delivery has failed.
    _ = threads::together(threads, "deliver", || delivery.work(), || delivery.work());
    delivery.end()?;
    let zeros = [0; 64 << 10];
    let mut at = reader.len();
    while at < size {
        let len = zeros.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
        target.write(at, &zeros[..len])?;
        at += len as u64;
    }
    target.publish()
}

/// A segment on its way, by several threads.
struct Delivery<'a> {
    reader: &'a Reader,
    target: &'a Target,
    /// Who has the job has it, nobody else.
    proof: Mutex<Proof>,
    state: Mutex<State>,
    /// Something is done.
    changed: Condvar,
}

/// How far it is.
struct State {
    /// The offset of the piece that is read next.
    next: u64,
    /// What is read and not done with, by its offset.
    pieces: BTreeMap<u64, Piece>,
    free: Vec<AlignedBuf>,
    /// All before this offset is proved.
    proved: u64,
    proving: bool,
    writing: bool,
    /// So many threads have nothing to do for now.
    waiting: usize,
    failed: Option<Refusal>,
}

/// A piece that is read.
struct Piece {
    bytes: Arc<AlignedBuf>,
    len: usize,
    is_written: bool,
    is_proved: bool,
}

/// What one thread does at a time, with the piece at an offset.
enum Job {
    Read(u64, AlignedBuf),
    Write(u64, Arc<AlignedBuf>, usize),
    Prove(u64, Arc<AlignedBuf>, usize),
}

impl State {
    /// The next job, if there is one that nobody hinders. Those that get rid of a piece come first.
    fn job(&mut self, end: u64) -> Option<Job> {
        if !self.writing {
            let first = self.pieces.iter().find(|(_, piece)| !piece.is_written);
            if let Some((at, piece)) = first {
                self.writing = true;
                return Some(Job::Write(*at, Arc::clone(&piece.bytes), piece.len));
            }
        }
        if !self.proving
            && let Some(piece) = self.pieces.get(&self.proved)
        {
            self.proving = true;
            return Some(Job::Prove(self.proved, Arc::clone(&piece.bytes), piece.len));
        }
        if self.next >= end {
            return None;
        }
        let at = self.next;
        let buf = self.free.pop()?;
        self.next += PIECE as u64;
        Some(Job::Read(at, buf))
    }

    /// Whether nothing is left, or nothing is to be done any more.
    fn is_over(&self, end: u64) -> bool {
        self.failed.is_some() || self.proved >= end && self.pieces.is_empty()
    }

    /// Notes what was done with a piece; gives its memory back after both.
    fn done(&mut self, at: u64, done: impl FnOnce(&mut Piece)) {
        let Some(piece) = self.pieces.get_mut(&at) else { return };
        done(piece);
        if piece.is_written && piece.is_proved {
            let piece = self.pieces.remove(&at);
            self.free.extend(piece.and_then(|piece| Arc::into_inner(piece.bytes)));
        }
    }
}

impl<'a> Delivery<'a> {
    fn new(reader: &'a Reader, target: &'a Target, proof: Proof, threads: usize) -> Self {
        // One each, and some that wait for the one who writes.
        let free = (0..threads + 2).map(|_| AlignedBuf::zeroed(PIECE)).collect();
        let state = State {
            next: 0,
            pieces: BTreeMap::new(),
            free,
            proved: 0,
            proving: false,
            writing: false,
            waiting: 0,
            failed: None,
        };
        let (proof, state) = (Mutex::new(proof), Mutex::new(state));
        Self { reader, target, proof, state, changed: Condvar::new() }
    }

    /// Does job after job, until all is done or something failed.
    fn work(&self) {
        // Whoever waits learns of it also if this thread panics.
        let _panicking = OnPanic(self);
        let end = self.reader.len();
        let mut state = self.lock();
        while !state.is_over(end) {
            let Some(job) = state.job(end) else {
                state.waiting += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.waiting -= 1;
                continue;
            };
            drop(state);
            state = match job {
                Job::Read(at, buf) => self.read(at, buf),
                Job::Write(at, bytes, len) => self.write(at, bytes, len),
                Job::Prove(at, bytes, len) => self.prove(at, bytes, len),
            };
            if state.waiting > 0 {
                self.changed.notify_all();
            }
        }
    }

    fn read(&self, at: u64, mut buf: AlignedBuf) -> MutexGuard<'_, State> {
        let read = self.reader.read_at(at, &mut buf);
        let wanted = self.reader.len().saturating_sub(at).min(PIECE as u64);
        let mut state = self.lock();
        match read {
            Ok(len) if len as u64 == wanted => {
                let piece =
                    Piece { bytes: Arc::new(buf), len, is_written: false, is_proved: false };
                state.pieces.insert(at, piece);
            }
            Ok(_) => {
                let path = self.reader.path().display();
                let message = format!("{path} became shorter while it was read");
                state.failed = Some(Refusal::new(Kind::Unsure, message));
            }
            Err(error) => state.failed = Some(error.into()),
        }
        state
    }

    fn write(&self, at: u64, bytes: Arc<AlignedBuf>, len: usize) -> MutexGuard<'_, State> {
        let written = self.target.write(at, bytes.get(..len).unwrap_or_default());
        let mut state = self.lock();
        drop(bytes);
        state.writing = false;
        match written {
            Ok(()) => state.done(at, |piece| piece.is_written = true),
            Err(refusal) => state.failed = Some(refusal),
        }
        state
    }

    fn prove(&self, at: u64, bytes: Arc<AlignedBuf>, len: usize) -> MutexGuard<'_, State> {
        let mut proof = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = proof.feed(bytes.get(..len).unwrap_or_default());
        drop(proof);
        let mut state = self.lock();
        drop(bytes);
        state.proving = false;
        match holds {
            Ok(()) => {
                state.proved = at + len as u64;
                state.done(at, |piece| piece.is_proved = true);
            }
            Err(error) => state.failed = Some(error.into()),
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it went.
    fn end(&self) -> Result<(), Refusal> {
        self.lock().failed.take().map_or(Ok(()), Err)
    }
}

struct OnPanic<'a>(&'a Delivery<'a>);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if thread::panicking() {
            let failed = Refusal::new(Kind::Unsure, "a thread that delivers has failed");
            state.failed = Some(failed);
        }
        // Nobody waits for one who has ended.
        self.0.changed.notify_all();
    }
}
