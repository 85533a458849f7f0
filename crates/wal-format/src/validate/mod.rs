//! The streaming validator: is fed the log in chunks of any size, cut anywhere, and proves it
//! record by record.
//!
//! It stops at the first thing that is wrong, and stays stopped. It keeps no record: the CRC is
//! computed as the bytes pass, and of the body only the first bytes are kept, for the records
//! that an index remembers.
//!
//! At every page it reads the page's header before anything on the page is believed, so that a
//! record's length is checked against `xlp_rem_len` before any byte is counted by it.

mod gathered;
mod page;
mod running;

use pg_types::{Geometry, Lsn, Proved, SystemId, TimelineId};

use self::gathered::Gathered;
use self::page::header_len;
use self::running::{Running, check_crc, check_length, covered_last};
use crate::crc;
use crate::notable::{Notable, is_switch};
use crate::record::{RECORD_HEADER_LEN, RecordHeader};
use crate::{DecodeError, DecodeErrorKind, LONG_HEADER_LEN, WalVersion};

/// What the log must be, as far as it is known before the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The sizes of segments and pages.
    pub geometry: Geometry,
    /// The timeline that is read; pages may be of an older one, never of a later.
    pub timeline: TimelineId,
    /// The cluster; `None` takes whatever the first segment says, and holds the rest to it.
    pub system_id: Option<SystemId>,
}

/// A record that was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it starts.
    pub lsn: Lsn,
    /// Where the next one may start: the end of its last byte, 8-aligned.
    pub end: Lsn,
    /// Its header; the CRC held.
    pub header: RecordHeader,
}

/// Is shown what passes. Every method has an empty body of its own.
pub trait Visitor {
    /// Bytes of the running record's body, page headers left away, before it is proved.
    fn body(&mut self, _bytes: &[u8]) {}
    /// The record whose body just passed is proved.
    fn record(&mut self, _record: &Record) {}
    /// What an index wants to know of the record that was just proved.
    fn notable(&mut self, _record: &Record, _notable: &Notable) {}
    /// The record whose body was passing won't be finished: its server crashed
    /// (overwrite-contrecord).
    fn dropped(&mut self, _lsn: Lsn) {}
}

impl<F: FnMut(&Record)> Visitor for F {
    fn record(&mut self, record: &Record) {
        self(record);
    }
}

/// See the [module](self).
///
/// A copy is a snapshot: some 300 bytes, with which validation can go on from this point again.
#[derive(Clone, Debug)]
pub struct Validator {
    expect: Expect,
    version: Option<WalVersion>,
    position: Lsn,
    proved: Lsn,
    /// The timeline of the last page.
    page_timeline: u32,
    /// The header of the page at `position`, as far as it has come; `None` once it was checked.
    page_header: Option<Gathered<LONG_HEADER_LEN>>,
    /// What the bytes at `position` are, behind the page's header.
    state: State,
    /// The start of the last proved record: what the next one's `xl_prev` must be.
    last_record: Option<Lsn>,
    /// Where the first record begins that lies behind the start as a whole.
    records_from: Option<Lsn>,
    /// The broken-off record that the next record must name.
    overwritten: Option<Lsn>,
    failed: Option<DecodeError>,
}

#[derive(Clone, Debug)]
enum State {
    /// At the start: a record, or the rest of one that began before.
    Start,
    /// The rest of a record that began before the start: this many bytes to pass over.
    Skip { remaining: u32 },
    /// A record's header, as far as it has come.
    Header { lsn: Lsn, bytes: Gathered<RECORD_HEADER_LEN> },
    /// A record's body.
    Body(Running),
    /// Zeros up to the next 8-aligned position; then the record, if there is one, is proved.
    Padding { until: Lsn, record: Option<Finished> },
    /// Zeros up to the segment's end, after XLOG_SWITCH.
    SwitchPadding { until: Lsn },
}

/// A record whose CRC held, and whose padding is still to come.
#[derive(Clone, Copy, Debug)]
struct Finished {
    record: Record,
    notable: Option<Notable>,
}

