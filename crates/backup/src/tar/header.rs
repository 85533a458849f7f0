//! A tar entry's header (`tarCreateHeader`, `port/tar.c`, 10–18):
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 100 | name; a directory's and a link's end with `/` |
//! | 100 | 24 | mode, uid, gid: of no interest |
//! | 124 | 12 | size: octal, or base 256 with the first byte's upper bit set |
//! | 136 | 12 | time |
//! | 148 | 8 | sum of the header's bytes, these taken for spaces |
//! | 156 | 1 | type: `0` file, `5` directory, `2` symbolic link |
//! | 157 | 100 | a link's target |
//! | 257 | 8 | `ustar`, NUL, `00` |
//! | 345 | 155 | what stands before the name and a `/`; always empty |

use std::fmt;

use crate::{EntryPath, PathFault};

/// A tar file's unit, in bytes.
pub const BLOCK: usize = 512;

/// What is in a tar file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it belongs.
    pub path: EntryPath,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file of so many bytes.
    File {
        /// Its size in bytes.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link, whose target nobody follows.
    Link,
}

/// Not a tar file of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The header's sum doesn't hold, or it isn't ustar.
    #[error("the tar file has a block that is no header where one belongs")]
    NotAHeader,
    /// A name that isn't below a directory.
    #[error("the tar file has an entry named \"{name}\": {fault}")]
    Path {
        /// The name, shortened.
        name: String,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// A hard link, a device, an extension.
    #[error("the tar file's entry {path} is of the type {kind}, which no backup has")]
    Kind {
        /// Its name.
        path: EntryPath,
        /// The type.
        kind: EntryType,
    },
    /// A size that isn't one.
    #[error("the tar file's entry {0} has no size that can be read")]
    Size(EntryPath),
    /// The same name twice.
    #[error("the tar file has {0} twice")]
    Twice(EntryPath),
    /// More entries than any backup has.
    #[error("the tar file has more entries than any backup has")]
    TooManyEntries,
    /// Something behind its end.
    #[error("the tar file goes on behind its end")]
    AfterEnd,
    /// It ends within an entry.
    #[error("the tar file ends within an entry")]
    Truncated,
}

/// A header's type, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryType(u8);

impl fmt::Display for EntryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.0 {
            b'1' => "hard link",
            b'3' | b'4' => "device",
            b'6' => "pipe",
            b'L' | b'K' => "GNU long name",
            b'x' | b'g' => "pax extension",
            b'S' => "sparse file",
            _ => return write!(f, "0x{:02X}", self.0),
        };
        f.write_str(what)
    }
}

/// Longer names are shortened in messages.
const SHOWN_BYTES: usize = 120;

const NAME: std::ops::Range<usize> = 0..100;
const SIZE: std::ops::Range<usize> = 124..136;
const SUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const MAGIC: std::ops::Range<usize> = 257..262;
const PREFIX: std::ops::Range<usize> = 345..500;

impl Entry {
    /// Reads a header.
    ///
    /// # Errors
    /// If it is none, or of something that no backup has.
    pub fn parse(header: &[u8; BLOCK]) -> Result<Self, TarError> {
        let field = |range: std::ops::Range<usize>| header.get(range).unwrap_or_default();
        let blanked =
            |(at, byte): (usize, &u8)| u64::from(if SUM.contains(&at) { b' ' } else { *byte });
        let sum: u64 = header.iter().enumerate().map(blanked).sum();
        if field(MAGIC) != b"ustar" || octal(field(SUM)) != Some(sum) {
            return Err(TarError::NotAHeader);
        }
        let name = match c_string(field(PREFIX)) {
            b"" => c_string(field(NAME)).to_vec(),
            prefix => [prefix, b"/", c_string(field(NAME))].concat(),
        };
        let path = EntryPath::new(&name).map_err(|fault| {
            let shown = name.get(..SHOWN_BYTES).unwrap_or(&name).escape_ascii().to_string();
            TarError::Path { name: shown, fault }
        })?;
        let kind = match header.get(TYPE).copied().unwrap_or_default() {
            b'0' | 0 => match number(field(SIZE)) {
                Some(size) => EntryKind::File { size },
                None => return Err(TarError::Size(path)),
            },
            b'5' => EntryKind::Directory,
            b'2' => EntryKind::Link,
            other => return Err(TarError::Kind { path, kind: EntryType(other) }),
        };
        Ok(Self { path, kind })
    }
}

/// Makes headers, each like that of a file of the same tar file but for its name, size, type, mode
/// and link: the same owner, the same time.
#[derive(Clone, Debug)]
pub(crate) struct Headers {
    like: [u8; BLOCK],
}

const MODE: std::ops::Range<usize> = 100..108;
const TIME: std::ops::Range<usize> = 136..148;
const LINK: std::ops::Range<usize> = 157..257;

/// What a made header is of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Made<'a> {
    /// A file of so many bytes.
    File(u64),
    /// A directory.
    Directory,
    /// A link to there.
    Link(&'a str),
}

impl Headers {
    pub(crate) fn like(header: [u8; BLOCK]) -> Self {
        Self { like: header }
    }

    /// When the file was changed, in seconds since 1970.
    pub(crate) fn time(header: &[u8; BLOCK]) -> i64 {
        number(header.get(TIME).unwrap_or_default()).map_or(0, u64::cast_signed)
    }

    /// Makes a header; `None` if a name or a link doesn't fit into it.
    pub(crate) fn make(&self, name: &str, made: Made<'_>, mode: u16) -> Option<[u8; BLOCK]> {
        let mut header = self.like;
        let (kind, size, link) = match made {
            Made::File(size) => (b'0', size, ""),
            Made::Directory => (b'5', 0, ""),
            Made::Link(target) => (b'2', 0, target),
        };
        let slash = if matches!(made, Made::File(_)) { "" } else { "/" };
        put(&mut header, NAME, format!("{name}{slash}").as_bytes())?;
        put(&mut header, LINK, link.as_bytes())?;
        // Digits, and a blank behind them.
        put(&mut header, MODE, format!("{mode:07o} ").as_bytes())?;
        put(&mut header, SIZE, format!("{size:011o} ").as_bytes())?;
        put(&mut header, SUM, &[b' '; SUM.end - SUM.start])?;
        *header.get_mut(TYPE)? = kind;
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        put(&mut header, SUM, format!("{sum:07o} ").as_bytes())?;
        Some(header)
    }
}

/// Fills a field: with zeros behind, of which a text's has one at the least.
fn put(header: &mut [u8; BLOCK], field: std::ops::Range<usize>, bytes: &[u8]) -> Option<()> {
    let is_text = field == NAME || field == LINK;
    let field = header.get_mut(field)?;
    if bytes.len() + usize::from(is_text) > field.len() {
        return None;
    }
    let bytes = bytes.iter().copied().chain(std::iter::repeat(0));
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = from;
    }
    Some(())
}

/// A field's text, up to the NUL if there is one.
fn c_string(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, with blanks around them and a NUL behind.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(c_string(field)).ok()?.trim_matches(' ');
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    u64::from_str_radix(text, 8).ok()
}

/// Octal, or base 256 where the first byte says so; no size is larger than a file can be.
fn number(field: &[u8]) -> Option<u64> {
    let value = match field {
        [0x80, digits @ ..] => digits.iter().try_fold(0_u64, |value, digit| {
            value.checked_mul(256)?.checked_add(u64::from(*digit))
        })?,
        _ => octal(field)?,
    };
    i64::try_from(value).ok().map(i64::cast_unsigned)
}
