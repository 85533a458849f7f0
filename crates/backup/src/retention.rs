//! What is kept, and what may go: decided from names and positions alone, without I/O.
//!
//! Backups are counted on the newest line of history: the N newest that recovery is possible from,
//! and those that reach back as far as was asked for. Whatever else is newer than the oldest of them
//! is kept as well: the lost branch of a failover is worth looking at for as long as its time is.
//! WAL is then kept from each kept backup's start on, and from each [`Hold`]'s, along every line of
//! history that has it; behind a gap too, since a gap may be filled. Everything before is of no use
//! to anybody. A timeline whose history isn't known is let alone.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use archive::{Bounds, Hold};
use pg_types::{Branch, Lsn, SegmentNumber, SegmentSize, TimelineId};

use crate::Point;
use crate::window::is_on;

/// How much is kept; what either says is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// So many backups.
    pub backups: Option<NonZeroUsize>,
    /// Every moment since then, as the clock that `ended` is of tells it.
    pub since: Option<jiff::Timestamp>,
}

/// A backup, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub id: String,
    /// Where recovery begins.
    pub start: Point,
    /// Where it can end at the earliest.
    pub stop: Point,
    /// When its last byte came; `None` if that can't be read, which is as if it were now.
    pub ended: Option<jiff::Timestamp>,
    /// Whether recovery from it is possible on the newest line of history; it isn't counted otherwise.
    pub usable: bool,
    /// The one that it builds on, if it is incremental.
    pub needs: Option<String>,
    /// Who uses it just now.
    pub in_use: Option<String>,
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The backups.
    pub backups: Vec<Candidate>,
    /// The timelines that have segments: their lines of history, `None` where that isn't known, and
    /// the numbers of their first and last segments.
    pub timelines: BTreeMap<TimelineId, (Option<Branch>, SegmentNumber, SegmentNumber)>,
    /// What else needs WAL.
    pub holds: Vec<Hold>,
}

impl Inventory {
    /// Where a hold begins: a server's slot may begin on the timeline that the server's comes from.
    /// `None` where that isn't known, so that every line of history has to have it.
    fn place(&self, hold: &Hold) -> Option<Point> {
        let (line, ..) = self.timelines.get(&hold.timeline?)?;
        let mut stretches = line.as_ref()?.stretches().iter().rev();
        let on = stretches.find(|on| on.begin <= hold.from)?;
        Some(Point { timeline: on.timeline, lsn: hold.from })
    }
}

/// Why a backup is kept, or isn't.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fate {
    /// One of the newest.
    #[error("kept: number {0} of the newest")]
    Newest(usize),
    /// Recovery to a time that was asked for begins with it.
    #[error("kept: it reaches into the time that is kept")]
    Reaches,
    /// Another one that is kept builds on it.
    #[error("kept: {0} builds on it")]
    Needed(String),
    /// Not counted, and newer than the oldest that is.
    #[error("kept, and not counted: it is newer than the oldest one that is kept")]
    Beside,
    /// Somebody reads it.
    #[error("kept: {0}")]
    InUse(String),
    /// Nothing keeps it.
    #[error("expired: {0}")]
    Expired(&'static str),
}

impl Fate {
    /// Whether it stays.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !matches!(self, Self::Expired(_))
    }
}

/// Why a timeline's WAL is kept from its bound on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The first segment that stays; all go before it, and all stay from it on.
    pub from: SegmentNumber,
    /// What needs it first; `None` if nothing needs any of it.
    pub by: Option<String>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What becomes of each backup, in the order that they came in.
    pub backups: Vec<(String, Fate)>,
    /// What becomes of each timeline's WAL.
    pub wal: BTreeMap<TimelineId, Kept>,
}

/// Why nothing may be decided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoPlan {
    /// Nothing is archived.
    #[error("there is no WAL in the archive, and so nothing that a backup could be recovered by")]
    NoWal,
    /// The newest timeline's history isn't there.
    #[error(
        "the history of timeline {0}, the newest, isn't archived: what it comes from isn't known"
    )]
    NoHistory(TimelineId),
    /// No backup is good for anything.
    #[error(
        "no backup is there from which timeline {0}, the newest, can be recovered: take one with \
         `seawall backup` first"
    )]
    NoBackup(TimelineId),
}

impl Plan {
    /// Decides.
    ///
    /// # Errors
    /// If nothing can be recovered as it is: then nothing goes.
    pub fn of(inventory: &Inventory, policy: &Policy, size: SegmentSize) -> Result<Self, NoPlan> {
        let (newest, (line, ..)) = inventory.timelines.iter().next_back().ok_or(NoPlan::NoWal)?;
        let line = line.as_ref().ok_or(NoPlan::NoHistory(*newest))?;
        let fates = fates(&inventory.backups, policy, line).ok_or(NoPlan::NoBackup(*newest))?;
        let named = inventory.backups.iter().zip(&fates);
        let backups = named.clone().filter(|(_, fate)| fate.is_kept());
        let backups = backups.map(|(backup, _)| Anchor {
            what: format!("the backup {}", backup.id),
            from: backup.start.lsn,
            points: vec![backup.start, backup.stop],
        });
        let holds = inventory.holds.iter().map(|hold| Anchor {
            what: hold.what.clone(),
            from: hold.from,
            points: inventory.place(hold).into_iter().collect(),
        });
        let anchors: Vec<Anchor> = backups.chain(holds).collect();
        let wal = inventory.timelines.iter().map(|(timeline, (line, first, last))| {
            (*timeline, kept(line.as_ref(), *first, *last, &anchors, size))
        });
        let backups = named.map(|(backup, fate)| (backup.id.clone(), fate.clone())).collect();
        Ok(Self { backups, wal: wal.collect() })
    }

