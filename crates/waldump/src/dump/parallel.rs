//! The same output in the same order on several threads.
//!
//! The log is cut into units at page boundaries, where a page header says how much of a record is
//! left, so that the first record of each can be found without the one before. Threads take units
//! in turn and make text of them; whoever's turn it is compares where its first record starts, and
//! which it links to, with where the unit before ended, and writes. If they don't meet, which only
//! broken WAL and crashed servers do, the unit is read again from where the one before ended, as
//! one thread would read it.
//!
//! Bounded: a thread that has made its part of [`PARKED_BYTES`] of text waits for its turn, and
//! then writes as it goes.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use pg_types::Lsn;

use super::output::{Sink, Stdout};
use super::{Config, End, Ended, Mode, Taker};
use crate::read::reader::{PAGE_BYTES, Reader, Standing};
use crate::show::stats::Stats;
use crate::show::top::Makers;

/// The log that a thread takes at a time: enough that finding its first record costs nothing,
/// little enough that its text is.
const UNIT_BYTES: u64 = 512 << 10;

/// The same where no text is made, and sums are added up for each; at the end no thread has long to go
/// on alone.
const COUNTED_UNIT_BYTES: u64 = 2 << 20;

/// Text that all threads together keep for their turns, and one at the most: the text of a unit,
/// nearly always.
const PARKED_BYTES: usize = 32 << 20;
const MOST_PARKED_BYTES: usize = 4 << 20;

/// What the threads share.
struct Shared<'a> {
    state: Mutex<State>,
    turned: Condvar,
    next_unit: AtomicU64,
    /// How much text a thread keeps for its turn.
    park_bytes: usize,
    stdout: &'a Stdout,
}

struct State {
    /// Whose turn it is.
    turn: u64,
    /// Where the unit before ended.
    standing: Standing,
    last: Lsn,
    stats: Option<Stats>,
    makers: Option<Makers>,
    ended: Option<End>,
}

/// What a dump came to.
pub struct Dumped {
    /// How it ended.
    pub ended: Ended,
    /// What was counted.
    pub stats: Option<Stats>,
    /// Who made it.
    pub makers: Option<Makers>,
}

/// Dumps from where this reader stands, with `jobs` threads, each with a reader that `make` gives.
pub fn parallel(
    first: Reader,
    make: &(dyn Fn() -> Reader + Sync),
    config: &Config,
    start: Lsn,
    jobs: usize,
    stdout: &Stdout,
) -> Dumped {
    let standing = first.standing();
    let Taker { stats, makers, .. } = Taker::new(config, start);
    let state = State { turn: 0, standing, last: Lsn::INVALID, stats, makers, ended: None };
    let shared = Shared {
        state: Mutex::new(state),
        turned: Condvar::new(),
        next_unit: AtomicU64::new(0),
        park_bytes: MOST_PARKED_BYTES.min(PARKED_BYTES / jobs.max(1)),
        stdout,
    };
    let others = || work(&shared, make(), config, start);
    let ended = threads::together(jobs, "dump", others, || work(&shared, first, config, start));
    ended.unwrap_or_else(|panicked| resume_unwind(panicked));
    let state = shared.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let end = state.ended.unwrap_or(End::Enough);
    let ended = Ended { end, last: state.last };
    Dumped { ended, stats: state.stats, makers: state.makers }
}

