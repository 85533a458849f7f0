//! From where to where recovery is possible: from the end of a backup to the end of what is proved
//! behind it, in one piece, on one line of history.

use archive::{Catalogue, Survey};
use pg_types::{Branch, Lsn, TimelineId};
use wal_format::TimestampTz;

use crate::{BackupError, Description, Point};

/// What can be recovered from one backup on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The timeline at whose end it ends.
    pub timeline: TimelineId,
    /// The end of the backup: recovery to before isn't consistent.
    pub from: Lsn,
    /// The last commit or abort before it, since WAL is archived in one piece: recovery to a time
    /// before that isn't possible. `None` if there is none.
    pub from_time: Option<TimestampTz>,
    /// The end of what is proved.
    pub to: Lsn,
    /// Where the last record before it starts.
    pub last_record: Lsn,
    /// The last commit or abort before it.
    pub to_time: Option<TimestampTz>,
}

/// Whether a position that a backup has is one of a branch.
pub(crate) fn is_on(branch: &Branch, point: Point) -> bool {
    let stretch = branch.stretches().iter().find(|stretch| stretch.timeline == point.timeline);
    stretch.is_some_and(|stretch| stretch.end.is_none_or(|end| point.lsn <= end))
}

/// No record starts there, so that a search for one sees everything.
pub(crate) const NOWHERE: archive::Target = archive::Target::Position(Lsn::MAX);

impl Window {
    /// What can be recovered from this backup on this branch; `None` if the backup isn't on it.
    /// WAL that is missing before the backup's end leaves a window that [isn't
    /// open](Self::is_open).
    ///
    /// # Errors
    /// If the archive can't be read.
    pub fn of(
        catalogue: &Catalogue,
        survey: &Survey,
        backup: &Description,
        branch: &Branch,
    ) -> Result<Option<Self>, BackupError> {
        if !is_on(branch, backup.start) || !is_on(branch, backup.stop) {
            return Ok(None);
        }
        let (start, stop, timeline) = (backup.start.lsn, backup.stop.lsn, branch.timeline());
        let Some(archived) = catalogue.archived_from(branch, survey, start) else {
            let (from_time, to_time) = (None, None);
            let (from, to, last_record) = (stop, start, start);
            return Ok(Some(Self { timeline, from, from_time, to, last_record, to_time }));
        };
        let before = catalogue.find_within(branch, survey, archived..stop, &NOWHERE)?;
        let whole = catalogue.find_within(branch, survey, start..Lsn::MAX, &NOWHERE)?;
        Ok(Some(Self {
            timeline,
            from: stop,
            from_time: before.last_time,
            to: whole.searched_to,
            last_record: whole.last_record,
            to_time: whole.last_time,
        }))
    }

    /// Whether there is anything that can be recovered.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.from <= self.to
    }
}
