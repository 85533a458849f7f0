//! Where streaming goes on: what is in the archive after a crash, and how much of it is proved.
//!
//! Only the segments that aren't sealed are decoded, or else the newest, with what is needed to
//! prove them: the segment before, and those that the record running into it lies in.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;

use disk::{DiskError, ErrorKind};
use pg_types::{Branch, Lsn, SegmentNumber, TimelineId, WalFileKind};
use wal_format::Validator;

use crate::index::IndexBuilder;
use crate::open::Archive;
use crate::prove::Primed;
use crate::survey::{Form, Segments, Survey};
use crate::{ArchiveError, Layout};

/// A writer's beginning.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The timeline that is streamed.
    pub timeline: TimelineId,
    /// Where streaming starts: a segment's start.
    pub start: Lsn,
    /// Proves the stream from `start`, and knows the record that runs over it.
    pub validator: Validator,
    /// The first segment that was decoded from its start.
    pub(crate) decoded_from: SegmentNumber,
    /// What was told of the records from there up to `start`.
    pub(crate) index: IndexBuilder,
    /// What the segment at `start` holds already.
    pub stored: Stored,
    /// The end of what is archived behind a hole that is streamed now.
    pub behind: Option<Lsn>,
    /// What was found and mended, for the log.
    pub notes: Vec<String>,
    /// What is archived past the position where the server's history left its timeline.
    pub lost: Option<LostBranch>,
}

/// WAL that was received, acknowledged even, and isn't part of the server's history: the standby
/// that was promoted hadn't got it. It stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostBranch {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Where the server's history left it.
    pub from: Lsn,
    /// The end of what is proved on it.
    pub to: Lsn,
}

/// What the segment at which streaming starts holds already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// There is no such file.
    Nothing,
    /// There is a `.partial`. What is before `proved` is proved and durable, and must come again
    /// just so; at the segment's start or before, none of it is.
    Partial {
        /// The end of what is proved in it.
        proved: Lsn,
    },
}

impl Resume {
    /// As much as this may have been acknowledged before, so that less isn't again.
    #[must_use]
    pub fn acknowledged(&self) -> Lsn {
        self.proved().max(self.behind.unwrap_or(Lsn::INVALID))
    }

    /// The end of what is archived without a doubt: nothing before it may be acknowledged as
    /// less again.
    #[must_use]
    pub fn proved(&self) -> Lsn {
        match self.stored {
            Stored::Partial { proved } if proved > self.start => proved,
            // Of the segments before, which are sealed, every record that ends in them was proved,
            // the one as well that began before the validator did.
            _ => {
                let records_from = self.validator.records_from().unwrap_or(Lsn::INVALID);
                self.validator.proved().0.max(records_from)
            }
        }
    }
}

impl Archive {
    /// Where the streaming of a branch begins that nothing is archived of: at the start of the
    /// segment of `at`, on the timeline that has it.
    #[must_use]
    pub fn begin(&self, branch: &Branch, at: Lsn) -> Resume {
        let size = self.layout.segment_size;
        let stretch = branch.stretch_of(at.segment(size), size);
        let timeline = stretch.map_or(branch.timeline(), |stretch| stretch.timeline);
        self.begin_on(timeline, at)
    }

    /// The same on this timeline: behind a gap.
    #[must_use]
    pub fn begin_on(&self, timeline: TimelineId, at: Lsn) -> Resume {
        let size = self.layout.segment_size;
        let primed = self.unprimed(timeline, at);
        self.resume_at(timeline, at.segment_start(size), Stored::Nothing, primed)
    }

    /// Where streaming goes on: behind the highest position that is archived and that the branch,
    /// which is the server's history, has as well; `None` if nothing is archived. What a crash
    /// left is mended: a `.partial` that is full gets its name, temporaries go.
    ///
    /// `ended` is a timeline that was received to its end, also where that lies in the middle of a
    /// record, which nothing proves.
    ///
    /// With `rebuild` the proved bytes of each `.partial` are copied into a new file, as they must
    /// be after a write or an fsync failed: what such a file holds is never believed again. A
    /// call after one that failed does that by itself.
    ///
    /// # Errors
    /// If the archive has nothing of the branch, or has seen the branch's newest timeline end; if
    /// a segment is missing among others, or the disk fails.
    pub fn resume(
        &self,
        branch: &Branch,
        ended: Option<TimelineId>,
        rebuild: bool,
    ) -> Result<Option<Resume>, ArchiveError> {
        let survey = self.survey()?;
        self.refuse(branch, &survey)?;
        let rebuild = self.doubt.swap(true, Ordering::Relaxed) || rebuild;
        for name in &survey.temporaries {
            self.files.remove(&Path::new(Layout::WAL).join(name))?;
        }
        let resume = self.follow(branch, &survey, ended, rebuild)?;
        self.doubt.store(false, Ordering::Relaxed);
        Ok(resume)
    }

