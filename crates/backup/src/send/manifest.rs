//! The manifest that goes out: the stored one, read once more, with what is different of the files
//! as they were sent. What it says of the WAL and of the cluster stays as the server wrote it.

use sha2::{Digest, Sha256};

use super::listed::{Line, Lines, Listed};
use super::{Added, ManifestForm, PIECE_BYTES, Sent};
use crate::checksum::hex;
use crate::label;
use crate::manifest::CHECKSUM_LINE;
use crate::{BackupError, ManifestError, ManifestFile};

/// See the [module](self).
pub(super) struct Rewritten {
    lines: Lines,
    form: ManifestForm,
    sum: Sha256,
    /// Whether a file was written, and whether the list of them has ended.
    any: bool,
    listed: bool,
    /// How many bytes of the sums that were made anew are used.
    used: usize,
    over: bool,
}

impl Rewritten {
    pub(super) fn new(lines: Lines, form: ManifestForm) -> Self {
        let sum = Sha256::new();
        Self { lines, form, sum, any: false, listed: false, used: 0, over: false }
    }

    /// Adds the next bytes to an empty buffer; `false` if there are none any more.
    pub(super) fn fill(&mut self, sent: &Sent, buffer: &mut Vec<u8>) -> Result<bool, BackupError> {
        let mut text = String::new();
        while text.len() < PIECE_BYTES && !self.over {
            match self.lines.next()? {
                Line::File(file) => self.file(*file, sent, &mut text)?,
                Line::Other(line) => self.other(&line, sent, &mut text),
                Line::End => {
                    self.over = true;
                    self.sum.update(text.as_bytes());
                    let sum = hex(self.sum.clone().finalize().as_slice());
                    text.push_str(&format!("{CHECKSUM_LINE} \"{sum}\"}}\n"));
                }
            }
        }
        if !self.over {
            self.sum.update(text.as_bytes());
        }
        buffer.extend_from_slice(text.as_bytes());
        Ok(!buffer.is_empty())
    }

    /// A line before or behind the files; the first one behind them ends their list.
    fn other(&mut self, line: &str, sent: &Sent, text: &mut String) {
        if self.any && !std::mem::replace(&mut self.listed, true) {
            for added in &sent.notes.behind {
                self.added(added, text);
            }
            text.push('\n');
        }
        text.push_str(line);
    }

    fn file(&mut self, listed: Listed, sent: &Sent, text: &mut String) -> Result<(), BackupError> {
        if listed.path.is(label::NAME) {
            for added in &sent.notes.in_front {
                self.added(added, text);
            }
            return Ok(());
        }
        if listed.path.is(super::archive::TABLESPACE_MAP) {
            return Ok(());
        }
        self.next(text);
        let stored = listed.file.algorithm;
        if stored == self.form.algorithm && !self.form.force_encode {
            text.push_str(&listed.text);
            return Ok(());
        }
        let (algorithm, sum) = match sent.resummed(stored) {
            Some(algorithm) => {
                let end = self.used + algorithm.len();
                let sum = sent.notes.sums.get(self.used..end);
                let sum = sum.ok_or_else(|| ManifestError("it has grown meanwhile".to_owned()))?;
                self.used = end;
                (algorithm, sum.into())
            }
            None if stored == self.form.algorithm => (stored, listed.file.sum),
            None => (self.form.algorithm, Box::default()),
        };
        let file = ManifestFile { size: listed.file.size, algorithm, sum };
        file.write(&listed.path, listed.modified.as_deref(), self.form.force_encode, text);
        Ok(())
    }

    fn added(&mut self, added: &Added, text: &mut String) {
        self.next(text);
        let modified = Some(added.modified.as_str());
        added.file.write(&added.path, modified, self.form.force_encode, text);
    }

    /// A file follows.
    fn next(&mut self, text: &mut String) {
        if std::mem::replace(&mut self.any, true) {
            text.push_str(",\n");
        }
    }
}
