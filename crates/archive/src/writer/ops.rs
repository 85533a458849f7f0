//! Disk operations: what is submitted when, and what a completion changes.

use std::path::PathBuf;
use std::time::Instant;

use disk::{Access, AlignedBuf, Completion, Disk, ErrorKind, FileId, Lane, Op, OpId, Outcome};
use pg_types::{Lsn, SegmentNumber};

use super::segment::{Name, Prepared, Segment};
use super::{
    CATCH_UP_SYNC_BYTES, Event, FULL_DISK_RETRY, MAX_SEGMENTS, PREPARE_WITHIN_BYTES, Stop, Writer,
};
use crate::Layout;
use crate::index::ENTRY_LEN;

/// An operation under way, or one to be done again.
#[derive(Debug)]
pub(super) enum Pending {
    /// A part of a chain whose last operation counts.
    Step,
    /// A write of a segment's bytes up to `until`.
    Write { number: SegmentNumber, until: u64, redo: Option<Redo> },
    /// An fsync behind a write, in its lane.
    TailSync { number: SegmentNumber, until: u64 },
    /// An fsync of what was written of a segment.
    SegmentSync { number: SegmentNumber },
    /// Reading what is stored, to compare it with what came.
    Compare { from: Lsn, until: Lsn, came: AlignedBuf },
    /// The next segment's file is allocated and synced.
    Prepare { number: SegmentNumber, file: FileId },
    /// A file is called `.partial`, durably.
    Name { number: SegmentNumber },
    /// A file has its final name, durably.
    Seal { number: SegmentNumber },
    /// Writing an index entry.
    Index,
    /// Clearing away; nothing depends on it.
    Clear,
}

/// What is needed to write a buffer again.
#[derive(Debug)]
pub(super) struct Redo {
    offset: u64,
    len: usize,
    buf: Option<AlignedBuf>,
}

impl Writer {
    fn op(&mut self, pending: Pending) -> OpId {
        let id = OpId(self.next_op);
        self.next_op += 1;
        self.pending.insert(id, pending);
        id
    }

    fn submit(&mut self, lane: Lane, chain: Vec<(Op, Pending)>) {
        let chain = chain.into_iter().map(|(op, pending)| (self.op(pending), op)).collect();
        self.submissions.push_back((lane, chain));
    }

    /// Begins to allocate the next segment's file.
    pub(super) fn prepare(&mut self, number: SegmentNumber, disk: &mut dyn Disk) {
        let path = self.layout.prepared(self.timeline, number);
        let file = disk.new_file_id();
        let size = self.layout.segment_size.bytes();
        self.prepared = Prepared::UnderWay(number);
        let create = Op::Create { file, path, size, access: Access::Direct };
        let ready = Pending::Prepare { number, file };
        let chain = if self.options.sync {
            vec![(create, Pending::Step), (Op::SyncAll { file }, ready)]
        } else {
            vec![(create, ready)]
        };
        self.submit(Lane::Meta, chain);
    }

    /// Opens the `.partial` that the archive ends with.
    pub(super) fn reopen(&mut self, number: SegmentNumber, disk: &mut dyn Disk) {
        let size = self.layout.segment_size;
        let file = disk.new_file_id();
        let path = self.layout.partial(self.timeline, number);
        // In the lane of the writes, so that it comes before them.
        self.submit(
            Lane::Write,
            vec![(Op::Open { file, path, access: Access::Direct }, Pending::Step)],
        );
        let stored = self.stored_end.saturating_since(number.start(size));
        self.segments.push_back(Segment::new(number, file, Name::Partial, stored));
    }

