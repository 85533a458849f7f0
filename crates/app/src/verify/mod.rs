//! `seawall verify`: whether all that is archived still holds, and what can be recovered from it.
//!
//! What was proved once and hasn't changed since, by size, times and inode, isn't read again unless
//! that is asked for; what doesn't hold is, each time.

mod pass;
mod report;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use archive::{ArchiveError, Bounds, Catalogue, Damage, DamageKind, RunEnd, Survey, Unfinished};
use backup::{
    BackupError, Backups, Contents, Description, Fault, FaultKind, Link, can_restore, chain,
};
use disk::{AlignedBuf, RealFiles};
use pg_types::{Lsn, SegmentNumber, TimelineId};

use self::pass::{Job, READ_BYTES, Work};
pub(crate) use self::report::Report;
use self::state::{Identity, State};
use crate::cli::VerifyArgs;
use crate::failure::steady;
use crate::{Exit, Failure, board};

/// So often a segment is looked at that somebody may be writing to, this far apart: a write takes
/// some milliseconds.
const PARTIAL_LOOKS: usize = 20;
const PARTIAL_POLL: Duration = Duration::from_millis(100);

/// What is looked at; all of it unless said otherwise.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    /// Only these backups.
    pub(crate) backups: Option<BTreeSet<String>>,
    /// Only WAL from here on.
    pub(crate) bounds: Bounds,
    /// Also what hasn't changed.
    pub(crate) full: bool,
    /// Threads; as many as there are processors unless said otherwise.
    pub(crate) jobs: Option<usize>,
}

pub(crate) fn run(args: &VerifyArgs) -> Result<ExitCode, Failure> {
    let about = |failure: Failure| failure.of(&format!("the archive {}", args.archive.display()));
    let scope = match args.backup.as_slice() {
        [] => Scope::default(),
        named => steady(|| Scope::of(&args.archive, named)).map_err(about)?,
    };
    let scope = Scope { full: args.full, jobs: args.jobs, ..scope };
    let report = steady(|| examine(&args.archive, &scope)).map_err(about)?;
    let text = match report.is_sound() {
        true if args.quiet => String::new(),
        _ if args.json => format!("{}\n", report.as_json()),
        _ => report.as_text(),
    };
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::failed(format!("can't write the answer: {error}")))?;
    let sound = report.is_sound();
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(Exit::Corrupt as u8) })
}

impl Scope {
    /// The named backups with those that they stand on, and the WAL that they are recovered by.
    fn of(archive: &Path, named: &[String]) -> Result<Self, Failure> {
        let catalogue = Catalogue::open(Arc::new(RealFiles::new(archive.to_owned())))?;
        let survey = catalogue.survey().map_err(ArchiveError::from)?;
        let (all, broken) = Backups::open(archive)?.list()?;
        let mut wanted: BTreeSet<String> = named.iter().cloned().collect();
        let mut starts = Vec::new();
        for id in named {
            match all.iter().find(|backup| backup.id == *id) {
                Some(backup) => {
                    starts.push(backup.start);
                    // What it lacks is told with everything else.
                    let chain = chain(&all, backup).unwrap_or_default();
                    wanted.extend(chain.into_iter().map(|link| link.id));
                }
                None if broken.iter().any(|of| of.id == *id) => {}
                None => return Err(BackupError::NoBackup { id: id.clone() }.into()),
            }
        }
        let bounds = survey.timelines().map(|(timeline, _)| {
            // No timeline comes from a newer one.
            let before = starts.iter().filter(|start| start.timeline <= timeline);
            let first =
                before.map(|start| start.lsn.segment(catalogue.layout().segment_size)).min();
            (timeline, first.unwrap_or(SegmentNumber::new(u64::MAX)))
        });
        Ok(Self { backups: Some(wanted), bounds: bounds.collect(), ..Self::default() })
    }
}

