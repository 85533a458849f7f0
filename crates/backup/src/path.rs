//! Names of files in a backup: what a tar file or a manifest says, checked.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longer than any path that a server has (`MAXPGPATH`).
const MAX_PATH_LEN: usize = 4096;

/// What the names of files begin with that have changed blocks only.
const INCREMENTAL: &[u8] = b"INCREMENTAL.";

/// A path below a data directory: relative, of plain names only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Box<[u8]>);

/// Why a name isn't a file's of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathFault {
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// It has more bytes than a path has.
    #[error("it is longer than {MAX_PATH_LEN} bytes")]
    TooLong,
    /// It begins at the root.
    #[error("it is absolute")]
    Absolute,
    /// It goes up, or stays where it is.
    #[error("it has a part that is \".\", \"..\" or empty")]
    Dots,
    /// It has a NUL.
    #[error("it has a NUL byte")]
    Nul,
}

impl EntryPath {
    /// Checks a name. `./` before it, as the server writes before some, and `/` behind it, as
    /// behind every directory, are no part of it.
    ///
    /// # Errors
    /// If it isn't a path below a directory.
    pub fn new(name: &[u8]) -> Result<Self, PathFault> {
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let name = name.strip_suffix(b"/").unwrap_or(name);
        if name.is_empty() {
            return Err(PathFault::Empty);
        }
        if name.len() > MAX_PATH_LEN {
            return Err(PathFault::TooLong);
        }
        if name.starts_with(b"/") {
            return Err(PathFault::Absolute);
        }
        if name.contains(&0) {
            return Err(PathFault::Nul);
        }
        let dots = |part: &[u8]| matches!(part, b"" | b"." | b"..");
        if name.split(|byte| *byte == b'/').any(dots) {
            return Err(PathFault::Dots);
        }
        Ok(Self(name.into()))
    }

    /// The same below a tablespace's link in the data directory.
    #[must_use]
    pub fn in_tablespace(&self, oid: u32) -> Self {
        Self([format!("pg_tblspc/{oid}/").as_bytes(), &self.0].concat().into())
    }

    /// Whether it is where the link of one of these tablespaces is.
    #[must_use]
    pub fn is_link_of(&self, oids: &[u32]) -> bool {
        oids.iter().any(|oid| self.is(&format!("pg_tblspc/{oid}")))
    }

    /// The file that an incremental backup has changed blocks of under this name, in an archive of a
    /// tablespace or the data directory (`is_incremental_dir`, `bin/pg_combinebackup`, 17–18).
    pub(crate) fn of_incremental(&self, archive: Option<u32>) -> Option<Self> {
        let slash = self.0.iter().rposition(|byte| *byte == b'/')?;
        let (dir, name) = self.0.split_at_checked(slash.checked_add(1)?)?;
        let has_relations = ["base/", "global/", "pg_tblspc/"];
        if archive.is_none() && !has_relations.iter().any(|at| dir.starts_with(at.as_bytes())) {
            return None;
        }
        let name = name.strip_prefix(INCREMENTAL).filter(|name| !name.is_empty())?;
        Some(Self([dir, name].concat().into()))
    }

    /// The name that an incremental backup has changed blocks of this file under.
    pub(crate) fn as_incremental(&self) -> Self {
        let slash = self.0.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let (dir, name) = self.0.split_at_checked(slash).unwrap_or((&[], &self.0));
        Self([dir, INCREMENTAL, name].concat().into())
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the system takes it.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Whether it is this one.
    #[must_use]
    pub fn is(&self, path: &str) -> bool {
        *self.0 == *path.as_bytes()
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Control characters of a stranger's name don't reach a terminal.
        for c in String::from_utf8_lossy(&self.0).chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_paths_below_a_directory() {
        let check = |name: &[u8], expect: Result<&str, PathFault>| {
            let path = EntryPath::new(name).map(|path| path.to_string());
            assert_eq!(path, expect.map(str::to_owned));
        };
        check(b"base/1/1259", Ok("base/1/1259"));
        check(b"./pg_wal/archive_status/", Ok("pg_wal/archive_status"));
        check(b"a\x1bb", Ok("a\\u{1b}b"));
        check(b"", Err(PathFault::Empty));
        check(b"./", Err(PathFault::Empty));
        check(b"/etc/passwd", Err(PathFault::Absolute));
        check(b"//x", Err(PathFault::Absolute));
        check(b"a/../b", Err(PathFault::Dots));
        check(b"..", Err(PathFault::Dots));
        check(b"../x", Err(PathFault::Dots));
        check(b"a//b", Err(PathFault::Dots));
        check(b"././a", Err(PathFault::Dots));
        check(b"a/.", Err(PathFault::Dots));
        check(b"a\0b", Err(PathFault::Nul));
        check(&[b'a'; 4097], Err(PathFault::TooLong));
    }

    #[test]
    fn incremental_names_come_and_go() {
        let path = |name: &str| EntryPath::new(name.as_bytes()).unwrap();
        let whole = path("base/5/INCREMENTAL.1259_vm").of_incremental(None);
        assert_eq!(whole, Some(path("base/5/1259_vm")));
        assert_eq!(path("base/5/1259_vm").as_incremental(), path("base/5/INCREMENTAL.1259_vm"));
        assert_eq!(path("mine/INCREMENTAL.x").of_incremental(None), None);
        assert_eq!(path("PG_18/INCREMENTAL.x").of_incremental(Some(7)), Some(path("PG_18/x")));
        assert_eq!(path("base/INCREMENTAL.").of_incremental(None), None);
        assert_eq!(path("INCREMENTAL.x").of_incremental(None), None);
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_stays_below(name in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(path) = EntryPath::new(&name) {
                use std::path::Component;
                let plain = |part| matches!(part, Component::Normal(_));
                prop_assert!(path.as_path().components().all(plain));
            }
        }
    }
}
