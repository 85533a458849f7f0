//! Runs of segments, and the borders between them.

use std::collections::VecDeque;
use std::ops::Range;

use disk::{AlignedBuf, DiskError};
use pg_types::{Branch, Lsn, SegmentNumber, SegmentSize, TimelineId, WalFileName};
use wal_format::{DecodeError, DecodeErrorKind, PageHeader, Validator};

use super::{Damage, DamageKind};
use crate::find::OpenIndex;
use crate::index::{IndexBuilder, IndexEntry};
use crate::prove::Primed;
use crate::reader::Reader;
use crate::{ArchiveError, Catalogue};

/// So many damages are named of one segment: where there are more, all of it is to be replaced.
const MAX_DAMAGES_PER_SEGMENT: usize = 16;

/// Sealed segments of a timeline that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The timeline.
    pub timeline: TimelineId,
    /// The segments.
    pub segments: Range<SegmentNumber>,
}

/// What reading a run came to.
#[derive(Debug)]
pub struct RunVerdict {
    /// What doesn't hold, in order.
    pub damages: Vec<Damage>,
    /// The segments that hold from their first record to their last.
    pub settled: Vec<SegmentNumber>,
    /// Segments that aren't there any more under their final names.
    pub gone: Vec<SegmentNumber>,
    /// How many bytes were read.
    pub bytes: u64,
    /// What the border behind needs.
    pub end: RunEnd,
    /// Whether a record starts in the run: if none does, all of it is proved at its border.
    starts_a_record: bool,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunEnd {
    primed: Primed,
    /// Segments that hold but for a record that runs on.
    pending: VecDeque<SegmentNumber>,
    /// Where the proof began, anew behind damage.
    from: Lsn,
}

impl RunEnd {
    pub(super) fn of(primed: Primed) -> Self {
        let from = primed.validator.position();
        Self { primed, pending: VecDeque::new(), from }
    }

    /// Where it ended.
    pub(super) fn position(&self) -> Lsn {
        self.primed.validator.position()
    }
}

/// What a border came to.
#[derive(Debug)]
pub struct Border {
    /// What doesn't hold there.
    pub damages: Vec<Damage>,
    /// Segments before it that hold with what runs over it.
    pub settled: Vec<SegmentNumber>,
    /// How the run behind it ends, where it has to be known from here.
    pub end: Option<RunEnd>,
}

impl Catalogue {
    /// Reads a run.
    #[must_use]
    pub fn verify_run(&self, run: &Run, buf: &mut AlignedBuf) -> RunVerdict {
        let start = run.segments.start.start(self.layout.segment_size);
        let mut pass = Pass::new(self, run.timeline, self.unproved(run.timeline, start), start);
        let mut number = run.segments.start;
        while number < run.segments.end {
            pass.segment(number, buf);
            number = number.next();
        }
        let starts_a_record = pass.from > start || pass.primed.validator.records_from().is_some();
        let Pass { primed, pending, from, damages, settled, gone, bytes, .. } = pass;
        let end = RunEnd { primed, pending, from };
        RunVerdict { damages, settled, gone, bytes, end, starts_a_record }
    }

    /// Proves what runs over the start of `number`, and the link of the first record behind it.
    /// `before` is the end of the run before, if that was read; `behind` the run that begins here,
    /// if that was.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn verify_border(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
        before: Option<&RunEnd>,
        behind: Option<(&Run, &RunVerdict)>,
        buf: &mut AlignedBuf,
    ) -> Result<Border, ArchiveError> {
        let start = number.start(self.layout.segment_size);
        let known = before.filter(|end| end.position() == start);
        let (primed, pending, from) = match known {
            Some(RunEnd { primed, pending, from }) => (primed.clone(), pending.clone(), *from),
            None => {
                let Some(primed) = self.primed_before(timeline, number)? else {
                    return Ok(Border { damages: Vec::new(), settled: Vec::new(), end: None });
                };
                (primed, VecDeque::new(), start)
            }
        };
        let mut pass = Pass::new(self, timeline, primed, from);
        pass.pending = pending;
        let through = behind.filter(|(_, verdict)| !verdict.starts_a_record);
        match through {
            Some((run, _)) => {
                let mut at = run.segments.start;
                while at < run.segments.end {
                    pass.segment(at, buf);
                    at = at.next();
                }
            }
            None => pass.cross(number, buf)?,
        }
        pass.settle();
        let Pass { primed, pending, from, damages, settled, .. } = pass;
        let end = through.map(|_| RunEnd { primed, pending, from });
        Ok(Border { damages, settled, end })
    }

