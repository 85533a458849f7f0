//! Databases (`Database`; `commands/dbcommands_xlog.h`), tablespaces (`Tablespace`;
//! `commands/tablespace.h`), files (`Storage`; `catalog/storage_xlog.h`), the map of catalogs
//! (`RelMap`; `utils/relmapper.h`) and sequences (`Sequence`; `commands/sequence.h`).

use serde::Serialize;
use wal_format::{Reader, RelFileLocator};

use crate::layout::{Field, Items, layout, lossy};
use crate::path::put_path;
use crate::text::put;
use crate::{Source, Style, c_string};

/// What a record of databases says. The numbers of record types moved in 15.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Database<'a> {
    /// `XLOG_DBASE_CREATE_FILE_COPY`; `XLOG_DBASE_CREATE` up to 14
    CreateFileCopy(CreateFileCopy),
    /// `XLOG_DBASE_CREATE_WAL_LOG` (`xl_dbase_create_wal_log_rec`), from 15 on
    CreateWalLog {
        /// `db_id`
        database: u32,
        /// `tablespace_id`
        tablespace: u32,
    },
    /// `XLOG_DBASE_DROP` (`xl_dbase_drop_rec`, 13–18)
    Drop {
        /// `db_id`
        database: u32,
        /// `tablespace_ids`
        tablespaces: Items<'a, u32>,
    },
    /// A number that stands for nothing.
    Nothing,
}

layout! {
    /// `xl_dbase_create_file_copy_rec` (`xl_dbase_create_rec` up to 14).
    CreateFileCopy {
        /// `db_id`
        database: u32,
        /// `tablespace_id`
        tablespace: u32,
        /// `src_db_id`
        source_database: u32,
        /// `src_tablespace_id`
        source_tablespace: u32,
    }
}

/// What a record of tablespaces says (10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Tablespace<'a> {
    /// `XLOG_TBLSPC_CREATE` (`xl_tblspc_create_rec`)
    Create {
        /// `ts_id`
        tablespace: u32,
        /// `ts_path`
        #[serde(serialize_with = "lossy")]
        path: &'a [u8],
    },
    /// `XLOG_TBLSPC_DROP` (`xl_tblspc_drop_rec`)
    Drop {
        /// `ts_id`
        tablespace: u32,
    },
    /// A number that stands for nothing.
    Nothing,
}

/// What a record of files says (10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Storage {
    /// `XLOG_SMGR_CREATE`
    Create(Create),
    /// `XLOG_SMGR_TRUNCATE`
    Truncate(Truncate),
    /// A number that stands for nothing.
    Nothing,
}

layout! {
    /// `xl_smgr_create`
    Create {
        /// `rlocator`
        locator: RelFileLocator,
        /// `forkNum`
        fork: u32,
    }
}

layout! {
    /// `xl_smgr_truncate`
    Truncate {
        /// `blkno`: how many blocks stay
        blocks: u32,
        /// `rlocator`
        locator: RelFileLocator,
        /// `flags`: `SMGR_TRUNCATE_…`
        flags: i32,
    }
}

/// What a record of the map of catalogs says (10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum RelMap {
    /// `XLOG_RELMAP_UPDATE`
    Update(MapUpdate),
    /// A number that stands for nothing.
    Nothing,
}

layout! {
    /// `xl_relmap_update`, without the map.
    MapUpdate {
        /// `dbid`
        database: u32,
        /// `tsid`
        tablespace: u32,
        /// `nbytes`
        bytes: i32,
    }
}

/// What a record of sequences says (10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Sequence {
    /// `XLOG_SEQ_LOG`
    Log(SequenceLog),
    /// A number that stands for nothing.
    Nothing,
}

layout! {
    /// `xl_seq_rec`, without the tuple.
    SequenceLog {
        /// `locator`
        locator: RelFileLocator,
    }
}

impl<'a> Database<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        let reader = &mut data;
        Some(match (source.info(), source.version.major() >= 15) {
            (0x00, _) => Self::CreateFileCopy(CreateFileCopy::read(reader)?),
            (0x10, true) => {
                let (database, tablespace) = (reader.u32()?, reader.u32()?);
                Self::CreateWalLog { database, tablespace }
            }
            (0x10, false) | (0x20, true) => {
                let (database, count) = (reader.u32()?, i32::read(reader)?);
                Self::Drop { database, tablespaces: Items::read_int(reader, count)? }
            }
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, out: &mut Vec<u8>) {
        match self {
            Self::CreateFileCopy(copy) => {
                put!(out, "copy dir ", copy.source_tablespace, "/", copy.source_database);
                put!(out, " to ", copy.tablespace, "/", copy.database);
            }
            Self::CreateWalLog { database, tablespace } => {
                put!(out, "create dir ", *tablespace, "/", *database);
            }
            Self::Drop { database, tablespaces } => {
                put!(out, "dir");
                for tablespace in tablespaces.iter() {
                    put!(out, " ", tablespace, "/", *database);
                }
            }
            Self::Nothing => {}
        }
    }
}

impl<'a> Tablespace<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        Some(match source.info() {
            0x00 => Self::Create { tablespace: data.u32()?, path: c_string(data.rest()) },
            0x10 => Self::Drop { tablespace: data.u32()? },
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, out: &mut Vec<u8>) {
        match self {
            Self::Create { tablespace, path } => put!(out, *tablespace, " \"", *path, "\""),
            Self::Drop { tablespace } => put!(out, *tablespace),
            Self::Nothing => {}
        }
    }
}

impl Storage {
    pub(crate) fn read(source: &Source<'_>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        Some(match source.info() {
            0x10 => Self::Create(Create::read(&mut data)?),
            0x20 => Self::Truncate(Truncate::read(&mut data)?),
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Create(create) => put_path(style.version, &create.locator, create.fork, out),
            Self::Truncate(truncate) => {
                put_path(style.version, &truncate.locator, 0, out);
                put!(out, " to ", truncate.blocks, " blocks flags ", truncate.flags);
            }
            Self::Nothing => {}
        }
    }
}

impl RelMap {
    pub(crate) fn read(source: &Source<'_>) -> Option<Self> {
        Some(match source.info() {
            0x00 => Self::Update(MapUpdate::read(&mut Reader::new(source.body.main_data))?),
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        let Self::Update(update) = self else { return };
        put!(out, "database ", update.database, " tablespace ", update.tablespace, " size ");
        if style.since(15) {
            put!(out, update.bytes);
        } else {
            put!(out, update.bytes.cast_unsigned());
        }
    }
}

impl Sequence {
    pub(crate) fn read(source: &Source<'_>) -> Option<Self> {
        Some(match source.info() {
            0x00 => Self::Log(SequenceLog::read(&mut Reader::new(source.body.main_data))?),
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, out: &mut Vec<u8>) {
        if let Self::Log(log) = self {
            put!(out, "rel ", log.locator);
        }
    }
}
