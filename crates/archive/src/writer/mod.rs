//! The hot path: bytes of the stream go in, disk operations come out.
//!
//! [`place`](Writer::place) gives the memory that the next bytes are to be read into, so that a
//! payload goes from the socket to where it is validated and written from. A buffer that is full
//! is handed to the disk whole; one that isn't is handed over as soon as a commit waits for it
//! ([`flush`](Writer::flush)), and the block that it breaks off in is carried into the next.
//!
//! What is durable is counted from completions alone, and a failed write, fsync or rename latches:
//! nothing that comes later is believed ([`stop`](Writer::stop)).

mod ops;
mod ring;
mod segment;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use disk::{Disk, DiskError, Lane, Op, OpId};
use pg_types::{
    Acknowledgement, Durable, Lsn, Positions, Proved, Received, SegmentNumber, TimelineId, Written,
};
use wal_format::{DecodeError, Validator};

use self::ops::Pending;
use self::ring::{Filling, Ring};
use self::segment::{Prepared, Segment};
use crate::index::IndexBuilder;
use crate::open::Archive;
use crate::{IndexEntry, Layout, Resume, Stored};

/// Segments that may be written, synced or renamed at once: each holds an open file. Catching up
/// with segments of 1 MiB, the disk's two or three operations for each need a few in a row.
const MAX_SEGMENTS: usize = 8;
/// The next segment is allocated when less than this is left of the current one: it takes some
/// milliseconds, in which a gigabyte a second brings this much many times over.
const PREPARE_WITHIN_BYTES: u64 = 64 << 20;
/// While catching up nobody waits for an fsync, and each costs a journal commit; then one is
/// made for this many bytes, and at each segment's end.
const CATCH_UP_SYNC_BYTES: u64 = 16 << 20;
/// Further behind than this, the stream is being caught up with: more is on its way than a
/// buffer holds, so that waiting for it costs nobody anything.
const CATCH_UP_BEHIND_BYTES: u64 = 2 << 20;
/// Where commits are waited for, zeros are written this far ahead of them, in one piece when half
/// of it is used up: a commit's fsync then takes about half as long, since what was only allocated
/// costs a commit of the file system's journal, and one commit in thousands waits for the piece.
const ZEROS_AHEAD_BYTES: u64 = 1 << 20;
/// How often a full disk is tried again.
const FULL_DISK_RETRY: Duration = Duration::from_millis(500);

/// What a writer may use.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Buffers of the ring.
    pub buffers: usize,
    /// The size of each, bytes; a multiple of [`disk::BLOCK`].
    pub buffer_bytes: usize,
    /// Whether anything is synced. Without it nothing ever counts as durable.
    pub sync: bool,
}

impl Default for Options {
    fn default() -> Self {
        // 6 MiB in all, of the receiver's 16: one is filled, one or two are written, and the rest
        // carries over an fsync that holds up the disk.
        Self { buffers: 6, buffer_bytes: 1 << 20, sync: true }
    }
}

/// Something that happened to the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A segment has its final name.
    Sealed(TimelineId, SegmentNumber),
    /// A segment is complete and proved to its last byte.
    Settled(Box<IndexEntry>),
    /// The disk is full; receiving waits.
    DiskFull(DiskError),
    /// There is room again.
    DiskHasRoom,
    /// An index file couldn't be written: it can be made again.
    IndexLost(DiskError),
}

/// Why a writer takes no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stop {
    /// The stream isn't a log.
    #[error("WAL that doesn't hold {0}")]
    Corrupt(DecodeError),
    /// What came again isn't what is archived, and both hold.
    #[error(
        "the server's WAL differs from the archive's between {from} and {to}, and both are valid: \
         this server has another history; the archive was left as it is"
    )]
    Diverged {
        /// Where the piece that was compared starts.
        from: Lsn,
        /// Where it ends.
        to: Lsn,
    },
    /// A segment that was to be sealed has been shipped meanwhile; the two are compared before the
    /// next session.
    #[error("{} was archived by somebody else meanwhile", .0.display())]
    Shipped(PathBuf),
    /// The disk failed; what it holds of the current segment is no longer believed.
    #[error("{0}")]
    Disk(DiskError),
}

