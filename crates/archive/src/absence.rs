//! What it means that a file isn't in `wal/`: recovery that is told "absent" takes it for the end
//! of the log and opens the server. So that is said only where names, histories, the index and
//! recorded gaps agree that the archive never had it and that nothing archived comes after it.

use pg_types::{Branch, Lsn, SegmentNumber, TimelineId};

use crate::find::OpenIndex;
use crate::gap::gaps;
use crate::resume::LAST;
use crate::survey::{Form, Survey};
use crate::{ArchiveError, Catalogue};

/// What was found where a file wasn't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absence {
    /// It is there: it has come meanwhile.
    There,
    /// It lies past the end of what is archived of its timeline: what comes next, if anything
    /// does.
    PastTheEnd {
        /// That end; invalid where nothing but the timeline's history is archived.
        end: Lsn,
    },
    /// A newer timeline was begun before it, and its own was left.
    Left {
        /// Where.
        at: Lsn,
        /// Whether a `.partial` of it is there: the end of a lost branch.
        unfinished: bool,
    },
    /// The segment is unfinished: its `.partial` has bytes up to here, and how many of them hold
    /// has to be seen.
    Partial {
        /// Where a newer timeline begins, which has no file of its own for this segment yet.
        left: Option<Lsn>,
    },
    /// It was expired: no backup that is kept needs it.
    Expired {
        /// What is kept of its timeline begins here.
        before: Lsn,
        /// When.
        at: String,
    },
    /// It has to be somewhere, and isn't here.
    Hole {
        /// What tells so.
        why: String,
    },
    /// Nothing tells.
    Unknown {
        /// What is missing.
        why: String,
    },
}

