//! One session with a server that stays open: a psql that is fed statement by statement.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Error;
use crate::process::{spawn, wait_timeout};
use crate::servers::PgConnection;

/// Printed after a script's last row; nothing that a table holds.
const SENTINEL: &str = "<<seawall: end of answer>>";

/// How long psql may take to say goodbye.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A connected session. An SQL error ends it. Dropping it kills its psql.
pub struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    complaints: Option<JoinHandle<String>>,
}

impl Session {
    /// Connects, over the socket as the superuser, and runs `setup`.
    pub fn open(connection: &PgConnection, setup: &str) -> Result<Self, Error> {
        const OPEN_LIMIT: Duration = Duration::from_secs(60);
        let mut psql = connection.psql();
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(&mut psql)?;
        let stdin = child.stdin.take();
        let (stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()) {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let complaints = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.as_mut().map(|pipe| pipe.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut session = Self { child, stdin, lines, complaints: Some(complaints) };
        session.run(setup, OPEN_LIMIT)?;
        Ok(session)
    }

    /// Runs statements and gives the lines they print.
    pub fn run(&mut self, sql: &str, timeout: Duration) -> Result<Vec<String>, Error> {
        let deadline = Instant::now() + timeout;
        self.send(&format!("{sql};\nSELECT '{SENTINEL}'"))?;
        let mut answer = Vec::new();
        loop {
            match self.line(deadline.saturating_duration_since(Instant::now()))? {
                Some(line) if line == SENTINEL => return Ok(answer),
                Some(line) => answer.push(line),
                None => return Err(no_answer(sql, timeout)),
            }
        }
    }

    /// Runs one statement that gives exactly one line, and the time from sending it to its answer.
    /// In a session in autocommit mode the answer comes after the commit.
    pub fn timed_row(&mut self, sql: &str, limit: Duration) -> Result<(String, Duration), Error> {
        let from = Instant::now();
        self.send(sql)?;
        let line = self.line(limit)?.ok_or_else(|| no_answer(sql, limit))?;
        Ok((line, from.elapsed()))
    }

    /// Sends a statement without waiting.
    pub fn send(&mut self, sql: &str) -> Result<(), Error> {
        let written = self.stdin.as_mut().map(|stdin| writeln!(stdin, "{sql};"));
        if matches!(written, Some(Ok(()))) { Ok(()) } else { Err(gone()) }
    }

    /// The next line of output: none if it doesn't come within `limit`, an error if the session
    /// has ended.
    pub fn line(&self, limit: Duration) -> Result<Option<String>, Error> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    /// Ends the session, by force if it still waits, and gives what it wrote to standard error.
    pub fn close(mut self) -> String {
        self.stdin = None;
        if !matches!(wait_timeout(&mut self.child, CLOSE_LIMIT), Ok(Some(_))) {
            let _ = self.child.kill();
        }
        let complaints = self.complaints.take().and_then(|reader| reader.join().ok());
        complaints.unwrap_or_default()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gone() -> Error {
    Error::Other("the session has ended: the server went, or a statement failed".into())
}

fn no_answer(sql: &str, waited: Duration) -> Error {
    Error::Timeout { what: format!("the answer to {sql}"), waited, detail: String::new() }
}