/// A piece of the stream that isn't what is stored.
#[derive(Clone, Copy, Debug)]
struct Difference {
    from: Lsn,
    until: Lsn,
    /// The first byte that differs.
    at: Lsn,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Writer {
    layout: Layout,
    timeline: TimelineId,
    options: Options,
    validator: Validator,
    index: IndexBuilder,
    ring: Ring,
    /// The end of what must come again as it is stored.
    stored_end: Lsn,
    /// Less than this was acknowledged before, so nothing is until this is reached.
    floor: Lsn,
    /// For the end of each buffer that was handed over, how far the stream was proved there;
    /// ordered, the first one durable. After a crash nothing proves the beginning of a record, so
    /// that a position in the middle of one isn't acknowledged.
    ends: VecDeque<(Lsn, Lsn)>,
    /// By number: those that aren't done with.
    segments: VecDeque<Segment>,
    prepared: Prepared,
    /// Everything before this is written and durable.
    done: Lsn,
    /// Segments before this one are settled.
    settled: SegmentNumber,
    pending: HashMap<OpId, Pending>,
    next_op: u64,
    /// Whatever is before this is to be synced as soon as it is written.
    sync_wanted: Lsn,
    /// Compares under way.
    comparing: usize,
    /// Under way: a write with its fsync behind it, the live path.
    tail_sync: bool,
    /// Under way: the fsync of a segment by itself.
    segment_sync: bool,
    /// What came again and isn't what is stored, until it is known whether it is valid.
    differs: Option<Difference>,
    /// Writes that found no room, and those behind them, in order.
    redo: VecDeque<Pending>,
    /// Renames that found no room.
    rename_again: Vec<Pending>,
    retry_at: Option<Instant>,
    full: bool,
    submissions: VecDeque<(Lane, Vec<(OpId, Op)>)>,
    events: VecDeque<Event>,
    stop: Option<Stop>,
}

impl Writer {
    /// A writer that goes on where the archive ends.
    #[must_use]
    pub fn new(archive: &Archive, resume: Resume, options: Options, disk: &mut dyn Disk) -> Self {
        let layout = archive.layout();
        let size = layout.segment_size;
        let floor = resume.acknowledged();
        let first = resume.start.segment(size);
        let (stored_end, has_partial) = match resume.stored {
            Stored::Nothing => (resume.start, false),
            Stored::Partial { proved } => (proved.max(resume.start), true),
        };
        let mut writer = Self {
            layout,
            timeline: resume.timeline,
            options,
            // Whatever was decoded to resume: writing an entry again changes nothing.
            settled: resume.decoded_from,
            index: resume.index,
            validator: resume.validator,
            ring: Ring::new(options.buffers, options.buffer_bytes),
            stored_end,
            floor,
            ends: VecDeque::from([(stored_end, floor)]),
            segments: VecDeque::new(),
            prepared: Prepared::Nothing,
            done: resume.start,
            pending: HashMap::new(),
            next_op: 0,
            sync_wanted: Lsn::INVALID,
            comparing: 0,
            tail_sync: false,
            segment_sync: false,
            differs: None,
            redo: VecDeque::new(),
            rename_again: Vec::new(),
            retry_at: None,
            full: false,
            submissions: VecDeque::new(),
            events: VecDeque::new(),
            stop: None,
        };
        if has_partial {
            writer.reopen(first, disk);
        } else {
            writer.prepare(first, disk);
        }
        writer
    }

    /// The position of the next byte of the stream.
    #[must_use]
    pub fn received(&self) -> Lsn {
        self.validator.position()
    }

    /// Proves the stream as it comes.
    #[must_use]
    pub fn validator(&self) -> &Validator {
        &self.validator
    }

    /// How far everything is.
    #[must_use]
    pub fn positions(&self) -> Positions {
        let (mut written, mut durable) = (self.done, self.done);
        let size = self.layout.segment_size;
        for segment in &self.segments {
            let start = segment.number.start(size);
            if written == start && segment.is_renamed() {
                written = start.saturating_add(segment.written);
            }
            if durable == start && segment.is_named() {
                durable = start.saturating_add(segment.synced);
            }
        }
        if !self.options.sync {
            durable = Lsn::INVALID;
        }
        Positions {
            received: Received(self.received()),
            proved: self.validator.proved(),
            written: Written(written),
            durable: Durable(durable),
        }
    }