    /// Where streaming goes on on the newest timeline of a branch; `None` if none of it is
    /// archived.
    pub(crate) fn resume_on(
        &self,
        branch: &Branch,
        survey: &Survey,
        rebuild: bool,
    ) -> Result<Option<Resume>, ArchiveError> {
        let (timeline, mut notes) = (branch.timeline(), Vec::new());
        let mut segments = survey.of(timeline).clone();
        while self.tidy(branch, &segments, &mut notes)? {
            segments = self.survey()?.of(timeline).clone();
        }
        let Some((found, behind)) = self.find_end(branch, &segments, rebuild, &mut notes)? else {
            return Ok(None);
        };
        // What may be acknowledged now has names that a killed process may not have synced.
        self.files.sync_dir(Path::new(Layout::WAL))?;
        let size = self.layout.segment_size;
        let (start, stored, primed) = match found {
            Found::Whole { newest, primed } => (newest.end(size), Stored::Nothing, primed),
            Found::Partial { number, proved, primed } => {
                (number.start(size), Stored::Partial { proved }, primed)
            }
        };
        Ok(Some(Resume { notes, behind, ..self.resume_at(timeline, start, stored, primed) }))
    }

    pub(crate) fn resume_at(
        &self,
        timeline: TimelineId,
        start: Lsn,
        stored: Stored,
        primed: Primed,
    ) -> Resume {
        let Primed { validator, index, from } = primed;
        Resume {
            timeline,
            start,
            validator,
            decoded_from: from,
            index,
            stored,
            behind: None,
            notes: Vec::new(),
            lost: None,
        }
    }

    /// Gives each segment that isn't sealed, and the newest ones, just one form, of its full size.
    /// Says whether anything went, so that it is to be looked at again.
    fn tidy(
        &self,
        branch: &Branch,
        segments: &Segments,
        notes: &mut Vec<String>,
    ) -> Result<bool, ArchiveError> {
        let (timeline, mut went) = (branch.timeline(), false);
        let size = self.layout.segment_size.bytes();
        let newest = segments.iter().rev().nth(1).map(|(number, _)| number);
        let unsure = |(number, form): &(_, Form)| *form != Form::Sealed || Some(*number) >= newest;
        for (number, form) in segments.iter().filter(unsure) {
            let before = went;
            for kind in form.kinds() {
                let path = self.path(timeline, number, *kind);
                match self.len_of(&path)? {
                    Some(len) if len == size => continue,
                    None => continue,
                    Some(0) => self.files.remove(&path)?,
                    Some(len) => notes.push(self.aside(&path, &format!("odd-size-{len}"))?),
                }
                went = true;
            }
            if went == before && form == Form::Both {
                notes.extend(self.keep_longer(branch, number)?);
                went = true;
            }
        }
        Ok(went)
    }

    /// A segment under both its names: the one of which more is proved stays. A crash leaves this
    /// where sealing takes a link and an unlink, and between two steps of a withdrawal.
    fn keep_longer(
        &self,
        branch: &Branch,
        number: SegmentNumber,
    ) -> Result<Option<String>, ArchiveError> {
        let timeline = branch.timeline();
        let (sealed, partial) =
            (self.layout.segment(timeline, number), self.layout.partial(timeline, number));
        let mut ends = [Lsn::INVALID; 2];
        for (path, end) in [&sealed, &partial].into_iter().zip(&mut ends) {
            let mut primed = self.primed(branch, number)?.0;
            let ended = self.feed(path, &mut primed)?;
            let validator = primed.validator;
            *end = if ended.is_none() { validator.position() } else { validator.proved().0 };
        }
        let [sealed_end, partial_end] = ends;
        let start = number.start(self.layout.segment_size);
        let common = sealed_end.min(partial_end).saturating_since(start);
        if self.difference(&sealed, &partial, common)?.is_some() {
            return Err(ArchiveError::Differs { path: sealed, kept: Some(partial) });
        }
        if sealed_end < partial_end {
            let mut notes = Vec::new();
            for path in self.files_of(&sealed)? {
                notes.push(self.aside(&path, "double")?);
            }
            return Ok(Some(notes.join("; ")));
        }
        // It holds nothing that the sealed one doesn't.
        self.files.remove(&partial)?;
        Ok(None)
    }

