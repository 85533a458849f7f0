//! Where text goes: standard output, in large pieces.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use pg_types::Lsn;

use super::End;
use crate::cli::words::Failure;
use crate::read::files::os_words;

/// Collected before it is written: what a pipe takes at once, by default.
pub const PIECE_BYTES: usize = 64 << 10;

/// What a pipe is asked to hold, so that neither end waits for the other at each piece.
const PIPE_BYTES: usize = 1 << 20;

/// Takes text off a buffer.
pub trait Sink {
    /// Writes what there is, if it is time to, and leaves the rest in the buffer. `first` is the
    /// first record that text was made of, and its link.
    ///
    /// # Errors
    /// If it can't be written, or isn't wanted any more.
    fn drain(&mut self, text: &mut Vec<u8>, first: Option<(Lsn, Lsn)>) -> Result<(), End>;
}

/// Standard output, past std's line buffer.
#[derive(Debug)]
pub struct Stdout(File);

impl Stdout {
    /// Opens it.
    ///
    /// # Errors
    /// If it is closed.
    pub fn open() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        // Fails where it is no pipe, which is fine.
        _ = rustix::pipe::fcntl_setpipe_size(&file, PIPE_BYTES);
        Ok(Self(file))
    }

    /// Writes text.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, text: &[u8]) -> Result<(), Failure> {
        (&self.0).write_all(text).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Unheard,
            _ => {
                Failure::fatal(format!("could not write to file \"stdout\": {}", os_words(&error)))
            }
        })
    }
}

impl Sink for &Stdout {
    fn drain(&mut self, text: &mut Vec<u8>, _first: Option<(Lsn, Lsn)>) -> Result<(), End> {
        self.write(text)?;
        text.clear();
        Ok(())
    }
}
