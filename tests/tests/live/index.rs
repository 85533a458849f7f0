//! The index that a receiver writes beside its segments, against the segments decoded.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use archive::{ENTRY_LEN, IndexEntry, Layout};
use pg_types::{Geometry, Lsn, SegmentNumber, TimelineId};
use wal_format::{Expect, Notable, Record, TimestampTz, Validator, Visitor};

use super::common::{
    LIMIT, Must, Receiver, ReceiverOptions, Segments, lsn, on_each_major, scratch, server,
};

on_each_major!(the_index_says_what_is_in_each_settled_segment, super::check);

/// How often to look whether the last entry has been written: nobody waits for it but a test.
const LOOK: Duration = Duration::from_millis(20);

fn check(major: u32) {
    let (primary, scratch) = (server(major, 1, &[]), scratch());
    let archive = scratch.path().join("archive");
    let mut receiver = Receiver::start(&primary, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&primary);
    primary.init_pgbench(1).must();
    primary.sql("SELECT pg_create_restore_point('before the switch')").must();
    primary.sql("CHECKPOINT").must();
    primary.sql("BEGIN; SELECT pg_current_xact_id(); ROLLBACK").must();
    primary.sql("BEGIN; CREATE TABLE gone (a int); ROLLBACK").must();
    lsn(&primary, "SELECT pg_switch_wal()");
    let end = lsn(&primary, "SELECT pg_logical_emit_message(true, 'after', 'the switch')");
    receiver.await_flush(&primary, end);
    let expected = decode(&receiver.wal_dir());
    assert!(expected.len() > 10, "{} segments are no test", expected.len());
    let size = Segments::of(&receiver.wal_dir()).size;
    for (number, expected) in &expected {
        let (path, place) = Layout { segment_size: size }.index(TimelineId::FIRST, *number);
        let entry = read(&archive.join(path), place);
        assert_eq!(Summary::from(&entry), *expected, "segment {number:?}");
    }
    let seen = |what: fn(&Summary) -> u32| expected.values().map(what).sum::<u32>();
    assert!(seen(|summary| summary.checkpoints) > 0 && seen(|summary| summary.ends) > 0);
    assert_eq!(seen(|summary| summary.restore_points), 1);
    receiver.stop();
}

/// The entry, once it has been written.
fn read(path: &Path, place: u64) -> IndexEntry {
    let began = Instant::now();
    let at = usize::try_from(place).must() * ENTRY_LEN;
    loop {
        let bytes = fs::read(path).unwrap_or_default();
        let entry = bytes.get(at..).and_then(<[u8]>::first_chunk).and_then(IndexEntry::from_bytes);
        if let Some(entry) = entry {
            return entry;
        }
        assert!(began.elapsed() < LIMIT, "no entry at place {place} of {}", path.display());
        std::thread::sleep(LOOK);
    }
}

/// What a segment's records come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Summary {
    first: Option<Lsn>,
    last: Option<Lsn>,
    records: u32,
    ends: u32,
    times: Option<(TimestampTz, TimestampTz)>,
    checkpoints: u32,
    checkpoint: Option<(Lsn, Lsn)>,
    restore_points: u32,
    restore_point: Option<Lsn>,
}

impl From<&IndexEntry> for Summary {
    fn from(entry: &IndexEntry) -> Self {
        let valid = |lsn: Lsn| lsn.is_valid().then_some(lsn);
        Self {
            first: valid(entry.first),
            last: valid(entry.last),
            records: entry.records,
            ends: entry.ends,
            times: entry.times,
            checkpoints: entry.checkpoints,
            checkpoint: valid(entry.checkpoint).map(|lsn| (lsn, entry.redo)),
            restore_points: entry.restore_points,
            restore_point: valid(entry.restore_point),
        }
    }
}

/// Every settled segment's summary.
fn decode(wal_dir: &Path) -> BTreeMap<SegmentNumber, Summary> {
    let segments = Segments::of(wal_dir);
    let geometry = Geometry::new(segments.size);
    let expect = Expect { geometry, timeline: TimelineId::FIRST, system_id: None };
    let mut validator = Validator::new(expect, segments.start());
    let mut summaries = Summaries { geometry, of: BTreeMap::new() };
    for segment in &segments.segments {
        if validator.feed(&fs::read(&segment.path).must(), &mut summaries).is_err() {
            break;
        }
    }
    let open = validator.proved().0.segment(segments.size);
    summaries.of.retain(|number, _| *number < open);
    summaries.of
}

struct Summaries {
    geometry: Geometry,
    of: BTreeMap<SegmentNumber, Summary>,
}

impl Summaries {
    fn of(&mut self, record: &Record) -> &mut Summary {
        self.of.entry(record.lsn.segment(self.geometry.segment_size)).or_default()
    }
}

impl Visitor for Summaries {
    fn record(&mut self, record: &Record) {
        let summary = self.of(record);
        summary.first.get_or_insert(record.lsn);
        summary.last = Some(record.lsn);
        summary.records += 1;
    }

    fn notable(&mut self, record: &Record, notable: &Notable) {
        let summary = self.of(record);
        match *notable {
            Notable::Commit { time, .. } | Notable::Abort { time, .. } => {
                summary.ends += 1;
                let (least, greatest) = summary.times.unwrap_or((time, time));
                summary.times = Some((least.min(time), greatest.max(time)));
            }
            Notable::Checkpoint { redo, .. } => {
                summary.checkpoints += 1;
                summary.checkpoint = Some((record.lsn, redo));
            }
            Notable::RestorePoint { .. } => {
                summary.restore_points += 1;
                summary.restore_point.get_or_insert(record.lsn);
            }
            _ => {}
        }
    }
}
