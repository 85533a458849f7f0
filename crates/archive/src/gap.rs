//! What is missing from an archive, and why: `gaps.json`, written before anything behind a gap is
//! acknowledged. That something is missing follows from the names of the segments; why, doesn't.

use std::path::Path;

use disk::{ErrorKind, Files};
use pg_types::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::open::Archive;
use crate::{ArchiveError, Layout, small};

/// Some thousands of gaps: nobody has so many without having been told.
const MAX_BYTES: usize = 4 << 20;

/// A range that the archive hasn't got, and a server hadn't any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The timeline on which it begins.
    pub timeline: TimelineId,
    /// The end of what is proved before it.
    pub from: Lsn,
    /// The timeline on which it ends.
    pub to_timeline: TimelineId,
    /// The start of the first segment behind it.
    pub to: Lsn,
    /// Why, for people.
    pub reason: String,
    /// When it was found, RFC 3339, for people.
    pub found: String,
}

/// The file.
#[derive(Default, Serialize, Deserialize)]
struct File {
    gaps: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    timeline: u32,
    from: String,
    to_timeline: u32,
    to: String,
    reason: String,
    found: String,
}

impl Entry {
    fn new(gap: &Gap) -> Self {
        Self {
            timeline: gap.timeline.as_u32(),
            from: gap.from.to_string(),
            to_timeline: gap.to_timeline.as_u32(),
            to: gap.to.to_string(),
            reason: gap.reason.clone(),
            found: gap.found.clone(),
        }
    }

    fn gap(self) -> Option<Gap> {
        let Self { reason, found, .. } = self;
        let timeline = TimelineId::new(self.timeline)?;
        let to_timeline = TimelineId::new(self.to_timeline)?;
        let (from, to) = (self.from.parse().ok()?, self.to.parse().ok()?);
        Some(Gap { timeline, from, to_timeline, to, reason, found })
    }
}

/// The recorded gaps of an archive, in the order in which they were found.
///
/// # Errors
/// If `gaps.json` can't be read.
pub fn gaps(files: &dyn Files) -> Result<Vec<Gap>, ArchiveError> {
    let path = Path::new(Layout::GAPS);
    let bad = |what: String| ArchiveError::BadGapsFile(what);
    let bytes = match files.read(path, MAX_BYTES) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes?,
    };
    let file: File = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    let gaps = file.gaps.into_iter().map(Entry::gap);
    gaps.collect::<Option<_>>().ok_or_else(|| bad("a timeline or position is invalid".to_owned()))
}

impl Archive {
    /// The recorded gaps.
    ///
    /// # Errors
    /// If `gaps.json` can't be read.
    pub fn gaps(&self) -> Result<Vec<Gap>, ArchiveError> {
        gaps(&*self.files)
    }

    /// Records a gap, durably: to be done before anything behind it is acknowledged. One that goes
    /// on with another, or is the same one grown, becomes one with it. Gives what it is now.
    ///
    /// # Errors
    /// If the disk fails, or `gaps.json` can't be read.
    pub fn record_gap(&self, mut gap: Gap) -> Result<Gap, ArchiveError> {
        let mut gaps = self.gaps()?;
        let joins = |old: &Gap| {
            let same = (old.timeline, old.from) == (gap.timeline, gap.from);
            same || (old.to_timeline, old.to) == (gap.timeline, gap.from)
        };
        if let Some(place) = gaps.iter().position(joins) {
            let old = gaps.remove(place);
            (gap.timeline, gap.from, gap.found) = (old.timeline, old.from, old.found);
        }
        gaps.push(gap.clone());
        let file = File { gaps: gaps.iter().map(Entry::new).collect() };
        let (temporary, path) = (Path::new(Layout::GAPS_TMP), Path::new(Layout::GAPS));
        small::replace(&*self.files, temporary, path, &file)?;
        Ok(gap)
    }
}
