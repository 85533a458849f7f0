//! Makes a write-ahead log, byte by byte, without a server: pages, records, switches, crashes in
//! mid-record. Written against the C headers and apart from `wal-format`, so that an error in one
//! isn't repeated in the other; the checksum is the `crc32c` crate's.

use pg_types::{Geometry, Lsn, SystemId, TimelineId};

/// `XLOG_PAGE_MAGIC` of 10 to 18.
const MAGICS: [u16; 9] = [0xD097, 0xD098, 0xD101, 0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];

const CONTRECORD: u16 = 1;
const LONG: u16 = 2;
const OVERWRITE: u16 = 8;

/// A log under construction.
#[derive(Clone, Debug)]
pub struct WalBuilder {
    geometry: Geometry,
    major: u32,
    timeline: TimelineId,
    system_id: SystemId,
    start: Lsn,
    bytes: Vec<u8>,
    prev: Lsn,
    records: Vec<BuiltRecord>,
}

/// A record that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltRecord {
    /// Where it starts.
    pub lsn: Lsn,
    /// Its end, 8-aligned.
    pub end: Lsn,
    /// `xl_prev`
    pub prev: Lsn,
    /// `xl_tot_len`
    pub total_len: u32,
    /// `xl_rmid`
    pub rmgr: u8,
    /// `xl_info`
    pub info: u8,
    /// `xl_xid`
    pub xid: u32,
}

impl WalBuilder {
    /// A log that begins at `start`, a segment's start.
    #[must_use]
    pub fn new(geometry: Geometry, major: u32, start: Lsn) -> Self {
        assert_eq!(start.segment_offset(geometry.segment_size), 0, "a log begins with a segment");
        Self {
            geometry,
            major,
            timeline: TimelineId::FIRST,
            system_id: SystemId(7_000_000_000_000_000_001),
            start,
            bytes: Vec::new(),
            prev: Lsn::new(start.as_u64() - 0x28),
            records: Vec::new(),
        }
    }

    /// The same on another timeline.
    #[must_use]
    pub fn on_timeline(mut self, timeline: TimelineId) -> Self {
        self.timeline = timeline;
        self
    }

    /// The cluster that the pages name.
    #[must_use]
    pub fn system_id(&self) -> SystemId {
        self.system_id
    }

