//! An archive as anybody may use it beside the one receiver: to look at it, and to
//! [publish](Catalogue::publish) whole files. Nothing that is there is ever changed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use disk::Files;
use pg_types::{Branch, Lsn, SegmentNumber, SegmentSize, TimelineId, WalFileKind};

use crate::gap::{Gap, gaps};
use crate::open::read_format;
use crate::survey::{Form, Segments, Survey};
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

impl Missing {
    /// Whether it is what ends recovery on this line of history, which gets up to `end`: to the
    /// segment's end, or to where a record begins that goes beyond it.
    #[must_use]
    pub fn ends(&self, branch: &Branch, end: Lsn, size: SegmentSize) -> bool {
        let on = branch.stretches().iter().any(|on| on.timeline == self.timeline);
        on && end < self.to && self.from.segment(size) <= end.segment(size).next()
    }
}

/// What is archived of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineOverview {
    /// The timeline.
    pub timeline: TimelineId,
    /// The start of its first segment.
    pub from: Lsn,
    /// The end of what is proved; its last segment may be written to yet.
    pub to: Lsn,
    /// How many there are, the `.partial` among them.
    pub segments: usize,
    /// The one that it comes from, and where it left that.
    pub parent: Option<(TimelineId, Lsn)>,
    /// Where a newer timeline that is archived left it, if more of it is proved here.
    pub lost_from: Option<Lsn>,
}

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

    pub(crate) fn path(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
        kind: WalFileKind,
    ) -> PathBuf {
        match kind {
            WalFileKind::Partial => self.layout.partial(timeline, number),
            _ => self.layout.segment(timeline, number),
        }
    }

    /// The timelines, by number.
    ///
    /// # Errors
    /// If the archive can't be read.
    pub fn overview(&self, survey: &Survey) -> Result<Vec<TimelineOverview>, ArchiveError> {
        let size = self.layout.segment_size;
        // Where each timeline was left last, by one that is archived.
        let mut left_at: BTreeMap<TimelineId, Lsn> = BTreeMap::new();
        let mut parents = BTreeMap::new();
        for (timeline, _) in survey.timelines() {
            let Some(history) = self.history(timeline)? else { continue };
            for stretch in history.stretches() {
                let Some(end) = stretch.end else { continue };
                let left = left_at.entry(stretch.timeline).or_insert(end);
                *left = end.max(*left);
                if history.stretches().last().is_some_and(|newest| newest.begin == end) {
                    parents.insert(timeline, (stretch.timeline, end));
                }
            }
        }
        let mut overview = Vec::new();
        for (timeline, segments) in survey.timelines() {
            let (Some((first, _)), Some(last)) =
                (segments.iter().next(), segments.iter().next_back())
            else {
                continue;
            };
            let to = self.end_of(timeline, last)?;
            let left = left_at.get(&timeline).copied();
            overview.push(TimelineOverview {
                timeline,
                from: first.start(size),
                to,
                segments: segments.count(),
                parent: parents.get(&timeline).copied(),
                lost_from: left.filter(|left| to > *left),
            });
        }
        Ok(overview)
    }

    /// The end of what is proved in the last segment of a timeline; of one that isn't whole that
    /// takes decoding it.
    fn end_of(
        &self,
        timeline: TimelineId,
        (number, form): (SegmentNumber, Form),
    ) -> Result<Lsn, ArchiveError> {
        if form.is_sealed() {
            return Ok(number.end(self.layout.segment_size));
        }
        let branch = self.history(timeline)?.unwrap_or_else(|| Branch::root(timeline));
        let (mut primed, _) = self.primed(&branch, number)?;
        // It ends where it isn't WAL any more.
        _ = self.feed(&self.layout.partial(timeline, number), &mut primed)?;
        Ok(primed.proved())
    }

    /// What is missing, by timeline and position: recorded gaps that nothing has filled since, and
    /// holes between segments.
    ///
    /// # Errors
    /// If the archive can't be read.
    pub fn missing(&self, survey: &Survey) -> Result<Vec<Missing>, ArchiveError> {
        let size = self.layout.segment_size;
        let mut missing = Vec::new();
        for gap in gaps(&*self.files)? {
            let among =
                |timeline: TimelineId| timeline >= gap.timeline && timeline <= gap.to_timeline;
            let segments: Vec<&Segments> = survey
                .timelines()
                .filter_map(|(timeline, segments)| among(timeline).then_some(segments))
                .collect();
            let sealed = |number: SegmentNumber| {
                segments.iter().any(|of| of.form(number).is_some_and(Form::is_sealed))
            };
            let end = gap.to.segment(size);
            // The archive begins behind it now.
            if end.previous().is_some_and(|last| survey.is_expired(gap.to_timeline, last)) {
                continue;
            }
            let mut number = gap.from.segment(size);
            while number < end && sealed(number) {
                number = number.next();
            }
            if number < end {
                let (timeline, from) = (gap.timeline, gap.from.max(number.start(size)));
                missing.push(Missing { timeline, from, to: gap.to, gap: Some(gap) });
            }
        }
        let recorded = missing.clone();
        for (timeline, segments) in survey.timelines() {
            let mut pieces = segments.pieces().peekable();
            while let (Some(piece), Some(next)) = (pieces.next(), pieces.peek()) {
                let (from, to) = (piece.end.start(size), next.start.start(size));
                let known = |gap: &Missing| gap.from <= from && to <= gap.to;
                if !recorded.iter().any(known) {
                    missing.push(Missing { timeline, from, to, gap: None });
                }
            }
        }
        missing.sort_by_key(|missing| (missing.timeline, missing.from));
        Ok(missing)
    }
}
