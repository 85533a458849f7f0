//! Where recovery would stop: a time or a restore point to the position, by way of the index, so
//! that only the segments are decoded that may have it.

use std::ops::Range;
use std::path::PathBuf;

use disk::ErrorKind;
use pg_types::{Branch, Lsn, SegmentNumber, SegmentSize, TimelineId, WalFileKind};
use wal_format::{Notable, Record, TimestampTz, Visitor};

use crate::index::{ENTRIES_PER_FILE, ENTRY_LEN, IndexEntry};
use crate::survey::{Form, Survey};
use crate::{ArchiveError, Catalogue};

/// What recovery is to stop at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The first commit or abort later than this, which recovery with this `recovery_target_time`
    /// stops before.
    Time(TimestampTz),
    /// The commit or abort of this transaction, which recovery with this `recovery_target_xid`
    /// stops behind, or before if the target isn't inclusive.
    Xid(u32),
    /// The restore point of this name.
    RestorePoint(Vec<u8>),
    /// The first record that starts here or behind, which recovery with this `recovery_target_lsn`
    /// stops behind, or before if the target isn't inclusive.
    Position(Lsn),
}

/// A record that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The timeline that has it.
    pub timeline: TimelineId,
    /// Where it starts.
    pub lsn: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// Its time; none of a record that is only a position.
    pub time: Option<TimestampTz>,
    /// What it is.
    pub what: FoundKind,
}

/// What a record that was looked for is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundKind {
    /// A commit.
    Commit,
    /// An abort.
    Abort,
    /// A restore point.
    RestorePoint,
    /// Any record.
    Record,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// The record.
    pub found: Option<Found>,
    /// The end of what was searched: what is proved, in one piece with what comes before.
    pub searched_to: Lsn,
    /// The last commit or abort before it, as far as segments were decoded or the index tells.
    pub last_time: Option<TimestampTz>,
    /// Ends of prepared transactions that may be the target's and have so many subtransactions,
    /// files or messages that their xid wasn't told.
    pub untold: u64,
    /// Where the last record that was passed starts, as far as segments were decoded or the index
    /// tells.
    pub last_record: Lsn,
    /// Where the search began: the start of the archive, or of what follows its last gap.
    pub searched_from: Lsn,
}

/// Where commits and aborts begin to be as late as was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lateness {
    /// The first segment that may have one: the index says so, or says nothing of it.
    pub from: SegmentNumber,
    /// The last one before it that has commits or aborts at all.
    pub before: Option<SegmentNumber>,
}

/// Looks at records until it has what was looked for.
struct Seeker<'a> {
    target: &'a Target,
    timeline: TimelineId,
    found: Option<Found>,
    last_time: Option<TimestampTz>,
    /// Ends of prepared transactions whose xid can't be told.
    untold: u64,
    /// Where the last record that passed starts.
    seen: Lsn,
    /// Only records that start in it count.
    within: Range<Lsn>,
}

impl Seeker<'_> {
    fn take(&mut self, record: &Record, time: Option<TimestampTz>, what: FoundKind) {
        let (timeline, lsn, end) = (self.timeline, record.lsn, record.end);
        self.found.get_or_insert(Found { timeline, lsn, end, time, what });
    }
}

impl Visitor for Seeker<'_> {
    fn record(&mut self, record: &Record) {
        self.seen = record.lsn;
        if let Target::Position(at) = *self.target
            && record.lsn >= at
            && self.within.contains(&record.lsn)
        {
            self.take(record, None, FoundKind::Record);
        }
    }

    fn notable(&mut self, record: &Record, notable: &Notable) {
        if !self.within.contains(&record.lsn) {
            return;
        }
        let ended = match *notable {
            Notable::Commit { time, xid } => Some((time, xid, FoundKind::Commit)),
            Notable::Abort { time, xid } => Some((time, xid, FoundKind::Abort)),
            _ => None,
        };
        match (self.target, notable, ended) {
            (Target::Time(target), _, Some((time, _, what))) if time > *target => {
                self.take(record, Some(time), what);
            }
            (Target::Xid(target), _, Some((time, Some(xid), what))) if xid == *target => {
                self.take(record, Some(time), what);
            }
            (Target::Xid(_), _, Some((_, None, _))) => self.untold += 1,
            (Target::RestorePoint(wanted), Notable::RestorePoint { time, name }, _)
                if name.as_bytes() == wanted =>
            {
                self.take(record, Some(*time), FoundKind::RestorePoint);
            }
            _ => {}
        }
        if self.found.is_none()
            && let Some((time, ..)) = ended
        {
            self.last_time = self.last_time.max(Some(time));
        }
    }
}

impl Target {
    /// Whether a settled segment may have it.
    fn may_be_in(&self, entry: &IndexEntry) -> bool {
        match self {
            Self::Time(target) => entry.times.is_some_and(|(_, greatest)| greatest > *target),
            Self::Xid(target) => {
                let may_be = |(least, greatest): (u32, u32)| (least..=greatest).contains(target);
                entry.ends > 0 && entry.xids.is_none_or(may_be)
            }
            Self::RestorePoint(_) => entry.restore_points > 0,
            Self::Position(at) => entry.last >= *at,
        }
    }
}

