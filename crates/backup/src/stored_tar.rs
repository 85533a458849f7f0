//! A tar file as it is stored: plain, or compressed in frames that can be read one by one.
//!
//! Compressed, `base.tar.zst` is what the tool of that method unpacks to `base.tar`: a frame for each
//! [`FRAME_LEN`] bytes of it, one behind the other. `base.tar.zst.index` has where each ends, as 8
//! bytes, little-endian. So several threads read it at any place, and none unpacks more than it
//! needs. What a frame unpacks to is held against its length here, and against the manifest by
//! whoever reads it.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use compression::Method;
use disk::{DiskError, ErrorKind, NewFile, OldFile, Tree};

use crate::BackupError;
use crate::intake::tar_name;

/// What a frame holds: enough to compress well, and little to unpack for a small file.
const FRAME_LEN: usize = 1 << 20;
/// No method makes more of a frame's bytes.
const MAX_PACKED_LEN: u64 = 2 * FRAME_LEN as u64;
/// Frames that are kept unpacked, for the threads that read the small files in them.
const KEPT_FRAMES: usize = 8;
/// The index of eight terabytes.
const MAX_INDEX_BYTES: usize = 64 << 20;
/// An entry of it.
const ENTRY_LEN: usize = 8;

fn names(archive: Option<u32>, method: Method) -> [String; 2] {
    let packed = tar_name(archive) + method.suffix();
    let index = packed.clone() + ".index";
    [packed, index]
}

/// The files that hold a tar file; the one that has its bytes is the first.
pub(crate) fn file_names(archive: Option<u32>, method: Option<Method>) -> Vec<String> {
    method.map_or_else(|| vec![tar_name(archive)], |method| names(archive, method).into())
}

/// A tar file that is being written.
pub(crate) enum TarWriter {
    Plain(NewFile),
    Packed(Box<Packing>),
}

pub(crate) struct Packing {
    file: NewFile,
    index: NewFile,
    method: Method,
    frame: Vec<u8>,
    written: u64,
}

impl TarWriter {
    pub(crate) fn create(
        directory: &Tree,
        archive: Option<u32>,
        method: Option<Method>,
    ) -> Result<Self, DiskError> {
        let Some(method) = method else {
            return Ok(Self::Plain(directory.create(Path::new(&tar_name(archive)))?));
        };
        let [packed, index] = names(archive, method);
        let (file, index) =
            (directory.create(Path::new(&packed))?, directory.create(Path::new(&index))?);
        let frame = Vec::with_capacity(FRAME_LEN);
        Ok(Self::Packed(Box::new(Packing { file, index, method, frame, written: 0 })))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        match self {
            Self::Plain(file) => file.write(bytes),
            Self::Packed(packing) => packing.write(bytes),
        }
    }

    /// The file once more, for another thread to sync what is written so far.
    pub(crate) fn again(&self) -> Result<NewFile, DiskError> {
        match self {
            Self::Plain(file) => file.again(),
            Self::Packed(packing) => packing.file.again(),
        }
    }

    /// All is written; gives what is to be synced.
    pub(crate) fn finish(self) -> Result<Vec<NewFile>, DiskError> {
        match self {
            Self::Plain(file) => Ok(vec![file]),
            Self::Packed(mut packing) => {
                packing.end_frame()?;
                Ok(vec![packing.file, packing.index])
            }
        }
    }
}

impl Packing {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), DiskError> {
        while !bytes.is_empty() {
            let room = FRAME_LEN.saturating_sub(self.frame.len()).min(bytes.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.frame.extend_from_slice(now);
            bytes = later;
            if self.frame.len() >= FRAME_LEN {
                self.end_frame()?;
            }
        }
        Ok(())
    }

    fn end_frame(&mut self) -> Result<(), DiskError> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let packed = self.method.encoder(Vec::new()).and_then(|mut encoder| {
            encoder.write_all(&self.frame)?;
            encoder.finish()
        });
        let packed =
            packed.map_err(|error| DiskError::from_io("compressing", Path::new(""), &error))?;
        self.file.write(&packed)?;
        self.written += packed.len() as u64;
        self.index.write(&self.written.to_le_bytes())?;
        self.frame.clear();
        Ok(())
    }
}

