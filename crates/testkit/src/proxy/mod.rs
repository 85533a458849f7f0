//! A TCP proxy between a replication client and a server that does harm at chosen places and
//! notes what the client acknowledged when.
//!
//! It knows bytes: the framing of messages after startup, where WAL data lie in CopyData, where a
//! status update has its positions. Invariant: without a fault every byte passes unchanged and in
//! order. Never does: understand a record, retry, or reconnect. TLS passes through untouched, and
//! no fault fires in it.
//!
//! ```no_run
//! use testkit::proxy::{Action, At, Fault, Proxy};
//! # fn example(server_port: u16) -> Result<(), testkit::Error> {
//! let proxy = Proxy::start(server_port)?;
//! // On the first two connections that bring this byte, one of its bits is flipped.
//! proxy.add(Fault { at: At::Lsn(0x300_1234), action: Action::FlipBit(5), times: 2 });
//! let port_for_the_client = proxy.port();
//! # Ok(()) }
//! ```

mod connection;
mod frames;
mod words;

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Error;
use connection::Connection;

/// How often the listener and stalled connections look whether they are to end.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Where in the bytes from server to client a fault fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// At this byte of WAL, wherever the message that carries it begins.
    Lsn(u64),
    /// At this byte of the connection, counted from 0, headers and startup included.
    Byte(u64),
}

/// What a fault does. All but the first act before the byte is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Flips this bit (0–7) of the byte.
    FlipBit(u8),
    /// Closes both sides; the byte isn't passed on.
    Cut,
    /// Passes so many bytes on one at a time, with a pause after each.
    Dribble {
        /// How many.
        bytes: u64,
        /// Zero for as fast as the socket takes them.
        pause: Duration,
    },
    /// Passes nothing on for this long.
    Delay(Duration),
    /// Passes nothing on until [`Proxy::resume`], or until the client goes.
    Stall,
}

/// A fault, armed for the first `times` connections that bring its place.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Where.
    pub at: At,
    /// What.
    pub action: Action,
    /// How often, over all connections.
    pub times: u32,
}

/// A fault that has fired.
#[derive(Debug, Clone, Copy)]
pub struct Fired {
    /// The connection's number, from 0.
    pub connection: usize,
    /// When.
    pub when: Instant,
    /// Where.
    pub at: At,
    /// What.
    pub action: Action,
}

/// A standby status update that the client sent. Positions are LSNs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusUpdate {
    /// The connection's number, from 0.
    pub connection: usize,
    /// When its last byte came from the client.
    pub when: Instant,
    /// Last WAL byte + 1 received and written.
    pub write: u64,
    /// Last WAL byte + 1 flushed: what is acknowledged.
    pub flush: u64,
    /// Last WAL byte + 1 applied.
    pub apply: u64,
    /// The client's clock, microseconds since 2000-01-01.
    pub time: i64,
    /// Whether it asks for a reply at once.
    pub reply_requested: bool,
}

/// Something else that the client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientMessage {
    /// The connection's number, from 0.
    pub connection: usize,
    /// When its last byte came from the client.
    pub when: Instant,
    /// What.
    pub kind: ClientMessageKind,
}

/// What a client sent, as far as tests ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessageKind {
    /// A simple query's text (its first kilobytes), such as START_REPLICATION.
    Query(String),
    /// The end of the copy.
    CopyDone,
    /// Goodbye.
    Terminate,
    /// The connection's end.
    Closed,
}

/// WAL data passed on in one piece: the half-open range of LSNs and when it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalPassed {
    /// The connection's number, from 0.
    pub connection: usize,
    /// When it was read from the server.
    pub when: Instant,
    /// The first byte's LSN.
    pub start: u64,
    /// One past the last byte's LSN.
    pub end: u64,
}

#[derive(Default)]
struct Log {
    faults: Vec<Fault>,
    fired: Vec<Fired>,
    statuses: Vec<StatusUpdate>,
    messages: Vec<ClientMessage>,
    /// Neighbouring pieces are joined when the second follows within a millisecond.
    wal: Vec<WalPassed>,
    connections: Vec<Arc<Connection>>,
    /// Where the next connections go.
    server_port: u16,
}

