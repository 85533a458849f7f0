//! The WAL that a backup needs, as files of its `pg_wal`: the segments from its start to its end,
//! each proved on the way, and the histories of its timelines. Each has its mark that it is
//! archived, so that the new server doesn't archive it again.

use std::collections::VecDeque;

use archive::{Catalogue, Proof, Reader};
use disk::AlignedBuf;
use pg_types::{Branch, SegmentNumber, TimelineId, WalFileName};

use super::PIECE_BYTES;
use crate::{BackupError, Description};

/// A history has a line for each promotion.
const MAX_HISTORY_BYTES: usize = 1 << 20;

/// What follows the data directory's own files.
pub(super) struct Tail {
    description: Description,
    branch: Branch,
    next: SegmentNumber,
    last: SegmentNumber,
    histories: VecDeque<TimelineId>,
    /// The mark of the file before.
    mark: Option<String>,
}

/// A file that comes next.
pub(super) enum Waiting {
    Segment(Box<Segment>),
    File(String, Vec<u8>),
}

/// A segment, passed on.
pub(super) struct Segment {
    name: String,
    reader: Reader,
    /// What proves it; an unfinished one was proved when it was opened.
    proof: Option<Proof>,
    len: u64,
    at: u64,
    buffer: AlignedBuf,
}

impl Tail {
    pub(super) fn of(
        description: &Description,
        catalogue: &Catalogue,
    ) -> Result<Self, BackupError> {
        let size = catalogue.layout().segment_size;
        let timeline = description.stop.timeline;
        let branch = catalogue.history(timeline)?.unwrap_or_else(|| Branch::root(timeline));
        let next = description.start.lsn.segment(size);
        // A backup that ends where a segment does needs nothing of the next.
        let end = description.stop.lsn.as_u64().saturating_sub(1);
        let last = pg_types::Lsn::new(end).segment(size).max(next);
        let histories = branch.stretches().iter().map(|stretch| stretch.timeline).collect();
        let description = description.clone();
        Ok(Self { description, branch, next, last, histories, mark: None })
    }

    /// The next file; `None` if there is none any more.
    pub(super) fn next(&mut self, catalogue: &Catalogue) -> Result<Option<Waiting>, BackupError> {
        if let Some(mark) = self.mark.take() {
            return Ok(Some(Waiting::File(format!("pg_wal/archive_status/{mark}.done"), vec![])));
        }
        let size = catalogue.layout().segment_size;
        if self.next <= self.last {
            let number = self.next;
            self.next = number.next();
            let segment = self.segment(catalogue, number)?;
            self.mark = segment.name.strip_prefix("pg_wal/").map(str::to_owned);
            return Ok(Some(Waiting::Segment(Box::new(segment))));
        }
        while let Some(timeline) = self.histories.pop_front() {
            let name = WalFileName::TimelineHistory(timeline);
            // The first timeline has none.
            if let Some(content) = catalogue.small_file(name, MAX_HISTORY_BYTES)? {
                let name = name.display(size).to_string();
                let path = format!("pg_wal/{name}");
                self.mark = Some(name);
                return Ok(Some(Waiting::File(path, content)));
            }
        }
        Ok(None)
    }

    fn segment(
        &self,
        catalogue: &Catalogue,
        number: SegmentNumber,
    ) -> Result<Segment, BackupError> {
        let size = catalogue.layout().segment_size;
        let stretch = self.branch.stretch_of(number, size);
        let timeline = stretch.map_or(self.description.stop.timeline, |stretch| stretch.timeline);
        let open = || catalogue.open_segment(timeline, number);
        let mut sealed = open()?;
        let mut partial = None;
        if sealed.is_none() {
            partial = catalogue.open_partial(timeline, number)?;
        }
        if sealed.is_none() && partial.is_none() {
            // It may have been sealed between the two looks.
            sealed = open()?;
        }
        let needed = self.description.stop.lsn;
        let missing = |proved| BackupError::WalMissing { proved, needed };
        let (reader, proof) = match (sealed, partial) {
            (Some(reader), _) => {
                let proof = catalogue.prove(&reader)?;
                (reader, Some(proof))
            }
            (None, Some(reader)) => {
                let proved = number.start(size).saturating_add(reader.len());
                if proved < needed.min(number.end(size)) {
                    return Err(missing(proved));
                }
                (reader, None)
            }
            (None, None) => return Err(missing(number.start(size))),
        };
        let name = WalFileName::segment(timeline, number).display(size);
        let (name, len) = (format!("pg_wal/{name}"), size.bytes());
        let buffer = AlignedBuf::zeroed(PIECE_BYTES);
        Ok(Segment { name, reader, proof, len, at: 0, buffer })
    }
}

impl Segment {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Adds its next bytes; `false` behind the last of them. What an unfinished one hasn't got yet
    /// is zeros.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>) -> Result<bool, BackupError> {
        let left = usize::try_from(self.len - self.at).unwrap_or(usize::MAX);
        let got = self.reader.read_at(self.at, &mut self.buffer)?;
        let bytes = self.buffer.get(..got.min(left)).unwrap_or_default();
        if let Some(proof) = &mut self.proof {
            proof.feed(bytes)?;
        }
        buffer.extend_from_slice(bytes);
        let len = left.min(PIECE_BYTES);
        buffer.resize(buffer.len() + len - bytes.len(), 0);
        self.at += len as u64;
        Ok(self.at < self.len)
    }
}
