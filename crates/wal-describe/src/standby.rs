//! What a hot standby has to know (`Standby`; `storage/standbydefs.h`, `storage/lockdefs.h`,
//! 10–18).

use serde::Serialize;

use crate::far::Data;
use crate::invalidation::Invalidations;
use crate::layout::{Items, layout};
use crate::text::put;
use crate::{Source, Style};

/// What a record for a hot standby says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Standby<'a> {
    /// `XLOG_STANDBY_LOCK` (`xl_standby_locks`)
    Lock {
        /// `locks`
        locks: Items<'a, Lock>,
    },
    /// `XLOG_RUNNING_XACTS`
    RunningXacts(RunningXacts<'a>),
    /// `XLOG_INVALIDATIONS`
    Invalidations(Invalidations<'a>),
    /// A number that stands for nothing.
    Nothing,
}

layout! {
    /// `xl_standby_lock` (`storage/lockdefs.h`): an access exclusive lock.
    Lock {
        /// `xid`
        xid: u32,
        /// `dbOid`
        database: u32,
        /// `relOid`
        relation: u32,
    }
}

/// `xl_running_xacts`
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RunningXacts<'a> {
    /// `subxid_overflow`: not all subtransactions are listed
    pub subxid_overflow: bool,
    /// `nextXid`
    pub next_xid: u32,
    /// `oldestRunningXid`
    pub oldest_running_xid: u32,
    /// `latestCompletedXid`
    pub latest_completed_xid: u32,
    /// The first `xcnt` of `xids`
    pub xids: Items<'a, u32>,
    /// The `subxcnt` behind them
    pub subxids: Items<'a, u32>,
}

impl<'a> Standby<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut data = Data::of(source);
        Some(match source.info() {
            0x00 => {
                let count = data.field()?;
                Self::Lock { locks: data.items(count)? }
            }
            0x10 => Self::RunningXacts(RunningXacts::read(&mut data)?),
            0x20 => Self::Invalidations(Invalidations::read(&mut data)?),
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Lock { locks } => {
                for lock in locks.iter() {
                    put!(out, "xid ", lock.xid, " db ", lock.database);
                    put!(out, " rel ", lock.relation, " ");
                    style.relieve(out);
                }
            }
            Self::RunningXacts(running) => running.text(style, out),
            Self::Invalidations(invalidations) => invalidations.text(style, out),
            Self::Nothing => {}
        }
    }
}

impl<'a> RunningXacts<'a> {
    fn read(data: &mut Data<'a>) -> Option<Self> {
        let (xids, subxids) = (data.field()?, data.field()?);
        let subxid_overflow = data.field()?;
        data.skip(3)?;
        Some(Self {
            subxid_overflow,
            next_xid: data.field()?,
            oldest_running_xid: data.field()?,
            latest_completed_xid: data.field()?,
            xids: data.items(xids)?,
            subxids: data.items(subxids)?,
        })
    }

    fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        put!(out, "nextXid ", self.next_xid);
        put!(out, " latestCompletedXid ", self.latest_completed_xid);
        put!(out, " oldestRunningXid ", self.oldest_running_xid);
        put_xids("xacts", &self.xids, style, out);
        if self.subxid_overflow {
            put!(out, if style.since(16) { "; subxid overflowed" } else { "; subxid ovf" });
        }
        if style.since(16) {
            put_xids("subxacts", &self.subxids, style, out);
        }
    }
}

fn put_xids(label: &str, xids: &Items<'_, u32>, style: &Style<'_>, out: &mut Vec<u8>) {
    if !xids.is_empty() {
        put!(out, "; ", xids.len(), " ", label, ":");
        for xid in xids.iter() {
            put!(out, " ", xid);
            style.relieve(out);
        }
    }
}
