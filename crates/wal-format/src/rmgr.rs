//! Resource managers.

use std::fmt;

use crate::WalVersion;

/// The resource manager that a record belongs to (`RmgrId`, `access/rmgr.h` and `rmgrlist.h`).
/// Unknown ones survive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RmgrId(pub u8);

/// The built-in ones by number; the same numbers in 10–18. The names are the server's.
const NAMES: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

impl RmgrId {
    /// The log itself: checkpoints, switches, restore points.
    pub const XLOG: RmgrId = RmgrId(0);
    /// Commits and aborts.
    pub const TRANSACTION: RmgrId = RmgrId(1);
    /// Locks and running transactions, for standbys.
    pub const STANDBY: RmgrId = RmgrId(8);
    /// `pg_logical_emit_message`.
    pub const LOGICAL_MESSAGE: RmgrId = RmgrId(21);

    /// Whether a server of this version would take a record of it.
    #[must_use]
    pub fn is_valid(self, version: WalVersion) -> bool {
        usize::from(self.0) < NAMES.len() || (self.0 >= 128 && version.has_custom_rmgrs())
    }

    /// The built-in one's name.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        NAMES.get(usize::from(self.0)).copied()
    }
}

impl fmt::Display for RmgrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "custom{:03}", self.0),
        }
    }
}

impl fmt::Debug for RmgrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
