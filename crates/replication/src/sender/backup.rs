//! A base backup as it goes out, in both of the protocol's forms: what is told of it as messages
//! of the upstream's version (`backup/basebackup_copy.c`, 15–18; `replication/basebackup.c`, 14).
//!
//! The other end of [`Transfer`](crate::base_backup): up to 14 there is a CopyOut for each archive,
//! in the order of the rows, and one more for the manifest; from 15 there is one, in which each
//! CopyData says what it is. The bytes come in pieces of the caller's, each of which is a CopyData:
//! clients up to 14 want one that neither begins nor ends within a file of the tar file.

use std::time::{Duration, Instant};

use pg_types::ServerVersion;
use pg_wire::base_backup::{BackupArchive, BackupPoint, is_one_copy, kind};
use pg_wire::server::response::{Column, ColumnType, Responses};

/// How often a client is told how far it is (`PROGRESS_REPORT_MILLISECOND_THRESHOLD`).
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// What may be sent at once of the bytes of a second, as in `basebackup_throttle.c`.
const BURSTS_PER_SECOND: u32 = 8;
/// The first major version whose rows are described as those of a query.
const PLAIN_COLUMNS_SINCE_MAJOR: u32 = 16;

/// A base backup that can be sent.
#[derive(Clone, Debug)]
pub struct BackupStart {
    /// Where it begins.
    pub start: BackupPoint,
    /// What it consists of, the data directory last.
    pub archives: Vec<BackupArchive>,
    /// Whether their sizes are told.
    pub progress: bool,
    /// What is behind `.tar` in their names, where they are compressed.
    pub suffix: &'static str,
    /// The most that is sent, in kilobytes per second.
    pub max_rate_kb: Option<u32>,
    /// Whether the client gets the bytes, or is only told how far it is.
    pub to_client: bool,
}

/// What comes next of a base backup. What begins has ended when the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupPart<'a> {
    /// The archive with this place among them.
    Archive(usize),
    /// Bytes of what has begun.
    Data {
        /// The bytes.
        bytes: &'a [u8],
        /// With them so many bytes of archives were sent, before compression.
        done: u64,
    },
    /// The manifest.
    Manifest,
    /// Nothing: this is the end of the WAL that it needs.
    End(BackupPoint),
}

/// A base backup that is being sent.
#[derive(Debug)]
pub(super) struct Sending {
    version: ServerVersion,
    archives: Vec<BackupArchive>,
    suffix: &'static str,
    to_client: bool,
    open: Open,
    done: u64,
    reported: Instant,
    pace: Option<Pace>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Nothing,
    Archive,
    Manifest,
}

impl Sending {
    /// Begins: where it starts, and what it consists of.
    pub(super) fn new(
        backup: BackupStart,
        version: ServerVersion,
        now: Instant,
        to: &mut Responses,
    ) -> Self {
        let BackupStart { start, archives, progress, suffix, max_rate_kb, to_client } = backup;
        point(to, version, start);
        to.columns(&[
            column("spcoid", ColumnType::Oid, version),
            column("spclocation", ColumnType::Text, version),
            column("size", ColumnType::Int8, version),
        ]);
        for archive in &archives {
            let oid = archive.oid.map(|oid| oid.to_string());
            let size = progress.then(|| (archive.bytes / 1024).to_string());
            let values = [oid, archive.location.clone(), size];
            to.row(&values.each_ref().map(|value| value.as_ref().map(String::as_bytes)));
        }
        to.complete("SELECT");
        if is_one_copy(version) {
            to.copy_out();
        }
        let pace = max_rate_kb.map(|rate| Pace::new(rate, now));
        let (open, done) = (Open::Nothing, 0);
        Self { version, archives, suffix, to_client, open, done, reported: now, pace }
    }

    /// Sends what comes next; whether that was all.
    pub(super) fn part(&mut self, part: BackupPart<'_>, now: Instant, to: &mut Responses) -> bool {
        match part {
            BackupPart::Data { bytes, done } => {
                self.done = done;
                self.data(bytes, now, to);
                return false;
            }
            BackupPart::Archive(place) => {
                self.end(now, to);
                self.open = Open::Archive;
                if is_one_copy(self.version) {
                    to.copy_data_of(kind::NEW_ARCHIVE, &self.name(place));
                } else {
                    to.copy_out();
                }
            }
            BackupPart::Manifest => {
                self.end(now, to);
                self.open = Open::Manifest;
                if is_one_copy(self.version) {
                    to.copy_data(&[kind::MANIFEST]);
                } else {
                    to.copy_out();
                }
            }
            BackupPart::End(stop) => {
                self.end(now, to);
                if is_one_copy(self.version) {
                    to.copy_done();
                }
                point(to, self.version, stop);
                to.complete("BASE_BACKUP");
                to.ready();
                return true;
            }
        }
        false
    }

