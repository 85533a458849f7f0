//! What a running receiver says of itself: a board that its observer writes on, and that
//! `run/receiver.sock` gives to whoever connects, as one JSON object.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use jiff::Timestamp;
use pg_types::{Lsn, Positions};
use serde_json::{Value, json};

/// The socket's name in `run/`.
const SOCKET: &str = "receiver.sock";
/// Whoever asks takes the answer within this, or doesn't get it.
const PATIENCE: Duration = Duration::from_secs(2);
/// The answer has some hundred bytes.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// Serving takes no more than the answer's text.
const STACK_BYTES: usize = 64 << 10;

/// Where a receiver stands, for people and programs.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<Mutex<Standing>>);

#[derive(Debug)]
struct Standing {
    started: Timestamp,
    state: &'static str,
    since: Timestamp,
    /// What a session knows of its server.
    upstream: Value,
    slot: Option<String>,
    positions: Option<Positions>,
    upstream_end: Lsn,
    rate_bytes: f64,
    /// When everything that the server was known to have was durable.
    caught_up: Instant,
    last_error: Option<(Timestamp, String)>,
}

impl Board {
    pub(crate) fn new(slot: Option<String>) -> Self {
        let now = Timestamp::now();
        Self(Arc::new(Mutex::new(Standing {
            started: now,
            state: "connecting",
            since: now,
            upstream: Value::Null,
            slot,
            positions: None,
            upstream_end: Lsn::INVALID,
            rate_bytes: 0.0,
            caught_up: Instant::now(),
            last_error: None,
        })))
    }

    fn change(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// `connecting`, `starting`, `streaming`, `disk full`, `stopping`.
    pub(crate) fn state(&self, state: &'static str) {
        self.change(|standing| {
            if standing.state != state {
                (standing.state, standing.since) = (state, Timestamp::now());
            }
        });
    }

    pub(crate) fn upstream(&self, upstream: Value) {
        self.change(|standing| standing.upstream = upstream);
    }

    pub(crate) fn error(&self, error: String) {
        self.change(|standing| standing.last_error = Some((Timestamp::now(), error)));
    }

    pub(crate) fn progress(&self, positions: Positions, upstream_end: Lsn, rate_bytes: f64) {
        self.change(|standing| {
            standing.positions = Some(positions);
            standing.upstream_end = upstream_end;
            standing.rate_bytes = rate_bytes;
            if durable(&positions) >= upstream_end {
                standing.caught_up = Instant::now();
            }
        });
    }

    fn as_json(&self) -> Value {
        let standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let end = standing.upstream_end;
        let lag_bytes = standing.positions.map(|at| end.saturating_since(durable(&at)));
        let behind = lag_bytes != Some(0);
        let lag_seconds = if behind { standing.caught_up.elapsed().as_secs_f64() } else { 0.0 };
        let at = |lsn: fn(&Positions) -> Lsn| standing.positions.map(|p| lsn(&p).to_string());
        json!({
            "process": std::process::id(),
            "started": text(standing.started),
            "state": standing.state,
            "since": text(standing.since),
            "upstream": standing.upstream,
            "slot": standing.slot,
            "received": at(|positions| positions.received.0),
            "proved": at(|positions| positions.proved.0),
            "written": at(|positions| positions.written.0),
            "durable": at(|positions| positions.durable.0),
            "upstream_end": end.is_valid().then(|| end.to_string()),
            "lag_bytes": lag_bytes,
            "lag_seconds": lag_bytes.map(|_| (lag_seconds * 10.0).round() / 10.0),
            "bytes_per_second": standing.rate_bytes.round(),
            "last_error": standing.last_error.as_ref().map(|(when, error)| {
                json!({"at": text(*when), "error": error})
            }),
        })
    }

    /// Answers on the archive's socket for as long as the process lives; the archive's lock is
    /// held, so that a socket that is there is a dead one's. Without a socket, receiving goes on.
    pub(crate) fn serve(&self, archive: &Path) -> io::Result<()> {
        let run = Run::open(archive)?;
        _ = fs::remove_file(run.socket());
        let listener = UnixListener::bind(run.socket())?;
        let board = self.clone();
        let serve = move || {
            for client in listener.incoming() {
                // Whoever doesn't take it asked for nothing.
                _ = client.and_then(|client| board.answer(client));
            }
        };
        thread::Builder::new().name("status".to_owned()).stack_size(STACK_BYTES).spawn(serve)?;
        Ok(())
    }

    fn answer(&self, mut client: UnixStream) -> io::Result<()> {
        client.set_write_timeout(Some(PATIENCE))?;
        client.write_all(format!("{}\n", self.as_json()).as_bytes())
    }
}

fn durable(positions: &Positions) -> Lsn {
    // Without fsyncs, what is written is all there is.
    if positions.durable.0.is_valid() { positions.durable.0 } else { positions.written.0 }
}

fn text(at: Timestamp) -> String {
    at.strftime("%FT%TZ").to_string()
}

/// Asks the receiver of an archive; `None` if none runs.
///
/// # Errors
/// If one may be running, and doesn't answer.
pub(crate) fn ask(archive: &Path) -> io::Result<Option<Value>> {
    let connected = Run::open(archive).and_then(|run| UnixStream::connect(run.socket()));
    let client = match connected {
        Ok(client) => client,
        Err(error) => {
            use io::ErrorKind::{ConnectionRefused, NotFound};
            let none = matches!(error.kind(), NotFound | ConnectionRefused);
            return if none { Ok(None) } else { Err(error) };
        }
    };
    client.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    client.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    serde_json::from_str(&answer).map(Some).map_err(io::Error::from)
}

/// The directory `run/`, open: a socket's whole path has 107 bytes at most, and an archive's path
/// may have more.
struct Run(fs::File);

impl Run {
    fn open(archive: &Path) -> io::Result<Self> {
        fs::File::open(archive.join(archive::Layout::RUN)).map(Self)
    }

    fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(SOCKET)
    }
}
