//! Followers' slots: from where on somebody who streams from here still needs WAL.
//!
//! A slot is a file, `slots/NAME.json`, replaced as a whole. One process serves an archive and
//! writes them, under a lock of its own ([`Slots`]); everybody may read them ([`slots`]), and
//! whoever removes WAL must: nothing from a slot's `restart_lsn` on may go.
//!
//! Invariant: what a file says was true when it was written. A slot that moves on leaves a file that
//! keeps too much and never too little; one that is new, or moves back, looks into `expired.json` once
//! it is durable, and an expiry at the slots once that is: whichever comes second gives way.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::{ErrorKind, Files, Lock, LockError};
use pg_types::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::{ArchiveError, Layout, small};

/// A slot has some two hundred bytes.
const MAX_BYTES: usize = 64 << 10;
/// As of the server (`NAMEDATALEN`): 63 bytes.
const MAX_NAME: usize = 63;
/// The lock of whoever serves.
const LOCK: &str = "run/serve.lock";

/// A follower's slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name: lower-case letters, digits and underscores.
    pub name: String,
    /// Whether it goes with its connection.
    pub temporary: bool,
    /// From where on WAL is needed, and on which timeline that is; `None` if it keeps nothing yet.
    pub restart: Option<(TimelineId, Lsn)>,
    /// When it was made, RFC 3339, for people.
    pub created: String,
    /// Why it keeps nothing any more, if it was let go.
    pub lost: Option<String>,
    /// The oldest transaction whose effects its follower's queries have to see: a full id, 0 for none.
    pub xmin: u64,
    /// The same for logical decoding's look at the catalogues.
    pub catalog_xmin: u64,
}