    /// A validator at a page's start that knows nothing before it.
    fn unproved(&self, timeline: TimelineId, at: Lsn) -> Primed {
        let size = self.layout.segment_size;
        let validator = Validator::new(self.expect(timeline), at);
        Primed { validator, index: IndexBuilder::new(timeline, size), from: at.segment(size) }
    }

    /// A validator at the start of `number` that knows what comes before; `None` where that isn't
    /// there, or doesn't hold, which is said elsewhere.
    fn primed_before(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<Option<Primed>, ArchiveError> {
        let size = self.layout.segment_size;
        let start = number.start(size);
        // Page headers are looked at one by one.
        let mut page = AlignedBuf::zeroed(disk::BLOCK);
        if let Ok((Some(validator), _)) = self.prime(timeline, number, &mut page)
            && validator.position() == start
        {
            let index = IndexBuilder::new(timeline, size);
            return Ok(Some(Primed { validator, index, from: number }));
        }
        // The segment before ends in zeros, behind a switch: then its last record has to be found.
        let branch = self.line_of(timeline);
        let primed = self.primed(&branch, number)?.0;
        Ok((primed.validator.last_record().is_some()).then_some(primed))
    }

    /// A timeline's line of history, as far as it is known.
    pub(super) fn line_of(&self, timeline: TimelineId) -> Branch {
        self.history(timeline).ok().flatten().unwrap_or_else(|| Branch::root(timeline))
    }
}

/// One validator on its way.
pub(super) struct Pass<'a> {
    catalogue: &'a Catalogue,
    timeline: TimelineId,
    branch: Branch,
    size: SegmentSize,
    pub(super) primed: Primed,
    pending: VecDeque<SegmentNumber>,
    from: Lsn,
    index: OpenIndex,
    pub(super) damages: Vec<Damage>,
    settled: Vec<SegmentNumber>,
    gone: Vec<SegmentNumber>,
    bytes: u64,
}

impl<'a> Pass<'a> {
    fn new(catalogue: &'a Catalogue, timeline: TimelineId, primed: Primed, from: Lsn) -> Self {
        Self {
            catalogue,
            timeline,
            branch: catalogue.line_of(timeline),
            size: catalogue.layout.segment_size,
            primed,
            pending: VecDeque::new(),
            from,
            index: OpenIndex::default(),
            damages: Vec::new(),
            settled: Vec::new(),
            gone: Vec::new(),
            bytes: 0,
        }
    }

    /// Behind the border that `end` lies before.
    pub(super) fn behind(catalogue: &'a Catalogue, timeline: TimelineId, end: &RunEnd) -> Self {
        let mut pass = Self::new(catalogue, timeline, end.primed.clone(), end.from);
        pass.pending.clone_from(&end.pending);
        pass
    }

    /// What the segments before hold, now.
    pub(super) fn into_settled(mut self) -> Vec<SegmentNumber> {
        self.settle();
        self.settled
    }

    /// Reads a whole segment.
    fn segment(&mut self, number: SegmentNumber, buf: &mut AlignedBuf) {
        let start = number.start(self.size);
        let reader = match self.catalogue.open_segment(self.timeline, number) {
            Ok(Some(reader)) => reader,
            Ok(None) => {
                self.gone.push(number);
                return self.begin_at(number.end(self.size));
            }
            Err(error) => {
                let kind = match error {
                    ArchiveError::OddSize { len, size, .. } => DamageKind::Size { len, size },
                    ArchiveError::Disk(error) => DamageKind::unreadable(&error),
                    error => DamageKind::Unreadable(error.to_string()),
                };
                self.damage(start, kind);
                return self.begin_at(number.end(self.size));
            }
        };
        let before = self.damages.len();
        let mut offset = 0;
        loop {
            let next = match self.feed(&reader, offset, buf) {
                Ok(None) => break,
                Ok(Some(error)) => self.damaged(number, &reader, before, error, buf),
                Err(error) => Err(error),
            };
            match next {
                Ok(Some(next)) => offset = next,
                Ok(None) => break,
                Err(error) => {
                    self.damage(start, DamageKind::unreadable(&error));
                    if error.kind() == disk::ErrorKind::Corrupt
                        && let Some(damage) = self.damages.last_mut()
                    {
                        // A compressed one.
                        damage.path.clone_from(&error.path);
                    }
                    self.begin_at(number.end(self.size));
                    break;
                }
            }
        }
        if self.damages.len() == before {
            self.pending.push_back(number);
        }
        self.settle();
    }