impl Validator {
    /// Validation from `start`: a segment's or a page's start.
    #[must_use]
    pub fn new(expect: Expect, start: Lsn) -> Self {
        Self {
            expect,
            version: None,
            position: start,
            proved: start,
            page_timeline: TimelineId::FIRST.as_u32(),
            page_header: Some(Gathered::new()),
            state: State::Start,
            last_record: None,
            records_from: None,
            overwritten: None,
            failed: None,
        }
    }

    /// The position of the next byte.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// How far the log is proved.
    #[must_use]
    pub fn proved(&self) -> Proved {
        Proved(self.proved)
    }

    /// The version that wrote the log, once a page was seen.
    #[must_use]
    pub fn version(&self) -> Option<WalVersion> {
        self.version
    }

    /// The start of the last record that was proved.
    #[must_use]
    pub fn last_record(&self) -> Option<Lsn> {
        self.last_record
    }

    /// Where the first record begins that lies behind the start as a whole; `None` before it. What
    /// is before it is the rest of a record that began earlier, which nothing proves.
    #[must_use]
    pub fn records_from(&self) -> Option<Lsn> {
        self.records_from
    }

    /// The start of the record that is unfinished at [`position`](Self::position); `None` between
    /// records, and in one that began before the start.
    #[must_use]
    pub fn running_record(&self) -> Option<Lsn> {
        match &self.state {
            State::Header { lsn, bytes } => (!bytes.is_empty()).then_some(*lsn),
            State::Body(running) => Some(running.lsn),
            State::Padding { record, .. } => record.map(|finished| finished.record.lsn),
            State::Start | State::Skip { .. } | State::SwitchPadding { .. } => None,
        }
    }

    /// Whether [`position`](Self::position) is in a record that began before the start, which
    /// nothing can prove.
    #[must_use]
    pub fn is_before_first_record(&self) -> bool {
        matches!(self.state, State::Start | State::Skip { .. })
    }

    /// Whether all that came is proved, or is the beginning of a record whose headers, as far as
    /// they came, hold.
    #[must_use]
    pub fn tail_is_plausible(&self) -> bool {
        self.failed.is_none()
    }

    /// Goes on with the bytes at [`position`](Self::position).
    ///
    /// # Errors
    /// The first thing that is wrong; [`proved`](Self::proved) stays before it, and every later
    /// call gives the same error.
    #[inline]
    pub fn feed(&mut self, bytes: &[u8], visitor: &mut impl Visitor) -> Result<(), DecodeError> {
        match self.failed {
            Some(error) => Err(error),
            None => self.go_on(bytes, visitor).inspect_err(|error| self.failed = Some(*error)),
        }
    }

    fn go_on(&mut self, mut bytes: &[u8], visitor: &mut impl Visitor) -> Result<(), DecodeError> {
        while !bytes.is_empty() {
            bytes = if let Some(header) = &mut self.page_header {
                let wanted = header_len(self.position, header.len(), self.expect.geometry);
                let rest = header.gather(bytes, wanted);
                let whole = header.len() == wanted;
                self.advance(bytes.len().saturating_sub(rest.len()));
                if whole {
                    self.page(visitor)?;
                }
                rest
            } else {
                let block_size = u64::from(self.expect.geometry.block_size);
                let room = block_size.saturating_sub(self.position.offset_in(block_size));
                let room = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
                let (on_page, _) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
                let used = self.on_page(on_page, visitor)?;
                bytes.split_at_checked(used).map_or(&[], |(_, rest)| rest)
            };
        }
        Ok(())
    }

    /// Moves on; a page's end begins the next page's header, unless no header is there.
    fn advance(&mut self, bytes: usize) {
        self.position = self.position.saturating_add(bytes as u64);
        let block_size = u64::from(self.expect.geometry.block_size);
        let at_page = self.position.offset_in(block_size) == 0 && bytes > 0;
        if at_page && !self.in_zero_pages() {
            self.page_header = Some(Gathered::new());
        }
    }

    /// Whether the pages from here to the segment's end are all zeros.
    fn in_zero_pages(&self) -> bool {
        match self.state {
            State::SwitchPadding { until } => {
                self.position < until
                    && !self.version.is_some_and(WalVersion::switch_keeps_page_headers)
            }
            _ => false,
        }
    }