    /// Before when nothing more may be sent.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.pace.as_ref().map(|pace| pace.next)
    }

    fn data(&mut self, bytes: &[u8], now: Instant, to: &mut Responses) {
        if !bytes.is_empty() {
            match (self.to_client, is_one_copy(self.version)) {
                (true, true) => to.copy_data_of(kind::DATA, bytes),
                (true, false) => to.copy_data(bytes),
                (false, _) => {}
            }
            if let Some(pace) = &mut self.pace {
                pace.sent(bytes.len(), now);
            }
        }
        let long_ago = now.saturating_duration_since(self.reported) >= PROGRESS_INTERVAL;
        if self.open == Open::Archive && long_ago {
            self.report(now, to);
        }
    }

    fn end(&mut self, now: Instant, to: &mut Responses) {
        let open = std::mem::replace(&mut self.open, Open::Nothing);
        if open == Open::Archive {
            self.report(now, to);
        }
        if open != Open::Nothing && !is_one_copy(self.version) {
            to.copy_done();
        }
    }

    fn report(&mut self, now: Instant, to: &mut Responses) {
        self.reported = now;
        if is_one_copy(self.version) {
            to.copy_data_of(kind::PROGRESS, &self.done.to_be_bytes());
        }
    }

    /// The names of an archive: its file's, and its place on the server.
    fn name(&self, place: usize) -> Vec<u8> {
        let archive = self.archives.get(place);
        let oid = archive.and_then(|archive| archive.oid);
        let stem = oid.map_or_else(|| "base".to_owned(), |oid| oid.to_string());
        let location = archive.and_then(|archive| archive.location.as_deref()).unwrap_or_default();
        format!("{stem}.tar{}\0{location}\0", self.suffix).into_bytes()
    }
}

/// The first and the last row.
fn point(to: &mut Responses, version: ServerVersion, point: BackupPoint) {
    let timeline = column("tli", ColumnType::Int8, version);
    // Old servers say so of an int8.
    let len = if timeline.modifier == 0 { -1 } else { timeline.len };
    to.columns(&[column("recptr", ColumnType::Text, version), Column { len, ..timeline }]);
    let (lsn, timeline) = (point.lsn.to_string(), point.timeline.to_string());
    to.row(&[Some(lsn.as_bytes()), Some(timeline.as_bytes())]);
    to.complete("SELECT");
}

/// A column as this version describes it.
fn column(name: &str, of: ColumnType, version: ServerVersion) -> Column<'_> {
    let modifier = if version.major() >= PLAIN_COLUMNS_SINCE_MAJOR { -1 } else { 0 };
    Column { modifier, ..Column::new(name, of) }
}

/// Keeps to a rate: what wasn't sent for an eighth of a second isn't made up for.
#[derive(Debug)]
struct Pace {
    bytes_per_second: u64,
    next: Instant,
}

impl Pace {
    fn new(rate_kb: u32, now: Instant) -> Self {
        Self { bytes_per_second: u64::from(rate_kb).max(1) * 1024, next: now }
    }

    fn sent(&mut self, bytes: usize, now: Instant) {
        let burst = Duration::from_secs(1) / BURSTS_PER_SECOND;
        let earliest = now.checked_sub(burst).unwrap_or(now);
        let nanoseconds = (bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second;
        self.next = self.next.max(earliest) + Duration::from_nanos(nanoseconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_to_and_a_pause_is_not_made_up_for() {
        let start = Instant::now();
        let (ms, mut pace) = (Duration::from_millis(1), Pace::new(32, start));
        for n in 1..=10 {
            pace.sent(32 << 10, pace.next);
            assert_eq!(pace.next, start + ms * 1000 * n);
        }
        let late = pace.next + ms * 5000;
        pace.sent(32 << 10, late);
        assert_eq!(pace.next, late + ms * 875);
    }
}
