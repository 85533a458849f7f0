//! A file of frames that stand by themselves: to read a place is to unpack the frame that it is in.
//!
//! The last few frames are kept: readers at different places of one segment don't unpack for each
//! other, and nobody unpacks a frame for each page of it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use compression::{Frame, Method, PEEK_LEN, Unpacker};
use disk::{AlignedBuf, DiskError, ReadAt};

use super::{copy, corrupt};

/// So many frames are kept: a megabyte.
const KEPT: usize = 4;

/// An open file all of whose content is in frames.
pub(crate) struct Framed {
    file: Box<dyn ReadAt>,
    path: PathBuf,
    method: Method,
    /// With where their contents begin.
    frames: Vec<(u64, Frame)>,
    size: u64,
    kept: Mutex<Kept>,
}

struct Kept {
    worker: Worker,
    /// By their places, what was read last at the end.
    contents: VecDeque<(usize, Vec<u8>)>,
}

/// What unpacks, one frame after the other.
pub(super) struct Worker {
    unpacker: Unpacker,
    frame: AlignedBuf,
}

impl Framed {
    /// Looks for the frames; gives the file back if it hasn't just the content that it should have
    /// in frames.
    pub(super) fn of(
        file: Box<dyn ReadAt>,
        path: &Path,
        method: Method,
        size: u64,
    ) -> Result<Self, Box<dyn ReadAt>> {
        let Some(frames) = find(&*file, method) else { return Err(file) };
        let mut start = 0;
        let mut placed = Vec::with_capacity(frames.len());
        for frame in frames.into_iter().filter(|frame| frame.content > 0) {
            placed.push((start, frame));
            start += frame.content as u64;
        }
        if start != size {
            return Err(file);
        }
        let kept = Kept { worker: Worker::new(method, &placed), contents: VecDeque::new() };
        let (path, kept) = (path.to_owned(), Mutex::new(kept));
        Ok(Self { file, path, method, frames: placed, size, kept })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn worker(&self) -> Worker {
        Worker::new(self.method, &self.frames)
    }

    /// The frame that this offset is in, and how far behind its start.
    pub(super) fn place(&self, offset: u64) -> Option<(usize, usize)> {
        let place = self.frames.partition_point(|(start, _)| *start <= offset).checked_sub(1)?;
        let (start, frame) = self.frames.get(place)?;
        let within = usize::try_from(offset - start).ok()?;
        (within < frame.content).then_some((place, within))
    }

    /// Unpacks a frame, in place of what is in `content`.
    pub(super) fn unpack(
        &self,
        place: usize,
        worker: &mut Worker,
        content: &mut Vec<u8>,
    ) -> Result<(), DiskError> {
        let Some((_, frame)) = self.frames.get(place) else {
            content.clear();
            return Ok(());
        };
        let got = self.file.read_at(frame.at, &mut worker.frame, frame.len)?;
        let bytes = worker.frame.get(..got.min(frame.len)).unwrap_or_default();
        let unpacked = worker.unpacker.unpack(bytes, frame.content, content);
        unpacked.map_err(|error| corrupt(&self.path, error))
    }
}

/// The frames of a file; what can't be read has none.
fn find(file: &dyn ReadAt, method: Method) -> Option<Vec<Frame>> {
    let (len, mut buf) = (file.len().ok()?, AlignedBuf::zeroed(disk::BLOCK));
    let mut peek = |at: u64| {
        let got = file.read_at(at, &mut buf, PEEK_LEN).unwrap_or(0);
        let mut peeked = [0; PEEK_LEN];
        peeked.iter_mut().zip(buf.iter().take(got)).for_each(|(to, from)| *to = *from);
        peeked
    };
    method.frames(len, &mut peek)
}

impl Worker {
    fn new(method: Method, frames: &[(u64, Frame)]) -> Self {
        let longest = frames.iter().map(|(_, frame)| frame.len).max().unwrap_or(0);
        let frame = AlignedBuf::zeroed(longest.next_multiple_of(disk::BLOCK));
        Self { unpacker: method.unpacker(), frame }
    }
}

impl Kept {
    /// Has the frame unpacked, and at the end.
    fn take(&mut self, framed: &Framed, place: usize) -> Result<&[u8], DiskError> {
        let found = self.contents.iter().position(|(kept, _)| *kept == place);
        let content = match found.and_then(|found| self.contents.remove(found)) {
            Some((_, content)) => content,
            None => {
                let oldest =
                    if self.contents.len() < KEPT { None } else { self.contents.pop_front() };
                let mut content = oldest.map(|(_, content)| content).unwrap_or_default();
                framed.unpack(place, &mut self.worker, &mut content)?;
                content
            }
        };
        self.contents.push_back((place, content));
        Ok(self.contents.back().map_or(&[], |(_, content)| content))
    }
}

impl ReadAt for Framed {
    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<usize, DiskError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut got = 0;
        while let Some(rest) = buf.get_mut(got..len).filter(|rest| !rest.is_empty()) {
            let Some((place, within)) = self.place(offset.saturating_add(got as u64)) else {
                break;
            };
            let content = kept.take(self, place)?;
            got += copy(content.get(within..).unwrap_or_default(), rest);
        }
        Ok(got)
    }

    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.size)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use disk::Files;
    use disk::sim::SimDisk;

    use super::super::{FRAME_LEN, Packed};
    use super::*;

    /// A file that counts the bytes that are read of it.
    struct Counting(Box<dyn ReadAt>, Arc<AtomicU64>);

    impl ReadAt for Counting {
        fn read_at(&self, at: u64, buf: &mut AlignedBuf, len: usize) -> Result<usize, DiskError> {
            let got = self.0.read_at(at, buf, len)?;
            self.1.fetch_add(got as u64, Ordering::Relaxed);
            Ok(got)
        }

        fn len(&self) -> Result<u64, DiskError> {
            self.0.len()
        }
    }

    fn content() -> Vec<u8> {
        (0..1_000_000_u32).flat_map(|i| (i.wrapping_mul(i) >> 9).to_le_bytes()).collect()
    }

    /// The content as seawall compresses it, or in one frame.
    fn packed(method: Method, one: bool) -> Vec<u8> {
        let mut packed = Vec::new();
        if one {
            let mut encoder = method.encoder(packed).unwrap();
            std::io::Write::write_all(&mut encoder, &content()).unwrap();
            return encoder.finish().unwrap();
        }
        content().chunks(FRAME_LEN).for_each(|piece| method.pack(piece, &mut packed).unwrap());
        packed
    }

    /// Opens it; the first one by way of what counts.
    fn open(bytes: &[u8], method: Method) -> (Packed, Arc<AtomicU64>) {
        let (disk, path) = (SimDisk::new(1), Path::new("x"));
        disk.write_new(path, bytes).unwrap();
        let (files, size): (Arc<dyn Files>, _) = (Arc::new(disk), content().len() as u64);
        let packed = Packed::open(&files, path, method, size, false).unwrap();
        let read = Arc::new(AtomicU64::new(0));
        match packed {
            Packed::Framed(framed) => {
                let framed = Arc::into_inner(framed).unwrap();
                let file = Box::new(Counting(framed.file, Arc::clone(&read)));
                (Packed::Framed(Arc::new(Framed { file, ..framed })), read)
            }
            streamed @ Packed::Streamed(_) => (streamed, read),
        }
    }

    /// Readers at so many places, in turn, a page at a time: each gets what there is.
    fn followers(file: &dyn ReadAt, places: u64) {
        let content = content();
        let mut buf = AlignedBuf::zeroed(disk::BLOCK);
        let len = content.len() as u64 / places / 4 * 4;
        for at in (0..len).step_by(disk::BLOCK) {
            for place in 0..places {
                let from = place * len + at;
                let got = file.read_at(from, &mut buf, disk::BLOCK).unwrap();
                let from = usize::try_from(from).unwrap();
                assert!(buf[..got] == content[from..from + got] && got > 0, "at {from}");
            }
        }
    }

    #[test]
    fn followers_at_different_places_dont_unpack_it_again_and_again() {
        for method in Method::ALL {
            let bytes = packed(method, false);
            let (file, read) = open(&bytes, method);
            assert!(matches!(file, Packed::Framed(_)));
            followers(&file, 3);
            let once = bytes.len() as u64;
            assert!(read.load(Ordering::Relaxed) <= once * 2, "{method}: {read:?} of {once}");
            // What others made can't be begun in the middle, and each has its own way through it.
            let (file, _) = open(&packed(method, true), method);
            let Packed::Streamed(streamed) = &file else { panic!("{method} in one frame") };
            followers(&file, 4);
            assert!(streamed.begun() <= 5, "{method}: begun {} times", streamed.begun());
        }
    }

    #[test]
    fn who_reads_ahead_gets_the_same_and_may_go_back() {
        let content = content();
        for method in Method::ALL {
            let (file, _) = open(&packed(method, false), method);
            let file = file.ahead();
            let mut buf = AlignedBuf::zeroed(FRAME_LEN);
            let mut check = |from: usize, len: usize| {
                let got = file.read_at(from as u64, &mut buf, len).unwrap();
                assert_eq!(got, len.min(content.len().saturating_sub(from)), "{method} {from}");
                assert!(got == 0 || buf[..got] == content[from..from + got], "{method} {from}");
            };
            check(0, 8192);
            (0..content.len()).step_by(FRAME_LEN).take(4).for_each(|at| check(at, FRAME_LEN));
            check(100, FRAME_LEN);
            check(content.len() - 5, 100);
            (0..content.len()).step_by(100_000).for_each(|at| check(at, 100_000));
            check(content.len(), 10);
        }
    }

    #[test]
    fn a_frame_that_is_damaged_is_an_error_for_all_who_read_it() {
        for method in Method::ALL {
            let mut bytes = packed(method, false);
            let at = bytes.len() / 2;
            bytes[at] ^= 0x40;
            let mut buf = AlignedBuf::zeroed(FRAME_LEN);
            let mut read = |file: &dyn ReadAt| -> Result<(), DiskError> {
                let ends = (0..content().len() as u64).step_by(FRAME_LEN);
                ends.map(|at| file.read_at(at, &mut buf, FRAME_LEN))
                    .try_for_each(|got| got.map(drop))
            };
            let (file, _) = open(&bytes, method);
            for _ in 0..2 {
                let error = read(&file).unwrap_err();
                assert_eq!(error.kind(), disk::ErrorKind::Corrupt, "{error}");
            }
            let ahead = file.ahead();
            for _ in 0..2 {
                assert_eq!(read(&*ahead).unwrap_err().kind(), disk::ErrorKind::Corrupt, "{method}");
            }
        }
    }
}
