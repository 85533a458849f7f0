//! A primary as a replication client sees one: commands, their answers, the stream, SQLSTATEs. It
//! knows no words beside them.

use std::collections::BTreeMap;
use std::sync::Arc;

use disk::sim::Rng;
use pg_types::{Lsn, TimelineId};
use runtime::Wire;

use super::log::{Log, SEGMENT_SIZE};

/// The most that is sent in a message, as by a real server.
const MAX_MESSAGE: usize = 128 << 10;
/// A client that reads nothing fills the line.
const LINE_BYTES: usize = 512 << 10;

/// See the [module](self).
pub(super) struct Server {
    pub(super) log: Log,
    /// The slot's restart_lsn; one that was invalidated keeps nothing.
    pub(super) slot: Option<Option<Lsn>>,
    /// The start of the oldest segment that is kept.
    pub(super) oldest: Lsn,
    /// What was acknowledged as flushed by a stream of each timeline.
    pub(super) acknowledged: BTreeMap<TimelineId, Lsn>,
    sessions: Vec<Session>,
    /// The next byte of WAL is sent with a bit wrong.
    pub(super) flip_next: bool,
}

struct Session {
    wire: Arc<Wire>,
    input: Vec<u8>,
    state: State,
}

enum State {
    Startup,
    Idle,
    Streaming {
        timeline: TimelineId,
        next: Lsn,
        with_slot: bool,
    },
    /// CopyDone was sent; the client's is awaited.
    Ending {
        timeline: TimelineId,
    },
}

impl Server {
    pub(super) fn new(log: Log) -> Self {
        let oldest = log.start();
        let (acknowledged, sessions) = (BTreeMap::new(), Vec::new());
        Self { log, slot: None, oldest, acknowledged, sessions, flip_next: false }
    }

    pub(super) fn accept(&mut self, wire: Arc<Wire>) {
        self.sessions.push(Session { wire, input: Vec::new(), state: State::Startup });
    }

