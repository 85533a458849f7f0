//! wal-format beside the real pg_waldump: every record of a corpus that a real server made, with
//! its LSN, length, prev link, manager and transaction, and each of its block references.

use std::collections::HashMap;
use std::fs;
use std::mem::{Discriminant, discriminant};

use pg_types::{Geometry, Lsn, SegmentSize, TimelineId};
use testkit::corpus::{self, Corpus, CorpusOptions};
use wal_format::{
    Expect, Notable, Record, RecordBody, TimestampTz, Validator, Visitor, WalVersion,
};

use crate::common::{Must, line_blocks, line_head, on_each_major, pg, waldump};

on_each_major!(records_are_pg_waldumps_in_segments_of_1_mb, super::small_segments);
on_each_major!(records_are_pg_waldumps_in_segments_of_16_mb, super::usual_segments);

fn small_segments(major: u32) {
    check(major, &CorpusOptions { segment_size_mb: 1, conf: Vec::new() });
}

/// With page images compressed by what the version has beside pglz, if anything.
fn usual_segments(major: u32) {
    let method = if major >= 15 { "lz4" } else { "on" };
    let conf = vec![format!("wal_compression = {method}")];
    check(major, &CorpusOptions { segment_size_mb: 16, conf });
}

fn check(major: u32, options: &CorpusOptions) {
    let corpus = corpus::make(&pg(major), options).must();
    let ours = decode(&corpus, major);
    let theirs = waldump(&pg(major), &corpus);
    let mut lines = theirs.lines();
    for line in &ours {
        let theirs = lines.next();
        assert!(
            theirs.is_some_and(|theirs| line.is(theirs)),
            "wal-format: {line:?}\npg_waldump: {theirs:?}"
        );
    }
    assert_eq!(lines.next(), None, "pg_waldump goes on after {} records", ours.len());
    assert!(ours.len() > 50_000, "{} records are no corpus", ours.len());
}

/// A record as pg_waldump prints it, without what its manager says of it in the middle, but for
/// what an index wants to know.
#[derive(Debug)]
struct Line {
    head: String,
    notable: Vec<String>,
    blocks: String,
}

impl Line {
    fn is(&self, theirs: &str) -> bool {
        let blocks = theirs.find(", blkref #").map_or("", |at| &theirs[at..]);
        let told = self.notable.iter().all(|text| theirs.contains(text));
        theirs.starts_with(&self.head) && told && blocks == self.blocks
    }
}

struct Lines {
    version: WalVersion,
    body: Vec<u8>,
    lines: Vec<Line>,
    /// How many of each kind were notable.
    notable: HashMap<Discriminant<Notable>, usize>,
}

impl Visitor for Lines {
    fn body(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }

    fn record(&mut self, record: &Record) {
        let body = RecordBody::read(&self.body, self.version);
        let body = body.unwrap_or_else(|error| panic!("{}: {error}", record.lsn));
        let (head, blocks) = (line_head(record, &body), line_blocks(&body));
        self.lines.push(Line { head, notable: Vec::new(), blocks });
        self.body.clear();
    }

    fn notable(&mut self, record: &Record, notable: &Notable) {
        let Some(line) = self.lines.last_mut() else { return };
        *self.notable.entry(discriminant(notable)).or_default() += 1;
        line.notable = match notable {
            Notable::Commit { time, xid } => ended(" COMMIT", record, *time, *xid),
            Notable::Abort { time, xid } => ended(" ABORT", record, *time, *xid),
            Notable::Checkpoint { redo, shutdown } => {
                let kind = if *shutdown { "; shutdown" } else { "; online" };
                vec![format!(" redo {redo}; "), kind.to_owned()]
            }
            Notable::RestorePoint { name, .. } => {
                vec![format!("RESTORE_POINT {}", String::from_utf8_lossy(name.as_bytes()))]
            }
            Notable::OverwriteContrecord { overwritten } => vec![format!("lsn {overwritten}")],
            other => panic!("{other:?} has no text here"),
        };
    }

    fn dropped(&mut self, _lsn: Lsn) {
        self.body.clear();
    }
}

/// How a transaction ended: of a prepared one, pg_waldump prints the xid before the time.
fn ended(how: &str, record: &Record, time: TimestampTz, xid: Option<u32>) -> Vec<String> {
    let time = timestamp(time);
    let prepared = record.header.xid == 0;
    match xid {
        Some(xid) if prepared => vec![format!("{how}_PREPARED "), format!(" {xid}: {time}")],
        _ => vec![how.to_owned(), time],
    }
}

/// A time as pg_waldump prints it in UTC (`timestamptz_to_str` of compat.c).
fn timestamp(time: TimestampTz) -> String {
    const DAY: i64 = 86_400_000_000;
    let (days, micros) = (time.0.div_euclid(DAY), time.0.rem_euclid(DAY));
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06} UTC")
}

/// The date so many days after 2000-01-01, by counting.
fn date(mut days: i64) -> (i64, usize, i64) {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 2000;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        (days, year) = (days - length, year + 1);
    }
    let mut lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    lengths[1] += i64::from(leap(year));
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month + 1, days + 1)
}

/// Decodes the corpus up to its end, which lies in the last segment.
fn decode(corpus: &Corpus, major: u32) -> Vec<Line> {
    let size = SegmentSize::new(u64::from(corpus.segment_size_mb) << 20).must();
    let geometry = Geometry::new(size);
    let expect = Expect { geometry, timeline: TimelineId::FIRST, system_id: None };
    let start: Lsn = corpus.start_lsn.parse().must();
    let mut validator = Validator::new(expect, start);
    let version = WalVersion::from_major(major).unwrap_or_else(|| panic!("no version {major}"));
    let (body, notable) = (Vec::new(), HashMap::new());
    let mut lines = Lines { version, body, lines: Vec::new(), notable };
    let segments = corpus.segments().must();
    for (index, path) in segments.iter().enumerate() {
        let bytes = fs::read(path).must();
        if let Err(error) = validator.feed(&bytes, &mut lines) {
            assert_eq!(index + 1, segments.len(), "{}: {error}", path.display());
        }
    }
    let end: Lsn = corpus.end_lsn.parse().must();
    assert!(validator.proved().0 >= end, "proved up to {:?} of {end}", validator.proved());
    assert_eq!(validator.version(), Some(version));
    // Commits, aborts, checkpoints, a restore point; no crash breaks a record off here.
    assert_eq!(lines.notable.len(), 4, "{:?}", lines.notable);
    lines.lines
}
