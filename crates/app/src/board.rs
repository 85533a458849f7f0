//! What a running receiver says of itself: a board that its observer writes on, and that
//! `run/receiver.sock` gives to whoever connects, as one JSON object.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use jiff::Timestamp;
use pg_types::{Lsn, Positions};
use runtime::Progress;
use serde_json::{Value, json};

/// The receiver's socket in `run/`.
const SOCKET: &str = "receiver.sock";
/// That of whoever serves the archive.
pub(crate) const SERVER_SOCKET: &str = "server.sock";
/// Where a receiver tells a `seawall serve` how far it is.
pub(crate) const TIP_SOCKET: &str = "tip.sock";
/// Whoever asks takes the answer within this, or doesn't get it.
const PATIENCE: Duration = Duration::from_secs(2);
/// The answer has some hundred bytes.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// Serving takes no more than the answer's text.
const STACK_BYTES: usize = 64 << 10;

/// What happened lately and was worth a warning: so much is kept for whoever asks later.
const EVENTS: usize = 20;

/// What becomes of the slot that keeps WAL for a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// It keeps what isn't acknowledged.
    Held,
    /// It was dropped since it kept too much, and is made anew in time.
    LetGo,
}

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
    slot_is: Slot,
    progress: Option<Progress>,
    rate_bytes: f64,
    /// When everything that the server was known to have was durable.
    caught_up: Instant,
    last_error: Option<(Timestamp, String)>,
    /// Newest last: when, the level, the text.
    events: VecDeque<(Timestamp, &'static str, String)>,
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
            slot_is: Slot::Held,
            progress: None,
            rate_bytes: 0.0,
            caught_up: Instant::now(),
            last_error: None,
            events: VecDeque::new(),
        })))
    }

    fn change(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// `connecting`, `starting`, `streaming`, `disk full`, `stopping`; whether that is new.
    pub(crate) fn state(&self, state: &'static str) -> bool {
        let mut is_new = false;
        self.change(|standing| {
            is_new = standing.state != state;
            if is_new {
                (standing.state, standing.since) = (state, Timestamp::now());
            }
        });
        is_new
    }

    pub(crate) fn slot(&self, slot_is: Slot) {
        self.change(|standing| standing.slot_is = slot_is);
    }

    pub(crate) fn event(&self, level: &'static str, text: &str) {
        self.change(|standing| {
            if standing.events.len() == EVENTS {
                standing.events.pop_front();
            }
            standing.events.push_back((Timestamp::now(), level, text.to_owned()));
        });
    }

    pub(crate) fn upstream(&self, upstream: Value) {
        self.change(|standing| standing.upstream = upstream);
    }

    pub(crate) fn error(&self, error: String) {
        self.change(|standing| standing.last_error = Some((Timestamp::now(), error)));
    }

    pub(crate) fn progress(&self, progress: Progress, rate_bytes: f64) {
        self.change(|standing| {
            standing.progress = Some(progress);
            standing.rate_bytes = rate_bytes;
            if durable(&progress.positions) >= progress.upstream {
                standing.caught_up = Instant::now();
            }
        });
    }

    fn as_json(&self) -> Value {
        let standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = standing.progress;
        let lag_bytes = progress.map(|at| at.upstream.saturating_since(durable(&at.positions)));
        let behind = lag_bytes != Some(0);
        let lag_seconds = if behind { standing.caught_up.elapsed().as_secs_f64() } else { 0.0 };
        let at = |lsn: fn(&Progress) -> Lsn| progress.map(|at| lsn(&at).to_string());
        let slot = standing.slot.as_ref().map(|name| {
            let held = standing.slot_is == Slot::Held;
            json!({
                "name": name,
                "state": if held { "held" } else { "let go" },
                "retained_bytes": progress
                    .filter(|_| held)
                    .map(|at| at.upstream.saturating_since(at.acknowledged)),
            })
        });
        let events = standing
            .events
            .iter()
            .map(|(at, level, text)| json!({"at": self::text(*at), "level": level, "text": text}));
        json!({
            "process": std::process::id(),
            "started": text(standing.started),
            "state": standing.state,
            "since": text(standing.since),
            "upstream": standing.upstream,
            "slot": slot,
            "received": at(|at| at.positions.received.0),
            "proved": at(|at| at.positions.proved.0),
            "written": at(|at| at.positions.written.0),
            "durable": at(|at| at.positions.durable.0),
            "acknowledged": at(|at| at.acknowledged),
            "upstream_end": at(|at| at.upstream),
            "lag_bytes": lag_bytes,
            "lag_seconds": lag_bytes.map(|_| (lag_seconds * 10.0).round() / 10.0),
            "bytes_per_second": standing.rate_bytes.round(),
            "last_error": standing.last_error.as_ref().map(|(when, error)| {
                json!({"at": text(*when), "error": error})
            }),
            "events": events.collect::<Vec<_>>(),
        })
    }

    /// Has whoever asks find this receiver.
    pub(crate) fn serve(&self, archive: &Path) -> io::Result<()> {
        let board = self.clone();
        publish(archive, SOCKET, move || board.as_json())
    }
}

/// Answers on one of the archive's sockets for as long as the process lives. Its lock is held, so
/// that a socket that is there is a dead one's. Whoever can't do it goes on without.
pub(crate) fn publish(
    archive: &Path,
    name: &str,
    answer: impl Fn() -> Value + Send + 'static,
) -> io::Result<()> {
    let listener = Run::open(archive)?.listen(name)?;
    let serve = move || {
        for client in listener.incoming() {
            // Whoever doesn't take it asked for nothing.
            _ = client.and_then(|client| give(client, &answer()));
        }
    };
    thread::Builder::new().name("status".to_owned()).stack_size(STACK_BYTES).spawn(serve)?;
    Ok(())
}

fn give(mut client: UnixStream, answer: &Value) -> io::Result<()> {
    client.set_write_timeout(Some(PATIENCE))?;
    client.write_all(format!("{answer}\n").as_bytes())
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
    ask_on(archive, SOCKET)
}

/// Asks whoever has this socket: again where somebody was killed while answering, and then isn't
/// there any more.
pub(crate) fn ask_on(archive: &Path, name: &str) -> io::Result<Option<Value>> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let mut asked = 1;
    loop {
        match ask_once(archive, name) {
            Err(error)
                if asked < MAX_ASKED
                    && matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) =>
            {
                asked += 1;
            }
            answer => return answer,
        }
    }
}

/// More often than this nobody is killed while answering one question.
const MAX_ASKED: usize = 5;

fn ask_once(archive: &Path, name: &str) -> io::Result<Option<Value>> {
    let connected = Run::open(archive).and_then(|run| UnixStream::connect(run.path(name)));
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
pub(crate) struct Run(fs::File);

impl Run {
    pub(crate) fn open(archive: &Path) -> io::Result<Self> {
        fs::File::open(archive.join(archive::Layout::RUN)).map(Self)
    }

    /// Good for as long as this lives.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name)
    }

    /// Listens under this name.
    pub(crate) fn listen(&self, name: &str) -> io::Result<UnixListener> {
        _ = fs::remove_file(self.path(name));
        UnixListener::bind(self.path(name))
    }
}
