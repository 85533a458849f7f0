//! Where a relation's file lies in the data directory (`GetRelationPath`, `common/relpath.c`).

use wal_format::{RelFileLocator, WalVersion};

use crate::text::put;

/// `DEFAULTTABLESPACE_OID` and `GLOBALTABLESPACE_OID` (`catalog/pg_tablespace.dat`).
const PG_DEFAULT: u32 = 1663;
const PG_GLOBAL: u32 = 1664;

/// The names of forks (`forkNames`, `common/relpath.c`).
const FORKS: [&str; 4] = ["main", "fsm", "vm", "init"];

/// A fork's name; `None` of one that doesn't exist.
#[must_use]
pub fn fork_name(fork: u8) -> Option<&'static str> {
    FORKS.get(usize::from(fork)).copied()
}

/// The directory in a tablespace that is this version's (`TABLESPACE_VERSION_DIRECTORY`): the
/// major version and its `CATALOG_VERSION_NO` (`catalog/catversion.h`).
fn version_directory(version: WalVersion) -> &'static str {
    match version.major() {
        10 => "PG_10_201707211",
        11 => "PG_11_201809051",
        12 => "PG_12_201909212",
        13 => "PG_13_202007201",
        14 => "PG_14_202107181",
        15 => "PG_15_202209061",
        16 => "PG_16_202307071",
        17 => "PG_17_202406281",
        _ => "PG_18_202506291",
    }
}

/// `relpathperm`: the path of a fork of a relation that isn't temporary.
pub(crate) fn put_path(
    version: WalVersion,
    locator: &RelFileLocator,
    fork: u32,
    out: &mut Vec<u8>,
) {
    let RelFileLocator { tablespace, database, relation } = *locator;
    match tablespace {
        PG_GLOBAL => put!(out, "global/", relation),
        PG_DEFAULT => put!(out, "base/", database, "/", relation),
        _ => {
            put!(out, "pg_tblspc/", tablespace, "/", version_directory(version));
            put!(out, "/", database, "/", relation);
        }
    }
    if fork != 0 {
        let name = u8::try_from(fork).ok().and_then(fork_name);
        put!(out, "_", name.unwrap_or("unknown"));
    }
}
