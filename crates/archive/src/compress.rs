//! A settled segment becomes `X.zst`, `X.lz4` or `X.gz`.
//!
//! Invariant: at any moment, and after any crash, one of the two files is there, whole and durable.
//! The compressed one is written under a temporary name outside `wal/`, synced, decoded from what is
//! stored and compared with the plain one, named, and its name synced; only then does the plain
//! name go. What a crash leaves of that is both, which the next attempt compares again.
//!
//! Never touched: a segment that may still be withdrawn, and one that doesn't hold. It is settled
//! here once the segment behind it is sealed, too, and the record that runs from the one into the
//! other is proved, by decoding what is stored: no word of anybody is taken for it. So a timeline's
//! last segments stay plain.

use std::path::Path;

use compression::Method;
use disk::{Access, AlignedBuf, DiskError, ReadAt};
use pg_types::{SegmentNumber, TimelineId};
use wal_format::Record;

use crate::packed::FRAME_LEN;
use crate::reader::Proof;
use crate::{ArchiveError, Catalogue, Layout, Survey};

/// What became of a segment that was to be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compressed {
    /// It is compressed now.
    Done {
        /// How many bytes the file has.
        len: u64,
    },
    /// It isn't settled yet, or isn't there as a plain file.
    NotYet,
    /// It would take no less room so.
    Incompressible,
}

/// The temporary file. Outside `wal/`, where a receiver that starts removes temporaries.
const TEMPORARY: &str = "run/compress.tmp";
/// The lock of whoever may use it.
const LOCK: &str = "run/compress.lock";
/// As much is read and compared at once: a receiver has sixteen megabytes for everything.
const CHUNK_LEN: usize = FRAME_LEN;

impl Survey {
    /// The segments that are there as plain files, with the one behind them sealed: those that may
    /// be settled.
    pub fn compressible(&self) -> impl Iterator<Item = (TimelineId, SegmentNumber)> {
        self.timelines().flat_map(|(timeline, segments)| {
            let settled = move |number: &SegmentNumber| {
                segments.form(number.next()).is_some_and(crate::Form::is_sealed)
            };
            segments.plain().filter(settled).map(move |number| (timeline, number))
        })
    }
}

impl Catalogue {
    /// Takes the right to compress for this process.
    ///
    /// # Errors
    /// If another process has it.
    pub fn lock_compression(&self, holder: &str) -> Result<disk::Lock, ArchiveError> {
        self.files.create_dir(Path::new(Layout::RUN))?;
        Ok(self.files.lock(Path::new(LOCK), holder)?)
    }

    /// Compresses a segment, if it is settled. The caller holds the
    /// [lock](Self::lock_compression).
    ///
    /// # Errors
    /// If the segment doesn't hold, if what was compressed doesn't unpack to it, or the disk fails.
    /// The plain segment stays then.
    pub fn compress(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
        method: Method,
    ) -> Result<Compressed, ArchiveError> {
        let plain = self.layout.segment(timeline, number);
        let next = self.layout.segment(timeline, number.next());
        if self.files.len(&plain)?.is_none() || self.len_of(&next)?.is_none() {
            return Ok(Compressed::NotYet);
        }
        if let Some((packed, method)) = self.packed_of(&plain)? {
            // A crash left both, or the plain one came again.
            self.same(&plain, &packed, method)?;
            return self.replace_by(&plain, &packed);
        }
        let Some(reader) = self.open_segment(timeline, number)? else {
            return Ok(Compressed::NotYet);
        };
        let mut proof = self.prove(&reader)?;
        let temporary = Path::new(TEMPORARY);
        if self.files.len(temporary)?.is_some() {
            self.files.remove(temporary)?;
        }
        self.files.write_new(temporary, &[])?;
        let (mut buf, mut at, mut frame) = (AlignedBuf::zeroed(CHUNK_LEN), 0, Vec::new());
        while at < reader.len() {
            let len = reader.read_at(at, &mut buf)?;
            let read = buf.get(..len).filter(|read| !read.is_empty());
            let Some(read) = read else { return Ok(Compressed::NotYet) };
            proof.feed(read)?;
            frame.clear();
            let packed = method.pack(read, &mut frame);
            packed.map_err(|error| DiskError::from_io("compressing", temporary, &error))?;
            self.files.append(temporary, &frame)?;
            at += len as u64;
        }
        if !self.is_settled(timeline, number, proof, &mut buf)? {
            self.files.remove(temporary)?;
            return Ok(Compressed::NotYet);
        }
        if self.files.len(temporary)? >= Some(reader.len()) {
            self.files.remove(temporary)?;
            return Ok(Compressed::Incompressible);
        }
        self.files.sync_file(temporary)?;
        self.same(&plain, temporary, method)?;
        let packed = self.layout.packed(timeline, number, method);
        self.files.rename(temporary, &packed)?;
        self.replace_by(&plain, &packed)
    }

