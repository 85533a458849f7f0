//! `seawall list`: the backups, the timelines, and what can be recovered.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use archive::{Catalogue, Survey, TimelineOverview};
use backup::{BackupError, Backups, Broken, Description, RestoreHold, Window, sound};
use disk::RealFiles;
use jiff::Timestamp;
use pg_types::{Branch, TimelineId};
use serde_json::{Value, json};

use crate::cli::ListArgs;
use crate::failure::steady;
use crate::find::show_time;
use crate::observer::size;
use crate::{Failure, timelines};

pub(crate) fn run(args: &ListArgs) -> Result<(), Failure> {
    let about = |failure: Failure| failure.of(&format!("the archive {}", args.archive.display()));
    let listed = steady(|| Listed::of(&args.archive)).map_err(about)?;
    let text = if args.json { format!("{}\n", listed.as_json()) } else { listed.as_text() };
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::failed(format!("can't write the answer: {error}")))
}

struct Listed {
    backups: Vec<Entry>,
    broken: Vec<Broken>,
    holds: Vec<RestoreHold>,
    timelines: Vec<TimelineOverview>,
}

struct Entry {
    backup: Description,
    /// What it lacks as an incremental one, or what is wrong with what it stands on.
    wrong_below: Option<BackupError>,
    windows: Vec<Window>,
}

/// A timeline's line of history; `None` if it isn't known.
pub(crate) fn branch_of(
    catalogue: &Catalogue,
    timeline: TimelineId,
) -> Result<Option<Branch>, Failure> {
    let root = (timeline == TimelineId::FIRST).then(|| Branch::root(timeline));
    Ok(catalogue.history(timeline)?.or(root))
}

/// The windows of each backup, one for each timeline that is archived and comes from it.
fn windows(
    catalogue: &Catalogue,
    survey: &Survey,
    backups: &[Description],
) -> Result<Vec<Vec<Window>>, Failure> {
    let branches = survey.timelines().map(|(timeline, _)| branch_of(catalogue, timeline));
    let branches: Vec<Branch> = branches.filter_map(Result::transpose).collect::<Result<_, _>>()?;
    Ok(Window::all(catalogue, survey, backups, &branches)?)
}

/// What can be recovered on each timeline: of the windows that end at one place the widest, and
/// none that nothing can be recovered in; from backups that `seawall restore` takes by itself.
pub(crate) fn widest_windows(
    catalogue: &Catalogue,
    survey: &Survey,
    archive: &Path,
) -> Result<Vec<Window>, Failure> {
    let (mut backups, _) = Backups::open(archive)?.list()?;
    let all = backups.clone();
    backups.retain(|backup| sound(&all, backup).is_ok());
    let mut widest: Vec<Window> = Vec::new();
    for windows in windows(catalogue, survey, &backups)? {
        for window in windows.into_iter().filter(Window::is_open) {
            let ends =
                |other: &&mut Window| (other.timeline, other.to) == (window.timeline, window.to);
            match widest.iter_mut().find(ends) {
                Some(other) if other.from <= window.from => {}
                Some(other) => *other = window,
                None => widest.push(window),
            }
        }
    }
    widest.sort_by_key(|window| (window.timeline, window.from));
    Ok(widest)
}

impl Listed {
    fn of(archive: &Path) -> Result<Self, Failure> {
        let catalogue = Catalogue::open(Arc::new(RealFiles::new(archive.to_owned())))?;
        let survey = catalogue.survey().map_err(archive::ArchiveError::from)?;
        let store = Backups::open(archive)?;
        let (backups, broken) = store.list()?;
        let holds = store.restore_holds()?;
        let windows = windows(&catalogue, &survey, &backups)?;
        let wrong: Vec<_> = backups.iter().map(|backup| wrong_below(&backups, backup)).collect();
        let entries = backups.into_iter().zip(wrong).zip(windows);
        let backups = entries
            .map(|((backup, wrong_below), windows)| Entry { backup, wrong_below, windows })
            .collect();
        Ok(Self { backups, broken, holds, timelines: catalogue.overview(&survey)? })
    }

