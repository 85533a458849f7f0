//! Compressed segments, read as if they weren't: `X.zst`, `X.lz4` or `X.gz` stands for `X`.
//!
//! Everything in this crate names a segment by its plain name and opens it [here](Catalogue::open_wal),
//! so that there is one way to read all forms. The plain file wins where both are there.
//!
//! What was compressed here is [frames](framed) of [`FRAME_LEN`] that stand by themselves: whatever
//! is read, the frames that it lies in are unpacked, by as many threads at once as read. What others
//! compressed is a [stream](streamed), from front to end. A sealed
//! segment is a segment long: whoever reads to its end knows that it unpacked to just that, and that
//! the checksums which its method has for the content hold. What doesn't unpack is an error of kind
//! [`Corrupt`](ErrorKind::Corrupt), which names the file, and never a short read.

mod framed;
mod streamed;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compression::Method;
use disk::{Access, AlignedBuf, DiskError, ErrorKind, Files, ReadAt};
use pg_types::{SegmentNumber, SegmentSize, TimelineId, WalFileKind, WalFileName};

use crate::{Catalogue, Layout};
use framed::Framed;
use streamed::Streamed;

/// What is compressed by itself: half a percent is lost by that, and both the content and what it
/// is unpacked from stay in a processor's own cache.
pub const FRAME_LEN: usize = 256 << 10;

/// A compressed file that is open for reading.
pub(crate) enum Packed {
    Framed(Arc<Framed>),
    Streamed(Streamed),
}

impl Packed {
    /// Opens a file of this disk whose content has `size` bytes; fewer if it is `unfinished`.
    pub(crate) fn open(
        files: &Arc<dyn Files>,
        path: &Path,
        method: Method,
        size: u64,
        unfinished: bool,
    ) -> Result<Self, DiskError> {
        let file = files.open_read(path, Access::Buffered)?;
        // What may have been cut off is read as far as it goes.
        let framed = if unfinished { Err(file) } else { Framed::of(file, path, method, size) };
        Ok(match framed {
            Ok(framed) => Self::Framed(Arc::new(framed)),
            Err(file) => Self::Streamed(Streamed::new(files, file, path, method, size, unfinished)),
        })
    }
}

impl ReadAt for Packed {
    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<usize, DiskError> {
        match self {
            Self::Framed(framed) => framed.read_at(offset, buf, len),
            Self::Streamed(streamed) => streamed.read_at(offset, buf, len),
        }
    }

    fn len(&self) -> Result<u64, DiskError> {
        match self {
            Self::Framed(framed) => framed.len(),
            Self::Streamed(streamed) => streamed.len(),
        }
    }

    fn is_in_order(&self) -> bool {
        matches!(self, Self::Streamed(_))
    }
}

/// What is said of a file that doesn't unpack.
fn corrupt(path: &Path, why: impl std::fmt::Display) -> DiskError {
    let message = format!(
        "{why}: it was damaged since it was compressed; put it back from a copy, or decompress \
         what is left of it"
    );
    DiskError::new("unpacking", path, ErrorKind::Corrupt, message)
}

/// Copies what there is of `from`, as far as there is room in `to`; gives how much.
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let part = from.len().min(to.len());
    if let (Some(to), Some(from)) = (to.get_mut(..part), from.get(..part)) {
        to.copy_from_slice(from);
    }
    part
}

/// A file's name with a method's ending.
pub(crate) fn with_suffix(path: &Path, method: Method) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(method.suffix());
    PathBuf::from(name)
}

/// What a name in `wal/` stands for; a segment may be compressed.
pub(crate) fn parse_name(name: &str, size: SegmentSize) -> Option<(WalFileName, Option<Method>)> {
    let (plain, method) = Method::of_name(name);
    let parsed = WalFileName::parse(plain, size)?;
    let whole = matches!(parsed, WalFileName::Segment { kind: WalFileKind::Segment, .. });
    (whole || method.is_none()).then_some((parsed, method))
}

impl Layout {
    /// A whole segment that is compressed.
    #[must_use]
    pub fn packed(&self, timeline: TimelineId, number: SegmentNumber, method: Method) -> PathBuf {
        with_suffix(&self.segment(timeline, number), method)
    }
}