/// Takes units until the dump has ended.
fn work(shared: &Shared<'_>, mut reader: Reader, config: &Config, start: Lsn) {
    let mut taker = Taker::new(config, start);
    let unit_bytes = match config.mode {
        Mode::Text | Mode::Json => UNIT_BYTES,
        Mode::Quiet | Mode::Stats | Mode::Top(_) => COUNTED_UNIT_BYTES,
    };
    let base = start.align_down(unit_bytes);
    while shared.lock().ended.is_none() {
        let unit = shared.next_unit.fetch_add(1, Ordering::Relaxed);
        let from = base.saturating_add(unit.saturating_mul(unit_bytes));
        let until = from.saturating_add(unit_bytes);
        let mut turn = Turn { shared, unit, holds: false, met: None };
        taker.clear();
        let run = if unit == 0 {
            // Its beginning is known, and it is its turn.
            turn.holds = true;
            let standing = shared.lock().standing;
            reader.resume(standing);
            taker.run(&mut reader, until, &mut turn)
        } else {
            let begun = reader.start_at(from).map_err(End::from);
            turn.met = begun.is_ok().then(|| reader.standing());
            begun.and_then(|_| taker.run(&mut reader, until, &mut turn))
        };
        if !turn.finish(&mut reader, &mut taker, run, until) {
            return;
        }
    }
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a unit's turn; where the one before ended, or `None` if the dump has.
    fn wait(&self, unit: u64) -> Option<Standing> {
        let mut state = self.lock();
        while state.turn != unit && state.ended.is_none() {
            state = self.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.ended.is_none().then_some(state.standing)
    }
}

/// A unit's place in the order.
struct Turn<'a> {
    shared: &'a Shared<'a>,
    unit: u64,
    /// Whether it is its turn, and what was made of its records is what one thread would make.
    holds: bool,
    /// Where the reader stood at its beginning, with the timeline of its first page.
    met: Option<Standing>,
}

impl Turn<'_> {
    /// Writes what was made of a unit, made anew where it has to be, and gives the turn on; false
    /// at the end of all.
    fn finish(
        &mut self,
        reader: &mut Reader,
        taker: &mut Taker<'_>,
        run: Result<(), End>,
        until: Lsn,
    ) -> bool {
        let mut run = run;
        if !self.holds {
            let Some(before) = self.shared.wait(self.unit) else { return false };
            if before.next >= until {
                // All of it belongs to a record that starts earlier, or to a switched segment.
                self.pass(|_| {});
                return true;
            }
            if matches!(run, Err(End::Misfit)) || !self.meets(&before, taker.first) {
                taker.clear();
                reader.resume(before);
                self.holds = true;
                run = taker.run(reader, until, self);
            }
        }
        let written = self.shared.stdout.write(&taker.text);
        let (standing, last) = (reader.standing(), reader.last_read());
        let ended = written.map_err(End::from).and(run).err();
        let goes_on = ended.is_none();
        self.pass(|state| {
            state.standing = standing;
            // The beginning of a unit knows of no record; nothing was read of it then.
            if last.is_valid() {
                state.last = last;
            }
            if let (Some(sum), Some(stats)) = (&mut state.stats, &taker.stats) {
                sum.merge(stats);
            }
            if let (Some(sum), Some(makers)) = (&mut state.makers, &mut taker.makers) {
                sum.merge(makers);
            }
            state.ended = ended;
        });
        goes_on
    }

    fn pass(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.lock();
        change(&mut state);
        state.turn += 1;
        drop(state);
        self.shared.turned.notify_all();
    }

    /// Whether a unit that began with this record goes on where the one before ended.
    fn meets(&self, before: &Standing, first: Option<(Lsn, Lsn)>) -> bool {
        let (Some((first, prev)), Some(met)) = (first, self.met) else { return false };
        let page = PAGE_BYTES as u64;
        // A record on a fresh page follows the page's header.
        let fresh = before.next.offset_in(page) == 0
            && first.align_down(page) == before.next
            && met.next == first;
        let starts = first == before.next || fresh;
        starts && prev == before.last && met.page_timeline >= before.page_timeline
    }
}

impl Sink for Turn<'_> {
    fn drain(&mut self, text: &mut Vec<u8>, first: Option<(Lsn, Lsn)>) -> Result<(), End> {
        if !self.holds {
            if text.len() < self.shared.park_bytes {
                return Ok(());
            }
            let Some(before) = self.shared.wait(self.unit) else { return Err(End::Enough) };
            if !self.meets(&before, first) {
                return Err(End::Misfit);
            }
            self.holds = true;
        }
        self.shared.stdout.write(text)?;
        text.clear();
        Ok(())
    }
}
