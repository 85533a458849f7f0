//! `seawall restore`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use archive::{Catalogue, Survey};
use backup::{
    BackupError, Backups, Chosen, Description, Destination, Link, Point, Recovery, RestoreHold,
    Standby, Target, chain, choose, quote_shell, restore, sound,
};
use disk::RealFiles;
use jiff::Timestamp;
use pg_types::{Branch, TimelineId};

use crate::cli::{RestoreArgs, TargetArgs, TargetTimeline};
use crate::failure::steady;
use crate::find::{parse_time, show_time};
use crate::list::branch_of;
use crate::log;
use crate::observer::size;
use crate::{Exit, Failure, gaps};

/// Threads beyond that have only the disk to wait for.
const MAX_JOBS: usize = 64;
/// With fewer, all of them may wait for the disk at once.
const FEWEST_JOBS: usize = 4;

pub(crate) fn run(args: &RestoreArgs) -> Result<(), Failure> {
    let _log = log::start(args.talk, false, Some(&args.archive));
    let about = |failure: Failure| failure.of(&format!("the archive {}", args.archive.display()));
    let catalogue = Catalogue::open(Arc::new(RealFiles::new(args.archive.clone())));
    let catalogue = catalogue.map_err(|error| about(error.into()))?;
    let backups = Backups::open(&args.archive)?;
    let (all, candidates) = candidates(&backups, args.backup.as_deref())?;
    let target = target(&args.target)?;
    let inclusive = !args.target.target_exclusive;
    let (chosen, newest, hole) = steady(|| {
        let survey = catalogue.survey().map_err(|error| about(BackupError::from(error).into()))?;
        let branch = branch(&catalogue, &survey, &candidates, args.target.target_timeline)?;
        let newest = survey.timelines().next_back().map(|(timeline, _)| timeline);
        let target = (&target, inclusive);
        let chosen = choose(&catalogue, &survey, &candidates, &branch, target, &show_time)?;
        // What is wrong with `gaps.json` is no reason to give nothing back.
        let missing = catalogue.missing(&survey).unwrap_or_default();
        let size = catalogue.layout().segment_size;
        let hole = missing.into_iter().find(|of| of.ends(&branch, chosen.window.to, size));
        Ok((chosen, newest, hole))
    })?;
    let destination = destination(args, chosen.backup)?;
    destination.examine(chosen.backup.server_major())?;
    tell(&chosen);
    if let Some(hole) = hole.filter(|_| target == Target::End) {
        tracing::warn!(
            "WAL is missing, and recovery ends there though there is more behind it: {}; `seawall \
             repair` fills it from wherever the segments still are",
            gaps::as_text(&hole)
        );
    }
    if chosen.backup.tablespaces.iter().any(|space| Path::new(&space.location).is_relative()) {
        tracing::warn!(
            "the cluster has tablespaces within its data directory: its recovery needs \
             allow_in_place_tablespaces = on"
        );
    }
    let recovery = recovery(args, &chosen, target, newest)?;
    let mut links = Vec::new();
    for description in chain(&all, chosen.backup)? {
        let directory = backups.directory(&description.id)?;
        links.push(Link { directory, description });
    }
    let hold = RestoreHold {
        name: format!("restore-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ")),
        data: destination.data.display().to_string(),
        from: Point { timeline: chosen.window.timeline, lsn: chosen.backup.start.lsn },
        until: Timestamp::now().saturating_add(args.hold).unwrap_or(Timestamp::MAX),
    };
    write(args, (&backups, &hold), &links, &destination, &recovery)
}

/// The backups that there are, and those that may be restored.
fn candidates(
    backups: &Backups,
    wanted: Option<&str>,
) -> Result<(Vec<Description>, Vec<Description>), Failure> {
    let (everything, broken) = backups.list()?;
    let mut all = everything.clone();
    if let Some(id) = wanted {
        if let Some(broken) = broken.into_iter().find(|broken| broken.id == id) {
            return Err(broken.error.into());
        }
        all.retain(|backup| backup.id == id);
        let Some(backup) = all.first() else {
            return Err(BackupError::NoBackup { id: id.to_owned() }.into());
        };
        match sound(&everything, backup) {
            Ok(_) => {}
            Err(error @ BackupError::DamagedOnServer { .. }) => tracing::warn!("{error}"),
            Err(error) => return Err(error.into()),
        }
    } else {
        for broken in broken {
            tracing::warn!("{}", broken.error);
        }
        let mut unfit = None;
        all.retain(|backup| match by_itself(&everything, backup) {
            Ok(()) => true,
            Err(failure) => {
                tracing::warn!("{failure}");
                unfit = Some(failure);
                false
            }
        });
        if let Some(failure) = unfit.filter(|_| all.is_empty()) {
            return Err(failure);
        }
    }
    Ok((everything, all))
}