    /// Feeds a segment from a page on; gives what stopped it.
    fn feed(
        &mut self,
        reader: &Reader,
        from: u64,
        buf: &mut AlignedBuf,
    ) -> Result<Option<DecodeError>, DiskError> {
        let mut at = from;
        while at < reader.len() {
            let len = reader.read_at(at, buf)?;
            let Some(read) = buf.get(..len).filter(|read| !read.is_empty()) else { break };
            if at == 0
                && let Some(error) = self.wrong_timeline(reader, read)
            {
                return Ok(Some(error));
            }
            if let Err(error) = self.primed.validator.feed(read, &mut self.primed.index) {
                return Ok(Some(error));
            }
            at += len as u64;
            self.bytes += len as u64;
        }
        Ok(None)
    }

    /// Pages behind the switch to a timeline are of it: an older one's segment under its name would
    /// hold by itself.
    fn wrong_timeline(&self, reader: &Reader, page: &[u8]) -> Option<DecodeError> {
        let at = reader.number().start(self.size);
        let header = PageHeader::read(page).filter(|header| header.address == at)?;
        let begin = self.branch.stretches().last().map_or(Lsn::INVALID, |newest| newest.begin);
        let own = self.timeline.as_u32();
        let kind = DecodeErrorKind::PageTimeline { got: header.timeline, least: own, most: own };
        (at >= begin && begin.is_valid() && header.timeline != own)
            .then_some(DecodeError { at, kind })
    }

    /// Names what stopped the proof, and says from which offset on it goes on; `None` if nothing of
    /// the segment is left.
    fn damaged(
        &mut self,
        number: SegmentNumber,
        reader: &Reader,
        before: usize,
        error: DecodeError,
        buf: &mut AlignedBuf,
    ) -> Result<Option<u64>, DiskError> {
        let block = u64::from(self.catalogue.identity.geometry.block_size);
        let (start, end) = (number.start(self.size), number.end(self.size));
        // Their last record breaks off, or isn't known to be the last.
        self.pending.clear();
        let found = self.damages.len() - before;
        let zeros = error.kind == DecodeErrorKind::UnknownMagic(0)
            && is_zero(reader, error.at.saturating_since(start), buf)?;
        // What follows a damaged record may be a switch's padding.
        if !(zeros && found > 0) {
            let full = found >= MAX_DAMAGES_PER_SEGMENT;
            let kind = if full { DamageKind::More } else { DamageKind::Wal(error.kind) };
            self.damage(error.at, kind);
        }
        let next = error.at.align_down(block).saturating_add(block).max(start);
        if zeros || found >= MAX_DAMAGES_PER_SEGMENT || next >= end {
            self.begin_at(end);
            return Ok(None);
        }
        self.begin_at(next);
        Ok(Some(next.saturating_since(start)))
    }

    fn begin_at(&mut self, at: Lsn) {
        self.primed = self.catalogue.unproved(self.timeline, at);
        self.from = at;
        self.pending.clear();
    }

    /// Reads on until the first record behind the start of `number` has begun, and its header was
    /// looked at: through whole segments, where a record runs through them.
    fn cross(&mut self, number: SegmentNumber, buf: &mut AlignedBuf) -> Result<(), DiskError> {
        let (start, mut number, mut begun) = (number.start(self.size), number, false);
        // What is wrong with one was said when it was read.
        while let Ok(Some(reader)) = self.catalogue.open_segment(self.timeline, number) {
            if self.crossed(&reader, start, &mut begun, buf)? {
                break;
            }
            number = number.next();
        }
        Ok(())
    }