impl Slot {
    /// Before this nothing may be removed because of it.
    #[must_use]
    pub fn keeps_from(&self) -> Option<Lsn> {
        self.restart.filter(|_| self.lost.is_none()).map(|(_, at)| at)
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
struct File {
    name: String,
    temporary: bool,
    restart_lsn: Option<String>,
    timeline: Option<u32>,
    created: String,
    lost: Option<String>,
    #[serde(default)]
    xmin: u64,
    #[serde(default)]
    catalog_xmin: u64,
}

impl File {
    fn of(slot: &Slot) -> Self {
        Self {
            name: slot.name.clone(),
            temporary: slot.temporary,
            restart_lsn: slot.restart.map(|(_, at)| at.to_string()),
            timeline: slot.restart.map(|(timeline, _)| timeline.as_u32()),
            created: slot.created.clone(),
            lost: slot.lost.clone(),
            xmin: slot.xmin,
            catalog_xmin: slot.catalog_xmin,
        }
    }

    fn slot(self) -> Option<Slot> {
        let restart = match (self.restart_lsn, self.timeline) {
            (Some(at), Some(timeline)) => Some((TimelineId::new(timeline)?, at.parse().ok()?)),
            (None, None) => None,
            _ => return None,
        };
        let Self { name, temporary, created, lost, xmin, catalog_xmin, .. } = self;
        let slot = Slot { name, temporary, restart, created, lost, xmin, catalog_xmin };
        is_name(&slot.name).then_some(slot)
    }
}

/// Whether a slot may have this name, which becomes a file's.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

fn path(name: &str) -> PathBuf {
    Path::new(Layout::SLOTS).join(format!("{name}.json"))
}

/// The followers' slots of an archive, by name.
///
/// # Errors
/// If one of them can't be read: whoever removes WAL mustn't pass over it.
pub fn slots(files: &dyn Files) -> Result<Vec<Slot>, ArchiveError> {
    let names = match files.names(Path::new(Layout::SLOTS)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        names => names?,
    };
    let names = names.iter().filter(|name| !Layout::is_temporary(name));
    let slots = names.map(|name| read(files, &Path::new(Layout::SLOTS).join(name)));
    slots.filter_map(Result::transpose).collect()
}

/// One of them; `None` if it is gone.
fn read(files: &dyn Files, path: &Path) -> Result<Option<Slot>, ArchiveError> {
    let bad = |what: String| ArchiveError::BadSlotFile { path: path.to_owned(), what };
    let bytes = match files.read(path, MAX_BYTES) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let file: File = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    let slot = file.slot().ok_or_else(|| bad("a name or position is invalid".to_owned()))?;
    if path.file_stem().is_none_or(|stem| stem != slot.name.as_str()) {
        return Err(bad(format!("it says that it is of the slot \"{}\"", slot.name)));
    }
    Ok(Some(slot))
}

/// The slots as the one process has them that serves an archive.
pub struct Slots {
    files: Arc<dyn Files>,
    _lock: Lock,
}

impl Slots {
    /// Takes an archive's slots for this process. `holder` is what another one is told of it.
    ///
    /// # Errors
    /// If another process serves the archive, or the disk fails.
    pub fn claim(files: Arc<dyn Files>, holder: &str) -> Result<Self, ArchiveError> {
        files.create_dir(Path::new(Layout::RUN))?;
        let lock = files.lock(Path::new(LOCK), holder).map_err(|error| match error {
            LockError::Held { holder, .. } => ArchiveError::Served { holder },
            error => error.into(),
        })?;
        Ok(Self { files, _lock: lock })
    }

    /// All of them, by name; temporary ones, which a process left that was killed, are removed.
    ///
    /// # Errors
    /// If one can't be read, or the disk fails.
    pub fn begin(&self) -> Result<Vec<Slot>, ArchiveError> {
        let (temporary, slots): (Vec<_>, Vec<_>) =
            slots(&*self.files)?.into_iter().partition(|slot| slot.temporary);
        for slot in temporary {
            self.remove(&slot.name)?;
        }
        Ok(slots)
    }

    /// Keeps a slot as it is now, durably.
    ///
    /// # Errors
    /// If it can't have its name, or the disk fails: then it is as it was, or as it should be.
    pub fn keep(&self, slot: &Slot) -> Result<(), ArchiveError> {
        let path = path(&slot.name);
        if !is_name(&slot.name) {
            let what = "a slot can't have this name".to_owned();
            return Err(ArchiveError::BadSlotFile { path, what });
        }
        let dir = Path::new(Layout::SLOTS);
        self.files.create_dir(dir)?;
        self.files.sync_dir(Path::new(""))?;
        let temporary = dir.join(format!(".{}.json.tmp", slot.name));
        let old = read(&*self.files, &path)?;
        let kept = old.as_ref().and_then(Slot::keeps_from);
        small::replace(&*self.files, &temporary, &path, &File::of(slot))?;
        let keeps_more = kept.is_none_or(|kept| slot.keeps_from().is_some_and(|at| at < kept));
        if keeps_more && let Some((timeline, before)) = self.expired_before(slot)? {
            match old.filter(|_| kept.is_some()) {
                Some(old) => small::replace(&*self.files, &temporary, &path, &File::of(&old))?,
                None => self.remove(&slot.name)?,
            }
            return Err(ArchiveError::SlotExpired { name: slot.name.clone(), timeline, before });
        }
        Ok(())
    }

    /// The bound that was given up to behind which a slot begins, if it lies before it.
    fn expired_before(&self, slot: &Slot) -> Result<Option<(TimelineId, Lsn)>, ArchiveError> {
        let Some((timeline, at)) = slot.restart.filter(|_| slot.lost.is_none()) else {
            return Ok(None);
        };
        let expired = crate::expiry::expired(&*self.files)?.into_iter();
        let mut of_it = expired.filter(|of| of.timeline == timeline && at < of.before);
        Ok(of_it.next().map(|of| (timeline, of.before)))
    }

    /// Drops a slot, durably.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn remove(&self, name: &str) -> Result<(), ArchiveError> {
        match self.files.remove(&path(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => Ok(removed.and_then(|()| self.files.sync_dir(Path::new(Layout::SLOTS)))?),
        }
    }
}

#[cfg(test)]
mod tests {
    use disk::RealFiles;

    use super::*;

    fn slot(name: &str, restart: Option<u64>) -> Slot {
        Slot {
            name: name.to_owned(),
            temporary: name.starts_with("temp"),
            restart: restart.map(|at| (TimelineId::FIRST, Lsn::new(at))),
            created: "2026-01-31T12:00:00Z".to_owned(),
            lost: None,
            xmin: restart.unwrap_or(0),
            catalog_xmin: 0,
        }
    }

    #[test]
    fn slots_are_kept_and_temporary_ones_go_with_their_process() {
        let dir = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(RealFiles::new(dir.path().to_owned()));
        assert_eq!(slots(&*files), Ok(Vec::new()));
        let ours = Slots::claim(Arc::clone(&files), "one").unwrap();
        assert_eq!(
            Slots::claim(Arc::clone(&files), "two").err(),
            Some(ArchiveError::Served { holder: "one".to_owned() })
        );
        let (a, b, temp) = (slot("a", None), slot("b", Some(7)), slot("temp", Some(8)));
        for slot in [&b, &temp, &a] {
            ours.keep(slot).unwrap();
        }
        let moved = Slot { restart: Some((TimelineId::FIRST, Lsn::new(9))), ..b };
        ours.keep(&moved).unwrap();
        assert_eq!(slots(&*files), Ok(vec![a.clone(), moved.clone(), temp]));
        drop(ours);
        let ours = Slots::claim(Arc::clone(&files), "three").unwrap();
        assert_eq!(ours.begin(), Ok(vec![a, moved]));
        ours.remove("a").unwrap();
        ours.remove("a").unwrap();
        assert_eq!(slots(&*files).unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_slot_is_an_error_and_nothing_gets_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(RealFiles::new(dir.path().to_owned()));
        let ours = Slots::claim(Arc::clone(&files), "one").unwrap();
        ours.keep(&slot("x", None)).unwrap();
        ours.remove("x").unwrap();
        for name in ["", "../x", "A", "a.b", &"a".repeat(64)] {
            assert!(ours.keep(&slot(name, None)).is_err(), "{name}");
        }
        let check = |name: &str, text: &str| {
            std::fs::write(dir.path().join("slots").join(name), text).unwrap();
            assert!(matches!(slots(&*files), Err(ArchiveError::BadSlotFile { .. })), "{text}");
            std::fs::remove_file(dir.path().join("slots").join(name)).unwrap();
        };
        check("a.json", "{");
        let text = serde_json::to_string(&File::of(&slot("b", Some(5)))).unwrap();
        check("a.json", &text);
        check("b.json", &text.replace("0/5", "5"));
        check("b.json", &text.replace("\"timeline\":1", "\"timeline\":null"));
    }

    #[test]
    fn a_new_slot_before_what_was_just_given_up_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(RealFiles::new(dir.path().to_owned()));
        let ours = Slots::claim(Arc::clone(&files), "one").unwrap();
        ours.keep(&slot("old", Some(5))).unwrap();
        let expired = r#"{"expired": [{"timeline": 1, "before": "0/8", "at": ""}]}"#;
        std::fs::write(dir.path().join("expired.json"), expired).unwrap();
        let refused = ours.keep(&slot("new", Some(7)));
        assert!(matches!(refused, Err(ArchiveError::SlotExpired { .. })), "{refused:?}");
        ours.keep(&slot("new", Some(8))).unwrap();
        // One that kept it already goes on.
        ours.keep(&slot("old", Some(6))).unwrap();
        let back = ours.keep(&slot("new", Some(7)));
        assert!(matches!(back, Err(ArchiveError::SlotExpired { .. })), "{back:?}");
        let there = slots(&*files).unwrap();
        assert_eq!(there, [slot("new", Some(8)), slot("old", Some(6))]);
    }

    #[test]
    fn a_slot_that_was_let_go_keeps_nothing() {
        let kept = slot("a", Some(5));
        assert_eq!(kept.keeps_from(), Some(Lsn::new(5)));
        assert_eq!(Slot { lost: Some("x".to_owned()), ..kept }.keeps_from(), None);
    }
}
