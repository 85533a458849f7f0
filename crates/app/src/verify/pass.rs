//! What is read, by as many threads as there are processors: each takes the next piece of work.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use archive::{Catalogue, Run, RunVerdict};
use backup::{Contents, Fault};
use disk::AlignedBuf;
use pg_types::{SegmentNumber, SegmentSize, TimelineId};

use crate::backup::Progress;

/// How much is read at once: large enough for a disk, small enough to stay in a processor's cache
/// until it was validated.
pub(super) const READ_BYTES: usize = 512 << 10;
/// So much of the WAL is one piece of work: enough for borders to be few, and few enough for no
/// thread to be left alone at the end.
const RUN_BYTES: u64 = 64 << 20;
/// Threads beyond that have only the disk to wait for.
const MAX_JOBS: usize = 64;
/// How often it is said how far it is.
const SHOW_INTERVAL: Duration = Duration::from_millis(100);

/// A piece of work.
pub(super) enum Job {
    Run { run: Run, bytes: u64 },
    Member { backup: usize, member: usize, bytes: u64 },
}

impl Job {
    fn bytes(&self) -> u64 {
        match self {
            Self::Run { bytes, .. } | Self::Member { bytes, .. } => *bytes,
        }
    }
}

/// What runs came to, by timeline and first segment.
pub(super) type Runs = BTreeMap<(TimelineId, SegmentNumber), (Run, RunVerdict)>;

/// What all of it came to.
#[derive(Default)]
pub(super) struct Done {
    pub(super) runs: Runs,
    /// By the backup's place.
    pub(super) faults: Vec<(usize, Fault)>,
    pub(super) bytes: u64,
}

/// Segments that follow each other, cut into pieces of work.
pub(super) fn runs(
    timeline: TimelineId,
    segments: impl Iterator<Item = SegmentNumber>,
    size: SegmentSize,
) -> Vec<Job> {
    let most = (RUN_BYTES / size.bytes()).max(1);
    let mut runs: Vec<Run> = Vec::new();
    for number in segments {
        match runs.last_mut() {
            Some(Run { segments, .. })
                if segments.end == number && number.as_u64() - segments.start.as_u64() < most =>
            {
                segments.end = number.next();
            }
            _ => runs.push(Run { timeline, segments: number..number.next() }),
        }
    }
    let job = |run: Run| {
        let bytes = (run.segments.end.as_u64() - run.segments.start.as_u64()) * size.bytes();
        Job::Run { run, bytes }
    };
    runs.into_iter().map(job).collect()
}

pub(super) struct Work<'a> {
    catalogue: &'a Catalogue,
    backups: Vec<Option<&'a Contents>>,
    jobs: Vec<Job>,
    next: AtomicUsize,
    bytes: AtomicU64,
    done: Mutex<Done>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        catalogue: &'a Catalogue,
        backups: Vec<Option<&'a Contents>>,
        jobs: Vec<Job>,
    ) -> Self {
        let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { catalogue, backups, jobs, next, bytes, done: Mutex::default() }
    }

    /// Does all of it.
    pub(super) fn run(self, threads: Option<usize>) -> Done {
        let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = threads.unwrap_or(processors).clamp(1, MAX_JOBS).min(self.jobs.len().max(1));
        let mut progress = Progress::new(crate::terminal::is_watched());
        let total = self.jobs.iter().map(Job::bytes).sum();
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.until_done())).collect();
            while crate::terminal::is_watched()
                && workers.iter().any(|worker| !worker.is_finished())
            {
                progress.show(self.bytes.load(Ordering::Relaxed), total);
                thread::sleep(SHOW_INTERVAL);
            }
        });
        progress.end();
        let mut done = self.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.bytes = self.bytes.load(Ordering::Relaxed);
        done
    }

    fn until_done(&self) {
        let mut buf = AlignedBuf::zeroed(READ_BYTES);
        while let Some(job) = self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            match job {
                Job::Run { run, .. } => {
                    let verdict = self.catalogue.verify_run(run, &mut buf);
                    self.bytes.fetch_add(verdict.bytes, Ordering::Relaxed);
                    let key = (run.timeline, run.segments.start);
                    self.done().runs.insert(key, (run.clone(), verdict));
                }
                Job::Member { backup, member, bytes } => {
                    let contents = self.backups.get(*backup).copied().flatten();
                    let Some(contents) = contents else { continue };
                    let Some(of) = contents.members.get(*member) else { continue };
                    if let Err(fault) = contents.check(of, &mut buf) {
                        self.done().faults.push((*backup, fault));
                    }
                    self.bytes.fetch_add(*bytes, Ordering::Relaxed);
                }
            }
        }
    }

    fn done(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
