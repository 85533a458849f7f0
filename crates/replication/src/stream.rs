//! The streaming phase: what has come, what was acknowledged, and when to speak.

use std::time::{Duration, Instant};

use pg_types::{Acknowledgement, Lsn};
use pg_wire::feedback::{Horizons, HotStandbyFeedback};
use pg_wire::stream::{PrimaryKeepalive, StandbyStatusUpdate, XLogDataHeader};

use crate::ProtocolError;

/// How often to speak, and how long silence may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A status is sent at least so often; none is due where it is zero.
    pub status_interval: Duration,
    /// The server asks for a sign of life after half of this (`wal_sender_timeout`); where it
    /// never asks, zero.
    pub wal_sender_timeout: Duration,
}

impl Timing {
    /// For a connection that streams nothing.
    pub const NONE: Self =
        Self { status_interval: Duration::ZERO, wal_sender_timeout: Duration::ZERO };

    /// Our own status comes often enough that the server needn't ask.
    fn interval(&self) -> Option<Duration> {
        let intervals = [self.status_interval, self.wal_sender_timeout / 3];
        intervals.into_iter().filter(|interval| !interval.is_zero()).min()
    }

    /// After so much silence the server is asked for a sign of life: one that has nothing to send
    /// and hears from us often enough says nothing by itself. After twice as much it is gone.
    fn silence(&self) -> Duration {
        let timeout = self.wal_sender_timeout;
        if timeout.is_zero() { DEFAULT_SILENCE } else { timeout }
    }
}

/// Where the server has no `wal_sender_timeout`: its default.
const DEFAULT_SILENCE: Duration = Duration::from_secs(60);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Stream {
    timing: Timing,
    /// Where the next bytes of WAL belong.
    next: Lsn,
    /// The bytes of the current message that are still to come.
    left: usize,
    /// The end of the server's WAL, as it last said.
    wal_end: Lsn,
    acknowledged: Acknowledgement,
    sent: Acknowledgement,
    /// What the server was told that others need of it, in this stream.
    needed: Option<Horizons>,
    last_sent: Instant,
    last_heard: Instant,
    /// When the server was last asked for a sign of life.
    asked: Option<Instant>,
    /// The server asked for a reply.
    reply_due: bool,
    /// The server wants to end, and waits for what it sent.
    tail_request: Option<Lsn>,
}

const NOTHING: Acknowledgement = Acknowledgement { write: Lsn::INVALID, flush: Lsn::INVALID };

impl Stream {
    pub(crate) fn new(start: Lsn, timing: Timing, now: Instant) -> Self {
        Self {
            timing,
            next: start,
            left: 0,
            wal_end: start,
            acknowledged: NOTHING,
            sent: NOTHING,
            needed: None,
            last_sent: now,
            last_heard: now,
            asked: None,
            reply_due: true,
            tail_request: None,
        }
    }

    /// Where the next bytes of WAL are to be read, and how many are there at least.
    pub(crate) fn place(&self) -> Option<(Lsn, usize)> {
        (self.left > 0).then_some((self.next, self.left))
    }

    pub(crate) fn wal_end(&self) -> Lsn {
        self.wal_end
    }

    pub(crate) fn tail_request(&self) -> Option<Lsn> {
        self.tail_request
    }

    pub(crate) fn wal_begins(
        &mut self,
        header: &XLogDataHeader,
        len: usize,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        if header.start != self.next {
            let (expected, got) = (self.next, header.start);
            return Err(ProtocolError::NotContiguous { expected, got });
        }
        self.left = len;
        self.wal_end = header.wal_end.max(self.next.saturating_add(len as u64));
        self.tail_request = None;
        self.last_heard = now;
        Ok(())
    }

    /// Bytes of WAL were put where [`place`](Self::place) said.
    pub(crate) fn wal(&mut self, len: usize, now: Instant) {
        let len = len.min(self.left);
        self.left -= len;
        self.next = self.next.saturating_add(len as u64);
        self.last_heard = now;
    }

    pub(crate) fn keepalive(&mut self, keepalive: &PrimaryKeepalive, now: Instant) {
        self.wal_end = keepalive.wal_end.max(self.next);
        self.last_heard = now;
        if keepalive.reply_requested {
            self.reply_due = true;
            if keepalive.wal_end == self.next {
                self.tail_request = Some(self.next);
            }
        }
    }

    /// See [`Connection::acknowledge`](crate::Connection::acknowledge).
    pub(crate) fn acknowledge(&mut self, may: Option<Acknowledgement>, durable_tail: bool) {
        let mut may = may.unwrap_or(NOTHING);
        if let Some(end) = self.tail_request
            && durable_tail
            && may.flush.is_valid()
        {
            may = Acknowledgement { write: end, flush: end };
        }
        // Where nothing may be said yet, nothing was said; otherwise positions only grow.
        self.acknowledged.write = self.acknowledged.write.max(may.write);
        self.acknowledged.flush = self.acknowledged.flush.max(may.flush);
    }

    /// The status that is due, if one is.
    pub(crate) fn status(&mut self, now: Instant, time_us: i64) -> Option<StandbyStatusUpdate> {
        let timer = self.next_status().is_some_and(|at| at <= now);
        let ask = self.next_question().is_some_and(|at| at <= now);
        if self.acknowledged == self.sent && !self.reply_due && !timer && !ask {
            return None;
        }
        if ask {
            self.asked = Some(now);
        }
        (self.sent, self.last_sent, self.reply_due) = (self.acknowledged, now, false);
        let Acknowledgement { write, flush } = self.acknowledged;
        let apply = Lsn::INVALID;
        Some(StandbyStatusUpdate { write, flush, apply, time_us, reply_requested: ask })
    }

    /// What the server is to be told of what others need, if it doesn't know.
    ///
    /// That nobody needs anything is said as well when a stream begins: its slot keeps what was
    /// said before, by whoever used it.
    pub(crate) fn feedback(
        &mut self,
        needed: Horizons,
        time_us: i64,
    ) -> Option<HotStandbyFeedback> {
        let is_known = self.needed.replace(needed) == Some(needed);
        (!is_known).then_some(HotStandbyFeedback { time_us, horizons: needed })
    }

    fn next_status(&self) -> Option<Instant> {
        Some(self.last_sent + self.timing.interval()?)
    }

    /// Once in a silence.
    fn next_question(&self) -> Option<Instant> {
        let asked = self.asked.is_some_and(|asked| asked >= self.last_heard);
        (!asked).then(|| self.last_heard + self.timing.silence())
    }

    pub(crate) fn next_timeout(&self) -> Instant {
        let gone = self.last_heard + self.timing.silence() * 2;
        let speak = [self.next_status(), self.next_question()];
        speak.into_iter().flatten().fold(gone, Instant::min)
    }

    /// A server that is silent for too long is gone. `reading` says whether we listened.
    pub(crate) fn check_silence(
        &mut self,
        now: Instant,
        reading: bool,
    ) -> Result<(), ProtocolError> {
        if !reading {
            // A full disk: the silence is ours.
            self.last_heard = now;
        }
        let limit = self.timing.silence() * 2;
        if now.saturating_duration_since(self.last_heard) >= limit {
            return Err(ProtocolError::Silent { seconds: limit.as_secs() });
        }
        Ok(())
    }
}
