//! What travels inside CopyData while a physical stream runs, and the row at a timeline's end.
//!
//! The headers have fixed lengths, so that whoever reads the socket can read a header and let the
//! WAL behind it go straight to its place; nothing here ever holds WAL. Server times are
//! informative: no decision may hang on them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pg_types::{Lsn, TimelineId};

use crate::message::{FrameHeader, tag};
use crate::query::Rows;
use crate::reader::Reader;
use crate::row::{RowError, RowReader};

/// The kinds of payload that a server sends: the first byte of CopyData.
pub mod kind {
    /// [`super::XLogDataHeader`] and WAL.
    pub const XLOG_DATA: u8 = b'w';
    /// [`super::PrimaryKeepalive`].
    pub const KEEPALIVE: u8 = b'k';
    /// [`super::StandbyStatusUpdate`], from the client.
    pub const STATUS_UPDATE: u8 = b'r';
}

/// 2000-01-01 00:00:00 UTC, where PostgreSQL's time begins, in seconds after 1970.
const PG_EPOCH_UNIX_SECS: u64 = 946_684_800;

/// The same in microseconds.
const PG_EPOCH_UNIX_MICROS: i64 = 946_684_800_000_000;

/// A moment as PostgreSQL's microseconds since 2000-01-01 UTC (`TimestampTz`). Saturates.
#[must_use]
pub fn pg_micros_from_system_time(time: SystemTime) -> i64 {
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => micros(after).saturating_sub(PG_EPOCH_UNIX_MICROS),
        Err(before) => (-PG_EPOCH_UNIX_MICROS).saturating_sub(micros(before.duration())),
    }
}

/// The moment of PostgreSQL's microseconds; `None` where the platform's time ends before it.
#[must_use]
pub fn system_time_from_pg_micros(micros: i64) -> Option<SystemTime> {
    let epoch = UNIX_EPOCH.checked_add(Duration::from_secs(PG_EPOCH_UNIX_SECS))?;
    let distance = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) }
}

/// What precedes WAL in a CopyData message (`XLogSendPhysical`, walsender.c, 10–18).
///
/// | offset | field |
/// |---|---|
/// | 0 | `w` |
/// | 1 | dataStart: the LSN of the first byte that follows |
/// | 9 | walEnd: how far the server has WAL to send |
/// | 17 | sendTime, microseconds since 2000 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XLogDataHeader {
    /// Where the WAL that follows begins (dataStart).
    pub start: Lsn,
    /// The end of the server's WAL when it sent this (walEnd).
    pub wal_end: Lsn,
    /// The server's clock then, microseconds since 2000.
    pub server_time_us: i64,
}

impl XLogDataHeader {
    /// The header's length in bytes, its kind included.
    pub const LEN: usize = 25;

    /// Reads a header; `None` if its kind isn't `w`.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        (reader.u8()? == kind::XLOG_DATA).then_some(())?;
        Some(Self {
            start: Lsn::new(reader.u64()?),
            wal_end: Lsn::new(reader.u64()?),
            server_time_us: reader.i64()?,
        })
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        join([
            &[kind::XLOG_DATA],
            &self.start.as_u64().to_be_bytes(),
            &self.wal_end.as_u64().to_be_bytes(),
            &self.server_time_us.to_be_bytes(),
        ])
    }
}

/// A keepalive of the server (`WalSndKeepalive`, walsender.c, 10–18).
///
/// | offset | field |
/// |---|---|
/// | 0 | `k` |
/// | 1 | walEnd: how far the server has sent WAL |
/// | 9 | sendTime, microseconds since 2000 |
/// | 17 | 1 if it wants an answer at once |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrimaryKeepalive {
    /// How far the server has sent (walEnd).
    pub wal_end: Lsn,
    /// The server's clock then, microseconds since 2000.
    pub server_time_us: i64,
    /// Whether it wants an answer at once.
    pub reply_requested: bool,
}

impl PrimaryKeepalive {
    /// The message's length in bytes, its kind included.
    pub const LEN: usize = 18;

