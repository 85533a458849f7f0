//! Where the archive ends, for whoever hands its WAL on while no receiver says so.

use std::path::Path;

use pg_types::{Branch, Lsn, TimelineId};

use crate::survey::Form;
use crate::{ArchiveError, Catalogue, Layout, Reader};

impl Catalogue {
    /// The newest timeline that has WAL here, and the end of what is proved on it, which is durable
    /// when this returns; `None` in an archive without WAL. The last segment is decoded.
    ///
    /// # Errors
    /// If the disk fails, or a history can't be read.
    pub fn durable_end(&self) -> Result<Option<(TimelineId, Lsn)>, ArchiveError> {
        let survey = self.survey()?;
        let Some((timeline, segments)) = survey.timelines().next_back() else { return Ok(None) };
        let Some((number, form)) = segments.iter().next_back() else { return Ok(None) };
        let branch = self.history(timeline)?.unwrap_or_else(|| Branch::root(timeline));
        let (mut primed, _) = self.primed(&branch, number)?;
        let opened = match form {
            Form::Partial => self.open_growing(timeline, number)?,
            Form::Sealed | Form::Both => self.open_segment(timeline, number)?,
        };
        // It was sealed in this moment: the name is looked up again when somebody asks again.
        let Some(reader) = opened else { return Ok(None) };
        // It ends where it isn't WAL any more, if it isn't whole.
        _ = reader.feed(0, &mut primed.validator, &mut |_: &wal_format::Record| {})?;
        // What was read may be in memory alone, and so may be its name.
        match self.files.sync_file(reader.path()) {
            Err(error) if error.kind() != disk::ErrorKind::NotFound => return Err(error.into()),
            _ => self.files.sync_dir(Path::new(Layout::WAL))?,
        }
        Ok(Some((timeline, primed.proved().max(number.start(self.layout.segment_size)))))
    }

    /// An unfinished segment that somebody else may be writing to, who says up to where it holds:
    /// all of its file can be read. `None` if it isn't archived.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open_growing(
        &self,
        timeline: TimelineId,
        number: pg_types::SegmentNumber,
    ) -> Result<Option<Reader>, ArchiveError> {
        let path = self.layout.partial(timeline, number);
        let reader = self.reader(&path, timeline, number)?;
        Ok(reader.map(|reader| reader.up_to(self.layout.segment_size.bytes())))
    }
}