impl Catalogue {
    /// The first record on a timeline, and those that it comes from, that is the target; the
    /// newest archived timeline if none is said.
    ///
    /// # Errors
    /// If there is no such timeline, or the archive can't be read.
    pub fn find(
        &self,
        timeline: Option<TimelineId>,
        target: &Target,
    ) -> Result<Search, ArchiveError> {
        let survey = self.survey()?;
        let newest = timeline.or(survey.timelines().next_back().map(|(timeline, _)| timeline));
        let newest = newest.unwrap_or(TimelineId::FIRST);
        let branch = self.history(newest)?.unwrap_or_else(|| Branch::root(newest));
        let size = self.layout.segment_size;
        let Some(piece) = pieces(&branch, &survey, size).pop() else {
            return Err(ArchiveError::NoWalOf { timeline: newest });
        };
        self.search(&branch, &survey, piece, Lsn::INVALID..Lsn::MAX, target)
    }

    /// The first record on a branch that is the target and starts within this range, as far as the
    /// WAL behind the range's start is in one piece.
    ///
    /// # Errors
    /// If the range's start isn't archived, or the archive can't be read.
    pub fn find_within(
        &self,
        branch: &Branch,
        survey: &Survey,
        within: Range<Lsn>,
        target: &Target,
    ) -> Result<Search, ArchiveError> {
        let piece = piece_within(branch, survey, self.layout.segment_size, &within)?;
        self.search(branch, survey, piece, within, target)
    }

    /// The start of what is archived of a branch in one piece with this position.
    #[must_use]
    pub fn archived_from(&self, branch: &Branch, survey: &Survey, at: Lsn) -> Option<Lsn> {
        let size = self.layout.segment_size;
        let mut pieces = pieces(branch, survey, size).into_iter();
        let piece = pieces.find(|piece| piece.contains(&at.segment(size)))?;
        Some(piece.start.start(size))
    }

    /// The end of what is proved on a branch from `from` on, decoded whatever the index says, up to
    /// `to` or the end of its segment.
    ///
    /// # Errors
    /// If `from` isn't archived, or the archive can't be read.
    pub fn proved_from(
        &self,
        branch: &Branch,
        survey: &Survey,
        from: Lsn,
        to: Lsn,
    ) -> Result<Lsn, ArchiveError> {
        let size = self.layout.segment_size;
        let (mut primed, _) = self.primed(branch, from.segment(size))?;
        let piece = piece_within(branch, survey, size, &(from..to))?;
        let mut number = piece.start;
        while number < piece.end {
            let path = self.path_on(branch, survey, number);
            if self.feed(&path, &mut primed)?.is_some() {
                break;
            }
            number = number.next();
        }
        Ok(primed.proved())
    }

    fn search(
        &self,
        branch: &Branch,
        survey: &Survey,
        piece: Range<SegmentNumber>,
        within: Range<Lsn>,
        target: &Target,
    ) -> Result<Search, ArchiveError> {
        let size = self.layout.segment_size;
        let mut search = Search {
            found: None,
            searched_from: piece.start.start(size),
            searched_to: piece.start.start(size),
            last_time: None,
            untold: 0,
            last_record: Lsn::INVALID,
        };
        let (mut number, mut index) = (piece.start, OpenIndex::default());
        while number < piece.end {
            let on = branch
                .stretch_of(number, size)
                .map_or(branch.timeline(), |stretch| stretch.timeline);
            let whole = within.start <= number.start(size) && number.end(size) <= within.end;
            if whole
                && let Some(entry) = self.index_entry(&mut index, on, number)?
                && !target.may_be_in(&entry)
            {
                search.last_time = search.last_time.max(entry.times.map(|(_, greatest)| greatest));
                search.last_record = search.last_record.max(entry.last);
                search.searched_to = number.end(size);
            } else {
                let segments = number..piece.end;
                self.seek(branch, survey, segments, &within, target, &mut search)?;
                if search.found.is_some() || search.searched_to < number.end(size) {
                    break;
                }
            }
            number = number.next();
        }
        Ok(search)
    }

    /// Decodes the first of these segments, and as much of the next as its last record takes.
    fn seek(
        &self,
        branch: &Branch,
        survey: &Survey,
        segments: Range<SegmentNumber>,
        within: &Range<Lsn>,
        target: &Target,
        search: &mut Search,
    ) -> Result<(), ArchiveError> {
        let (number, size) = (segments.start, self.layout.segment_size);
        let stretch = branch.stretch_of(number, size);
        let timeline = stretch.map_or(branch.timeline(), |stretch| stretch.timeline);
        // Under the newest timeline's eyes: a record may run from one to the next.
        let (primed, _) = self.primed(branch, number)?;
        let mut validator = primed.validator;
        let (last_time, untold, seen) = (search.last_time, search.untold, Lsn::INVALID);
        let within = within.clone();
        let mut seeker = Seeker { target, timeline, found: None, last_time, untold, seen, within };
        let mut next = number;
        while next < segments.end {
            let ended =
                self.feed_to(&self.path_on(branch, survey, next), &mut validator, &mut seeker)?;
            next = next.next();
            let passed =
                seeker.seen >= number.end(size) || validator.proved().0 == number.end(size);
            if passed || ended.is_some() {
                break;
            }
        }
        (search.last_time, search.untold) = (seeker.last_time, seeker.untold);
        search.last_record = search.last_record.max(seeker.seen);
        search.searched_to = validator.proved().0.min(number.end(size));
        // One that starts later is found in its own segment.
        search.found = seeker.found.filter(|found| found.lsn < number.end(size));
        Ok(())
    }

