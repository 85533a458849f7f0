//! What a running receiver shows: lines of a log, JSON events, and on a terminal one line that
//! lives.

use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use archive::{Event, Gap};
use pg_types::Lsn;
use replication::StartFrom;
use runtime::{Observer, Progress, Report};
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

use crate::board::Board;
use crate::cli::TalkArgs;
use crate::terminal;

/// Back to the line's start, and clear it.
const CLEAR_LINE: &str = "\r\x1b[K";

/// Lines that wait for a reader who doesn't read: a thread's end holds them, so that neither a
/// terminal that is stopped nor a pipe that is full or broken holds up WAL. Later ones are lost.
const WAITING_LINES: usize = 1024;

/// The log, and what else is shown; written to its end when this is dropped.
pub(crate) struct Log {
    stderr: NonBlocking,
    /// Whether a living line is to be shown below the log.
    live: bool,
    _worker: WorkerGuard,
}

fn beside<W: Write + Send + 'static>(to: W) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES).finish(to)
}

/// Starts the log.
pub(crate) fn start_log(talk: TalkArgs, json: bool) -> Log {
    let level = match talk.verbose {
        _ if talk.quiet => LevelFilter::WARN,
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let watched = terminal::is_watched();
    let live = watched && !talk.quiet && !json;
    let (stderr, worker) = beside(io::stderr());
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(watched)
        .with_writer(AboveTheLine { stderr: stderr.clone(), live })
        // It would be told to standard error, and panic where that is what can't be written.
        .log_internal_errors(false);
    // A second start, as in tests, leaves the first as it is.
    _ = log.try_init();
    Log { stderr, live, _worker: worker }
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

/// JSON events on standard output. A reader that went away doesn't end the receiving of WAL; one
/// that falls behind is told how many events it lost.
struct Events {
    stdout: NonBlocking,
    lost: usize,
    _worker: WorkerGuard,
}

impl Events {
    fn write(&mut self, value: &Value) {
        let lost = self.stdout.error_counter().dropped_lines();
        if lost > self.lost {
            let line = json!({"event": "lost", "events": lost - self.lost});
            _ = self.stdout.write_all(format!("{line}\n").as_bytes());
            self.lost = lost;
        }
        _ = self.stdout.write_all(format!("{value}\n").as_bytes());
    }
}

/// Shows what a receiver reports.
pub(crate) struct Talk {
    segment_names: archive::Layout,
    archive: String,
    /// How the server was reached.
    server: String,
    board: Board,
    events: Option<Events>,
    line: Option<NonBlocking>,
    /// When, and how far it was, a second ago or so.
    last: Option<(Instant, Lsn)>,
    rate_bytes: f64,
}

impl Talk {
    pub(crate) fn new(archive: &Path, server: String, board: Board, json: bool, log: &Log) -> Self {
        let segment_names = archive::Layout { segment_size: pg_types::SegmentSize::DEFAULT };
        let archive = archive.display().to_string();
        let events = json.then(|| beside(io::stdout()));
        let events = events.map(|(stdout, worker)| Events { stdout, lost: 0, _worker: worker });
        let line = log.live.then(|| log.stderr.clone());
        Self { segment_names, archive, server, board, events, line, last: None, rate_bytes: 0.0 }
    }

    /// The last word.
    pub(crate) fn ended(&mut self, how: &str) {
        tracing::info!("{how}");
        self.event(&json!({"event": "ended", "how": how}));
    }

    fn event(&mut self, value: &Value) {
        if let Some(events) = &mut self.events {
            events.write(value);
        }
    }

    fn archive_event(&mut self, event: &Event) {
        match event {
            Event::Sealed(timeline, number) => {
                let path = self.segment_names.segment(*timeline, *number);
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                let name = name.unwrap_or_default();
                tracing::debug!("sealed {name}");
                self.event(&json!({"event": "sealed", "segment": name}));
            }
            Event::Settled(entry) => {
                let path = self.segment_names.segment(entry.timeline, entry.number);
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                self.event(&json!({"event": "settled", "segment": name, "records": entry.records}));
            }
            Event::DiskFull(error) => {
                self.board.state("disk full");
                self.board.error(error.to_string());
                tracing::error!(
                    "{error}; receiving waits until there is room in {}, and the server keeps its \
                     WAL meanwhile",
                    self.archive
                );
                self.event(&json!({"event": "disk_full", "error": error.to_string()}));
            }
            Event::DiskHasRoom => {
                self.board.state("streaming");
                tracing::info!("there is room again; receiving goes on");
                self.event(&json!({"event": "disk_has_room"}));
            }
            Event::IndexLost(error) => {
                tracing::warn!("{error}; the index entry can be made again from the segment");
            }
            _ => {}
        }
    }
}

impl Observer for Talk {
    fn report(&mut self, report: &Report<'_>) {
        match report {
            Report::Connected(facts) => {
                self.segment_names.segment_size = facts.geometry.segment_size;
                let (version, system) = (facts.version, &facts.system);
                tracing::info!(
                    "connected to PostgreSQL {version}, system {}, timeline {}, segments of {}",
                    system.system_id,
                    system.timeline,
                    facts.geometry.segment_size
                );
                self.board.state("starting");
                self.board.upstream(json!({
                    "server": self.server,
                    "version": version.to_string(),
                    "timeline": system.timeline.as_u32(),
                }));
                self.event(&json!({
                    "event": "connected",
                    "version": version.to_string(),
                    "system_identifier": system.system_id.to_string(),
                    "timeline": system.timeline.as_u32(),
                    "segment_size": facts.geometry.segment_size.bytes(),
                }));
            }
            Report::SlotCreated(slot) => {
                tracing::info!("created the replication slot \"{}\"", slot.as_str());
                self.event(&json!({"event": "slot_created", "slot": slot.as_str()}));
            }
            Report::Streaming { timeline, start, proved, begins } => {
                if let Some(StartFrom::ServerEnd(lsn)) = begins {
                    tracing::warn!(
                        "the archive begins at the server's end, {lsn}: nothing proves that no \
                         WAL is missing before; a base backup taken from now on can be recovered"
                    );
                }
                self.board.state("streaming");
                tracing::info!(
                    "streaming timeline {timeline} from {start}; archived up to {proved}"
                );
                self.event(&json!({
                    "event": "streaming",
                    "timeline": timeline.as_u32(),
                    "start": start.to_string(),
                    "archived": proved.to_string(),
                }));
            }
            Report::Note(note) => tracing::warn!("{note}"),
            Report::Archive(event) => self.archive_event(event),
            Report::Notice(notice) => tracing::info!("the server says: {notice}"),
            Report::TimelineEnded { timeline, at, next } => {
                tracing::info!("timeline {timeline} ended at {at}; going on with timeline {next}");
                self.event(&json!({
                    "event": "timeline_ended",
                    "timeline": timeline.as_u32(),
                    "at": at.to_string(),
                    "next": next.as_u32(),
                }));
            }
            Report::Gap(gap) => {
                let Gap { timeline, from, to_timeline, to, reason, .. } = gap;
                tracing::error!(
                    "ALARM: WAL is missing from {from} on timeline {timeline} to {to} on timeline \
                     {to_timeline}, {}: {reason}. Nothing can be recovered from before it to \
                     behind it: take a base backup now. It is in `seawall gaps`",
                    size(to.saturating_since(*from) as f64)
                );
                self.event(&json!({
                    "event": "gap",
                    "timeline": timeline.as_u32(),
                    "from": from.to_string(),
                    "to_timeline": to_timeline.as_u32(),
                    "to": to.to_string(),
                    "reason": reason,
                }));
            }
            Report::LostBranch(lost) => {
                let (timeline, from, to) = (lost.timeline, lost.from, lost.to);
                tracing::error!(
                    "ALARM: timeline {timeline} was archived up to {to}, and the server's history \
                     left it at {from}: {} of acknowledged WAL aren't part of it. They stay in \
                     the archive, on timeline {timeline}; look there for commits that the \
                     promoted server hasn't got",
                    size(to.saturating_since(from) as f64)
                );
                self.event(&json!({
                    "event": "lost_branch",
                    "timeline": timeline.as_u32(),
                    "from": from.to_string(),
                    "to": to.to_string(),
                }));
            }
            Report::Withdrawn(withdrawn) => {
                tracing::warn!(
                    "{} is fetched again: the record that runs over its end doesn't hold",
                    withdrawn.segment.display()
                );
                let segment = withdrawn.segment.display().to_string();
                self.event(&json!({"event": "withdrawn", "segment": segment}));
            }
            Report::Disconnected { error, pause } => {
                self.board.state("connecting");
                self.board.error(error.to_string());
                tracing::warn!("{error}; connecting again in {:.1} s", pause.as_secs_f64());
                self.event(&json!({"event": "disconnected", "error": error.to_string()}));
            }
            Report::Stopping => {
                self.board.state("stopping");
                tracing::info!("stopping");
            }
            _ => {}
        }
    }

    fn progress(&mut self, progress: &Progress) {
        let (now, received) = (Instant::now(), progress.positions.received.0);
        let (since, from) = *self.last.get_or_insert((now, received));
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        if seconds >= 1.0 {
            self.rate_bytes = received.saturating_since(from) as f64 / seconds;
            self.last = Some((now, received));
        }
        self.board.progress(progress.positions, progress.upstream, self.rate_bytes);
        let Some(stderr) = &mut self.line else { return };
        let durable = progress.positions.durable.0;
        let lag = progress.upstream.saturating_since(durable);
        let line =
            format!("{CLEAR_LINE}{durable}  {}/s  lag {}", size(self.rate_bytes), size(lag as f64));
        _ = stderr.write_all(line.as_bytes());
    }
}

/// A number of bytes for a person: `512 B`, `16.0 MB`.
pub(crate) fn size(bytes: f64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let mut value = bytes;
    let mut unit = "B";
    for next in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let check = |bytes: f64, text: &str| assert_eq!(size(bytes), text);
        check(0.0, "0 B");
        check(1023.0, "1023 B");
        check(16_777_216.0, "16.0 MB");
        check(1.5e15, "1364.2 TB");
    }
}
