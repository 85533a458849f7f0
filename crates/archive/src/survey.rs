//! Which segments are there: what one look at `wal/` came to.
//!
//! What was [given up](crate::Expired) isn't there, whether its files are or not.
//!
//! An archive may have a million segments, and a receiver sixteen megabytes: a segment takes three
//! bits here, and the directory is read once for all the questions of a start.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::ops::Range;
use std::path::Path;

use disk::DiskError;
use pg_types::{SegmentNumber, TimelineId, WalFileKind, WalFileName};

use crate::expiry::{Bounds, expired};
use crate::packed::parse_name;
use crate::{Catalogue, Layout};

/// The segments of an archive, by timeline and number, as they were when they were looked at.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    timelines: BTreeMap<TimelineId, Segments>,
    /// The timelines whose history is there.
    pub(crate) histories: BTreeSet<TimelineId>,
    /// Temporaries that a process left, or is using. A receiver leaves a few at most.
    pub(crate) temporaries: Vec<String>,
    /// Up to where each timeline was given up.
    bounds: Bounds,
    /// What is there of that.
    leftovers: BTreeMap<TimelineId, Segments>,
    /// Names that don't belong there.
    strangers: Vec<String>,
}

/// So many names of strangers are kept: somebody who put more there knows.
const MAX_STRANGERS: usize = 100;

/// In which form a segment is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Under its final name, compressed or not.
    Sealed,
    /// As a `.partial`.
    Partial,
    /// As both: a crash leaves that.
    Both,
}

impl Form {
    /// Whether it is there under its final name.
    #[must_use]
    pub fn is_sealed(self) -> bool {
        self != Self::Partial
    }

    /// The files that there are, the sealed one first.
    pub(crate) fn kinds(self) -> &'static [WalFileKind] {
        match self {
            Self::Sealed => &[WalFileKind::Segment],
            Self::Partial => &[WalFileKind::Partial],
            Self::Both => &[WalFileKind::Segment, WalFileKind::Partial],
        }
    }
}

/// The segments of a timeline.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    /// By number, 64 of them in each.
    chunks: BTreeMap<u64, Chunk>,
}

/// A bit for each of 64 segments.
#[derive(Clone, Copy, Debug, Default)]
struct Chunk {
    plain: u64,
    packed: u64,
    partial: u64,
}

impl Chunk {
    fn sealed(self) -> u64 {
        self.plain | self.packed
    }

    fn form(self, bit: u64) -> Option<Form> {
        match (self.sealed() >> bit & 1 == 1, self.partial >> bit & 1 == 1) {
            (true, true) => Some(Form::Both),
            (true, false) => Some(Form::Sealed),
            (false, true) => Some(Form::Partial),
            (false, false) => None,
        }
    }
}

impl Chunk {
    /// The numbers without a hole, where the chunk's first one is `base`.
    fn runs(self, base: u64) -> impl Iterator<Item = Range<u64>> {
        let mut bits = self.sealed() | self.partial;
        iter::from_fn(move || {
            (bits != 0).then(|| {
                let start = bits.trailing_zeros();
                let end = start + (bits >> start).trailing_ones();
                // All below `end`; of 64 there is no shift.
                bits &= u64::MAX.checked_shl(end).unwrap_or(0);
                base + u64::from(start)..base + u64::from(end)
            })
        })
    }
}

const CHUNK: u64 = u64::BITS as u64;

impl Segments {
    fn insert(&mut self, number: SegmentNumber, kind: WalFileKind, packed: bool) {
        let number = number.as_u64();
        let bit = 1 << (number % CHUNK);
        let chunk = self.chunks.entry(number / CHUNK).or_default();
        match kind {
            WalFileKind::Segment if packed => chunk.packed |= bit,
            WalFileKind::Segment => chunk.plain |= bit,
            WalFileKind::Partial => chunk.partial |= bit,
            WalFileKind::BackupHistory { .. } => {}
        }
    }

    /// In which form a segment is there, if it is.
    #[must_use]
    pub fn form(&self, number: SegmentNumber) -> Option<Form> {
        let number = number.as_u64();
        self.chunks.get(&(number / CHUNK))?.form(number % CHUNK)
    }

    /// Those from one number up to before another, by number.
    pub fn range(
        &self,
        range: Range<SegmentNumber>,
    ) -> impl DoubleEndedIterator<Item = (SegmentNumber, Form)> {
        let chunks = range.start.as_u64() / CHUNK..=range.end.as_u64() / CHUNK;
        let within = self.chunks.range(chunks).flat_map(|(at, chunk)| {
            (0..CHUNK).filter_map(move |bit| {
                Some((SegmentNumber::new(at * CHUNK + bit), chunk.form(bit)?))
            })
        });
        within.filter(move |(number, _)| range.contains(number))
    }

