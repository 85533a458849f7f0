//! What is told by names and small files: histories, the index, what is missing at an end.

use std::path::{Path, PathBuf};

use disk::DiskError;
use pg_types::{Branch, Lsn, SegmentNumber, TimelineId, WalFileName};

use super::{Damage, DamageKind};
use crate::find::MAX_INDEX_BYTES;
use crate::gap::gaps;
use crate::index::{ENTRIES_PER_FILE, ENTRY_LEN, IndexEntry};
use crate::survey::Survey;
use crate::{ArchiveError, Catalogue, Layout};

/// What the names came to.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// What is wrong.
    pub damages: Vec<Damage>,
    /// Files that don't belong where they are, relative to the archive.
    pub strangers: Vec<PathBuf>,
}

impl Catalogue {
    /// Looks at names, histories, `gaps.json` and the index, but not into segments.
    ///
    /// # Errors
    /// If a directory can't be read.
    pub fn verify_names(&self, survey: &Survey) -> Result<Names, DiskError> {
        let mut names = Names::default();
        let wal = Path::new(Layout::WAL);
        names.strangers.extend(survey.strangers().iter().map(|name| wal.join(name)));
        self.histories(survey, &mut names);
        if let Err(error) = gaps(&*self.files) {
            let kind = DamageKind::BadFile(error.to_string());
            names.add(PathBuf::from(Layout::GAPS), TimelineId::FIRST, Lsn::INVALID, kind);
        }
        let index = Path::new(Layout::INDEX);
        if self.files.len(index)?.is_some() {
            for name in self.files.names(index)? {
                self.index_file(&index.join(&name), &name, survey, &mut names)?;
            }
        }
        Ok(names)
    }

    fn histories(&self, survey: &Survey, names: &mut Names) {
        for timeline in &survey.histories {
            let path = self.layout.history(*timeline);
            let branch = match self.history(*timeline) {
                Ok(Some(branch)) => branch,
                Ok(None) => continue,
                Err(error) => {
                    let kind = match error {
                        ArchiveError::BadHistory(error) => {
                            DamageKind::BadHistory(error.to_string())
                        }
                        error => DamageKind::Unreadable(error.to_string()),
                    };
                    names.add(path, *timeline, Lsn::INVALID, kind);
                    continue;
                }
            };
            for ancestor in branch.stretches().iter().rev().skip(1).map(|on| on.timeline) {
                let own = self.history(ancestor).ok().flatten();
                let own = own.or((ancestor == TimelineId::FIRST).then(|| Branch::root(ancestor)));
                if own.is_some_and(|own| branch.up_to(ancestor).as_ref() != Some(&own)) {
                    let kind = DamageKind::OtherHistory(ancestor);
                    names.add(path, *timeline, Lsn::INVALID, kind);
                    break;
                }
            }
        }
        for (timeline, _) in survey.timelines() {
            if timeline != TimelineId::FIRST && !survey.histories.contains(&timeline) {
                let path = self.layout.history(timeline);
                names.add(path, timeline, Lsn::INVALID, DamageKind::NoHistory);
            }
        }
    }

    fn index_file(
        &self,
        path: &Path,
        name: &str,
        survey: &Survey,
        names: &mut Names,
    ) -> Result<(), DiskError> {
        let Some((timeline, first)) = index_name(name) else {
            names.strangers.push(path.to_owned());
            return Ok(());
        };
        let bytes = match self.files.read(path, MAX_INDEX_BYTES) {
            Ok(bytes) => bytes,
            // The next expiry, or whoever, has removed it.
            Err(error) if error.kind() == disk::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == disk::ErrorKind::Other => {
                names.add(path.to_owned(), timeline, Lsn::INVALID, DamageKind::BadIndex);
                return Ok(());
            }
            Err(error) => {
                let kind = DamageKind::unreadable(&error);
                names.add(path.to_owned(), timeline, Lsn::INVALID, kind);
                return Ok(());
            }
        };
        let (entries, _) = bytes.as_chunks::<ENTRY_LEN>();
        let last = survey.of(timeline).iter().next_back().map(|(number, _)| number);
        for (place, bytes) in entries.iter().enumerate() {
            let number = SegmentNumber::new(first.saturating_add(place as u64));
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            let at = number.start(self.layout.segment_size);
            let segment = WalFileName::segment(timeline, number);
            let segment = segment.display(self.layout.segment_size).to_string();
            match IndexEntry::from_bytes(bytes) {
                None => {
                    names.add(path.to_owned(), timeline, at, DamageKind::IndexTorn(segment));
                }
                Some(entry) if (entry.timeline, entry.number) != (timeline, number) => {
                    names.add(path.to_owned(), timeline, at, DamageKind::IndexPlace(segment));
                }
                // A hole before the last one is told as one.
                Some(_) if last < Some(number) && !survey.is_expired(timeline, number) => {
                    // It may have come since the names were looked at.
                    if !self.is_there(timeline, number)? {
                        let path = self.layout.segment(timeline, number);
                        names.add(path, timeline, at, DamageKind::Gone);
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn is_there(&self, timeline: TimelineId, number: SegmentNumber) -> Result<bool, DiskError> {
        let sealed = self.len_of(&self.layout.segment(timeline, number))?.is_some();
        Ok(sealed || self.files.len(&self.layout.partial(timeline, number))?.is_some())
    }
}

impl Names {
    fn add(&mut self, path: PathBuf, timeline: TimelineId, at: Lsn, kind: DamageKind) {
        self.damages.push(Damage { path, timeline, at, kind });
    }
}

/// The timeline and the first segment of an index file, by its name.
pub(crate) fn index_name(name: &str) -> Option<(TimelineId, u64)> {
    let (timeline, first) = name.split_once('-')?;
    let number = u64::from_str_radix(first, 16).ok()?;
    let timeline = TimelineId::new(u32::from_str_radix(timeline, 16).ok()?)?;
    let written = format!("{:08X}-{number:016X}", timeline.as_u32());
    (written == name && number.is_multiple_of(ENTRIES_PER_FILE)).then_some((timeline, number))
}
