//! How long WAL takes from a commit to a receiver behind a server that passes it on, when nothing
//! else is going on.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pg_types::Lsn;
use pg_wire::message::{FrameHeader, Phase};
use pg_wire::stream::CopyPayload;
use testkit::load::Session;
use testkit::servers::Server;

use crate::measure::median;
use crate::sink;

/// A commit's WAL comes within this, or the bench fails.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two commits: nothing of the one before is under way any more.
const PAUSE: Duration = Duration::from_millis(5);

/// When everything before a position had come.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<Vec<(Lsn, Instant)>>>);

impl Arrivals {
    fn add(&self, end: Lsn) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((end, Instant::now()));
    }

    fn of(&self, lsn: Lsn) -> Result<Instant> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let arrivals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, at)) = arrivals.iter().find(|(end, _)| *end >= lsn) {
                return Ok(*at);
            }
            drop(arrivals);
            anyhow::ensure!(Instant::now() < deadline, "{lsn} didn't come");
            thread::sleep(PAUSE);
        }
    }
}

/// What the commits came to: medians, in milliseconds.
pub struct Delays {
    /// From the commit's statement to a receiver of seawall's.
    pub ours: f64,
    /// The same to one of the cascading standby's.
    pub theirs: f64,
    /// From when another process was told that it is durable in the archive, to the receiver.
    pub behind_durable: f64,
}

/// Commits one by one. `tip` is where seawall tells what is durable.
///
/// # Errors
/// If a server can't be reached, or something doesn't come.
pub fn measure(
    primary: &Server,
    (seawall, standby): (u16, u16),
    tip: &Path,
    commits: usize,
) -> Result<Delays> {
    let start = primary.current_lsn()?.parse::<Lsn>()?.align_down(16 << 20);
    let (ours, theirs, durable) = (Arrivals::default(), Arrivals::default(), Arrivals::default());
    for (port, arrivals) in [(seawall, &ours), (standby, &theirs)] {
        let (stream, arrivals) = (sink::stream(port, None, start)?, arrivals.clone());
        thread::spawn(move || receive(stream, &arrivals));
    }
    let (stream, told) = (UnixStream::connect(tip)?, durable.clone());
    thread::spawn(move || listen(stream, &told));
    let mut session = Session::open(primary.connection(), "SELECT 1")?;
    let mut rows = Vec::new();
    for _ in 0..commits {
        let began = Instant::now();
        let commit = "SELECT pg_logical_emit_message(true, 'bench', 'a line of a table')";
        let (lsn, _) = session.timed_row(commit, LIMIT)?;
        let lsn: Lsn = lsn.parse()?;
        let (our, their, durable) = (ours.of(lsn)?, theirs.of(lsn)?, durable.of(lsn)?);
        let ms = |from: Instant, to: Instant| {
            let before = from.saturating_duration_since(to).as_secs_f64();
            (to.saturating_duration_since(from).as_secs_f64() - before) * 1e3
        };
        rows.push((ms(began, our), ms(began, their), ms(durable, our)));
        thread::sleep(PAUSE);
    }
    let middle = |of: fn(&(f64, f64, f64)) -> f64| median(rows.iter().map(of));
    Ok(Delays {
        ours: middle(|row| row.0),
        theirs: middle(|row| row.1),
        behind_durable: middle(|row| row.2),
    })
}

/// Reads messages until the stream ends.
fn receive(stream: TcpStream, arrivals: &Arrivals) -> Result<()> {
    let mut stream = BufReader::with_capacity(256 << 10, stream);
    let mut body = Vec::new();
    loop {
        let mut header = [0; FrameHeader::LEN];
        stream.read_exact(&mut header)?;
        let frame = FrameHeader::parse(header, Phase::Established)?;
        body.resize(frame.len, 0);
        stream.read_exact(&mut body)?;
        if let Ok(CopyPayload::XLogData(header, wal)) = CopyPayload::parse(&body) {
            arrivals.add(header.start.saturating_add(wal.len() as u64));
        }
    }
}

/// Reads lines of `run/tip.sock`: version, timeline, end, session.
fn listen(stream: UnixStream, arrivals: &Arrivals) -> Result<()> {
    for line in BufReader::new(stream).lines() {
        let line = line?;
        arrivals.add(line.split(' ').nth(2).context("a line of the tip")?.parse()?);
    }
    Ok(())
}
