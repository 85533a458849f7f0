//! An archive as anybody may use it beside the one receiver: to look at it, and to
//! [publish](Catalogue::publish) whole files. Nothing that is there is ever changed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use disk::{DiskError, Files};
use pg_types::{Lsn, SegmentNumber, TimelineId, WalFileKind, WalFileName};

use crate::gap::{Gap, gaps};
use crate::open::read_format;
use crate::{ArchiveError, Identity, Layout};

/// See the [module](self).
pub struct Catalogue {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) identity: Identity,
    pub(crate) layout: Layout,
}

/// A range of WAL that the archive hasn't got, with later WAL behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The timeline on which it begins.
    pub timeline: TimelineId,
    /// Where it begins.
    pub from: Lsn,
    /// Where there is WAL again.
    pub to: Lsn,
    /// What is recorded of it; `None` for a hole that nothing explains: somebody removed a file.
    pub gap: Option<Gap>,
}

/// What is archived of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineOverview {
    /// The timeline.
    pub timeline: TimelineId,
    /// The start of its first segment.
    pub from: Lsn,
    /// The end of its last one, which may be written to yet.
    pub to: Lsn,
    /// How many there are, the `.partial` among them.
    pub segments: usize,
    /// The one that it comes from, and where it left that.
    pub parent: Option<(TimelineId, Lsn)>,
    /// Where a newer timeline that is archived left it, if whole segments behind that are here.
    pub lost_from: Option<Lsn>,
}

/// The segments of a timeline by number, and whether each is sealed.
pub(crate) type Segments = BTreeMap<SegmentNumber, bool>;

impl Catalogue {
    /// The archive in this directory.
    ///
    /// # Errors
    /// If there is none, or it can't be read.
    pub fn open(files: Arc<dyn Files>) -> Result<Self, ArchiveError> {
        let format = read_format(&*files)?.ok_or(ArchiveError::NoArchive)?;
        Ok(Self::new(files, format.identity()?))
    }

    pub(crate) fn new(files: Arc<dyn Files>, identity: Identity) -> Self {
        let layout = Layout { segment_size: identity.geometry.segment_size };
        Self { files, identity, layout }
    }

    /// Whose WAL it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where its files are.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The timelines, by number.
    ///
    /// # Errors
    /// If the archive can't be read.
    pub fn overview(&self) -> Result<Vec<TimelineOverview>, ArchiveError> {
        let timelines = self.by_timeline()?;
        let size = self.layout.segment_size;
        let mut stretches = BTreeMap::new();
        let mut parents = BTreeMap::new();
        for timeline in timelines.keys() {
            let Some(history) = self.history(*timeline)? else { continue };
            for stretch in history.stretches() {
                stretches.insert(stretch.timeline, stretch.end);
                if stretch.end == history.stretches().last().map(|newest| newest.begin) {
                    parents.insert(*timeline, (stretch.timeline, stretch.end));
                }
            }
        }
        let overview = timelines.iter().filter_map(|(timeline, segments)| {
            let (first, last) = (segments.first_key_value()?.0, segments.last_key_value()?.0);
            let left = stretches.get(timeline).copied().flatten();
            let to = last.end(size);
            Some(TimelineOverview {
                timeline: *timeline,
                from: first.start(size),
                to,
                segments: segments.len(),
                parent: parents.get(timeline).and_then(|(parent, at)| Some((*parent, (*at)?))),
                lost_from: left.filter(|left| last.start(size) >= *left),
            })
        });
        Ok(overview.collect())
    }

    /// What is missing, by timeline and position: recorded gaps that nothing has filled since, and
    /// holes between segments.
    ///
    /// # Errors
    /// If the archive can't be read.
    pub fn missing(&self) -> Result<Vec<Missing>, ArchiveError> {
        let timelines = self.by_timeline()?;
        let size = self.layout.segment_size;
        let mut missing = Vec::new();
        for gap in gaps(&*self.files)? {
            let among = timelines.range(gap.timeline..=gap.to_timeline);
            let segments: Vec<&Segments> = among.map(|(_, segments)| segments).collect();
            let sealed = |number: &SegmentNumber| {
                segments.iter().any(|segments| segments.get(number) == Some(&true))
            };
            let end = gap.to.segment(size);
            let mut number = gap.from.segment(size);
            while number < end && sealed(&number) {
                number = number.next();
            }
            if number < end {
                let (timeline, from) = (gap.timeline, gap.from.max(number.start(size)));
                missing.push(Missing { timeline, from, to: gap.to, gap: Some(gap) });
            }
        }
        let recorded = missing.clone();
        for (timeline, segments) in &timelines {
            let numbers: Vec<SegmentNumber> = segments.keys().copied().collect();
            for pair in numbers.windows(2) {
                let [before, after] = pair else { continue };
                let (from, to) = (before.end(size), after.start(size));
                let known = |gap: &Missing| gap.from <= from && to <= gap.to;
                if from < to && !recorded.iter().any(known) {
                    missing.push(Missing { timeline: *timeline, from, to, gap: None });
                }
            }
        }
        missing.sort_by_key(|missing| (missing.timeline, missing.from));
        Ok(missing)
    }

    pub(crate) fn by_timeline(&self) -> Result<BTreeMap<TimelineId, Segments>, ArchiveError> {
        let mut timelines: BTreeMap<TimelineId, Segments> = BTreeMap::new();
        for name in self.segments()? {
            let WalFileName::Segment { timeline, number, kind } = name else { continue };
            let sealed = kind == WalFileKind::Segment;
            *timelines.entry(timeline).or_default().entry(number).or_default() |= sealed;
        }
        Ok(timelines)
    }

    /// The segments of a timeline that are there, whole or partial, ordered by number.
    pub(crate) fn segments_of(&self, timeline: TimelineId) -> Result<Vec<WalFileName>, DiskError> {
        let mut segments = self.segments()?;
        segments.retain(
            |name| matches!(name, WalFileName::Segment { timeline: of, .. } if *of == timeline),
        );
        Ok(segments)
    }

    /// All segments, ordered by timeline and number: as names are.
    pub(crate) fn segments(&self) -> Result<Vec<WalFileName>, DiskError> {
        let names = self.files.names(Path::new(Layout::WAL))?;
        let parsed = names.iter().filter_map(|name| {
            let name = WalFileName::parse(name, self.layout.segment_size)?;
            let kind = match name {
                WalFileName::Segment { kind, .. } => kind,
                WalFileName::TimelineHistory(_) => return None,
            };
            matches!(kind, WalFileKind::Segment | WalFileKind::Partial).then_some(name)
        });
        Ok(parsed.collect())
    }
}
