//! Frames unpacked by several threads, ahead of one who reads them from front to end.
//!
//! Bounded: so many frames wait at most. Whoever goes back, or jumps, reads without the threads.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use disk::{AlignedBuf, DiskError, ReadAt};

use super::copy;
use super::framed::Framed;

/// So many frames are unpacked, or being so, before they are asked for: two megabytes.
const AHEAD: usize = 8;
/// More threads have nothing to do: one who proves what they unpack isn't faster.
const MAX_THREADS: usize = 4;

/// A framed file with threads that read it.
pub(super) struct Ahead {
    framed: Arc<Framed>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// The frame that is read, by its place.
    current: Mutex<Option<(usize, Vec<u8>)>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// One is done, or one was taken.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The next that a thread takes.
    next: usize,
    /// All before were taken by who reads.
    taken: usize,
    done: BTreeMap<usize, Result<Vec<u8>, DiskError>>,
    /// Memory that nobody needs.
    spare: Vec<Vec<u8>>,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Unpacks one after the other until there is none.
    fn work(&self, framed: &Framed) {
        let mut worker = framed.worker();
        let mut state = self.lock();
        loop {
            while !state.stop && state.next >= state.taken + AHEAD {
                state = self.wait(state);
            }
            if state.stop || state.next >= framed.count() {
                return;
            }
            let place = state.next;
            state.next += 1;
            let mut content = state.spare.pop().unwrap_or_default();
            drop(state);
            let unpacked = framed.unpack(place, &mut worker, &mut content).map(|()| content);
            state = self.lock();
            state.stop |= unpacked.is_err();
            state.done.insert(place, unpacked);
            self.changed.notify_all();
        }
    }
}

impl Ahead {
    /// Starts them.
    pub(super) fn start(framed: Arc<Framed>) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared::default());
        let threads = (0..processors.min(MAX_THREADS)).map_while(|_| {
            let (framed, shared) = (Arc::clone(&framed), Arc::clone(&shared));
            let work = move || shared.work(&framed);
            thread::Builder::new().name("unpack".to_owned()).spawn(work).ok()
        });
        let threads = threads.collect();
        Self { framed, shared, threads, current: Mutex::new(None) }
    }

    /// A frame, once a thread has it; `None` if it isn't the next one. `spare` is what nobody reads
    /// any more.
    fn next(&self, place: usize, spare: Option<Vec<u8>>) -> Option<Result<Vec<u8>, DiskError>> {
        let mut state = self.shared.lock();
        state.spare.extend(spare);
        if self.threads.is_empty() || state.taken != place {
            return None;
        }
        state.taken = place + 1;
        self.shared.changed.notify_all();
        loop {
            if let Some(done) = state.done.remove(&place) {
                if done.is_err() {
                    // The threads have ended: nothing more comes of them.
                    state.taken = usize::MAX;
                }
                return Some(done);
            }
            state = self.shared.wait(state);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that failed was seen by who waited for its frame.
            _ = thread.join();
        }
    }
}

impl ReadAt for Ahead {
    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<usize, DiskError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut got = 0;
        while let Some(rest) = buf.get_mut(got..len).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(got as u64);
            let Some((place, within)) = self.framed.place(at) else { break };
            if current.as_ref().is_none_or(|(read, _)| *read != place) {
                let spare = current.take().map(|(_, content)| content);
                *current = self.next(place, spare).transpose()?.map(|content| (place, content));
            }
            match current.as_ref().filter(|(read, _)| *read == place) {
                Some((_, content)) => got += copy(content.get(within..).unwrap_or_default(), rest),
                None => return self.framed.read_at(offset, buf, len),
            }
        }
        Ok(got)
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.framed.len()
    }
}