    /// Whether anybody is connected.
    pub(super) fn has_sessions(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// Every connection ends.
    pub(super) fn cut(&mut self) {
        for session in self.sessions.drain(..) {
            session.wire.close();
        }
    }

    /// Removes segments up to before this one, as far as the slot lets it.
    pub(super) fn recycle(&mut self, upto: Lsn) {
        let kept = self.slot.flatten().unwrap_or(upto);
        let upto = upto.min(kept).min(self.log.end()).segment_start(SEGMENT_SIZE);
        self.oldest = self.oldest.max(upto);
    }

    /// Reads what came, and sends some of what is due.
    pub(super) fn serve(&mut self, rng: &mut Rng) {
        let mut sessions = std::mem::take(&mut self.sessions);
        for session in &mut sessions {
            session.input.extend(session.wire.sent_by_client());
            while let Some((tag, body)) = session.next_message() {
                self.message(session, tag, &body);
            }
            self.stream(session, rng);
        }
        sessions.retain(|session| !session.wire.is_closed());
        self.sessions = sessions;
    }

    fn message(&mut self, session: &mut Session, tag: u8, body: &[u8]) {
        match (tag, &session.state) {
            (0, _) => {
                session.send(b'R', &0u32.to_be_bytes());
                session.send(b'S', b"server_version\x0017.0\0");
                session.ready();
            }
            (b'Q', _) => {
                let text = String::from_utf8_lossy(body).trim_end_matches('\0').to_owned();
                self.command(session, &text);
            }
            (b'd', State::Streaming { timeline, with_slot, .. }) if body.first() == Some(&b'r') => {
                let flush = body.get(9..17).and_then(|bytes| bytes.first_chunk().copied());
                let flush = Lsn::new(u64::from_be_bytes(flush.unwrap_or_default()));
                if flush.is_valid() {
                    let of = self.acknowledged.entry(*timeline).or_insert(flush);
                    *of = flush.max(*of);
                    if let (true, Some(Some(kept))) = (*with_slot, &mut self.slot) {
                        *kept = flush;
                    }
                }
            }
            (b'c', State::Streaming { timeline, .. }) => {
                let timeline = *timeline;
                session.send(b'c', &[]);
                self.end_of_stream(session, timeline);
            }
            (b'c', State::Ending { timeline }) => {
                let timeline = *timeline;
                self.end_of_stream(session, timeline);
            }
            (b'X', _) => session.wire.close(),
            _ => {}
        }
    }

    fn command(&mut self, session: &mut Session, text: &str) {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let timeline = self.log.timeline.to_string();
        match words.first().copied() {
            Some("IDENTIFY_SYSTEM") => {
                let (id, end) = (self.log.system_id().to_string(), self.log.end().to_string());
                session.answer(&[Some(&id), Some(&timeline), Some(&end), None]);
            }
            Some("SHOW") => {
                let value = match words.get(1).copied() {
                    Some("wal_segment_size") => "1MB",
                    Some("wal_block_size") => "8192",
                    Some("wal_sender_timeout") => "1min",
                    _ => return session.error("42704"),
                };
                session.answer(&[Some(value)]);
            }
            Some("READ_REPLICATION_SLOT") => {
                let kept = self.slot.flatten().map(|lsn| lsn.to_string());
                let is = self.slot.is_some().then_some("physical");
                let tli = kept.as_ref().map(|_| timeline.as_str());
                session.answer(&[is, kept.as_deref(), tli]);
            }
            Some("CREATE_REPLICATION_SLOT") if self.slot.is_some() => session.error("42710"),
            Some("CREATE_REPLICATION_SLOT") => {
                self.slot = Some(Some(self.log.end()));
                session.answer(&[Some("s"), Some("0/0"), None, None]);
            }
            Some("DROP_REPLICATION_SLOT") => {
                self.slot = None;
                session.complete();
            }
            Some("TIMELINE_HISTORY") => {
                let of = words.get(1).and_then(|word| TimelineId::new(word.parse().ok()?));
                match of.and_then(|of| self.log.history(of)) {
                    Some(content) => session.answer(&[Some("h.history"), Some(&content)]),
                    None => session.error("58P01"),
                }
            }
            Some("START_REPLICATION") => self.start(session, &words),
            _ => session.error("42601"),
        }
    }

    fn start(&mut self, session: &mut Session, words: &[&str]) {
        let with_slot = words.get(1) == Some(&"SLOT");
        let rest = if with_slot { words.get(3..) } else { words.get(1..) };
        let Some([at, _, timeline]) = rest else { return session.error("42601") };
        let at: Option<Lsn> = at.parse().ok();
        let timeline = timeline.parse().ok().and_then(TimelineId::new);
        let (Some(at), Some(timeline)) = (at, timeline) else { return session.error("42601") };
        if with_slot && self.slot.is_none() {
            return session.error("42704");
        }
        match self.log.switch_of(timeline) {
            None if timeline != self.log.timeline => return session.error("XX000"),
            Some((_, switch)) if at > switch => return session.error("XX000"),
            Some((_, switch)) if at == switch => return self.end_of_stream(session, timeline),
            _ => {}
        }
        session.send(b'W', &[0, 0, 0]);
        if timeline == self.log.timeline && at > self.log.end() {
            return session.error("XX000");
        }
        session.state = State::Streaming { timeline, next: at, with_slot };
    }

    /// A row for a timeline that was left, and the command's end.
    fn end_of_stream(&mut self, session: &mut Session, timeline: TimelineId) {
        if let Some((next, switch)) = self.log.switch_of(timeline) {
            let (next, switch) = (next.to_string(), switch.to_string());
            session.rows(&[Some(&next), Some(&switch)]);
            session.send(b'C', b"SELECT 1\0");
        }
        session.complete();
    }

    fn stream(&mut self, session: &mut Session, rng: &mut Rng) {
        while let State::Streaming { timeline, next, .. } = session.state {
            if session.wire.unread() > LINE_BYTES {
                return;
            }
            if next < self.oldest {
                return session.error("58P01");
            }
            let bytes = self.log.sent(timeline, next, MAX_MESSAGE);
            if bytes.is_empty() {
                if self.log.switch_of(timeline).is_some_and(|(_, switch)| next >= switch) {
                    session.send(b'c', &[]);
                    session.state = State::Ending { timeline };
                } else if rng.below(8) == 0 {
                    let end = self.log.end().as_u64().to_be_bytes();
                    session.send(b'd', &[&b"k"[..], &end, &[0; 8], &[0]].concat());
                }
                return;
            }
            // To a page's end, or all there is; in the cut that chance makes.
            let len = if rng.coin() { bytes.len() } else { 1 + rng.index(bytes.len()) };
            let end = self.log.end().as_u64().to_be_bytes();
            let header = [&b"w"[..], &next.as_u64().to_be_bytes(), &end, &[0; 8]].concat();
            let mut message = [&header, &bytes[..len]].concat();
            let flipped = rng.index(len);
            if self.flip_next
                && self.log.is_protected(timeline, next.saturating_add(flipped as u64))
            {
                self.flip_next = false;
                message[header.len() + flipped] ^= 1 << rng.below(8);
            }
            session.send(b'd', &message);
            let next = next.saturating_add(len as u64);
            if let State::Streaming { next: place, .. } = &mut session.state {
                *place = next;
            }
            if rng.below(3) == 0 {
                return;
            }
        }
    }
}

impl Session {
    fn next_message(&mut self) -> Option<(u8, Vec<u8>)> {
        let tagged = usize::from(!matches!(self.state, State::Startup));
        let length = self.input.get(tagged..)?.first_chunk::<4>()?;
        let end = tagged + u32::from_be_bytes(*length) as usize;
        if self.input.len() < end {
            return None;
        }
        let message: Vec<u8> = self.input.drain(..end).collect();
        let tag = if tagged == 1 { message[0] } else { 0 };
        Some((tag, message[tagged + 4..].to_vec()))
    }

    fn send(&self, tag: u8, body: &[u8]) {
        let length = (body.len() as u32 + 4).to_be_bytes();
        self.wire.send(&[&[tag], &length[..], body].concat());
    }

    fn ready(&mut self) {
        self.send(b'Z', b"I");
        self.state = State::Idle;
    }

    fn complete(&mut self) {
        self.send(b'C', b"DONE\0");
        self.ready();
    }

    fn rows(&self, values: &[Option<&str>]) {
        let count = (values.len() as u16).to_be_bytes();
        let column = [&b"c\0"[..], &[0; 6], &25u32.to_be_bytes(), &[0xFF; 6], &[0; 2]].concat();
        self.send(b'T', &[&count[..], &column.repeat(values.len())].concat());
        let mut row = count.to_vec();
        for value in values {
            match value {
                Some(text) => {
                    row.extend((text.len() as u32).to_be_bytes());
                    row.extend(text.as_bytes());
                }
                None => row.extend(u32::MAX.to_be_bytes()),
            }
        }
        self.send(b'D', &row);
    }

    fn answer(&mut self, values: &[Option<&str>]) {
        self.rows(values);
        self.complete();
    }

    fn error(&mut self, sqlstate: &str) {
        let body = format!("SERROR\0VERROR\0C{sqlstate}\0Mx\0\0");
        self.send(b'E', body.as_bytes());
        self.ready();
    }
}
