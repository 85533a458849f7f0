//! Clients that commit and note what the server acknowledged, and the look-up of those commits
//! in WAL by PostgreSQL's own pg_waldump.
//!
//! Invariant: a commit is noted only after the client program has printed the server's answer to
//! it; what was under way when the server died is not noted. Never does: decode WAL itself.

mod commits;
mod session;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use commits::{Checked, Commits};
pub use session::Session;

use crate::Error;
use crate::servers::PgConnection;

/// A client's statement may wait for a standby; a test's own limit is shorter.
const COMMIT_LIMIT: Duration = Duration::from_secs(120);

/// How long a stopped load waits for the answers under way.
const LAST_ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A commit whose success the client has seen.
#[derive(Debug, Clone, Copy)]
pub struct Acked {
    /// Which client, from 0.
    pub client: u32,
    /// Which of its commits, from 1, without gaps.
    pub counter: u64,
    /// The transaction's id with its epoch; WAL records carry the lower 32 bits.
    pub xid: u64,
    /// When the answer was there.
    pub at: Instant,
}

/// What the clients do.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// How many clients, each with its own session.
    pub clients: u32,
    /// Their `synchronous_commit`: `on`, `remote_write`, …
    pub synchronous_commit: String,
    /// The length of the text that each row carries.
    pub payload_bytes: u32,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { clients: 4, synchronous_commit: "on".into(), payload_bytes: 100 }
    }
}

#[derive(Default)]
struct Shared {
    acked: Mutex<Vec<Acked>>,
    ending: AtomicBool,
}

impl Shared {
    fn acked(&self) -> MutexGuard<'_, Vec<Acked>> {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clients that insert a row a transaction, each in a loop, until the server is gone or the load
/// is finished.
pub struct CommitLoad {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Result<(), Error>>>,
}

impl CommitLoad {
    /// Makes the table, without waiting for a standby, and starts the clients.
    pub fn start(connection: &PgConnection, options: &LoadOptions) -> Result<Self, Error> {
        connection.sql(
            "SET synchronous_commit = local;
             CREATE TABLE IF NOT EXISTS seawall_load(client int, counter bigint, payload text)",
        )?;
        let shared = Arc::new(Shared::default());
        let mut load = Self { shared, clients: Vec::new() };
        for client in 0..options.clients {
            let setup = format!("SET synchronous_commit = {}", options.synchronous_commit);
            let session = Session::open(connection, &setup)?;
            let (shared, payload_bytes) = (Arc::clone(&load.shared), options.payload_bytes);
            load.clients.push(thread::spawn(move || run(session, client, payload_bytes, &shared)));
        }
        Ok(load)
    }

    /// How many commits have been acknowledged so far.
    pub fn acked_count(&self) -> usize {
        self.shared.acked().len()
    }

    /// Waits until so many commits have been acknowledged.
    pub fn wait_for(&self, count: usize, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        while self.acked_count() < count {
            if Instant::now() >= deadline {
                return Err(Error::Timeout {
                    what: format!("{count} acknowledged commits"),
                    waited: timeout,
                    detail: format!("there were {}", self.acked_count()),
                });
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the clients and gives every commit that was acknowledged. That the server is gone is
    /// no error; that a client was let go without the standby's confirmation is.
    pub fn finish(mut self) -> Result<Vec<Acked>, Error> {
        self.shared.ending.store(true, Ordering::Release);
        for client in self.clients.drain(..) {
            client.join().map_err(|_| Error::Other("a load client panicked".into()))??;
        }
        Ok(std::mem::take(&mut *self.shared.acked()))
    }
}

impl Drop for CommitLoad {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

fn run(mut session: Session, client: u32, payload: u32, shared: &Shared) -> Result<(), Error> {
    let mut counter = 0;
    while !shared.ending.load(Ordering::Acquire) {
        counter += 1;
        let statement = format!(
            "INSERT INTO seawall_load VALUES ({client}, {counter}, repeat('x', {payload})) \
             RETURNING txid_current()"
        );
        if session.send(&statement).is_err() {
            break;
        }
        let Some(answer) = answer(&session, shared) else { break };
        let Ok(xid) = answer.parse() else {
            return Err(Error::Other(format!("client {client} got {answer:?} for an xid")));
        };
        shared.acked().push(Acked { client, counter, xid, at: Instant::now() });
    }
    // A warning is printed before the answer; by the session's end it has been read.
    let complaints = session.close();
    if complaints.contains("canceling wait for synchronous replication")
        || complaints.contains("ERROR:")
    {
        return Err(Error::Other(format!("client {client} was told: {complaints}")));
    }
    Ok(())
}

/// The answer to the statement sent; none if the server went, or none came in time.
fn answer(session: &Session, shared: &Shared) -> Option<String> {
    const LOOK: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + COMMIT_LIMIT;
    let mut ending_since = None;
    while Instant::now() < deadline {
        match session.line(LOOK) {
            Ok(Some(line)) => return Some(line),
            Ok(None) => {}
            Err(_) => return None,
        }
        if shared.ending.load(Ordering::Acquire) {
            let since: &mut Instant = ending_since.get_or_insert_with(Instant::now);
            if since.elapsed() > LAST_ANSWER_LIMIT {
                return None;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
