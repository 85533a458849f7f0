//! The files, written by several threads: each takes the next one, reads it from where it is stored,
//! sums it up and writes it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use disk::NewFile;

use super::incremental::{Header, Sources, whole_label};
use super::plan::{Job, Plan, Stored};
use super::{CONTROL_UNDER_WAY, Link, Places};
use crate::checksum::Hasher;
use crate::intake::PG_CONTROL;
use crate::label;
use crate::recovery::AUTO_CONF;
use crate::{BackupError, Description, EntryPath, ManifestFile, StoredTar};

/// How much is read at once: large enough for the disk, and small enough for the processor's cache.
/// A multiple of every block's size.
const CHUNK_BYTES: usize = 256 << 10;

/// Files from this size on are synced as soon as they are written, so that the disk is busy from the
/// beginning; for smaller ones, which are many, one sync of everything at the end is quicker.
const SYNC_FROM_BYTES: u64 = 1 << 20;

/// What came of it.
pub(super) struct Unpacked {
    /// The content of `postgresql.auto.conf`, which isn't written.
    pub(super) auto_conf: Vec<u8>,
    /// The bytes that were written.
    pub(super) bytes: u64,
    /// The files that are in no backup just so.
    pub(super) made: Vec<(EntryPath, ManifestFile)>,
}

/// Writes the files.
pub(super) fn files(
    chain: &[Link],
    plan: &Plan,
    places: &Places,
    threads: usize,
) -> Result<Unpacked, BackupError> {
    let mut backups = Vec::new();
    for Link { directory, description } in chain {
        let oids = description.tablespaces.iter().map(|tablespace| Some(tablespace.oid));
        let open = |archive| Ok((archive, description.open_tar(directory, archive)?));
        let opened = oids.chain([None]).map(open).collect::<Result<_, BackupError>>();
        let tars = opened.map_err(|error: BackupError| error.of(description))?;
        backups.push(Open { description, tars });
    }
    let incremental = chain.last().and_then(|link| link.description.incremental.as_ref());
    let work = Work {
        jobs: &plan.jobs,
        places,
        backups,
        block_size: incremental.map(|link| link.block_size),
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        bytes: AtomicU64::new(0),
        auto_conf: Mutex::new(Vec::new()),
        made: Mutex::new(Vec::new()),
    };
    let results: Vec<Result<(), BackupError>> = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads.max(1)).map(|_| scope.spawn(|| work.until_done())).collect();
        let panicked = || BackupError::NotABackup("a thread panicked".to_owned());
        workers.into_iter().map(|worker| worker.join().map_err(|_| panicked())?).collect()
    });
    results.into_iter().collect::<Result<(), _>>()?;
    Ok(Unpacked {
        auto_conf: work.auto_conf.into_inner().unwrap_or_else(PoisonError::into_inner),
        bytes: work.bytes.into_inner(),
        made: work.made.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

/// A backup whose tar files are open.
struct Open<'a> {
    description: &'a Description,
    tars: Vec<(Option<u32>, StoredTar)>,
}

struct Work<'a> {
    jobs: &'a [Job],
    places: &'a Places,
    /// Of each backup of the chain.
    backups: Vec<Open<'a>>,
    /// Of a cluster whose backup is incremental.
    block_size: Option<u32>,
    next: AtomicUsize,
    /// A thread has failed.
    stop: AtomicBool,
    bytes: AtomicU64,
    auto_conf: Mutex<Vec<u8>>,
    made: Mutex<Vec<(EntryPath, ManifestFile)>>,
}

