//! The server's process: started as our child, awaited, signalled, killed with its children.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Install;
use crate::Error;
use crate::process::{self, Signal, children_of, is_gone, signal, tail, wait_timeout};

/// Start, crash recovery of a test's WAL included, on a busy machine.
pub(super) const START_LIMIT: Duration = Duration::from_secs(120);

/// A shutdown with a checkpoint, on a busy machine.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(120);

/// How long processes take to vanish after SIGKILL; one in uninterruptible I/O takes longest.
const KILL_LIMIT: Duration = Duration::from_secs(60);

/// How often the pid file is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Why a postmaster didn't start.
pub(super) enum StartError {
    /// Another program has the port: try another.
    PortTaken,
    /// Anything else.
    Other(Error),
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// A running postmaster, our child.
pub(super) struct Postmaster {
    child: Child,
    data: PathBuf,
}

impl Postmaster {
    /// Starts the server in `data`, its log appended to `log`, and waits until it takes
    /// connections.
    pub(super) fn start(install: &Install, data: &Path, log: &Path) -> Result<Self, StartError> {
        let out = OpenOptions::new().create(true).append(true).open(log);
        let out = out.map_err(Error::io("open", log))?;
        let err = out.try_clone().map_err(Error::io("open", log))?;
        let log_start = out.metadata().map_err(Error::io("look at", log))?.len();
        let mut command = install.command("postgres");
        command.arg("-D").arg(data).stdin(Stdio::null()).stdout(out).stderr(err);
        let child = process::spawn(&mut command)?;
        let mut postmaster = Self { child, data: data.to_path_buf() };
        postmaster.await_ready(log, log_start)?;
        Ok(postmaster)
    }

    fn await_ready(&mut self, log: &Path, log_start: u64) -> Result<(), StartError> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                let text = log_from(log, log_start);
                if text.contains("Address already in use") {
                    return Err(StartError::PortTaken);
                }
                return Err(StartError::Other(Error::Failed {
                    what: format!("starting the server in {}", self.data.display()),
                    status: status.to_string(),
                    output: tail(&text).to_owned(),
                }));
            }
            if self.is_ready() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                self.kill9();
                return Err(StartError::Other(Error::Timeout {
                    what: format!("the server in {} to take connections", self.data.display()),
                    waited: START_LIMIT,
                    detail: tail(&log_from(log, log_start)).to_owned(),
                }));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Line 1 of postmaster.pid is the pid, line 8 the state, as pg_ctl reads them.
    fn is_ready(&self) -> bool {
        let file = pid_file_lines(&self.data);
        file.first().is_some_and(|pid| *pid == self.pid().to_string())
            && file.get(7).is_some_and(|state| state == "ready")
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for its end by itself; false if it takes longer than `limit`.
    pub(super) fn await_end(&mut self, limit: Duration) -> bool {
        matches!(wait_timeout(&mut self.child, limit), Ok(Some(_)))
    }

    /// Sends a signal and waits for the end; false if it takes longer than `limit`.
    pub(super) fn end(&mut self, with: Signal, limit: Duration) -> bool {
        if !self.has_ended() {
            signal(self.pid(), with);
        }
        matches!(wait_timeout(&mut self.child, limit), Ok(Some(_)))
    }

    /// SIGKILL for the postmaster and all its children, as if the machine had lost them; waits
    /// until they are gone. The postmaster is stopped first, so that it starts no child meanwhile.
    pub(super) fn kill9(&mut self) {
        if self.has_ended() {
            return;
        }
        signal(self.pid(), Signal::STOP);
        let children = children_of(self.pid());
        // Children first: one that saw its postmaster dead would still act on it.
        for &child in &children {
            signal(child, Signal::KILL);
        }
        signal(self.pid(), Signal::KILL);
        let _ = self.child.wait();
        let deadline = Instant::now() + KILL_LIMIT;
        while !children.iter().all(|&child| is_gone(child)) && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
        remove_shared_memory(&self.data);
    }
}

/// A killed postmaster leaves its System V segment, a few bytes, to the next start in the same
/// directory. A test that never restarts would leave it for good, and there are only 4096. The
/// next start doesn't need it.
fn remove_shared_memory(data: &Path) {
    let file = pid_file_lines(data);
    if let Some(id) = file.get(6).and_then(|line| line.split_whitespace().nth(1)) {
        let _ = Command::new("ipcrm").args(["-m", id]).stderr(Stdio::null()).status();
    }
}

fn pid_file_lines(data: &Path) -> Vec<String> {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

fn log_from(log: &Path, start: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let from = usize::try_from(start).unwrap_or(usize::MAX).min(bytes.len());
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}
