//! Segments that are compressed, with a crash at each operation of it.

use std::sync::Arc;

use archive::{Archive, ArchiveError, Catalogue, Method};
use disk::sim::{Mutation, PowerLoss, SimDisk};
use disk::{AlignedBuf, Files};
use pg_types::TimelineId;

use super::promotion::{Scene, crash_each};
use super::{Primary, Violation};

/// A segment that is compressed is there in one of its forms, whole, at any time, and a second try
/// ends the work. With a mutation a disk that forgets a sync is tried. Gives the states that were checked.
///
/// # Errors
/// The first violation.
pub fn compress(seed: u64, mutations: &[Mutation]) -> Result<u64, Violation> {
    let scene = Scene::new(seed)?;
    for mutation in mutations {
        scene.disk.mutate(mutation.clone());
    }
    let method = Method::ALL[(seed % 3) as usize];
    let all = whole_segments(&scene.disk).map_err(|error| Violation::new(error.to_string()))?;
    if all < 2 {
        return Err(Violation::new("too few segments to compress any"));
    }
    crash_each(
        &scene.disk,
        seed,
        |disk| run(disk, method),
        |disk| {
            let wrong = |error: ArchiveError| Violation::new(error.to_string()).logged(disk);
            check(disk, &scene.primary, all)?;
            run(disk, method).map_err(wrong)?;
            // What was said to be done survives.
            let survivor = disk.crash(seed, PowerLoss::StrictPosix);
            check(&survivor, &scene.primary, all)?;
            let claim = Archive::claim(Arc::new(survivor.clone()), "the simulation");
            let archive = claim.map_err(wrong)?.open(&scene.primary.identity(), &[7; 16]);
            let archive = archive.map_err(wrong)?;
            let resume = archive.resume(&scene.primary.branch(), None, false).map_err(wrong)?;
            if resume.is_none_or(|resume| resume.proved() < scene.ledger.flush) {
                return Err(Violation::new("streaming goes on elsewhere").logged(&survivor));
            }
            check(&survivor, &scene.primary, all)
        },
    )
}

fn open(disk: &SimDisk) -> Result<Catalogue, ArchiveError> {
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    Catalogue::open(files)
}

fn whole_segments(disk: &SimDisk) -> Result<usize, ArchiveError> {
    let survey = open(disk)?.survey()?;
    let segments = survey.of(TimelineId::FIRST).iter();
    Ok(segments.filter(|(_, form)| form.is_sealed()).count())
}

/// Compresses what is settled.
fn run(disk: &SimDisk, method: Method) -> Result<(), ArchiveError> {
    let catalogue = open(disk)?;
    let _lock = catalogue.lock_compression("the simulation")?;
    let survey = catalogue.survey()?;
    for (timeline, number) in survey.compressible() {
        catalogue.compress(timeline, number, method)?;
    }
    Ok(())
}

/// Every segment is there, and what was streamed.
fn check(disk: &SimDisk, primary: &Primary, all: usize) -> Result<(), Violation> {
    let failed = |error: String| Violation::new(error).logged(disk);
    let catalogue = open(disk).map_err(|error| failed(error.to_string()))?;
    let survey = catalogue.survey().map_err(|error| failed(error.to_string()))?;
    let (mut found, mut buf) = (0, AlignedBuf::zeroed(64 << 10));
    for (number, form) in survey.of(TimelineId::FIRST).iter() {
        if !form.is_sealed() {
            continue;
        }
        found += 1;
        let opened = catalogue.open_segment(TimelineId::FIRST, number);
        let reader = opened.map_err(|error| failed(error.to_string()))?;
        let Some(reader) = reader else { return Err(failed(format!("{number:?} is gone"))) };
        let mut at = 0;
        while at < reader.len() {
            let len = reader.read_at(at, &mut buf).map_err(|error| failed(error.to_string()))?;
            let from = number.start(primary.segment_size()).saturating_add(at);
            let read = buf.get(..len).unwrap_or_default();
            if len == 0 || *read != *primary.bytes(from, len) {
                return Err(failed(format!("{} differs at {from}", reader.path().display())));
            }
            at += len as u64;
        }
    }
    if found != all {
        return Err(failed(format!("{found} of {all} segments are there")));
    }
    Ok(())
}
