//! Serves the replication protocol: standbys, pg_receivewal and other receivers stream from the
//! archive as they would from the primary.
//!
//! A connection is a task that drives one [`replication::sender::Sender`]; what takes the disk is
//! done on a thread beside it. All of them run on a runtime of their own, so that nothing here ever
//! holds up an acknowledgement: the receiver says where the [`Tip`](crate::Tip) is, and waits for
//! nobody.
//!
//! Invariants: nothing is sent past the tip, and nothing that a [`archive::Proof`] didn't see. What
//! a client can have of memory, connections and time is bounded, before it has logged in most of
//! all. Never done: changing WAL.

mod commands;
mod connection;
mod hub;
mod listen;
mod proved;
mod push;
mod slots;
mod source;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use archive::{ArchiveError, Slots};
use disk::Files;
use pg_types::{Lsn, TimelineId};
use pg_wire::feedback::Horizons;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::connection::Connection;
use self::hub::Hub;
pub use self::hub::{Follower, Watcher};
use self::listen::{Accepted, Listener};
pub use self::listen::{InvalidListen, Listen};
use crate::{Shutdown, StoredBackups, TipReceiver, TlsError};

/// Connections that haven't logged in yet: with one more, the oldest of them has to go.
const MAX_PENDING: usize = 64;
/// Who is stopped gives its clients so long to take what is left.
const GOODBYE: Duration = Duration::from_millis(1000);
/// How often it is looked what slots keep.
const SLOTS_INTERVAL: Duration = Duration::from_secs(2);
/// A listener that can't accept, for want of descriptors say, tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a user proves who they are, over TCP; a Unix socket that is ours alone lets its owner in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// By a password, against the users file.
    Scram,
    /// By a certificate whose common name is the user's; it takes TLS.
    Cert,
    /// Not at all.
    Trust,
}

/// The files of TLS; they are read again at SIGHUP.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, and those behind it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of clients' certificates.
    pub authorities: Option<PathBuf>,
    /// The authorities' lists of those that they took back.
    pub revoked: Option<PathBuf>,
}

