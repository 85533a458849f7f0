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
const CHUNKS: usize = 3;

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

/// A piece of a segment, on its way.
struct Chunk {
    bytes: Arc<AlignedBuf>,
    at: u64,
    len: usize,
}

/// Delivers a segment, `size` bytes with zeros behind its end, proving what is written: a second
/// thread writes while this one reads and proves.
pub(super) fn copy(
    reader: &Reader,
    mut proof: Proof,
    path: &Path,
    size: u64,
) -> Result<(), Refusal> {
    let target = Target::create(path)?;
    let (to_write, written) = (sync_channel(CHUNKS), sync_channel(CHUNKS));
    for _ in 0..CHUNKS {
        // There is room for as many.
        _ = written.0.send(Arc::new(AlignedBuf::zeroed(CHUNK)));
    }
    thread::scope(|scope| {
        let (writing, free) = (&target, written.1);
        let writer = scope.spawn(move || write(writing, &to_write.1, &written.0));
        let read = read(reader, &mut proof, &to_write.0, &free);
        drop(to_write.0);
        let wrote = writer.join().unwrap_or_else(|_| {
            Err(Refusal::new(Kind::Unsure, "the thread that writes has failed"))
        });
        read.and(wrote)
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

/// Reads, hands over, proves. It ends early where the writer has.
fn read(
    reader: &Reader,
    proof: &mut Proof,
    to_write: &SyncSender<Chunk>,
    free: &Receiver<Arc<AlignedBuf>>,
) -> Result<(), Refusal> {
    let mut at = 0;
    while at < reader.len() {
        let Ok(mut bytes) = free.recv() else { return Ok(()) };
        // The writer sent the only other one.
        let Some(buf) = Arc::get_mut(&mut bytes) else {
            return Err(Refusal::new(Kind::Unsure, "a buffer was given back too early"));
        };
        let len = reader.read_at(at, buf)?;
        if len == 0 {
            let message = format!("{} became shorter while it was read", reader.path().display());
            return Err(Refusal::new(Kind::Unsure, message));
        }
        if to_write.send(Chunk { bytes: Arc::clone(&bytes), at, len }).is_err() {
            return Ok(());
        }
        proof.feed(bytes.get(..len).unwrap_or_default())?;
        at += len as u64;
    }
    Ok(())
}

fn write(
    target: &Target,
    to_write: &Receiver<Chunk>,
    free: &SyncSender<Arc<AlignedBuf>>,
) -> Result<(), Refusal> {
    for Chunk { bytes, at, len } in to_write {
        target.write(at, bytes.get(..len).unwrap_or_default())?;
        // Nobody waits for it at the end.
        _ = free.send(bytes);
    }
    Ok(())
}
