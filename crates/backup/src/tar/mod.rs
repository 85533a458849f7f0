//! Tar files as the server sends them, read as they come (`port/tar.c`, 10–18: POSIX ustar without
//! extensions, sizes past 8 GB in base 256).
//!
//! [`Reader`] is fed bytes cut anywhere and tells a [`Visitor`] what they are. It takes plain files,
//! directories and symbolic links with paths below a directory ([`EntryPath`]), each once, and
//! nothing else: devices, hard links and extensions are refused by name. Nothing is allocated by
//! what a header says.

mod header;

use std::collections::HashSet;

pub use header::{BLOCK, Entry, EntryKind, TarError};
pub(crate) use header::{Headers, Made};

use crate::EntryPath;

/// More files than the largest clusters have; each costs the memory of its name.
pub const MAX_ENTRIES: u64 = 20_000_000;

/// Is told what a tar file consists of.
pub trait Visitor {
    /// What goes wrong there.
    type Error: From<TarError>;

    /// An entry begins; its bytes are `at` this place in the tar file.
    ///
    /// # Errors
    /// Ends the reading.
    fn entry(&mut self, entry: &Entry, at: u64) -> Result<(), Self::Error>;

    /// The next bytes of the entry.
    ///
    /// # Errors
    /// Ends the reading.
    fn data(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// The entry ends.
    ///
    /// # Errors
    /// Ends the reading.
    fn entry_end(&mut self) -> Result<(), Self::Error>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A header is gathered.
    Header,
    /// So many bytes of an entry are to come.
    Data { left: u64 },
    /// So many bytes up to the next block.
    Padding { left: u64 },
    /// A block of zeros was there: nothing but zeros may follow.
    Ended,
}

/// Reads one tar file.
#[derive(Debug)]
pub struct Reader {
    state: State,
    header: [u8; BLOCK],
    have: usize,
    /// Bytes that were read.
    at: u64,
    entries: u64,
    seen: HashSet<EntryPath>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// Reads from the beginning.
    #[must_use]
    pub fn new() -> Self {
        let (state, header) = (State::Header, [0; BLOCK]);
        Self { state, header, have: 0, at: 0, entries: 0, seen: HashSet::new() }
    }

    /// Reads on.
    ///
    /// # Errors
    /// If it isn't such a tar file, or the visitor says so.
    pub fn feed<V: Visitor>(&mut self, bytes: &[u8], visitor: &mut V) -> Result<(), V::Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match self.state {
                State::Header => self.gather(rest, visitor)?,
                State::Data { left } => {
                    let (data, _) = rest.split_at(short(left, rest.len()));
                    visitor.data(data)?;
                    self.went_on(left, data.len(), visitor)?;
                    data.len()
                }
                State::Padding { left } => {
                    let (padding, _) = rest.split_at(short(left, rest.len()));
                    self.state = match left - padding.len() as u64 {
                        0 => State::Header,
                        left => State::Padding { left },
                    };
                    padding.len()
                }
                State::Ended => match rest.iter().position(|byte| *byte != 0) {
                    Some(_) => return Err(TarError::AfterEnd.into()),
                    None => rest.len(),
                },
            };
            self.at += taken as u64;
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// The tar file ends here; whether it has its two blocks of zeros, which servers up to 14 leave
    /// out.
    ///
    /// # Errors
    /// If it ends within an entry.
    pub fn finish(&self) -> Result<bool, TarError> {
        match self.state {
            State::Header if self.have == 0 => Ok(false),
            State::Ended => Ok(true),
            _ => Err(TarError::Truncated),
        }
    }

    /// Skips the bytes of the entry that was just told of: whoever reads a file goes to
    /// [`position`](Self::position) then.
    pub fn skip_data<V: Visitor>(&mut self, visitor: &mut V) -> Result<(), V::Error> {
        if let State::Data { left } = self.state {
            self.at += left;
            visitor.entry_end()?;
            self.state = State::Header;
            let over = self.at % BLOCK as u64;
            if over > 0 {
                self.at += BLOCK as u64 - over;
            }
        }
        Ok(())
    }

    /// How many bytes were read, or skipped.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }

    fn gather<V: Visitor>(&mut self, bytes: &[u8], visitor: &mut V) -> Result<usize, V::Error> {
        let taken = bytes.len().min(BLOCK - self.have);
        for (to, from) in self.header.iter_mut().skip(self.have).zip(bytes) {
            *to = *from;
        }
        self.have += taken;
        if self.have < BLOCK {
            return Ok(taken);
        }
        self.have = 0;
        if self.header.iter().all(|byte| *byte == 0) {
            self.state = State::Ended;
            return Ok(taken);
        }
        let entry = Entry::parse(&self.header)?;
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(TarError::TooManyEntries.into());
        }
        if !self.seen.insert(entry.path.clone()) {
            return Err(TarError::Twice(entry.path).into());
        }
        visitor.entry(&entry, self.at + taken as u64)?;
        match entry.kind {
            EntryKind::File { size } if size > 0 => self.state = State::Data { left: size },
            _ => visitor.entry_end()?,
        }
        Ok(taken)
    }

    /// `taken` of the `left` bytes of an entry were there.
    fn went_on<V: Visitor>(
        &mut self,
        left: u64,
        taken: usize,
        visitor: &mut V,
    ) -> Result<(), V::Error> {
        let left = left - taken as u64;
        self.state = State::Data { left };
        if left == 0 {
            visitor.entry_end()?;
            let over = (self.at + taken as u64) % BLOCK as u64;
            self.state = match over {
                0 => State::Header,
                over => State::Padding { left: BLOCK as u64 - over },
            };
        }
        Ok(())
    }
}

/// The smaller of what is wanted and what is there.
fn short(wanted: u64, there: usize) -> usize {
    usize::try_from(wanted).unwrap_or(usize::MAX).min(there)
}

#[cfg(test)]
mod tests;
