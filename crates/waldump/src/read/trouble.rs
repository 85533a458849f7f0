//! Why there is no further record, and what is wrong with a file.

use wal_format::WalVersion;

use super::files::os_words;
use super::reason::Reason;
use crate::cli::words::Failure;

/// Why there is no further record.
#[derive(Debug)]
pub enum Stop {
    /// The end of what was asked for, or, on the first pages of nothing, nothing to say.
    End,
    /// The reader's reason, which is what the end of WAL in a file looks like, too.
    Invalid(Reason),
    /// A file that isn't there, or can't be read.
    Files(FileTrouble),
}

/// What is wrong with a file.
#[derive(Debug)]
pub enum FileTrouble {
    /// There is none for this segment.
    Open {
        /// Its name.
        name: String,
        /// Why.
        error: std::io::Error,
    },
    /// It can't be read.
    Read {
        /// Its name.
        name: String,
        /// Where.
        offset: u64,
        /// Why.
        error: std::io::Error,
    },
    /// It ends too early.
    Short {
        /// Its name.
        name: String,
        /// Where it ends.
        offset: u64,
        /// How many bytes should follow at the least.
        wanted: usize,
    },
}

impl FileTrouble {
    /// In the words of this version's program.
    #[must_use]
    pub fn failure(self, version: WalVersion) -> Failure {
        let quote = if version.major() >= 17 { "\"" } else { "" };
        Failure::fatal(match self {
            Self::Open { name, error } if error.kind() == std::io::ErrorKind::NotFound => {
                format!("could not find file \"{name}\": {}", os_words(&error))
            }
            Self::Open { name, error } => {
                format!("could not open file \"{name}\": {}", os_words(&error))
            }
            Self::Read { name, offset, error } => {
                let words = os_words(&error);
                format!("could not read from file {quote}{name}{quote}, offset {offset}: {words}")
            }
            Self::Short { name, offset, wanted } => format!(
                "could not read from file {quote}{name}{quote}, offset {offset}: read 0 of {wanted}"
            ),
        })
    }
}