/// Whether a backup is taken that nobody named: what the server found damaged isn't.
fn by_itself(all: &[Description], backup: &Description) -> Result<(), Failure> {
    match sound(all, backup) {
        Ok(_) => Ok(()),
        Err(error @ BackupError::DamagedOnServer { .. }) => Err(Failure::failed(format!(
            "{error}; `--backup {}` restores it all the same",
            backup.id
        ))),
        Err(error) => Err(error.into()),
    }
}

fn target(args: &TargetArgs) -> Result<Target, Failure> {
    if let Some(time) = &args.target_time {
        return Ok(Target::Time(parse_time(time)?));
    }
    if let Some(lsn) = args.target_lsn {
        return Ok(Target::Lsn(lsn));
    }
    if let Some(xid) = args.target_xid {
        // As the server compares it: without its epoch.
        let low = u32::try_from(xid & u64::from(u32::MAX)).unwrap_or_default();
        return Ok(Target::Xid(low));
    }
    if let Some(name) = &args.target_name {
        return Ok(Target::Name(name.clone()));
    }
    Ok(if args.target_immediate { Target::Immediate } else { Target::End })
}

/// The line of history that recovery goes along.
fn branch(
    catalogue: &Catalogue,
    survey: &Survey,
    candidates: &[Description],
    wanted: TargetTimeline,
) -> Result<Branch, Failure> {
    let newest = candidates.last();
    let timeline = match wanted {
        TargetTimeline::Number(timeline) => timeline,
        TargetTimeline::Current => newest.map_or(TimelineId::FIRST, |backup| backup.stop.timeline),
        TargetTimeline::Latest => {
            let comes_from = |branch: &Branch| {
                let mut stretches = branch.stretches().iter();
                candidates.is_empty()
                    || stretches.any(|stretch| {
                        candidates.iter().any(|backup| {
                            let stop = backup.stop;
                            stretch.timeline == stop.timeline
                                && stretch.end.is_none_or(|end| stop.lsn <= end)
                        })
                    })
            };
            let mut latest = None;
            for (timeline, _) in survey.timelines().rev() {
                if branch_of(catalogue, timeline)?.is_some_and(|branch| comes_from(&branch)) {
                    latest = Some(timeline);
                    break;
                }
            }
            latest.unwrap_or(TimelineId::FIRST)
        }
    };
    branch_of(catalogue, timeline)?.ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            format!("the history of timeline {timeline} isn't archived: which timelines it comes from isn't known"),
        )
    })
}

fn destination(args: &RestoreArgs, backup: &Description) -> Result<Destination, Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        Failure::failed(format!("{}: {error}", path.display()))
    };
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| failed(path, error));
    let suffix = || format!(".replaced-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
    let mut destination = Destination {
        data: absolute(&args.pgdata)?,
        archive: args.archive.clone(),
        tablespaces: Vec::new(),
        waldir: args.waldir.as_deref().map(absolute).transpose()?,
        replace: args.replace.then(suffix),
    };
    destination.map_tablespaces(backup, &args.tablespace_mapping)?;
    Ok(destination)
}

/// How the restored server recovers; `newest` is the newest timeline that is archived.
fn recovery(
    args: &RestoreArgs,
    chosen: &Chosen<'_>,
    target: Target,
    newest: Option<TimelineId>,
) -> Result<Recovery, Failure> {
    let standby = args.standby.standby.then(|| Standby {
        conninfo: args.standby.primary_conninfo.clone(),
        slot: args.standby.primary_slot.as_ref().map(ToString::to_string),
    });
    let restore_command = match &args.restore_command {
        Some(command) => command.clone(),
        None => {
            let flags = match standby {
                // The server asks again by itself, and a promotion waits for the answer.
                Some(_) => "--standby --retry-for 5",
                None if newest.is_none_or(|newest| newest <= chosen.window.timeline) => "--partial",
                None => "--partial --lost-branch",
            };
            restore_command(&args.archive, flags)?
        }
    };
    let time = if let Target::Time(time) = target { show_time(time) } else { String::new() };
    Ok(Recovery {
        server_major: chosen.backup.server_major(),
        restore_command,
        // A standby follows its primary, wherever that goes.
        timeline: standby.is_none().then_some(chosen.window.timeline),
        standby,
        target,
        time,
        inclusive: !args.target.target_exclusive,
        action: args.target.target_action.map(crate::cli::TargetAction::name),
    })
}

