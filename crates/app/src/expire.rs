//! `seawall expire`: removes backups that nobody needs any more, and the WAL before those that are
//! kept.
//!
//! What goes is decided by [`backup::Plan`]. In this order it goes, each step durable before the
//! next, so that a kill anywhere leaves nothing promised that can't be kept:
//!
//! 1. what would be kept is verified, as far as it changed since it was;
//! 2. under the lock of whoever takes backups, so that none begins meanwhile, it is decided again;
//! 3. the backups that go aren't listed any more;
//! 4. `expired.json` says up to where WAL is given up: from then on nobody sees it;
//! 5. segments are removed, the oldest first, and the backups' files.
//!
//! Never: anything where what stays can't be read, or doesn't hold.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use archive::{Bounds, Catalogue, Hold, Survey};
use backup::{
    BackupError, Backups, Candidate, Description, Fate, Held, Inventory, Plan, Policy, Window,
    sound,
};
use disk::{Files, RealFiles, TreeLock};
use jiff::Timestamp;
use pg_types::{Branch, Lsn, TimelineId};
use serde_json::{Value, json};

use crate::cli::ExpireArgs;
use crate::failure::steady;
use crate::observer::size;
use crate::verify::{self, Scope};
use crate::{Exit, Failure, expire_named, list};

/// What its locks say who has them.
pub(crate) const HOLDER: &str = "seawall expire";
const LOCK: &str = "run/expire.lock";

pub(crate) fn run(args: &ExpireArgs) -> Result<(), Failure> {
    let about = |failure: Failure| failure.of(&format!("the archive {}", args.archive.display()));
    let text = match (&args.backup, &args.release) {
        (Some(id), _) => expire_named::backup(args, id),
        (None, Some(name)) => expire_named::hold(args, name),
        (None, None) => expire(args),
    };
    let text = text.map_err(about)?;
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::failed(format!("can't write the answer: {error}")))
}

fn expire(args: &ExpireArgs) -> Result<String, Failure> {
    let now = Timestamp::now();
    let since = args.keep_for.map(|time| now.saturating_sub(time));
    let since = since.transpose().map_err(|error| Failure::usage(error.to_string()))?;
    let policy = Policy { backups: args.keep_backups, since };
    let files: Arc<dyn Files> = Arc::new(RealFiles::new(args.archive.clone()));
    let catalogue = Catalogue::open(Arc::clone(&files))?;
    let scene = Scene { archive: &args.archive, files, catalogue, policy, now };
    if !args.yes {
        let lock = scene.backup_lock()?;
        let decided = steady(|| scene.decide(lock.is_none()))?;
        return Ok(decided.told(args.json, true));
    }
    let _one = lock(&*scene.files)?;
    // Its locks are given up: what is to be read may be so while this reads.
    let first = {
        let lock = scene.backup_lock()?;
        steady(|| scene.decide(lock.is_none()))?.into_plan()
    };
    scene.verify(&first)?;
    let lock = scene.backup_lock()?;
    let mut decided = steady(|| scene.decide(lock.is_none()))?;
    decided.plan = decided.plan.and(&first);
    scene.carry_out(&decided, lock)?;
    Ok(decided.told(args.json, false))
}

/// One expiry at a time.
pub(crate) fn lock(files: &dyn Files) -> Result<disk::Lock, Failure> {
    let holder = format!("{HOLDER}, process {}", std::process::id());
    files.lock(Path::new(LOCK), &holder).map_err(|error| match error {
        disk::LockError::Held { holder, .. } => {
            Failure::new(Exit::InUse, format!("another expiry is under way ({holder})"))
        }
        error => Failure::from(archive::ArchiveError::from(error)),
    })
}

struct Scene<'a> {
    archive: &'a Path,
    files: Arc<dyn Files>,
    catalogue: Catalogue,
    policy: Policy,
    now: Timestamp,
}

/// What was decided, and what it was decided from.
struct Decided {
    plan: Plan,
    survey: Survey,
    segment_bytes: u64,
    segment_size: pg_types::SegmentSize,
    descriptions: Vec<Description>,
    /// What else needed WAL.
    holds: Vec<Hold>,
    /// Of the backups that go: nobody begins to use one, meanwhile.
    _locks: BTreeMap<String, TreeLock>,
}

