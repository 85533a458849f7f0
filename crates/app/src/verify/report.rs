//! What a verification came to: what is damaged, and what can be recovered all the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use archive::{Bounds, Catalogue, Damage, Missing, Survey};
use backup::{BackupError, Broken, Description, Fault, Window, sound};
use pg_types::{Branch, Lsn, SegmentSize, TimelineId};
use serde_json::{Value, json};

use crate::observer::size;
use crate::{Failure, gaps, list};

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) damages: Vec<Damage>,
    pub(crate) broken: Vec<Broken>,
    pub(crate) backups: Vec<Checked>,
    pub(super) missing: Vec<Missing>,
    pub(super) strangers: Vec<PathBuf>,
    /// Segments that were given up, and are there still.
    leftovers: usize,
    pub(super) read_bytes: u64,
    pub(super) read_segments: u64,
    pub(super) unchanged_segments: u64,
    pub(super) read_backups: u64,
    pub(super) unchanged_backups: u64,
}

/// A backup, and what can be recovered from it.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) description: Description,
    pub(crate) faults: Vec<Fault>,
    /// What the server itself had found damaged, in it or below it.
    damaged: Option<String>,
    windows: Vec<Range>,
}

/// What can be recovered on a timeline, and why not more.
#[derive(Debug)]
struct Range {
    window: Window,
    /// `None` where it goes to the end of what is archived.
    because: Option<String>,
}

impl Checked {
    /// Whether it is as it was, and good for something.
    fn is_sound(&self) -> bool {
        self.faults.is_empty() && self.is_recoverable()
    }

    /// Whether anything can be recovered from it, on its own timeline at the least.
    pub(crate) fn is_recoverable(&self) -> bool {
        let own = self.description.stop.timeline;
        let open = |range: &Range| range.window.is_open() && range.window.timeline >= own;
        !self.faults.iter().any(Fault::forbids_recovery) && self.windows.iter().any(open)
    }
}

impl Report {
    /// Adds damage, unless that place is named already.
    pub(super) fn add(&mut self, damages: Vec<Damage>) {
        for damage in damages {
            let same = |other: &Damage| (&other.path, other.at) == (&damage.path, damage.at);
            if !self.damages.iter().any(same) {
                self.damages.push(damage);
            }
        }
    }

    /// Looks what can be recovered with what is damaged; `ends` is how far each timeline goes, and
    /// only WAL from the bounds on was asked for.
    pub(super) fn finish(
        &mut self,
        catalogue: &Catalogue,
        survey: &Survey,
        backups: Vec<(Description, Vec<Fault>)>,
        (ends, bounds): (&BTreeMap<TimelineId, Lsn>, &Bounds),
    ) -> Result<(), Failure> {
        self.damages.sort_by(|a, b| (a.timeline, a.at, &a.path).cmp(&(b.timeline, b.at, &b.path)));
        self.leftovers = survey.leftovers().map(|(_, segments)| segments.count()).sum();
        // What is wrong with `gaps.json` was said.
        self.missing = catalogue.missing(survey).unwrap_or_default();
        let size = catalogue.layout().segment_size;
        self.missing.retain(|missing| {
            bounds.get(&missing.timeline).is_none_or(|first| missing.to.segment(size) > *first)
        });
        let branches: Vec<Branch> = survey
            .timelines()
            .filter_map(|(timeline, _)| list::branch_of(catalogue, timeline).ok().flatten())
            .collect();
        let descriptions: Vec<Description> =
            backups.iter().map(|(description, _)| description.clone()).collect();
        let mut windows = Window::all(catalogue, survey, &descriptions, &branches)?;
        for (place, (description, faults)) in backups.into_iter().enumerate() {
            let own = windows.get_mut(place).map(std::mem::take).unwrap_or_default();
            let windows = own.into_iter().filter_map(|window| {
                let branch = branches.iter().find(|of| of.timeline() == window.timeline)?;
                let end = ends.get(&window.timeline).copied().unwrap_or_default();
                Some(self.range(window, branch, &description, end, catalogue))
            });
            let windows = windows.collect();
            let damaged = match sound(&descriptions, &description) {
                Err(error @ BackupError::DamagedOnServer { .. }) => Some(error.to_string()),
                // What it lacks is among its faults.
                _ => None,
            };
            self.backups.push(Checked { description, faults, damaged, windows });
        }
        Ok(())
    }

    /// Ends a window at the first damage in it.
    fn range(
        &self,
        window: Window,
        branch: &Branch,
        backup: &Description,
        end: Lsn,
        catalogue: &Catalogue,
    ) -> Range {
        let segment_size = catalogue.layout().segment_size;
        let from = backup.start.lsn.segment_start(segment_size);
        let on_branch = |damage: &&Damage| {
            let on = branch.stretch_of(damage.at.segment(segment_size), segment_size);
            on.is_some_and(|on| on.timeline == damage.timeline)
        };
        let damages = self.damages.iter().filter(|damage| damage.kind.concerns_recovery());
        let damages = damages.filter(|damage| damage.at >= from && damage.at.is_valid());
        let first = damages.filter(on_branch).min_by_key(|damage| damage.at);
        if let Some(damage) = first.filter(|damage| damage.at <= window.to) {
            let because = Some(format!("{} is damaged at {}", damage.path.display(), damage.at));
            return Range { window: Window { to: damage.at, ..window }, because };
        }
        let missing =
            self.missing.iter().find(|missing| missing.ends(branch, window.to, segment_size));
        let because = match missing {
            Some(missing) => Some(format!("WAL is missing: {}", gaps::as_text(missing))),
            None if window.to < end => Some(format!("nothing is proved from {} on", window.to)),
            None => None,
        };
        Range { window, because }
    }

