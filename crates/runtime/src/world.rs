//! What a receiver has of the world: connections, the time, chance. A simulation brings its own, in
//! which the same seed gives the same run.
//!
//! Outside of [`within`] it is the real one, and nothing here costs anything. The time is tokio's,
//! which a simulation pauses.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSliceMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// A simulated world.
pub trait World: Send + Sync {
    /// Connects to the server.
    ///
    /// # Errors
    /// If nobody listens.
    fn connect(&self) -> io::Result<Arc<Wire>>;
    /// The next random number.
    fn random(&self) -> u32;
}

tokio::task_local! {
    static WORLD: Arc<dyn World>;
}

/// Runs a future, [`receive`](crate::receive()) say, in a simulated world.
pub async fn within<F: Future>(world: Arc<dyn World>, future: F) -> F::Output {
    WORLD.scope(world, future).await
}

/// The time, as timers know it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A random number; none on a machine without randomness.
pub(crate) fn random() -> Option<u32> {
    WORLD.try_with(|world| world.random()).ok().or_else(|| getrandom::u32().ok())
}

/// What a new archive's name is made of: it is for people, and a machine without randomness has a
/// worse one.
pub(crate) fn random_name() -> [u8; 16] {
    let mut name = [0; 16];
    for bytes in name.as_chunks_mut::<4>().0 {
        *bytes = random().unwrap_or_default().to_ne_bytes();
    }
    name
}

/// The time of day, for people; none in a simulation.
pub(crate) fn timestamp() -> jiff::Timestamp {
    WORLD.try_with(|_| jiff::Timestamp::UNIX_EPOCH).unwrap_or_else(|_| jiff::Timestamp::now())
}

/// A simulated connection, in a simulated world.
pub(crate) fn connect() -> Option<io::Result<Arc<Wire>>> {
    WORLD.try_with(|world| world.connect()).ok()
}

/// A connection that is made of memory.
#[derive(Debug, Default)]
pub struct Wire {
    ends: Mutex<Ends>,
    readable: Notify,
}

#[derive(Debug, Default)]
struct Ends {
    to_client: VecDeque<u8>,
    to_server: VecDeque<u8>,
    is_closed: bool,
}

impl Wire {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server sends.
    pub fn send(&self, bytes: &[u8]) {
        self.ends().to_client.extend(bytes);
        self.readable.notify_one();
    }

    /// What the client has sent since.
    #[must_use]
    pub fn sent_by_client(&self) -> Vec<u8> {
        self.ends().to_server.drain(..).collect()
    }

    /// How much the client hasn't read yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.ends().to_client.len()
    }

    /// Ends the connection, from either side. What was sent can still be read.
    pub fn close(&self) {
        self.ends().is_closed = true;
        self.readable.notify_one();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ends().is_closed
    }

    pub(crate) async fn readable(&self) {
        loop {
            {
                let ends = self.ends();
                if ends.is_closed || !ends.to_client.is_empty() {
                    return;
                }
            }
            self.readable.notified().await;
        }
    }

    /// Reads into these places in turn: `None` if nothing is there, 0 at the end.
    pub(crate) fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> Option<usize> {
        let mut got = None;
        for buf in bufs.iter_mut().filter(|buf| !buf.is_empty()) {
            let Some(len) = self.try_read(buf) else { break };
            got = Some(got.unwrap_or(0) + len);
            if len < buf.len() {
                break;
            }
        }
        got
    }

    /// `None` if nothing is there, 0 at the end.
    fn try_read(&self, buf: &mut [u8]) -> Option<usize> {
        let mut ends = self.ends();
        if ends.to_client.is_empty() && !buf.is_empty() {
            return ends.is_closed.then_some(0);
        }
        let len = ends.to_client.len().min(buf.len());
        for (place, byte) in buf.iter_mut().zip(ends.to_client.drain(..len)) {
            *place = byte;
        }
        Some(len)
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut ends = self.ends();
        if ends.is_closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        ends.to_server.extend(bytes);
        Ok(bytes.len())
    }
}

/// A client that goes away closes its connection.
#[derive(Debug)]
pub(crate) struct ClientEnd(pub(crate) Arc<Wire>);

impl Drop for ClientEnd {
    fn drop(&mut self) {
        self.0.close();
    }
}
