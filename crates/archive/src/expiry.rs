//! What was expired: `expired.json` says up to where each timeline's WAL is given up, and is durable
//! before the first file goes. From then on what lies before isn't there, whether or not it still
//! is: [`Survey`] passes over it. So a process that is killed, or a loss of power that
//! undoes some removals and not others, leaves no hole that anybody sees, and the next expiry
//! removes the rest.
//!
//! Histories are never removed, and neither is what is behind a bound.

use std::collections::BTreeMap;
use std::path::Path;

use disk::{DiskError, ErrorKind, Files};
use pg_types::{Lsn, SegmentNumber, TimelineId};
use serde::{Deserialize, Serialize};

use crate::index::ENTRIES_PER_FILE;
use crate::slots::slots;
use crate::survey::Survey;
use crate::verify::index_name;
use crate::{ArchiveError, Catalogue, Layout, small};

/// A line for each timeline that ever was.
const MAX_BYTES: usize = 4 << 20;

/// WAL that somebody needs: from a position on a timeline on, along every line of history that has
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Who, for people.
    pub what: String,
    /// On which timeline; `None` where that isn't known, and every one has to do.
    pub timeline: Option<TimelineId>,
    /// From where on.
    pub from: Lsn,
}

/// Up to where a timeline's WAL was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The timeline.
    pub timeline: TimelineId,
    /// The start of its first segment that wasn't.
    pub before: Lsn,
    /// When, RFC 3339, for people.
    pub at: String,
}

#[derive(Default, Serialize, Deserialize)]
struct File {
    expired: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    timeline: u32,
    before: String,
    at: String,
}

impl Entry {
    fn expired(self) -> Option<Expired> {
        let Self { timeline, before, at } = self;
        Some(Expired { timeline: TimelineId::new(timeline)?, before: before.parse().ok()?, at })
    }
}

/// What was expired from an archive, by timeline.
///
/// # Errors
/// If `expired.json` can't be read.
pub(crate) fn expired(files: &dyn Files) -> Result<Vec<Expired>, DiskError> {
    let path = Path::new(Layout::EXPIRED);
    let bytes = match files.read(path, MAX_BYTES) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes?,
    };
    let bad = |what: String| {
        let message = format!(
            "{what}; restore it from a copy of the archive, or move it away: then what was \
             expired is missing, and nothing says why"
        );
        DiskError::new("read", path, ErrorKind::Other, message)
    };
    let file: File = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    let all = file.expired.into_iter().map(Entry::expired).collect::<Option<Vec<_>>>();
    all.ok_or_else(|| bad("a timeline or position is invalid".to_owned()))
}

/// Positions up to which timelines are given up: their first segments that stay.
pub type Bounds = BTreeMap<TimelineId, SegmentNumber>;

impl Catalogue {
    /// What was expired, by timeline.
    ///
    /// # Errors
    /// If `expired.json` can't be read.
    pub fn expired(&self) -> Result<Vec<Expired>, DiskError> {
        expired(&*self.files)
    }

    /// Gives up all before these bounds, durably, unless a slot has come, or gone back, that isn't
    /// among what it was `decided` with: then all is as it was. Nothing is removed yet, and a bound that was recorded
    /// never goes back.
    ///
    /// # Errors
    /// If a slot has come, or the disk fails; it isn't known then whether it is given up.
    pub fn record_expiry(
        &self,
        bounds: &Bounds,
        at: &str,
        decided: &[Hold],
    ) -> Result<(), ArchiveError> {
        let before = self.expired()?;
        self.write_expired(bounds, at, before.clone())?;
        // Only now: a slot that comes later sees what was recorded.
        let size = self.layout.segment_size;
        let known = |hold: &Hold| {
            decided.iter().any(|known| known.what == hold.what && known.from <= hold.from)
        };
        let mut late = self.slot_holds()?.into_iter().filter(|hold| !known(hold));
        let needs = |hold: &Hold| bounds.values().any(|first| hold.from < first.start(size));
        if let Some(hold) = late.find(needs) {
            self.write_expired(&Bounds::new(), at, before)?;
            return Err(ArchiveError::HeldMeanwhile { what: hold.what });
        }
        Ok(())
    }

    fn write_expired(
        &self,
        bounds: &Bounds,
        at: &str,
        before: Vec<Expired>,
    ) -> Result<(), ArchiveError> {
        let size = self.layout.segment_size;
        let mut all: BTreeMap<_, _> = before.into_iter().map(|old| (old.timeline, old)).collect();
        for (timeline, first) in bounds {
            let before = first.start(size);
            if all.get(timeline).is_none_or(|old| old.before < before) {
                let expired = Expired { timeline: *timeline, before, at: at.to_owned() };
                all.insert(*timeline, expired);
            }
        }
        let entries = all.into_values().map(|expired| Entry {
            timeline: expired.timeline.as_u32(),
            before: expired.before.to_string(),
            at: expired.at,
        });
        let file = File { expired: entries.collect() };
        let (temporary, path) = (Path::new(Layout::EXPIRED_TMP), Path::new(Layout::EXPIRED));
        small::replace(&*self.files, temporary, path, &file)?;
        Ok(())
    }