    /// Reads a keepalive; `None` if its kind isn't `k`.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        (reader.u8()? == kind::KEEPALIVE).then_some(())?;
        Some(Self {
            wal_end: Lsn::new(reader.u64()?),
            server_time_us: reader.i64()?,
            reply_requested: reader.u8()? != 0,
        })
    }

    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        join([
            &[kind::KEEPALIVE],
            &self.wal_end.as_u64().to_be_bytes(),
            &self.server_time_us.to_be_bytes(),
            &[u8::from(self.reply_requested)],
        ])
    }
}

/// The client's positions (`ProcessStandbyReplyMessage`, walsender.c, 10–18).
///
/// | offset | field |
/// |---|---|
/// | 0 | `r` |
/// | 1 | writePtr |
/// | 9 | flushPtr; 0 never counts as a synchronous standby |
/// | 17 | applyPtr |
/// | 25 | sendTime, microseconds since 2000 |
/// | 33 | 1 if an answer is wanted at once |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatusUpdate {
    /// Up to where WAL is written.
    pub write: Lsn,
    /// Up to where it is durable.
    pub flush: Lsn,
    /// Up to where it is applied.
    pub apply: Lsn,
    /// The client's clock, microseconds since 2000.
    pub time_us: i64,
    /// Whether the server shall answer at once.
    pub reply_requested: bool,
}

impl StandbyStatusUpdate {
    /// The payload's length in bytes, its kind included.
    pub const LEN: usize = 34;
    /// The length of the whole CopyData message.
    pub const FRAME_LEN: usize = 39;

    /// The whole message as it is sent: a CopyData frame with the update in it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::FRAME_LEN] {
        join([
            &[tag::COPY_DATA],
            &38_u32.to_be_bytes(),
            &[kind::STATUS_UPDATE],
            &self.write.as_u64().to_be_bytes(),
            &self.flush.as_u64().to_be_bytes(),
            &self.apply.as_u64().to_be_bytes(),
            &self.time_us.to_be_bytes(),
            &[u8::from(self.reply_requested)],
        ])
    }

    /// Reads an update from a CopyData's payload; `None` if its kind isn't `r`.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        (reader.u8()? == kind::STATUS_UPDATE).then_some(())?;
        Some(Self {
            write: Lsn::new(reader.u64()?),
            flush: Lsn::new(reader.u64()?),
            apply: Lsn::new(reader.u64()?),
            time_us: reader.i64()?,
            reply_requested: reader.u8()? != 0,
        })
    }
}

/// Puts parts together whose lengths add up to `N`.
fn join<const N: usize, const PARTS: usize>(parts: [&[u8]; PARTS]) -> [u8; N] {
    let mut out = [0; N];
    debug_assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), N);
    for (to, from) in out.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    out
}

const _: () =
    assert!(StandbyStatusUpdate::FRAME_LEN == FrameHeader::LEN + StandbyStatusUpdate::LEN);

/// A whole payload of the server's CopyData.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyPayload<'a> {
    /// WAL.
    XLogData(XLogDataHeader, &'a [u8]),
    /// A keepalive.
    Keepalive(PrimaryKeepalive),
}

/// A payload that no physical stream has. The connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The kind isn't known.
    #[error("the server sent an unknown kind of message in the replication stream (0x{kind:02X})")]
    UnknownKind {
        /// The payload's first byte.
        kind: u8,
    },
    /// The length isn't the kind's.
    #[error("the server sent a {what} of {len} bytes in the replication stream, which is none")]
    WrongLength {
        /// What the kind says it is.
        what: &'static str,
        /// The payload's length in bytes.
        len: usize,
    },
}

impl<'a> CopyPayload<'a> {
    /// Reads a whole payload.
    ///
    /// # Errors
    /// An unknown kind, or a length that isn't the kind's.
    pub fn parse(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let wrong = |what| PayloadError::WrongLength { what, len: payload.len() };
        match payload.first() {
            None => Err(wrong("message")),
            Some(&kind::XLOG_DATA) => payload
                .split_first_chunk()
                .and_then(|(head, wal)| Some(Self::XLogData(XLogDataHeader::parse(head)?, wal)))
                .ok_or_else(|| wrong("piece of WAL")),
            Some(&kind::KEEPALIVE) => payload
                .try_into()
                .ok()
                .and_then(PrimaryKeepalive::parse)
                .map(Self::Keepalive)
                .ok_or_else(|| wrong("keepalive")),
            Some(&kind) => Err(PayloadError::UnknownKind { kind }),
        }
    }
}

