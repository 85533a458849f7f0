//! The few records that an archive remembers: commits and aborts, checkpoints, restore points.
//!
//! They are told from a record's header and the first bytes of its body, so that a record of a
//! gigabyte costs no memory.

use std::fmt;

use pg_types::Lsn;

use crate::bytes::Reader;
use crate::{RecordHeader, RmgrId, WalVersion};

/// The bytes of a body that are kept to tell from. A restore point's 72 bytes of data, behind at
/// most 13 of headers (origin 3, top-level xid 5, length 5), and a checkpoint's 16 are fewer; the
/// xid of a prepared transaction stands behind its subtransactions and all else, of which this is
/// some hundred.
pub(crate) const PREFIX_LEN: usize = 1024;

/// A time as the server keeps it (`TimestampTz`, `datatype/timestamp.h`): microseconds since
/// 2000-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimestampTz(pub i64);

/// A restore point's name: up to 63 bytes (`xl_restore_point.rp_name`, `MAXFNAMELEN`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RestorePointName([u8; 64]);

impl RestorePointName {
    /// The name's bytes; they are in the database's encoding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        self.0.get(..end).unwrap_or_default()
    }
}

impl fmt::Debug for RestorePointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

/// What an archive's index wants to know of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notable {
    /// A commit, also of a prepared transaction (`xl_xact_commit`, `access/xact.h`).
    Commit {
        /// When.
        time: TimestampTz,
        /// Whose: `recovery_target_xid` is compared with this. `None` of a prepared transaction
        /// with so many subtransactions, files or messages that its xid is too far behind.
        xid: Option<u32>,
    },
    /// An abort, also of a prepared transaction (`xl_xact_abort`).
    Abort {
        /// When.
        time: TimestampTz,
        /// Whose, as of a commit.
        xid: Option<u32>,
    },
    /// A checkpoint (`CheckPoint`, `catalog/pg_control.h`).
    Checkpoint {
        /// Where recovery from it begins.
        redo: Lsn,
        /// Whether it was the server's last act.
        shutdown: bool,
    },
    /// `pg_create_restore_point` (`xl_restore_point`, `access/xlog_internal.h`).
    RestorePoint {
        /// When.
        time: TimestampTz,
        /// Its name.
        name: RestorePointName,
    },
    /// The record that follows a crash in mid-record (`xl_overwrite_contrecord`).
    OverwriteContrecord {
        /// The start of the record that broke off.
        overwritten: Lsn,
    },
}

/// `info` without the bits that belong to every manager (`XLR_INFO_MASK`).
const RMGR_INFO: u8 = 0xF0;
const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;
const XLOG_SWITCH: u8 = 0x40;
const XLOG_RESTORE_POINT: u8 = 0x70;
const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;

/// `XLOG_XACT_OPMASK`
const XACT_OPERATION: u8 = 0x70;
const XLOG_XACT_COMMIT: u8 = 0x00;
const XLOG_XACT_ABORT: u8 = 0x20;
const XLOG_XACT_COMMIT_PREPARED: u8 = 0x30;
const XLOG_XACT_ABORT_PREPARED: u8 = 0x40;
const XLOG_XACT_HAS_INFO: u8 = 0x80;

/// `XACT_XINFO_HAS_…`, 10–18; dropped statistics from 15.
const HAS_DBINFO: u32 = 1;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_RELFILES: u32 = 1 << 2;
const HAS_INVALS: u32 = 1 << 3;
const HAS_TWOPHASE: u32 = 1 << 4;
const HAS_DROPPED_STATS: u32 = 1 << 8;

/// Whether the rest of the segment after this record is empty.
#[must_use]
pub fn is_switch(header: &RecordHeader) -> bool {
    header.rmgr == RmgrId::XLOG && header.info & RMGR_INFO == XLOG_SWITCH
}

