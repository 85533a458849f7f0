//! The server's log: what is streamed, and what the archive must hold in the end.

use archive::Identity;
use disk::sim::Rng;
use pg_types::{Branch, Geometry, Lsn, SegmentNumber, SegmentSize, TimelineId};

use crate::wal::{BuiltRecord, WalBuilder};

/// Segments of the least size: a workload has several of them, and each state of it is compared
/// with the truth to the last byte.
const SEGMENT_SIZE: SegmentSize = SegmentSize::MIN;
/// The last segment whose name has these middle digits, so that a workload runs over their end.
const FIRST_SEGMENT: SegmentNumber = SegmentNumber::new(0x1FFE);
const MAJOR: u32 = 17;
/// `XLOG_BLCKSZ`
const PAGE: u64 = 8192;

/// A server's log on one timeline, whole.
#[derive(Clone, Debug)]
pub struct Primary {
    builder: WalBuilder,
    /// Where a record was broken off, and its end: nothing protects the bytes between.
    broken: Vec<(Lsn, Lsn)>,
}

impl Primary {
    /// A log of three to six segments. By the seed's remainder: a record that runs over a whole
    /// segment; a switch in the first page of a segment; a record broken off at a segment's end.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut this = Self::empty();
        this.small_records(&mut rng, 0, 1);
        match seed % 3 {
            0 => this.over_segments(&mut rng, 1 + seed as usize % 2),
            1 => this.with_a_switch(&mut rng),
            _ => this.broken_off(&mut rng),
        }
        for xid in 0..20 {
            this.one_small(&mut rng, 900 + xid);
        }
        this.builder.commit(999, 999);
        this
    }

    fn empty() -> Self {
        let geometry = Geometry::new(SEGMENT_SIZE);
        let builder = WalBuilder::new(geometry, MAJOR, FIRST_SEGMENT.start(SEGMENT_SIZE));
        Self { builder, broken: Vec::new() }
    }

    /// A record that fills `whole` segments, beginning before and ending behind them.
    fn over_segments(&mut self, rng: &mut Rng, whole: usize) {
        self.builder.message(30_000);
        self.small_records(rng, 1, 2);
        self.builder.message((whole << 20) + rng.index(200_000));
        self.builder.commit(500, 500);
    }

    /// Records up to the very end of a segment, then a switch, nearly at the next one's start.
    fn with_a_switch(&mut self, rng: &mut Rng) {
        self.builder.fill_until(SEGMENT_SIZE.bytes(), SEGMENT_SIZE.bytes());
        self.builder.commit(400, 400);
        self.builder.switch();
        self.builder.commit(401, 401);
        self.small_records(rng, 2, 3);
        self.builder.message(70_000);
    }

    /// A record that runs over a segment's end, and one that breaks off just there.
    fn broken_off(&mut self, rng: &mut Rng) {
        self.builder.message(50_000);
        self.small_records(rng, 1, 2);
        self.builder.fill_until(SEGMENT_SIZE.bytes(), PAGE - 1000 * 8);
        self.break_record(20_000);
        self.small_records(rng, 2, 3);
        self.builder.message(40_000);
        self.builder.fill_until(PAGE, 400);
        self.break_record(3000);
    }

    fn break_record(&mut self, len: usize) {
        let lsn = self.builder.broken_record(len);
        self.broken.push((lsn, lsn.saturating_add(PAGE).align_down(PAGE)));
    }

    /// Small records until little is left of the segment `number`; none if `number` is `until`.
    fn small_records(&mut self, rng: &mut Rng, number: u64, until: u64) {
        let end = SegmentNumber::new(FIRST_SEGMENT.as_u64() + number).end(SEGMENT_SIZE);
        let mut xid = 3;
        while number < until && end.saturating_since(self.builder.end()) > 30_000 {
            self.one_small(rng, xid);
            xid += 1;
        }
    }

    fn one_small(&mut self, rng: &mut Rng, xid: u32) {
        match rng.below(10) {
            0 => self.builder.commit(xid, i64::from(xid)),
            1 => {
                // A record that ends with its page, and one whose header is split.
                self.builder.fill_until(PAGE, if rng.coin() { PAGE } else { 8 });
                self.builder.commit(xid, 7)
            }
            2..=5 => self.builder.message(rng.index(300)),
            6..=8 => self.builder.message(rng.index(5_000)),
            _ => self.builder.message(rng.index(24_000)),
        };
    }

    /// Another server's log: the same up to a record that starts after `from`, then others. Gives
    /// the end of what is the same.
    ///
    /// # Panics
    /// If no record starts there.
    #[must_use]
    pub fn diverged(&self, from: Lsn, seed: u64) -> (Self, Lsn) {
        let first = self.records().partition_point(|record| record.lsn <= from);
        let mut kept = first + Rng::new(seed).index(self.records().len() - first);
        // What a page announces has to follow on it.
        let is_overwrite = |record: &BuiltRecord| (record.rmgr, record.info) == (0, 0xD0);
        kept += usize::from(is_overwrite(&self.records()[kept]));
        let same = self.records()[kept].lsn;
        let mut other = self.clone();
        other.builder.truncate(same);
        other.broken.retain(|(_, end)| *end <= same);
        let mut rng = Rng::new(same.as_u64());
        other.builder.commit(66, 66);
        while other.end() < self.end() {
            other.one_small(&mut rng, 77);
        }
        (other, same)
    }

    /// Whose log it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let geometry = Geometry::new(SEGMENT_SIZE);
        Identity { system_id: self.builder.system_id(), server_major: MAJOR, geometry }
    }

    /// Its timeline.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        TimelineId::FIRST
    }

    /// Its history.
    #[must_use]
    pub fn branch(&self) -> Branch {
        Branch::root(self.timeline())
    }

    /// The size of its segments.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        SEGMENT_SIZE
    }

    /// The first byte.
    #[must_use]
    pub fn start(&self) -> Lsn {
        self.builder.start()
    }

    /// The end of the last record.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.builder.end()
    }

    /// The whole records.
    #[must_use]
    pub fn records(&self) -> &[BuiltRecord] {
        self.builder.records()
    }

    /// Whether a byte is covered by a CRC: in a whole record, behind a page's header.
    #[must_use]
    pub fn is_protected(&self, at: Lsn) -> bool {
        let of = self.records().partition_point(|record| record.lsn <= at);
        let Some(record) = of.checked_sub(1).and_then(|of| self.records().get(of)) else {
            return false;
        };
        let end = record.lsn.saturating_add(record.total_len.into());
        let broken = self.broken.iter().any(|(from, until)| (*from..*until).contains(&at));
        // Long headers have 40 bytes.
        !broken && at < end && at.offset_in(PAGE) >= 40
    }

    /// The bytes from a position on, up to `len` of them.
    #[must_use]
    pub fn bytes(&self, from: Lsn, len: usize) -> &[u8] {
        let at = usize::try_from(from.saturating_since(self.start())).unwrap_or(usize::MAX);
        let rest = self.builder.bytes().get(at..).unwrap_or_default();
        &rest[..len.min(rest.len())]
    }
}

#[cfg(test)]
mod tests {
    use wal_format::{Expect, Record, Validator};

    use super::*;

    #[test]
    fn every_shape_is_valid_and_has_three_segments() {
        for seed in 0..9 {
            let primary = Primary::new(seed);
            let Identity { system_id, geometry, .. } = primary.identity();
            let expect =
                Expect { geometry, timeline: primary.timeline(), system_id: Some(system_id) };
            let mut validator = Validator::new(expect, primary.start());
            let mut records = 0;
            let fed = validator
                .feed(primary.bytes(primary.start(), usize::MAX), &mut |_: &Record| records += 1);
            assert_eq!(fed, Ok(()), "seed {seed}");
            assert_eq!(validator.proved().0, primary.end(), "seed {seed}");
            let segments = primary.end().saturating_since(primary.start()) >> 20;
            assert!((3..7).contains(&segments), "seed {seed}: {segments}");
        }
    }
}
