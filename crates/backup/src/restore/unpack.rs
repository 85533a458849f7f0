//! The files, written by several threads: each takes the next one, reads it from its tar file,
//! sums it up and writes it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use disk::{OldFile, Tree};

use super::plan::{Job, Plan};
use super::{CONTROL_UNDER_WAY, Places};
use crate::checksum::Hasher;
use crate::intake::{PG_CONTROL, tar_name};
use crate::recovery::AUTO_CONF;
use crate::{BackupError, EntryPath};

/// How much is read at once: large enough for the disk, and small enough for the processor's cache.
const CHUNK_BYTES: usize = 256 << 10;

/// Files from this size on are synced as soon as they are written, so that the disk is busy from the
/// beginning; for smaller ones, which are many, one sync of everything at the end is quicker.
const SYNC_FROM_BYTES: u64 = 1 << 20;

/// Writes the files; gives the content of `postgresql.auto.conf`, which isn't written.
pub(super) fn files(
    backup: &Tree,
    plan: &Plan,
    places: &Places,
    threads: usize,
) -> Result<Vec<u8>, BackupError> {
    let mut tars = Vec::new();
    for archive in places.others.iter().map(|(oid, _)| Some(*oid)).chain([None]) {
        tars.push((archive, backup.open_file(Path::new(&tar_name(archive)))?));
    }
    let work = Work {
        jobs: &plan.jobs,
        places,
        tars,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        auto_conf: Mutex::new(Vec::new()),
    };
    let results: Vec<Result<(), BackupError>> = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads.max(1)).map(|_| scope.spawn(|| work.until_done())).collect();
        let panicked = || BackupError::NotABackup("a thread panicked".to_owned());
        workers.into_iter().map(|worker| worker.join().map_err(|_| panicked())?).collect()
    });
    results.into_iter().collect::<Result<(), _>>()?;
    Ok(work.auto_conf.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct Work<'a> {
    jobs: &'a [Job],
    places: &'a Places,
    tars: Vec<(Option<u32>, OldFile)>,
    next: AtomicUsize,
    /// A thread has failed.
    stop: AtomicBool,
    auto_conf: Mutex<Vec<u8>>,
}

impl Work<'_> {
    fn until_done(&self) -> Result<(), BackupError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Some(job) = self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let done = self.write(job, &mut chunk);
            if done.is_err() {
                self.stop.store(true, Ordering::Relaxed);
                return done;
            }
        }
        Ok(())
    }

    fn write(&self, job: &Job, chunk: &mut [u8]) -> Result<(), BackupError> {
        let in_base = job.archive.is_none();
        if in_base && job.path.is(AUTO_CONF) {
            let mut content = Vec::new();
            self.read(job, chunk, |bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            })?;
            *self.auto_conf.lock().unwrap_or_else(PoisonError::into_inner) = content;
            return Ok(());
        }
        let (tree, path) = self.places.tree(job.archive, &job.path)?;
        let is_control = in_base && job.path.is(PG_CONTROL);
        let path = if is_control { Path::new(CONTROL_UNDER_WAY) } else { path };
        let mut file = tree.create(path)?;
        self.read(job, chunk, |bytes| Ok(file.write(bytes)?))?;
        if job.file.size >= SYNC_FROM_BYTES {
            file.sync()?;
        }
        Ok(())
    }

    /// Reads a file's bytes and holds them against its sum.
    fn read(
        &self,
        job: &Job,
        chunk: &mut [u8],
        mut take: impl FnMut(&[u8]) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let Some((_, tar)) = self.tars.iter().find(|(archive, _)| *archive == job.archive) else {
            return Err(wrong(&job.path, "its tar file isn't there"));
        };
        let mut hasher = Hasher::new(job.file.algorithm);
        let (mut at, end) = (job.at, job.at + job.file.size);
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
            let Some(bytes) = chunk.get_mut(..len) else { break };
            tar.read_exact_at(bytes, at)?;
            hasher.update(bytes);
            take(bytes)?;
            at += len as u64;
        }
        if hasher.finish() != job.file.sum {
            return Err(wrong(&job.path, "its checksum is another: the stored backup is damaged"));
        }
        Ok(())
    }
}

fn wrong(path: &EntryPath, what: &str) -> BackupError {
    BackupError::NotAsListed { path: path.clone(), what: what.to_owned() }
}
