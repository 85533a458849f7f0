//! Segments that aren't whole: where one ends nothing is wrong by that alone.

use disk::{AlignedBuf, DiskError};
use pg_types::{Lsn, SegmentNumber, TimelineId};
use wal_format::{Record, Validator};

use super::run::{Pass, RunEnd};
use crate::{ArchiveError, Catalogue};

/// What is proved of a `.partial`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The end of what is proved.
    pub proved: Lsn,
    /// A record that holds, and lies behind what doesn't: then something was damaged before it, or
    /// torn when the power went.
    pub behind: Option<Lsn>,
    /// Segments before it that hold with what runs into it.
    pub settled: Vec<SegmentNumber>,
    /// How many bytes were read.
    pub bytes: u64,
}

impl Catalogue {
    /// Reads an unfinished segment; `before` is the end of the run before it, if that was read.
    /// `None` if it isn't there any more.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn verify_partial(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
        before: Option<&RunEnd>,
        buf: &mut AlignedBuf,
    ) -> Result<Option<Unfinished>, ArchiveError> {
        let path = self.layout.partial(timeline, number);
        let Some(reader) = self.reader(&path, timeline, number)? else { return Ok(None) };
        let reader = reader.up_to(self.layout.segment_size.bytes());
        let start = number.start(self.layout.segment_size);
        let mut pass = match before.filter(|end| end.position() == start) {
            Some(end) => Pass::behind(self, timeline, end),
            None => {
                let (primed, _) = self.primed(&self.line_of(timeline), number)?;
                Pass::behind(self, timeline, &RunEnd::of(primed))
            }
        };
        // Where it ends isn't WAL any more.
        _ = reader.feed(0, &mut pass.primed.validator, &mut pass.primed.index)?;
        let proved = pass.primed.proved();
        let behind = self.record_behind(&reader, timeline, proved.max(start), buf)?;
        let settled = pass.into_settled();
        Ok(Some(Unfinished { proved, behind, settled, bytes: reader.len() }))
    }

    /// The first record that holds on a page behind this position.
    fn record_behind(
        &self,
        reader: &crate::Reader,
        timeline: TimelineId,
        from: Lsn,
        buf: &mut AlignedBuf,
    ) -> Result<Option<Lsn>, DiskError> {
        let block = u64::from(self.identity.geometry.block_size);
        let start = from.segment_start(self.layout.segment_size);
        let mut offset = from.saturating_since(start).next_multiple_of(block);
        let mut found = None;
        while offset < reader.len() && found.is_none() {
            let len = reader.read_at(offset, buf)?;
            let Some(read) = buf.get(..len).filter(|read| !read.is_empty()) else { break };
            for page in read.chunks(self.identity.geometry.block_size as usize) {
                let zero = page.iter().all(|byte| *byte == 0);
                if !zero && found.is_none() {
                    let at = start.saturating_add(offset);
                    let mut validator = Validator::new(self.expect(timeline), at);
                    let mut first = |record: &Record| _ = found.get_or_insert(record.lsn);
                    _ = validator.feed(page, &mut first);
                }
                offset += page.len() as u64;
            }
        }
        Ok(found)
    }
}
