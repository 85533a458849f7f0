//! The names of record types (`rm_identify` of each manager, `access/rmgrdesc`).
//!
//! Where the same number means different things in different versions, the version decides.

use wal_format::{RmgrId, WalVersion};

/// `~XLR_INFO_MASK`: the bits of `xl_info` that belong to the manager.
pub(crate) const RMGR_INFO: u8 = 0xF0;
/// `XLOG_XACT_OPMASK`
pub(crate) const XACT_OPERATION: u8 = 0x70;

/// The record type's name: `INSERT+INIT`. `None` of what the manager doesn't know, which
/// pg_waldump prints as `UNKNOWN (%x)`; of an extension's managers it knows none.
#[must_use]
pub fn identify(version: WalVersion, rmgr: RmgrId, info: u8) -> Option<&'static str> {
    let major = version.major();
    let info = info & RMGR_INFO;
    match rmgr.0 {
        0 => xlog(major, info),
        1 => transaction(major, info & XACT_OPERATION),
        2 => of(info, &["", "CREATE", "TRUNCATE"]),
        3 => of(info, &["ZEROPAGE", "TRUNCATE"]),
        4 if major >= 15 => of(info, &["CREATE_FILE_COPY", "CREATE_WAL_LOG", "DROP"]),
        4 | 5 => of(info, &["CREATE", "DROP"]),
        6 => of(info, &["ZERO_OFF_PAGE", "ZERO_MEM_PAGE", "CREATE_ID", "TRUNCATE_ID"]),
        7 => of(info, &["UPDATE"]),
        8 => of(info, &["LOCK", "RUNNING_XACTS", "INVALIDATIONS"]),
        9 => heap2(major, info),
        10 => heap(major, info),
        11 => btree(major, info),
        12 => of(info, &HASH),
        13 | 16 if info == 0 && major <= 11 => Some("CREATE_INDEX"),
        13 => of(info, &GIN),
        14 => gist(major, info),
        15 => of(info, &["LOG"]),
        16 => of(info, &SPGIST),
        17 => brin(info),
        18 => commit_ts(major, info),
        19 => of(info, &["SET", "DROP"]),
        20 => Some("Generic"),
        21 => of(info, &["MESSAGE"]),
        _ => None,
    }
}

/// The name by the number's upper half; empty where the number isn't used.
fn of(info: u8, names: &[&'static str]) -> Option<&'static str> {
    names.get(usize::from(info >> 4)).copied().filter(|name| !name.is_empty())
}

/// `catalog/pg_control.h`
fn xlog(major: u32, info: u8) -> Option<&'static str> {
    const NAMES: [&str; 15] = [
        "CHECKPOINT_SHUTDOWN",
        "CHECKPOINT_ONLINE",
        "NOOP",
        "NEXTOID",
        "SWITCH",
        "BACKUP_END",
        "PARAMETER_CHANGE",
        "RESTORE_POINT",
        "FPW_CHANGE",
        "END_OF_RECOVERY",
        "FPI_FOR_HINT",
        "FPI",
        "",
        "OVERWRITE_CONTRECORD",
        "CHECKPOINT_REDO",
    ];
    of(info, &NAMES).filter(|name| *name != "CHECKPOINT_REDO" || major >= 17)
}

/// `access/xact.h`
fn transaction(major: u32, operation: u8) -> Option<&'static str> {
    const NAMES: [&str; 7] = [
        "COMMIT",
        "PREPARE",
        "ABORT",
        "COMMIT_PREPARED",
        "ABORT_PREPARED",
        "ASSIGNMENT",
        "INVALIDATION",
    ];
    of(operation, &NAMES).filter(|name| *name != "INVALIDATION" || major >= 14)
}

/// `access/heapam_xlog.h`: 14 merged CLEANUP_INFO and CLEAN into PRUNE and VACUUM, 17 merged
/// those and FREEZE_PAGE into one layout.
fn heap2(major: u32, info: u8) -> Option<&'static str> {
    let (first, second, third) = match major {
        17.. => ("PRUNE_ON_ACCESS", "PRUNE_VACUUM_SCAN", "PRUNE_VACUUM_CLEANUP"),
        14..=16 => ("PRUNE", "VACUUM", "FREEZE_PAGE"),
        _ => ("CLEAN", "FREEZE_PAGE", "CLEANUP_INFO"),
    };
    Some(match info {
        0x00 => "REWRITE",
        0x10 => first,
        0x20 => second,
        0x30 => third,
        0x40 => "VISIBLE",
        0x50 => "MULTI_INSERT",
        0xD0 => "MULTI_INSERT+INIT",
        0x60 => "LOCK_UPDATED",
        0x70 => "NEW_CID",
        _ => return None,
    })
}