    /// Whether the record that runs over a segment's end is proved; the proof has seen the segment.
    fn is_settled(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
        proof: Proof,
        buf: &mut AlignedBuf,
    ) -> Result<bool, ArchiveError> {
        let end = number.end(self.layout.segment_size);
        let mut validator = proof.into_validator();
        let mut next = number.next();
        while validator.proved().0 < end {
            let Some(reader) = self.open_segment(timeline, next)? else { return Ok(false) };
            let mut at = 0;
            while at < reader.len() && validator.proved().0 < end {
                let len = reader.read_at(at, buf)?;
                let read = buf.get(..len).filter(|read| !read.is_empty());
                let Some(read) = read else { return Ok(false) };
                if let Err(error) = validator.feed(read, &mut |_: &Record| {}) {
                    let path = reader.path().to_owned();
                    return Err(ArchiveError::Damaged { path, error });
                }
                at += len as u64;
            }
            next = next.next();
        }
        Ok(true)
    }

    /// Compares a plain segment with what a compressed file unpacks to.
    fn same(&self, plain: &Path, packed: &Path, method: Method) -> Result<(), ArchiveError> {
        let ours = self.files.open_read(plain, Access::Direct)?;
        let theirs = self.open_packed(packed, method)?;
        match self.first_difference(&*ours, &theirs, self.layout.segment_size.bytes())? {
            None => Ok(()),
            Some(_) => {
                Err(ArchiveError::Differs { path: packed.to_owned(), kept: Some(plain.to_owned()) })
            }
        }
    }

    /// Lets the plain name go, once the other one is durable.
    fn replace_by(&self, plain: &Path, packed: &Path) -> Result<Compressed, ArchiveError> {
        self.files.sync_file(packed)?;
        self.files.sync_dir(Path::new(Layout::WAL))?;
        self.files.remove(plain)?;
        Ok(Compressed::Done { len: self.files.len(packed)?.unwrap_or(0) })
    }

    /// The first byte in which two open files differ, of so many.
    pub(crate) fn first_difference(
        &self,
        one: &dyn ReadAt,
        other: &dyn ReadAt,
        len: u64,
    ) -> Result<Option<u64>, DiskError> {
        let mut bufs = [AlignedBuf::zeroed(CHUNK_LEN), AlignedBuf::zeroed(CHUNK_LEN)];
        let mut offset = 0;
        while offset < len {
            let [a, b] = &mut bufs;
            let got = one.read_at(offset, a, CHUNK_LEN)?.min(other.read_at(offset, b, CHUNK_LEN)?);
            let wanted = usize::try_from(len - offset).unwrap_or(usize::MAX).min(CHUNK_LEN);
            let part = got.min(wanted);
            if part < wanted || a.get(..part) != b.get(..part) {
                let pairs = a.iter().zip(b.iter()).take(part);
                let same = pairs.take_while(|(a, b)| a == b).count();
                return Ok(Some(offset + same as u64));
            }
            offset += wanted as u64;
        }
        Ok(None)
    }
}