/// Reads what is to be read, and says what it came to.
pub(crate) fn examine(archive: &Path, scope: &Scope) -> Result<Report, Failure> {
    let catalogue = Catalogue::open(Arc::new(RealFiles::new(archive.to_owned())))?;
    // Its positions are asked for first, so that what it writes meanwhile is behind them.
    let receiver = board::ask(archive)
        .map_err(|error| Failure::failed(format!("the receiver doesn't answer: {error}")))?;
    let survey = catalogue.survey().map_err(ArchiveError::from)?;
    let names = catalogue.verify_names(&survey).map_err(ArchiveError::from)?;
    let state = State::load(archive);
    let mut report = Report::default();
    report.damages.extend(names.damages);
    report.strangers.extend(names.strangers);
    let mut wal = Wal::of(archive, (&catalogue, &survey), &state, scope);
    let backups = Stored::all(archive, &state, scope, (&mut wal.verified, &mut report))?;
    let jobs = wal.jobs(&catalogue).into_iter().chain(Stored::jobs(&backups)).collect();
    let contents = backups.iter().map(|backup| backup.contents.as_ref()).collect();
    let done = Work::new(&catalogue, contents, jobs).run(scope.jobs);
    report.read_bytes = done.bytes;
    wal.take(&catalogue, &survey, &done.runs, receiver.as_ref(), &mut report)?;
    let mut faulty: BTreeMap<usize, Vec<Fault>> = BTreeMap::new();
    for (place, fault) in done.faults {
        faulty.entry(place).or_default().push(fault);
    }
    let mut looked = Vec::new();
    for (place, stored) in backups.into_iter().enumerate() {
        let read = stored.contents.is_some();
        let mut faults = stored.contents.map(|contents| contents.faults).unwrap_or_default();
        faults.extend(faulty.remove(&place).unwrap_or_default());
        faults.extend(of_another_cluster(&catalogue, &stored.description));
        faults.sort_by(|a, b| (&a.file, &a.member).cmp(&(&b.file, &b.member)));
        if !faults.is_empty() {
            // One that is expired meanwhile is no damage.
            let gone =
                !archive.join("backups").join(&stored.description.id).join("backup.json").exists();
            if gone {
                continue;
            }
        }
        let (description, files) = (stored.description, stored.files);
        looked.push(Looked { holds: faults.is_empty(), description, files, read, faults });
    }
    links(&Backups::open(archive)?, &mut looked)?;
    let verified = looked.iter_mut().filter(|of| of.holds);
    wal.verified.extend(verified.flat_map(|of| std::mem::take(&mut of.files)));
    let looked = looked.into_iter().map(|of| (of.description, of.faults)).collect();
    report.finish(&catalogue, &survey, looked, (&wal.ends, &scope.bounds))?;
    for damage in &report.damages {
        wal.verified.remove(&damage.path.display().to_string());
    }
    State::save(archive, &wal.verified);
    Ok(report)
}

/// A backup that somebody put there from elsewhere.
fn of_another_cluster(catalogue: &Catalogue, description: &Description) -> Option<Fault> {
    let archived = catalogue.identity().system_id.to_string();
    (description.system_identifier != archived).then(|| Fault {
        file: PathBuf::from("backup.json"),
        member: None,
        kind: FaultKind::Manifest(format!(
            "it is of the cluster with system identifier {}, and the archive is of {archived}",
            description.system_identifier
        )),
    })
}

/// A backup that was looked at.
struct Looked {
    description: Description,
    /// Its files, as they were before.
    files: Vec<(String, Identity)>,
    /// Whether it was read, and not known from before.
    read: bool,
    faults: Vec<Fault>,
    /// Whether it needn't be read the next time.
    holds: bool,
}

/// What an incremental backup stands on has to be there, to hold, and to have what it doesn't.
fn links(store: &Backups, looked: &mut [Looked]) -> Result<(), Failure> {
    let (all, _) = store.list()?;
    let ids = |which: fn(&Looked) -> bool| -> BTreeSet<String> {
        looked.iter().filter(|of| which(of)).map(|of| of.description.id.clone()).collect()
    };
    let faulty = ids(|of| of.faults.iter().any(Fault::forbids_recovery));
    let read = ids(|of| of.read);
    for backup in looked.iter_mut().filter(|of| of.description.parent().is_some()) {
        let id = &backup.description.id;
        let what = match chain(&all, &backup.description) {
            Err(error) => error.to_string(),
            Ok(chain) => match chain.iter().find(|link| faulty.contains(&link.id)) {
                Some(link) if link.id == *id => continue,
                Some(link) => format!("it builds on the backup {}, which doesn't hold", link.id),
                None if !chain.iter().any(|link| read.contains(&link.id)) => continue,
                None => match combines(store, chain) {
                    Ok(()) => continue,
                    Err(error) => {
                        backup.holds = false;
                        error.to_string()
                    }
                },
            },
        };
        let file = PathBuf::from("backup.json");
        backup.faults.push(Fault { file, member: None, kind: FaultKind::Chain(what) });
    }
    Ok(())
}

fn combines(store: &Backups, chain: Vec<Description>) -> Result<(), BackupError> {
    let link = |description: Description| {
        Ok(Link { directory: store.directory(&description.id)?, description })
    };
    can_restore(&chain.into_iter().map(link).collect::<Result<Vec<_>, BackupError>>()?)
}

