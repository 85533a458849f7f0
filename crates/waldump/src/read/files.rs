//! Where segments come from: a directory of files, as they are or compressed, on one timeline or
//! along a line of history.
//!
//! Files are read by `pread` and never mapped: what is mapped counts as the program's memory, and
//! a file that shrinks under a map kills it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compression::Method;
use pg_types::{Branch, SegmentNumber, SegmentSize};

use super::packed::Packed;
use super::reason::segment_name;

/// Which files may stand for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forms {
    /// The one with its plain name, as the server's own program has it.
    Plain,
    /// Also `.partial`, `.lz4`, `.zst` and `.gz`; plain wins.
    Any,
}

/// What a name may end with, in the order in which they are tried. A `.partial` comes last: the
/// others are whole. pg_receivewal puts `.partial` behind the method, people in front of it.
const ENDINGS: [(&str, Option<Method>); 10] = [
    ("", None),
    (".lz4", Some(Method::Lz4)),
    (".zst", Some(Method::Zstd)),
    (".gz", Some(Method::Gzip)),
    (".partial", None),
    (".lz4.partial", Some(Method::Lz4)),
    (".gz.partial", Some(Method::Gzip)),
    (".partial.lz4", Some(Method::Lz4)),
    (".partial.zst", Some(Method::Zstd)),
    (".partial.gz", Some(Method::Gzip)),
];

/// A directory of segments.
#[derive(Clone, Debug)]
pub struct Segments {
    /// Where they are.
    pub dir: PathBuf,
    /// Their size.
    pub size: SegmentSize,
    /// The timeline in their names.
    pub timeline: u32,
    /// The line of history that leads to that timeline, where it is followed.
    pub branch: Option<Arc<Branch>>,
    /// Which files may stand for them.
    pub forms: Forms,
}

impl Segments {
    /// The timeline in the name of this segment's file.
    #[must_use]
    pub fn timeline_of(&self, number: SegmentNumber) -> u32 {
        let stretch = self.branch.as_ref().and_then(|branch| branch.stretch_of(number, self.size));
        stretch.map_or(self.timeline, |stretch| stretch.timeline.as_u32())
    }

    /// The name of this segment's file.
    #[must_use]
    pub fn name_of(&self, number: SegmentNumber) -> String {
        segment_name(self.timeline_of(number), number, self.size)
    }

    /// Opens a segment.
    ///
    /// # Errors
    /// If it isn't there (`NotFound`), or can't be opened.
    pub fn open(&self, number: SegmentNumber) -> io::Result<Segment> {
        open_in(&self.dir, OsStr::new(&self.name_of(number)), self.forms)
    }
}

/// Opens the file of this name, or with [`Forms::Any`] one of its other forms.
///
/// # Errors
/// If none is there (`NotFound`), or it can't be opened.
pub fn open_in(dir: &Path, name: &OsStr, forms: Forms) -> io::Result<Segment> {
    let count = if forms == Forms::Plain { 1 } else { ENDINGS.len() };
    let mut missing = None;
    for (ending, method) in ENDINGS.iter().take(count) {
        let path = dir.join(joined(name, ending));
        match Segment::open(&path, *method) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.get_or_insert(error);
            }
            opened => return opened,
        }
    }
    Err(missing.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

fn joined(name: &OsStr, ending: &str) -> PathBuf {
    let mut joined = name.to_os_string();
    joined.push(ending);
    PathBuf::from(joined)
}

/// A name without the ending that says which form it is.
#[must_use]
pub fn stem(name: &OsStr) -> &OsStr {
    let bytes = name.as_bytes();
    let endings = ENDINGS.iter().filter(|(ending, _)| !ending.is_empty());
    let stems = endings.filter_map(|(ending, _)| bytes.strip_suffix(ending.as_bytes()));
    stems.min_by_key(|stem| stem.len()).map_or(name, OsStr::from_bytes)
}

/// Whether a server gives a segment this name (`IsXLogFileName`).
#[must_use]
pub fn is_segment_name(name: &OsStr) -> bool {
    let upper_hex = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
    name.len() == 24 && name.as_bytes().iter().all(upper_hex)
}

/// An open segment.
pub enum Segment {
    /// As the server wrote it.
    Plain(File),
    /// Compressed.
    Packed(Box<Packed>),
}

impl Segment {
    fn open(path: &Path, method: Option<Method>) -> io::Result<Self> {
        let file = File::open(path)?;
        match method {
            None => Ok(Self::Plain(file)),
            Some(method) => Ok(Self::Packed(Box::new(Packed::new(file, method)?))),
        }
    }

    /// Reads at an offset as far as the file goes; fewer bytes only at its end.
    ///
    /// # Errors
    /// If it can't be read, or decompressed.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Packed(packed) => packed.read_at(buffer, offset),
            Self::Plain(file) => {
                let mut got = 0;
                while let Some(rest) = buffer.get_mut(got..).filter(|rest| !rest.is_empty()) {
                    match file.read_at(rest, offset.saturating_add(got as u64)) {
                        Ok(0) => break,
                        Ok(more) => got += more,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(got)
            }
        }
    }
}

/// What the C library says of a failed call, which is std's words without the number.
#[must_use]
pub fn os_words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_loses_its_form() {
        let check = |name: &str, expect: &str| assert_eq!(stem(OsStr::new(name)), expect);
        check("000000010000000000000001", "000000010000000000000001");
        check("000000010000000000000001.partial", "000000010000000000000001");
        check("000000010000000000000001.partial.zst", "000000010000000000000001");
        check("000000010000000000000001.gz", "000000010000000000000001");
    }

    #[test]
    fn plain_wins_and_plain_only_sees_plain() {
        let dir = tempfile::tempdir().unwrap();
        let name = OsStr::new("000000010000000000000001");
        std::fs::write(dir.path().join("000000010000000000000001.partial"), b"partial").unwrap();
        assert!(open_in(dir.path(), name, Forms::Plain).is_err());
        let read = || {
            let mut buffer = [0; 16];
            let got = open_in(dir.path(), name, Forms::Any).unwrap().read_at(&mut buffer, 0);
            buffer[..got.unwrap()].to_vec()
        };
        assert_eq!(read(), b"partial");
        std::fs::write(dir.path().join(name), b"plain").unwrap();
        assert_eq!(read(), b"plain");
    }
}