    fn as_json(&self) -> Value {
        let backups = self.backups.iter().map(|Entry { backup, wrong_below, windows }| {
            let mut value = backup_as_json(backup);
            match wrong_below {
                Some(error @ BackupError::DamagedOnServer { .. }) => {
                    value["damaged_below"] = error.to_string().into();
                }
                Some(error) => value["unusable"] = error.to_string().into(),
                None => {}
            }
            value["windows"] = windows.iter().map(window_as_json).collect();
            value
        });
        let broken = self
            .broken
            .iter()
            .map(|broken| json!({"id": broken.id, "error": broken.error.to_string()}));
        let timelines = self.timelines.iter().map(timelines::as_json);
        json!({
            "backups": backups.collect::<Vec<_>>(),
            "broken": broken.collect::<Vec<_>>(),
            "holds": self.holds.iter().map(hold_as_json).collect::<Vec<_>>(),
            "timelines": timelines.collect::<Vec<_>>(),
        })
    }

    fn as_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string doesn't fail.
        for Entry { backup, wrong_below, windows } in &self.backups {
            let from = if backup.from_standby { "a standby" } else { "the primary" };
            _ = writeln!(
                text,
                "backup {}  \"{}\", {} in {} files, from {from}, {} to {}{}",
                backup.id,
                backup.label,
                size(backup.bytes() as f64),
                backup.files,
                backup.started,
                backup.ended,
                if backup.damage.is_empty() { "" } else { "; DAMAGED on the server" }
            );
            if let Some(parent) = backup.parent() {
                _ = match wrong_below {
                    Some(error @ BackupError::DamagedOnServer { .. }) => {
                        writeln!(text, "    incremental after {parent}; DAMAGED: {error}")
                    }
                    Some(error) => writeln!(text, "    UNUSABLE: {error}"),
                    None => writeln!(text, "    incremental: what changed since {parent}"),
                };
            }
            for window in windows {
                _ = writeln!(text, "    {}", window_as_text(window));
            }
            if windows.is_empty() {
                text.push_str("    no WAL of its timeline is archived\n");
            }
        }
        if self.backups.is_empty() {
            text.push_str("no backup is there yet: take one with `seawall backup`\n");
        }
        for broken in &self.broken {
            _ = writeln!(text, "BROKEN {}", broken.error);
        }
        for hold in &self.holds {
            _ = writeln!(text, "hold {}", hold_as_text(hold));
        }
        text + &timelines::as_text(&self.timelines)
    }
}

/// What an incremental backup lacks, or what is wrong with what it stands on.
fn wrong_below(all: &[Description], backup: &Description) -> Option<BackupError> {
    let error = sound(all, backup).err()?;
    // Its own damage is told of beside its name.
    let own = matches!(&error, BackupError::DamagedOnServer { link, .. } if *link == backup.id);
    (!own).then_some(error)
}

pub(crate) fn window_as_text(window: &Window) -> String {
    let Window { timeline, from, to, .. } = window;
    if !window.is_open() {
        return format!("on timeline {timeline}: nothing, since WAL is missing from {to} on");
    }
    let since = window
        .from_time
        .map_or_else(String::new, |time| format!("; times from {} on", show_time(time)));
    let until = window.to_time.map_or_else(String::new, |time| {
        format!(", where the last commit is of {}", show_time(time))
    });
    format!("on timeline {timeline}: everything from {from} to {to}{until}{since}")
}

/// WAL that a restored server is kept for.
pub(crate) fn hold_as_text(hold: &RestoreHold) -> String {
    let RestoreHold { name, data, from, until } = hold;
    let over = if *until <= Timestamp::now() { " (over)" } else { "" };
    let (timeline, lsn, until) = (from.timeline, from.lsn, until.strftime("%FT%TZ"));
    format!("{name}  timeline {timeline} from {lsn} on, for {data}, until {until}{over}")
}

pub(crate) fn hold_as_json(hold: &RestoreHold) -> Value {
    json!({
        "name": hold.name,
        "data": hold.data,
        "timeline": hold.from.timeline.as_u32(),
        "from": hold.from.lsn.to_string(),
        "until": hold.until.strftime("%FT%TZ").to_string(),
    })
}

/// A backup for programs.
pub(crate) fn backup_as_json(backup: &Description) -> Value {
    let mut value = serde_json::to_value(backup).unwrap_or_default();
    value["bytes"] = backup.bytes().into();
    value
}

pub(crate) fn window_as_json(window: &Window) -> Value {
    json!({
        "timeline": window.timeline.as_u32(),
        "open": window.is_open(),
        "from": window.from.to_string(),
        "to": window.to.to_string(),
        "from_time": window.from_time.map(show_time),
        "to_time": window.to_time.map(show_time),
    })
}
