//! A stored manifest, read line by line beside the tar files: servers write it in the order in which
//! they send the files, so that nothing of it has to be remembered.

use disk::OldFile;
use sha2::{Digest, Sha256};

use crate::checksum::hex;
use crate::manifest::{CHECKSUM_LINE, MAX_MANIFEST_BYTES, RawFile, wrong};
use crate::{BackupError, EntryPath, ManifestError, ManifestFile};

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;
/// A path of 4 KiB in which each byte is escaped, and what else there is to say of a file.
const MAX_LINE_BYTES: usize = 32 << 10;

/// A line.
#[derive(Debug)]
pub(super) enum Line {
    /// One before the files, or behind them, its line break included.
    Other(String),
    /// What is said of a file, without the comma behind it.
    File(Box<Listed>),
    /// The checksum has come, and holds.
    End,
}

/// A file that is listed.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) path: EntryPath,
    pub(super) file: ManifestFile,
    pub(super) modified: Option<String>,
    /// The line.
    pub(super) text: String,
}

/// See the [module](self).
pub(super) struct Lines {
    file: OldFile,
    len: u64,
    at: u64,
    buffer: Vec<u8>,
    /// Of the buffer, so many bytes are behind us.
    taken: usize,
    sum: Sha256,
}

impl Lines {
    pub(super) fn new(file: OldFile) -> Result<Self, BackupError> {
        let len = file.len()?;
        if len > MAX_MANIFEST_BYTES as u64 {
            return Err(wrong("it has no end").into());
        }
        let (buffer, sum) = (Vec::new(), Sha256::new());
        Ok(Self { file, len, at: 0, buffer, taken: 0, sum })
    }

    /// The next file; `None` if there is none any more.
    pub(super) fn next_file(&mut self) -> Result<Option<Box<Listed>>, BackupError> {
        loop {
            match self.next()? {
                Line::File(file) => return Ok(Some(file)),
                Line::Other(_) => {}
                Line::End => return Ok(None),
            }
        }
    }

    pub(super) fn next(&mut self) -> Result<Line, BackupError> {
        let line = self.line()?;
        if let Some(rest) = line.strip_prefix(CHECKSUM_LINE) {
            let sum = hex(self.sum.clone().finalize().as_slice());
            return match rest.split('"').nth(1) {
                Some(said) if *said == sum && self.left() == 0 => Ok(Line::End),
                _ => Err(wrong("its checksum doesn't hold").into()),
            };
        }
        self.sum.update(line.as_bytes());
        if line.starts_with("{ \"Path\"") || line.starts_with("{ \"Encoded-Path\"") {
            let text = line.trim_end().trim_end_matches(',');
            let json = |error: serde_json::Error| ManifestError(error.to_string());
            let raw: RawFile<'_> = serde_json::from_str(text).map_err(json)?;
            let (modified, text) = (raw.modified.map(str::to_owned), text.to_owned());
            let (path, file) = raw.checked()?;
            return Ok(Line::File(Box::new(Listed { path, file, modified, text })));
        }
        Ok(Line::Other(line))
    }

    /// The bytes that weren't taken yet.
    fn left(&self) -> u64 {
        (self.len - self.at) + (self.buffer.len() - self.taken) as u64
    }

    fn line(&mut self) -> Result<String, BackupError> {
        let whole = || wrong("it has no checksum in its last line: it isn't whole");
        let end = loop {
            let there = self.buffer.get(self.taken..).unwrap_or_default();
            if let Some(end) = there.iter().position(|byte| *byte == b'\n') {
                break self.taken + end + 1;
            }
            if there.len() > MAX_LINE_BYTES {
                return Err(wrong("a line of it has no end").into());
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            let (have, left) = (self.buffer.len(), self.len - self.at);
            let more = usize::try_from(left).unwrap_or(usize::MAX).min(READ_BYTES);
            if more == 0 {
                return Err(whole().into());
            }
            self.buffer.resize(have + more, 0);
            let to = self.buffer.get_mut(have..).unwrap_or_default();
            self.file.read_exact_at(to, self.at)?;
            self.at += more as u64;
        };
        let line = self.buffer.get(self.taken..end).unwrap_or_default().to_vec();
        self.taken = end;
        String::from_utf8(line).map_err(|_| wrong("it isn't UTF-8").into())
    }
}
