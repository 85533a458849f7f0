//! Compressed segments, read as if they weren't: `X.zst`, `X.lz4` or `X.gz` stands for `X`.
//!
//! Everything in this crate names a segment by its plain name and opens it [here](Catalogue::open_wal),
//! so that there is one way to read all forms. The plain file wins where both are there.
//!
//! Read from front to end, as nearly everybody does, a file is decoded once, and nothing of it is
//! kept but the last two [chunks](CHUNK_LEN). Going further back begins anew. Asked for its end first,
//! a file that was compressed here gives that without the rest. A sealed segment is a
//! segment long: whoever reads to its end knows that it unpacked to just that, and that the
//! checksum which its method has for the content holds. What doesn't unpack is an error of kind
//! [`Corrupt`](ErrorKind::Corrupt), which names the file, and never a short read.

use std::ffi::OsString;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use compression::{Method, PEEK_LEN};
use disk::{Access, AlignedBuf, DiskError, ErrorKind, Files, ReadAt};
use pg_types::{SegmentNumber, SegmentSize, TimelineId, WalFileKind, WalFileName};

use crate::{Catalogue, Layout};

/// What is decoded at once, and kept with the one before: the pages at a segment's end, which are
/// looked at from the last one back, lie in them.
const CHUNK_LEN: usize = 128 << 10;
/// The end of a segment is a frame of its own: whoever proves the segment behind needs but that.
pub(crate) const TAIL_LEN: usize = CHUNK_LEN;
/// How much of the file is read at once.
const SOURCE_LEN: usize = 32 << 10;

/// A compressed file that is open for reading.
pub(crate) struct Packed {
    open: Box<dyn Fn() -> Result<Box<dyn ReadAt>, DiskError> + Send + Sync>,
    path: PathBuf,
    method: Method,
    /// How long the content is, at most if it is `unfinished`.
    size: u64,
    /// It may have been cut off: the content ends where it does.
    unfinished: bool,
    stream: Mutex<Stream>,
}

/// A decoder on its way through the content.
struct Stream {
    decoder: Box<dyn Read + Send>,
    /// The last two chunks, the older one first.
    chunks: [Chunk; 2],
    /// Where the next one begins.
    next: u64,
    ended: bool,
}

#[derive(Default)]
struct Chunk {
    at: u64,
    bytes: Vec<u8>,
}

impl Chunk {
    /// What it has from this offset on.
    fn from(&self, offset: u64) -> Option<&[u8]> {
        let within = usize::try_from(offset.checked_sub(self.at)?).ok()?;
        self.bytes.get(within..).filter(|bytes| !bytes.is_empty())
    }
}

impl Packed {
    /// Opens a file of this disk whose content has `size` bytes; fewer if it is `unfinished`.
    pub(crate) fn open(
        files: &std::sync::Arc<dyn Files>,
        path: &Path,
        method: Method,
        size: u64,
        unfinished: bool,
    ) -> Result<Self, DiskError> {
        let (files, named) = (std::sync::Arc::clone(files), path.to_owned());
        let open = Box::new(move || files.open_read(&named, Access::Buffered));
        let stream = Stream::new(open()?, method, size);
        let (path, stream) = (path.to_owned(), Mutex::new(stream));
        Ok(Self { open, path, method, size, unfinished, stream })
    }

    fn corrupt(&self, why: impl std::fmt::Display) -> DiskError {
        let message = format!(
            "{why}: it was damaged since it was compressed; put it back from a copy, or decompress \
             what is left of it"
        );
        DiskError::new("unpacking", &self.path, ErrorKind::Corrupt, message)
    }

    /// Decodes the last frame alone, if there are several; that fails, it is no loss.
    fn tail(&self) -> Result<Option<Chunk>, DiskError> {
        let file = (self.open)()?;
        let (len, mut buf) = (file.len()?, AlignedBuf::zeroed(disk::BLOCK));
        let mut peek = |at: u64| {
            let got = file.read_at(at, &mut buf, PEEK_LEN).unwrap_or(0);
            let mut peeked = [0; PEEK_LEN];
            peeked.iter_mut().zip(buf.iter().take(got)).for_each(|(to, from)| *to = *from);
            peeked
        };
        let Some(at) = self.method.last_frame(len, &mut peek) else { return Ok(None) };
        let source = Source { file, buf: AlignedBuf::zeroed(SOURCE_LEN), at };
        let most = TAIL_LEN as u64 + 1;
        let mut bytes = Vec::with_capacity(TAIL_LEN);
        let decoder = self.method.decoder(BufReader::new(source), most);
        let unpacked = decoder.take(most).read_to_end(&mut bytes);
        let at = self.size.checked_sub(bytes.len() as u64);
        let is_tail = unpacked.is_ok() && bytes.len() <= TAIL_LEN;
        Ok(at.filter(|_| is_tail).map(|at| Chunk { at, bytes }))
    }