    /// All of them, by number.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (SegmentNumber, Form)> {
        self.range(SegmentNumber::new(0)..SegmentNumber::new(u64::MAX))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        let segments = self.chunks.values().map(|chunk| chunk.sealed() | chunk.partial);
        segments.map(|bits| bits.count_ones() as usize).sum()
    }

    /// Whether a segment is there as a compressed file.
    #[must_use]
    pub fn is_packed(&self, number: SegmentNumber) -> bool {
        let number = number.as_u64();
        let chunk = self.chunks.get(&(number / CHUNK));
        chunk.is_some_and(|chunk| chunk.packed >> (number % CHUNK) & 1 == 1)
    }

    /// Those that are there under their final names as plain files, by number.
    pub fn plain(&self) -> impl Iterator<Item = SegmentNumber> {
        self.chunks.iter().flat_map(|(at, chunk)| {
            let bits = (0..CHUNK).filter(|bit| chunk.plain >> bit & 1 == 1);
            bits.map(move |bit| SegmentNumber::new(at * CHUNK + bit))
        })
    }

    /// How many there are from one number up to before another.
    #[must_use]
    pub fn count_within(&self, range: Range<SegmentNumber>) -> u64 {
        let (start, end) = (range.start.as_u64(), range.end.as_u64());
        let within = self.pieces().map(|piece| {
            let piece = piece.start.as_u64().max(start)..piece.end.as_u64().min(end);
            piece.end.saturating_sub(piece.start)
        });
        within.sum()
    }

    /// The pieces without a hole, by number.
    pub fn pieces(&self) -> impl Iterator<Item = Range<SegmentNumber>> {
        let mut runs = self.chunks.iter().flat_map(|(at, chunk)| chunk.runs(at * CHUNK)).peekable();
        iter::from_fn(move || {
            let Range { start, mut end } = runs.next()?;
            while let Some(next) = runs.next_if(|next| next.start == end) {
                end = next.end;
            }
            Some(SegmentNumber::new(start)..SegmentNumber::new(end))
        })
    }
}

impl Survey {
    /// The segments of a timeline; none where it has none.
    #[must_use]
    pub fn of(&self, timeline: TimelineId) -> &Segments {
        static NONE: Segments = Segments { chunks: BTreeMap::new() };
        self.timelines.get(&timeline).unwrap_or(&NONE)
    }

    /// The timelines that have segments, by number, and these.
    pub fn timelines(&self) -> impl DoubleEndedIterator<Item = (TimelineId, &Segments)> {
        self.timelines.iter().map(|(timeline, segments)| (*timeline, segments))
    }

    /// Whether a timeline has any.
    #[must_use]
    pub fn has(&self, timeline: TimelineId) -> bool {
        self.timelines.contains_key(&timeline)
    }

    /// Whether a segment was given up, be it there or not.
    #[must_use]
    pub fn is_expired(&self, timeline: TimelineId, number: SegmentNumber) -> bool {
        self.bounds.get(&timeline).is_some_and(|first| number < *first)
    }

    /// Segments that were given up, and are there still: a process that expired them was killed.
    pub fn leftovers(&self) -> impl Iterator<Item = (TimelineId, &Segments)> {
        self.leftovers.iter().map(|(timeline, segments)| (*timeline, segments))
    }

    /// Some of the names that don't belong there.
    #[must_use]
    pub fn strangers(&self) -> &[String] {
        &self.strangers
    }

    fn add(&mut self, name: &str, layout: Layout) {
        match parse_name(name, layout.segment_size) {
            Some((WalFileName::Segment { timeline, number, kind }, method))
                if matches!(kind, WalFileKind::Segment | WalFileKind::Partial) =>
            {
                let expired = self.is_expired(timeline, number);
                let to = if expired { &mut self.leftovers } else { &mut self.timelines };
                to.entry(timeline).or_default().insert(number, kind, method.is_some());
            }
            Some((WalFileName::TimelineHistory(timeline), _)) => {
                self.histories.insert(timeline);
            }
            None if Layout::is_temporary(name) => self.temporaries.push(name.to_owned()),
            None if self.strangers.len() < MAX_STRANGERS => self.strangers.push(name.to_owned()),
            _ => {}
        }
    }
}

impl Catalogue {
    /// Looks at which segments are there, but for those that were [given up](crate::Expired).
    ///
    /// # Errors
    /// If the disk fails.
    pub fn survey(&self) -> Result<Survey, DiskError> {
        let bounds = expired(&*self.files)?.into_iter();
        let size = self.layout.segment_size;
        let bounds = bounds.map(|expired| (expired.timeline, expired.before.segment(size)));
        let mut survey = Survey { bounds: bounds.collect(), ..Survey::default() };
        self.files.visit(Path::new(Layout::WAL), &mut |name| survey.add(name, self.layout))?;
        self.look_into_holes(&mut survey)?;
        Ok(survey)
    }

