//! What must hold of an archive, given what was acknowledged of each timeline.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use archive::{Archive, Gap, Identity, Layout};
use disk::Files;
use disk::sim::SimDisk;
use pg_types::{Branch, Geometry, Lsn, TimelineId, WalFileName};

use super::log::{Log, MAJOR, SEGMENT_SIZE};
use crate::crash::Violation;

/// What was promised of each timeline: everything before this is durable, from `begin` on.
#[derive(Clone, Debug, Default)]
pub(super) struct Promised {
    pub(super) begin: Option<Lsn>,
    pub(super) flush: BTreeMap<TimelineId, Lsn>,
    /// The ends of gaps, which are acknowledged before anything behind them is there.
    pub(super) gap_ends: BTreeSet<Lsn>,
}

/// Whose WAL it is.
pub(super) fn identity(log: &Log) -> Identity {
    let geometry = Geometry::new(SEGMENT_SIZE);
    Identity { system_id: log.system_id(), server_major: MAJOR, geometry }
}

/// The server's history.
pub(super) fn branch(log: &Log) -> Result<Branch, Violation> {
    match log.history(log.timeline) {
        None => Ok(Branch::root(log.timeline)),
        Some(history) => Branch::parse(log.timeline, history.as_bytes())
            .map_err(|error| Violation::new(error.to_string())),
    }
}

/// I1, I2, I3, I4: whatever was acknowledged is there, and the primary's, on its own timeline,
/// but for gaps that are recorded; and a new start goes on behind it.
pub(super) fn kept(disk: &SimDisk, log: &Log, promised: &Promised) -> Result<(), Violation> {
    // A copy: to look is to change.
    let disk = disk.kill();
    let wrong = |what: String| Violation::new(what).logged(&disk);
    let Some(begin) = promised.begin else { return Ok(()) };
    if promised.flush.values().all(|flush| *flush <= begin) {
        return Ok(());
    }
    let opened = Archive::claim(Arc::new(disk.clone()), "the check")
        .and_then(|claim| claim.open(&identity(log), &[7; 16]));
    let archive = opened.map_err(|error| wrong(error.to_string()))?;
    let gaps = archive.gaps().map_err(|error| wrong(error.to_string()))?;
    // The end of a gap is acknowledged before anything behind it is there; a timeline that was left
    // then has nothing to be kept.
    let is_kept = |(timeline, flush): &(&TimelineId, &Lsn)| {
        let left = log.left.iter().any(|(left, _)| left == *timeline);
        !(left && promised.gap_ends.contains(flush))
    };
    for (timeline, flush) in promised.flush.iter().filter(is_kept) {
        let left = log.left.iter().position(|(left, _)| left == timeline);
        let place = left.unwrap_or(log.left.len());
        let from = place.checked_sub(1).map_or(begin, |parent| log.left[parent].1.max(begin));
        timeline_kept(&disk, log, *timeline, (begin, from, *flush), &gaps).map_err(wrong)?;
    }
    let resume = archive.resume(&branch(log)?, None, false);
    let resume = resume.map_err(|error| wrong(format!("resume: {error}")))?;
    let proved = resume.as_ref().map_or(Lsn::INVALID, archive::Resume::proved);
    for (timeline, flush) in promised.flush.iter().filter(is_kept) {
        let until = log.switch_of(*timeline).map_or(*flush, |(_, switch)| switch.min(*flush));
        // Behind a gap that is recorded, or several in a row, nothing but its end may have been
        // acknowledged yet.
        let reached = gaps.iter().fold(proved, |reached, gap| {
            let follows = gap.from.segment_start(SEGMENT_SIZE) <= reached;
            if follows { reached.max(gap.to) } else { reached }
        });
        if reached < until {
            return Err(wrong(format!(
                "{until} was acknowledged on timeline {timeline}, and {proved} is proved, but for \
                 {gaps:?}"
            )));
        }
    }
    Ok(())
}

/// The segments of a timeline from one position to another.
fn timeline_kept(
    disk: &SimDisk,
    log: &Log,
    timeline: TimelineId,
    (begin, from, until): (Lsn, Lsn, Lsn),
    gaps: &[Gap],
) -> Result<(), String> {
    let truth = log.truth(timeline).ok_or_else(|| format!("no timeline {timeline}"))?;
    // Where nothing is archived before, the rest of a record that began there is proved by nothing.
    let unproved: Vec<(Lsn, Lsn)> = gaps
        .iter()
        .map(|gap| gap.to)
        .chain([begin])
        .map(|from| {
            let first = truth.records().iter().map(|record| record.lsn).find(|lsn| *lsn >= from);
            (from, first.unwrap_or(truth.end()))
        })
        .collect();
    let size = usize::try_from(SEGMENT_SIZE.bytes()).unwrap_or(usize::MAX);
    let mut number = from.segment(SEGMENT_SIZE);
    while number.start(SEGMENT_SIZE) < until {
        let start = number.start(SEGMENT_SIZE);
        let names =
            [WalFileName::segment(timeline, number), WalFileName::partial(timeline, number)];
        let path =
            |name: WalFileName| Path::new(Layout::WAL).join(name.display(SEGMENT_SIZE).to_string());
        let found = names.into_iter().find_map(|name| disk.read(&path(name), size).ok());
        let within = |gap: &Gap| gap.from.segment(SEGMENT_SIZE) <= number && start < gap.to;
        let is_missing = gaps.iter().any(within);
        let at = start.saturating_since(truth.start()) as usize;
        let len = until.saturating_since(start).min(SEGMENT_SIZE.bytes()) as usize;
        let expected = truth.bytes().get(at..at + len);
        match found {
            None if !is_missing => {
                return Err(format!("I4: {} isn't there, up to {until}", path(names[0]).display()));
            }
            Some(found) if !is_missing && found.get(..len) != expected => {
                let is_proved = |byte: &usize| {
                    let at = start.saturating_add(*byte as u64);
                    !unproved.iter().any(|(from, until)| (*from..*until).contains(&at))
                };
                let expected = expected.unwrap_or_default();
                let differs = |byte: &usize| found.get(*byte) != expected.get(*byte);
                if let Some(byte) = (0..len).filter(differs).find(is_proved) {
                    let path = path(names[0]);
                    return Err(format!("I2: {} differs at byte {byte}", path.display()));
                }
            }
            _ => {}
        }
        number = number.next();
    }
    Ok(())
}
