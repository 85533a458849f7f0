//! What a restored server still needs: `holds/NAME.json`, made by `seawall restore` before it lets the
//! backup go, since nobody sees how far a server's recovery is. It holds the WAL from the backup's start
//! on, for a time, or until it is released.
//!
//! Invariant: what can't be read is an error: whoever removes WAL mustn't pass over it.

use std::path::{Path, PathBuf};

use archive::{Hold, Layout};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{BackupError, Backups, Point};

const TEMPORARY: &str = "holds/.hold.json.tmp";
/// A hold has some two hundred bytes, and the path of a data directory.
const MAX_BYTES: usize = 16 << 10;

/// WAL that a restored server needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreHold {
    /// Its name.
    pub name: String,
    /// The data directory that was made, for people.
    pub data: String,
    /// From where on.
    pub from: Point,
    /// Until when.
    pub until: Timestamp,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct File {
    data: String,
    from: Point,
    until: String,
}

impl RestoreHold {
    /// As everything that needs WAL; `None` when its time is over.
    #[must_use]
    pub fn hold(&self, now: Timestamp) -> Option<Hold> {
        (now < self.until).then(|| Hold {
            what: format!("the hold {} (until {}, for {})", self.name, self.until, self.data),
            timeline: Some(self.from.timeline),
            from: self.from.lsn,
        })
    }
}

fn place(name: &str) -> PathBuf {
    Path::new(Layout::HOLDS).join(format!("{name}.json"))
}

impl Backups {
    /// Holds WAL, durably. Gives the hold's name: the one that it has, or with a number where that is
    /// taken.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn hold_restored(&self, hold: &RestoreHold) -> Result<String, BackupError> {
        let (tree, dir) = (self.tree(), Path::new(Layout::HOLDS));
        tree.create_dir(dir)?;
        tree.sync_dir(Path::new(""))?;
        let taken: Vec<String> = self.restore_holds()?.into_iter().map(|of| of.name).collect();
        let numbered = (2..).map(|number| format!("{}-{number}", hold.name));
        let mut names = std::iter::once(hold.name.clone()).chain(numbered);
        let name = names.find(|name| !taken.contains(name)).unwrap_or_default();
        let until = hold.until.to_string();
        let file = File { data: hold.data.clone(), from: hold.from, until };
        let text = serde_json::to_vec_pretty(&file).unwrap_or_default();
        let temporary = Path::new(TEMPORARY);
        // What a killed process left; two restores at once may fail over it, and say so.
        match tree.remove(temporary) {
            Err(error) if error.kind() != disk::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut new = tree.create(temporary)?;
        new.write(&text)?;
        new.sync()?;
        tree.rename(temporary, &place(&name))?;
        tree.sync_dir(dir)?;
        Ok(name)
    }

    /// The holds, by name, those whose time is over among them.
    ///
    /// # Errors
    /// If one can't be read.
    pub fn restore_holds(&self) -> Result<Vec<RestoreHold>, BackupError> {
        let names = match self.tree().names(Path::new(Layout::HOLDS)) {
            Err(error) if error.kind() == disk::ErrorKind::NotFound => return Ok(Vec::new()),
            names => names?,
        };
        let mut holds = Vec::new();
        for file in names {
            let Some(name) = file.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let name = name.strip_suffix(".json").unwrap_or(name).to_owned();
            let Some(bytes) = self.tree().read(&place(&name), MAX_BYTES)? else { continue };
            let bad = |what: String| BackupError::BadHold { name: name.clone(), what };
            let File { data, from, until } =
                serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
            let until = until.parse().map_err(|error: jiff::Error| bad(error.to_string()))?;
            holds.push(RestoreHold { name, data, from, until });
        }
        holds.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(holds)
    }

    /// Lets a hold go, durably.
    ///
    /// # Errors
    /// If there is none of this name, or the disk fails.
    pub fn release(&self, name: &str) -> Result<(), BackupError> {
        if !self.restore_holds()?.iter().any(|hold| hold.name == name) {
            return Err(BackupError::NoHold { name: name.to_owned() });
        }
        match self.tree().remove(&place(name)) {
            Err(error) if error.kind() != disk::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(self.tree().sync_dir(Path::new(Layout::HOLDS))?),
        }
    }
}

#[cfg(test)]
mod tests {
    use pg_types::{Lsn, TimelineId};

    use super::*;

    #[test]
    fn a_hold_holds_until_its_time_or_its_release() {
        let dir = tempfile::tempdir().unwrap();
        let backups = Backups::open(dir.path()).unwrap();
        assert_eq!(backups.restore_holds().unwrap(), []);
        let until: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let from = Point { timeline: TimelineId::FIRST, lsn: Lsn::new(7) };
        let data = "/srv/new".to_owned();
        let hold = RestoreHold { name: "restore-x".to_owned(), data, from, until };
        assert_eq!(backups.hold_restored(&hold).unwrap(), "restore-x");
        assert_eq!(backups.hold_restored(&hold).unwrap(), "restore-x-2");
        assert_eq!(backups.restore_holds().unwrap()[0], hold);
        assert!(hold.hold(until).is_none());
        let before = hold.hold("2026-01-31T11:59:59Z".parse().unwrap()).unwrap();
        assert_eq!((before.timeline, before.from), (Some(TimelineId::FIRST), Lsn::new(7)));
        backups.release("restore-x").unwrap();
        for name in ["restore-x", "../holds/restore-x-2", ""] {
            assert!(matches!(backups.release(name), Err(BackupError::NoHold { .. })), "{name}");
        }
        assert_eq!(backups.restore_holds().unwrap().len(), 1);
        std::fs::write(dir.path().join("holds/restore-x-2.json"), "{").unwrap();
        assert!(matches!(backups.restore_holds(), Err(BackupError::BadHold { .. })));
    }
}
