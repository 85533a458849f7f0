//! What a standby's queries still need of its upstream: hot_standby_feedback.

use crate::message::{FrameHeader, tag};
use crate::reader::Reader;

/// `FirstNormalTransactionId`, transam.h
const FIRST_NORMAL_XID: u32 = 3;
/// Half of all xids are in the past.
const XID_REACH: u64 = 1 << 31;

/// The oldest transactions whose effects somebody still has to see: full ids (epoch and xid), 0 for
/// none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Horizons {
    /// For queries (xmin).
    pub xmin: u64,
    /// For logical decoding's look at the catalogues (catalog_xmin).
    pub catalog_xmin: u64,
}

impl Horizons {
    /// Nobody needs anything.
    pub const NONE: Self = Self { xmin: 0, catalog_xmin: 0 };

    /// What several need together: the oldest of each. What is further behind the newest than xids
    /// reach can't be needed: the primary would pass over all, because of one (`TransactionIdInRecentPast`,
    /// walsender.c).
    #[must_use]
    pub fn of_all(all: &[Self]) -> Self {
        let newest = all.iter().map(|of| of.xmin.max(of.catalog_xmin)).max().unwrap_or(0);
        let oldest = |of: fn(&Self) -> u64| {
            let in_reach = |xid: &u64| *xid > 0 && newest.saturating_sub(*xid) < XID_REACH;
            all.iter().map(of).filter(in_reach).min().unwrap_or(0)
        };
        Self { xmin: oldest(|of| of.xmin), catalog_xmin: oldest(|of| of.catalog_xmin) }
    }
}

/// A standby's message (`XLogWalRcvSendHSFeedback`, walreceiver.c, 10–18).
///
/// | offset | field |
/// |---|---|
/// | 0 | `h` |
/// | 1 | sendTime, microseconds since 2000 |
/// | 9 | xmin; 0 for none |
/// | 13 | its epoch |
/// | 17 | catalog_xmin; 0 for none |
/// | 21 | its epoch |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotStandbyFeedback {
    /// The client's clock, microseconds since 2000.
    pub time_us: i64,
    /// What is needed.
    pub horizons: Horizons,
}

impl HotStandbyFeedback {
    /// The payload's first byte.
    pub const KIND: u8 = b'h';
    /// The payload's length in bytes, its kind included.
    pub const LEN: usize = 25;

    /// Reads one from a CopyData's payload; `None` if its kind isn't `h`.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        (reader.u8()? == Self::KIND).then_some(())?;
        let time_us = reader.i64()?;
        let mut full = || {
            let (xid, epoch) = (reader.u32()?, reader.u32()?);
            // Those before it are nobody's: 0 is none, and the other two are always past.
            let is_normal = xid >= FIRST_NORMAL_XID;
            Some(if is_normal { u64::from(epoch) << 32 | u64::from(xid) } else { 0 })
        };
        let horizons = Horizons { xmin: full()?, catalog_xmin: full()? };
        Some(Self { time_us, horizons })
    }

    /// The whole message as it is sent: a CopyData frame with the feedback in it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FrameHeader::LEN + Self::LEN);
        out.push(tag::COPY_DATA);
        out.extend(29_u32.to_be_bytes());
        out.push(Self::KIND);
        out.extend(self.time_us.to_be_bytes());
        for full in [self.horizons.xmin, self.horizons.catalog_xmin] {
            // The xid, then its epoch: the halves the other way round.
            out.extend(full.rotate_left(32).to_be_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_no_xid_is_none_in_any_epoch() {
        let horizons = Horizons { xmin: 7 << 32 | 700, catalog_xmin: 0 };
        let feedback = HotStandbyFeedback { time_us: 5, horizons };
        let bytes = feedback.encode();
        let (frame, payload) = bytes.split_at(FrameHeader::LEN);
        assert_eq!(frame, [b'd', 0, 0, 0, 29]);
        assert_eq!(payload[9..17], [0, 0, 2, 188, 0, 0, 0, 7]);
        let mut payload: [u8; 25] = payload.try_into().unwrap();
        assert_eq!(HotStandbyFeedback::parse(&payload), Some(feedback));
        payload[24] = 7;
        assert_eq!(HotStandbyFeedback::parse(&payload), Some(feedback));
        payload[0] = b'r';
        assert_eq!(HotStandbyFeedback::parse(&payload), None);
        let of_none = Horizons { xmin: 7 << 32 | 2, catalog_xmin: 0 };
        let bytes = HotStandbyFeedback { time_us: 5, horizons: of_none }.encode();
        let payload: [u8; 25] = bytes[FrameHeader::LEN..].try_into().unwrap();
        let parsed = HotStandbyFeedback::parse(&payload).unwrap();
        assert_eq!(parsed.horizons, Horizons::NONE);
    }

    #[test]
    fn the_oldest_counts_and_nobody_is_older_than_none() {
        let of = |xmin, catalog_xmin| Horizons { xmin, catalog_xmin };
        let all = |each: &[Horizons]| Horizons::of_all(each);
        assert_eq!(all(&[]), Horizons::NONE);
        assert_eq!(all(&[of(5, 0), of(3, 9)]), of(3, 9));
        assert_eq!(all(&[of(0, 4), Horizons::NONE]), of(0, 4));
        let (before, behind) = (u64::from(u32::MAX), 1 << 32 | 3);
        assert_eq!(all(&[of(before, 0), of(behind, 0)]), of(before, 0));
        // One that is out of reach is passed over, and not the others because of it.
        assert_eq!(all(&[of(9, 0), of(behind, 0)]), of(behind, 0));
    }
}