/// Whether a record can be notable, and its prefix worth keeping.
pub(crate) fn may_be_notable(header: &RecordHeader) -> bool {
    match header.rmgr {
        RmgrId::TRANSACTION => true,
        RmgrId::XLOG => matches!(
            header.info & RMGR_INFO,
            XLOG_CHECKPOINT_SHUTDOWN
                | XLOG_CHECKPOINT_ONLINE
                | XLOG_RESTORE_POINT
                | XLOG_OVERWRITE_CONTRECORD
        ),
        _ => false,
    }
}

impl Notable {
    /// Tells from a header and the first bytes of the body.
    pub(crate) fn of(
        header: &RecordHeader,
        prefix: &[u8],
        version: Option<WalVersion>,
    ) -> Option<Self> {
        match header.rmgr {
            RmgrId::TRANSACTION => transaction(header, prefix, version?),
            RmgrId::XLOG => xlog(header.info & RMGR_INFO, prefix),
            _ => None,
        }
    }
}

fn transaction(header: &RecordHeader, prefix: &[u8], version: WalVersion) -> Option<Notable> {
    let (commit, prepared) = match header.info & XACT_OPERATION {
        XLOG_XACT_COMMIT => (true, false),
        XLOG_XACT_COMMIT_PREPARED => (true, true),
        XLOG_XACT_ABORT => (false, false),
        XLOG_XACT_ABORT_PREPARED => (false, true),
        _ => return None,
    };
    let mut data = main_data(prefix)?;
    let time = TimestampTz(data.i64()?);
    let xid = if prepared { prepared_xid(header.info, data, version) } else { Some(header.xid) };
    Some(if commit { Notable::Commit { time, xid } } else { Notable::Abort { time, xid } })
}

/// The xid of a prepared transaction's end (`xl_xact_twophase`), behind the parts that `xinfo`
/// says are there (`ParseCommitRecord`, `ParseAbortRecord`); the record's own xid is none.
fn prepared_xid(info: u8, mut data: Reader<'_>, version: WalVersion) -> Option<u32> {
    if info & XLOG_XACT_HAS_INFO == 0 {
        return None;
    }
    let xinfo = data.u32()?;
    if xinfo & HAS_DBINFO != 0 {
        data.take(8)?;
    }
    for (part, item_bytes) in [
        (HAS_SUBXACTS, 4),
        (HAS_RELFILES, 12),
        (HAS_DROPPED_STATS, version.dropped_stats_bytes()),
        (HAS_INVALS, 16),
    ] {
        if xinfo & part != 0 {
            let items = usize::try_from(data.u32()?).ok()?;
            data.take(items.checked_mul(item_bytes)?)?;
        }
    }
    if xinfo & HAS_TWOPHASE != 0 { data.u32() } else { None }
}

fn xlog(operation: u8, prefix: &[u8]) -> Option<Notable> {
    match operation {
        XLOG_CHECKPOINT_SHUTDOWN | XLOG_CHECKPOINT_ONLINE => Some(Notable::Checkpoint {
            redo: Lsn::new(main_data(prefix)?.u64()?),
            shutdown: operation == XLOG_CHECKPOINT_SHUTDOWN,
        }),
        XLOG_RESTORE_POINT => {
            let mut data = main_data(prefix)?;
            let time = TimestampTz(data.i64()?);
            Some(Notable::RestorePoint { time, name: RestorePointName(data.array()?) })
        }
        XLOG_OVERWRITE_CONTRECORD => {
            let overwritten = Lsn::new(main_data(prefix)?.u64()?);
            Some(Notable::OverwriteContrecord { overwritten })
        }
        _ => None,
    }
}

/// The main data of a record without block references, which is what notable records are.
fn main_data(prefix: &[u8]) -> Option<Reader<'_>> {
    use crate::record::block_id;
    let mut reader = Reader::new(prefix);
    loop {
        match reader.u8()? {
            block_id::ORIGIN => {
                reader.u16()?;
            }
            block_id::TOPLEVEL_XID => {
                reader.u32()?;
            }
            block_id::DATA_SHORT => {
                reader.u8()?;
                return Some(reader);
            }
            block_id::DATA_LONG => {
                reader.u32()?;
                return Some(reader);
            }
            _ => return None,
        }
    }
}
