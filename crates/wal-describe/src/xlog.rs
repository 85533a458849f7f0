//! The log's own records (`XLOG`; `catalog/pg_control.h`, `access/xlog_internal.h`).

use pg_types::Lsn;
use serde::Serialize;
use wal_format::Reader;

use crate::layout::{Field, layout, lossy};
use crate::text::{EpochXid, put};
use crate::{Source, Style, Time, c_string};

/// What a record of the log itself says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Xlog<'a> {
    /// `XLOG_CHECKPOINT_SHUTDOWN`, `XLOG_CHECKPOINT_ONLINE`
    Checkpoint(Checkpoint),
    /// `XLOG_NEXTOID`
    NextOid {
        /// The first object id that isn't logged as used yet.
        oid: u32,
    },
    /// `XLOG_BACKUP_END`
    BackupEnd {
        /// Where the backup started.
        start: Lsn,
    },
    /// `XLOG_PARAMETER_CHANGE`
    ParameterChange(ParameterChange),
    /// `XLOG_RESTORE_POINT`
    RestorePoint(RestorePoint<'a>),
    /// `XLOG_FPW_CHANGE`
    FpwChange {
        /// The new `full_page_writes`.
        full_page_writes: bool,
    },
    /// `XLOG_END_OF_RECOVERY`
    EndOfRecovery(EndOfRecovery),
    /// `XLOG_OVERWRITE_CONTRECORD`
    OverwriteContrecord(OverwriteContrecord),
    /// `XLOG_CHECKPOINT_REDO`, from 17 on
    CheckpointRedo {
        /// `wal_level`
        wal_level: WalLevel,
    },
    /// Those that have nothing to say.
    Nothing,
}

/// `wal_level` (`WalLevel`, `access/xlog.h`) as the number that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalLevel(pub i32);

impl WalLevel {
    /// The setting's name; `?` of what no version has.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "minimal",
            1 => "replica",
            2 => "logical",
            _ => "?",
        }
    }
}

impl Field for WalLevel {
    const SIZE: usize = 4;
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        i32::read(reader).map(Self)
    }
}

impl Serialize for WalLevel {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A checkpoint (`CheckPoint`, `catalog/pg_control.h`, 12–18; in 10 and 11 the transaction's epoch
/// is a number of its own).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Checkpoint {
    /// `redo`: where recovery from it begins
    pub redo: Lsn,
    /// `ThisTimeLineID`
    pub timeline: u32,
    /// `PrevTimeLineID`
    pub previous_timeline: u32,
    /// `fullPageWrites`
    pub full_page_writes: bool,
    /// `wal_level`, from 17 on
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal_level: Option<WalLevel>,
    /// `nextXid`, with its epoch in the upper half
    pub next_xid: u64,
    /// `nextOid` and what follows it
    #[serde(flatten)]
    pub counters: Counters,
    /// Whether it was the server's last act: the record's type says so.
    pub shutdown: bool,
}

layout! {
    /// The rest of a checkpoint, the same in 10–18.
    Counters {
        /// `nextOid`
        next_oid: u32,
        /// `nextMulti`
        next_multi: u32,
        /// `nextMultiOffset`
        next_multi_offset: u32,
        /// `oldestXid`
        oldest_xid: u32,
        /// `oldestXidDB`
        oldest_xid_database: u32,
        /// `oldestMulti`
        oldest_multi: u32,
        /// `oldestMultiDB`
        oldest_multi_database: u32,
        /// `time`, seconds since 1970, at the next multiple of 8
        [skip 4] time: i64,
        /// `oldestCommitTsXid`
        oldest_commit_ts_xid: u32,
        /// `newestCommitTsXid`
        newest_commit_ts_xid: u32,
        /// `oldestActiveXid`
        oldest_active_xid: u32,
    }
}

layout! {
    /// `xl_parameter_change` (`access/xlog_internal.h`, 12–18).
    ParameterChange {
        /// `MaxConnections`
        max_connections: i32,
        /// `max_worker_processes`
        max_worker_processes: i32,
        /// `max_wal_senders`
        max_wal_senders: i32,
        /// `max_prepared_xacts`
        max_prepared_xacts: i32,
        /// `max_locks_per_xact`
        max_locks_per_xact: i32,
        /// `wal_level`
        wal_level: WalLevel,
        /// `wal_log_hints`
        wal_log_hints: bool,
        /// `track_commit_timestamp`
        track_commit_timestamp: bool,
    }
}

/// `xl_restore_point` (`access/xlog_internal.h`, 10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RestorePoint<'a> {
    /// `rp_time`
    pub time: Time,
    /// `rp_name`, in the database's encoding
    #[serde(serialize_with = "lossy")]
    pub name: &'a [u8],
}

/// `xl_end_of_recovery` (`access/xlog_internal.h`, 10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct EndOfRecovery {
    /// `end_time`
    pub time: Time,
    /// `ThisTimeLineID`
    pub timeline: u32,
    /// `PrevTimeLineID`
    pub previous_timeline: u32,
    /// `wal_level`, from 17 on
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal_level: Option<WalLevel>,
}

layout! {
    /// `xl_overwrite_contrecord` (`access/xlog_internal.h`, 10–18).
    OverwriteContrecord {
        /// `overwritten_lsn`: the start of the record that broke off
        overwritten: Lsn,
        /// `overwrite_time`
        time: Time,
    }
}

