//! A stream of one timeline to one client.

use std::time::{Duration, Instant};

use pg_types::{Lsn, TimelineId};
use pg_wire::feedback::{Horizons, HotStandbyFeedback};
use pg_wire::message::SqlState;
use pg_wire::server::response::Refusal;
use pg_wire::stream::{EndOfTimeline, PrimaryKeepalive, StandbyStatusUpdate, XLogDataHeader};

use super::lag::Sent;

/// The most WAL in one message, as the real server's (`MAX_SEND_SIZE`, 16 pages of 8 KiB). Pieces
/// end at its multiples, which are ends of pages: so that clients at about the same position get
/// the same pieces, whatever they began with.
const PIECE: u64 = 128 << 10;

/// A piece of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of which timeline.
    pub timeline: TimelineId,
    /// From where.
    pub at: Lsn,
    /// How many bytes: never over a multiple of 128 KiB, hence never over a segment's end.
    pub len: usize,
}

impl Piece {
    /// The length of what goes before it: CopyData's frame, and the header of the WAL.
    pub const HEADER_LEN: usize = 5 + XLogDataHeader::LEN;

    /// Its end.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.at.saturating_add(self.len as u64)
    }

    pub(super) fn header(&self, wal_end: Lsn, server_time_us: i64) -> [u8; Self::HEADER_LEN] {
        let mut out = [0; Self::HEADER_LEN];
        let length = u32::try_from(4 + XLogDataHeader::LEN + self.len).unwrap_or(u32::MAX);
        let header = XLogDataHeader { start: self.at, wal_end, server_time_us }.encode();
        let bytes = [b'd'].into_iter().chain(length.to_be_bytes()).chain(header);
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        out
    }
}

/// As `pg_stat_replication.state` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It gets what it lacks.
    Catchup,
    /// It has once had all there was.
    Streaming,
    /// It gets the last of it.
    Stopping,
}

/// Where a stream stands; positions that the client hasn't said are invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What it is doing.
    pub status: Status,
    /// The timeline.
    pub timeline: TimelineId,
    /// Up to where it may be sent.
    pub limit: Lsn,
    /// Up to where it was sent.
    pub sent: Lsn,
    /// Up to where the client has written it.
    pub write: Lsn,
    /// Up to where it is durable there.
    pub flush: Lsn,
    /// Up to where it is applied there.
    pub apply: Lsn,
    /// How long that took.
    pub write_lag: Option<Duration>,
    /// How long that took.
    pub flush_lag: Option<Duration>,
    /// How long that took.
    pub apply_lag: Option<Duration>,
    /// What the client's queries need of the primary (hot_standby_feedback), once it has said so.
    pub horizons: Option<Horizons>,
}

/// What a client's reply comes to.
pub(super) enum After {
    Nothing,
    Refused(Refusal),
    Unknown(u8),
    /// Said once.
    FromTheFuture(Lsn),
}

/// What is behind it isn't looked at: a later version may have more.
fn first<const LEN: usize>(payload: &[u8]) -> Option<&[u8; LEN]> {
    payload.first_chunk()
}

pub(super) enum Timeout {
    Nothing,
    Keepalive([u8; PrimaryKeepalive::LEN]),
    Gone,
}

pub(super) struct Stream {
    standing: Standing,
    end: Option<EndOfTimeline>,
    /// CopyDone was said, by us and by the client.
    done: bool,
    client_done: bool,
    sent_at: Sent,
    timeout: Duration,
    last_reply: Instant,
    /// A keepalive waits for its answer.
    asked: bool,
    /// The client waits for a keepalive.
    owes: bool,
    warned: bool,
}

