//! Cache invalidation messages, in the records of several managers.

use serde::Serialize;
use wal_format::{Reader, RelFileLocator};

use crate::Style;
use crate::far::Data;
use crate::layout::{Field, Items};
use crate::text::put;

/// A message (`SharedInvalidationMessage`, `storage/sinval.h`, 10–18): 16 bytes, of which the
/// first says which kind it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Invalidation {
    /// A tuple in a catalog cache (`SharedInvalCatcacheMsg`).
    Catcache {
        /// `id`: which cache
        id: i8,
        /// `dbId`
        database: u32,
        /// `hashValue`
        hash: u32,
    },
    /// All of a catalog (`SharedInvalCatalogMsg`).
    Catalog {
        /// `dbId`
        database: u32,
        /// `catId`
        catalog: u32,
    },
    /// A relation's entry (`SharedInvalRelcacheMsg`).
    Relcache {
        /// `dbId`
        database: u32,
        /// `relId`, 0 for all
        relation: u32,
    },
    /// An open file (`SharedInvalSmgrMsg`).
    Smgr {
        /// `rlocator`
        locator: RelFileLocator,
    },
    /// A database's map of relations (`SharedInvalRelmapMsg`).
    Relmap {
        /// `dbId`
        database: u32,
    },
    /// Snapshots of a catalog (`SharedInvalSnapshotMsg`).
    Snapshot {
        /// `dbId`
        database: u32,
        /// `relId`
        relation: u32,
    },
    /// A publication's entry of a relation (`SharedInvalRelSyncMsg`, from 18 on).
    Relsync {
        /// `dbId`
        database: u32,
        /// `relid`, 0 for all
        relation: u32,
    },
    /// One that no version knows.
    Unknown {
        /// Its first byte.
        id: i8,
    },
}

/// `SHAREDINVALRELSYNC_ID`
const RELSYNC: i8 = -6;

impl Field for Invalidation {
    const SIZE: usize = 16;

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut message = Reader::new(reader.take(Self::SIZE)?);
        let id = i8::read(&mut message)?;
        message.take(3)?;
        let first = message.u32()?;
        let second = message.u32()?;
        Some(match id {
            0.. => Self::Catcache { id, database: first, hash: second },
            -1 => Self::Catalog { database: first, catalog: second },
            -2 => Self::Relcache { database: first, relation: second },
            -3 => {
                let (tablespace, database) = (first, second);
                let relation = message.u32()?;
                Self::Smgr { locator: RelFileLocator { tablespace, database, relation } }
            }
            -4 => Self::Relmap { database: first },
            -5 => Self::Snapshot { database: first, relation: second },
            RELSYNC => Self::Relsync { database: first, relation: second },
            _ => Self::Unknown { id },
        })
    }
}

/// Messages, and whether a database's init file of the relation cache goes with them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Invalidations<'a> {
    /// `dbId`
    pub database: u32,
    /// `tsId`
    pub tablespace: u32,
    /// `relcacheInitFileInval`
    pub relcache_init_file: bool,
    /// `msgs`
    pub messages: Items<'a, Invalidation>,
}

impl<'a> Invalidations<'a> {
    /// `xl_invalidations` (`storage/standbydefs.h`, 10–18), and the end of `xl_heap_inplace`.
    pub(crate) fn read(data: &mut Data<'a>) -> Option<Self> {
        let (database, tablespace) = (data.field()?, data.field()?);
        let relcache_init_file = data.field()?;
        data.skip(3)?;
        let count = data.field()?;
        let messages = data.items(count)?;
        Some(Self { database, tablespace, relcache_init_file, messages })
    }

    /// `standby_desc_invalidations`: nothing at all without messages.
    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        if self.messages.is_empty() {
            return;
        }
        if self.relcache_init_file {
            put!(out, "; relcache init file inval dbid ", self.database);
            put!(out, " tsid ", self.tablespace);
        }
        put!(out, "; inval msgs:");
        for message in self.messages.iter() {
            match message {
                Invalidation::Catcache { id, .. } => put!(out, " catcache ", id),
                Invalidation::Catalog { catalog, .. } => put!(out, " catalog ", catalog),
                Invalidation::Relcache { relation, .. } => put!(out, " relcache ", relation),
                Invalidation::Smgr { .. } => put!(out, " smgr"),
                Invalidation::Relmap { database } => put!(out, " relmap db ", database),
                Invalidation::Snapshot { relation, .. } => put!(out, " snapshot ", relation),
                Invalidation::Relsync { relation, .. } if style.since(18) => {
                    put!(out, " relsync ", relation);
                }
                Invalidation::Relsync { .. } => put!(out, " unrecognized id ", RELSYNC),
                Invalidation::Unknown { id } => put!(out, " unrecognized id ", id),
            }
            style.relieve(out);
        }
    }
}
