//! The file beside `%p`, and the copying into it.
//!
//! It is written under a name of its own and renamed when all of it has held, so that whatever is
//! at `%p` is whole. Never a link to the archive's file: the server renames and overwrites what it
//! was given. Never an fsync: the server does that for what it keeps.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
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
/// What is read, proved and written at once: it fits into a processor's own cache.
const CHUNK: usize = 256 << 10;
/// As many are under way: one being proved, others being written.
const CHUNKS: usize = 4;

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
        let held = file.try_lock().is_ok() && {
            let (ours, named) = (file.metadata(), fs::symlink_metadata(&temporary));
            let id = |file: fs::Metadata| (file.dev(), file.ino());
            // Another process may have renamed it between.
            ours.ok().map(id) == named.ok().map(id)
        };
        if !held {
            let message = format!("{} is in use by another restore-wal", temporary.display());
            return Err(Refusal::new(Kind::Unsure, message));
        }
        file.set_len(0).map_err(failed)?;
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

/// A piece of a segment that was read.
struct Chunk {
    bytes: Arc<AlignedBuf>,
    len: usize,
}

/// Delivers a segment, `size` bytes with zeros behind its end: a second thread reads and writes,
/// which takes as long as proving does, and this one proves what is written.
pub(super) fn copy(
    reader: &Reader,
    mut proof: Proof,
    path: &Path,
    size: u64,
) -> Result<(), Refusal> {
    let target = Target::create(path)?;
    let (read, to_prove) = sync_channel(CHUNKS);
    let (proved, free) = sync_channel(CHUNKS);
    for _ in 0..CHUNKS {
        // There is room for as many.
        _ = proved.send(Arc::new(AlignedBuf::zeroed(CHUNK)));
    }
    thread::scope(|scope| {
        let writing = &target;
        let writer = scope.spawn(move || write(reader, writing, &read, &free));
        let held = prove(&mut proof, to_prove, proved);
        let wrote = writer.join().unwrap_or_else(|_| {
            Err(Refusal::new(Kind::Unsure, "the thread that writes has failed"))
        });
        held.and(wrote)
    })?;
    let zeros = [0; 64 << 10];
    let mut at = reader.len();
    while at < size {
        let len = zeros.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
        target.write(at, &zeros[..len])?;
        at += len as u64;
    }
    target.publish()
}

/// Reads, hands over, writes. It ends early where what was read didn't hold.
fn write(
    reader: &Reader,
    target: &Target,
    read: &SyncSender<Chunk>,
    free: &Receiver<Arc<AlignedBuf>>,
) -> Result<(), Refusal> {
    let mut at = 0;
    while at < reader.len() {
        let Ok(mut bytes) = free.recv() else { return Ok(()) };
        // Whoever gave it back had the only other one.
        let Some(buf) = Arc::get_mut(&mut bytes) else {
            return Err(Refusal::new(Kind::Unsure, "a buffer was given back too early"));
        };
        let len = reader.read_at(at, buf)?;
        if len == 0 {
            let message = format!("{} became shorter while it was read", reader.path().display());
            return Err(Refusal::new(Kind::Unsure, message));
        }
        if read.send(Chunk { bytes: Arc::clone(&bytes), len }).is_err() {
            return Ok(());
        }
        target.write(at, bytes.get(..len).unwrap_or_default())?;
        at += len as u64;
    }
    Ok(())
}

/// Proves all that comes. What doesn't hold ends both.
fn prove(
    proof: &mut Proof,
    to_prove: Receiver<Chunk>,
    proved: SyncSender<Arc<AlignedBuf>>,
) -> Result<(), Refusal> {
    // Both ends go with the closure: the writer, which may be waiting, sees it.
    to_prove.into_iter().try_for_each(move |Chunk { bytes, len }| {
        proof.feed(bytes.get(..len).unwrap_or_default())?;
        // Nobody waits for it at the end.
        _ = proved.send(bytes);
        Ok(())
    })
}
