//! From where to where recovery is possible: from the end of a backup to the end of what is proved
//! behind it, in one piece, on one line of history.

use archive::{Catalogue, Search, Survey};
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

impl Description {
    /// Whether all of it is of this line of history.
    #[must_use]
    pub fn is_on(&self, branch: &Branch) -> bool {
        is_on(branch, self.start) && is_on(branch, self.stop)
    }
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
        let all = Self::all(
            catalogue,
            survey,
            std::slice::from_ref(backup),
            std::slice::from_ref(branch),
        )?;
        Ok(all.into_iter().flatten().next())
    }

    /// The same of each of these backups on each branch that it is on, by branch. The archive's index
    /// is gone through once for all of them.
    ///
    /// # Errors
    /// If the archive can't be read.
    pub fn all(
        catalogue: &Catalogue,
        survey: &Survey,
        backups: &[Description],
        branches: &[Branch],
    ) -> Result<Vec<Vec<Self>>, BackupError> {
        let mut all: Vec<Vec<Self>> = backups.iter().map(|_| Vec::new()).collect();
        for branch in branches {
            let mut places: Vec<usize> = (0..backups.len())
                .filter(|place| backups.get(*place).is_some_and(|backup| backup.is_on(branch)))
                .collect();
            let mut looking = Looking { catalogue, survey, branch, before: None, behind: None };
            places.sort_by_key(|place| backups.get(*place).map(|backup| backup.stop.lsn));
            let mut times = vec![None; backups.len()];
            for place in &places {
                if let (Some(backup), Some(time)) = (backups.get(*place), times.get_mut(*place)) {
                    *time = looking.last_time_before(backup)?;
                }
            }
            places.sort_by_key(|place| backups.get(*place).map(|backup| backup.start.lsn));
            for place in places.iter().rev() {
                let (Some(backup), Some(windows)) = (backups.get(*place), all.get_mut(*place))
                else {
                    continue;
                };
                let from_time = times.get(*place).copied().flatten();
                windows.push(looking.window(backup, from_time)?);
            }
        }
        Ok(all)
    }

    /// Whether there is anything that can be recovered.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.from <= self.to
    }
}

/// What was looked at on a branch, so that it isn't looked at for each backup again.
struct Looking<'a> {
    catalogue: &'a Catalogue,
    survey: &'a Survey,
    branch: &'a Branch,
    /// The last commit or abort before a position, in one piece with what is archived from another.
    before: Option<(Lsn, Lsn, Option<TimestampTz>)>,
    /// What is behind a position.
    behind: Option<(Lsn, Search)>,
}

impl Looking<'_> {
    fn within(&self, from: Lsn, to: Lsn) -> Result<Search, BackupError> {
        Ok(self.catalogue.find_within(self.branch, self.survey, from..to, &NOWHERE)?)
    }

    /// To be asked in the order of the backups' ends.
    fn last_time_before(
        &mut self,
        backup: &Description,
    ) -> Result<Option<TimestampTz>, BackupError> {
        let size = self.catalogue.layout().segment_size;
        let (start, stop) = (backup.start.lsn, backup.stop.lsn);
        let archived = self.catalogue.archived_from(self.branch, self.survey, start);
        let Some(archived) = archived else { return Ok(None) };
        let known = self.before.filter(|(piece, ..)| *piece == archived);
        let (_, mut seen, mut time) = known.unwrap_or((archived, archived, None));
        let last = stop.segment_start(size);
        if seen < last {
            time = time.max(self.within(seen, last)?.last_time);
            seen = last;
        }
        self.before = Some((archived, seen, time));
        if last < stop {
            time = time.max(self.within(last, stop)?.last_time);
        }
        Ok(time)
    }

    /// To be asked in the order of the backups' starts, the last one first.
    fn window(
        &mut self,
        backup: &Description,
        from_time: Option<TimestampTz>,
    ) -> Result<Window, BackupError> {
        let (start, from, timeline) = (backup.start.lsn, backup.stop.lsn, self.branch.timeline());
        let size = self.catalogue.layout().segment_size;
        if self.catalogue.archived_from(self.branch, self.survey, start).is_none() {
            let (from_time, to_time) = (None, None);
            let (to, last_record) = (start, start);
            return Ok(Window { timeline, from, from_time, to, last_record, to_time });
        }
        let first = start.segment_start(size);
        let found = match self.behind {
            Some((seen, behind)) if seen <= first => behind,
            Some((seen, behind)) => {
                let search = self.within(first, seen)?;
                // Where it breaks off before, what is behind isn't reached.
                if search.searched_to < seen {
                    search
                } else {
                    Search {
                        searched_to: behind.searched_to,
                        last_time: search.last_time.max(behind.last_time),
                        last_record: search.last_record.max(behind.last_record),
                        ..search
                    }
                }
            }
            None => self.within(first, Lsn::MAX)?,
        };
        self.behind = Some((first, found));
        let Search { searched_to: to, last_record, last_time: to_time, .. } = found;
        // What ends before the backup begins leaves nothing of it.
        Ok(Window { timeline, from, from_time, to: to.max(start), last_record, to_time })
    }
}