    /// Makes sure that the segment of `position` can be written to; `None` if not yet.
    pub(super) fn ensure_segment(&mut self, position: Lsn, disk: &mut dyn Disk) -> Option<()> {
        let size = self.layout.segment_size;
        let number = position.segment(size);
        if self.segments.back().is_none_or(|last| last.number < number) {
            let Prepared::Ready(ready, file) = self.prepared else {
                if self.prepared == Prepared::Nothing {
                    self.prepare(number, disk);
                }
                return None;
            };
            if ready != number || self.segments.len() >= MAX_SEGMENTS {
                return None;
            }
            self.prepared = Prepared::Nothing;
            self.name_partial(number, file);
        }
        let left = number.end(size).saturating_since(position);
        if self.prepared == Prepared::Nothing && left <= PREPARE_WITHIN_BYTES {
            self.prepare(number.next(), disk);
        }
        Some(())
    }

    /// Gives the prepared file its place; writes to it needn't wait, acknowledging them does.
    fn name_partial(&mut self, number: SegmentNumber, file: FileId) {
        let from = self.layout.prepared(self.timeline, number);
        let to = self.layout.partial(self.timeline, number);
        self.submit_rename(from, to, Pending::Name { number });
        self.segments.push_back(Segment::new(number, file, Name::Temporary, 0));
    }

    fn submit_rename(&mut self, from: PathBuf, to: PathBuf, done: Pending) {
        let rename = Op::Rename { from, to };
        let chain = if self.options.sync {
            let sync = Op::SyncDir { path: Layout::WAL.into() };
            vec![(rename, Pending::Step), (sync, done)]
        } else {
            vec![(rename, done)]
        };
        self.submit(Lane::Meta, chain);
    }

    /// Hands the buffer that is being filled to the disk: to be compared with what is stored
    /// before its end, to be written behind it; `sync` puts an fsync behind the write.
    pub(super) fn hand_over(&mut self, sync: bool) {
        let Some(mut filling) = self.ring.finish() else { return };
        let size = self.layout.segment_size;
        let number = filling.start.segment(size);
        let Some(segment) = self.segments.iter_mut().find(|segment| segment.number == number)
        else {
            return;
        };
        let file = segment.file;
        let offset = filling.start.segment_offset(size);
        let len = filling.padded_len();
        let (from, until) = (filling.start, filling.end());
        if until <= self.stored_end {
            // `place` left one: nothing but compares takes buffers before `stored_end`.
            let Some(buf) = self.ring.spare() else { return };
            self.comparing += 1;
            let compare = Pending::Compare { from, until, came: filling.buf };
            return self.submit(Lane::Write, vec![(Op::Read { file, offset, buf, len }, compare)]);
        }
        let until = until.saturating_since(number.start(size));
        let redo = Some(Redo { offset, len, buf: None });
        let write = Op::Write { file, offset, buf: filling.buf, len };
        let mut chain = vec![(write, Pending::Write { number, until, redo })];
        if sync {
            segment.syncing = until;
            self.tail_sync = true;
            chain.push((Op::SyncData { file }, Pending::TailSync { number, until }));
        }
        self.submit(Lane::Write, chain);
    }

    pub(super) fn complete(&mut self, completion: Completion, now: Instant) {
        let Some(pending) = self.pending.remove(&completion.id) else { return };
        match completion.result {
            Ok(outcome) => self.succeeded(pending, outcome),
            Err(failure) => self.failed(pending, failure, now),
        }
    }

    fn segment(&mut self, number: SegmentNumber) -> Option<&mut Segment> {
        self.segments.iter_mut().find(|segment| segment.number == number)
    }

