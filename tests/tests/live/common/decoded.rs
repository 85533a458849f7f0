//! An archive decoded by wal-format, from its first byte to the first that isn't WAL.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use pg_types::{Geometry, Lsn, TimelineId};
use testkit::load::{Acked, Commits};
use testkit::servers::{Install, parse_lsn};
use wal_format::{DecodeError, Expect, Notable, Record, Validator, Visitor};

use super::{Must, Segments};

const CHUNK: usize = 1 << 20;

/// What an archive holds.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// Where the first segment starts.
    pub(crate) start: Lsn,
    /// The end of the last record whose CRC holds.
    pub(crate) proved: Lsn,
    /// What ended the decoding; none if the last segment is full.
    pub(crate) end: Option<DecodeError>,
    /// How many records there are.
    pub(crate) records: u64,
    /// The last one.
    pub(crate) last: Option<Record>,
    /// Whether that is a shutdown checkpoint.
    pub(crate) last_is_shutdown: bool,
    /// The commit records by transaction.
    pub(crate) commits: BTreeMap<u32, Lsn>,
    /// Records that a crash of the primary broke off.
    pub(crate) broken_off: Vec<Lsn>,
}

impl Decoded {
    /// Decodes the segments of `wal_dir`, the `.partial` included; all of timeline 1.
    pub(crate) fn of(wal_dir: &Path) -> Self {
        let segments = Segments::of(wal_dir);
        let expect = Expect {
            geometry: Geometry::new(segments.size),
            timeline: TimelineId::FIRST,
            system_id: None,
        };
        let mut decoded = Self {
            start: segments.start(),
            proved: Lsn::INVALID,
            end: None,
            records: 0,
            last: None,
            last_is_shutdown: false,
            commits: BTreeMap::new(),
            broken_off: Vec::new(),
        };
        let mut validator = Validator::new(expect, segments.start());
        let mut chunk = vec![0; CHUNK];
        'segments: for segment in &segments.segments {
            let mut file = File::open(&segment.path).must();
            loop {
                let len = file.read(&mut chunk).must();
                if len == 0 {
                    break;
                }
                if let Err(error) = validator.feed(&chunk[..len], &mut decoded) {
                    assert!(!segment.sealed, "{}: {error}", segment.path.display());
                    decoded.end = Some(error);
                    break 'segments;
                }
            }
        }
        decoded.proved = validator.proved().0;
        decoded
    }

    /// Whether the last record is a shutdown checkpoint.
    pub(crate) fn ends_with_shutdown(&self) -> bool {
        self.last_is_shutdown
    }

    /// Looks every acknowledged commit up, here and with the real pg_waldump, which has to see
    /// the same commits at the same places.
    pub(crate) fn assert_has(&self, acked: &[Acked], install: &Install, wal_dir: &Path) {
        let theirs = Commits::read(install, wal_dir).must();
        let checked = theirs.check(acked);
        assert!(checked.missing.is_empty(), "{checked}; {:?}", theirs.ends());
        assert_eq!(theirs.len(), self.commits.len(), "commits by pg_waldump, and by wal-format");
        for (xid, lsn) in &self.commits {
            let theirs = theirs.lsn_of(u64::from(*xid)).and_then(parse_lsn).map(Lsn::new);
            assert_eq!(theirs, Some(*lsn), "transaction {xid} by pg_waldump, and by wal-format");
        }
        for commit in acked {
            let xid = u32::try_from(commit.xid).must();
            assert!(self.commits.contains_key(&xid), "no commit record of {commit:?}");
        }
    }
}

impl Visitor for Decoded {
    fn record(&mut self, record: &Record) {
        self.records += 1;
        self.last = Some(*record);
        self.last_is_shutdown = false;
    }

    fn notable(&mut self, record: &Record, notable: &Notable) {
        match notable {
            Notable::Commit { .. } => {
                self.commits.insert(record.header.xid, record.lsn);
            }
            Notable::Checkpoint { shutdown, .. } => self.last_is_shutdown = *shutdown,
            _ => {}
        }
    }

    fn dropped(&mut self, lsn: Lsn) {
        self.broken_off.push(lsn);
    }
}
