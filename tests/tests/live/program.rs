//! The program run to its end, without anything of the caller's environment.

use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::process::{run_unchecked, seawall_bin};
use testkit::servers::Server;

use super::common::{LIMIT, Must};

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None for a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// `seawall` with these arguments, in an empty environment and at a home without files.
pub(crate) fn seawall<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(seawall_bin().must());
    command.env_clear().env("HOME", "/nonexistent").env("TZ", "UTC").args(args);
    command
}

/// `seawall receive` into `archive` from `server`, without a slot, over TCP as postgres.
pub(crate) fn receive(server: &Server, archive: &Path, more: &[&str]) -> Command {
    let mut command = seawall(&["receive", "-A"]);
    command.arg(archive).args(["-d", &server.conninfo()]).args(more);
    command
}

/// Runs it to its end, which has to come by itself.
pub(crate) fn ended(command: &mut Command) -> Ended {
    let output = run_unchecked(command, "", LIMIT, &format!("{command:?}")).must();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Ended {
    /// It ended with this code, and its last line has all of these.
    #[track_caller]
    pub(crate) fn says(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for text in texts {
            assert!(self.stderr.contains(text), "nothing of {text:?} in {self:#?}");
        }
        assert_eq!(self.stdout, "", "what is wrong belongs to standard error");
    }

    /// It ended well.
    #[track_caller]
    pub(crate) fn is_well(&self) {
        assert_eq!(self.code, Some(0), "{self:#?}");
    }
}

/// Every name below a directory, with its length and a hash of its content; but for what is in
/// `run/`, which may be lost.
pub(crate) fn fingerprint(dir: &Path) -> Vec<(PathBuf, u64, u64)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).must() {
            let path = entry.must().path();
            let mut hasher = DefaultHasher::new();
            let len = if path.ends_with("run") {
                0
            } else if path.is_dir() {
                dirs.push(path.clone());
                0
            } else {
                let content = fs::read(&path).must();
                content.hash(&mut hasher);
                content.len() as u64
            };
            found.push((path, len, hasher.finish()));
        }
    }
    found.sort();
    found
}