    /// Removes what is given up: segments oldest first, then the files of the index that tell of
    /// nothing else. `removed` is called after each segment. Gives how many there were.
    ///
    /// # Errors
    /// If the disk fails; the next call goes on where this one stopped.
    pub fn remove_expired(
        &self,
        survey: &Survey,
        removed: &mut dyn FnMut(u64),
    ) -> Result<u64, ArchiveError> {
        let gone = |result: Result<(), DiskError>| match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        };
        let mut count = 0;
        for (timeline, segments) in survey.leftovers() {
            for (number, form) in segments.iter() {
                for kind in form.kinds() {
                    for path in self.files_of(&self.path(timeline, number, *kind))? {
                        gone(self.files.remove(&path))?;
                    }
                }
                count += 1;
                removed(count);
            }
        }
        if count > 0 {
            self.files.sync_dir(Path::new(Layout::WAL))?;
        }
        let index = Path::new(Layout::INDEX);
        if self.files.len(index)?.is_some() {
            for name in self.files.names(index)? {
                let Some((timeline, first)) = index_name(&name) else { continue };
                let last = SegmentNumber::new(first.saturating_add(ENTRIES_PER_FILE - 1));
                if survey.is_expired(timeline, last) {
                    gone(self.files.remove(&index.join(&name)))?;
                }
            }
        }
        Ok(count)
    }

    /// What followers' slots keep.
    ///
    /// # Errors
    /// If one can't be read: what it keeps isn't known then, and nothing may go.
    pub fn slot_holds(&self) -> Result<Vec<Hold>, ArchiveError> {
        let kept = slots(&*self.files)?.into_iter().filter_map(|slot| {
            let from = slot.keeps_from()?;
            let timeline = slot.restart.map(|(timeline, _)| timeline);
            Some(Hold { what: format!("the replication slot {}", slot.name), timeline, from })
        });
        Ok(kept.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use disk::sim::{PowerLoss, SimDisk};
    use pg_types::{Geometry, SegmentSize, SystemId};

    use super::*;
    use crate::{Archive, Form, Identity};

    const SIZE: SegmentSize = SegmentSize::MIN;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    /// Segments 1 to 8 of timeline 1, and 6 to 12 of timeline 2, durable.
    fn archive(disk: &SimDisk) -> Catalogue {
        let files: Arc<dyn Files> = Arc::new(disk.clone());
        let geometry = Geometry::new(SIZE);
        let identity = Identity { system_id: SystemId(7), server_major: 18, geometry };
        let claim = Archive::claim(Arc::clone(&files), "test").unwrap();
        drop(claim.open(&identity, &[0; 16]).unwrap());
        let catalogue = Catalogue::open(Arc::clone(&files)).unwrap();
        for (on, numbers) in [(1, 1..9), (2, 6..13)] {
            for number in numbers {
                let path = catalogue.layout.segment(timeline(on), SegmentNumber::new(number));
                files.write_new(&path, b"x").unwrap();
                files.sync_file(&path).unwrap();
            }
        }
        files.write_new(&catalogue.layout.history(timeline(2)), b"1\t0/600100\n").unwrap();
        files.sync_file(&catalogue.layout.history(timeline(2))).unwrap();
        files.sync_dir(Path::new(Layout::WAL)).unwrap();
        catalogue
    }

    fn there(survey: &Survey) -> Vec<(u32, u64)> {
        let all = survey.timelines().flat_map(|(on, segments)| {
            segments.iter().map(move |(number, form)| {
                assert_eq!(form, Form::Sealed);
                (on.as_u32(), number.as_u64())
            })
        });
        all.collect()
    }

    fn expire(catalogue: &Catalogue, bounds: &Bounds) -> Result<u64, ArchiveError> {
        catalogue.record_expiry(bounds, "2026-01-31T12:00:00Z", &catalogue.slot_holds()?)?;
        catalogue.remove_expired(&catalogue.survey()?, &mut |_| {})
    }

    #[test]
    fn what_is_given_up_is_gone_and_is_told_of() {
        let disk = SimDisk::new(1);
        let catalogue = archive(&disk);
        let bounds = Bounds::from([
            (timeline(1), SegmentNumber::new(9)),
            (timeline(2), SegmentNumber::new(8)),
        ]);
        assert_eq!(expire(&catalogue, &bounds).unwrap(), 10);
        let survey = catalogue.survey().unwrap();
        assert_eq!(there(&survey), (8..13).map(|number| (2, number)).collect::<Vec<_>>());
        assert!(survey.leftovers().next().is_none());
        assert_eq!(catalogue.missing(&survey).unwrap(), []);
        let why = catalogue.absence(timeline(2), SegmentNumber::new(7)).unwrap();
        assert!(
            matches!(&why, crate::Absence::Expired { before, .. } if *before == Lsn::new(8 << 20)),
            "{why:?}"
        );
        // Bounds don't go back.
        let back = Bounds::from([(timeline(2), SegmentNumber::new(1))]);
        assert_eq!(expire(&catalogue, &back).unwrap(), 0);
        assert_eq!(catalogue.expired().unwrap()[1].before, Lsn::new(8 << 20));
    }

    /// Killed, or without power, after each operation: what was to stay is there, and what is seen
    /// is all of it or just that; the next expiry finishes.
    #[test]
    fn no_crash_leaves_a_hole_or_takes_what_stays() {
        let bounds = Bounds::from([
            (timeline(1), SegmentNumber::new(5)),
            (timeline(2), SegmentNumber::new(9)),
        ]);
        let whole = SimDisk::new(1);
        archive(&whole);
        let before = whole.operations();
        expire(&Catalogue::open(Arc::new(whole.clone())).unwrap(), &bounds).unwrap();
        let mut crashes = 0;
        for operations in before..=whole.operations() {
            for (seed, loss) in
                [PowerLoss::StrictPosix, PowerLoss::Ext4Ordered].into_iter().enumerate()
            {
                for seed in [seed as u64, 7 + seed as u64, 77 + seed as u64] {
                    let disk = SimDisk::new(1);
                    let catalogue = archive(&disk);
                    disk.stop_at(operations);
                    _ = expire(&catalogue, &bounds);
                    for after in [disk.kill(), disk.crash(seed, loss)] {
                        let catalogue = Catalogue::open(Arc::new(after)).unwrap();
                        let seen = there(&catalogue.survey().unwrap());
                        let kept: Vec<_> =
                            (5..9).map(|n| (1, n)).chain((9..13).map(|n| (2, n))).collect();
                        let all: Vec<_> =
                            (1..9).map(|n| (1, n)).chain((6..13).map(|n| (2, n))).collect();
                        assert!(seen == kept || seen == all, "{operations}: {seen:?}");
                        expire(&catalogue, &bounds).unwrap();
                        let survey = catalogue.survey().unwrap();
                        assert_eq!(there(&survey), kept);
                        assert!(survey.leftovers().next().is_none());
                        assert!(survey.histories.contains(&timeline(2)));
                        crashes += 1;
                    }
                }
            }
        }
        assert!(crashes > 100, "{crashes}");
    }

    #[test]
    fn slots_hold_what_they_say() {
        let disk = SimDisk::new(1);
        let catalogue = archive(&disk);
        assert_eq!(catalogue.slot_holds().unwrap(), []);
        disk.create_dir(Path::new(Layout::SLOTS)).unwrap();
        let slot = |name: &str, restart: &str, lost: &str| {
            let text = format!(
                "{{\"name\": \"{name}\", \"temporary\": false, {restart}, \"created\": \"\", \"lost\": {lost}}}"
            );
            let path = Path::new(Layout::SLOTS).join(format!("{name}.json"));
            disk.write_new(&path, text.as_bytes()).unwrap();
        };
        let at = r#""restart_lsn": "0/700000", "timeline": 2"#;
        slot("one", at, "null");
        slot("lost", at, "\"too far behind\"");
        slot("none", r#""restart_lsn": null, "timeline": null"#, "null");
        let what = "the replication slot one".to_owned();
        let hold = Hold { what, timeline: Some(timeline(2)), from: Lsn::new(7 << 20) };
        assert_eq!(catalogue.slot_holds().unwrap(), std::slice::from_ref(&hold));
        // One that wasn't known when it was decided stops it; of no other it is in the way.
        let bounds = Bounds::from([(timeline(2), SegmentNumber::new(8))]);
        let late = catalogue.record_expiry(&bounds, "", &[]);
        assert!(matches!(late, Err(ArchiveError::HeldMeanwhile { .. })), "{late:?}");
        assert_eq!(catalogue.expired().unwrap(), []);
        let before = Bounds::from([(timeline(2), SegmentNumber::new(7))]);
        catalogue.record_expiry(&before, "", &[]).unwrap();
        catalogue.record_expiry(&bounds, "", &[hold]).unwrap();
        slot("odd", r#""restart_lsn": "x", "timeline": 1"#, "null");
        assert!(matches!(catalogue.slot_holds(), Err(ArchiveError::BadSlotFile { .. })));
    }
}
