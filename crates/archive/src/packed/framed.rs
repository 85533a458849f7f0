//! A file of frames that stand by themselves: to read a place is to unpack the frame that it is in.
//!
//! Who reads a whole frame has it unpacked to where it is wanted, by several threads at once. Of others
//! the last few frames are kept: readers at different places of one segment don't unpack for each
//! other, and nobody unpacks a frame for each page of it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use compression::{Frame, Method, PEEK_LEN, Unpacker};
use disk::{AlignedBuf, DiskError, ReadAt};

use super::{copy, corrupt};

/// So many frames are kept: a megabyte.
const KEPT: usize = 4;

/// The lengths in so much of a file are looked at by one read: of what compresses well that is dozens
/// of frames.
const PEEKED: usize = 32 << 10;

/// An open file all of whose content is in frames.
pub(crate) struct Framed {
    file: Box<dyn ReadAt>,
    path: PathBuf,
    method: Method,
    /// With where their contents begin.
    frames: Vec<(u64, Frame)>,
    size: u64,
    /// By their places, what was read last at the end.
    kept: Mutex<VecDeque<(usize, Vec<u8>)>>,
    /// Those that nobody works with.
    workers: Mutex<Vec<Worker>>,
}

/// What unpacks, one frame after the other.
struct Worker {
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
        let path = path.to_owned();
        let (kept, workers) = (Mutex::default(), Mutex::default());
        Ok(Self { file, path, method, frames: placed, size, kept, workers })
    }

    /// The frame that this offset is in, and how far behind its start.
    fn place(&self, offset: u64) -> Option<(usize, usize)> {
        let place = self.frames.partition_point(|(start, _)| *start <= offset).checked_sub(1)?;
        let (start, frame) = self.frames.get(place)?;
        let within = usize::try_from(offset - start).ok()?;
        (within < frame.content).then_some((place, within))
    }

    /// Unpacks a frame to where there is just the room for its content.
    fn unpack(&self, place: usize, content: &mut [u8]) -> Result<(), DiskError> {
        let Some((_, frame)) = self.frames.get(place) else { return Ok(()) };
        let spare = lock(&self.workers).pop();
        let mut worker = spare.unwrap_or_else(|| Worker::new(self.method, &self.frames));
        let got = self.file.read_at(frame.at, &mut worker.frame, frame.len)?;
        let bytes = worker.frame.get(..got.min(frame.len)).unwrap_or_default();
        let unpacked = worker.unpacker.unpack(bytes, content);
        lock(&self.workers).push(worker);
        unpacked.map_err(|error| corrupt(&self.path, error))
    }

    /// Copies what a frame has from there on; it is unpacked if it isn't kept.
    fn copy_kept(&self, place: usize, within: usize, to: &mut [u8]) -> Result<usize, DiskError> {
        let mut kept = lock(&self.kept);
        let found = kept.iter().position(|(kept, _)| *kept == place);
        let content = match found.and_then(|found| kept.remove(found)) {
            Some((_, content)) => content,
            None => {
                let oldest = if kept.len() < KEPT { None } else { kept.pop_front() };
                let mut content = oldest.map(|(_, content)| content).unwrap_or_default();
                content.resize(self.content_len(place), 0);
                self.unpack(place, &mut content)?;
                content
            }
        };
        let copied = copy(content.get(within..).unwrap_or_default(), to);
        kept.push_back((place, content));
        Ok(copied)
    }

    fn content_len(&self, place: usize) -> usize {
        self.frames.get(place).map_or(0, |(_, frame)| frame.content)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The frames of a file; what can't be read has none.
fn find(file: &dyn ReadAt, method: Method) -> Option<Vec<Frame>> {
    let (len, mut buf) = (file.len().ok()?, AlignedBuf::zeroed(PEEKED));
    let mut read = 0..0;
    let mut peek = |at: u64| {
        let end = at.saturating_add(PEEK_LEN as u64);
        if !(read.start <= at && end <= read.end) {
            let got = file.read_at(at, &mut buf, PEEKED).unwrap_or(0);
            buf.iter_mut().skip(got).take(PEEK_LEN).for_each(|byte| *byte = 0);
            read = at..at.saturating_add(got.max(PEEK_LEN) as u64);
        }
        let from = usize::try_from(at - read.start).ok().and_then(|from| buf.get(from..));
        from.and_then(<[u8]>::first_chunk).copied().unwrap_or([0; PEEK_LEN])
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

impl ReadAt for Framed {
    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<usize, DiskError> {
        let mut got = 0;
        while let Some(rest) = buf.get_mut(got..len).filter(|rest| !rest.is_empty()) {
            let Some((place, within)) = self.place(offset.saturating_add(got as u64)) else {
                break;
            };
            match rest.get_mut(..self.content_len(place)).filter(|_| within == 0) {
                Some(content) => {
                    self.unpack(place, content)?;
                    got += content.len();
                }
                None => got += self.copy_kept(place, within, rest)?,
            }
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
    fn frames_are_read_whole_and_in_parts_from_anywhere_by_several_at_once() {
        let content = content();
        for method in Method::ALL {
            let (file, _) = open(&packed(method, false), method);
            let check = |from: usize, len: usize| {
                let mut buf = AlignedBuf::zeroed(2 * FRAME_LEN);
                let got = file.read_at(from as u64, &mut buf, len).unwrap();
                assert_eq!(got, len.min(content.len().saturating_sub(from)), "{method} {from}");
                assert!(got == 0 || buf[..got] == content[from..from + got], "{method} {from}");
            };
            std::thread::scope(|scope| {
                for len in [FRAME_LEN, 2 * FRAME_LEN, 100_000] {
                    let (check, content) = (&check, &content);
                    scope.spawn(move || {
                        (0..content.len()).step_by(len).for_each(|at| check(at, len));
                    });
                }
            });
            check(100, FRAME_LEN);
            check(content.len() - 5, 100);
            check(content.len(), 10);
        }
    }

    #[test]
    fn a_frame_that_is_damaged_is_an_error_for_all_who_read_it() {
        for method in Method::ALL {
            let mut bytes = packed(method, false);
            let at = bytes.len() / 2;
            bytes[at] ^= 0x40;
            let (file, _) = open(&bytes, method);
            for len in [FRAME_LEN, FRAME_LEN, disk::BLOCK] {
                let mut buf = AlignedBuf::zeroed(len);
                let mut places = (0..content().len() as u64).step_by(len);
                let error = places.find_map(|at| file.read_at(at, &mut buf, len).err()).unwrap();
                assert_eq!(error.kind(), disk::ErrorKind::Corrupt, "{error}");
            }
        }
    }
}