#[derive(Default)]
struct Shared {
    log: Mutex<Log>,
    ending: AtomicBool,
    /// Connections that begin from now on get errors without words.
    without_words: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running proxy on a port of its own. Dropping it closes every connection.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts one that connects to 127.0.0.1:`server_port` for each client that comes.
    pub fn start(server_port: u16) -> Result<Self, Error> {
        let no_listener = |source| Error::Spawn { program: "the proxy's listener".into(), source };
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(no_listener)?;
        listener.set_nonblocking(true).map_err(no_listener)?;
        let port = listener.local_addr().map_err(no_listener)?.port();
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        shared.lock().server_port = server_port;
        let listener = thread::spawn(move || listen(&listener, &for_thread));
        Ok(Self { port, shared, listener: Some(listener) })
    }

    /// The port for clients, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host=127.0.0.1 port=… user=postgres`, by way of the proxy.
    pub fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres", self.port)
    }

    /// Arms a fault, for connections that are there and ones to come.
    pub fn add(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    /// Takes the words out of the errors and notices of every connection that begins from now on;
    /// SQLSTATEs stay. Only for clients that ask for no encryption.
    pub fn drop_words(&self) {
        self.shared.without_words.store(true, Ordering::Release);
    }

    /// Disarms every fault.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// Ends all stalls.
    pub fn resume(&self) {
        let log = self.shared.lock();
        for connection in &log.connections {
            connection.resume();
        }
    }

    /// Closes every open connection, and connects later ones to another server: what a virtual
    /// address does in a failover.
    pub fn redirect(&self, server_port: u16) {
        self.shared.lock().server_port = server_port;
        self.cut_all();
    }

    /// Closes every open connection, now.
    pub fn cut_all(&self) {
        let log = self.shared.lock();
        for connection in &log.connections {
            connection.close();
        }
    }

    /// How many clients have come so far.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections.len()
    }

    /// The faults that have fired, in order.
    pub fn fired(&self) -> Vec<Fired> {
        self.shared.lock().fired.clone()
    }

    /// Every status update so far, in order.
    pub fn statuses(&self) -> Vec<StatusUpdate> {
        self.shared.lock().statuses.clone()
    }

    /// The greatest flush position acknowledged so far.
    pub fn max_flush(&self) -> u64 {
        self.shared.lock().statuses.iter().map(|status| status.flush).max().unwrap_or(0)
    }

    /// Everything else that clients sent, in order.
    pub fn messages(&self) -> Vec<ClientMessage> {
        self.shared.lock().messages.clone()
    }

    /// The WAL ranges that went to clients, in order.
    pub fn wal_passed(&self) -> Vec<WalPassed> {
        self.shared.lock().wal.clone()
    }

    /// Waits until `condition` holds of the proxy.
    pub fn wait_until(
        &self,
        what: &str,
        timeout: Duration,
        condition: impl Fn(&Self) -> bool,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        while !condition(self) {
            if Instant::now() >= deadline {
                let log = self.shared.lock();
                return Err(Error::Timeout {
                    what: what.to_owned(),
                    waited: timeout,
                    detail: format!(
                        "proxy: {} connections, last status {:?}, last message {:?}, fired {:?}",
                        log.connections.len(),
                        log.statuses.last(),
                        log.messages.last(),
                        log.fired
                    ),
                });
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        self.cut_all();
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.ending.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((client, _)) => accept(client, shared),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(POLL_INTERVAL),
            Err(_) => return,
        }
    }
}

/// A server that can't be reached shows to the client as a connection that closes at once.
fn accept(client: TcpStream, shared: &Arc<Shared>) {
    let server_port = shared.lock().server_port;
    let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)) else { return };
    if client.set_nonblocking(false).is_ok() {
        Connection::start(client, server, shared);
    }
}

#[cfg(test)]
mod tests;