    /// The backups that go.
    pub fn expired(&self) -> impl Iterator<Item = &str> {
        let expired = self.backups.iter().filter(|(_, fate)| !fate.is_kept());
        expired.map(|(id, _)| id.as_str())
    }

    /// Up to where each timeline's WAL goes.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.wal.iter().map(|(timeline, kept)| (*timeline, kept.from)).collect()
    }

    /// What goes by both plans: between the two it was made sure that the rest holds.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        let goes: Vec<&str> = other.expired().collect();
        for (id, fate) in &mut self.backups {
            if !fate.is_kept() && !goes.contains(&id.as_str()) {
                *fate = Fate::InUse("it wasn't to go when this began".to_owned());
            }
        }
        self.wal.retain(|timeline, _| other.wal.contains_key(timeline));
        for (timeline, kept) in &mut self.wal {
            if let Some(other) = other.wal.get(timeline).filter(|other| other.from < kept.from) {
                kept.clone_from(other);
            }
        }
        self
    }
}

/// Something from which WAL is needed.
struct Anchor {
    what: String,
    from: Lsn,
    /// What has to lie on a line of history for its WAL to be needed; nothing, for every line.
    points: Vec<Point>,
}

/// What becomes of the backups; `None` if none is good for anything.
fn fates(backups: &[Candidate], policy: &Policy, line: &Branch) -> Option<Vec<Fate>> {
    let counted = |backup: &&Candidate| {
        backup.usable && is_on(line, backup.start) && is_on(line, backup.stop)
    };
    let mut newest: Vec<&Candidate> = backups.iter().filter(counted).collect();
    newest.sort_by_key(|backup| std::cmp::Reverse((backup.stop.lsn, backup.id.clone())));
    let by_number = policy.backups.map_or(0, NonZeroUsize::get);
    // The newest that had ended when the time began, and all behind it.
    let reaches = |since: jiff::Timestamp| {
        let before = |backup: &&Candidate| backup.ended.is_some_and(|ended| ended <= since);
        newest.iter().position(before).map_or(newest.len(), |place| place + 1)
    };
    let by_time = policy.since.map_or(0, reaches);
    // Whatever is asked for, there is one.
    let kept = newest.get(..by_number.max(by_time).max(1).min(newest.len()))?;
    let oldest = kept.iter().map(|backup| backup.ended).min().filter(|_| !kept.is_empty())?;
    let mut fates: Vec<Fate> = backups
        .iter()
        .map(|backup| {
            let place = kept.iter().position(|kept| kept.id == backup.id);
            match (place, &backup.in_use) {
                (Some(place), _) if place < by_number.max(1) => Fate::Newest(place + 1),
                (Some(_), _) => Fate::Reaches,
                (None, Some(who)) => Fate::InUse(who.clone()),
                (None, None) if !counted(&backup) && later(backup.ended, oldest) => Fate::Beside,
                (None, None) if counted(&backup) => Fate::Expired("newer ones are enough"),
                (None, None) if backup.usable => Fate::Expired(
                    "it isn't on the newest line of history, and older than what is kept",
                ),
                (None, None) => Fate::Expired(
                    "nothing can be recovered from it, and it is older than what is kept",
                ),
            }
        })
        .collect();
    chain(backups, &mut fates);
    Some(fates)
}

/// Whether one ended after another; a time that can't be read is now.
fn later(one: Option<jiff::Timestamp>, other: Option<jiff::Timestamp>) -> bool {
    match (one, other) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(one), Some(other)) => one > other,
    }
}

/// Keeps what kept ones build on, and what that builds on.
fn chain(backups: &[Candidate], fates: &mut [Fate]) {
    let mut changed = true;
    while changed {
        changed = false;
        for (child, backup) in backups.iter().enumerate() {
            let kept = fates.get(child).is_some_and(Fate::is_kept);
            let Some(needs) = backup.needs.as_ref().filter(|_| kept) else { continue };
            let parent = backups.iter().position(|other| other.id == *needs);
            if let Some(fate) = parent.and_then(|place| fates.get_mut(place))
                && !fate.is_kept()
            {
                *fate = Fate::Needed(backup.id.clone());
                changed = true;
            }
        }
    }
}

/// From where on a timeline's WAL stays.
fn kept(
    line: Option<&Branch>,
    first: SegmentNumber,
    last: SegmentNumber,
    anchors: &[Anchor],
    size: SegmentSize,
) -> Kept {
    let Some(line) = line else {
        return Kept { from: first, by: Some("its history isn't known".to_owned()) };
    };
    let needed = anchors.iter().filter(|anchor| anchor.points.iter().all(|at| is_on(line, *at)));
    match needed.min_by_key(|anchor| anchor.from) {
        Some(anchor) => {
            let from = anchor.from.segment(size).max(first).min(last.next());
            Kept { from, by: Some(anchor.what.clone()) }
        }
        None => Kept { from: last.next(), by: None },
    }
}

#[cfg(test)]
mod tests;