    /// Whether all that is archived holds, and every backup is good for something.
    pub(crate) fn is_sound(&self) -> bool {
        self.damages.is_empty()
            && self.broken.is_empty()
            && self.missing.iter().all(|missing| missing.gap.is_some())
            && self.backups.iter().all(Checked::is_sound)
    }

    /// What forbids to expire anything, if these backups and the WAL from these bounds on are what
    /// is left; `None` if nothing does.
    pub(crate) fn forbids(
        &self,
        counted: &[&str],
        bounds: &Bounds,
        size: SegmentSize,
    ) -> Option<String> {
        let stays = |timeline: TimelineId, at: Lsn| {
            bounds.get(&timeline).is_none_or(|first| at.segment(size) >= *first)
        };
        if let Some(damage) =
            self.damages.iter().find(|of| !of.at.is_valid() || stays(of.timeline, of.at))
        {
            return Some(format!("{}: {}", damage.path.display(), damage.kind));
        }
        let hole = |of: &&Missing| of.gap.is_none() && stays(of.timeline, of.from);
        if let Some(missing) = self.missing.iter().find(hole) {
            return Some(format!("WAL is missing: {}", gaps::as_text(missing)));
        }
        let is_counted = |backup: &&Checked| counted.contains(&backup.description.id.as_str());
        let bad = self.backups.iter().filter(is_counted).find(|backup| !backup.is_sound())?;
        let id = &bad.description.id;
        Some(match bad.faults.first() {
            Some(fault) => format!("backups/{id}/{fault}"),
            None => format!("the backup {id} can't be recovered"),
        })
    }

    pub(crate) fn as_json(&self) -> Value {
        let damages = self.damages.iter().map(|damage| {
            json!({
                "file": damage.path.display().to_string(),
                "timeline": damage.timeline.as_u32(),
                "lsn": damage.at.is_valid().then(|| damage.at.to_string()),
                "what": damage.kind.to_string(),
            })
        });
        let backups = self.backups.iter().map(|backup| {
            let faults = backup.faults.iter().map(|fault| {
                json!({
                    "file": fault.file.display().to_string(),
                    "member": fault.member.as_ref().map(ToString::to_string),
                    "what": fault.kind.to_string(),
                })
            });
            let windows = backup.windows.iter().map(|range| {
                let mut value = list::window_as_json(&range.window);
                value["ends_because"] = range.because.as_deref().into();
                value
            });
            json!({
                "id": backup.description.id,
                "recoverable": backup.is_recoverable(),
                "faults": faults.collect::<Vec<_>>(),
                "damaged_on_server": backup.description.damage,
                "damaged": backup.damaged,
                "windows": windows.collect::<Vec<_>>(),
            })
        });
        let broken = self
            .broken
            .iter()
            .map(|broken| json!({"id": broken.id, "error": broken.error.to_string()}));
        json!({
            "sound": self.is_sound(),
            "damages": damages.collect::<Vec<_>>(),
            "backups": backups.collect::<Vec<_>>(),
            "broken": broken.collect::<Vec<_>>(),
            "missing": self.missing.iter().map(gaps::as_json).collect::<Vec<_>>(),
            "strangers": self.strangers.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            "leftovers": self.leftovers,
            "read": {"bytes": self.read_bytes, "segments": self.read_segments, "backups": self.read_backups},
            "unchanged": {"segments": self.unchanged_segments, "backups": self.unchanged_backups},
        })
    }

    pub(crate) fn as_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string doesn't fail.
        for damage in &self.damages {
            let at =
                if damage.at.is_valid() { format!(" at {}", damage.at) } else { String::new() };
            _ = writeln!(text, "DAMAGED  {}{at}: {}", damage.path.display(), damage.kind);
        }
        for broken in &self.broken {
            _ = writeln!(text, "DAMAGED  {}", broken.error);
        }
        for backup in &self.backups {
            let id = &backup.description.id;
            for fault in &backup.faults {
                _ = writeln!(text, "DAMAGED  backups/{id}/{fault}");
            }
        }
        for missing in &self.missing {
            _ = writeln!(text, "missing  {}", gaps::as_text(missing));
        }
        for stranger in &self.strangers {
            _ = writeln!(text, "note     {} isn't anything that belongs there", stranger.display());
        }
        if self.leftovers > 0 {
            let count = self.leftovers;
            _ = writeln!(
                text,
                "note     {count} expired segments are there still: `seawall expire` removes them"
            );
        }
        for backup in &self.backups {
            self.describe(&mut text, backup);
        }
        _ = writeln!(
            text,
            "{}: {} in {} segments and {} backups were read; {} segments and {} backups haven't \
             changed since they were",
            if self.is_sound() { "sound" } else { "NOT SOUND" },
            size(self.read_bytes as f64),
            self.read_segments,
            self.read_backups,
            self.unchanged_segments,
            self.unchanged_backups,
        );
        text
    }

    fn describe(&self, text: &mut String, backup: &Checked) {
        let id = &backup.description.id;
        let verdict = match (backup.faults.len(), backup.is_recoverable()) {
            (0, true) => "holds",
            (_, true) => "can be recovered, for all that",
            (_, false) => "CAN'T BE RECOVERED",
        };
        _ = writeln!(text, "backup   {id}: {verdict}");
        if let Some(damaged) = &backup.damaged {
            _ = writeln!(text, "         as it was taken: {damaged}");
        }
        for range in &backup.windows {
            let because = range.because.as_ref().map_or(String::new(), |why| format!("; {why}"));
            _ = writeln!(text, "         {}{because}", list::window_as_text(&range.window));
        }
        if backup.windows.is_empty() {
            text.push_str("         no WAL of its timeline is archived\n");
        }
    }
}