    /// Decodes the next chunk.
    fn advance(&self, stream: &mut Stream) -> Result<(), DiskError> {
        let [older, newer] = &mut stream.chunks;
        std::mem::swap(older, newer);
        newer.at = stream.next;
        newer.bytes.resize(CHUNK_LEN, 0);
        let mut got = 0;
        while let Some(rest) = newer.bytes.get_mut(got..).filter(|rest| !rest.is_empty()) {
            match stream.decoder.read(rest) {
                Ok(0) => {
                    stream.ended = true;
                    break;
                }
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if self.unfinished => {
                    stream.ended = true;
                    break;
                }
                Err(error) => {
                    // The disk's own word, if that is what failed.
                    let of_disk = error.get_ref().and_then(|inner| inner.downcast_ref());
                    return Err(of_disk.cloned().unwrap_or_else(|| self.corrupt(&error)));
                }
            }
        }
        newer.bytes.truncate(got);
        stream.next += got as u64;
        if !stream.ended && stream.next >= self.size {
            self.check_end(stream)?;
        }
        if stream.ended && stream.next < self.size && !self.unfinished {
            return Err(self.corrupt(format_args!(
                "it unpacks to {} bytes, and a segment has {}",
                stream.next, self.size
            )));
        }
        Ok(())
    }

    /// Behind the last byte comes nothing but a checksum, which is read now.
    fn check_end(&self, stream: &mut Stream) -> Result<(), DiskError> {
        stream.ended = true;
        match stream.decoder.read(&mut [0]) {
            Ok(0) => Ok(()),
            _ if self.unfinished => Ok(()),
            Ok(_) => Err(self.corrupt("it unpacks to more than a segment")),
            Err(error) => Err(self.corrupt(&error)),
        }
    }
}

impl Stream {
    fn new(file: Box<dyn ReadAt>, method: Method, size: u64) -> Self {
        let source = Source { file, buf: AlignedBuf::zeroed(SOURCE_LEN), at: 0 };
        // A byte more than there may be, so that it is seen.
        let decoder = method.decoder(BufReader::new(source), size.saturating_add(1));
        Self { decoder, chunks: <[Chunk; 2]>::default(), next: 0, ended: false }
    }
}

impl ReadAt for Packed {
    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<usize, DiskError> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = stream.chunks.iter().filter(|chunk| !chunk.bytes.is_empty());
        if offset < oldest.map(|chunk| chunk.at).min().unwrap_or(stream.next) {
            *stream = Stream::new((self.open)()?, self.method, self.size);
        }
        let at_end = offset.saturating_add(TAIL_LEN as u64) >= self.size;
        if at_end
            && stream.next == 0
            && !self.unfinished
            && let Some(tail) = self.tail()?
        {
            (stream.next, stream.ended) = (self.size, true);
            stream.chunks = [Chunk::default(), tail];
        }
        // Of a tail that is shorter than asked for.
        let oldest = stream.chunks.iter().filter(|chunk| !chunk.bytes.is_empty());
        if stream.ended && oldest.map(|chunk| chunk.at).min().is_some_and(|oldest| offset < oldest)
        {
            *stream = Stream::new((self.open)()?, self.method, self.size);
        }
        let mut got = 0;
        while let Some(rest) = buf.get_mut(got..len).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(got as u64);
            if let Some(found) = stream.chunks.iter().find_map(|chunk| chunk.from(at)) {
                let part = found.len().min(rest.len());
                if let (Some(to), Some(from)) = (rest.get_mut(..part), found.get(..part)) {
                    to.copy_from_slice(from);
                }
                got += part;
            } else if stream.ended {
                break;
            } else if let Err(error) = self.advance(&mut stream) {
                // Asked again, it fails again.
                *stream = Stream::new((self.open)()?, self.method, self.size);
                return Err(error);
            }
        }
        Ok(got)
    }

    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.size)
    }
}

/// The file, from its first byte on.
struct Source {
    file: Box<dyn ReadAt>,
    buf: AlignedBuf,
    at: u64,
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = into.len().min(self.buf.capacity());
        let got = self.file.read_at(self.at, &mut self.buf, len).map_err(io::Error::other)?;
        self.at += got as u64;
        for (to, from) in into.iter_mut().zip(self.buf.iter().take(got)) {
            *to = *from;
        }
        Ok(got)
    }
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
        let (mut buf, mut at) = (AlignedBuf::zeroed(CHUNK_LEN), 0);
        let size = self.layout.segment_size.bytes();
        while at < size {
            let wanted = CHUNK_LEN.min(usize::try_from(size - at).unwrap_or(CHUNK_LEN));
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