impl<'a> Xlog<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        let reader = &mut data;
        let major = source.version.major();
        Some(match source.info() {
            info @ (0x00 | 0x10) => Self::Checkpoint(Checkpoint::read(reader, major, info == 0)?),
            0x30 => Self::NextOid { oid: reader.u32()? },
            0x50 => Self::BackupEnd { start: Lsn::read(reader)? },
            0x60 => Self::ParameterChange(ParameterChange::read(reader)?),
            0x70 => Self::RestorePoint(RestorePoint {
                time: Time::read(reader)?,
                name: c_string(reader.take(RESTORE_POINT_NAME)?),
            }),
            0x80 => Self::FpwChange { full_page_writes: bool::read(reader)? },
            0x90 => Self::EndOfRecovery(EndOfRecovery {
                time: Time::read(reader)?,
                timeline: reader.u32()?,
                previous_timeline: reader.u32()?,
                wal_level: if major >= 17 { Some(WalLevel::read(reader)?) } else { None },
            }),
            0xD0 => Self::OverwriteContrecord(OverwriteContrecord::read(reader)?),
            0xE0 if major >= 17 => Self::CheckpointRedo { wal_level: WalLevel::read(reader)? },
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.text(out),
            Self::NextOid { oid } => put!(out, *oid),
            Self::BackupEnd { start } => put!(out, *start),
            Self::ParameterChange(change) => change.text(out),
            Self::RestorePoint(point) => put!(out, point.name),
            Self::FpwChange { full_page_writes } => put!(out, truth(*full_page_writes)),
            Self::EndOfRecovery(end) => {
                put!(out, "tli ", end.timeline, "; prev tli ", end.previous_timeline, "; time ");
                style.zone.put(end.time, out);
                if let Some(wal_level) = end.wal_level {
                    put!(out, "; wal_level ", wal_level.name());
                }
            }
            Self::OverwriteContrecord(overwrite) => {
                put!(out, "lsn ", overwrite.overwritten, "; time ");
                style.zone.put(overwrite.time, out);
            }
            Self::CheckpointRedo { wal_level } => put!(out, "wal_level ", wal_level.name()),
            Self::Nothing => {}
        }
    }
}

/// The bytes of a restore point's name (`MAXFNAMELEN`).
const RESTORE_POINT_NAME: usize = 64;

fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn switch(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

impl Checkpoint {
    fn read(reader: &mut Reader<'_>, major: u32, shutdown: bool) -> Option<Self> {
        let (redo, timeline, previous_timeline) =
            (Lsn::read(reader)?, reader.u32()?, reader.u32()?);
        let full_page_writes = bool::read(reader)?;
        reader.take(3)?;
        let (wal_level, next_xid, counters) = if major >= 12 {
            let wal_level = WalLevel::read(reader)?;
            let wal_level = (major >= 17).then_some(wal_level);
            (wal_level, reader.u64()?, Counters::read(reader)?)
        } else {
            let (epoch, xid) = (reader.u32()?, reader.u32()?);
            (None, u64::from(epoch) << 32 | u64::from(xid), Counters::read_unpadded(reader)?)
        };
        Some(Self {
            redo,
            timeline,
            previous_timeline,
            full_page_writes,
            wal_level,
            next_xid,
            counters,
            shutdown,
        })
    }

    fn text(&self, out: &mut Vec<u8>) {
        let counters = &self.counters;
        put!(out, "redo ", self.redo, "; tli ", self.timeline);
        put!(out, "; prev tli ", self.previous_timeline, "; fpw ", truth(self.full_page_writes));
        if let Some(wal_level) = self.wal_level {
            put!(out, "; wal_level ", wal_level.name());
        }
        put!(out, "; xid ", EpochXid(self.next_xid), "; oid ", counters.next_oid);
        put!(out, "; multi ", counters.next_multi, "; offset ", counters.next_multi_offset);
        put!(out, "; oldest xid ", counters.oldest_xid, " in DB ", counters.oldest_xid_database);
        put!(out, "; oldest multi ", counters.oldest_multi);
        put!(out, " in DB ", counters.oldest_multi_database);
        put!(out, "; oldest/newest commit timestamp xid: ", counters.oldest_commit_ts_xid);
        put!(out, "/", counters.newest_commit_ts_xid);
        put!(out, "; oldest running xid ", counters.oldest_active_xid);
        put!(out, if self.shutdown { "; shutdown" } else { "; online" });
    }
}

impl Counters {
    /// As in 10 and 11, where the members before are four bytes shorter, so that `time` needs no
    /// padding.
    fn read_unpadded(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            next_oid: reader.u32()?,
            next_multi: reader.u32()?,
            next_multi_offset: reader.u32()?,
            oldest_xid: reader.u32()?,
            oldest_xid_database: reader.u32()?,
            oldest_multi: reader.u32()?,
            oldest_multi_database: reader.u32()?,
            time: reader.i64()?,
            oldest_commit_ts_xid: reader.u32()?,
            newest_commit_ts_xid: reader.u32()?,
            oldest_active_xid: reader.u32()?,
        })
    }
}

impl ParameterChange {
    fn text(&self, out: &mut Vec<u8>) {
        put!(out, "max_connections=", self.max_connections);
        put!(out, " max_worker_processes=", self.max_worker_processes);
        put!(out, " max_wal_senders=", self.max_wal_senders);
        put!(out, " max_prepared_xacts=", self.max_prepared_xacts);
        put!(out, " max_locks_per_xact=", self.max_locks_per_xact);
        put!(out, " wal_level=", self.wal_level.name());
        put!(out, " wal_log_hints=", switch(self.wal_log_hints));
        put!(out, " track_commit_timestamp=", switch(self.track_commit_timestamp));
    }
}