impl Scene<'_> {
    /// The right to take backups; `None` if one is being taken.
    fn backup_lock(&self) -> Result<Option<Held>, Failure> {
        let holder = format!("{HOLDER}, process {}", std::process::id());
        match Backups::open(self.archive)?.hold(&*self.files, &holder) {
            Ok(held) => Ok(Some(held)),
            Err(BackupError::Locked { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn decide(&self, under_way: bool) -> Result<Decided, Failure> {
        let survey = self.catalogue.survey().map_err(archive::ArchiveError::from)?;
        let backups = Backups::open(self.archive)?;
        let mut holds = self.catalogue.slot_holds()?;
        let restored = backups.restore_holds()?;
        holds.extend(restored.iter().filter_map(|hold| hold.hold(self.now)));
        // Before the list: one that is finished meanwhile is in it.
        if under_way {
            holds.extend(under_way_holds(&backups)?);
        }
        let (descriptions, broken) = backups.list()?;
        if let Some(broken) = broken.first() {
            return Err(Failure::failed(format!(
                "{}; what it needs isn't known, and so nothing is expired: put the file back from \
                 a copy, or move the directory away",
                broken.error
            )));
        }
        let mut timelines = BTreeMap::new();
        for (timeline, segments) in survey.timelines() {
            let line = list::branch_of(&self.catalogue, timeline)?;
            let (first, last) = (segments.iter().next(), segments.iter().next_back());
            if let (Some((first, _)), Some((last, _))) = (first, last) {
                timelines.insert(timeline, (line, first, last));
            }
        }
        let newest = timelines.values().next_back().and_then(|(line, ..)| line.clone());
        let (candidates, mut locks) = self.candidates(&survey, &backups, &descriptions, newest)?;
        let inventory = Inventory { backups: candidates, timelines, holds: holds.clone() };
        let segment_size = self.catalogue.layout().segment_size;
        let plan = Plan::of(&inventory, &self.policy, segment_size).map_err(Failure::failed)?;
        locks.retain(|id, _| plan.expired().any(|expired| expired == id));
        let segment_bytes = segment_size.bytes();
        Ok(Decided {
            plan,
            survey,
            segment_bytes,
            segment_size,
            descriptions,
            holds,
            _locks: locks,
        })
    }

    fn candidates(
        &self,
        survey: &Survey,
        backups: &Backups,
        descriptions: &[Description],
        newest: Option<Branch>,
    ) -> Result<(Vec<Candidate>, BTreeMap<String, TreeLock>), Failure> {
        let lines: Vec<Branch> = newest.into_iter().collect();
        let windows = Window::all(&self.catalogue, survey, descriptions, &lines)?;
        let (mut candidates, mut locks) = (Vec::new(), BTreeMap::new());
        for (description, windows) in descriptions.iter().zip(windows) {
            let lock = backups.directory(&description.id)?.try_lock().map_err(BackupError::from)?;
            let in_use = lock.is_none().then(|| "somebody restores it just now".to_owned());
            locks.extend(lock.map(|lock| (description.id.clone(), lock)));
            candidates.push(Candidate {
                id: description.id.clone(),
                start: description.start,
                stop: description.stop,
                ended: description.ended.parse().ok(),
                usable: sound(descriptions, description).is_ok()
                    && windows.iter().any(Window::is_open),
                needs: description.parent().map(str::to_owned),
                in_use,
            });
        }
        Ok((candidates, locks))
    }

    /// What would be kept has to hold.
    fn verify(&self, plan: &Plan) -> Result<(), Failure> {
        let fates = plan.backups.iter();
        let kept = fates.clone().filter(|(_, fate)| fate.is_kept()).map(|(id, _)| id.clone());
        let counted: Vec<&str> = fates
            .filter(|(_, fate)| matches!(fate, Fate::Newest(_) | Fate::Reaches | Fate::Needed(_)))
            .map(|(id, _)| id.as_str())
            .collect();
        let bounds = plan.bounds();
        let scope =
            Scope { backups: Some(kept.collect()), bounds: bounds.clone(), ..Scope::default() };
        let report = steady(|| verify::examine(self.archive, &scope))?;
        match report.forbids(&counted, &bounds, self.catalogue.layout().segment_size) {
            None => Ok(()),
            Some(why) => Err(Failure::new(
                Exit::Corrupt,
                format!(
                    "nothing is expired, since what would be kept doesn't hold: {why}; `seawall \
                     verify` tells all of it"
                ),
            )),
        }
    }

    fn carry_out(&self, decided: &Decided, lock: Option<Held>) -> Result<(), Failure> {
        let now = self.now;
        let backups = Backups::open(self.archive)?;
        for id in decided.plan.expired() {
            backups.unlist(id)?;
        }
        let goes: Bounds = decided
            .plan
            .bounds()
            .into_iter()
            .filter(|(timeline, first)| decided.segments_before(*timeline, *first) > 0)
            .collect();
        if !goes.is_empty() {
            let at = now.strftime("%FT%TZ").to_string();
            self.catalogue.record_expiry(&goes, &at, &decided.holds)?;
        }
        for hold in backups.restore_holds()?.iter().filter(|hold| hold.hold(now).is_none()) {
            backups.release(&hold.name)?;
        }
        if let Some(held) = &lock {
            // What an expiry or a backup left that was killed.
            held.clear()?;
        }
        drop(lock);
        // What an earlier expiry left is among it.
        let survey = self.catalogue.survey().map_err(archive::ArchiveError::from)?;
        let total = survey.leftovers().map(|(_, segments)| segments.count()).sum::<usize>();
        let mut progress = crate::backup::Progress::new(crate::terminal::is_watched());
        let bytes = decided.segment_bytes;
        let mut show = |removed: u64| progress.show(removed * bytes, total as u64 * bytes);
        self.catalogue.remove_expired(&survey, &mut show)?;
        progress.end();
        for id in decided.plan.expired() {
            backups.remove_files(id)?;
        }
        Ok(())
    }
}

/// What a backup that is being taken needs; everything, before it is known.
fn under_way_holds(backups: &Backups) -> Result<Vec<Hold>, Failure> {
    let unfinished = backups.unfinished()?;
    let known = unfinished.iter().filter_map(|of| {
        let start = of.start?;
        let what = format!("the backup {}, which is being taken", of.id);
        Some(Hold { what, timeline: Some(start.timeline), from: start.lsn })
    });
    let known: Vec<Hold> = known.collect();
    if !known.is_empty() {
        return Ok(known);
    }
    let what = "a backup that is just beginning".to_owned();
    Ok(vec![Hold { what, timeline: None, from: Lsn::INVALID }])
}

impl Decided {
    fn into_plan(self) -> Plan {
        self.plan
    }

    fn segments_before(&self, timeline: TimelineId, first: pg_types::SegmentNumber) -> u64 {
        let zero = pg_types::SegmentNumber::new(0);
        self.survey.of(timeline).count_within(zero..first)
    }

    fn told(&self, json: bool, dry: bool) -> String {
        if json { format!("{}\n", self.as_json(dry)) } else { self.as_text(dry) }
    }

    fn as_json(&self, dry: bool) -> Value {
        let backups =
            self.plan.backups.iter().map(
                |(id, fate)| json!({"id": id, "kept": fate.is_kept(), "why": fate.to_string()}),
            );
        let wal = self.plan.wal.iter().map(|(timeline, kept)| {
            let expired = self.segments_before(*timeline, kept.from);
            let all = self.survey.of(*timeline).count() as u64;
            json!({
                "timeline": timeline.as_u32(),
                "expired_segments": expired,
                "kept_segments": all - expired,
                "kept_from": kept.from.start(self.segment_size).to_string(),
                "kept_for": kept.by,
            })
        });
        json!({
            "dry_run": dry,
            "backups": backups.collect::<Vec<_>>(),
            "wal": wal.collect::<Vec<_>>(),
        })
    }

    fn as_text(&self, dry: bool) -> String {
        let mut text = String::new();
        // Writing to a string doesn't fail.
        for (id, fate) in &self.plan.backups {
            let description = self.descriptions.iter().find(|of| of.id == *id);
            let bytes = description.map_or(0, Description::bytes);
            _ = writeln!(text, "backup {id}, {}: {fate}", size(bytes as f64));
        }
        for (timeline, kept) in &self.plan.wal {
            let expired = self.segments_before(*timeline, kept.from);
            let all = self.survey.of(*timeline).count() as u64;
            let bytes = size(expired as f64 * self.segment_bytes as f64);
            let rest = match (&kept.by, all - expired) {
                (_, 0) | (None, _) => "nothing needs any of it".to_owned(),
                (Some(by), kept_segments) => {
                    let from = kept.from.start(self.segment_size);
                    format!("{kept_segments} kept, from {from} on, which {by} needs")
                }
            };
            _ = writeln!(text, "timeline {timeline}: {expired} segments expired, {bytes}; {rest}");
        }
        text.push_str(match dry {
            true => "a dry run: nothing was removed, and --yes removes it once what is kept is verified\n",
            false => "removed\n",
        });
        text
    }
}
