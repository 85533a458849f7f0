//! Disk operations: what is submitted when, and what a completion changes.

use std::path::PathBuf;
use std::time::Instant;

use disk::{
    Access, AlignedBuf, BLOCK, Completion, Disk, ErrorKind, FileId, Lane, Op, OpId, Outcome,
};
use pg_types::{Lsn, SegmentNumber};

use super::segment::{Name, Prepared, Segment};
use super::{
    CATCH_UP_SYNC_BYTES, Difference, Event, FULL_DISK_RETRY, MAX_SEGMENTS, PREPARE_WITHIN_BYTES,
    Stop, Writer, ZEROS_AHEAD_BYTES,
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
    /// Zeros where commits will come.
    Zeros,
    /// An fsync behind a write, in its lane.
    TailSync { number: SegmentNumber, until: u64 },
    /// An fsync of what was written of a segment when it was submitted.
    SegmentSync { number: SegmentNumber, until: u64 },
    /// Reading what is stored, to compare it with what came.
    Compare { from: Lsn, until: Lsn, came: AlignedBuf },
    /// The next segment's file is allocated.
    Prepare { number: SegmentNumber, file: FileId },
    /// A file is called `.partial`.
    Renamed { number: SegmentNumber },
    /// A file is called `.partial`, durably.
    Name { number: SegmentNumber },
    /// A file has its final name.
    Sealing { number: SegmentNumber },
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
        // Not synced by itself: the first fdatasync of its bytes makes its length durable too, and
        // until then it holds nothing that was promised.
        self.submit(Lane::Meta, vec![(create, Pending::Prepare { number, file })]);
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
        self.submit_name(number);
        self.segments.push_back(Segment::new(number, file, Name::Temporary, 0));
    }

    fn submit_name(&mut self, number: SegmentNumber) {
        let from = self.layout.prepared(self.timeline, number);
        let to = self.layout.partial(self.timeline, number);
        self.submit_rename(from, to, Pending::Renamed { number }, Pending::Name { number });
    }

    fn submit_seal(&mut self, number: SegmentNumber) {
        let from = self.layout.partial(self.timeline, number);
        let to = self.layout.segment(self.timeline, number);
        self.submit_rename(from, to, Pending::Sealing { number }, Pending::Seal { number });
    }

    fn submit_rename(&mut self, from: PathBuf, to: PathBuf, renamed: Pending, done: Pending) {
        let rename = Op::Rename { from, to };
        let chain = if self.options.sync {
            let sync = Op::SyncDir { path: Layout::WAL.into() };
            vec![(rename, renamed), (sync, done)]
        } else {
            vec![(rename, done)]
        };
        self.submit(Lane::Meta, chain);
    }

    /// Hands the buffer that is being filled to the disk: to be compared with what is stored
    /// before its end, to be written behind it; `sync` puts an fsync behind the write.
    pub(super) fn hand_over(&mut self, sync: bool) {
        let Some(mut filling) = self.ring.finish() else { return };
        if self.differs.is_some() {
            return self.ring.release(filling.buf);
        }
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
        self.ends.push_back((until, self.validator.proved().0));
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
        if sync {
            self.zero_ahead(number, until);
        }
    }

    /// Writes zeros behind `until`, for the next commits. In the lane of the writes, so that what
    /// comes next is written over them.
    fn zero_ahead(&mut self, number: SegmentNumber, until: u64) {
        let size = self.layout.segment_size.bytes();
        let Some(segment) = self.segment(number) else { return };
        let from = segment.zeroed.max(until.next_multiple_of(BLOCK as u64));
        if from == size || from - until > ZEROS_AHEAD_BYTES / 2 {
            return;
        }
        let end = size.min(from + ZEROS_AHEAD_BYTES);
        segment.zeroed = end;
        let file = segment.file;
        let len = usize::try_from(end - from).unwrap_or(0);
        self.submit(Lane::Write, vec![(Op::Zero { file, offset: from, len }, Pending::Zeros)]);
    }

    pub(super) fn complete(&mut self, completion: Completion, now: Instant) {
        let Some(pending) = self.pending.remove(&completion.id) else { return };
        if matches!(self.stop, Some(Stop::Disk(_))) {
            // Latched: nothing that ends after a failure is believed.
            return;
        }
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
                self.synced(number, until);
            }
            (Pending::SegmentSync { number, until }, _) => {
                self.segment_sync = false;
                self.synced(number, until);
            }
            (Pending::Compare { from, until, came }, Outcome::Read(stored, len)) => {
                self.comparing -= 1;
                let wanted = usize::try_from(until.saturating_since(from)).unwrap_or(usize::MAX);
                // Behind a gap the first bytes are proved by nothing, here and there.
                let proved_from = self.validator.records_from().unwrap_or(until);
                let unproved = usize::try_from(proved_from.saturating_since(from));
                let unproved = unproved.unwrap_or(usize::MAX).min(wanted);
                let stored_bytes = stored.get(unproved..len.min(wanted)).unwrap_or_default();
                if came.get(unproved..wanted) != Some(stored_bytes) {
                    let pairs = came.iter().skip(unproved).zip(stored_bytes);
                    let same = pairs.take_while(|(came, stored)| came == stored).count();
                    let at = from.saturating_add((unproved + same) as u64);
                    self.differs.get_or_insert(Difference { from, until, at });
                }
                self.ring.release(came);
                self.ring.release(stored);
            }
            (Pending::Prepare { number, file }, _) => {
                self.prepared = Prepared::Ready(number, file);
                self.has_room();
            }
            (Pending::Renamed { number }, _) => {
                let named = self.segment(number).filter(|segment| !segment.is_renamed());
                if let Some(segment) = named {
                    segment.name = Name::Renamed;
                }
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

    /// Bytes up to `until` of a segment are durable, as far as they are written: a write that
    /// found no room may be missing before them.
    fn synced(&mut self, number: SegmentNumber, until: u64) {
        if let Some(segment) = self.segment(number) {
            segment.synced = segment.synced.max(until.min(segment.written));
            if until > segment.written {
                // It is to be synced again once it is written.
                segment.syncing = segment.synced;
            }
        }
    }

    fn failed(&mut self, pending: Pending, failure: disk::Failure, now: Instant) {
        let full = failure.error.kind() == ErrorKind::NoSpace;
        let cancelled = failure.error.kind() == ErrorKind::Cancelled;
        // Cancelled because the operation before it found no room.
        let waits = cancelled && self.full;
        match pending {
            Pending::Index => return self.events.push_back(Event::IndexLost(failure.error)),
            Pending::Clear => return,
            // They make fsyncs faster, that is all.
            Pending::Zeros if full => return,
            Pending::Write { number, until, redo } if full => {
                self.do_again(number, until, redo, failure.buf);
                return self.is_full(failure.error, now);
            }
            Pending::TailSync { number, .. } if cancelled => {
                self.tail_sync = false;
                if let Some(segment) = self.segment(number) {
                    segment.syncing = segment.synced;
                }
                return;
            }
            Pending::Prepare { number, .. } if full => {
                self.prepared = Prepared::NoRoom(number);
                return self.is_full(failure.error, now);
            }
            Pending::Sealing { number } | Pending::Seal { number }
                if failure.error.kind() == ErrorKind::Exists =>
            {
                let path = self.layout.segment(self.timeline, number);
                self.stop.get_or_insert(Stop::Shipped(path));
                return;
            }
            // A directory's fsync that fails is a failed fsync, whatever the reason.
            Pending::Name { .. } | Pending::Seal { .. }
                if waits || (full && !self.options.sync) =>
            {
                self.rename_again.push(pending);
                return self.is_full(failure.error, now);
            }
            // The rest of the chain is cancelled, and says what is to be done.
            Pending::Step | Pending::Renamed { .. } | Pending::Sealing { .. } if full => {
                return self.is_full(failure.error, now);
            }
            _ => {}
        }
        if !cancelled {
            // Also where it has stopped for another reason: what is stored is in doubt now.
            self.stop = Some(Stop::Disk(failure.error));
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
        if self.full && self.redo.is_empty() && self.rename_again.is_empty() {
            self.full = false;
            self.events.push_back(Event::DiskHasRoom);
        }
    }

    /// Tries again what found no room.
    pub(super) fn retry(&mut self, now: Instant, disk: &mut dyn Disk) {
        if self.pending.values().any(|pending| matches!(pending, Pending::Write { .. })) {
            // One that came later is still under way: done now, an earlier one would be written
            // over it, with zeros in the block that both have a part of.
            self.retry_at = Some(now + FULL_DISK_RETRY);
            return;
        }
        if let Prepared::NoRoom(number) = self.prepared {
            // What the last try left, if anything.
            let path = self.layout.prepared(self.timeline, number);
            self.submit(Lane::Meta, vec![(Op::Remove { path }, Pending::Clear)]);
            self.prepare(number, disk);
        }
        for pending in std::mem::take(&mut self.rename_again) {
            match pending {
                Pending::Name { number } => self.submit_name(number),
                Pending::Seal { number } => self.submit_seal(number),
                _ => {}
            }
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
        if let Some(Difference { from, until, at }) = self.differs
            && self.validator.proved().0 > at
        {
            self.stop.get_or_insert(Stop::Diverged { from, to: until });
        }
        if self.stop.is_some() {
            return;
        }
        if self.full && self.redo.is_empty() && self.retry_at.is_none() {
            let waiting = self.pending.values().any(|pending| {
                matches!(
                    pending,
                    Pending::Write { .. } | Pending::Name { .. } | Pending::Seal { .. }
                )
            });
            let preparing = !matches!(self.prepared, Prepared::Nothing | Prepared::Ready(..));
            if !waiting && !preparing {
                self.has_room();
            }
        }
        self.sync_segments();
        self.seal();
        self.settle();
        self.drop_done();
        self.forget_ends();
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
        let pending = Pending::SegmentSync { number, until: segment.written };
        self.submit(Lane::Sync, vec![(Op::SyncData { file }, pending)]);
    }

    /// Gives segments their final names, in their order: all of their bytes durable, and every
    /// record that ends in them proved, which they are since the validator has passed their ends.
    fn seal(&mut self) {
        let size = self.layout.segment_size;
        let passed = self.validator.position();
        let sync = self.options.sync;
        let open = |segment: &&mut Segment| !matches!(segment.name, Name::Sealing | Name::Sealed);
        while let Some(segment) = self.segments.iter_mut().find(open).filter(|segment| {
            let durable = if sync { segment.synced } else { segment.written };
            segment.name == Name::Partial
                && durable == size.bytes()
                && segment.number.end(size) <= passed
        }) {
            segment.name = Name::Sealing;
            let number = segment.number;
            self.submit_seal(number);
        }
    }

    fn sealed(&mut self, number: SegmentNumber) {
        let Some(segment) = self.segment(number) else { return };
        segment.name = Name::Sealed;
        let file = segment.file;
        self.submit(Lane::Meta, vec![(Op::Close { file }, Pending::Step)]);
        self.events.push_back(Event::Sealed(self.timeline, number));
    }

    pub(super) fn close_files(&mut self) {
        let open = self.segments.iter().filter(|segment| segment.name != Name::Sealed);
        let mut files: Vec<FileId> = open.map(|segment| segment.file).collect();
        if let Prepared::Ready(_, file) = std::mem::replace(&mut self.prepared, Prepared::Nothing) {
            files.push(file);
        }
        for file in files {
            self.submit(Lane::Meta, vec![(Op::Close { file }, Pending::Clear)]);
        }
    }

    /// Forgets the ends of buffers before the last one that is durable.
    fn forget_ends(&mut self) {
        let positions = self.positions();
        let sure = if self.options.sync { positions.durable.0 } else { positions.written.0 };
        while self.ends.get(1).is_some_and(|(end, _)| *end <= sure) {
            self.ends.pop_front();
        }
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