/// What is served, and to whom.
#[derive(Clone, Debug)]
pub struct Serve {
    /// Where.
    pub listen: Vec<Listen>,
    /// How clients log in.
    pub auth: Auth,
    /// Their verifiers.
    pub users: PathBuf,
    /// Encryption, which everybody over TCP has to use then.
    pub tls: Option<TlsFiles>,
    /// So many may be logged in.
    pub max_connections: usize,
    /// The most that a slot may keep, bytes; then it is let go.
    pub max_slot_retention: Option<u64>,
    /// After so long without an answer a client is gone; zero: never.
    pub wal_sender_timeout: Duration,
    /// What a client is given that asks for a base backup.
    pub backups: Arc<dyn StoredBackups>,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// An address can't be listened on.
    #[error("can't listen on {listen}: {error}")]
    Listen {
        /// Which.
        listen: Listen,
        /// Why.
        error: io::Error,
    },
    /// The archive can't be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// There is no TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What a server tells whoever started it. Texts are made where they are shown.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeReport<'a> {
    /// Somebody logged in.
    Connected {
        /// The connection's number.
        pid: u32,
        /// From where.
        address: &'a str,
        /// Who.
        user: &'a str,
        /// `application_name`.
        name: &'a str,
    },
    /// A stream began.
    Streaming {
        /// The connection's number.
        pid: u32,
        /// `application_name`.
        name: &'a str,
        /// On which timeline.
        timeline: TimelineId,
        /// From where.
        start: Lsn,
    },
    /// A connection that had logged in ended.
    Disconnected {
        /// The connection's number.
        pid: u32,
        /// `application_name`.
        name: &'a str,
    },
    /// Something about a client isn't right.
    Note {
        /// The connection's number.
        pid: u32,
        /// From where.
        address: &'a str,
        /// What.
        text: &'a str,
    },
    /// The files of TLS were read again.
    Reloaded,
    /// Something here isn't right: WAL that doesn't hold, a disk that fails.
    Trouble(&'a str),
    /// A slot was made.
    SlotCreated(&'a str),
    /// A slot was dropped.
    SlotDropped(&'a str),
    /// A slot kept too much, and keeps nothing any more: an alarm.
    SlotLost {
        /// Which.
        slot: &'a str,
        /// What it kept, bytes.
        retained: u64,
        /// What it may keep, bytes.
        limit: u64,
    },
}

/// Takes what is told, from whichever thread.
type Tell = dyn Fn(&ServeReport<'_>) + Send + Sync;

/// A server that listens already.
pub struct Server {
    hub: Arc<Hub>,
    listeners: Vec<std::net::TcpListener>,
    sockets: Vec<listen::UnixSocket>,
}

impl Server {
    /// Listens, and takes the archive's slots for this process. `holder` is what another one is
    /// told of it.
    ///
    /// # Errors
    /// If an address can't be had, or another process serves the archive.
    pub fn bind(
        what: Serve,
        files: Arc<dyn Files>,
        tip: TipReceiver,
        holder: &str,
        tell: Arc<Tell>,
    ) -> Result<Self, ServeError> {
        let slots = Slots::claim(Arc::clone(&files), holder)?;
        let (mut listeners, mut sockets) = (Vec::new(), Vec::new());
        for listen in &what.listen {
            let failed = |error| ServeError::Listen { listen: listen.clone(), error };
            match listen {
                Listen::Tcp { .. } => listeners.push(listen.bind_tcp().map_err(failed)?),
                Listen::Unix { .. } => sockets.push(listen.bind_unix().map_err(failed)?),
            }
        }
        let slots = slots::Table::new(slots)?;
        let hub = Arc::new(Hub::new(what, files, tip, slots, tell)?);
        Ok(Self { hub, listeners, sockets })
    }

    /// Who is connected, for whoever asks.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        Watcher::new(Arc::clone(&self.hub))
    }

    /// What the followers need of the primary, together (hot_standby_feedback).
    #[must_use]
    pub fn needed(&self) -> watch::Receiver<Horizons> {
        self.hub.needed()
    }

    /// Serves until it is stopped; then clients get what is left, if they take it soon.
    pub async fn run(self, mut shutdown: Shutdown) {
        let Self { hub, listeners, sockets } = self;
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let listener = listener.set_nonblocking(true).and_then(|()| Listener::tcp(listener));
            hub.start(&mut accepting, listener, &shutdown);
        }
        for socket in &sockets {
            hub.start(&mut accepting, socket.listener(), &shutdown);
        }
        let keeping = tokio::spawn(slots::guard(Arc::clone(&hub)));
        let reloading = tokio::spawn(reload(Arc::clone(&hub)));
        _ = shutdown.wait_for(|stop| *stop).await;
        accepting.abort_all();
        keeping.abort();
        reloading.abort();
        _ = tokio::time::timeout(GOODBYE, hub.all_gone()).await;
    }
}

impl Hub {
    fn start(
        self: &Arc<Self>,
        accepting: &mut JoinSet<()>,
        listener: io::Result<Listener>,
        shutdown: &Shutdown,
    ) {
        match listener {
            Ok(listener) => {
                accepting.spawn(accept(Arc::clone(self), listener, shutdown.clone()));
            }
            Err(error) => self.trouble(&format!("can't accept connections: {error}")),
        }
    }
}

/// Reads the files of TLS again at each SIGHUP; connections that are there stay as they are.
async fn reload(hub: Arc<Hub>) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        match hub.load_tls() {
            Ok(()) => hub.tell(&ServeReport::Reloaded),
            Err(error) => hub.trouble(&format!("{error}; what was read before stays in use")),
        }
    }
}

async fn accept(hub: Arc<Hub>, listener: Listener, shutdown: Shutdown) {
    loop {
        match listener.accept().await {
            Ok(Accepted { stream, address, is_local }) => {
                let joined = hub.join(address, MAX_PENDING);
                let Ok(me) = joined else {
                    // A machine without randomness has no secrets to give.
                    hub.trouble("a connection was turned away: there is no randomness");
                    continue;
                };
                let connection = Connection::new(Arc::clone(&hub), stream, is_local, me);
                let shutdown = shutdown.clone();
                tokio::spawn(connection.run(shutdown));
            }
            Err(error) => {
                hub.trouble(&format!("can't accept a connection: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