/// This program, with the archive's whole path: the server runs it from elsewhere.
pub(crate) fn restore_command(archive: &Path, flags: &str) -> Result<String, Failure> {
    let whole = |path: std::io::Result<PathBuf>, what: &str| {
        let path = path.map_err(|error| Failure::failed(format!("{what}: {error}")))?;
        match path.to_str() {
            Some(path) => Ok(quote_shell(path)),
            None => Err(Failure::failed(format!(
                "{what}: {} isn't UTF-8, which a server's configuration has to be; give the \
                 --restore-command yourself",
                path.display()
            ))),
        }
    };
    let program = whole(std::env::current_exe(), "this program's path")?;
    let archive = whole(archive.canonicalize(), "the archive's path")?;
    Ok(format!("{program} restore-wal -A {archive} {flags} \"%f\" \"%p\""))
}

fn tell(chosen: &Chosen<'_>) {
    let Chosen { backup, window, found } = chosen;
    let stops = match found {
        Some(found) => format!("recovery will stop at {}", found.lsn),
        None => format!("WAL is archived up to {}", window.to),
    };
    let after = match backup.parent() {
        Some(parent) => format!(", which follows {parent}"),
        None => String::new(),
    };
    tracing::info!(
        "restoring the backup {} of {}{after}; on timeline {} {stops}",
        backup.id,
        backup.started,
        window.timeline
    );
}

/// Before the backup is let go: from then on nothing else keeps its WAL.
fn hold_wal(backups: &Backups, hold: &RestoreHold) {
    match backups.hold_restored(hold) {
        Ok(name) => tracing::info!(
            "the WAL that recovery needs is held until {}; once the server has recovered, `seawall \
             expire --release {name} --yes` lets it go sooner",
            hold.until.strftime("%FT%TZ")
        ),
        // An archive that only its owner may write to is restored from by others.
        Err(error) => tracing::warn!(
            "nothing holds the WAL that recovery needs: {error}; don't expire the backup before the \
             server has recovered"
        ),
    }
}

fn write(
    args: &RestoreArgs,
    (backups, hold): (&Backups, &RestoreHold),
    chain: &[Link],
    destination: &Destination,
    recovery: &Recovery,
) -> Result<(), Failure> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = args.jobs.unwrap_or(processors.max(FEWEST_JOBS)).clamp(1, MAX_JOBS);
    // As long as they are read they aren't expired; they may have been before.
    let reading = chain.iter().map(|link| link.directory.lock_shared());
    let _reading = reading.collect::<Result<Vec<_>, _>>().map_err(BackupError::from)?;
    let (there, _) = backups.list()?;
    if let Some(gone) = chain.iter().find(|link| !there.contains(&link.description)) {
        return Err(BackupError::NoBackup { id: gone.description.id.clone() }.into());
    }
    if !args.hold.is_zero() {
        hold_wal(backups, hold);
    }
    let unfinished = |error: BackupError| {
        let what = format!("{} isn't a cluster, and no server starts there", args.pgdata.display());
        Failure::from(error).of(&what)
    };
    let restored = restore(chain, destination, threads).map_err(unfinished)?;
    for aside in &restored.aside {
        tracing::info!("what was there is {} now", aside.display());
    }
    for (name, content) in recovery.files(restored.auto_conf()) {
        restored.add(name, &content).map_err(unfinished)?;
    }
    let (files, bytes) = (restored.files, restored.bytes);
    restored.complete().map_err(unfinished)?;
    tracing::info!(
        "restored {files} files of {} into {}: start the server",
        size(bytes as f64),
        args.pgdata.display()
    );
    Ok(())
}