/// A tar file of a backup, to be read at any place.
#[derive(Debug)]
pub struct StoredTar {
    file: OldFile,
    name: PathBuf,
    len: u64,
    packed: Option<Frames>,
}

#[derive(Debug)]
struct Frames {
    method: Method,
    /// Where each ends.
    ends: Vec<u64>,
    /// The last ones that were unpacked.
    kept: Mutex<VecDeque<(usize, Arc<Vec<u8>>)>>,
}

impl StoredTar {
    /// Opens the tar file of a tablespace, or of the data directory, which has `len` bytes when it
    /// is unpacked.
    ///
    /// # Errors
    /// If it isn't there, or isn't of that length.
    pub fn open(
        directory: &Tree,
        archive: Option<u32>,
        len: u64,
        method: Option<Method>,
    ) -> Result<Self, BackupError> {
        let this = Self::open_any(directory, archive, len, method)?;
        if this.len != len {
            let (name, found) = (this.name.display(), this.len);
            let what = format!("{name} has {found} bytes, and should have {len}");
            return Err(BackupError::NotABackup(what));
        }
        Ok(this)
    }

    /// The same, however long a plain one is.
    pub(crate) fn open_any(
        directory: &Tree,
        archive: Option<u32>,
        len: u64,
        method: Option<Method>,
    ) -> Result<Self, BackupError> {
        let Some(method) = method else {
            let name = PathBuf::from(tar_name(archive));
            let file = directory.open_file(&name)?;
            let len = file.len()?;
            return Ok(Self { file, name, len, packed: None });
        };
        let [packed, index] = names(archive, method).map(PathBuf::from);
        let file = directory.open_file(&packed)?;
        let wrong = |why: String| BackupError::Unpack { name: index.clone(), why };
        let entries = directory.read(&index, MAX_INDEX_BYTES)?;
        let entries = entries.ok_or_else(|| wrong("it isn't there".to_owned()))?;
        let chunks = entries.chunks_exact(ENTRY_LEN);
        let whole = chunks.remainder().is_empty();
        let ends: Vec<u64> = chunks
            .filter_map(|end| end.first_chunk())
            .map(|end| u64::from_le_bytes(*end))
            .collect();
        let frames = len.div_ceil(FRAME_LEN as u64);
        let last = ends.last().copied().unwrap_or(0);
        if !whole || ends.len() as u64 != frames || !ends.is_sorted_by(|a, b| a < b) {
            return Err(wrong(format!("it hasn't got the ends of {frames} frames")));
        }
        if last != file.len()? {
            return Err(wrong(format!("{} doesn't end where it says", packed.display())));
        }
        let frames = Frames { method, ends, kept: Mutex::new(VecDeque::new()) };
        Ok(Self { file, name: packed, len, packed: Some(frames) })
    }