    /// Where the log begins.
    #[must_use]
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// Where the next byte goes.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.start.saturating_add(self.bytes.len() as u64)
    }

    /// All the bytes so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All the whole records so far.
    #[must_use]
    pub fn records(&self) -> &[BuiltRecord] {
        &self.records
    }

    /// Adds a record with this body (headers and data, as they come after `XLogRecord`).
    pub fn record(&mut self, rmgr: u8, info: u8, xid: u32, body: &[u8]) -> Lsn {
        let (lsn, header) = self.begin(rmgr, info, xid, body);
        self.put(&[&header[..], body].concat());
        self.finish(lsn, rmgr, info, xid, body.len())
    }

    /// Adds a record with short or long main data.
    pub fn data_record(&mut self, rmgr: u8, info: u8, xid: u32, data: &[u8]) -> Lsn {
        self.record(rmgr, info, xid, &main_data(data))
    }

    /// A logical message of just this many bytes of main data.
    pub fn message(&mut self, len: usize) -> Lsn {
        let data: Vec<u8> = (0..len).map(|i| (i * 31 + self.records.len()) as u8).collect();
        self.data_record(21, 0, 7, &data)
    }

    /// A commit at this time, in microseconds since 2000.
    pub fn commit(&mut self, xid: u32, time: i64) -> Lsn {
        self.data_record(1, 0, xid, &time.to_le_bytes())
    }

    /// XLOG_SWITCH, and zeros to the segment's end (with page headers on 10).
    pub fn switch(&mut self) -> Lsn {
        let lsn = self.record(0, 0x40, 0, &[]);
        let size = self.geometry.segment_size;
        while self.end().segment_offset(size) != 0 {
            let page = u64::from(self.geometry.block_size);
            if self.end().offset_in(page) == 0 && self.major == 10 {
                self.page_header(0, 0);
            }
            let left = page - self.end().offset_in(page);
            self.bytes.resize(self.bytes.len() + left as usize, 0);
        }
        lsn
    }

    /// Adds messages until the end is `before` bytes before a boundary of `unit` bytes.
    ///
    /// # Panics
    /// If no records can end there, such as inside a page's header.
    pub fn fill_until(&mut self, unit: u64, before: u64) {
        for _ in 0..10_000 {
            if unit - self.end().offset_in(unit) == before {
                return;
            }
            let left = (unit - self.end().offset_in(unit) + unit - before) % unit;
            // Header, data header and padding: the least record of this kind is 32 bytes.
            let page_headers = left / 8192 * 24 + 64;
            match left {
                32..=240 => self.message((left - 26) as usize),
                241.. if left > 600 + page_headers => {
                    self.message((left - page_headers).min(4000) as usize / 2)
                }
                _ => self.message(100),
            };
        }
        panic!("no records end {before} bytes before a multiple of {unit}");
    }

    /// A crash in the middle of a record that runs over at least one page's end: the record's
    /// first bytes up to that page's end stay, and the next page says that it is overwritten.
    pub fn broken_record(&mut self, body_len: usize) -> Lsn {
        let (lsn, header) = self.begin(21, 0, 7, &vec![1; body_len]);
        let page = u64::from(self.geometry.block_size);
        let room = (page - self.end().offset_in(page)) as usize;
        let whole = [&header[..], &vec![1; body_len]].concat();
        assert!(whole.len() > room, "the record has to run over the page's end");
        self.bytes.extend_from_slice(&whole[..room]);
        self.page_header(OVERWRITE, 0);
        self.data_record(0, 0xD0, 0, &[lsn.as_u64().to_le_bytes(), [0; 8]].concat());
        lsn
    }

    /// A crash while the last record of `whole`, which is this log and that record, was being
    /// written: what lies before `at`, a page's start within the record, stays, and the page there
    /// says that it is overwritten.
    pub fn break_off(&mut self, whole: &Self, at: Lsn) {
        let lsn = whole.records.last().map_or(self.end(), |record| record.lsn);
        let kept = at.saturating_since(self.start) as usize;
        self.bytes.clear();
        self.bytes.extend_from_slice(&whole.bytes[..kept]);
        self.page_header(OVERWRITE, 0);
        self.data_record(0, 0xD0, 0, &[lsn.as_u64().to_le_bytes(), [0; 8]].concat());
    }

    /// Keeps so many records, at least one, and forgets what is behind the last of them.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn keep(&mut self, records: usize) {
        self.records.truncate(records);
        let last = &self.records[records - 1];
        self.prev = last.lsn;
        // A switch goes on to the segment's end: no history leaves a timeline in its padding.
        let size = self.geometry.segment_size;
        let is_switch = (last.rmgr, last.info) == (0, 0x40) && last.end.segment_offset(size) != 0;
        let end = if is_switch { last.end.segment(size).end(size) } else { last.end };
        self.bytes.truncate(end.saturating_since(self.start) as usize);
    }

    /// Forgets everything from the record that starts at `lsn` on.
    ///
    /// # Panics
    /// If no whole record starts there.
    pub fn truncate(&mut self, lsn: Lsn) {
        let kept = self.records.iter().position(|record| record.lsn == lsn);
        let kept = kept.expect("a record starts there");
        self.prev = self.records[kept].prev;
        self.records.truncate(kept);
        self.bytes.truncate(lsn.saturating_since(self.start) as usize);
    }

    /// The header of the record that would start here, behind the page's header if one is due.
    fn begin(&mut self, rmgr: u8, info: u8, xid: u32, body: &[u8]) -> (Lsn, [u8; 24]) {
        if self.end().offset_in(u64::from(self.geometry.block_size)) == 0 {
            self.page_header(0, 0);
        }
        let mut header = [0; 24];
        header[..4].copy_from_slice(&(24 + body.len() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&xid.to_le_bytes());
        header[8..16].copy_from_slice(&self.prev.as_u64().to_le_bytes());
        header[16] = info;
        header[17] = rmgr;
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &header[..20]);
        header[20..].copy_from_slice(&crc.to_le_bytes());
        (self.end(), header)
    }

    /// Puts a record's bytes, with page headers between them.
    fn put(&mut self, mut rest: &[u8]) {
        let page = u64::from(self.geometry.block_size);
        while !rest.is_empty() {
            if self.end().offset_in(page) == 0 {
                self.page_header(CONTRECORD, rest.len() as u32);
            }
            let room = (page - self.end().offset_in(page)) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend_from_slice(now);
            rest = later;
        }
    }

    fn finish(&mut self, lsn: Lsn, rmgr: u8, info: u8, xid: u32, body_len: usize) -> Lsn {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let total_len = 24 + body_len as u32;
        let (prev, end) = (self.prev, self.end());
        self.records.push(BuiltRecord { lsn, end, prev, total_len, rmgr, info, xid });
        self.prev = lsn;
        lsn
    }

    fn page_header(&mut self, flags: u16, remaining: u32) {
        let at = self.end();
        let first = at.segment_offset(self.geometry.segment_size) == 0;
        let flags = if first { flags | LONG } else { flags };
        self.bytes.extend_from_slice(&MAGICS[self.major as usize - 10].to_le_bytes());
        self.bytes.extend_from_slice(&flags.to_le_bytes());
        self.bytes.extend_from_slice(&self.timeline.as_u32().to_le_bytes());
        self.bytes.extend_from_slice(&at.as_u64().to_le_bytes());
        self.bytes.extend_from_slice(&remaining.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        if first {
            self.bytes.extend_from_slice(&self.system_id.0.to_le_bytes());
            let size = self.geometry.segment_size.bytes() as u32;
            self.bytes.extend_from_slice(&size.to_le_bytes());
            self.bytes.extend_from_slice(&self.geometry.block_size.to_le_bytes());
        }
    }
}

/// A body that is nothing but main data.
#[must_use]
pub fn main_data(data: &[u8]) -> Vec<u8> {
    let mut body = match u8::try_from(data.len()) {
        Ok(len) => vec![255, len],
        Err(_) => [&[254][..], &(data.len() as u32).to_le_bytes()].concat(),
    };
    body.extend_from_slice(data);
    body
}
