//! A few threads for something that takes milliseconds, each on a processor of its own.

use std::thread::{self, Builder, ScopedJoinHandle, yield_now};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Has `others` done by up to `threads - 1` threads of that name, beside `own` in this one, and waits
/// for all. Where the system has no thread to give, there are fewer.
///
/// # Errors
/// What one of them panicked with.
pub fn together(
    threads: usize,
    name: &str,
    others: impl Fn() + Sync,
    own: impl FnOnce(),
) -> thread::Result<()> {
    thread::scope(|scope| {
        let (here, others) = (sched_getcpu(), &others);
        let more = (1..threads).filter_map(|nth| {
            let work = move || {
                go_elsewhere(here, nth);
                others();
            };
            Builder::new().name(name.to_owned()).spawn_scoped(scope, work).ok()
        });
        let more: Vec<_> = more.collect();
        if !more.is_empty() {
            // They begin where this one runs, and go elsewhere at once.
            yield_now();
        }
        own();
        let ended: Vec<_> = more.into_iter().map(ScopedJoinHandle::join).collect();
        ended.into_iter().collect()
    })
}

/// Moves this thread to the `nth` of the processors that aren't `taken`.
///
/// It begins on that of the thread which started it, and where the system sees no cache that the
/// processors share, as in many virtual machines, it stays there until a balancing some milliseconds
/// later.
fn go_elsewhere(taken: usize, nth: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let mut others = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu) && *cpu != taken);
    let Some(other) = others.nth(nth - 1) else { return };
    let mut only = CpuSet::new();
    only.set(other);
    // Only to get there: what comes then is the system's again.
    if sched_setaffinity(None, &only).is_ok() {
        _ = sched_setaffinity(None, &allowed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn all_run_at_once_and_where_they_may_afterwards() {
        let allowed = sched_getaffinity(None).unwrap();
        let (begun, done) = (Barrier::new(5), AtomicUsize::new(0));
        let work = || {
            begun.wait();
            assert_eq!(sched_getaffinity(None).unwrap(), allowed);
            done.fetch_add(1, Ordering::Relaxed);
        };
        together(5, "five", work, work).unwrap();
        assert_eq!(done.into_inner(), 5);
    }

    #[test]
    fn one_that_panics_is_told_of_when_all_have_ended() {
        let done = AtomicUsize::new(0);
        let own = || _ = done.fetch_add(1, Ordering::Relaxed);
        assert!(together(3, "three", || panic!("as it should"), own).is_err());
        assert_eq!(done.into_inner(), 1);
        assert!(together(1, "one", || panic!("there is none"), || {}).is_ok());
    }
}