/// The segments, and which of them have to be read.
struct Wal {
    /// By timeline; `None` where one isn't read again.
    segments: BTreeMap<TimelineId, BTreeMap<SegmentNumber, Option<Identity>>>,
    partials: Vec<(TimelineId, SegmentNumber)>,
    /// How far each timeline goes.
    ends: BTreeMap<TimelineId, Lsn>,
    /// What holds, and needn't be read the next time.
    verified: BTreeMap<String, Identity>,
    unchanged: u64,
}

impl Wal {
    fn of(
        archive: &Path,
        (catalogue, survey): (&Catalogue, &Survey),
        state: &State,
        scope: &Scope,
    ) -> Self {
        let mut this = Self {
            segments: BTreeMap::new(),
            partials: Vec::new(),
            ends: BTreeMap::new(),
            verified: BTreeMap::new(),
            unchanged: 0,
        };
        for (timeline, segments) in survey.timelines() {
            let first = scope.bounds.get(&timeline).copied();
            let own = this.segments.entry(timeline).or_default();
            for (number, form) in segments.iter() {
                if Some(number) < first {
                    // Not asked for. What is before the bound is read again by who asks for all, so
                    // that the border with what was read now is proved.
                    let name = catalogue.stored_file(timeline, number).display().to_string();
                    let known = state.verified(&name).filter(|_| Some(number.next()) != first);
                    this.verified.extend(known.map(|identity| (name, identity)));
                    continue;
                }
                if !form.is_sealed() {
                    this.partials.push((timeline, number));
                    continue;
                }
                this.ends.insert(timeline, number.end(catalogue.layout().segment_size));
                let path = catalogue.stored_file(timeline, number);
                let identity = Identity::of(&archive.join(&path));
                let name = path.display().to_string();
                let known = identity.filter(|identity| !scope.full && state.knows(&name, identity));
                if let Some(identity) = known {
                    this.unchanged += 1;
                    this.verified.insert(name, identity);
                    own.insert(number, None);
                } else {
                    own.insert(number, Some(identity.unwrap_or_default()));
                }
            }
        }
        this
    }

    /// The runs to read.
    fn jobs(&self, catalogue: &Catalogue) -> Vec<Job> {
        let size = catalogue.layout().segment_size;
        let mut jobs = Vec::new();
        for (timeline, segments) in &self.segments {
            let read = segments.iter().filter(|(_, identity)| identity.is_some());
            jobs.extend(pass::runs(*timeline, read.map(|(number, _)| *number), size));
        }
        jobs
    }

    /// Takes what the runs came to, and proves what is between them.
    fn take(
        &mut self,
        catalogue: &Catalogue,
        survey: &Survey,
        runs: &pass::Runs,
        receiver: Option<&serde_json::Value>,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let mut buf = AlignedBuf::zeroed(READ_BYTES);
        let mut settled = Vec::new();
        let mut ends = BTreeMap::new();
        for ((timeline, start), (run, verdict)) in runs {
            report.read_segments += run.segments.end.as_u64() - start.as_u64();
            report.damages.extend(verdict.damages.iter().cloned());
            settled.extend(verdict.settled.iter().map(|number| (*timeline, *number)));
            // Where a segment went while this ran, it is sealed no more, or expired.
            ends.insert((*timeline, run.segments.end), verdict.end.clone());
        }
        for (timeline, segments) in &self.segments {
            for (number, identity) in segments {
                let before = ends.get(&(*timeline, *number));
                let behind = runs.get(&(*timeline, *number));
                // Between two that were read before, or within a run, nothing is new.
                if before.is_none() && (behind.is_none() || identity.is_none()) {
                    continue;
                }
                let behind = behind.map(|(run, verdict)| (run, verdict));
                let border =
                    catalogue.verify_border(*timeline, *number, before, behind, &mut buf)?;
                report.add(border.damages);
                settled.extend(border.settled.into_iter().map(|number| (*timeline, number)));
                if let (Some(end), Some((run, _))) = (border.end, behind) {
                    ends.insert((*timeline, run.segments.end), end);
                }
            }
        }
        let newest = survey.timelines().next_back().map(|(timeline, _)| timeline);
        for (timeline, number) in &self.partials {
            let before = ends.get(&(*timeline, *number));
            let live = receiver.filter(|_| newest == Some(*timeline));
            let read = partial(catalogue, *timeline, *number, (before, live), &mut buf, report)?;
            let Some(read) = read else { continue };
            settled.extend(read.settled.iter().map(|number| (*timeline, *number)));
            let end = self.ends.entry(*timeline).or_default();
            *end = read.proved.max(*end);
        }
        for (timeline, number) in settled {
            let identity = self.segments.get(&timeline).and_then(|of| of.get(&number)).copied();
            if let Some(identity) = identity.flatten() {
                let name = catalogue.stored_file(timeline, number).display().to_string();
                self.verified.insert(name, identity);
            }
        }
        report.unchanged_segments = self.unchanged;
        Ok(())
    }
}

