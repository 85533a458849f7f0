//! Which descriptions of 10–13 are those of 14: where the layout and the text are, as the headers
//! and the real pg_waldump of 10, 12 and 13 have shown (docs/WAL-RECORDS.md). What isn't certain
//! isn't described.

use wal_format::{RmgrId, WalVersion};

use crate::identify::{RMGR_INFO, XACT_OPERATION};

/// The first version that is described.
const ALL: u32 = 10;
/// Described from the first version on whose real program the text is compared with.
const COMPARED: u32 = 14;

/// Whether the layout and the text of this version's record type are known.
pub(crate) fn is_known(version: WalVersion, rmgr: RmgrId, info: u8) -> bool {
    let major = version.major();
    major >= COMPARED || major >= known_since(rmgr, info & RMGR_INFO)
}

/// From which major version on layout and text are those of 14.
fn known_since(rmgr: RmgrId, info: u8) -> u32 {
    match (rmgr.0, info) {
        // max_wal_senders came to PARAMETER_CHANGE in 12.
        (0, 0x60) => 12,
        // `xl_xact_prepare` is described since 13, INVALIDATION is new in 14.
        (1, info) if info & XACT_OPERATION == 0x10 => 13,
        (1, info) if info & XACT_OPERATION == 0x60 => COMPARED,
        // VACUUM_ONE_PAGE of Hash says more since 11; SETTS of CommitTs is gone.
        (12, 0xC0) | (18, 0x20) => COMPARED,
        // TRUNCATE of Heap.
        (10, 0x30) => 11,
        // Heap2: REWRITE, NEW_CID. Heap: HEAP_CONFIRM, INPLACE. Btree: INSERT_LEAF,
        // INSERT_UPPER, INSERT_META, NEWROOT, MARK_PAGE_HALFDEAD. Gist: PAGE_UPDATE, PAGE_SPLIT, and
        // as SPGist CREATE_INDEX, which says nothing.
        (9, 0x00 | 0x70)
        | (10, 0x50 | 0x70)
        | (11, 0x00 | 0x10 | 0x20 | 0xA0 | 0xB0)
        | (14, 0x00 | 0x30 | 0x50)
        | (16, 0x00)
        // All of XLOG, Transaction, Storage, CLOG, Tablespace, MultiXact, RelMap, Standby, Hash, Gin,
        // Sequence, BRIN, CommitTs, ReplicationOrigin, Generic.
        | (0..=3 | 5..=8 | 12 | 13 | 15 | 17..=20, _) => ALL,
        // DROP of Database. Btree: SPLIT_L, SPLIT_R, INSERT_POST, DEDUP, VACUUM.
        (4, 0x10) | (11, 0x30..=0x60 | 0xC0) => 13,
        // CREATE of Database. Heap2: VISIBLE, MULTI_INSERT. Heap: INSERT, DELETE, UPDATE, HOT_UPDATE,
        // LOCK. Gist: PAGE_REUSE, PAGE_DELETE.
        (4, 0x00) | (9, 0x40..=0x5F | 0xC0..=0xDF) | (10, _) | (14, 0x20 | 0x60) => 12,
        // LogicalMessage, SPGist, and the rest of the above.
        _ => COMPARED,
    }
}
