//! `seawall receive --compress`: settled segments, one after another, in a thread of its own that
//! runs when nothing else wants the processor.
//!
//! It is told of each segment that is sealed, which is when the one before may be settled; what a
//! start finds, and what was shipped, it sees by itself. Killed at any point it loses nothing
//! (`archive::Catalogue::compress`); nothing waits for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use archive::{ArchiveError, Catalogue, Compressed, Method};
use disk::RealFiles;
use pg_types::{SegmentNumber, TimelineId};
use serde_json::json;
use tracing::Level;

use crate::log;

/// A segment that was just sealed.
pub(crate) type Sealed = (TimelineId, SegmentNumber);

/// How often the whole directory is looked at: for what others put there. With a million segments a
/// look takes a second.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// The least priority that there is (`setpriority`).
const LEAST_PRIORITY: i32 = 19;

/// Starts it; what it gives is to be told of each segment that is sealed.
pub(crate) fn start(archive: &Path, method: Method) -> Sender<Sealed> {
    let (tell, sealed) = channel();
    let work = Work { archive: archive.to_owned(), method };
    let started = thread::Builder::new().name("compress".to_owned()).spawn(move || {
        // Of this thread alone, on Linux. Where it isn't granted the work is done all the same.
        _ = rustix::process::setpriority_process(None, LEAST_PRIORITY);
        work.run(&sealed);
    });
    if let Err(error) = started {
        tracing::warn!("segments aren't compressed: no thread can be started: {error}");
    }
    tell
}

struct Work {
    archive: PathBuf,
    method: Method,
}

impl Work {
    fn run(&self, sealed: &Receiver<Sealed>) {
        self.all();
        loop {
            match sealed.recv_timeout(LOOK_EVERY) {
                Ok(segment) => {
                    let segments = [segment].into_iter().chain(sealed.try_iter());
                    let before = segments.filter_map(|(on, number)| Some((on, number.previous()?)));
                    self.each(|_| Ok(before.collect()));
                }
                Err(RecvTimeoutError::Timeout) => self.all(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// What there is to do in the whole archive.
    fn all(&self) {
        self.each(|catalogue| Ok(catalogue.survey()?.compressible().collect()));
    }

    fn each(&self, which: impl FnOnce(&Catalogue) -> Result<Vec<Sealed>, ArchiveError>) {
        let done = self.open().and_then(|catalogue| {
            let Some(catalogue) = catalogue else { return Ok(()) };
            let holder = format!("seawall receive, process {}", std::process::id());
            let _lock = catalogue.lock_compression(&holder)?;
            for (timeline, number) in which(&catalogue)? {
                self.one(&catalogue, timeline, number);
            }
            Ok(())
        });
        if let Err(error) = done {
            say_failed(&error);
        }
    }

    /// The archive; `None` while the receiver hasn't made it yet.
    fn open(&self) -> Result<Option<Catalogue>, ArchiveError> {
        match Catalogue::open(Arc::new(RealFiles::new(self.archive.clone()))) {
            Err(ArchiveError::NoArchive) => Ok(None),
            catalogue => catalogue.map(Some),
        }
    }

    /// One that fails doesn't hold the others up.
    fn one(&self, catalogue: &Catalogue, timeline: TimelineId, number: SegmentNumber) {
        match catalogue.compress(timeline, number, self.method) {
            Ok(Compressed::Done { len }) => {
                let path = catalogue.layout().packed(timeline, number, self.method);
                let name = path.display().to_string();
                let facts = json!({"event": "compressed", "segment": name, "bytes": len});
                log::say(Level::DEBUG, &facts, &format!("compressed {name}, {len} bytes"));
            }
            Ok(Compressed::NotYet | Compressed::Incompressible) => {}
            Err(error) => say_failed(&error),
        }
    }
}

fn say_failed(error: &ArchiveError) {
    let facts = json!({"event": "not_compressed", "error": error.to_string()});
    let text = format!("segments stay as they are, not compressed: {error}");
    log::say(Level::WARN, &facts, &text);
}
