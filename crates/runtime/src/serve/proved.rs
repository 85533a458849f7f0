//! Which files have been proved: a segment that was proved from its first byte to its last needn't
//! be proved again for the next follower.
//!
//! Invariant: what is known holds for a file as it was, by its inode, its length and the times of
//! its last changes, and for an [`HOLDS_FOR`] at most: what a disk does to a file says nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use archive::Reader;
use pg_types::{SegmentNumber, TimelineId};

use crate::world;

/// So many segments are known: 64 GB of them, in half a megabyte.
const MAX_KNOWN: usize = 4096;
/// A disk that loses bits is noticed as late as this, and followers that catch up together cost one
/// proof.
const HOLDS_FOR: Duration = Duration::from_secs(10 * 60);

/// A file as it is now: two that are equal have the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    device: u64,
    inode: u64,
    len: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    /// `None` for what isn't one file as it is, such as a compressed one.
    pub(super) fn of(reader: &Reader) -> Option<Self> {
        let stat = rustix::fs::fstat(reader.descriptor()?).ok()?;
        Some(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            len: stat.st_size,
            modified: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).ok()?),
            changed: (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).ok()?),
        })
    }
}

type Known = BTreeMap<(TimelineId, SegmentNumber), (State, Instant)>;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Proved(Mutex<Known>);

impl Proved {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn holds(&self, timeline: TimelineId, number: SegmentNumber, now: State) -> bool {
        let known = self.known().get(&(timeline, number)).copied();
        known.is_some_and(|(then, at)| then == now && world::now() < at + HOLDS_FOR)
    }

    /// All of it was proved, and it was like this both before and after.
    pub(super) fn add(&self, timeline: TimelineId, number: SegmentNumber, state: State) {
        let mut known = self.known();
        known.insert((timeline, number), (state, world::now()));
        if known.len() > MAX_KNOWN {
            // The oldest are what the fewest will ask for again.
            known.pop_first();
        }
    }
}