/// Reads a segment that isn't whole; `None` if it can't be read, or isn't there any more.
fn partial(
    catalogue: &Catalogue,
    timeline: TimelineId,
    number: SegmentNumber,
    (before, live): (Option<&RunEnd>, Option<&serde_json::Value>),
    buf: &mut AlignedBuf,
    report: &mut Report,
) -> Result<Option<Unfinished>, Failure> {
    let size = catalogue.layout().segment_size;
    let path = catalogue.layout().partial(timeline, number);
    let mut looked = catalogue.verify_partial(timeline, number, before, buf);
    // Somebody may be writing to it, not all of what is behind having come yet.
    for _ in 0..PARTIAL_LOOKS {
        let Ok(Some(unfinished)) = &looked else { break };
        if live.is_some() || unfinished.behind.is_none() {
            break;
        }
        std::thread::sleep(PARTIAL_POLL);
        let again = catalogue.verify_partial(timeline, number, before, buf);
        let still = again.as_ref().is_ok_and(|again| {
            again.as_ref().is_some_and(|again| again.proved == unfinished.proved)
        });
        looked = again;
        if still {
            break;
        }
    }
    let unfinished = match looked {
        // It got its final name, or was expired.
        Ok(None) => return Ok(None),
        Ok(Some(unfinished)) => unfinished,
        Err(ArchiveError::Disk(error)) => {
            let (at, kind) = (number.start(size), DamageKind::Unreadable(error.message));
            report.add(vec![Damage { path, timeline, at, kind }]);
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    report.read_bytes += unfinished.bytes;
    let kind = match live {
        Some(receiver) => acknowledged(receiver)
            .filter(|durable| durable.segment(size) == number && unfinished.proved < *durable)
            .map(DamageKind::Short),
        None => unfinished.behind.map(DamageKind::Behind),
    };
    if let Some(kind) = kind {
        let at = unfinished.proved;
        report.add(vec![Damage { path, timeline, at, kind }]);
    }
    Ok(Some(unfinished))
}

/// Up to where a running receiver has proved and durable what it has.
fn acknowledged(receiver: &serde_json::Value) -> Option<Lsn> {
    let at = |key: &str| receiver[key].as_str()?.parse::<Lsn>().ok();
    Some(at("proved")?.min(at("durable")?))
}

/// A stored backup, and what is to be looked at of it.
struct Stored {
    description: Description,
    /// `None` if it hasn't changed.
    contents: Option<Contents>,
    /// Its files, as they were before they were read.
    files: Vec<(String, Identity)>,
}

impl Stored {
    fn all(
        archive: &Path,
        state: &State,
        scope: &Scope,
        (verified, report): (&mut BTreeMap<String, Identity>, &mut Report),
    ) -> Result<Vec<Self>, Failure> {
        let backups = Backups::open(archive)?;
        let (all, broken) = backups.list()?;
        report.broken.extend(broken);
        let mut stored = Vec::new();
        for description in all {
            let dir = format!("backups/{}/", description.id);
            let known = || state.below(&dir);
            if scope.backups.as_ref().is_some_and(|wanted| !wanted.contains(&description.id)) {
                verified.extend(known().map(|(name, identity)| (name.clone(), *identity)));
                continue;
            }
            let files = state::files_in(archive, &Path::new("backups").join(&description.id));
            let same = files.iter().all(|(name, identity)| state.knows(name, identity));
            let whole = known().count() == files.len();
            let contents = if scope.full || !same || !whole {
                report.read_backups += 1;
                Some(Contents::of(&backups.directory(&description.id)?, &description))
            } else {
                report.unchanged_backups += 1;
                None
            };
            stored.push(Self { description, contents, files });
        }
        Ok(stored)
    }

    fn jobs(backups: &[Self]) -> Vec<Job> {
        let members = backups.iter().enumerate().flat_map(|(place, backup)| {
            let contents = backup.contents.iter();
            let members = contents.flat_map(|contents| contents.members.iter());
            members.enumerate().map(move |(member, of)| Job::Member {
                backup: place,
                member,
                bytes: of.size(),
            })
        });
        members.collect()
    }
}