    /// From which segment on a commit or abort may be late enough, by the index alone: no segment
    /// is read. `first` is where to begin; `is_late` is asked of times.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn lateness(
        &self,
        branch: &Branch,
        first: SegmentNumber,
        is_late: &dyn Fn(TimestampTz) -> bool,
    ) -> Result<Lateness, ArchiveError> {
        let size = self.layout.segment_size;
        let mut late = Lateness { from: first, before: None };
        let mut index = OpenIndex::default();
        loop {
            let stretch = branch.stretch_of(late.from, size);
            let on = stretch.map_or(branch.timeline(), |stretch| stretch.timeline);
            let Some(entry) = self.index_entry(&mut index, on, late.from)? else { return Ok(late) };
            if entry.times.is_some_and(|(_, greatest)| is_late(greatest)) {
                return Ok(late);
            }
            if entry.ends > 0 {
                late.before = Some(late.from);
            }
            late.from = late.from.next();
        }
    }

    /// Where a branch's segment is that is there.
    fn path_on(&self, branch: &Branch, survey: &Survey, number: SegmentNumber) -> PathBuf {
        let stretch = branch.stretch_of(number, self.layout.segment_size);
        let timeline = stretch.map_or(branch.timeline(), |stretch| stretch.timeline);
        let form = survey.of(timeline).form(number);
        let sealed = form.is_some_and(Form::is_sealed);
        let kind = if sealed { WalFileKind::Segment } else { WalFileKind::Partial };
        self.path(timeline, number, kind)
    }

    /// What the index has of a segment.
    pub(crate) fn index_entry(
        &self,
        open: &mut OpenIndex,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<Option<IndexEntry>, ArchiveError> {
        let place = number.as_u64() % ENTRIES_PER_FILE;
        let of = Some((timeline, number.as_u64() - place));
        if open.of != of {
            let (path, _) = self.layout.index(timeline, number);
            open.entries = match self.files.read(&path, MAX_INDEX_BYTES) {
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                entries => entries?,
            };
            open.of = of;
        }
        let at = usize::try_from(place).unwrap_or(usize::MAX).saturating_mul(ENTRY_LEN);
        let entry = open.entries.get(at..).and_then(<[u8]>::first_chunk);
        let entry = entry.and_then(IndexEntry::from_bytes);
        Ok(entry.filter(|entry| (entry.timeline, entry.number) == (timeline, number)))
    }
}

/// The index file that was read last: the entries that are looked at lie side by side.
#[derive(Default)]
pub(crate) struct OpenIndex {
    /// Its timeline and first segment.
    of: Option<(TimelineId, u64)>,
    entries: Vec<u8>,
}

/// An index file has 32 KiB, and may have been allocated a block more.
pub(crate) const MAX_INDEX_BYTES: usize = 64 << 10;

/// The segments of a branch, in pieces without a hole.
fn pieces(branch: &Branch, survey: &Survey, size: SegmentSize) -> Vec<Range<SegmentNumber>> {
    let mut pieces: Vec<Range<SegmentNumber>> = Vec::new();
    for stretch in branch.stretches() {
        let begin = stretch.begin.segment(size);
        // The segment with a switch in it is the newer timeline's.
        let end = stretch.end.map_or(SegmentNumber::new(u64::MAX), |end| end.segment(size));
        for piece in survey.of(stretch.timeline).pieces() {
            let piece = piece.start.max(begin)..piece.end.min(end);
            match pieces.last_mut() {
                _ if piece.is_empty() => {}
                Some(last) if last.end == piece.start => last.end = piece.end,
                _ => pieces.push(piece),
            }
        }
    }
    pieces
}

/// The segments of a range of a branch, up to the first that is missing.
fn piece_within(
    branch: &Branch,
    survey: &Survey,
    size: SegmentSize,
    range: &Range<Lsn>,
) -> Result<Range<SegmentNumber>, ArchiveError> {
    let start = range.start.segment(size);
    let end = range.end.saturating_add(size.bytes() - 1).segment(size).max(start.next());
    let piece = pieces(branch, survey, size).into_iter().find(|piece| piece.contains(&start));
    let none = ArchiveError::NoWalAt { timeline: branch.timeline(), at: range.start };
    piece.map(|piece| start..piece.end.min(end)).ok_or(none)
}