/// `access/heapam_xlog.h`
fn heap(major: u32, info: u8) -> Option<&'static str> {
    Some(match info {
        0x00 => "INSERT",
        0x80 => "INSERT+INIT",
        0x10 => "DELETE",
        0x20 => "UPDATE",
        0xA0 => "UPDATE+INIT",
        0x30 if major >= 11 => "TRUNCATE",
        0x40 => "HOT_UPDATE",
        0xC0 => "HOT_UPDATE+INIT",
        0x50 => "HEAP_CONFIRM",
        0x60 => "LOCK",
        0x70 => "INPLACE",
        _ => return None,
    })
}

/// `access/nbtxlog.h`
fn btree(major: u32, info: u8) -> Option<&'static str> {
    const NAMES: [&str; 15] = [
        "INSERT_LEAF",
        "INSERT_UPPER",
        "INSERT_META",
        "SPLIT_L",
        "SPLIT_R",
        "INSERT_POST",
        "DEDUP",
        "DELETE",
        "UNLINK_PAGE",
        "UNLINK_PAGE_META",
        "NEWROOT",
        "MARK_PAGE_HALFDEAD",
        "VACUUM",
        "REUSE_PAGE",
        "META_CLEANUP",
    ];
    match (info, major) {
        (0x50, 10) => Some("SPLIT_L_ROOT"),
        (0x60, 10) => Some("SPLIT_R_ROOT"),
        (0xE0, 10) | (0x50 | 0x60, 11 | 12) => None,
        _ => of(info, &NAMES),
    }
}

/// `access/hash_xlog.h`
const HASH: [&str; 13] = [
    "INIT_META_PAGE",
    "INIT_BITMAP_PAGE",
    "INSERT",
    "ADD_OVFL_PAGE",
    "SPLIT_ALLOCATE_PAGE",
    "SPLIT_PAGE",
    "SPLIT_COMPLETE",
    "MOVE_PAGE_CONTENTS",
    "SQUEEZE_PAGE",
    "DELETE",
    "SPLIT_CLEANUP",
    "UPDATE_META_PAGE",
    "VACUUM_ONE_PAGE",
];

/// `access/ginxlog.h`
const GIN: [&str; 10] = [
    "",
    "CREATE_PTREE",
    "INSERT",
    "SPLIT",
    "VACUUM_PAGE",
    "DELETE_PAGE",
    "UPDATE_META_PAGE",
    "INSERT_LISTPAGE",
    "DELETE_LISTPAGE",
    "VACUUM_DATA_LEAF_PAGE",
];

/// `access/gistxlog.h`
fn gist(major: u32, info: u8) -> Option<&'static str> {
    match (info, major) {
        (0x50, ..=11) => Some("CREATE_INDEX"),
        (0x60, 12..) => Some("PAGE_DELETE"),
        (0x70, 13..) => Some("ASSIGN_LSN"),
        (0x10 | 0x20, ..=11) => None,
        _ => of(info, &["PAGE_UPDATE", "DELETE", "PAGE_REUSE", "PAGE_SPLIT"]),
    }
}

/// `access/spgxlog.h`
const SPGIST: [&str; 9] = [
    "",
    "ADD_LEAF",
    "MOVE_LEAFS",
    "ADD_NODE",
    "SPLIT_TUPLE",
    "PICKSPLIT",
    "VACUUM_LEAF",
    "VACUUM_ROOT",
    "VACUUM_REDIRECT",
];

/// `access/brin_xlog.h`
fn brin(info: u8) -> Option<&'static str> {
    Some(match info {
        0x00 => "CREATE_INDEX",
        0x10 => "INSERT",
        0x90 => "INSERT+INIT",
        0x20 => "UPDATE",
        0xA0 => "UPDATE+INIT",
        0x30 => "SAMEPAGE_UPDATE",
        0x40 => "REVMAP_EXTEND",
        0x50 => "DESUMMARIZE",
        _ => return None,
    })
}

/// `access/commit_ts.h`
fn commit_ts(major: u32, info: u8) -> Option<&'static str> {
    match (info, major) {
        (0x20, ..=13) => Some("SETTS"),
        _ => of(info, &["ZEROPAGE", "TRUNCATE"]),
    }
}