impl Catalogue {
    /// What it means that a sealed segment wasn't found.
    ///
    /// # Errors
    /// If the archive can't be read.
    pub fn absence(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<Absence, ArchiveError> {
        let survey = self.survey()?;
        let branches = self.branches(&survey)?;
        let segments = survey.of(timeline);
        let form = segments.form(number);
        if form.is_some_and(Form::is_sealed) {
            return Ok(Absence::There);
        }
        let size = self.layout.segment_size;
        if survey.is_expired(timeline, number) {
            let expired = self.expired()?.into_iter().find(|of| of.timeline == timeline);
            let start = number.start(size);
            let (before, at) = expired.map_or((start, String::new()), |of| (of.before, of.at));
            return Ok(Absence::Expired { before, at });
        }
        if let Some(why) = self.hole(&survey, &branches, timeline, number)? {
            return Ok(Absence::Hole { why });
        }
        let left = leaves(&branches, timeline).map(|(left, _)| left).max();
        let unbegun = leaves(&branches, timeline).filter(|(left, branch)| {
            self.is_in(*left, number) && !self.has_newer(&survey, branch, number)
        });
        match (unbegun.map(|(left, _)| left).max(), left, form) {
            (Some(left), _, Some(_)) => Ok(Absence::Partial { left: Some(left) }),
            (_, Some(at), _) if at.segment(size) <= number => {
                Ok(Absence::Left { at, unfinished: form.is_some() })
            }
            (_, _, Some(_)) => Ok(Absence::Partial { left: None }),
            (_, _, None) => Ok(self.past_the_end(&survey, &branches, timeline)),
        }
    }

    /// What it means that a timeline's history wasn't found.
    ///
    /// # Errors
    /// If the archive can't be read.
    pub fn absence_of_history(&self, timeline: TimelineId) -> Result<Absence, ArchiveError> {
        let survey = self.survey()?;
        if survey.histories.contains(&timeline) {
            return Ok(Absence::There);
        }
        let why = format!(
            "of timeline {timeline} WAL is archived, and not its history: put {} back from a \
             server that has it in pg_wal, or make an empty file if it has no ancestors",
            self.layout.history(timeline).display()
        );
        if timeline == TimelineId::FIRST {
            return Ok(Absence::PastTheEnd { end: Lsn::INVALID });
        }
        let descends = |branch: &Branch| {
            branch.stretches().iter().skip(1).any(|stretch| stretch.timeline == timeline)
        };
        if survey.has(timeline) || self.branches(&survey)?.iter().any(descends) {
            return Ok(Absence::Hole { why });
        }
        if survey.timelines().next().is_none() {
            return Ok(Absence::Unknown { why: NOTHING.to_owned() });
        }
        Ok(Absence::PastTheEnd { end: Lsn::INVALID })
    }

    /// The lines of history that are archived.
    fn branches(&self, survey: &Survey) -> Result<Vec<Branch>, ArchiveError> {
        let histories = survey.histories.iter().map(|timeline| self.history(*timeline));
        histories.filter_map(Result::transpose).collect()
    }

    /// What tells that the segment has to be somewhere.
    fn hole(
        &self,
        survey: &Survey,
        branches: &[Branch],
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<Option<String>, ArchiveError> {
        let size = self.layout.segment_size;
        if let Some((later, _)) = survey.of(timeline).range(number.next()..LAST).next() {
            let later = self.layout.segment(timeline, later);
            return Ok(Some(format!("later WAL of its timeline is archived, {}", later.display())));
        }
        for (left, branch) in leaves(branches, timeline) {
            let begins_here = self.is_in(left, number)
                && survey.of(timeline).form(number).is_none()
                && !self.has_newer(survey, branch, number);
            if left.segment(size) > number || begins_here {
                let by = branch.timeline();
                return Ok(Some(format!(
                    "timeline {by} goes on from {left}, which is in or past it"
                )));
            }
        }
        let (start, end) = (number.start(size), number.end(size));
        for gap in gaps(&*self.files)? {
            let on = gap.timeline <= timeline && timeline <= gap.to_timeline;
            if on && start < gap.to && gap.from < end {
                return Ok(Some(format!(
                    "it is in the gap from {} to {} that was recorded: {}",
                    gap.from, gap.to, gap.reason
                )));
            }
        }
        let settled = self.index_entry(&mut OpenIndex::default(), timeline, number)?;
        Ok(settled.map(|_| "the archive's index knows it: it was archived, and is gone".to_owned()))
    }

    /// Whether a timeline that ends at `left` has some of the segment.
    fn is_in(&self, left: Lsn, number: SegmentNumber) -> bool {
        let size = self.layout.segment_size;
        left.segment(size) == number && left.segment_offset(size) > 0
    }

    /// Whether the newer timeline has a file for the segment in which it begins, with a copy of
    /// the older one's bytes.
    fn has_newer(&self, survey: &Survey, branch: &Branch, number: SegmentNumber) -> bool {
        let on = branch.stretch_of(number, self.layout.segment_size);
        on.is_some_and(|on| survey.of(on.timeline).form(number).is_some())
    }

    fn past_the_end(&self, survey: &Survey, branches: &[Branch], timeline: TimelineId) -> Absence {
        let last = survey.of(timeline).iter().next_back();
        if let Some((last, _)) = last {
            return Absence::PastTheEnd { end: last.end(self.layout.segment_size) };
        }
        if survey.timelines().next().is_none() {
            return Absence::Unknown { why: NOTHING.to_owned() };
        }
        let known = |branch: &Branch| branch.stretches().iter().any(|on| on.timeline == timeline);
        if branches.iter().any(known) {
            return Absence::PastTheEnd { end: Lsn::INVALID };
        }
        Absence::Unknown {
            why: format!("nothing of timeline {timeline} is archived, nor its history"),
        }
    }
}

const NOTHING: &str = "no WAL at all is archived yet";

/// Where newer timelines left this one, and their lines of history.
fn leaves(branches: &[Branch], timeline: TimelineId) -> impl Iterator<Item = (Lsn, &Branch)> {
    branches.iter().flat_map(move |branch| {
        let stretches = branch.stretches().iter().filter(move |on| on.timeline == timeline);
        stretches.filter_map(move |stretch| Some((stretch.end?, branch)))
    })
}