/// Where the next timeline begins: the row that ends a stream at its timeline's end
/// (`StartReplication`, walsender.c, 10–18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfTimeline {
    /// The next timeline in the server's history; numbers may be skipped.
    pub next_timeline: TimelineId,
    /// Where it forks off.
    pub switch_point: Lsn,
}

impl EndOfTimeline {
    /// Reads the row. `None` if there is no row: the client ended the stream, not the timeline.
    ///
    /// # Errors
    /// More than one row, or columns that aren't a timeline and a position.
    pub fn from_rows(rows: &Rows) -> Result<Option<Self>, RowError> {
        if rows.rows.is_empty() {
            return Ok(None);
        }
        let row = RowReader::single("the end of the timeline", rows, 2)?;
        Ok(Some(Self { next_timeline: row.timeline(0)?, switch_point: row.lsn(1)? }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_status_update_byte_by_byte() {
        let update = StandbyStatusUpdate {
            write: Lsn::new(0x0102_0304_0506_0708),
            flush: Lsn::new(0x10),
            apply: Lsn::INVALID,
            time_us: -1,
            reply_requested: true,
        };
        let expect = b"d\0\0\0\x26r\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0\0\0\0\x10\
                       \0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        let bytes = update.encode();
        assert_eq!(&bytes, expect);
        let payload = bytes[5..].try_into().unwrap();
        assert_eq!(StandbyStatusUpdate::parse(payload), Some(update));
    }

    #[test]
    fn payloads() {
        let check = |payload: &[u8], expect| assert_eq!(CopyPayload::parse(payload), expect);
        let header = XLogDataHeader {
            start: Lsn::new(0x0300_0000),
            wal_end: Lsn::new(0x0300_0100),
            server_time_us: 5,
        };
        let bytes = [header.encode().as_slice(), b"wal"].concat();
        check(&bytes, Ok(CopyPayload::XLogData(header, b"wal")));
        check(&bytes[..25], Ok(CopyPayload::XLogData(header, b"")));
        let what = "piece of WAL";
        check(&bytes[..24], Err(PayloadError::WrongLength { what, len: 24 }));
        let keepalive = PrimaryKeepalive {
            wal_end: Lsn::new(7),
            server_time_us: i64::MIN,
            reply_requested: true,
        };
        check(&keepalive.encode(), Ok(CopyPayload::Keepalive(keepalive)));
        let what = "keepalive";
        check(b"k", Err(PayloadError::WrongLength { what, len: 1 }));
        check(&[b'k'; 19], Err(PayloadError::WrongLength { what, len: 19 }));
        check(b"", Err(PayloadError::WrongLength { what: "message", len: 0 }));
        check(b"x", Err(PayloadError::UnknownKind { kind: b'x' }));
    }

    #[test]
    fn times() {
        let epoch = UNIX_EPOCH + Duration::from_secs(PG_EPOCH_UNIX_SECS);
        assert_eq!(pg_micros_from_system_time(epoch), 0);
        assert_eq!(pg_micros_from_system_time(epoch + Duration::from_millis(1)), 1000);
        assert_eq!(pg_micros_from_system_time(UNIX_EPOCH), -946_684_800_000_000);
        assert_eq!(system_time_from_pg_micros(-946_684_800_000_000), Some(UNIX_EPOCH));
    }

    proptest! {
        #[test]
        fn times_go_there_and_back(micros in -(1_i64 << 50)..1 << 50) {
            let time = system_time_from_pg_micros(micros).unwrap();
            prop_assert_eq!(pg_micros_from_system_time(time), micros);
        }

        #[test]
        fn arbitrary_payloads_never_panic(
            payload in prop::collection::vec(any::<u8>(), 0..60),
            micros: i64,
        ) {
            let _ = CopyPayload::parse(&payload);
            let _ = system_time_from_pg_micros(micros);
        }
    }
}
