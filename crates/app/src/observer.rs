//! What a running receiver shows: lines of a log, JSON events, and on a terminal one line that
//! lives.

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::Instant;

use archive::{Event, Gap};
use pg_types::Lsn;
use replication::StartFrom;
use runtime::{Observer, Progress, Report};
use serde_json::{Value, json};
use tracing::Level;
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};

use crate::board::{Board, Slot};
use crate::compress::Sealed;
use crate::log::{self, CLEAR_LINE, Log, beside};
use crate::service;

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
    /// Who compresses what is sealed.
    compressing: Option<Sender<Sealed>>,
}

impl Talk {
    /// Tells this one of each segment that is sealed.
    pub(crate) fn compressing(self, sealed: Sender<Sealed>) -> Self {
        Self { compressing: Some(sealed), ..self }
    }

    pub(crate) fn new(archive: &Path, server: String, board: Board, json: bool, log: &Log) -> Self {
        let segment_names = archive::Layout { segment_size: pg_types::SegmentSize::DEFAULT };
        let archive = archive.display().to_string();
        let events = json.then(|| beside(io::stdout()));
        let events = events.map(|(stdout, worker)| Events { stdout, lost: 0, _worker: worker });
        let line = log.line();
        let (last, rate_bytes, compressing) = (None, 0.0, None);
        Self { segment_names, archive, server, board, events, line, last, rate_bytes, compressing }
    }

    /// The last word.
    pub(crate) fn ended(&mut self, how: &str) {
        self.tell(Level::INFO, &json!({"event": "ended", "how": how}), how);
    }

    /// What happened, for programs and for people.
    fn tell(&mut self, level: Level, facts: &Value, text: &str) {
        log::say(level, facts, text);
        if level <= Level::WARN {
            self.board.event(level.as_str(), text);
        }
        if let Some(events) = &mut self.events {
            events.write(facts);
        }
    }

    fn state(&self, state: &'static str) {
        if self.board.state(state) {
            service::status(state);
        }
    }

