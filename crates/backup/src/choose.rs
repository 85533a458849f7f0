//! Which backup a recovery target is reached from: decided from the WAL that is archived, before
//! anything is written.
//!
//! Recovery looks at each record from the backup's start on, and stops at the first one that is the
//! target. One that comes before the backup's end stops it where it isn't consistent yet, which is
//! fatal; none at all is fatal, too, from 13 on.

use archive::{Catalogue, Found, Survey};
use pg_types::{Branch, Lsn};
use wal_format::TimestampTz;

use crate::window::Window;
use crate::{BackupError, Description};

/// Where recovery is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// At the end of the WAL.
    End,
    /// As soon as it is consistent.
    Immediate,
    /// At the first commit or abort later than this, before it.
    Time(TimestampTz),
    /// At the record that starts here or behind.
    Lsn(Lsn),
    /// At the end of this transaction.
    Xid(u32),
    /// At this restore point.
    Name(String),
}

/// What was decided.
#[derive(Clone, Debug)]
pub struct Chosen<'a> {
    /// The backup.
    pub backup: &'a Description,
    /// What can be recovered from it.
    pub window: Window,
    /// The record that recovery stops at; `None` where that isn't known, as for no target.
    pub found: Option<Found>,
}

/// The newest of these backups from which the target is reached on the branch; of a target that is
/// not `inclusive` recovery stops before its record. `show` writes a time.
///
/// # Errors
/// If there is none; the nearest possible target is named.
pub fn choose<'a>(
    catalogue: &Catalogue,
    survey: &Survey,
    backups: &'a [Description],
    branch: &Branch,
    (target, inclusive): (&Target, bool),
    show: &dyn Fn(TimestampTz) -> String,
) -> Result<Chosen<'a>, BackupError> {
    let mut unusable = String::new();
    let mut misses = Vec::new();
    for backup in backups.iter().rev() {
        let Some(window) = Window::of(catalogue, survey, backup, branch)? else { continue };
        if !window.is_open() {
            unusable += &format!("; {} needs WAL that is missing at {}", backup.id, window.to);
            continue;
        }
        let Some(wanted) = target.wanted(inclusive) else {
            return Ok(Chosen { backup, window, found: None });
        };
        let within = backup.start.lsn..Lsn::MAX;
        let search = catalogue.find_within(branch, survey, within, &wanted)?;
        let stops =
            |found: &Found| if target.stops_before(inclusive) { found.lsn } else { found.end };
        let early = target.is_before(backup, &window);
        match search.found {
            Some(found) if stops(&found) >= window.from && !early => {
                return Ok(Chosen { backup, window, found: Some(found) });
            }
            // It may be one whose xid its record doesn't tell.
            None if search.untold > 0 => return Ok(Chosen { backup, window, found: None }),
            found => {
                let early = early || found.is_some();
                misses.push(Miss { backup, window, early });
            }
        }
    }
    let timeline = branch.timeline();
    let (Some(newest), Some(oldest)) = (misses.first(), misses.last()) else {
        return Err(BackupError::NoneOnBranch { timeline, why: unusable });
    };
    let miss = if newest.early { oldest } else { newest };
    let (why, nearest) = target.explain(miss, show);
    Err(BackupError::Unreachable { target: target.text(show), timeline, why, nearest })
}

/// A backup from which the target isn't reached.
struct Miss<'a> {
    backup: &'a Description,
    window: Window,
    /// Since it comes before the backup's end.
    early: bool,
}

impl Target {
    /// Whether it is a time before the backup's end. Recovery from the backup would stop at the first
    /// commit that follows it, but what it then has isn't what there was at that time. What was
    /// committed before tells, by the server's clock; where nothing was, when the backup began, by
    /// this machine's.
    fn is_before(&self, backup: &Description, window: &Window) -> bool {
        let earliest = window.from_time.or_else(|| backup.started_at());
        matches!(self, Self::Time(time) if earliest.is_some_and(|earliest| *time < earliest))
    }

    /// What is looked for in the WAL.
    fn wanted(&self, inclusive: bool) -> Option<archive::Target> {
        Some(match self {
            Self::End | Self::Immediate => return None,
            // A time that isn't inclusive is stopped at by a commit of that very time.
            Self::Time(time) if inclusive => archive::Target::Time(*time),
            Self::Time(time) => archive::Target::Time(TimestampTz(time.0.saturating_sub(1))),
            Self::Lsn(lsn) => archive::Target::Position(*lsn),
            Self::Xid(xid) => archive::Target::Xid(*xid),
            Self::Name(name) => archive::Target::RestorePoint(name.clone().into_bytes()),
        })
    }

    /// Whether recovery stops before its record, or behind it.
    fn stops_before(&self, inclusive: bool) -> bool {
        match self {
            Self::Time(_) => true,
            Self::Lsn(_) | Self::Xid(_) => !inclusive,
            _ => false,
        }
    }

    fn text(&self, show: &dyn Fn(TimestampTz) -> String) -> String {
        match self {
            Self::End => "the end of WAL".to_owned(),
            Self::Immediate => "the end of the backup".to_owned(),
            Self::Time(time) => format!("the time {}", show(*time)),
            Self::Lsn(lsn) => format!("the LSN {lsn}"),
            Self::Xid(xid) => format!("the transaction {xid}"),
            Self::Name(name) => format!("the restore point \"{name}\""),
        }
    }

    /// Why it isn't reached, and what is, as flags of `seawall restore`.
    fn explain(&self, miss: &Miss<'_>, show: &dyn Fn(TimestampTz) -> String) -> (String, String) {
        let Miss { backup, window, early } = miss;
        let (Window { from, to, .. }, id) = (*window, &backup.id);
        let last = match window.to_time {
            Some(time) => format!("the last commit before that is of {}", show(time)),
            None => "no transaction ends before that".to_owned(),
        };
        let why = match self {
            _ if *early => {
                format!(
                    "it comes before {from}, where the oldest backup that can be used ({id}) ends"
                )
            }
            Self::Time(_) => format!("no commit or abort is later, up to {to}; {last}"),
            Self::Lsn(_) => format!("no record starts there or behind it: the WAL ends at {to}"),
            Self::Xid(_) => format!("it neither committed nor aborted up to {to}"),
            _ => format!("there is none of that name up to {to}"),
        };
        let time = match (early, window.to_time) {
            (true, _) => window.from_time.or_else(|| backup.started_at()),
            // A target has to have a later commit.
            (false, last) => last.map(|last| TimestampTz(last.0.saturating_sub(1))),
        };
        let nearest = match (self, time) {
            (Self::Time(_), Some(time)) => format!("--target-time '{}'", show(time)),
            (Self::Lsn(_), _) if *early => format!("--target-lsn {from}"),
            (Self::Lsn(_), _) if window.last_record >= from => {
                format!("--target-lsn {}", window.last_record)
            }
            _ if *early => format!("--target-immediate --backup {id}"),
            _ => format!("no target at all, for everything up to {to}"),
        };
        (why, nearest)
    }
}
