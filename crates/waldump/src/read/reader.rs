//! One record after another, as the server's reader gives them (`XLogReadRecord`,
//! `XLogFindNextRecord`, `access/transam/xlogreader.c`, 14–18): the same checks in the same order,
//! so that it stops where the server's own programs stop.
//!
//! A record within a page is looked at where it lies; one that runs over pages is gathered in a
//! buffer. No length field sizes it: it grows as pages with the right headers come. A record of
//! more than [`WHOLE_BYTES`] isn't kept whole: its CRC is computed as it passes, and whoever
//! wants its data reads it again in pieces.

use pg_types::{Lsn, SegmentNumber};
use wal_format::{
    MAX_HEADERS_LEN, MalformedRecord, PageFlags, PageHeader, RECORD_HEADER_LEN, RecordBody,
    RecordHeader, SHORT_HEADER_LEN, SpareBlocks, WalVersion, is_switch,
};

use super::files::Segments;
use super::gathering::{Gathering, KEPT_BYTES, check_crc, crc_holds};
use super::reason::{Place, Reason};
pub use super::trouble::{FileTrouble, Stop};
use super::window::{Missing, Window};

/// The page size of every usual build (`XLOG_BLCKSZ`): others are refused, as the server's
/// programs refuse those that they weren't built for.
pub const PAGE_BYTES: usize = 8192;
const PAGE: u64 = PAGE_BYTES as u64;

/// A record of more bytes isn't kept whole. This much is: all that its blocks can have, which is 33
/// images of a page and 33 times 64 KiB of data, and the beginning of its main data.
pub const WHOLE_BYTES: usize = 4 << 20;

/// A record that was read, and whose CRC holds.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Where it starts.
    pub lsn: Lsn,
    /// Where the next one may start.
    pub end: Lsn,
    /// Its header.
    pub header: RecordHeader,
    /// Whether it was gathered from several pages.
    gathered: bool,
}

/// Where a reader stands between two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where the next record starts, or the page whose header it follows (`NextRecPtr`).
    pub next: Lsn,
    /// The last record (`DecodeRecPtr`); invalid before the first one, whose link isn't checked
    /// then but for pointing back.
    pub last: Lsn,
    /// The last page that was looked at (`latestPagePtr`).
    pub page: Lsn,
    /// Its timeline (`latestPageTLI`).
    pub page_timeline: u32,
}

/// See the [module](self).
pub struct Reader {
    segments: Segments,
    version: WalVersion,
    /// Nothing from here on is read; invalid for no bound (`endptr`).
    end: Lsn,
    window: Window,
    gathered: Vec<u8>,
    /// So much is kept of a record that is gathered.
    keep: usize,
    standing: Standing,
    /// The record that was read last. It stays here: moving what was just put together costs as
    /// much as reading a small record.
    found: Found,
    /// The record that the caller has (`ReadRecPtr`).
    read: Lsn,
    /// The page that was validated last, and how much of it.
    page: Lsn,
    page_len: usize,
    header: PageHeader,
    /// The segment whose first page was validated.
    segment: Option<SegmentNumber>,
    /// Whether `end` was reached.
    end_reached: bool,
}

impl Reader {
    /// A reader of these segments, up to `end` if that is valid.
    #[must_use]
    pub fn new(segments: Segments, version: WalVersion, end: Lsn) -> Self {
        let none = Lsn::INVALID;
        Self {
            segments,
            version,
            end,
            window: Window::new(),
            gathered: Vec::new(),
            keep: WHOLE_BYTES,
            standing: Standing { next: none, last: none, page: none, page_timeline: 0 },
            found: Found { lsn: none, end: none, header: RecordHeader::NONE, gathered: false },
            read: none,
            page: none,
            page_len: 0,
            header: PageHeader::NONE,
            segment: None,
            end_reached: false,
        }
    }

