//! A server's log over the years: it grows, is promoted, and breaks off in the middle of a record.

use std::collections::BTreeMap;

use disk::sim::Rng;
use pg_types::{Geometry, Lsn, SegmentNumber, SegmentSize, SystemId, TimelineId};

use crate::wal::WalBuilder;

/// Segments of the least size: a run has some of them.
pub(super) const SEGMENT_SIZE: SegmentSize = SegmentSize::MIN;
/// The major version whose WAL it is.
pub(super) const MAJOR: u32 = 17;
/// `XLOG_BLCKSZ`
const PAGE: u64 = 8192;
/// Where every log begins.
const FIRST_SEGMENT: SegmentNumber = SegmentNumber::new(7);

/// All the timelines of a server.
#[derive(Clone, Debug)]
pub(super) struct Log {
    /// What is true of each timeline: its bytes from the log's beginning on, older ones included.
    timelines: BTreeMap<TimelineId, WalBuilder>,
    /// The timelines that were left, and where.
    pub(super) left: Vec<(TimelineId, Lsn)>,
    pub(super) timeline: TimelineId,
    /// A record that is being written: the log with all of it.
    pending: Option<WalBuilder>,
    /// How far the log is flushed, which is as far as it is sent.
    visible: Lsn,
}

impl Log {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let geometry = Geometry::new(SEGMENT_SIZE);
        let mut builder = WalBuilder::new(geometry, MAJOR, FIRST_SEGMENT.start(SEGMENT_SIZE));
        builder.message(100 + rng.index(1000));
        let visible = builder.end();
        let timelines = BTreeMap::from([(TimelineId::FIRST, builder)]);
        let timeline = TimelineId::FIRST;
        Self { timelines, left: Vec::new(), timeline, pending: None, visible }
    }

    pub(super) fn system_id(&self) -> SystemId {
        self.current().system_id()
    }

    pub(super) fn start(&self) -> Lsn {
        self.current().start()
    }

    /// The end of what is flushed.
    pub(super) fn end(&self) -> Lsn {
        self.visible
    }

    fn current(&self) -> &WalBuilder {
        &self.timelines[&self.timeline]
    }

    fn current_mut(&mut self) -> &mut WalBuilder {
        self.timelines.entry(self.timeline).or_insert_with(|| unreachable!("it is there"))
    }

    /// Where a timeline was left; `None` for the one that is written to, and unknown ones.
    pub(super) fn switch_of(&self, timeline: TimelineId) -> Option<(TimelineId, Lsn)> {
        let place = self.left.iter().position(|(left, _)| *left == timeline)?;
        let next = self.left.get(place + 1).map_or(self.timeline, |(next, _)| *next);
        Some((next, self.left[place].1))
    }

    /// The history file of the timeline that is written to.
    pub(super) fn history(&self, timeline: TimelineId) -> Option<String> {
        let ancestors = match self.left.iter().position(|(left, _)| *left == timeline) {
            Some(place) => &self.left[..place],
            None if timeline == self.timeline => &self.left[..],
            None => return None,
        };
        let line = |(left, at): &(TimelineId, Lsn)| format!("{left}\t{at}\tno reason\n");
        (!ancestors.is_empty()).then(|| ancestors.iter().map(line).collect())
    }

    /// The bytes of a timeline from a position on, up to `len` of them and as far as it is sent.
    pub(super) fn sent(&self, timeline: TimelineId, from: Lsn, len: usize) -> &[u8] {
        let end = self.switch_of(timeline).map_or(self.visible, |(_, at)| at);
        let of = self.timelines.get(&timeline);
        let of = self.pending.as_ref().filter(|_| timeline == self.timeline).or(of);
        let Some(of) = of else { return &[] };
        let [from, end] = [from, end].map(|at| at.saturating_since(of.start()) as usize);
        let bytes = of.bytes();
        let end = end.min(bytes.len());
        bytes.get(from..end).map_or(&[], |bytes| &bytes[..len.min(bytes.len())])
    }

    /// What is true of a timeline, whether or not it is part of the history any more.
    pub(super) fn truth(&self, timeline: TimelineId) -> Option<&WalBuilder> {
        self.timelines.get(&timeline)
    }

    /// Whether a byte of a timeline is in a record's body, which its CRC covers whatever becomes of
    /// the log. A length that is wrong shows only when the record's next page comes.
    pub(super) fn is_protected(&self, timeline: TimelineId, at: Lsn) -> bool {
        let Some(of) = self.timelines.get(&timeline) else { return false };
        let place = of.records().partition_point(|record| record.lsn <= at);
        let Some(record) = place.checked_sub(1).and_then(|of_it| of.records().get(of_it)) else {
            return false;
        };
        // Long headers have 40 bytes.
        let body =
            record.lsn.saturating_add(24)..record.lsn.saturating_add(record.total_len.into());
        // A header of 24 bytes, and one that is split over a page.
        body.contains(&at) && at.offset_in(PAGE) >= 40 + 24
    }

    /// Some records, or a part of one that is long.
    pub(super) fn grow(&mut self, rng: &mut Rng) {
        if let Some(pending) = &self.pending {
            let left = pending.end().saturating_since(self.visible);
            if left > 4 * PAGE && rng.below(4) > 0 {
                let more = 1 + rng.below(left / PAGE - 1);
                self.visible = self.visible.saturating_add(more * PAGE).align_down(PAGE);
            } else {
                self.finish();
            }
            return;
        }
        match rng.below(12) {
            0..=2 => {
                let mut pending = self.current().clone();
                let len = if rng.below(3) == 0 { 1_200_000 } else { 60_000 };
                pending.message(10_000 + rng.index(len));
                let next = self.current().end().saturating_add(PAGE).align_down(PAGE);
                self.visible = next;
                self.pending = Some(pending);
                return;
            }
            3 => {
                self.current_mut().switch();
            }
            _ => {
                for _ in 0..rng.below(20) {
                    let (len, xid) = (rng.index(4_000), rng.index(900) as u32 + 3);
                    self.current_mut().message(len);
                    self.current_mut().commit(xid, i64::from(xid));
                }
            }
        }
        self.visible = self.current().end();
    }

    /// The record that is being written gets its end.
    pub(super) fn finish(&mut self) {
        if let Some(whole) = self.pending.take() {
            self.timelines.insert(self.timeline, whole);
        }
        self.visible = self.current().end();
    }

    /// The last record, whatever was going on: behind a gap nothing proves the one before.
    pub(super) fn conclude(&mut self) {
        self.finish();
        self.current_mut().commit(999, 999);
        self.visible = self.current().end();
    }

    /// A crash: a record that was being written is broken off where it was flushed to, or, on a
    /// machine that lost its power without having fsynced, before. Whether there was one.
    pub(super) fn crash(&mut self, rng: &mut Rng) -> bool {
        let Some(whole) = self.pending.take() else { return false };
        let lsn = whole.records().last().map_or(self.visible, |record| record.lsn);
        let first = lsn.saturating_add(PAGE).align_down(PAGE);
        let pages = self.visible.saturating_since(first) / PAGE;
        let back = if rng.coin() { rng.below(pages + 1) } else { 0 };
        let at = Lsn::new(self.visible.as_u64() - back * PAGE);
        if at >= whole.end() || at < first {
            self.pending = Some(whole);
            self.finish();
            return false;
        }
        self.current_mut().break_off(&whole, at);
        self.visible = self.current().end();
        true
    }

    /// A standby takes over that has all there is, or lacks some of the last records.
    pub(super) fn promote(&mut self, rng: &mut Rng) {
        self.pending = None;
        let records = self.current().records();
        let begin = self.left.last().map_or(self.start(), |(_, at)| *at);
        let since = records.iter().rev().take_while(|record| record.lsn >= begin).count();
        let lacks = if rng.coin() { 0 } else { rng.index(since.clamp(1, 40)) };
        let kept = records.len() - lacks.min(since.saturating_sub(1));
        let mut new = self.current().clone();
        new.keep(kept);
        let switch = new.end();
        // The old timeline's truth is what it was sent, whether or not anybody knows it any more.
        self.left.push((self.timeline, switch));
        let number = self.timeline.as_u32() + 1 + rng.below(2) as u32;
        let timeline = TimelineId::new(number).unwrap_or(TimelineId::FIRST);
        let mut new = new.on_timeline(timeline);
        new.message(50);
        self.visible = new.end();
        self.timelines.insert(timeline, new);
        self.timeline = timeline;
    }
}
