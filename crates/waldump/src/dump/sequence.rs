//! One record after another on one thread: what follows a log, counts records, saves images or
//! goes on behind broken records needs this.

use std::io;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use pg_types::Lsn;

use super::mend::next_valid;
use super::output::Stdout;
use super::{Config, End, Ended, Taker};
use crate::read::reader::{FileTrouble, Reader, Stop};

/// How often a log that has come to its end is looked at again.
const LOOK: Duration = Duration::from_millis(200);

/// How long a server may take between one segment's last byte and the next one's file: so long
/// the server's own program waits.
const NEXT_FILE_LIMIT: Duration = Duration::from_secs(5);

/// What is done at the end of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// `-f`: wait for more.
    pub follow: bool,
    /// Wait as long for the next file; else the server's program's five seconds.
    pub forever: bool,
    /// Go on behind what is broken.
    pub keep_going: bool,
}

/// Dumps from where the reader stands. `tell` gets what is to be said of broken records on the
/// way.
pub fn sequence(
    reader: &mut Reader,
    taker: &mut Taker<'_>,
    config: &Config,
    patience: Patience,
    stdout: &Stdout,
    tell: &mut dyn FnMut(&str),
) -> Ended {
    let mut sink = stdout;
    let mut waited = Duration::ZERO;
    loop {
        let before = reader.standing();
        let end = match taker.run(reader, Lsn::MAX, &mut sink) {
            Ok(()) => End::Enough,
            Err(end) => end,
        };
        let last = reader.last_read();
        if let Err(failure) = stdout.write(&taker.text) {
            return Ended { end: End::Failure(failure), last };
        }
        taker.text.clear();
        if reader.standing() != before {
            waited = Duration::ZERO;
        }
        let End::Stop(stop) = end else { return Ended { end, last } };
        if patience.keep_going
            && let Stop::Invalid(reason) = &stop
            && let Some(found) = next_valid(reader)
        {
            let from = found.broken;
            tell(&format!(
                "{}; skipped {} bytes from {from} to the record at {}",
                reason.text(reader.version()),
                found.at.saturating_since(from),
                found.at
            ));
            continue;
        }
        let waits = match &stop {
            _ if !patience.follow || reader.end_reached() => false,
            Stop::Files(trouble) => {
                is_to_come(trouble) && (patience.forever || waited < NEXT_FILE_LIMIT)
            }
            Stop::End | Stop::Invalid(_) => true,
        };
        if !waits || config.interrupted.load(Ordering::Relaxed) {
            let interrupted = patience.follow && config.interrupted.load(Ordering::Relaxed);
            let end = if interrupted { End::Enough } else { End::Stop(stop) };
            return Ended { end, last };
        }
        waited = waited.saturating_add(LOOK);
        thread::sleep(LOOK);
        reader.refresh();
    }
}

/// Whether what is wrong with a file may be that it isn't written yet.
fn is_to_come(trouble: &FileTrouble) -> bool {
    match trouble {
        FileTrouble::Open { error, .. } => error.kind() == io::ErrorKind::NotFound,
        FileTrouble::Read { .. } => false,
        FileTrouble::Short { .. } => true,
    }
}