    /// The last record that was read; what "error in WAL record at" names.
    #[must_use]
    pub fn last_read(&self) -> Lsn {
        self.read
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Goes on where another reader stands.
    pub fn resume(&mut self, standing: Standing) {
        self.forget_page();
        self.standing = standing;
        self.read = standing.last;
    }

    /// Whether it stopped since the end of what was asked for is reached.
    #[must_use]
    pub fn end_reached(&self) -> bool {
        self.end_reached
    }

    /// The segments that are read.
    #[must_use]
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// The version whose WAL it is.
    #[must_use]
    pub fn version(&self) -> WalVersion {
        self.version
    }

    /// Forgets what is in memory, and the open file, after a writer may have gone on.
    pub fn refresh(&mut self) {
        self.forget_page();
        self.window.close();
    }

    /// The record that was read last.
    #[must_use]
    #[inline]
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// The bytes of the record that was found, behind its header; only their beginning of an
    /// oversized one.
    #[must_use]
    #[inline]
    pub fn body(&self) -> &[u8] {
        let found = &self.found;
        let bytes = if found.gathered {
            self.gathered.as_slice()
        } else {
            self.window.get(found.lsn, found.header.total_len as usize)
        };
        bytes.get(RECORD_HEADER_LEN..).unwrap_or_default()
    }

    /// How many bytes at the end of the record that was found aren't kept.
    #[must_use]
    #[inline]
    pub fn missing(&self) -> usize {
        if !self.found.gathered {
            return 0;
        }
        (self.found.header.total_len as usize).saturating_sub(self.gathered.len())
    }

    /// The record that was found, taken apart.
    ///
    /// # Errors
    /// If it contradicts itself, which is where reading ends: see [`Self::malformed`].
    #[inline]
    pub fn decode<'a>(
        &'a self,
        spare: &mut SpareBlocks,
    ) -> Result<RecordBody<'a>, MalformedRecord> {
        RecordBody::read_head(spare, self.body(), self.missing(), self.version)
    }

    /// The bytes of its page images, if the record that was found doesn't contradict itself.
    ///
    /// # Errors
    /// As [`Self::decode`].
    #[inline]
    pub fn image_bytes(&self) -> Result<u32, MalformedRecord> {
        RecordBody::image_bytes_of(self.body(), self.missing(), self.version)
    }

    /// Says that nobody wants more of records than [`Self::image_bytes`]: they needn't be put
    /// together.
    pub fn expect_only_counting(&mut self) {
        self.keep = RECORD_HEADER_LEN + MAX_HEADERS_LEN;
    }

    /// Where reading ends with the record that was found, which contradicts itself; `before` is the one
    /// before: the words of 14 name the record, those of 15 the one before it, since the reader
    /// works ahead there.
    pub fn malformed(&mut self, before: Lsn, how: MalformedRecord) -> Stop {
        let at = if self.version.major() >= 15 { before } else { self.found.lsn };
        self.read = at;
        self.forget_page();
        Stop::Invalid(Reason::Malformed { at, how })
    }

    /// Bytes of the record that was found, wherever it lies: those at `at`, or behind the header of
    /// the page that begins there, to the page's end, of `left` that there are. With their position.
    pub(super) fn piece(&mut self, at: Lsn, left: usize) -> Result<(Lsn, &[u8]), Stop> {
        let page = at.align_down(PAGE);
        self.page(page, PAGE_BYTES.min(in_page(at).saturating_add(left)))?;
        let header_len = if in_page(at) == 0 { self.header_len() } else { 0 };
        let at = at.saturating_add(header_len as u64);
        let len = left.min(PAGE_BYTES.saturating_sub(in_page(at)));
        Ok((at, self.window.get(at, len)))
    }

    /// A reader of its own of the same log, that has found what this one has.
    pub(super) fn beside(&self) -> Self {
        let mut beside = Self::new(self.segments.clone(), self.version, self.end);
        beside.standing = self.standing;
        beside.found = self.found;
        beside
    }

    /// Whether a record that holds starts just here; the reader stands where it stood.
    ///
    /// # Errors
    /// If the page isn't there, or isn't this log's.
    pub fn holds_at(&mut self, at: Lsn) -> Result<bool, Stop> {
        let (standing, read) = (self.standing, self.read);
        let page = self.page(at.align_down(PAGE), SHORT_HEADER_LEN);
        let held = page.map(|()| {
            if in_page(at) < self.header_len() {
                return false;
            }
            self.standing.last = Lsn::INVALID;
            match self.read_record_at(at) {
                Ok(Read::Record) => self.image_bytes().is_ok(),
                Ok(Read::Overwritten { .. }) | Err(_) => false,
            }
        });
        (self.standing, self.read) = (standing, read);
        held
    }

    /// Begins to read here (`XLogBeginRead`).
    pub fn begin(&mut self, at: Lsn) {
        self.standing.next = at;
        self.standing.last = Lsn::INVALID;
        self.read = Lsn::INVALID;
    }

    /// The first record that starts at `from` or later (`XLogFindNextRecord`), with the reader
    /// standing before it; `None` if there is none.
    ///
    /// # Errors
    /// Only what is wrong with files.
    pub fn find_first(&mut self, from: Lsn) -> Result<Option<Lsn>, FileTrouble> {
        match self.try_find_first(from) {
            Ok(found) => Ok(Some(found)),
            Err(Stop::Files(trouble)) => Err(trouble),
            Err(Stop::End | Stop::Invalid(_)) => {
                self.forget_page();
                Ok(None)
            }
        }
    }

    /// Begins at the first record that may start on the page of `at` or behind it, with nothing
    /// known of what comes before.
    ///
    /// # Errors
    /// As [`Self::first_start`].
    pub fn start_at(&mut self, at: Lsn) -> Result<Lsn, Stop> {
        let none = Lsn::INVALID;
        self.standing = Standing { next: none, last: none, page: none, page_timeline: 0 };
        let first = self.first_start(at)?;
        self.begin(first);
        Ok(first)
    }

    /// As [`Self::find_first`], with the reason.
    ///
    /// # Errors
    /// Why there is none.
    pub fn try_find_first(&mut self, from: Lsn) -> Result<Lsn, Stop> {
        let first = self.first_start(from)?;
        self.begin(first);
        loop {
            let before = self.read;
            self.next_record()?;
            if let Err(how) = self.image_bytes() {
                return Err(self.malformed(before, how));
            }
            let lsn = self.found.lsn;
            if from <= lsn {
                self.begin(lsn);
                return Ok(lsn);
            }
        }
    }

    /// Where a record may start on the page of `from`, or on the first page after it that isn't
    /// wholly the rest of one.
    ///
    /// # Errors
    /// If a page isn't there, or not what it should be.
    pub fn first_start(&mut self, from: Lsn) -> Result<Lsn, Stop> {
        let mut page = from.align_down(PAGE);
        let mut offset = in_page(from);
        loop {
            self.page(page, offset)?;
            let header_len = self.header_len();
            self.page(page, header_len)?;
            if !self.header.flags.has(PageFlags::FIRST_IS_CONTRECORD) {
                return Ok(page.saturating_add(header_len as u64));
            }
            let rest = Lsn::new(u64::from(self.header.remaining)).max_align().as_u64();
            if rest < PAGE - header_len as u64 {
                return Ok(page.saturating_add(header_len as u64).saturating_add(rest));
            }
            page = page.saturating_add(PAGE);
            offset = 0;
        }
    }

    /// Reads the next record, which is then [`Self::found`].
    ///
    /// # Errors
    /// Why there is none. What is wrong with WAL can be asked again: a writer may go on.
    #[inline]
    pub fn next_record(&mut self) -> Result<(), Stop> {
        if self.next_on_page().is_some() { Ok(()) } else { self.next_anywhere() }
    }

    /// The next record where it lies whole on the page that was validated last, and everything
    /// about it holds, as of nearly every one; whatever else there is [`Self::next_anywhere`]
    /// finds.
    #[inline]
    fn next_on_page(&mut self) -> Option<()> {
        let at = self.standing.next;
        let (page, offset) = (at.align_down(PAGE), in_page(at));
        // At the first place of a page the rest of another may be.
        if page != self.page || self.page_len != PAGE_BYTES || offset <= self.header_len() {
            return None;
        }
        let here = self.window.get(at, PAGE_BYTES.saturating_sub(offset));
        let header = RecordHeader::read(here.first_chunk()?);
        let record = here.get(..header.total_len as usize)?;
        let last = self.standing.last;
        let linked = last.is_valid() && header.prev == last;
        if !linked || !header.rmgr.is_valid(self.version) || !crc_holds(&header, record) {
            return None;
        }
        let end = at.saturating_add(u64::from(header.total_len)).max_align();
        self.took(at, end, header, false);
        self.read = at;
        Some(())
    }

    fn next_anywhere(&mut self) -> Result<(), Stop> {
        let read = self.read_record();
        match read {
            Ok(()) => self.read = self.found.lsn,
            Err(_) => self.forget_page(),
        }
        read
    }

    fn read_record(&mut self) -> Result<(), Stop> {
        let mut at = self.standing.next;
        loop {
            match self.read_record_at(at)? {
                Read::Record => return Ok(()),
                // The record that began there never went on: its server crashed.
                Read::Overwritten { page } => at = page,
            }
        }
    }

    fn read_record_at(&mut self, mut at: Lsn) -> Result<Read, Stop> {
        let page = at.align_down(PAGE);
        let mut offset = in_page(at);
        self.page(page, offset.saturating_add(RECORD_HEADER_LEN).min(PAGE_BYTES))?;
        let header_len = self.header_len();
        if offset == 0 {
            at = at.saturating_add(header_len as u64);
            offset = header_len;
        } else if offset < header_len {
            let (least, got) = (narrow(header_len), narrow(offset));
            return Err(Stop::Invalid(Reason::RecordOffset { at, least, got }));
        }
        if self.header.flags.has(PageFlags::FIRST_IS_CONTRECORD) && offset == header_len {
            return Err(Stop::Invalid(Reason::ContrecordRequested(at)));
        }
        let left = PAGE_BYTES.saturating_sub(offset);
        let header = if left >= RECORD_HEADER_LEN {
            let header = read_header(self.window.from(at));
            self.check_header(at, &header)?;
            Some(header)
        } else {
            None
        };
        let total_len = first_u32(self.window.from(at));
        if (total_len as usize) < RECORD_HEADER_LEN {
            return Err(Stop::Invalid(Reason::RecordLength { at, got: total_len }));
        }
        match header {
            Some(header) if total_len as usize <= left => {
                self.page(page, offset.saturating_add(total_len as usize))?;
                let record = self.window.get(at, total_len as usize);
                check_crc(at, &header, record)?;
                let end = at.saturating_add(u64::from(total_len)).max_align();
                self.took(at, end, header, false);
                Ok(Read::Record)
            }
            header => self.gather(at, page, left, total_len, header),
        }
    }

    /// Gathers a record that runs over pages.
    fn gather(
        &mut self,
        at: Lsn,
        mut page: Lsn,
        left: usize,
        total_len: u32,
        mut header: Option<RecordHeader>,
    ) -> Result<Read, Stop> {
        let mut gathering = Gathering::new(&mut self.gathered, self.keep);
        gathering.take(&mut self.gathered, self.window.get(at, left));
        loop {
            page = page.saturating_add(PAGE);
            let Some(piece) = self.go_on(at, page, total_len, gathering.got)? else {
                return Ok(Read::Overwritten { page });
            };
            gathering.take(&mut self.gathered, self.window.get(piece.from, piece.len));
            let header = match header {
                Some(header) => header,
                None => {
                    let whole = read_header(&self.gathered);
                    self.check_header(at, &whole)?;
                    *header.insert(whole)
                }
            };
            if gathering.got >= total_len {
                gathering.check_crc(at, &header, &self.gathered)?;
                let rest = Lsn::new(u64::from(self.header.remaining)).max_align().as_u64();
                let end = page.saturating_add(self.header_len() as u64).saturating_add(rest);
                self.took(at, end, header, true);
                return Ok(Read::Record);
            }
        }
    }

    /// The part of a record that lies on `page`; `None` where it was given up.
    fn go_on(
        &mut self,
        at: Lsn,
        page: Lsn,
        total_len: u32,
        gathered: u32,
    ) -> Result<Option<Piece>, Stop> {
        self.page(page, SHORT_HEADER_LEN)?;
        if self.header.flags.has(PageFlags::FIRST_IS_OVERWRITE_CONTRECORD) {
            return Ok(None);
        }
        if !self.header.flags.has(PageFlags::FIRST_IS_CONTRECORD) {
            return Err(Stop::Invalid(Reason::ContrecordMissing(at)));
        }
        let (got, expected) = (self.header.remaining, total_len.saturating_sub(gathered));
        if got == 0 || got != expected {
            return Err(Stop::Invalid(Reason::ContrecordLength { at, got, expected }));
        }
        let wanted = (expected as usize).saturating_add(SHORT_HEADER_LEN).min(PAGE_BYTES);
        self.page(page, wanted)?;
        let header_len = self.header_len();
        let len = (expected as usize).min(PAGE_BYTES.saturating_sub(header_len));
        self.page(page, header_len.saturating_add(len))?;
        Ok(Some(Piece { from: page.saturating_add(header_len as u64), len }))
    }

    /// Notes that a record was read.
    #[inline]
    fn took(&mut self, lsn: Lsn, end: Lsn, header: RecordHeader, gathered: bool) {
        // The rest of a switch's segment is empty.
        let switch = is_switch(&header);
        let end = if switch { end.align_up(self.segments.size.bytes()) } else { end };
        self.found = Found { lsn, end, header, gathered };
        self.standing.last = lsn;
        self.standing.next = end;
    }

    /// `ValidXLogRecordHeader`
    #[inline]
    fn check_header(&self, at: Lsn, header: &RecordHeader) -> Result<(), Stop> {
        if (header.total_len as usize) < RECORD_HEADER_LEN {
            return Err(Stop::Invalid(Reason::RecordLength { at, got: header.total_len }));
        }
        if !header.rmgr.is_valid(self.version) {
            return Err(Stop::Invalid(Reason::RecordManager { at, got: header.rmgr.0 }));
        }
        let last = self.standing.last;
        let linked = if last.is_valid() { header.prev == last } else { header.prev < at };
        if linked {
            Ok(())
        } else {
            Err(Stop::Invalid(Reason::RecordPrev { at, got: header.prev }))
        }
    }

    /// Lets `page` be validated and its first `wanted` bytes be there (`ReadPageInternal`).
    #[inline]
    fn page(&mut self, page: Lsn, wanted: usize) -> Result<(), Stop> {
        if page == self.page && wanted <= self.page_len {
            return Ok(());
        }
        self.read_page(page, wanted)
    }

    fn read_page(&mut self, page: Lsn, wanted: usize) -> Result<(), Stop> {
        self.page_len = 0;
        let number = page.segment(self.segments.size);
        if self.segment != Some(number) && page.segment_offset(self.segments.size) != 0 {
            self.check_first_page(number)?;
        }
        let mut len = self.fetch(page, wanted.max(SHORT_HEADER_LEN))?;
        if len <= SHORT_HEADER_LEN {
            return Err(Stop::End);
        }
        let mut header = PageHeader::read(self.window.from(page)).unwrap_or(PageHeader::NONE);
        if len < header.header_len() {
            len = self.fetch(page, header.header_len())?;
            header = PageHeader::read(self.window.from(page)).unwrap_or(PageHeader::NONE);
        }
        self.check_page(page, &header)?;
        (self.page, self.page_len, self.header) = (page, len, header);
        self.segment = Some(number);
        Ok(())
    }

    /// Before anything else of a segment its first page is looked at, which says whose it is.
    fn check_first_page(&mut self, number: SegmentNumber) -> Result<(), Stop> {
        let first = number.start(self.segments.size);
        let len = self.reach(first, PAGE_BYTES)?;
        let mut page = [0; PAGE_BYTES];
        let part = page.get_mut(..len).unwrap_or_default();
        let read = self.window.first_page(&self.segments, number, part);
        read.map_err(|missing| self.trouble(missing))?;
        let header = PageHeader::read(&page).unwrap_or(PageHeader::NONE);
        self.check_page(first, &header)
    }

    /// How much of a page may be read (`required_read_len`): as much as there is before `end`.
    fn reach(&mut self, page: Lsn, wanted: usize) -> Result<usize, Stop> {
        let fits = |len: usize| page.saturating_add(len as u64) <= self.end;
        if !self.end.is_valid() || fits(PAGE_BYTES) {
            return Ok(PAGE_BYTES);
        }
        if fits(wanted) {
            let left = self.end.saturating_since(page);
            return Ok(usize::try_from(left).unwrap_or(PAGE_BYTES).min(PAGE_BYTES));
        }
        self.end_reached = true;
        Err(Stop::End)
    }

    fn fetch(&mut self, page: Lsn, wanted: usize) -> Result<usize, Stop> {
        let len = self.reach(page, wanted)?;
        let filled = self.window.fill(&self.segments, page, len);
        filled.map_err(|missing| self.trouble(missing))?;
        Ok(len)
    }

    fn trouble(&self, missing: Missing) -> Stop {
        let name = |number| self.segments.name_of(number);
        Stop::Files(match missing {
            Missing::File { number, error } => FileTrouble::Open { name: name(number), error },
            Missing::Read { number, offset, error } => {
                FileTrouble::Read { name: name(number), offset, error }
            }
            Missing::Short { number, offset, wanted } => {
                FileTrouble::Short { name: name(number), offset, wanted }
            }
        })
    }

    /// `XLogReaderValidatePageHeader`
    fn check_page(&mut self, page: Lsn, header: &PageHeader) -> Result<(), Stop> {
        let size = self.segments.size;
        let timeline = self.segments.timeline_of(page.segment(size));
        let place = Place { timeline, page, size };
        let invalid = |reason| Err(Stop::Invalid(reason));
        if header.magic != self.version.magic() {
            return invalid(Reason::PageMagic { got: header.magic, place });
        }
        let flags = header.flags.0;
        if flags & !PageFlags::ALL != 0 {
            return invalid(Reason::PageFlags { got: flags, place });
        }
        match header.long {
            Some(long) if u64::from(long.segment_size) != size.bytes() => {
                return invalid(Reason::SegmentSize);
            }
            Some(long) if long.block_size as usize != PAGE_BYTES => {
                return invalid(Reason::BlockSize);
            }
            None if page.segment_offset(size) == 0 => {
                return invalid(Reason::PageFlags { got: flags, place });
            }
            _ => {}
        }
        if header.address != page {
            return invalid(Reason::PageAddress { got: header.address, place });
        }
        let Standing { page: latest, page_timeline: after, .. } = self.standing;
        if page > latest && header.timeline < after {
            return invalid(Reason::PageTimeline { got: header.timeline, after, place });
        }
        self.standing.page = page;
        self.standing.page_timeline = header.timeline;
        Ok(())
    }

    /// `XLogReaderInvalReadState`
    fn forget_page(&mut self) {
        (self.page, self.page_len, self.segment) = (Lsn::INVALID, 0, None);
        self.window.forget();
        if self.gathered.capacity() > KEPT_BYTES {
            self.gathered = Vec::new();
        }
    }

    fn header_len(&self) -> usize {
        self.header.header_len()
    }
}

enum Read {
    /// It is what was [found](Reader::found).
    Record,
    Overwritten {
        page: Lsn,
    },
}

/// A part of a record on one page.
struct Piece {
    from: Lsn,
    len: usize,
}

#[inline]
fn in_page(at: Lsn) -> usize {
    // Less than a page.
    usize::try_from(at.offset_in(PAGE)).unwrap_or(0)
}

/// What is at most a page long.
fn narrow(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[inline]
fn first_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().copied().map_or(0, u32::from_le_bytes)
}

#[inline]
fn read_header(bytes: &[u8]) -> RecordHeader {
    RecordHeader::read(bytes.first_chunk().unwrap_or(&[0; RECORD_HEADER_LEN]))
}