    fn succeeded(&mut self, pending: Pending, outcome: Outcome) {
        match (pending, outcome) {
            (Pending::Write { number, until, redo }, Outcome::Wrote(buf)) => {
                if self.redo.is_empty() {
                    self.ring.release(buf);
                    if let Some(segment) = self.segment(number) {
                        segment.written = segment.written.max(until);
                    }
                } else {
                    // An earlier write is still to come, and may cover this one's first block.
                    self.do_again(number, until, redo, Some(buf));
                }
            }
            (Pending::TailSync { number, until }, _) => {
                self.tail_sync = false;
                if let Some(segment) = self.segment(number) {
                    segment.synced = segment.synced.max(until);
                }
            }
            (Pending::SegmentSync { number }, _) => {
                self.segment_sync = false;
                if let Some(segment) = self.segment(number) {
                    segment.synced = segment.synced.max(segment.syncing);
                }
            }
            (Pending::Compare { from, until, came }, Outcome::Read(stored, len)) => {
                self.comparing -= 1;
                let wanted = usize::try_from(until.saturating_since(from)).unwrap_or(usize::MAX);
                let same = len >= wanted && came.get(..wanted) == stored.get(..wanted);
                self.ring.release(came);
                self.ring.release(stored);
                if !same {
                    self.stop.get_or_insert(Stop::Diverged { from, to: until });
                }
            }
            (Pending::Prepare { number, file }, _) => {
                self.prepared = Prepared::Ready(number, file);
                self.has_room();
            }
            (Pending::Name { number }, _) => {
                if let Some(segment) = self.segment(number) {
                    segment.name = Name::Partial;
                }
            }
            (Pending::Seal { number }, _) => self.sealed(number),
            _ => {}
        }
    }

    fn failed(&mut self, pending: Pending, failure: disk::Failure, now: Instant) {
        let full = failure.error.kind() == ErrorKind::NoSpace;
        let cancelled = failure.error.kind() == ErrorKind::Cancelled;
        match pending {
            Pending::Index => return self.events.push_back(Event::IndexLost(failure.error)),
            Pending::Clear => return,
            Pending::Write { number, until, redo } if full => {
                self.do_again(number, until, redo, failure.buf);
                return self.is_full(failure.error, now);
            }
            Pending::TailSync { .. } if cancelled => {
                self.tail_sync = false;
                return;
            }
            Pending::Prepare { number, .. } if full || (cancelled && self.full) => {
                self.prepared = Prepared::NoRoom(number);
                return self.is_full(failure.error, now);
            }
            // The rest of the chain is cancelled, and says what is to be done.
            Pending::Step if full => {
                self.full = true;
                return self.events.push_back(Event::DiskFull(failure.error));
            }
            _ => {}
        }
        if !cancelled {
            self.stop.get_or_insert(Stop::Disk(failure.error));
        }
    }

    fn do_again(
        &mut self,
        number: SegmentNumber,
        until: u64,
        redo: Option<Redo>,
        buf: Option<AlignedBuf>,
    ) {
        let redo = redo.map(|redo| Redo { buf, ..redo });
        self.redo.push_back(Pending::Write { number, until, redo });
    }

    fn is_full(&mut self, error: disk::DiskError, now: Instant) {
        if !self.full {
            self.full = true;
            self.events.push_back(Event::DiskFull(error));
        }
        self.retry_at.get_or_insert(now + FULL_DISK_RETRY);
    }

    fn has_room(&mut self) {
        if self.full && self.redo.is_empty() {
            self.full = false;
            self.events.push_back(Event::DiskHasRoom);
        }
    }

    /// Tries again what found no room.
    pub(super) fn retry(&mut self, disk: &mut dyn Disk) {
        if let Prepared::NoRoom(number) = self.prepared {
            // What the last try left, if anything.
            let path = self.layout.prepared(self.timeline, number);
            self.submit(Lane::Meta, vec![(Op::Remove { path }, Pending::Clear)]);
            self.prepare(number, disk);
        }
        for pending in std::mem::take(&mut self.redo) {
            let Pending::Write { number, until, redo: Some(redo) } = pending else { continue };
            let Redo { offset, len, buf: Some(buf) } = redo else { continue };
            let Some(file) = self.segment(number).map(|segment| segment.file) else { continue };
            let again = Some(Redo { offset, len, buf: None });
            let write = Op::Write { file, offset, buf, len };
            self.submit(Lane::Write, vec![(write, Pending::Write { number, until, redo: again })]);
        }
    }