impl Stream {
    pub(super) fn new(
        start: Lsn,
        timeline: TimelineId,
        limit: Lsn,
        end: Option<EndOfTimeline>,
        timeout: Duration,
        now: Instant,
    ) -> Self {
        let none = Lsn::INVALID;
        let standing = Standing {
            status: Status::Catchup,
            timeline,
            limit,
            sent: start,
            write: none,
            flush: none,
            apply: none,
            write_lag: None,
            flush_lag: None,
            apply_lag: None,
            horizons: None,
        };
        Self {
            standing,
            end,
            done: false,
            client_done: false,
            sent_at: Sent::default(),
            timeout,
            last_reply: now,
            asked: false,
            owes: false,
            warned: false,
        }
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(super) fn advance(&mut self, limit: Lsn, end: Option<EndOfTimeline>) {
        self.standing.limit = self.standing.limit.max(limit);
        self.end = self.end.or(end);
    }

    /// Up to where this timeline is sent.
    fn stop(&self) -> Lsn {
        self.end.map_or(self.standing.limit, |end| end.switch_point.min(self.standing.limit))
    }

    pub(super) fn next_piece(&self) -> Option<Piece> {
        let at = self.standing.sent;
        if self.done || self.client_done {
            return None;
        }
        let end = at.align_down(PIECE).saturating_add(PIECE).min(self.stop());
        let len = usize::try_from(end.saturating_since(at)).ok().filter(|len| *len > 0)?;
        Some(Piece { timeline: self.standing.timeline, at, len })
    }

    pub(super) fn piece_sent(&mut self, piece: &Piece, now: Instant) {
        self.standing.sent = piece.end();
        self.sent_at.add(piece.end(), now);
        if self.standing.sent >= self.stop() && self.standing.status == Status::Catchup {
            self.standing.status = Status::Streaming;
        }
    }

    /// A payload of the client's.
    pub(super) fn reply(&mut self, payload: &[u8], now: Instant) -> After {
        let violation =
            |text: &str| After::Refused(Refusal::error(SqlState::PROTOCOL_VIOLATION, text));
        if self.client_done {
            return After::Nothing;
        }
        self.last_reply = now;
        self.asked = false;
        match payload.first() {
            None => violation("no data left in message"),
            Some(b'r') => match first(payload).and_then(StandbyStatusUpdate::parse) {
                Some(update) => self.update(&update, now),
                None => violation("insufficient data left in message"),
            },
            Some(b'h') => match first(payload).and_then(HotStandbyFeedback::parse) {
                Some(feedback) => {
                    self.standing.horizons = Some(feedback.horizons);
                    After::Nothing
                }
                None => violation("insufficient data left in message"),
            },
            Some(kind) => After::Unknown(*kind),
        }
    }

    fn update(&mut self, update: &StandbyStatusUpdate, now: Instant) -> After {
        let sent_at = &self.sent_at;
        let standing = &mut self.standing;
        let moved = |old: Lsn, new: Lsn, lag: Option<Duration>| match new > old {
            true => sent_at.lag(new, now).or(lag),
            false => lag,
        };
        standing.write_lag = moved(standing.write, update.write, standing.write_lag);
        standing.flush_lag = moved(standing.flush, update.flush, standing.flush_lag);
        standing.apply_lag = moved(standing.apply, update.apply, standing.apply_lag);
        (standing.write, standing.flush, standing.apply) =
            (update.write, update.flush, update.apply);
        if update.flush >= standing.sent && update.apply >= standing.sent {
            // It has all: nothing lags.
            (standing.write_lag, standing.flush_lag, standing.apply_lag) = (None, None, None);
        }
        // A receiver that never applies says 0 for it, always.
        let least = [update.write, update.flush, update.apply];
        let least = least.into_iter().filter(|at| at.is_valid()).min();
        self.sent_at.forget(least.unwrap_or_default());
        self.owes |= update.reply_requested;
        // A standby may have applied more than it asked for: streams begin at a segment's start.
        let future = update.flush > self.standing.limit && self.end.is_none();
        if future && !std::mem::replace(&mut self.warned, true) {
            return After::FromTheFuture(update.flush);
        }
        After::Nothing
    }

    /// Whether the client waits for a keepalive, and may still have one.
    fn is_asked(&self) -> bool {
        self.owes && !self.done
    }

    fn keepalive(&self, reply_requested: bool, server_time_us: i64) -> [u8; PrimaryKeepalive::LEN] {
        let wal_end = self.standing.sent;
        PrimaryKeepalive { wal_end, server_time_us, reply_requested }.encode()
    }

    pub(super) fn client_is_done(&mut self) {
        self.client_done = true;
    }

    /// Whether CopyDone is to be said now.
    pub(super) fn say_done(&mut self) -> bool {
        let over = self.end.is_some_and(|end| self.standing.sent >= end.switch_point);
        let say = (over || self.client_done) && !self.done;
        self.done |= say;
        say
    }

    /// Once both sides are done: where to go on, if the timeline has ended.
    #[expect(clippy::option_option, reason = "whether it has ended, and how")]
    pub(super) fn ended(&self) -> Option<Option<EndOfTimeline>> {
        (self.done && self.client_done).then_some(self.end)
    }

    pub(super) fn shut_down(&mut self) {
        self.standing.status = Status::Stopping;
        // The client is asked at once whether it has all.
        self.asked = false;
    }

    /// Whether the client has all there is, and the server ends.
    pub(super) fn has_shut_down(&self) -> bool {
        let Standing { status, sent, write, flush, .. } = self.standing;
        let has = if flush.is_valid() { flush } else { write };
        status == Status::Stopping && sent >= self.stop() && has >= sent
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        if self.is_asked() || self.standing.status == Status::Stopping && !self.asked {
            return Some(self.last_reply);
        }
        let after = if self.asked { self.timeout } else { self.timeout / 2 };
        (!self.timeout.is_zero()).then(|| self.last_reply + after)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, time_us: i64) -> Timeout {
        if self.next_timeout().is_none_or(|due| now < due) {
            Timeout::Nothing
        } else if self.is_asked() {
            self.owes = false;
            Timeout::Keepalive(self.keepalive(false, time_us))
        } else if self.asked {
            Timeout::Gone
        } else {
            self.asked = true;
            Timeout::Keepalive(self.keepalive(true, time_us))
        }
    }
}
