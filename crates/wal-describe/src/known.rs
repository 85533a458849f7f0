//! Which descriptions of 10–13 are known to be those of 14: nobody's pg_waldump of those versions
//! is at hand to compare with, so that what isn't certain isn't described.

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
        // INSERT_UPPER, INSERT_META, NEWROOT, MARK_PAGE_HALFDEAD. Gist: PAGE_UPDATE, PAGE_SPLIT.
        (9, 0x00 | 0x70)
        | (10, 0x50 | 0x70)
        | (11, 0x00 | 0x10 | 0x20 | 0xA0 | 0xB0)
        | (14, 0x00 | 0x30)
        // All of XLOG, Transaction, Storage, CLOG, Tablespace, MultiXact, RelMap, Standby, Hash,
        // Sequence, BRIN, CommitTs, ReplicationOrigin, Generic.
        | (0..=3 | 5..=8 | 12 | 15 | 17..=20, _) => ALL,
        // Database, LogicalMessage, Gin, SPGist, and the rest of the above.
        _ => COMPARED,
    }
}