    /// What has become possible: syncing, sealing, settling.
    pub(super) fn go_on(&mut self) {
        if self.stop.is_some() {
            return;
        }
        if self.full && self.redo.is_empty() && self.retry_at.is_none() {
            let waiting = self.pending.values().any(|p| matches!(p, Pending::Write { .. }));
            let preparing = !matches!(self.prepared, Prepared::Nothing | Prepared::Ready(..));
            if !waiting && !preparing {
                self.has_room();
            }
        }
        self.sync_segments();
        self.seal();
        self.settle();
        self.drop_done();
    }

    /// Syncs what was written of the oldest segment that needs it: the whole of it, or so much
    /// of it that nobody should have to wait longer.
    fn sync_segments(&mut self) {
        let segment_size = self.layout.segment_size;
        let (size, wanted) = (segment_size.bytes(), self.sync_wanted);
        if self.segment_sync || !self.options.sync {
            return;
        }
        let wanting = self.segments.iter_mut().find(|segment| {
            let covered = segment.synced.max(segment.syncing);
            let new = segment.written.saturating_sub(covered);
            let awaited = segment.number.start(segment_size).saturating_add(covered) < wanted;
            new >= CATCH_UP_SYNC_BYTES || (new > 0 && (awaited || segment.written == size))
        });
        let Some(segment) = wanting else { return };
        segment.syncing = segment.written;
        self.segment_sync = true;
        let (file, number) = (segment.file, segment.number);
        self.submit(Lane::Sync, vec![(Op::SyncData { file }, Pending::SegmentSync { number })]);
    }

    /// Gives segments their final names: all of their bytes durable, and every record that ends
    /// in them proved, which they are since the validator has passed their ends.
    fn seal(&mut self) {
        let size = self.layout.segment_size;
        let passed = self.validator.position();
        let sync = self.options.sync;
        while let Some(segment) = self.segments.iter_mut().find(|segment| {
            let durable = if sync { segment.synced } else { segment.written };
            segment.name == Name::Partial
                && durable == size.bytes()
                && segment.number.end(size) <= passed
        }) {
            segment.name = Name::Sealing;
            let number = segment.number;
            let from = self.layout.partial(self.timeline, number);
            let to = self.layout.segment(self.timeline, number);
            self.submit_rename(from, to, Pending::Seal { number });
        }
    }

    fn sealed(&mut self, number: SegmentNumber) {
        let Some(segment) = self.segment(number) else { return };
        segment.name = Name::Sealed;
        let file = segment.file;
        self.submit(Lane::Meta, vec![(Op::Close { file }, Pending::Step)]);
        self.events.push_back(Event::Sealed(self.timeline, number));
    }

    /// Forgets segments that are whole and have their final names.
    fn drop_done(&mut self) {
        while let Some(segment) = self.segments.front().filter(|s| s.name == Name::Sealed) {
            self.done = segment.number.end(self.layout.segment_size);
            self.segments.pop_front();
        }
    }

    /// Puts the segments that are proved to their last byte, and sealed, into the index.
    fn settle(&mut self) {
        let size = self.layout.segment_size;
        let open = self.segments.iter().find(|segment| segment.name != Name::Sealed);
        let sealed_end = open.map_or(self.done, |segment| segment.number.start(size));
        let end = self.validator.proved().0.min(sealed_end);
        while self.settled.end(size) <= end {
            let entry = self.index.settle(self.settled);
            self.settled = self.settled.next();
            let (path, place) = self.layout.index(self.timeline, entry.number);
            let (offset, bytes) = (place * ENTRY_LEN as u64, entry.to_bytes().to_vec());
            self.submit(Lane::Meta, vec![(Op::Put { path, offset, bytes }, Pending::Index)]);
            self.events.push_back(Event::Settled(Box::new(entry)));
        }
    }
}