    /// What may be acknowledged now: ends of records. `None` while what was acknowledged before is
    /// being received again, since a slot would go back with it.
    #[must_use]
    pub fn acknowledgement(&self) -> Option<Acknowledgement> {
        let same = self.comparing == 0 && self.differs.is_none();
        let ready = self.validator.proved().0 >= self.floor && same;
        ready.then(|| {
            let positions = self.positions();
            let upto = |at: Lsn| {
                let proved = Proved(self.proved_before(at));
                Positions { proved, ..positions }.acknowledgement()
            };
            Acknowledgement {
                write: upto(positions.written.0).write,
                flush: upto(positions.durable.0).flush,
            }
        })
    }

    /// The end of the last record that is proved by what is before a position alone: after a crash
    /// nothing else proves it. `at` is one of the positions at which buffers end.
    fn proved_before(&self, at: Lsn) -> Lsn {
        let before = self.ends.iter().rev().find(|(end, _)| *end <= at);
        before.map_or(Lsn::INVALID, |(_, proved)| *proved)
    }

    /// Whether all that was received is durable, proved or not.
    #[must_use]
    pub fn all_durable(&self) -> bool {
        self.positions().durable.0 == self.received()
    }

    /// Why nothing more is taken.
    #[must_use]
    pub fn stop(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    /// Whether operations are under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether an fsync is under way that a commit may be waiting for.
    #[must_use]
    pub fn is_syncing(&self) -> bool {
        self.tail_sync
    }

    /// Where the next bytes of the stream belong; `None` if there is no room now, or ever again.
    pub fn place(&mut self, disk: &mut dyn Disk) -> Option<&mut [u8]> {
        if self.stop.is_some() {
            return None;
        }
        let position = self.received();
        if position == self.stored_end && self.comparing > 0 {
            // Nothing is written before what is stored was found to be the same.
            return None;
        }
        // What differs is validated, and not written anywhere.
        if self.differs.is_none() {
            self.ensure_segment(position, disk)?;
        }
        if self.ring.filling.is_none() {
            let start = position.align_down(disk::BLOCK as u64);
            let segment_end =
                position.segment(self.layout.segment_size).end(self.layout.segment_size);
            let stored = (position < self.stored_end).then_some(self.stored_end);
            if stored.is_some() && self.ring.free() < 2 {
                // To compare takes a second buffer.
                return None;
            }
            self.ring.start(start, segment_end.min(stored.unwrap_or(Lsn::MAX)))?;
        }
        self.ring.filling.as_mut().map(Filling::room)
    }

    /// Takes the first `len` bytes of what [`place`](Self::place) gave.
    pub fn take(&mut self, len: usize) {
        let Some(filling) = &mut self.ring.filling else { return };
        let bytes = filling.add(len);
        if let Err(error) = self.validator.feed(bytes, &mut self.index) {
            self.stop.get_or_insert(Stop::Corrupt(error));
            return;
        }
        if filling.is_full() {
            self.hand_over(false);
        }
        self.go_on();
    }

    /// Called when nothing more can be read at once: what is proved goes to the disk, unless an
    /// fsync is under way (then it goes with the next), or the stream is so far behind
    /// `upstream_end` that more is coming anyway.
    pub fn flush(&mut self, upstream_end: Lsn) {
        let proved = self.validator.proved().0;
        let behind = upstream_end.saturating_since(self.received());
        if behind < CATCH_UP_BEHIND_BYTES && proved > self.positions().durable.0 {
            self.flush_all();
        }
    }

    /// Like [`flush`](Self::flush), however far behind, and also what isn't proved yet.
    pub fn flush_all(&mut self) {
        let idle = self.stop.is_none() && !self.tail_sync && self.redo.is_empty();
        let same = self.comparing == 0 && self.differs.is_none();
        if idle && same && self.received() >= self.stored_end {
            self.sync_wanted = self.received();
            self.hand_over(self.options.sync);
            self.go_on();
        }
    }

    /// A finished operation.
    pub fn handle(&mut self, completion: disk::Completion, now: Instant) {
        self.complete(completion, now);
        self.go_on();
    }

    /// The next operations for the disk.
    pub fn poll_submission(&mut self) -> Option<(Lane, Vec<(OpId, Op)>)> {
        self.submissions.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The time has come.
    pub fn handle_timeout(&mut self, now: Instant, disk: &mut dyn Disk) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.retry(now, disk);
        }
    }

    /// Closes its files. To be called last: once it has stopped, or won't be used any more, and
    /// nothing [is under way](Self::is_busy).
    pub fn close(&mut self) {
        self.close_files();
    }
}
