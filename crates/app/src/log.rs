//! The log: lines for a terminal or a file, fields for the journal.
//!
//! No line is waited for: a thread of its own writes them, and what finds no room in its queue is
//! lost, not the WAL. That is why the journal is spoken to here, in its own protocol, by the same
//! thread: a datagram that the journal doesn't take holds up nothing but the log.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::TalkArgs;
use crate::terminal;

/// Back to the line's start, and clear it.
pub(crate) const CLEAR_LINE: &str = "\r\x1b[K";

/// Lines that wait for a reader who doesn't read: a thread's end holds them, so that neither a
/// terminal that is stopped nor a pipe that is full or broken holds up WAL. Later ones are lost.
const WAITING_LINES: usize = 1024;

/// Where the journal takes entries (systemd.journal-fields(7), "Native Journal Protocol").
const JOURNAL: &str = "/run/systemd/journal/socket";

/// The log, and what else is shown; written to its end when this is dropped.
pub(crate) struct Log {
    stderr: NonBlocking,
    /// Whether a living line is to be shown below the log.
    live: bool,
    _worker: WorkerGuard,
}

impl Log {
    /// Where the living line goes, if there is one.
    pub(crate) fn line(&self) -> Option<NonBlocking> {
        self.live.then(|| self.stderr.clone())
    }
}

/// Writes by a thread of its own.
pub(crate) fn beside<W: Write + Send + 'static>(to: W) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES).finish(to)
}

/// Starts the log, of what is done to this archive if to any.
pub(crate) fn start(talk: TalkArgs, json: bool, archive: Option<&Path>) -> Log {
    let level = match talk.verbose {
        _ if talk.quiet => LevelFilter::WARN,
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let watched = terminal::is_watched();
    let live = watched && !talk.quiet && !json;
    let journal = journal();
    let is_journal = journal.is_some();
    let (stderr, worker) = match journal {
        Some(journal) => beside(journal),
        None => beside(io::stderr()),
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(watched)
        .with_writer(AboveTheLine { stderr: stderr.clone(), live })
        // It would be told to standard error, and panic where that is what can't be written.
        .log_internal_errors(false);
    // A second start, as in tests, leaves the first as it is.
    if is_journal {
        let entries = Entries { archive: archive.map(|archive| archive.display().to_string()) };
        _ = log.event_format(entries).fmt_fields(DefaultFields::new()).try_init();
    } else {
        // What else an event has is in its text for people.
        let message_only =
            tracing_subscriber::fmt::format::debug_fn(|writer, field: &Field, value| {
                if field.name() != "message" {
                    return Ok(());
                }
                writer.write_str(&printable(&format!("{value:?}")))
            });
        _ = log.with_target(false).fmt_fields(message_only).try_init();
    }
    Log { stderr, live, _worker: worker }
}

/// A message as it may be printed: servers and clients have their words in it, and mustn't write
/// lines of their own, nor speak to the terminal. As the server's log, lines go on behind a tab.
fn printable(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for c in message.chars() {
        match c {
            '\n' => text.push_str("\n\t"),
            '\t' => text.push(c),
            c if c.is_control() => text.extend(c.escape_unicode()),
            c => text.push(c),
        }
    }
    text
}

/// Logs a text for people, with what programs want to know of it, which the journal gets as fields.
pub(crate) fn say(level: Level, facts: &Value, text: &str) {
    match level {
        Level::ERROR => tracing::error!(%facts, "{text}"),
        Level::WARN => tracing::warn!(%facts, "{text}"),
        Level::INFO => tracing::info!(%facts, "{text}"),
        Level::DEBUG => tracing::debug!(%facts, "{text}"),
        _ => tracing::trace!(%facts, "{text}"),
    }
}

/// The journal, if standard error is connected to it (`$JOURNAL_STREAM`, systemd.exec(5)).
fn journal() -> Option<Journal> {
    let stream = std::env::var("JOURNAL_STREAM").ok()?;
    let metadata = std::fs::metadata("/proc/self/fd/2").ok()?;
    if stream != format!("{}:{}", metadata.dev(), metadata.ino()) {
        return None;
    }
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(JOURNAL).ok()?;
    Some(Journal(socket))
}

/// The journal's socket: an entry is a datagram.
struct Journal(UnixDatagram);

impl Write for Journal {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        // An entry that isn't taken is lost, as a line is that finds no room.
        _ = self.0.send(entry);
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes an event an entry of the journal.
struct Entries {
    archive: Option<String>,
}

impl<S, N> FormatEvent<S, N> for Entries
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> tracing_subscriber::fmt::FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        // As sd-daemon(3) numbers them.
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let mut entry = String::new();
        field(&mut entry, "MESSAGE", &parts.message);
        field(&mut entry, "PRIORITY", &priority.to_string());
        field(&mut entry, "SYSLOG_IDENTIFIER", "seawall");
        if let Some(archive) = &self.archive {
            field(&mut entry, "SEAWALL_ARCHIVE", archive);
        }
        if let Ok(Value::Object(facts)) = serde_json::from_str(&parts.facts) {
            for (name, value) in &facts {
                let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
                field(&mut entry, &format!("SEAWALL_{}", name.to_uppercase()), &text);
            }
        }
        writer.write_str(&entry)
    }
}

/// A field on one line. The journal's form for values of several lines has a binary length, which a
/// text can't hold; no text here has several lines but a server's message.
fn field(entry: &mut String, name: &str, value: &str) {
    // Writing to a string doesn't fail.
    _ = writeln!(entry, "{name}={}", value.replace('\n', " "));
}

/// An event's message, and its facts as JSON.
#[derive(Default)]
struct Parts {
    message: String,
    facts: String,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let part = match field.name() {
            "message" => &mut self.message,
            "facts" => &mut self.facts,
            _ => return,
        };
        // Writing to a string doesn't fail.
        _ = write!(part, "{value:?}");
    }
}

/// Standard error, with the living line cleared before a line of the log.
struct AboveTheLine {
    stderr: NonBlocking,
    live: bool,
}

impl<'a> MakeWriter<'a> for AboveTheLine {
    type Writer = NonBlocking;

    fn make_writer(&'a self) -> NonBlocking {
        let mut stderr = self.stderr.clone();
        if self.live {
            _ = stderr.write_all(CLEAR_LINE.as_bytes());
        }
        stderr
    }
}
