//! A disk made of memory that loses power as real ones do, and the same way for the same seed.
//!
//! Purpose: to show that the archive's syncs are enough, and that each of them is needed. A
//! killed process keeps the page cache, so only a simulated power loss finds a missing fsync.
//!
//! The model, in short; [`PowerLoss`] says what each variant leaves, exactly:
//! - nothing is durable but the bytes that a successful fsync of the file covered and the names
//!   that an fsync of the directory covered; a direct write is in the device's cache;
//! - a sync covers the writes that were done when it *started*, which is when it became the head
//!   of its lane;
//! - a failed fsync drops what it should have synced, and the next one succeeds;
//! - an operation under way at a crash may have happened, in part or not at all.
//!
//! Invariant: every choice comes from the seed; the same calls on the same seed give the same
//! [`SimDisk::trace_hash`]. Never performs anything but in [`SimDisk::step`] and in the blocking
//! calls of [`Files`](crate::Files).

mod blocking;
mod content;
mod fault;
mod image;
mod inode;
mod lanes;
mod loss;
mod rng;
mod state;
#[cfg(test)]
mod tests;
mod trace;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::image::Image;
use self::state::State;
use crate::{Completion, Disk, FileId, Lane, Op, OpId};

pub use self::fault::{Fault, FaultKind, Mutation, OpClass, OpMatch, Times};
pub use self::loss::PowerLoss;
pub use self::rng::Rng;

/// A handle to a simulated disk; clones are handles to the same one.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk that has a root directory.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::from_state(State::new(Image::new(), seed))
    }

    /// The operations queued and not performed.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.state().lanes.pending()
    }

    /// How many operations that change something have been performed, failed ones among them,
    /// since this disk was made or booted.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many faults have happened so far.
    #[must_use]
    pub fn faults_happened(&self) -> u64 {
        self.state().faults.happened
    }

    /// Whether [`stop_at`](Self::stop_at) has been reached.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state().is_off()
    }

    /// A hash of all operations performed, their bytes and their outcomes; goes on through
    /// crashes.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.state().trace.hash()
    }

    /// The last operations, one a line, crashes and kills among them.
    #[must_use]
    pub fn log(&self) -> String {
        let state = self.state();
        let mut text = String::new();
        for line in state.trace.lines() {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// Performs one queued operation, chosen by the seed among the heads of the lanes. False if
    /// nothing is queued or the power is off.
    #[expect(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn step(&self) -> bool {
        self.state().step()
    }

    /// Performs all that is queued.
    pub fn run(&self) {
        while self.step() {}
    }

    /// Stops the disk when so many operations have been performed: queued ones stay queued,
    /// blocking ones fail as [`ErrorKind::PowerOff`](crate::ErrorKind::PowerOff). The disk can
    /// still [`crash`](Self::crash), which is the point.
    pub fn stop_at(&self, operations: u64) {
        self.state().stop_at = Some(operations);
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.inject(fault);
    }

    /// Takes away all faults that haven't happened.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Adds a mutation.
    pub fn mutate(&self, mutation: Mutation) {
        self.state().mutations.push(mutation);
    }

    /// Sets how many bytes files may take up, or no bound. Files have the room of their length,
    /// in whole blocks; what is there already stays, however small the disk becomes.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Whether `Rename` is done as on file systems without renameat2: link, sync of the
    /// directory, unlink.
    pub fn set_rename_by_link(&self, yes: bool) {
        self.state().rename_by_link = yes;
    }

    /// The bytes that files take up now, by the rule of [`set_capacity`](Self::set_capacity).
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let state = self.state();
        state.image.used_bytes(&state.open_inos())
    }

    /// What a boot finds if the power goes now; this disk goes on as if nothing had happened, so
    /// that one moment can be crashed with many seeds. Open files, locks, queued operations and
    /// faults are gone; mutations and capacity stay.
    #[must_use]
    pub fn crash(&self, seed: u64, loss: PowerLoss) -> Self {
        let state = self.state();
        let mut rng = Rng::new(seed);
        let choices = state.history.len() as u64 + 1;
        let back = if loss == PowerLoss::LyingFsync { rng.below(choices) as usize } else { 0 };
        // The newest one is last; 0 is now.
        let image = match back.checked_sub(1) {
            None => state.interrupted(&mut rng),
            Some(back) => state.history[state.history.len() - 1 - back].clone(),
        };
        let booted = loss::survive(&image, &mut rng, loss == PowerLoss::Ext4Ordered);
        let mut next = state.successor(booted, rng.next());
        next.trace.record(format_args!("power loss: {loss:?}, seed {seed}"));
        Self::from_state(next)
    }

    /// What the next process finds if this one is killed now: the page cache is as it was, and
    /// nothing more is durable than before. Otherwise as [`crash`](Self::crash).
    #[must_use]
    pub fn kill(&self) -> Self {
        let state = self.state();
        let mut rng = state.rng.clone().fork();
        let image = state.interrupted(&mut rng);
        let mut next = state.successor(image, rng.next());
        next.history.clone_from(&state.history);
        next.trace.record("killed");
        Self::from_state(next)
    }

    fn from_state(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

/// A test that panicked with the lock held doesn't make the others' reports worse.
fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk for SimDisk {
    fn new_file_id(&mut self) -> FileId {
        let mut state = self.state();
        let id = FileId(state.next_file);
        state.next_file += 1;
        id
    }

    fn submit(&mut self, lane: Lane, chain: Vec<(OpId, Op)>) {
        self.state().submit(lane, chain);
    }

    fn poll(&mut self) -> Option<Completion> {
        self.state().lanes.poll()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("operations", &self.operations()).finish_non_exhaustive()
    }
}