    /// How many bytes the tar file has, unpacked.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buf` from this place of the tar file on.
    ///
    /// # Errors
    /// If the disk fails, it doesn't unpack, or it ends before.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BackupError> {
        let Some(frames) = &self.packed else { return Ok(self.file.read_exact_at(buf, offset)?) };
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let number = usize::try_from(at / FRAME_LEN as u64).unwrap_or(usize::MAX);
            let frame = self.frame(frames, number)?;
            let within = usize::try_from(at % FRAME_LEN as u64).unwrap_or(usize::MAX);
            let from = frame.get(within..).unwrap_or_default();
            let part = from.len().min(rest.len());
            if let (Some(to), Some(from)) = (rest.get_mut(..part), from.get(..part)) {
                to.copy_from_slice(from);
            }
            if part == 0 {
                return Err(
                    DiskError::new("read", &self.name, ErrorKind::ShortRead, "it ends").into()
                );
            }
            done += part;
        }
        Ok(())
    }

    fn frame(&self, frames: &Frames, number: usize) -> Result<Arc<Vec<u8>>, BackupError> {
        let kept = || frames.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, frame)) = kept().iter().find(|(of, _)| *of == number) {
            return Ok(Arc::clone(frame));
        }
        let frame = Arc::new(self.unpack(frames, number)?);
        let mut kept = kept();
        if kept.len() >= KEPT_FRAMES {
            kept.pop_front();
        }
        kept.push_back((number, Arc::clone(&frame)));
        Ok(frame)
    }

    fn unpack(&self, frames: &Frames, number: usize) -> Result<Vec<u8>, BackupError> {
        let wrong = |why: String| BackupError::Unpack { name: self.name.clone(), why };
        let Some(end) = frames.ends.get(number) else {
            return Err(wrong(format!("it has no frame {number}")));
        };
        let start = number.checked_sub(1).and_then(|at| frames.ends.get(at)).copied().unwrap_or(0);
        let packed_len = end.saturating_sub(start);
        if packed_len > MAX_PACKED_LEN {
            return Err(wrong(format!("its frame {number} would have {packed_len} bytes")));
        }
        let mut packed = vec![0; usize::try_from(packed_len).unwrap_or(0)];
        self.file.read_exact_at(&mut packed, start)?;
        let begin = number as u64 * FRAME_LEN as u64;
        let wanted = self.len.saturating_sub(begin).min(FRAME_LEN as u64);
        let mut frame = Vec::with_capacity(FRAME_LEN);
        let mut decoder = frames.method.decoder(packed.as_slice(), wanted + 1);
        let unpacked = decoder.by_ref().take(wanted + 1).read_to_end(&mut frame);
        unpacked.map_err(|error| wrong(format!("frame {number}: {error}")))?;
        if frame.len() as u64 != wanted {
            return Err(wrong(format!(
                "frame {number} unpacks to {} bytes, and should to {wanted}",
                frame.len()
            )));
        }
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use disk::Readers;

    use super::*;

    #[test]
    fn any_place_can_be_read() {
        let bytes: Vec<u8> = (0..700_000_u32).flat_map(|i| (i / 3).to_le_bytes()).collect();
        for method in Method::ALL.map(Some).into_iter().chain([None]) {
            let dir = tempfile::tempdir().unwrap();
            let tree = Tree::open(dir.path(), Readers::Owner).unwrap();
            let mut writer = TarWriter::create(&tree, Some(5), method).unwrap();
            for piece in bytes.chunks(70_001) {
                writer.write(piece).unwrap();
            }
            assert_eq!(writer.finish().unwrap().len(), if method.is_some() { 2 } else { 1 });
            let open = |len| StoredTar::open(&tree, Some(5), len, method);
            let tar = open(bytes.len() as u64).unwrap();
            for (at, len) in [(0, 10), (FRAME_LEN - 3, 7), (5, 2 * FRAME_LEN), (2_799_990, 10)] {
                let mut buf = vec![0; len];
                tar.read_exact_at(&mut buf, at as u64).unwrap();
                assert!(buf == bytes[at..at + len], "{method:?} at {at}");
            }
            assert!(tar.read_exact_at(&mut [0; 11], 2_799_990).is_err());
            assert!(open(bytes.len() as u64 + FRAME_LEN as u64).is_err());
        }
    }

    #[test]
    fn what_is_damaged_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path(), Readers::Owner).unwrap();
        let mut writer = TarWriter::create(&tree, None, Some(Method::Zstd)).unwrap();
        writer.write(&vec![7; 3 * FRAME_LEN]).unwrap();
        drop(writer.finish().unwrap());
        let (path, index) =
            (dir.path().join("base.tar.zst"), dir.path().join("base.tar.zst.index"));
        let read = || {
            let tar = StoredTar::open(&tree, None, 3 << 20, Some(Method::Zstd))?;
            let mut bytes = vec![0; 3 << 20];
            tar.read_exact_at(&mut bytes, 0).map(|()| bytes)
        };
        let whole = read().unwrap();
        let mut found = 0;
        let (packed, ends) = (std::fs::read(&path).unwrap(), std::fs::read(&index).unwrap());
        for at in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            match read().map_err(|error| error.to_string()) {
                // A bit that says nothing.
                Ok(read) => assert!(read == whole, "byte {at}"),
                Err(error) => {
                    assert!(error.contains("base.tar.zst"), "byte {at}: {error}");
                    found += 1;
                }
            }
        }
        assert!(found > packed.len() / 2, "{found} of {}", packed.len());
        std::fs::write(&path, &packed).unwrap();
        for at in 0..ends.len() {
            let mut damaged = ends.clone();
            damaged[at] ^= 0x81;
            std::fs::write(&index, damaged).unwrap();
            assert!(read().is_err(), "byte {at} of the index");
        }
    }
}