    /// Proves what isn't sealed, or else the newest segment. What is proved to its end gets its
    /// final name; where something isn't, streaming goes on, and a `.partial` behind it, which no
    /// acknowledgement has reached, is removed.
    ///
    /// A `.partial` with a record running over its end is proved by what comes after it alone: a
    /// loss of power may have torn that record's middle. But it was durable, all of it, if a later
    /// segment is sealed, since they are sealed in their order.
    fn find_end(
        &self,
        branch: &Branch,
        segments: &Segments,
        rebuild: bool,
        notes: &mut Vec<String>,
    ) -> Result<Option<(Found, Option<Lsn>)>, ArchiveError> {
        let (timeline, size, mut end_behind) = (branch.timeline(), self.layout.segment_size, None);
        let mut pieces = self.pieces_behind_gaps(timeline, segments)?.peekable();
        let Some(mut piece) = pieces.next() else { return Ok(None) };
        let last =
            |sealed: bool| segments.iter().rev().find(|(_, form)| form.is_sealed() == sealed);
        let (sealed, open) = (last(true), last(false));
        while let Some(behind) = pieces.peek().map(|next| next.start) {
            let is_behind = |(number, _): (SegmentNumber, Form)| number >= behind;
            if !(sealed.is_some_and(is_behind) && open.is_some_and(is_behind)) {
                let behind = behind..LAST;
                end_behind = self.leave_behind(timeline, piece.end, segments, behind, notes)?;
                break;
            }
            // The archive's own end is behind it: no crash leaves that.
            notes.push(format!(
                "{} is missing, which was there before: see `seawall gaps`; put it back from a \
                 copy, or with `seawall archive-wal` from the server",
                self.layout.segment(timeline, piece.end).display()
            ));
            let Some(next) = pieces.next() else { break };
            piece = next;
        }
        let Some(newest) = piece.end.previous() else { return Ok(None) };
        let open = segments.range(piece.clone()).find(|(_, form)| !form.is_sealed());
        let first = open.map_or(newest, |(number, _)| number);
        let there: Vec<_> = segments.range(first..piece.end).collect();
        let Passage { mut primed, error } = self.pass(branch, &there, notes)?;
        let Some(end) = primed.pop() else { return Ok(None) };
        let proved = end.validator.proved().0;
        // So many were passed to their ends, and so many of them are sealed or must have been.
        let passed = primed.len() - usize::from(error.is_some());
        let sealed = there.iter().take(passed).rposition(|(_, form)| form.is_sealed());
        let durable = sealed.map_or(0, |place| place + 1);
        for (place, ((number, form), primed)) in there.iter().zip(primed).enumerate() {
            if place < passed && (place < durable || number.end(size) <= proved) {
                if !form.is_sealed() {
                    self.seal(timeline, *number, rebuild)?;
                }
                continue;
            }
            let later = number.next()..piece.end;
            let left = self.leave_behind(timeline, *number, segments, later, notes)?;
            let end_behind = left.or(end_behind);
            if form.is_sealed() {
                let path = self.layout.segment(timeline, *number);
                let error = error.unwrap_or_default();
                notes.push(format!("{}: {error}; it is fetched again", path.display()));
                let len = proved.saturating_since(number.start(size));
                self.unseal(timeline, *number, len)?;
            }
            self.make_sure(timeline, *number, proved, rebuild, notes)?;
            let found = Found::Partial { number: *number, proved, primed };
            return Ok(Some((found, end_behind)));
        }
        Ok(Some((Found::Whole { newest, primed: end }, end_behind)))
    }

