//! Times to segments, by the index of an archive: where the search for commits and aborts that are
//! late enough begins, so that what comes before isn't read.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use archive::{ArchiveError, Catalogue, Lateness};
use disk::RealFiles;
use pg_types::{Branch, Lsn, TimelineId};
use wal_format::TimestampTz;

use crate::cli::Options;
use crate::cli::words::Failure;
use crate::dump::bounds::Times;
use crate::target::Target;

/// Where searching begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Approach {
    /// For the first record that is shown.
    pub(crate) start: Lsn,
    /// For the first that isn't shown any more, if that is later.
    pub(crate) end: Lsn,
}

impl Approach {
    /// From where the target starts, if there is no index that would know better.
    ///
    /// # Errors
    /// If the archive can't be read.
    pub(crate) fn of(
        options: &Options,
        times: Option<&Times>,
        target: &Target,
    ) -> Result<Self, Failure> {
        let none = Self { start: target.start, end: target.start };
        match (&options.archive, times) {
            (Some(archive), Some(times)) if options.files.is_empty() => {
                let about = |error: ArchiveError| {
                    let archive = archive.to_string_lossy();
                    Failure::fatal(format!("the archive {archive}: {error}"))
                };
                none.by_index(archive, times, target).map_err(about)
            }
            _ => Ok(none),
        }
    }

    fn by_index(
        self,
        archive: &OsStr,
        times: &Times,
        target: &Target,
    ) -> Result<Self, ArchiveError> {
        let catalogue = Catalogue::open(Arc::new(RealFiles::new(PathBuf::from(archive))))?;
        let segments = &target.segments;
        let timeline = TimelineId::new(segments.timeline).unwrap_or(TimelineId::FIRST);
        let root = Branch::root(timeline);
        let branch = segments.branch.as_deref().unwrap_or(&root);
        let first = target.start.segment(segments.size);
        let late = |is_late: &dyn Fn(TimestampTz) -> bool| -> Result<Lateness, ArchiveError> {
            catalogue.lateness(branch, first, is_late)
        };
        let mut approach = self;
        // What is shown begins behind the last commit or abort that isn't late, which therefore has
        // to be seen; without one it begins where the log does.
        let from = times.from.or(times.at);
        if let Some(from) = from {
            let with_itself = times.from.is_some();
            let late = late(&|time| if with_itself { time >= from } else { time > from })?;
            if let Some(before) = late.before.filter(|before| *before > first) {
                approach.start = before.start(segments.size);
            }
        }
        approach.end = approach.start;
        if let Some(to) = times.to {
            let at = late(&|time| time > to)?.from;
            approach.end = approach.start.max(at.start(segments.size));
        }
        Ok(approach)
    }
}