    /// The same in one segment; whether that was all.
    fn crossed(
        &mut self,
        reader: &Reader,
        start: Lsn,
        begun: &mut bool,
        buf: &mut AlignedBuf,
    ) -> Result<bool, DiskError> {
        let block = self.catalogue.identity.geometry.block_size as usize;
        let mut at = 0;
        while at < reader.len() {
            let len = reader.read_at(at, buf)?;
            let Some(read) = buf.get(..len).filter(|read| !read.is_empty()) else { break };
            for page in read.chunks(block) {
                if let Err(error) = self.primed.validator.feed(page, &mut self.primed.index) {
                    self.pending.clear();
                    self.damage(error.at, DamageKind::Wal(error.kind));
                    return Ok(true);
                }
                let validator = &self.primed.validator;
                let last = validator.last_record().max(validator.running_record());
                // One page more: a header may be split over two.
                if *begun || validator.last_record() >= Some(start) {
                    return Ok(true);
                }
                *begun = last >= Some(start);
            }
            at += len as u64;
        }
        Ok(false)
    }

    fn damage(&mut self, at: Lsn, kind: DamageKind) {
        let number = at.segment(self.size);
        let on = self.branch.stretch_of(number, self.size);
        let timeline = on.map_or(self.timeline, |on| on.timeline);
        let path = self.catalogue.layout.segment(timeline, number);
        self.damages.push(Damage { path, timeline, at, kind });
    }

    /// Compares what the index has with the segments all of whose records are known now.
    fn settle(&mut self) {
        let running = self.primed.validator.running_record();
        while let Some(number) = self.pending.front().copied() {
            if running.is_some_and(|running| running < number.end(self.size)) {
                break;
            }
            self.pending.pop_front();
            let told = self.primed.index.settle(number);
            match self.index_differs(number, &told) {
                None => self.settled.push(number),
                Some(damage) => self.damages.push(damage),
            }
        }
    }

    fn index_differs(&mut self, number: SegmentNumber, told: &IndexEntry) -> Option<Damage> {
        // What runs in from before the proof isn't known to start here or there.
        if number.start(self.size) < self.from.segment_start(self.size) {
            return None;
        }
        let path = self.catalogue.layout.index(self.timeline, number).0;
        let entry = self.catalogue.index_entry(&mut self.index, self.timeline, number);
        let kind = match entry {
            Ok(None) => return None,
            Ok(Some(entry)) => {
                let segment = WalFileName::segment(self.timeline, number);
                let segment = segment.display(self.size).to_string();
                DamageKind::IndexDiffers { what: differs(&entry, told)?, segment }
            }
            Err(error) => DamageKind::Unreadable(error.to_string()),
        };
        Some(Damage { path, timeline: self.timeline, at: number.start(self.size), kind })
    }
}

/// What an entry says that isn't so.
fn differs(entry: &IndexEntry, told: &IndexEntry) -> Option<&'static str> {
    // Earlier versions didn't tell them.
    let told = IndexEntry { xids: entry.xids.and(told.xids), ..*told };
    if *entry == told {
        return None;
    }
    let records = (entry.first, entry.last, entry.records);
    Some(if records != (told.first, told.last, told.records) {
        "records"
    } else if (entry.ends, entry.times, entry.xids) != (told.ends, told.times, told.xids) {
        "ends of transactions"
    } else if (entry.checkpoints, entry.checkpoint, entry.redo)
        != (told.checkpoints, told.checkpoint, told.redo)
    {
        "checkpoints"
    } else {
        "restore points"
    })
}

/// Whether a segment is all zeros from an offset on.
fn is_zero(reader: &Reader, from: u64, buf: &mut AlignedBuf) -> Result<bool, DiskError> {
    let mut at = from;
    while at < reader.len() {
        let len = reader.read_at(at, buf)?;
        let Some(read) = buf.get(..len).filter(|read| !read.is_empty()) else { break };
        if read.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += len as u64;
    }
    Ok(true)
}
