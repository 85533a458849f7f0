//! wal-describe beside the real pg_waldump: every record of corpora that real servers made, with
//! its manager, its record type and its description, byte for byte; and docs/WAL-RECORDS.md, which
//! says which record types that reaches.

use std::collections::BTreeSet;
use std::fs;

use pg_types::{Geometry, Lsn, SegmentSize, TimelineId};
use testkit::corpus::{self, Corpus, CorpusOptions};
use testkit::servers::full;
use wal_describe::{Payload, Source, Zone, describe, identify, rmgr_name};
use wal_format::{Expect, Record, RecordBody, Validator, Visitor, WalVersion};

use crate::common::{Must, line_blocks, line_head, on_each_major, pg, waldump, waldump_in};

const DOCS: &str = include_str!("../../../docs/WAL-RECORDS.md");

const MINIMAL: [&str; 2] = ["wal_level = minimal", "max_wal_senders = 0"];

fn options(conf: &[&str]) -> CorpusOptions {
    let conf = conf.iter().map(ToString::to_string).collect();
    CorpusOptions { segment_size_mb: 1, conf }
}

on_each_major!(descriptions_are_pg_waldumps, super::every_record_type);

/// All the record types that the docs list are met, and no others but those that they list as not
/// compared.
fn every_record_type(major: u32) {
    let install = pg(major);
    let corpora = [
        corpus::make(&install, &options(&[])).must(),
        corpus::make_rare(&install, &options(&[])).must(),
        corpus::make_rare(&install, &options(&MINIMAL)).must(),
        corpus::make_promoted(&install, &options(&[])).must(),
    ];
    let met: BTreeSet<String> = corpora.iter().flat_map(|corpus| same(major, corpus)).collect();
    let listed = listed(major, "## Compared with the real program");
    let missing: Vec<_> = listed.difference(&met).collect();
    assert!(missing.is_empty(), "docs/WAL-RECORDS.md lists {missing:?}, which no server wrote");
    let unlisted: Vec<_> = met.difference(&listed).collect();
    assert!(unlisted.is_empty(), "docs/WAL-RECORDS.md doesn't list {unlisted:?}");
}

/// The record types in the table below this heading: rows of a manager, perhaps with versions, and
/// names.
fn listed(major: u32, heading: &str) -> BTreeSet<String> {
    let section = DOCS.split(heading).nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let mut types = BTreeSet::new();
    for (manager, names) in rows.filter(|(manager, _)| !manager.starts_with("manager")) {
        let (manager, versions) = manager.split_once(" (").unwrap_or((manager, "14–18)"));
        let (from, to) = versions.trim_end_matches(')').split_once('–').must_some(versions);
        if (from.parse().must()..=to.parse().must()).contains(&major) {
            let names = names.trim_end_matches(" |").split(", ");
            types.extend(names.map(|name| format!("{manager}/{name}")));
        }
    }
    types
}

trait MustSome<T> {
    fn must_some(self, what: &str) -> T;
}

impl<T> MustSome<T> for Option<T> {
    fn must_some(self, what: &str) -> T {
        self.unwrap_or_else(|| panic!("{what}"))
    }
}

on_each_major!(whatever_the_settings, super::settings);

/// What is in a record, beside or in place of its data, varies with the server's settings.
fn settings(major: u32) {
    let mut settings = vec![vec!["wal_consistency_checking = all"]];
    if full(major) {
        settings.push(vec!["wal_compression = on", "wal_level = replica"]);
        let methods = ["wal_compression = lz4", "wal_compression = zstd"];
        settings.extend(methods.iter().filter(|_| major >= 15).map(|method| vec![*method]));
        settings.push(vec!["wal_consistency_checking = all", "wal_compression = on"]);
    }
    for conf in &settings {
        same(major, &corpus::make_rare(&pg(major), &options(conf)).must());
    }
    if full(major) {
        same(major, &corpus::make(&pg(major), &options(&["wal_level = replica"])).must());
    }
}

/// Times are in libc's local time, with the zone's name as libc abbreviates it.
#[test]
fn times_are_in_the_machines_zone() {
    let corpus = corpus::make_promoted(&pg(18), &options(&[])).must();
    let zones = [
        "America/New_York",
        ":Europe/Berlin",
        "Asia/Kolkata",
        "EST5EDT",
        "NZST-12NZDT,M9.5.0,M4.1.0/3",
        "<+0330>-3:30",
        "Nowhere/Land",
        "/nowhere",
        "",
    ];
    for tz in zones {
        let zone = Zone::of_environment(Some(tz), |path| fs::read(path).ok());
        compare(18, &corpus, &waldump_in(&pg(18), &corpus, tz), zone);
    }
}

fn same(major: u32, corpus: &Corpus) -> BTreeSet<String> {
    compare(major, corpus, &waldump(&pg(major), corpus), Zone::utc())
}

/// Holds ours against the real program's lines, and gives the record types.
fn compare(major: u32, corpus: &Corpus, theirs: &str, zone: Zone) -> BTreeSet<String> {
    let version = WalVersion::from_major(major).must_some("a version");
    let (body, line, types) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut lines = Lines { version, zone, body, line, theirs: theirs.lines(), types };
    let geometry = Geometry::new(SegmentSize::new(u64::from(corpus.segment_size_mb) << 20).must());
    let timeline = TimelineId::new(corpus.timeline).must_some("a timeline");
    let expect = Expect { geometry, timeline, system_id: None };
    let mut validator = Validator::new(expect, corpus.start_lsn.parse().must());
    for path in corpus.segments().must() {
        if validator.feed(&fs::read(path).must(), &mut lines).is_err() {
            break;
        }
    }
    let end: Lsn = corpus.end_lsn.parse().must();
    assert!(validator.proved().0 >= end, "proved up to {:?} of {end}", validator.proved());
    assert_eq!(lines.theirs.next(), None, "pg_waldump goes on");
    lines.types
}

struct Lines<'a> {
    version: WalVersion,
    zone: Zone,
    body: Vec<u8>,
    line: Vec<u8>,
    theirs: std::str::Lines<'a>,
    types: BTreeSet<String>,
}

impl Visitor for Lines<'_> {
    fn body(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }

    fn record(&mut self, record: &Record) {
        let body = RecordBody::read(&self.body, self.version);
        let body = body.unwrap_or_else(|error| panic!("{}: {error}", record.lsn));
        let header = &record.header;
        let source =
            Source { version: self.version, lsn: record.lsn, header, body: &body, rest: None };
        let name = identify(self.version, header.rmgr, header.info);
        let name = name.must_some(&format!("no name for {header:?}"));
        self.line.clear();
        self.line.extend_from_slice(line_head(record, &body).as_bytes());
        self.line.extend_from_slice(name.as_bytes());
        self.line.push(b' ');
        describe(&source, &self.zone, &mut self.line);
        self.line.extend_from_slice(line_blocks(&body).as_bytes());
        let line = String::from_utf8_lossy(&self.line);
        assert_eq!(Some(&*line), self.theirs.next(), "{:?}", Payload::of(&source));
        let name = format!("{}/{name}", rmgr_name(header.rmgr));
        if !self.types.contains(&name) {
            // Each type's fields can be written.
            serde_json::to_string(&Payload::of(&source)).must();
            self.types.insert(name);
        }
        self.body.clear();
    }

    fn dropped(&mut self, _lsn: Lsn) {
        self.body.clear();
    }
}
