//! Timelines: their history files, and where to go on when the server has gone on to another.
//!
//! Each timeline's segments stay under their own names, the `.partial` that it ended in too. A new
//! timeline begins in the segment in which the older one was left, with a copy of that one's
//! bytes; streaming starts at that segment's start, so that they come again and are compared.

use std::path::Path;

use disk::ErrorKind;
use pg_types::{Branch, Lsn, Stretch, TimelineId, WalFileKind, WalFileName};

use crate::open::Archive;
use crate::resume::{LostBranch, Resume, Stored};
use crate::survey::Survey;
use crate::{ArchiveError, Catalogue, Layout};

/// A history file has a line for each promotion that a cluster has ever seen; the server's own
/// reader has no bound.
pub(crate) const MAX_HISTORY_BYTES: usize = 1 << 20;

impl Catalogue {
    /// Keeps a timeline's history file, durably. Fine if it is here already, just so.
    ///
    /// # Errors
    /// If another one is here, if it can't be read as a history, or the disk fails.
    pub fn keep_history(&self, timeline: TimelineId, content: &[u8]) -> Result<(), ArchiveError> {
        Branch::parse(timeline, content)?;
        let path = self.layout.history(timeline);
        if let Some(kept) = self.read_history(timeline)? {
            if kept == content {
                // A process that was killed may not have got so far.
                self.files.sync_file(&path)?;
                return Ok(self.files.sync_dir(Path::new(Layout::WAL))?);
            }
            return Err(ArchiveError::OtherHistory { path });
        }
        let temporary = self.layout.history_tmp(timeline);
        match self.files.remove(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        self.files.write_new(&temporary, content)?;
        match self.place(&temporary, &path) {
            // Shipped meanwhile.
            Err(ArchiveError::Differs { path, .. }) => Err(ArchiveError::OtherHistory { path }),
            placed => placed.map(drop),
        }
    }

    /// The history of a timeline; `None` if its file isn't here.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn history(&self, timeline: TimelineId) -> Result<Option<Branch>, ArchiveError> {
        let content = self.read_history(timeline)?;
        Ok(content.map(|content| Branch::parse(timeline, &content)).transpose()?)
    }

    fn read_history(&self, timeline: TimelineId) -> Result<Option<Vec<u8>>, ArchiveError> {
        Ok(self.small_file(WalFileName::TimelineHistory(timeline), MAX_HISTORY_BYTES)?)
    }
}

impl Archive {
    /// Refuses a server that has no timeline in common with the archive, and one on a timeline that
    /// the archive has seen end: one that was failed over from, or a standby that hasn't followed
    /// yet. Changes nothing.
    pub(crate) fn refuse(&self, branch: &Branch, survey: &Survey) -> Result<(), ArchiveError> {
        let (server, archived) = (branch.timeline(), || survey.timelines().map(|(id, _)| id));
        for archive in archived().filter(|timeline| *timeline > server) {
            let history = self.history(archive)?;
            let stretches = history.iter().flat_map(Branch::stretches);
            let left = stretches.filter(|stretch| stretch.timeline == server);
            if let Some(at) = left.filter_map(|stretch| stretch.end).next() {
                return Err(ArchiveError::LeftTimeline { archive, server, at });
            }
        }
        let has = |stretch: &Stretch| survey.has(stretch.timeline);
        match archived().next_back() {
            Some(archive) if !branch.stretches().iter().any(has) => {
                Err(ArchiveError::NoCommonTimeline { archive, server })
            }
            _ => Ok(()),
        }
    }

    /// See [`resume`](Self::resume): the newest of the branch's timelines that is archived, or the
    /// one that follows it, where that one was left.
    pub(crate) fn follow(
        &self,
        branch: &Branch,
        survey: &Survey,
        ended: Option<TimelineId>,
        rebuild: bool,
    ) -> Result<Option<Resume>, ArchiveError> {
        for (place, stretch) in branch.stretches().iter().enumerate().rev() {
            if !survey.has(stretch.timeline) {
                continue;
            }
            let Some(here) = branch.up_to(stretch.timeline) else { continue };
            // Nothing, where there was nothing but what had to be cleared away.
            let Some(resume) = self.resume_on(&here, survey, rebuild)? else { continue };
            let Some(next) = branch.stretches().get(place + 1) else { return Ok(Some(resume)) };
            if resume.proved() < next.begin && ended != Some(stretch.timeline) {
                return Ok(Some(resume));
            }
            return self.fork(&here, &resume, branch, *next).map(Some);
        }
        Ok(None)
    }

    /// Begins the timeline `next` of a branch where `old`, at whose end `resume` is, was left.
    fn fork(
        &self,
        old: &Branch,
        resume: &Resume,
        branch: &Branch,
        next: Stretch,
    ) -> Result<Resume, ArchiveError> {
        let Some(new) = branch.up_to(next.timeline) else { return Ok(resume.clone()) };
        let size = self.layout.segment_size;
        let number = next.begin.segment(size);
        let stored = match self.copy_prefix(old, next)? {
            Some(proved) => Stored::Partial { proved },
            None => Stored::Nothing,
        };
        let (primed, note) = self.primed(&new, number)?;
        let begun = self.resume_at(next.timeline, number.start(size), stored, primed);
        let mut notes = resume.notes.clone();
        notes.extend(note);
        let (timeline, from, to) = (resume.timeline, next.begin, resume.proved());
        let lost = (to > from).then_some(LostBranch { timeline, from, to });
        Ok(Resume { notes, lost, ..begun })
    }

    /// Makes the first `.partial` of a timeline of what the older one has proved before the switch;
    /// gives its end. `None` if there is nothing to copy.
    fn copy_prefix(&self, old: &Branch, next: Stretch) -> Result<Option<Lsn>, ArchiveError> {
        let size = self.layout.segment_size;
        let number = next.begin.segment(size);
        let start = number.start(size);
        if next.begin == start {
            return Ok(None);
        }
        let forms = [WalFileKind::Segment, WalFileKind::Partial];
        let mut source = None;
        for path in forms.map(|kind| self.path(old.timeline(), number, kind)) {
            if source.is_none() && self.len_of(&path)?.is_some() {
                source = Some(path);
            }
        }
        let Some(source) = source else { return Ok(None) };
        let (mut primed, _) = self.primed(old, number)?;
        // It ends where it isn't WAL any more, if it isn't whole.
        _ = self.feed(&source, &mut primed)?;
        let proved = primed.proved().min(next.begin);
        if proved <= start {
            return Ok(None);
        }
        let temporary = self.layout.copied(next.timeline, number);
        self.copy_wal(&source, &temporary, proved.saturating_since(start))?;
        self.files.sync_file(&temporary)?;
        self.files.rename(&temporary, &self.layout.partial(next.timeline, number))?;
        self.files.sync_dir(Path::new(Layout::WAL))?;
        Ok(Some(proved))
    }
}
