//! A file that can be unpacked from front to end alone, as other programs make them.
//!
//! Read so, as nearly everybody does, it is decoded once, and nothing of it is kept but the last
//! two [chunks](CHUNK_LEN). Going further back begins anew; readers at a few different places have a
//! decoder each, so that they don't send each other back.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use compression::Method;
use disk::{Access, AlignedBuf, DiskError, Files, ReadAt};

use super::{copy, corrupt};

/// What is decoded at once, and kept with the one before: the pages at a segment's end, which are
/// looked at from the last one back, lie in them.
const CHUNK_LEN: usize = 128 << 10;
/// How much of the file is read at once.
const SOURCE_LEN: usize = 32 << 10;
/// So many places are read at without beginning anew, with half a megabyte each.
const MAX_STREAMS: usize = 4;

/// A compressed file that is open for reading.
pub(crate) struct Streamed {
    open: Box<dyn Fn() -> Result<Box<dyn ReadAt>, DiskError> + Send + Sync>,
    path: PathBuf,
    method: Method,
    /// How long the content is, at most if it is `unfinished`.
    size: u64,
    /// It may have been cut off: the content ends where it does.
    unfinished: bool,
    /// What was read last at the end.
    streams: Mutex<Vec<Stream>>,
    #[cfg(test)]
    begun: std::sync::atomic::AtomicUsize,
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

impl Streamed {
    pub(super) fn new(
        files: &Arc<dyn Files>,
        file: Box<dyn ReadAt>,
        path: &Path,
        method: Method,
        size: u64,
        unfinished: bool,
    ) -> Self {
        let (files, named) = (Arc::clone(files), path.to_owned());
        let open = Box::new(move || files.open_read(&named, Access::Buffered));
        let streams = Mutex::new(vec![Stream::new(file, method, size)]);
        Self {
            open,
            path: path.to_owned(),
            method,
            size,
            unfinished,
            streams,
            #[cfg(test)]
            begun: std::sync::atomic::AtomicUsize::new(1),
        }
    }

    /// How often somebody began at the front.
    #[cfg(test)]
    pub(super) fn begun(&self) -> usize {
        self.begun.load(std::sync::atomic::Ordering::Relaxed)
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
                    return Err(of_disk.cloned().unwrap_or_else(|| corrupt(&self.path, &error)));
                }
            }
        }
        newer.bytes.truncate(got);
        stream.next += got as u64;
        if !stream.ended && stream.next >= self.size {
            self.check_end(stream)?;
        }
        if stream.ended && stream.next < self.size && !self.unfinished {
            let why =
                format!("it unpacks to {} bytes, and a segment has {}", stream.next, self.size);
            return Err(corrupt(&self.path, why));
        }
        Ok(())
    }

    /// Behind the last byte comes nothing but a checksum, which is read now.
    fn check_end(&self, stream: &mut Stream) -> Result<(), DiskError> {
        stream.ended = true;
        match stream.decoder.read(&mut [0]) {
            Ok(0) => Ok(()),
            _ if self.unfinished => Ok(()),
            Ok(_) => Err(corrupt(&self.path, "it unpacks to more than a segment")),
            Err(error) => Err(corrupt(&self.path, error)),
        }
    }

    /// The one of them that has the least way to this offset, or a new one.
    fn stream_for(&self, streams: &mut Vec<Stream>, offset: u64) -> Result<Stream, DiskError> {
        let before = streams.iter().enumerate().filter(|(_, stream)| stream.oldest() <= offset);
        if let Some((place, _)) = before.max_by_key(|(_, stream)| stream.oldest()) {
            return Ok(streams.remove(place));
        }
        if streams.len() == MAX_STREAMS {
            streams.remove(0);
        }
        #[cfg(test)]
        self.begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Stream::new((self.open)()?, self.method, self.size))
    }

    fn read(
        &self,
        stream: &mut Stream,
        offset: u64,
        buf: &mut AlignedBuf,
        len: usize,
    ) -> Result<usize, DiskError> {
        let mut got = 0;
        while let Some(rest) = buf.get_mut(got..len).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(got as u64);
            if let Some(found) = stream.chunks.iter().find_map(|chunk| chunk.from(at)) {
                got += copy(found, rest);
            } else if stream.ended {
                break;
            } else {
                self.advance(stream)?;
            }
        }
        Ok(got)
    }
}

impl Stream {
    fn new(file: Box<dyn ReadAt>, method: Method, size: u64) -> Self {
        let source = Source { file, buf: AlignedBuf::zeroed(SOURCE_LEN), at: 0 };
        // A byte more than there may be, so that it is seen.
        let decoder = method.decoder(BufReader::new(source), size.saturating_add(1));
        Self { decoder, chunks: <[Chunk; 2]>::default(), next: 0, ended: false }
    }

    /// Before this it can't give anything.
    fn oldest(&self) -> u64 {
        let kept = self.chunks.iter().filter(|chunk| !chunk.bytes.is_empty());
        kept.map(|chunk| chunk.at).min().unwrap_or(self.next)
    }
}

impl ReadAt for Streamed {
    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<usize, DiskError> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stream = self.stream_for(&mut streams, offset)?;
        // One that failed is gone: asked again, it fails again.
        let got = self.read(&mut stream, offset, buf, len)?;
        streams.push(stream);
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
        Ok(copy(self.buf.get(..got).unwrap_or_default(), into))
    }
}
