//! The answers to commands: columns, rows and tags as the upstream's version gives them.

use pg_types::{Lsn, TimelineId, WalFileName};
use pg_wire::message::SqlState;
use pg_wire::server::response::{Column, ColumnType, Refusal, Responses};
use pg_wire::stream::EndOfTimeline;

use super::{BackupStart, Host};

/// What came of a command.
#[derive(Clone, Debug)]
pub enum Answer {
    /// IDENTIFY_SYSTEM: the newest timeline, and up to where WAL can be had.
    System {
        /// The timeline.
        timeline: TimelineId,
        /// The position.
        at: Lsn,
    },
    /// TIMELINE_HISTORY: the file, `None` if there is none.
    History {
        /// Of which timeline.
        timeline: TimelineId,
        /// Its bytes.
        content: Option<Vec<u8>>,
    },
    /// CREATE_REPLICATION_SLOT: it is made.
    SlotCreated(String),
    /// READ_REPLICATION_SLOT.
    Slot(SlotAnswer),
    /// DROP_REPLICATION_SLOT: it is gone.
    SlotDropped,
    /// START_REPLICATION: the stream begins.
    Stream {
        /// From where.
        start: Lsn,
        /// On which timeline.
        timeline: TimelineId,
        /// Up to where it may be sent.
        limit: Lsn,
        /// Where the timeline ends, if it has.
        end: Option<EndOfTimeline>,
    },
    /// BASE_BACKUP: its parts follow, by [`Sender::backup_part`](super::Sender::backup_part).
    Backup(BackupStart),
    /// It can't be done.
    Refused(Refusal),
}

/// A slot as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotAnswer {
    /// There is none of this name.
    Missing,
    /// It keeps nothing yet.
    Unreserved,
    /// It keeps WAL from here on.
    Keeps(Lsn, TimelineId),
}

impl Answer {
    pub(super) fn write(self, host: &Host, database: Option<&str>, to: &mut Responses) {
        match self {
            Self::System { timeline, at } => {
                let since_16 = host.version.major() >= 16;
                let of = if since_16 { ColumnType::Int8 } else { ColumnType::Int4 };
                to.columns(&[
                    text("systemid"),
                    Column::new("timeline", of),
                    text("xlogpos"),
                    text("dbname"),
                ]);
                let values = [host.system_id.to_string(), timeline.to_string(), at.to_string()];
                let [id, timeline, at] = values.each_ref().map(|value| Some(value.as_bytes()));
                to.row(&[id, timeline, at, database.map(str::as_bytes)]);
                to.complete("IDENTIFY_SYSTEM");
            }
            Self::History { timeline, content } => {
                // Old servers write this description by hand.
                let modifier = if host.version.major() >= 16 { -1 } else { 0 };
                let column = |name| Column { modifier, ..text(name) };
                to.columns(&[column("filename"), column("content")]);
                let name = WalFileName::TimelineHistory(timeline);
                let name = name.display(host.geometry.segment_size).to_string();
                match content {
                    Some(content) => {
                        to.row(&[Some(name.as_bytes()), Some(&content)]);
                        to.complete("TIMELINE_HISTORY");
                    }
                    None => to.refusal(&Refusal::error(
                        SqlState::UNDEFINED_FILE,
                        format!("could not open file \"pg_wal/{name}\": No such file or directory"),
                    )),
                }
            }
            Self::SlotCreated(name) => {
                to.columns(&[
                    text("slot_name"),
                    text("consistent_point"),
                    text("snapshot_name"),
                    text("output_plugin"),
                ]);
                to.row(&[Some(name.as_bytes()), Some(b"0/0"), None, None]);
                to.complete("CREATE_REPLICATION_SLOT");
            }
            Self::Slot(slot) => read_slot(to, slot),
            Self::SlotDropped => to.complete("DROP_REPLICATION_SLOT"),
            Self::Refused(refusal) => to.refusal(&refusal),
            Self::Stream { .. } | Self::Backup(_) => {}
        }
        to.ready();
    }
}

fn read_slot(to: &mut Responses, slot: SlotAnswer) {
    to.columns(&[
        text("slot_type"),
        text("restart_lsn"),
        Column::new("restart_tli", ColumnType::Int8),
    ]);
    match slot {
        SlotAnswer::Missing => to.row(&[None; 3]),
        SlotAnswer::Unreserved => to.row(&[Some(b"physical"), None, None]),
        SlotAnswer::Keeps(at, timeline) => {
            let (at, timeline) = (at.to_string(), timeline.to_string());
            to.row(&[Some(b"physical"), Some(at.as_bytes()), Some(timeline.as_bytes())]);
        }
    }
    to.complete("READ_REPLICATION_SLOT");
}

/// SHOW
pub(super) fn setting(to: &mut Responses, name: &str, value: &str) {
    to.columns(&[text(name)]);
    to.row(&[Some(value.as_bytes())]);
    to.complete("SHOW");
    to.ready();
}

/// SHOW ALL
pub(super) fn settings(to: &mut Responses, settings: impl Iterator<Item = (&'static str, String)>) {
    to.columns(&["name", "setting", "description"].map(text));
    for (name, value) in settings {
        // What they are for isn't described here.
        to.row(&[Some(name.as_bytes()), Some(value.as_bytes()), None]);
    }
    to.complete("SHOW");
    to.ready();
}

/// What follows a stream; at a timeline's end, where to go on.
pub(super) fn streamed(to: &mut Responses, end: Option<EndOfTimeline>) {
    if let Some(end) = end {
        to.columns(&[Column::new("next_tli", ColumnType::Int8), text("next_tli_startpos")]);
        let (timeline, at) = (end.next_timeline.to_string(), end.switch_point.to_string());
        to.row(&[Some(timeline.as_bytes()), Some(at.as_bytes())]);
    }
    to.complete("START_STREAMING");
    to.complete("START_REPLICATION");
    to.ready();
}

fn text(name: &str) -> Column<'_> {
    Column::new(name, ColumnType::Text)
}