impl Catalogue {
    /// Opens the file of this plain name, or the compressed one that stands for it; gives its
    /// real name, too.
    pub(crate) fn open_wal(
        &self,
        path: &Path,
        access: Access,
    ) -> Result<(Box<dyn ReadAt>, PathBuf), DiskError> {
        let missing = match self.files.open_read(path, access) {
            Err(error) if error.kind() == ErrorKind::NotFound => error,
            file => return Ok((file?, path.to_owned())),
        };
        for method in Method::ALL {
            let packed = with_suffix(path, method);
            match self.open_packed(&packed, method) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                file => return Ok((Box::new(file?), packed)),
            }
        }
        Err(missing)
    }

    /// Opens a compressed segment that is sealed, or is to be.
    pub(crate) fn open_packed(&self, path: &Path, method: Method) -> Result<Packed, DiskError> {
        Packed::open(&self.files, path, method, self.layout.segment_size.bytes(), false)
    }

    /// How long the file of this plain name is, or would be if it weren't compressed; `None` if
    /// neither is there.
    pub(crate) fn len_of(&self, path: &Path) -> Result<Option<u64>, DiskError> {
        if let Some(len) = self.files.len(path)? {
            return Ok(Some(len));
        }
        let packed = self.packed_of(path)?;
        Ok(packed.map(|_| self.layout.segment_size.bytes()))
    }

    /// The compressed file that stands for this plain name, if there is one.
    pub(crate) fn packed_of(&self, path: &Path) -> Result<Option<(PathBuf, Method)>, DiskError> {
        for method in Method::ALL {
            let packed = with_suffix(path, method);
            if self.files.len(&packed)?.is_some() {
                return Ok(Some((packed, method)));
            }
        }
        Ok(None)
    }

    /// The file that a segment is in, compressed or not; its plain name if it isn't there.
    #[must_use]
    pub fn stored_file(&self, timeline: TimelineId, number: SegmentNumber) -> PathBuf {
        let plain = self.layout.segment(timeline, number);
        match self.files.len(&plain) {
            Ok(None) => {
                let packed = self.packed_of(&plain).ok().flatten();
                packed.map_or(plain, |(packed, _)| packed)
            }
            _ => plain,
        }
    }

    /// The files that are there for this plain name.
    pub(crate) fn files_of(&self, path: &Path) -> Result<Vec<PathBuf>, DiskError> {
        let mut there = Vec::new();
        let packed = Method::ALL.map(|method| with_suffix(path, method));
        for path in [path.to_owned()].into_iter().chain(packed) {
            if self.files.len(&path)?.is_some() {
                there.push(path);
            }
        }
        Ok(there)
    }

    /// As [`Files::copy`], from the file of this plain name or the one that stands for it.
    pub(crate) fn copy_wal(&self, from: &Path, to: &Path, len: u64) -> Result<(), DiskError> {
        if self.files.len(from)?.is_some() {
            return self.files.copy(from, to, len);
        }
        let (file, _) = self.open_wal(from, Access::Buffered)?;
        self.unpack(&*file, to, len)
    }

    /// Makes a new file of the first `len` bytes of a segment, zeros behind them up to its size.
    pub(crate) fn unpack(&self, from: &dyn ReadAt, to: &Path, len: u64) -> Result<(), DiskError> {
        self.files.write_new(to, &[])?;
        let (mut buf, mut at) = (AlignedBuf::zeroed(FRAME_LEN), 0);
        let size = self.layout.segment_size.bytes();
        while at < size {
            let wanted = FRAME_LEN.min(usize::try_from(size - at).unwrap_or(FRAME_LEN));
            let left = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX);
            let got = if left == 0 { 0 } else { from.read_at(at, &mut buf, wanted)?.min(left) };
            buf.iter_mut().skip(got).for_each(|byte| *byte = 0);
            self.files.append(to, buf.get(..wanted).unwrap_or_default())?;
            at += wanted as u64;
        }
        Ok(())
    }

    /// Takes a sealed segment's final name away, leaving the `.partial` that streaming goes on in.
    /// Of a compressed one that takes its first `len` bytes, unpacked; the file itself goes to
    /// quarantine.
    pub(crate) fn unseal(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
        len: u64,
    ) -> Result<(), DiskError> {
        let (sealed, partial) =
            (self.layout.segment(timeline, number), self.layout.partial(timeline, number));
        if self.files.len(&sealed)?.is_none() {
            let temporary = self.layout.copied(timeline, number);
            self.copy_wal(&sealed, &temporary, len)?;
            self.files.sync_file(&temporary)?;
            self.files.rename(&temporary, &partial)?;
            self.files.sync_dir(Path::new(Layout::WAL))?;
        } else {
            self.files.rename(&sealed, &partial)?;
        }
        for packed in self.files_of(&sealed)? {
            self.aside(&packed, "unsealed")?;
        }
        Ok(())
    }
}