    /// The pieces of a timeline without a hole, behind the last gap that is recorded if there are
    /// any.
    fn pieces_behind_gaps<'a>(
        &self,
        timeline: TimelineId,
        segments: &'a Segments,
    ) -> Result<impl Iterator<Item = Range<SegmentNumber>> + use<'a>, ArchiveError> {
        let gaps = self.gaps()?.into_iter().filter(|gap| gap.to_timeline == timeline);
        let behind = gaps.map(|gap| gap.to.segment(self.layout.segment_size)).max();
        let is_any = |behind: &SegmentNumber| segments.range(*behind..LAST).next().is_some();
        let first = behind.filter(is_any).unwrap_or(SegmentNumber::new(0));
        let pieces = segments.pieces().filter(move |piece| piece.end > first);
        Ok(pieces.map(move |piece| piece.start.max(first)..piece.end))
    }

    /// Decodes segments that follow each other, until one doesn't hold.
    fn pass(
        &self,
        branch: &Branch,
        segments: &[(SegmentNumber, Form)],
        notes: &mut Vec<String>,
    ) -> Result<Passage, ArchiveError> {
        let mut passage = Passage { primed: Vec::new(), error: None };
        let Some((first, _)) = segments.first() else { return Ok(passage) };
        let (mut at, note) = self.primed(branch, *first)?;
        notes.extend(note);
        for (number, form) in segments {
            passage.primed.push(at.clone());
            let kind = if form.is_sealed() { WalFileKind::Segment } else { WalFileKind::Partial };
            let path = self.path(branch.timeline(), *number, kind);
            passage.error = match self.feed(&path, &mut at) {
                // A compressed one that doesn't unpack is damaged, as a plain one may be.
                Err(error) if error.kind() == ErrorKind::Corrupt => Some(error.to_string()),
                fed => fed?.map(|error| error.to_string()),
            };
            if passage.error.is_some() {
                break;
            }
        }
        passage.primed.push(at);
        Ok(passage)
    }

    /// Makes durable what is proved of a `.partial`: it was read, maybe from a cache, and only
    /// then is it what may be acknowledged.
    fn make_sure(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
        proved: Lsn,
        rebuild: bool,
        notes: &mut Vec<String>,
    ) -> Result<(), DiskError> {
        let partial = self.layout.partial(timeline, number);
        if !rebuild {
            return self.files.sync_file(&partial);
        }
        notes.push(format!("{} was made anew up to {proved}", partial.display()));
        self.keep_proved(timeline, number, &partial, proved)
    }

    /// Makes a new `.partial` of what is proved in the old one, zeros behind it. Its name is left
    /// for the caller to sync.
    fn keep_proved(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
        partial: &Path,
        proved: Lsn,
    ) -> Result<(), DiskError> {
        let size = self.layout.segment_size;
        let temporary = self.layout.copied(timeline, number);
        let len = proved.saturating_since(number.start(size)).min(size.bytes());
        self.files.copy(partial, &temporary, len)?;
        self.files.sync_file(&temporary)?;
        self.files.replace(&temporary, partial)
    }

    /// Gives a whole `.partial` its final name, which is left for the caller to sync.
    fn seal(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
        rebuild: bool,
    ) -> Result<(), DiskError> {
        let partial = self.layout.partial(timeline, number);
        if rebuild {
            self.keep_proved(timeline, number, &partial, number.end(self.layout.segment_size))?;
        } else {
            self.files.sync_file(&partial)?;
        }
        self.files.rename(&partial, &self.layout.segment(timeline, number))
    }

    /// Leaves what is sealed behind a segment that isn't whole: shipped ahead of the stream, or
    /// whole before something was lost. Streaming goes on before it; gives its end. A `.partial`
    /// among them was written ahead, and goes: no acknowledgement has reached it.
    fn leave_behind(
        &self,
        timeline: TimelineId,
        missing: SegmentNumber,
        segments: &Segments,
        later: Range<SegmentNumber>,
        notes: &mut Vec<String>,
    ) -> Result<Option<Lsn>, ArchiveError> {
        // A loss of power leaves as many as were being written at once. The newest goes first.
        let open = segments.range(later.clone()).filter(|(_, form)| !form.is_sealed());
        for (number, _) in open.rev() {
            self.files.remove(&self.layout.partial(timeline, number))?;
        }
        let mut sealed = segments.range(later).filter(|(_, form)| form.is_sealed());
        let Some((first, _)) = sealed.next() else { return Ok(None) };
        let (last, _) = sealed.next_back().unwrap_or((first, Form::Sealed));
        let shown = |number| self.layout.segment(timeline, number).display().to_string();
        let (missing, first) = (shown(missing), shown(first));
        notes.push(format!(
            "{missing} isn't whole, and {first} is there: what is missing comes now"
        ));
        Ok(Some(last.end(self.layout.segment_size)))
    }
}

/// Where ranges of segments end: no server gets there.
pub(crate) const LAST: SegmentNumber = SegmentNumber::new(u64::MAX);

/// Segments that were decoded one after another.
struct Passage {
    /// At the start of each that was decoded, and at the end.
    primed: Vec<Primed>,
    /// Why the last one of them wasn't decoded to its end.
    error: Option<String>,
}

/// Where the archive ends.
enum Found {
    /// With a segment that is whole: every record that ends in it is proved.
    Whole {
        /// That segment.
        newest: SegmentNumber,
        /// At its end.
        primed: Primed,
    },
    /// Within a segment.
    Partial {
        /// That segment.
        number: SegmentNumber,
        /// The end of what is proved.
        proved: Lsn,
        /// At its start.
        primed: Primed,
    },
}
