//! A child that runs beside the test: its output as lines, its end by its own process id.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Signal, signal, spawn, tail, usage, wait_timeout};
use crate::Error;

/// How many lines of a child's output are kept: a program at its most talkative for a test's
/// length, and no unbounded memory for one that runs wild.
const MAX_LINES: usize = 100_000;

/// Where a line was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line that a child printed.
#[derive(Debug, Clone)]
pub struct Line {
    /// Where.
    pub stream: Stream,
    /// When it was read.
    pub at: Instant,
    /// Without the line's end.
    pub text: String,
}

#[derive(Default)]
struct Collected {
    lines: VecDeque<Line>,
    /// Lines dropped at the front for [`MAX_LINES`].
    dropped: usize,
    /// Streams that still may give lines.
    open: usize,
}

#[derive(Default)]
struct Shared {
    collected: Mutex<Collected>,
    grown: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running child. Dropping it kills it (SIGKILL) and reaps it.
pub struct Running {
    name: String,
    child: Child,
    shared: Arc<Shared>,
    started: Instant,
    ended: Option<ExitStatus>,
}

impl Running {
    /// Starts `command` with its output captured and no input. `name` stands in messages.
    pub fn spawn(command: &mut Command, name: &str) -> Result<Self, Error> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(command)?;
        let shared = Arc::new(Shared::default());
        shared.lock().open = 2;
        collect(child.stdout.take(), Stream::Stdout, &shared);
        collect(child.stderr.take(), Stream::Stderr, &shared);
        let started = Instant::now();
        Ok(Self { name: name.to_owned(), child, shared, started, ended: None })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Waits for the first line, from the child's start on, that contains `pattern`.
    pub fn wait_for_line(&self, pattern: &str, timeout: Duration) -> Result<Line, Error> {
        self.wait_for_line_from(0, pattern, timeout).map(|(_, line)| line)
    }

    /// As [`Self::wait_for_line`], looking from line number `from` on (see [`Self::line_count`]);
    /// gives the number after the line found, too.
    pub fn wait_for_line_from(
        &self,
        from: usize,
        pattern: &str,
        timeout: Duration,
    ) -> Result<(usize, Line), Error> {
        let deadline = Instant::now() + timeout;
        let mut collected = self.shared.lock();
        let mut next = from;
        loop {
            let first = collected.dropped;
            for (index, line) in collected.lines.iter().enumerate().skip(next.saturating_sub(first))
            {
                if line.text.contains(pattern) {
                    return Ok((first + index + 1, line.clone()));
                }
            }
            next = first + collected.lines.len();
            let now = Instant::now();
            if now >= deadline || collected.open == 0 {
                let ended = if collected.open == 0 { " (it has ended)" } else { "" };
                drop(collected);
                return Err(Error::Timeout {
                    what: format!("{} to print {pattern:?}{ended}", self.name),
                    waited: timeout.saturating_sub(deadline.saturating_duration_since(now)),
                    detail: self.output_tail(),
                });
            }
            let waited = self.shared.grown.wait_timeout(collected, deadline - now);
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How many lines it has printed so far.
    pub fn line_count(&self) -> usize {
        let collected = self.shared.lock();
        collected.dropped + collected.lines.len()
    }

    /// All lines so far (the last hundred thousand).
    pub fn lines(&self) -> Vec<Line> {
        self.shared.lock().lines.iter().cloned().collect()
    }

    /// What it printed on one stream, as text.
    pub fn text(&self, stream: Stream) -> String {
        let collected = self.shared.lock();
        let lines = collected.lines.iter().filter(|line| line.stream == stream);
        lines.fold(String::new(), |text, line| text + &line.text + "\n")
    }

    /// The end of what it printed on both streams, for messages.
    pub fn output_tail(&self) -> String {
        let collected = self.shared.lock();
        let text =
            collected.lines.iter().fold(String::new(), |text, line| text + &line.text + "\n");
        tail(&text).to_owned()
    }

    /// Sends it a signal; nothing happens if it has ended.
    pub fn kill(&self, with: Signal) {
        if self.ended.is_none() {
            signal(self.pid(), with);
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for its end and for the last of its output.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus, Error> {
        let status = match self.ended {
            Some(status) => status,
            None => wait_timeout(&mut self.child, timeout)
                .map_err(|source| Error::Spawn { program: self.name.clone(), source })?
                .ok_or_else(|| Error::Timeout {
                    what: format!("{} to end", self.name),
                    waited: timeout,
                    detail: self.output_tail(),
                })?,
        };
        self.ended = Some(status);
        self.drain();
        Ok(status)
    }

    /// [`Self::kill`] and [`Self::wait`]; gives the time from the signal to the end as well.
    pub fn stop(
        &mut self,
        with: Signal,
        timeout: Duration,
    ) -> Result<(ExitStatus, Duration), Error> {
        let from = Instant::now();
        self.kill(with);
        let status = self.wait(timeout)?;
        Ok((status, from.elapsed()))
    }

    /// Peak resident memory so far; none once it has ended.
    pub fn peak_rss_bytes(&self) -> Option<u64> {
        usage::peak_rss_bytes(self.pid())
    }

    /// The same without the program's own pages; none once it has ended.
    pub fn peak_own_bytes(&self) -> Option<u64> {
        usage::peak_own_bytes(self.pid())
    }

    /// CPU seconds so far, of all threads, user and system; none once it has been reaped.
    pub fn cpu_seconds(&self) -> Option<f64> {
        usage::cpu_seconds(self.pid())
    }

    /// The readers see the pipe's end right after the child's, unless it left children behind
    /// that hold the pipe: those aren't waited for.
    fn drain(&self) {
        const DRAIN_LIMIT: Duration = Duration::from_secs(1);
        let collected = self.shared.lock();
        let _ = self.shared.grown.wait_timeout_while(collected, DRAIN_LIMIT, |c| c.open > 0);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>, stream: Stream, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        for line in pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).split(b'\n')) {
            let Ok(bytes) = line else { break };
            let text = String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned();
            let mut collected = shared.lock();
            if collected.lines.len() == MAX_LINES {
                collected.lines.pop_front();
                collected.dropped += 1;
            }
            collected.lines.push_back(Line { stream, at: Instant::now(), text });
            shared.grown.notify_all();
        }
        shared.lock().open -= 1;
        shared.grown.notify_all();
    });
}