    /// Takes bytes of one page, at least one, behind its header; gives how many it used.
    fn on_page(&mut self, bytes: &[u8], visitor: &mut impl Visitor) -> Result<usize, DecodeError> {
        let used = match &mut self.state {
            State::Start => {
                self.state = State::Header { lsn: self.position, bytes: Gathered::new() };
                0
            }
            State::Header { lsn, bytes: header } => {
                if header.is_empty() {
                    *lsn = self.position;
                    self.records_from.get_or_insert(self.position);
                    let used = self.whole_records(bytes, visitor)?;
                    if used > 0 {
                        return Ok(used);
                    }
                }
                self.header(bytes)?
            }
            State::Body(running) => {
                let used = running.feed(bytes, visitor);
                if running.remaining == 0 {
                    let end = self.position.saturating_add(used as u64);
                    self.state = running.finish(end, self.version)?;
                }
                used
            }
            State::Skip { remaining } => {
                let left = usize::try_from(*remaining).unwrap_or(usize::MAX);
                let used = left.min(bytes.len());
                *remaining = remaining.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX));
                if *remaining == 0 {
                    let until = self.position.saturating_add(used as u64).max_align();
                    self.state = State::Padding { until, record: None };
                }
                used
            }
            State::Padding { until, .. } => {
                let until = *until;
                let used = zeros_until(until, self.position, bytes)
                    .ok_or_else(|| self.padding_error(until, DecodeErrorKind::Padding))?;
                self.advance(used);
                self.end_of_padding(visitor)?;
                return Ok(used);
            }
            State::SwitchPadding { until } => {
                let until = *until;
                zeros_until(until, self.position, bytes)
                    .ok_or_else(|| self.padding_error(until, DecodeErrorKind::SwitchPadding))?
            }
        };
        self.advance(used);
        match self.state {
            State::Padding { .. } => self.end_of_padding(visitor)?,
            State::SwitchPadding { until } if self.position == until => {
                self.proved = until;
                self.state = State::Header { lsn: until, bytes: Gathered::new() };
            }
            _ => {}
        }
        Ok(used)
    }

    /// The fast path: records that lie whole on this page, each in one piece, padding and all.
    /// Stops before the first that doesn't; gives how many bytes it used.
    fn whole_records(
        &mut self,
        bytes: &[u8],
        visitor: &mut impl Visitor,
    ) -> Result<usize, DecodeError> {
        let mut rest = bytes;
        while let Some(header_bytes) = rest.first_chunk::<RECORD_HEADER_LEN>() {
            let lsn = self.position;
            let header = RecordHeader::read(header_bytes);
            let Some((record_bytes, _)) =
                usize::try_from(header.total_len).ok().and_then(|len| rest.split_at_checked(len))
            else {
                break;
            };
            self.check_header(lsn, &header)?;
            let end = lsn.saturating_add(u64::from(header.total_len)).max_align();
            let padded = usize::try_from(end.saturating_since(lsn)).unwrap_or(usize::MAX);
            // A switch's padding goes on behind the page; it takes the slow path.
            let Some((padded_bytes, after)) = rest.split_at_checked(padded) else { break };
            if is_switch(&header) {
                break;
            }
            let (_, body) = record_bytes.split_at_checked(RECORD_HEADER_LEN).unwrap_or_default();
            let (_, padding) =
                padded_bytes.split_at_checked(record_bytes.len()).unwrap_or_default();
            check_crc(lsn, crc::record(body, covered_last(header_bytes)), &header)?;
            if padding.iter().any(|byte| *byte != 0) {
                return Err(DecodeError { at: lsn, kind: DecodeErrorKind::Padding });
            }
            visitor.body(body);
            let notable = Notable::of(&header, body, self.version);
            self.advance(padded);
            self.prove(&Record { lsn, end, header }, notable.as_ref(), visitor)?;
            rest = after;
        }
        Ok(bytes.len().saturating_sub(rest.len()))
    }

    /// Gathers a record's header, which may be split over a page.
    fn header(&mut self, bytes: &[u8]) -> Result<usize, DecodeError> {
        let State::Header { lsn, bytes: header } = &mut self.state else { return Ok(0) };
        let rest = header.gather(bytes, RECORD_HEADER_LEN);
        let used = bytes.len().saturating_sub(rest.len());
        let lsn = *lsn;
        if header.len() == RECORD_HEADER_LEN {
            let header_bytes = header.bytes;
            let header = RecordHeader::read(&header_bytes);
            self.check_header(lsn, &header)?;
            let end = self.position.saturating_add(used as u64);
            let running = Running::new(lsn, header, header_bytes);
            self.state = if running.remaining == 0 {
                running.finish(end, self.version)?
            } else {
                State::Body(running)
            };
        }
        Ok(used)
    }

    /// What a record's header must be before its CRC can be known (`ValidXLogRecordHeader`).
    fn check_header(&self, lsn: Lsn, header: &RecordHeader) -> Result<(), DecodeError> {
        let wrong = |kind| Err(DecodeError { at: lsn, kind });
        check_length(lsn, header.total_len)?;
        if !self.version.is_some_and(|version| header.rmgr.is_valid(version)) {
            return wrong(DecodeErrorKind::RecordManager(header.rmgr));
        }
        match self.last_record {
            Some(last) if header.prev != last => {
                wrong(DecodeErrorKind::RecordPrev { got: header.prev, expected: last })
            }
            None if header.prev >= lsn => wrong(DecodeErrorKind::RecordPrevAhead(header.prev)),
            _ => Ok(()),
        }
    }

    /// A padding's end: proves the record before it.
    fn end_of_padding(&mut self, visitor: &mut impl Visitor) -> Result<(), DecodeError> {
        let State::Padding { until, record } = &self.state else { return Ok(()) };
        if self.position < *until {
            return Ok(());
        }
        let record = *record;
        self.state = State::Header { lsn: *until, bytes: Gathered::new() };
        match record {
            Some(Finished { record, notable }) => self.prove(&record, notable.as_ref(), visitor),
            None => Ok(()),
        }
    }

    #[inline]
    fn prove(
        &mut self,
        record: &Record,
        notable: Option<&Notable>,
        visitor: &mut impl Visitor,
    ) -> Result<(), DecodeError> {
        if let Some(broken) = self.overwritten.take()
            && notable != Some(&Notable::OverwriteContrecord { overwritten: broken })
        {
            let kind = DecodeErrorKind::OverwriteMissing { record: broken };
            return Err(DecodeError { at: record.lsn, kind });
        }
        self.proved = record.end;
        self.last_record = Some(record.lsn);
        visitor.record(record);
        if let Some(notable) = notable {
            visitor.notable(record, notable);
        }
        if is_switch(&record.header) {
            let segment_size = self.expect.geometry.segment_size;
            if record.end.segment_offset(segment_size) != 0 {
                let until = record.end.segment(segment_size).end(segment_size);
                self.state = State::SwitchPadding { until };
                // The record may have ended with its page, and a header been expected.
                if self.in_zero_pages() {
                    self.page_header = None;
                }
            }
        }
        Ok(())
    }

    /// What is wrong with the zeros that should follow the last record.
    fn padding_error(&self, until: Lsn, kind: DecodeErrorKind) -> DecodeError {
        let last = self.running_record().or(self.last_record);
        DecodeError { at: last.unwrap_or(Lsn::new(until.as_u64().saturating_sub(8))), kind }
    }
}

/// How many of the bytes at `position` lie before `until`, if all of them are zero.
fn zeros_until(until: Lsn, position: Lsn, bytes: &[u8]) -> Option<usize> {
    let left = usize::try_from(until.saturating_since(position)).unwrap_or(usize::MAX);
    let used = left.min(bytes.len());
    let (padding, _) = bytes.split_at_checked(used)?;
    // Sixteen at a time: a switched segment may be a gigabyte of zeros.
    let (words, rest) = padding.as_chunks::<16>();
    let zero = words.iter().all(|word| u128::from_ne_bytes(*word) == 0)
        && rest.iter().all(|byte| *byte == 0);
    zero.then_some(used)
}
