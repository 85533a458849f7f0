//! The replication commands as text, in the words of the server's version.
//!
//! Commands are case-sensitive and are built from checked parts only: a slot's name is a
//! [`SlotName`], everything else a number. The answers are read by [`crate::row`].

use std::fmt;
use std::str::FromStr;

use pg_types::{Lsn, ServerVersion, TimelineId};

/// Longest slot name in bytes: `NAMEDATALEN` less its NUL.
const MAX_SLOT_NAME_LEN: usize = 63;

/// The first major version whose options are in parentheses, and which can read a slot.
const PARENTHESES_SINCE_MAJOR: u32 = 15;

/// A replication slot's name: 1 to 63 of `a`–`z`, `0`–`9`, `_`
/// (`ReplicationSlotValidateName`, slot.c, 10–18).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotName(String);

impl SlotName {
    /// Checks a name.
    ///
    /// # Errors
    /// What the server would say of it.
    pub fn new(name: impl Into<String>) -> Result<Self, SlotNameError> {
        let name = name.into();
        let shown = || name.chars().take(MAX_SLOT_NAME_LEN).collect();
        let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if name.is_empty() {
            Err(SlotNameError::TooShort)
        } else if name.len() > MAX_SLOT_NAME_LEN {
            Err(SlotNameError::TooLong(shown()))
        } else if !name.bytes().all(legal) {
            Err(SlotNameError::InvalidCharacter(shown()))
        } else {
            Ok(Self(name))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SlotName {
    type Err = SlotNameError;

    fn from_str(name: &str) -> Result<Self, SlotNameError> {
        Self::new(name)
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name can't be a replication slot's. The texts are the server's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotNameError {
    /// It is empty.
    #[error("replication slot name \"\" is too short: give 1 to 63 characters")]
    TooShort,
    /// It has more than 63 bytes; the first ones.
    #[error("replication slot name \"{0}...\" is too long: give at most 63 characters")]
    TooLong(String),
    /// It has a character that no slot's name may have.
    #[error(
        "replication slot name {0:?} contains invalid character: replication slot names may only \
         contain lower case letters, numbers, and the underscore character"
    )]
    InvalidCharacter(String),
}

/// Asks who the server is and where its WAL ends.
#[must_use]
pub fn identify_system() -> String {
    "IDENTIFY_SYSTEM".to_owned()
}

/// Asks for a setting's value; `setting` is a name of our own, never input.
#[must_use]
pub fn show(setting: &'static str) -> String {
    format!("SHOW {setting}")
}

/// A physical slot that is to be created.
#[derive(Clone, Copy, Debug)]
pub struct CreatePhysicalSlot<'a> {
    /// Its name.
    pub name: &'a SlotName,
    /// Whether it goes with the connection.
    pub temporary: bool,
    /// Whether it keeps WAL from now on, rather than from the first connection on.
    pub reserve_wal: bool,
}

/// Creates a physical slot, in the words of this server: bare before 15, in parentheses from 15.
#[must_use]
pub fn create_physical_slot(slot: &CreatePhysicalSlot<'_>, version: ServerVersion) -> String {
    let temporary = if slot.temporary { " TEMPORARY" } else { "" };
    let reserve = match (slot.reserve_wal, version.major() >= PARENTHESES_SINCE_MAJOR) {
        (false, _) => "",
        (true, false) => " RESERVE_WAL",
        (true, true) => " ( RESERVE_WAL)",
    };
    format!("CREATE_REPLICATION_SLOT \"{}\"{temporary} PHYSICAL{reserve}", slot.name)
}

/// Asks for a slot's state; `None` before 15, where the command doesn't exist.
#[must_use]
pub fn read_replication_slot(name: &SlotName, version: ServerVersion) -> Option<String> {
    (version.major() >= PARENTHESES_SINCE_MAJOR)
        .then(|| format!("READ_REPLICATION_SLOT \"{name}\""))
}

/// Drops a slot; with `wait` once it is no longer in use, otherwise an error if it is.
#[must_use]
pub fn drop_replication_slot(name: &SlotName, wait: bool) -> String {
    let wait = if wait { " WAIT" } else { "" };
    format!("DROP_REPLICATION_SLOT \"{name}\"{wait}")
}

/// Starts the physical stream of one timeline at a position.
#[must_use]
pub fn start_replication(slot: Option<&SlotName>, at: Lsn, timeline: TimelineId) -> String {
    match slot {
        Some(slot) => format!("START_REPLICATION SLOT \"{slot}\" {at} TIMELINE {timeline}"),
        None => format!("START_REPLICATION {at} TIMELINE {timeline}"),
    }
}

/// Asks for a timeline's history file.
#[must_use]
pub fn timeline_history(timeline: TimelineId) -> String {
    format!("TIMELINE_HISTORY {timeline}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str) -> SlotName {
        SlotName::new(name).unwrap()
    }

    #[test]
    fn slot_names_are_the_servers() {
        let check = |name: &str, expect: Option<&str>| match (SlotName::new(name), expect) {
            (Ok(slot), None) => assert_eq!(slot.as_str(), name),
            (Err(error), Some(expect)) => assert!(error.to_string().contains(expect), "{error}"),
            (result, _) => panic!("{name}: {result:?}"),
        };
        check("seawall_1", None);
        check(&"a".repeat(63), None);
        check("", Some("too short"));
        check(&"a".repeat(64), Some("too long"));
        for name in ["A", "a-b", "a b", "a\"b", "ä", "a\0", "a\n"] {
            check(name, Some("contains invalid character"));
        }
    }

    #[test]
    fn commands_by_version() {
        let name = slot("s");
        let (v14, v15) = (ServerVersion::from_num(140_023), ServerVersion::from_num(150_000));
        let create = |temporary, reserve_wal, version| {
            let slot = CreatePhysicalSlot { name: &name, temporary, reserve_wal };
            create_physical_slot(&slot, version)
        };
        assert_eq!(create(false, false, v14), "CREATE_REPLICATION_SLOT \"s\" PHYSICAL");
        assert_eq!(create(false, false, v15), "CREATE_REPLICATION_SLOT \"s\" PHYSICAL");
        assert_eq!(
            create(true, true, v14),
            "CREATE_REPLICATION_SLOT \"s\" TEMPORARY PHYSICAL RESERVE_WAL"
        );
        assert_eq!(
            create(true, true, v15),
            "CREATE_REPLICATION_SLOT \"s\" TEMPORARY PHYSICAL ( RESERVE_WAL)"
        );
        assert_eq!(read_replication_slot(&name, v14), None);
        let read = read_replication_slot(&name, v15);
        assert_eq!(read.as_deref(), Some("READ_REPLICATION_SLOT \"s\""));
        assert_eq!(drop_replication_slot(&name, false), "DROP_REPLICATION_SLOT \"s\"");
        assert_eq!(drop_replication_slot(&name, true), "DROP_REPLICATION_SLOT \"s\" WAIT");
    }

    #[test]
    fn commands_of_every_version() {
        let at = Lsn::new(0x1_0300_0000);
        let timeline = TimelineId::new(2).unwrap();
        assert_eq!(identify_system(), "IDENTIFY_SYSTEM");
        assert_eq!(show("wal_segment_size"), "SHOW wal_segment_size");
        assert_eq!(timeline_history(timeline), "TIMELINE_HISTORY 2");
        let start = start_replication(None, at, timeline);
        assert_eq!(start, "START_REPLICATION 1/3000000 TIMELINE 2");
        let start = start_replication(Some(&slot("s")), at, timeline);
        assert_eq!(start, "START_REPLICATION SLOT \"s\" 1/3000000 TIMELINE 2");
    }
}