    /// A file that gets another name while the directory is read may be seen under neither: a segment
    /// that is compressed, or sealed, just then. So what seems to be missing is looked for by name, from
    /// both ends of each hole, and behind the last segment.
    fn look_into_holes(&self, survey: &mut Survey) -> Result<(), DiskError> {
        let timelines: Vec<TimelineId> = survey.timelines.keys().copied().collect();
        for timeline in timelines {
            let pieces: Vec<_> = survey.of(timeline).pieces().collect();
            let starts = pieces.iter().skip(1).map(|piece| piece.start);
            let starts: Vec<_> = starts.chain([SegmentNumber::new(u64::MAX)]).collect();
            for (piece, next) in pieces.iter().zip(starts) {
                let mut number = piece.end;
                while number < next && self.look_for(survey, timeline, number)? {
                    number = number.next();
                }
                let mut behind = next;
                while let Some(number) =
                    behind.previous().filter(|before| next.as_u64() < u64::MAX && *before > number)
                    && self.look_for(survey, timeline, number)?
                {
                    behind = number;
                }
            }
        }
        Ok(())
    }

    /// Adds a segment if it is there, under whichever name.
    fn look_for(
        &self,
        survey: &mut Survey,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<bool, DiskError> {
        if survey.is_expired(timeline, number) {
            return Ok(false);
        }
        // In the order in which they come to be: what becomes another is there as that.
        let (sealed, partial) =
            (self.layout.segment(timeline, number), self.layout.partial(timeline, number));
        let found = if self.files.len(&partial)?.is_some() {
            Some((WalFileKind::Partial, false))
        } else if self.files.len(&sealed)?.is_some() {
            Some((WalFileKind::Segment, false))
        } else {
            self.packed_of(&sealed)?.map(|_| (WalFileKind::Segment, true))
        };
        if let Some((kind, packed)) = found {
            survey.timelines.entry(timeline).or_default().insert(number, kind, packed);
        }
        Ok(found.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use disk::Files;
    use disk::sim::SimDisk;
    use pg_types::{Geometry, SegmentSize, SystemId};

    use super::*;
    use crate::{Archive, Identity};

    #[test]
    fn what_was_renamed_while_the_directory_was_read_is_there_all_the_same() {
        let files: Arc<dyn Files> = Arc::new(SimDisk::new(1));
        let geometry = Geometry::new(SegmentSize::MIN);
        let identity = Identity { system_id: SystemId(7), server_major: 18, geometry };
        drop(Archive::claim(Arc::clone(&files), "test").unwrap().open(&identity, &[0; 16]));
        let catalogue = Catalogue::open(Arc::clone(&files)).unwrap();
        let (on, number) = (TimelineId::FIRST, SegmentNumber::new);
        let make = |path: &Path| files.write_new(path, b"x").unwrap();
        for sealed in [1, 2, 3, 4, 8, 9] {
            make(&catalogue.layout.segment(on, number(sealed)));
        }
        make(&catalogue.layout.packed(on, number(7), compression::Method::Zstd));
        make(&catalogue.layout.partial(on, number(10)));
        // As if it had been read while 2, 3, 7 and 10 got their names.
        let mut survey = Survey::default();
        for seen in [1, 4, 8, 9] {
            let name = catalogue.layout.segment(on, number(seen));
            survey.add(name.file_name().unwrap().to_str().unwrap(), catalogue.layout);
        }
        catalogue.look_into_holes(&mut survey).unwrap();
        let pieces: Vec<_> = survey.of(on).pieces().collect();
        assert_eq!(pieces, [number(1)..number(5), number(7)..number(11)]);
        assert!(survey.of(on).is_packed(number(7)));
        assert_eq!(survey.of(on).form(number(10)), Some(Form::Partial));
    }

    fn segments(names: &[(u64, WalFileKind)]) -> Segments {
        let mut segments = Segments::default();
        for (number, kind) in names {
            segments.insert(SegmentNumber::new(*number), *kind, false);
        }
        segments
    }

    #[test]
    fn segments_come_by_number_in_their_forms() {
        use WalFileKind::{Partial, Segment};
        let segments = segments(&[(200, Segment), (63, Segment), (64, Partial), (63, Partial)]);
        let all: Vec<_> = segments.iter().map(|(number, form)| (number.as_u64(), form)).collect();
        assert_eq!(all, [(63, Form::Both), (64, Form::Partial), (200, Form::Sealed)]);
        assert_eq!(segments.count(), 3);
        assert_eq!(segments.form(SegmentNumber::new(65)), None);
        let some = segments.range(SegmentNumber::new(64)..SegmentNumber::new(200));
        assert_eq!(some.map(|(number, _)| number.as_u64()).collect::<Vec<_>>(), [64]);
    }

    #[test]
    fn pieces_end_at_holes() {
        let names = [1, 2, 63, 64, 65, 4096].map(|number| (number, WalFileKind::Segment));
        let pieces: Vec<_> = segments(&names)
            .pieces()
            .map(|piece| (piece.start.as_u64(), piece.end.as_u64()))
            .collect();
        assert_eq!(pieces, [(1, 3), (63, 66), (4096, 4097)]);
    }
}
