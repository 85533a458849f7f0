//! Where recovery would stop: a time or a restore point to the position, by way of the index, so
//! that only the segments are decoded that may have it.

use std::path::PathBuf;

use pg_types::{Branch, Lsn, SegmentNumber, TimelineId};
use wal_format::{Notable, Record, TimestampTz, Visitor};

use crate::index::{ENTRY_LEN, IndexEntry};
use crate::{ArchiveError, Catalogue};

/// What recovery is to stop at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The first commit or abort later than this, which recovery with this `recovery_target_time`
    /// stops before.
    Time(TimestampTz),
    /// The restore point of this name.
    RestorePoint(Vec<u8>),
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
    /// Its time.
    pub time: TimestampTz,
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
    /// Where the search began: the start of the archive, or of what follows its last gap.
    pub searched_from: Lsn,
}

/// Looks at records until it has what was looked for.
struct Seeker<'a> {
    target: &'a Target,
    timeline: TimelineId,
    found: Option<Found>,
    last_time: Option<TimestampTz>,
    /// Where the last record that passed starts.
    seen: Lsn,
}

impl Seeker<'_> {
    fn take(&mut self, record: &Record, time: TimestampTz, what: FoundKind) {
        let (timeline, lsn, end) = (self.timeline, record.lsn, record.end);
        self.found.get_or_insert(Found { timeline, lsn, end, time, what });
    }
}

impl Visitor for Seeker<'_> {
    fn record(&mut self, record: &Record) {
        self.seen = record.lsn;
    }

    fn notable(&mut self, record: &Record, notable: &Notable) {
        let ended = match *notable {
            Notable::Commit { time } => Some((time, FoundKind::Commit)),
            Notable::Abort { time } => Some((time, FoundKind::Abort)),
            _ => None,
        };
        match (self.target, notable, ended) {
            (Target::Time(target), _, Some((time, what))) if time > *target => {
                self.take(record, time, what);
            }
            (Target::RestorePoint(wanted), Notable::RestorePoint { time, name }, _)
                if name.as_bytes() == wanted =>
            {
                self.take(record, *time, FoundKind::RestorePoint);
            }
            _ => {}
        }
        if self.found.is_none()
            && let Some((time, _)) = ended
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
            Self::RestorePoint(_) => entry.restore_points > 0,
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
        let timelines = self.timelines()?;
        let newest = timeline.or(timelines.last().copied()).unwrap_or(TimelineId::FIRST);
        let branch = self.history(newest)?.unwrap_or_else(|| Branch::root(newest));
        let segments = self.stretch_to_the_end(&branch)?;
        let size = self.layout.segment_size;
        let Some((first, _)) = segments.first() else {
            return Err(ArchiveError::NoWalOf { timeline: newest });
        };
        let mut search = Search {
            found: None,
            searched_from: first.start(size),
            searched_to: first.start(size),
            last_time: None,
        };
        let mut place = 0;
        while let Some((number, _)) = segments.get(place) {
            let on = branch.stretch_of(*number, size).map_or(newest, |stretch| stretch.timeline);
            if let Some(entry) = self.index_entry(on, *number)?
                && !target.may_be_in(&entry)
            {
                search.last_time = search.last_time.max(entry.times.map(|(_, greatest)| greatest));
                search.searched_to = number.end(size);
                place += 1;
                continue;
            }
            self.seek(&branch, &segments[place..], target, &mut search)?;
            if search.found.is_some() || search.searched_to < number.end(size) {
                break;
            }
            place += 1;
        }
        Ok(search)
    }

    /// Decodes the first of these segments, and as much of the next as its last record takes.
    fn seek(
        &self,
        branch: &Branch,
        segments: &[(SegmentNumber, PathBuf)],
        target: &Target,
        search: &mut Search,
    ) -> Result<(), ArchiveError> {
        let Some((number, _)) = segments.first() else { return Ok(()) };
        let size = self.layout.segment_size;
        let stretch = branch.stretch_of(*number, size);
        let timeline = stretch.map_or(branch.timeline(), |stretch| stretch.timeline);
        // Under the newest timeline's eyes: a record may run from one to the next.
        let (primed, _) = self.primed(branch, *number)?;
        let mut validator = primed.validator;
        let last_time = search.last_time;
        let mut seeker = Seeker { target, timeline, found: None, last_time, seen: Lsn::INVALID };
        for (_, path) in segments {
            let ended = self.feed_to(path, &mut validator, &mut seeker)?;
            let passed =
                seeker.seen >= number.end(size) || validator.proved().0 == number.end(size);
            if passed || ended.is_some() {
                break;
            }
        }
        search.last_time = seeker.last_time;
        search.searched_to = validator.proved().0.min(number.end(size));
        // One that starts later is found in its own segment.
        search.found = seeker.found.filter(|found| found.lsn < number.end(size));
        Ok(())
    }

    /// The segments of a branch, by number, from behind the last one that is missing.
    fn stretch_to_the_end(
        &self,
        branch: &Branch,
    ) -> Result<Vec<(SegmentNumber, PathBuf)>, ArchiveError> {
        let size = self.layout.segment_size;
        let timelines = self.by_timeline()?;
        let mut segments: Vec<(SegmentNumber, PathBuf)> = Vec::new();
        for stretch in branch.stretches() {
            for (number, sealed) in timelines.get(&stretch.timeline).into_iter().flatten() {
                let of = branch.stretch_of(*number, size);
                if of.is_none_or(|of| of.timeline != stretch.timeline) {
                    continue;
                }
                let path = if *sealed {
                    self.layout.segment(stretch.timeline, *number)
                } else {
                    self.layout.partial(stretch.timeline, *number)
                };
                if segments.last().is_some_and(|(last, _)| last.next() != *number) {
                    segments.clear();
                }
                segments.push((*number, path));
            }
        }
        Ok(segments)
    }

    /// What the index has of a segment.
    fn index_entry(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<Option<IndexEntry>, ArchiveError> {
        let (path, place) = self.layout.index(timeline, number);
        let Some(len) = self.files.len(&path)? else { return Ok(None) };
        let at = usize::try_from(place).unwrap_or(usize::MAX).saturating_mul(ENTRY_LEN);
        let bytes = self.files.read(&path, usize::try_from(len).unwrap_or(0).max(1 << 16))?;
        let entry = bytes.get(at..).and_then(<[u8]>::first_chunk).and_then(IndexEntry::from_bytes);
        Ok(entry.filter(|entry| (entry.timeline, entry.number) == (timeline, number)))
    }
}