impl Work<'_> {
    fn until_done(&self) -> Result<(), BackupError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Some(job) = self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let done = match (job.from.as_slice(), self.block_size) {
                ([stored], _) => self.write(job, stored, &mut chunk),
                ([newest, ..], Some(block_size)) => {
                    self.combine(job, newest, block_size, &mut chunk)
                }
                _ => Ok(()),
            };
            if done.is_err() {
                self.stop.store(true, Ordering::Relaxed);
                return done;
            }
        }
        Ok(())
    }

    fn write(&self, job: &Job, stored: &Stored, chunk: &mut [u8]) -> Result<(), BackupError> {
        let in_base = stored.archive.is_none();
        if in_base && job.path.is(AUTO_CONF) {
            *self.auto_conf.lock().unwrap_or_else(PoisonError::into_inner) =
                self.content(stored, chunk)?;
            return Ok(());
        }
        if in_base && job.path.is(label::NAME) && self.block_size.is_some() {
            return self.write_label(job, stored, chunk);
        }
        let is_control = in_base && job.path.is(PG_CONTROL);
        let (tree, path) = self.places.tree(stored.archive, &job.path)?;
        let path = if is_control { Path::new(CONTROL_UNDER_WAY) } else { path };
        let mut file = tree.create(path)?;
        self.read(stored, chunk, |bytes, _| Ok(file.write(bytes)?))?;
        self.written(&file, stored.file.size)
    }

    /// The label of an incremental backup becomes that of a full one.
    fn write_label(&self, job: &Job, stored: &Stored, chunk: &mut [u8]) -> Result<(), BackupError> {
        let label = whole_label(&self.content(stored, chunk)?);
        let (tree, path) = self.places.tree(stored.archive, &job.path)?;
        let mut file = tree.create(path)?;
        file.write(&label)?;
        let mut hasher = Hasher::new(stored.file.algorithm);
        hasher.update(&label);
        self.was_made(job, stored, label.len() as u64, hasher);
        self.written(&file, label.len() as u64)
    }

    /// Writes a file of which the newest backup has only the blocks that changed.
    fn combine(
        &self,
        job: &Job,
        newest: &Stored,
        block_size: u32,
        chunk: &mut [u8],
    ) -> Result<(), BackupError> {
        let Some((whole, changed)) = job.from.split_last() else { return Ok(()) };
        let mut headers = Vec::new();
        for stored in changed {
            let (of, tar) = self.tar(stored)?;
            let header = Header::read(stored, block_size, |buf, at| {
                tar.read_exact_at(buf, stored.at.saturating_add(at))
            });
            headers.push(header.map_err(|error| error.of(of))?);
        }
        let block = u64::from(block_size);
        let sources = Sources::of(&headers, whole.file.size / block);
        let (tree, path) = self.places.tree(newest.archive, &job.path)?;
        let file = tree.create(path)?;
        for (place, stored) in job.from.iter().enumerate() {
            let header = headers.get(place);
            let begin = header.map_or(0, |header| header.len);
            self.read(stored, chunk, |bytes, at| {
                // Chunks, and the first block, begin at multiples of a block.
                for (piece, at) in
                    bytes.chunks(block_size as usize).zip((at..).step_by(block_size as usize))
                {
                    let Some(nth) = at.checked_sub(begin).map(|at| at / block) else { continue };
                    let number = match header {
                        None => Some(nth),
                        Some(header) => usize::try_from(nth)
                            .ok()
                            .and_then(|nth| header.blocks.get(nth))
                            .map(|number| u64::from(*number)),
                    };
                    if let Some(number) = number
                        && piece.len() == block_size as usize
                        && sources.is_from(number, place)
                    {
                        file.write_at(piece, number * block)?;
                    }
                }
                Ok(())
            })?;
        }
        let len = sources.blocks() * block;
        file.set_len(len)?;
        self.sum_up(job, newest, len, chunk)?;
        self.written(&file, len)
    }

    /// Sums up a file that was made.
    fn sum_up(
        &self,
        job: &Job,
        newest: &Stored,
        len: u64,
        chunk: &mut [u8],
    ) -> Result<(), BackupError> {
        let (tree, path) = self.places.tree(newest.archive, &job.path)?;
        let (file, mut hasher) = (tree.open_file(path)?, Hasher::new(newest.file.algorithm));
        let mut at = 0;
        while at < len {
            let part = usize::try_from(len - at).unwrap_or(usize::MAX).min(chunk.len());
            let Some(bytes) = chunk.get_mut(..part) else { break };
            file.read_exact_at(bytes, at)?;
            hasher.update(bytes);
            at += part as u64;
        }
        self.was_made(job, newest, len, hasher);
        Ok(())
    }

    fn was_made(&self, job: &Job, stored: &Stored, size: u64, hasher: Hasher) {
        let (algorithm, sum) = (stored.file.algorithm, hasher.finish());
        let made = (stored.whole_path(&job.path), ManifestFile { size, algorithm, sum });
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(made);
    }

    fn written(&self, file: &NewFile, bytes: u64) -> Result<(), BackupError> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if bytes >= SYNC_FROM_BYTES {
            file.sync()?;
        }
        Ok(())
    }

    /// All of a small file.
    fn content(&self, stored: &Stored, chunk: &mut [u8]) -> Result<Vec<u8>, BackupError> {
        let mut content = Vec::new();
        self.read(stored, chunk, |bytes, _| {
            content.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(content)
    }

    /// The backup that a file is in, and the tar file there.
    fn tar(&self, stored: &Stored) -> Result<(&Description, &StoredTar), BackupError> {
        let found = self.backups.get(stored.backup).and_then(|Open { description, tars }| {
            let (_, tar) = tars.iter().find(|(archive, _)| *archive == stored.archive)?;
            Some((*description, tar))
        });
        found.ok_or_else(|| wrong(&stored.path, "its tar file isn't there"))
    }

    /// Reads a file's bytes, with their offsets, and holds them against its sum.
    fn read(
        &self,
        stored: &Stored,
        chunk: &mut [u8],
        mut take: impl FnMut(&[u8], u64) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let (of, tar) = self.tar(stored)?;
        let mut hasher = Hasher::new(stored.file.algorithm);
        let (mut at, size) = (0, stored.file.size);
        while at < size {
            let len = usize::try_from(size - at).unwrap_or(usize::MAX).min(chunk.len());
            let Some(bytes) = chunk.get_mut(..len) else { break };
            let read = tar.read_exact_at(bytes, stored.at.saturating_add(at));
            read.map_err(|error| error.of(of))?;
            hasher.update(bytes);
            take(bytes, at)?;
            at += len as u64;
        }
        if hasher.finish() != stored.file.sum {
            let what = "its checksum is another: the stored backup is damaged";
            return Err(wrong(&stored.path, what).of(of));
        }
        Ok(())
    }
}

fn wrong(path: &EntryPath, what: &str) -> BackupError {
    BackupError::NotAsListed { path: path.clone(), what: what.to_owned() }
}
