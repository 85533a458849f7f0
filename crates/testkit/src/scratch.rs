//! Temporary directories that servers can live in, swept when their owner was killed.
//!
//! Each directory holds a `lock` file that its owner's process keeps locked as long as it lives.
//! A directory whose lock is free belongs to a test run that was killed: whoever makes the next
//! one ends the postmaster that may still run in it, and removes it.
//! Never does: remove a directory with a `keep` file in it.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::process::{Signal, is_gone, signal};
use crate::servers::place;

/// Unix socket paths are limited to 107 bytes; ours take some 40 under the scratch root.
const MAX_ROOT_BYTES: usize = 50;

/// A directory without a free lock or without any lock is left alone until it is this old: it
/// may be just being made.
const UNLOCKED_GRACE: Duration = Duration::from_secs(60);

/// How long a left-over postmaster may take to end by SIGQUIT before SIGKILL.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(5);

/// A temporary directory, removed on drop; kept when `SEAWALL_KEEP` is set or the thread panics.
pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes one whose name starts with `prefix`, owned by this process's user, after sweeping
    /// what killed runs have left.
    pub fn new(prefix: &str) -> Result<Self, Error> {
        let root = root()?;
        sweep_root(&root);
        let dir = tempfile::Builder::new()
            .prefix(&format!("{prefix}-"))
            .tempdir_in(&root)
            .map_err(Error::io("create in", &root))?;
        let path = dir.keep();
        place::make_own_dir(&path)?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
        lock.lock().map_err(Error::io("lock", &lock_path))?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory in it that belongs to the user whom servers run as, mode 0700.
    pub fn server_dir(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        DirBuilder::new().mode(0o700).create(&path).map_err(Error::io("create", &path))?;
        place::give_to_server_user(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    #[expect(clippy::print_stderr, reason = "whoever looks into a failed test needs the path")]
    fn drop(&mut self) {
        if env::var_os("SEAWALL_KEEP").is_some() || thread::panicking() {
            let _ = File::create(self.path.join("keep"));
            eprintln!("kept for a look: {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Ends and removes what killed test runs have left behind.
pub fn sweep() -> Result<(), Error> {
    sweep_root(&root()?);
    Ok(())
}

/// A directory of our own in TMPDIR, or in /tmp where TMPDIR is too long for socket paths or shut
/// to other users.
fn root() -> Result<PathBuf, Error> {
    let name = format!("seawall-test-{}", place::uid());
    let from_env = env::temp_dir();
    let fits = from_env.as_os_str().len() + name.len() < MAX_ROOT_BYTES && is_open(&from_env);
    let root = if fits { from_env } else { PathBuf::from("/tmp") }.join(name);
    place::make_own_dir(&root)?;
    Ok(root)
}

fn is_open(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    path.ancestors().all(|dir| fs::metadata(dir).is_ok_and(|m| m.mode() & 0o001 != 0))
}

fn sweep_root(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if !path.join("keep").exists() && is_abandoned(&path) {
            end_leftover(&path.join("data"));
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn is_abandoned(path: &Path) -> bool {
    match File::open(path.join("lock")) {
        Ok(lock) => lock.try_lock().is_ok() && is_old(&path.join("lock"), UNLOCKED_GRACE),
        Err(_) => is_old(path, UNLOCKED_GRACE),
    }
}

fn is_old(path: &Path, age: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed > age))
}

/// Ends the postmaster of a data directory: the process that its pid file names, if that process
/// runs in this very directory (a pid may have been given to another program since).
fn end_leftover(data: &Path) {
    let pid_file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let Some(pid) = pid_file.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else {
        return;
    };
    let runs_here = || {
        let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
        cwd.is_ok_and(|cwd| cwd == data) && !is_gone(pid)
    };
    for with in [Signal::QUIT, Signal::KILL] {
        if runs_here() {
            signal(pid, with);
        }
        let from = Instant::now();
        while runs_here() && from.elapsed() < LEFTOVER_LIMIT {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_removed_with_its_owner() {
        let scratch = Scratch::new("t").expect("a scratch directory");
        let path = scratch.path().to_path_buf();
        assert!(scratch.server_dir("inner").expect("inner").is_dir());
        sweep().expect("sweeps");
        assert!(path.is_dir(), "a live owner's directory was swept");
        drop(scratch);
        assert!(!path.exists());
    }
}