    fn segment_name(
        &self,
        timeline: pg_types::TimelineId,
        number: pg_types::SegmentNumber,
    ) -> String {
        let path = self.segment_names.segment(timeline, number);
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn archive_event(&mut self, event: &Event) {
        match event {
            Event::Sealed(timeline, number) => {
                if let Some(compressing) = &self.compressing {
                    // If it has ended, it has said so.
                    _ = compressing.send((*timeline, *number));
                }
                let name = self.segment_name(*timeline, *number);
                let text = format!("sealed {name}");
                self.tell(Level::DEBUG, &json!({"event": "sealed", "segment": name}), &text);
            }
            Event::Settled(entry) => {
                let name = self.segment_name(entry.timeline, entry.number);
                let text = format!("settled {name}, {} records", entry.records);
                let facts = json!({"event": "settled", "segment": name, "records": entry.records});
                self.tell(Level::TRACE, &facts, &text);
            }
            Event::DiskFull(error) => {
                self.state("disk full");
                self.board.error(error.to_string());
                let text = format!(
                    "{error}; receiving waits until there is room in {}, and the server keeps its \
                     WAL meanwhile",
                    self.archive
                );
                let facts = json!({"event": "disk_full", "error": error.to_string()});
                self.tell(Level::ERROR, &facts, &text);
            }
            Event::DiskHasRoom => {
                self.state("streaming");
                let text = "there is room again; receiving goes on";
                self.tell(Level::INFO, &json!({"event": "disk_has_room"}), text);
            }
            Event::IndexLost(error) => {
                let text = format!("{error}; the index entry can be made again from the segment");
                let facts = json!({"event": "index_lost", "error": error.to_string()});
                self.tell(Level::WARN, &facts, &text);
            }
            _ => {}
        }
    }

    fn connected(&mut self, facts: &runtime::Facts) {
        self.segment_names.segment_size = facts.geometry.segment_size;
        let (version, system) = (facts.version, &facts.system);
        self.state("starting");
        self.board.upstream(json!({
            "server": self.server,
            "version": version.to_string(),
            "timeline": system.timeline.as_u32(),
        }));
        let text = format!(
            "connected to PostgreSQL {version}, system {}, timeline {}, segments of {}",
            system.system_id, system.timeline, facts.geometry.segment_size
        );
        let facts = json!({
            "event": "connected",
            "version": version.to_string(),
            "system_identifier": system.system_id.to_string(),
            "timeline": system.timeline.as_u32(),
            "segment_size": facts.geometry.segment_size.bytes(),
        });
        self.tell(Level::INFO, &facts, &text);
    }

    fn gap(&mut self, gap: &Gap) {
        let Gap { timeline, from, to_timeline, to, reason, .. } = gap;
        let text = format!(
            "ALARM: WAL is missing from {from} on timeline {timeline} to {to} on timeline \
             {to_timeline}, {}: {reason}. Nothing can be recovered from before it to behind it: \
             take a base backup now. It is in `seawall gaps`",
            size(to.saturating_since(*from) as f64)
        );
        let facts = json!({
            "event": "gap",
            "timeline": timeline.as_u32(),
            "from": from.to_string(),
            "to_timeline": to_timeline.as_u32(),
            "to": to.to_string(),
            "reason": reason,
        });
        self.tell(Level::ERROR, &facts, &text);
    }

    fn lost_branch(&mut self, lost: &archive::LostBranch) {
        let (timeline, from, to) = (lost.timeline, lost.from, lost.to);
        let text = format!(
            "ALARM: timeline {timeline} was archived up to {to}, and the server's history left it \
             at {from}: {} of acknowledged WAL aren't part of it. They stay in the archive, on \
             timeline {timeline}; look there for commits that the promoted server hasn't got",
            size(to.saturating_since(from) as f64)
        );
        let facts = json!({
            "event": "lost_branch",
            "timeline": timeline.as_u32(),
            "from": from.to_string(),
            "to": to.to_string(),
        });
        self.tell(Level::ERROR, &facts, &text);
    }

    fn slot_let_go(&mut self, slot: &str, retained: u64, limit: u64) {
        self.board.slot(Slot::LetGo);
        let text = format!(
            "ALARM: the replication slot \"{slot}\" kept {} on the server, more than \
             --max-slot-retention allows, and was dropped: the server may remove WAL that this \
             archive hasn't got. Receiving goes on without it, and the slot is made anew when it \
             has caught up; what is missing then is in `seawall gaps`",
            size(retained as f64)
        );
        let facts = json!({
            "event": "slot_let_go",
            "slot": slot,
            "retained_bytes": retained,
            "limit_bytes": limit,
        });
        self.tell(Level::ERROR, &facts, &text);
    }
}

impl Observer for Talk {
    fn report(&mut self, report: &Report<'_>) {
        match report {
            Report::Connected(facts) => self.connected(facts),
            Report::SlotCreated(slot) => {
                self.board.slot(Slot::Held);
                let text = format!("created the replication slot \"{}\"", slot.as_str());
                let facts = json!({"event": "slot_created", "slot": slot.as_str()});
                self.tell(Level::INFO, &facts, &text);
            }
            Report::SlotLetGo { slot, retained, limit } => {
                self.slot_let_go(slot.as_str(), *retained, *limit);
            }
            Report::Streaming { timeline, start, proved, begins } => {
                if let Some(StartFrom::ServerEnd(lsn)) = begins {
                    let text = format!(
                        "the archive begins at the server's end, {lsn}: nothing proves that no \
                         WAL is missing before; a base backup taken from now on can be recovered"
                    );
                    let facts = json!({"event": "begins_at_server_end", "lsn": lsn.to_string()});
                    self.tell(Level::WARN, &facts, &text);
                }
                self.state("streaming");
                let text =
                    format!("streaming timeline {timeline} from {start}; archived up to {proved}");
                let facts = json!({
                    "event": "streaming",
                    "timeline": timeline.as_u32(),
                    "start": start.to_string(),
                    "archived": proved.to_string(),
                });
                self.tell(Level::INFO, &facts, &text);
            }
            Report::Finding(finding) => {
                let facts = json!({"event": "finding", "check": finding.check});
                self.tell(Level::WARN, &facts, &finding.to_string());
            }
            Report::Note(note) => {
                self.tell(Level::WARN, &json!({"event": "note", "note": note}), note);
            }
            Report::Archive(event) => self.archive_event(event),
            Report::Notice(notice) => {
                let facts = json!({"event": "notice", "notice": notice.to_string()});
                self.tell(Level::INFO, &facts, &format!("the server says: {notice}"));
            }
            Report::TimelineEnded { timeline, at, next } => {
                let text =
                    format!("timeline {timeline} ended at {at}; going on with timeline {next}");
                let facts = json!({
                    "event": "timeline_ended",
                    "timeline": timeline.as_u32(),
                    "at": at.to_string(),
                    "next": next.as_u32(),
                });
                self.tell(Level::INFO, &facts, &text);
            }
            Report::Gap(gap) => self.gap(gap),
            Report::LostBranch(lost) => self.lost_branch(lost),
            Report::Withdrawn(withdrawn) => {
                let segment = withdrawn.segment.display().to_string();
                let text = format!(
                    "{segment} is fetched again: the record that runs over its end doesn't hold"
                );
                self.tell(Level::WARN, &json!({"event": "withdrawn", "segment": segment}), &text);
            }
            Report::Disconnected { error, pause } => {
                self.state("connecting");
                self.board.error(error.to_string());
                let text = format!("{error}; connecting again in {:.1} s", pause.as_secs_f64());
                let facts = json!({"event": "disconnected", "error": error.to_string()});
                self.tell(Level::WARN, &facts, &text);
            }
            Report::Stopping => {
                self.state("stopping");
                service::stopping();
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
        self.board.progress(*progress, self.rate_bytes);
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
