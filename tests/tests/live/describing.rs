//! wal-describe beside the real pg_waldump: every record of a corpus that a real server made, with
//! its manager, its record type and its description, byte for byte.

use std::collections::BTreeMap;
use std::fs;

use pg_types::{Geometry, Lsn, SegmentSize, TimelineId};
use testkit::corpus::{self, Corpus, CorpusOptions};
use wal_describe::{Payload, Source, Zone, describe, identify, rmgr_name};
use wal_format::{Expect, Record, RecordBody, Validator, Visitor, WalVersion};

use crate::common::{Must, line_blocks, line_head, on_each_major, pg, waldump};

on_each_major!(descriptions_are_pg_waldumps, super::plain);

fn plain(major: u32) {
    check(major, &CorpusOptions { segment_size_mb: 1, conf: Vec::new() });
}

fn check(major: u32, options: &CorpusOptions) {
    let corpus = corpus::make(&pg(major), options).must();
    compare(major, &corpus, &waldump(&pg(major), &corpus));
}

/// Holds ours against the real program's lines, and counts the records of each type.
pub(crate) fn compare(major: u32, corpus: &Corpus, theirs: &str) -> BTreeMap<String, usize> {
    let version = WalVersion::from_major(major).unwrap_or_else(|| panic!("no version {major}"));
    let mut lines = Lines {
        version,
        zone: Zone::utc(),
        body: Vec::new(),
        theirs: theirs.lines(),
        types: BTreeMap::new(),
    };
    let size = SegmentSize::new(u64::from(corpus.segment_size_mb) << 20).must();
    let geometry = Geometry::new(size);
    let expect = Expect { geometry, timeline: TimelineId::FIRST, system_id: None };
    let start: Lsn = corpus.start_lsn.parse().must();
    let mut validator = Validator::new(expect, start);
    for path in corpus.segments().must() {
        if validator.feed(&fs::read(path).must(), &mut lines).is_err() {
            break;
        }
    }
    assert_eq!(lines.theirs.next(), None, "pg_waldump goes on");
    lines.types
}

struct Lines<'a> {
    version: WalVersion,
    zone: Zone,
    body: Vec<u8>,
    theirs: std::str::Lines<'a>,
    types: BTreeMap<String, usize>,
}

impl Visitor for Lines<'_> {
    fn body(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }

    fn record(&mut self, record: &Record) {
        let body = RecordBody::read(&self.body, self.version);
        let body = body.unwrap_or_else(|error| panic!("{}: {error}", record.lsn));
        let header = &record.header;
        let source = Source { version: self.version, lsn: record.lsn, header, body: &body };
        let name = identify(self.version, header.rmgr, header.info);
        let name = name.unwrap_or_else(|| panic!("{}: no name for {header:?}", record.lsn));
        let mut line = format!("{}{name} ", line_head(record, &body)).into_bytes();
        describe(&source, &self.zone, &mut line);
        line.extend_from_slice(line_blocks(&body).as_bytes());
        let line = String::from_utf8_lossy(&line);
        assert_eq!(Some(&*line), self.theirs.next(), "{:?}", Payload::of(&source));
        *self.types.entry(format!("{}/{name}", rmgr_name(header.rmgr))).or_default() += 1;
        self.body.clear();
    }

    fn dropped(&mut self, _lsn: Lsn) {
        self.body.clear();
    }
}
