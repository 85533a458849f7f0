//! Followers' slots while they are served: who uses which, and how far each has come.
//!
//! How far is known in memory at once; the file follows when a slot has moved into another
//! segment, and when its stream ends, since a segment is what is removed. A slot goes where its
//! follower says that it is, also back: to one that a younger server is given, say.
//!
//! What is in memory is never waited for while a file is written: connections that have nothing to
//! write look at it, too, on the thread that serves them all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use archive::{ArchiveError, Slot, Slots};
use pg_types::{Lsn, SegmentSize, TimelineId};
use pg_wire::command::{SlotName, SlotNameError};
use pg_wire::feedback::Horizons;
use pg_wire::message::SqlState;
use pg_wire::server::response::Refusal;
use tokio::sync::watch;

use super::hub::Hub;
use super::{SLOTS_INTERVAL, ServeReport};
use crate::world;

/// As many slots as anybody has followers.
const MAX_SLOTS: usize = 100;

pub(super) struct Table {
    /// Whoever writes files has this first, and then what is in memory for moments.
    store: Mutex<Slots>,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Changes when a slot is given back.
    released: watch::Sender<u64>,
}

struct Entry {
    slot: Slot,
    active: Option<u32>,
    /// Where it is, which its stream moves while there is one.
    at: Arc<AtomicU64>,
}

impl Entry {
    fn new(slot: Slot) -> Self {
        let at = slot.restart.map_or(0, |(_, at)| at.as_u64());
        Self { slot, active: None, at: Arc::new(AtomicU64::new(at)) }
    }

    /// As it is now.
    fn now(&self) -> Slot {
        let mut slot = self.slot.clone();
        if let Some((_, at)) = &mut slot.restart {
            *at = Lsn::new(self.at.load(Ordering::Relaxed));
        }
        slot
    }
}

/// A slot that a stream uses.
pub(super) struct Held {
    pub(super) name: String,
    timeline: TimelineId,
    at: Arc<AtomicU64>,
    /// What its file says.
    saved: Lsn,
    /// The same of what its follower needs.
    needs: Horizons,
}

impl Held {
    /// The follower has flushed this. Whether the file is to follow.
    pub(super) fn flushed(&self, at: Lsn, size: SegmentSize) -> bool {
        self.at.store(at.as_u64(), Ordering::Relaxed);
        self.saved.segment(size) != at.segment(size) || !self.saved.is_valid()
    }
}

impl Table {
    pub(super) fn new(store: Slots) -> Result<Self, ArchiveError> {
        let slots = store.begin()?.into_iter();
        let entries = slots.map(|slot| (slot.name.clone(), Entry::new(slot))).collect();
        let (store, entries) = (Mutex::new(store), Mutex::new(entries));
        Ok(Self { store, entries, released: watch::Sender::new(0) })
    }

    fn store(&self) -> MutexGuard<'_, Slots> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Vec<(Slot, Option<u32>)> {
        self.entries().values().map(|entry| (entry.now(), entry.active)).collect()
    }

    /// Tells whoever waits for a slot.
    pub(super) fn releases(&self) -> watch::Receiver<u64> {
        self.released.subscribe()
    }

    /// A slot as it is; `None` if there is none of this name.
    pub(super) fn read(&self, name: &str) -> Option<Slot> {
        self.entries().get(name).map(Entry::now)
    }

    /// Makes a slot that keeps what is behind `restart`; a temporary one is `pid`'s.
    pub(super) fn create(
        &self,
        name: &str,
        temporary: Option<u32>,
        restart: Option<(TimelineId, Lsn)>,
    ) -> Result<(), Refusal> {
        SlotName::new(name).map_err(|error| {
            let text = error.to_string();
            // What it says for people here is the hint there.
            let text = text.split(": ").next().unwrap_or_default();
            let refusal = Refusal::error(SqlState::INVALID_NAME, text);
            match error {
                SlotNameError::InvalidCharacter(_) => refusal.hint(
                    "Replication slot names may only contain lower case letters, numbers, and the \
                     underscore character.",
                ),
                _ => refusal,
            }
        })?;
        let store = self.store();
        let (is_there, count) = {
            let entries = self.entries();
            (entries.contains_key(name), entries.len())
        };
        if is_there {
            let text = format!("replication slot \"{name}\" already exists");
            return Err(Refusal::error(SqlState::DUPLICATE_OBJECT, text));
        }
        if count >= MAX_SLOTS {
            let text = "all replication slots are in use";
            return Err(Refusal::error(SqlState::CONFIGURATION_LIMIT_EXCEEDED, text)
                .hint("Free one or increase \"max_replication_slots\"."));
        }
        let slot = Slot {
            name: name.to_owned(),
            temporary: temporary.is_some(),
            restart,
            created: world::timestamp().strftime("%FT%TZ").to_string(),
            lost: None,
            xmin: 0,
            catalog_xmin: 0,
        };
        if let Err(error) = store.keep(&slot) {
            // It may be there for all that.
            _ = store.remove(name);
            return Err(failed(&error));
        }
        let entry = Entry { active: temporary, ..Entry::new(slot) };
        self.entries().insert(name.to_owned(), entry);
        Ok(())
    }

    /// Drops a slot; `false` if somebody uses it, and that is waited for.
    pub(super) fn drop(&self, name: &str, wait: bool, pid: u32) -> Result<bool, Refusal> {
        let store = self.store();
        {
            let mut entries = self.entries();
            let entry = entries.get_mut(name).ok_or_else(|| missing(name))?;
            match entry.active {
                Some(other) if other != pid && wait => return Ok(false),
                Some(other) if other != pid => return Err(in_use(name, other)),
                // Nobody takes it any more.
                _ => entry.active = Some(pid),
            }
        }
        let removed = store.remove(name);
        let mut entries = self.entries();
        match removed {
            Ok(()) => _ = entries.remove(name),
            Err(error) => {
                let kept = entries.get_mut(name).filter(|entry| !entry.slot.temporary);
                kept.into_iter().for_each(|entry| entry.active = None);
                return Err(failed(&error));
            }
        }
        Ok(true)
    }

    /// Takes a slot for a stream from `start`. A temporary one needn't keep what is before: it was made
    /// for this stream, and reserves more than that may want.
    pub(super) fn take(&self, name: &str, pid: u32, start: Lsn) -> Result<Held, Refusal> {
        let mut entries = self.entries();
        let entry = entries.get_mut(name).ok_or_else(|| missing(name))?;
        if let Some(other) = entry.active.filter(|other| *other != pid) {
            return Err(in_use(name, other));
        }
        if let Some(why) = &entry.slot.lost {
            // As 18 says it; older servers find the WAL missing.
            let text = format!("can no longer access replication slot \"{name}\"");
            let detail = "This replication slot has been invalidated due to \"wal_removed\".";
            return Err(Refusal::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text)
                .detail(detail)
                .hint(format!("It was let go since {why}.")));
        }
        entry.active = Some(pid);
        if entry.slot.temporary {
            entry.at.fetch_max(start.as_u64(), Ordering::Relaxed);
        }
        let (timeline, saved) = entry.slot.restart.unwrap_or((TimelineId::FIRST, Lsn::INVALID));
        let (name, at, needs) = (name.to_owned(), Arc::clone(&entry.at), needs(&entry.slot));
        Ok(Held { name, timeline, at, saved, needs })
    }

    /// Writes how far a slot has come, on this timeline.
    pub(super) fn save(&self, held: &mut Held, timeline: TimelineId) -> Result<(), ArchiveError> {
        let store = self.store();
        let known = self.entries().get(&held.name).map(|entry| entry.slot.clone());
        let at = Lsn::new(held.at.load(Ordering::Relaxed));
        let Some(slot) = known.filter(|slot| at.is_valid() && slot.lost.is_none()) else {
            return Ok(());
        };
        let needs = needs(&slot);
        if (held.saved, held.timeline, held.needs) == (at, timeline, needs) {
            return Ok(());
        }
        held.needs = needs;
        let slot = Slot { restart: Some((timeline, at)), ..slot };
        let kept = store.keep(&slot);
        // One that couldn't be written keeps more than it has to, until it has moved on. But where
        // it keeps too little it is tried again.
        if kept.is_ok() || held.saved < at {
            (held.saved, held.timeline) = (at, timeline);
            if let Some(entry) = self.entries().get_mut(&held.name) {
                entry.slot.restart = slot.restart;
            }
        }
        kept
    }

    /// What a slot's follower needs of the primary, which it keeps while that one is away. Its file
    /// follows as for its place.
    pub(super) fn need(&self, held: &Held, horizons: Horizons) {
        if let Some(entry) = self.entries().get_mut(&held.name) {
            (entry.slot.xmin, entry.slot.catalog_xmin) = (horizons.xmin, horizons.catalog_xmin);
        }
    }

    /// What all of their followers need of the primary, also those that are away.
    pub(super) fn needs(&self) -> Vec<Horizons> {
        let entries = self.entries();
        let slots = entries.values().map(|entry| &entry.slot);
        slots.filter(|slot| slot.lost.is_none()).map(needs).collect()
    }

    /// Gives a slot back; a temporary one stays its connection's.
    pub(super) fn release(&self, held: &Held) {
        if let Some(entry) = self.entries().get_mut(&held.name)
            && !entry.slot.temporary
        {
            entry.active = None;
        }
        self.released.send_modify(|count| *count += 1);
    }

    /// Drops what goes with a connection.
    pub(super) fn drop_temporary(&self, pid: u32) -> Result<(), ArchiveError> {
        let store = self.store();
        let ours = |entry: &Entry| entry.slot.temporary && entry.active == Some(pid);
        let of_it = |(name, entry): (&String, &Entry)| ours(entry).then(|| name.clone());
        let names: Vec<String> = self.entries().iter().filter_map(of_it).collect();
        let mut failed = Ok(());
        for name in names {
            // Its file may be left: the next process removes it.
            failed = failed.and(store.remove(&name));
            self.entries().remove(&name);
        }
        self.released.send_modify(|count| *count += 1);
        failed
    }

    /// A connection is gone that couldn't give its slot back.
    pub(super) fn abandon(&self, pid: u32) {
        let ours = |entry: &&mut Entry| entry.active == Some(pid) && !entry.slot.temporary;
        self.entries().values_mut().filter(ours).for_each(|entry| entry.active = None);
        self.released.send_modify(|count| *count += 1);
    }

    /// Lets slots go that keep more than `limit`. One whose file can't be written still keeps it, and
    /// is tried again the next time.
    fn let_go(&self, end: Lsn, limit: u64) -> Vec<LetGo> {
        let store = self.store();
        let all: Vec<_> = self.all();
        let beyond = |(slot, active): (Slot, Option<u32>)| {
            let retained = end.saturating_since(slot.keeps_from()?);
            (retained > limit).then_some((slot, active, retained))
        };
        let beyond = all.into_iter().filter_map(beyond);
        let let_go = |(slot, active, retained): (Slot, Option<u32>, u64)| {
            let lost = Some(format!("it kept {retained} bytes, and may keep {limit}"));
            let slot = Slot { lost, ..slot };
            let written = store.keep(&slot);
            let name = slot.name.clone();
            if written.is_ok()
                && let Some(entry) = self.entries().get_mut(&name)
            {
                entry.slot.lost = slot.lost;
            }
            LetGo { name, retained, active, written }
        };
        beyond.map(let_go).collect()
    }
}

/// A slot that kept too much.
struct LetGo {
    name: String,
    retained: u64,
    /// Who streams with it.
    active: Option<u32>,
    written: Result<(), ArchiveError>,
}

/// Looks now and then at what slots keep.
pub(super) async fn guard(hub: Arc<Hub>) {
    let Some(limit) = hub.what.max_slot_retention else { return };
    let mut tip = hub.tip.clone();
    loop {
        let at = *tip.borrow_and_update();
        if let Some(at) = at {
            let here = Arc::clone(&hub);
            let lost = tokio::task::spawn_blocking(move || here.slots.let_go(at.end, limit)).await;
            for LetGo { name, retained, active, written } in lost.unwrap_or_default() {
                if let Err(error) = written {
                    let text = "keeps too much, and can't be let go";
                    hub.trouble(&format!("the follower's slot \"{name}\" {text}: {error}"));
                    continue;
                }
                hub.tell(&ServeReport::SlotLost { slot: &name, retained, limit });
                hub.need();
                if let Some(pid) = active {
                    hub.cancel_pid(pid);
                }
            }
        }
        tokio::time::sleep(SLOTS_INTERVAL).await;
        if tip.changed().await.is_err() {
            return;
        }
    }
}

fn needs(slot: &Slot) -> Horizons {
    Horizons { xmin: slot.xmin, catalog_xmin: slot.catalog_xmin }
}

fn missing(name: &str) -> Refusal {
    let text = format!("replication slot \"{name}\" does not exist");
    Refusal::error(SqlState::UNDEFINED_OBJECT, text)
}

fn in_use(name: &str, pid: u32) -> Refusal {
    let text = format!("replication slot \"{name}\" is active for PID {pid}");
    Refusal::error(SqlState::OBJECT_IN_USE, text)
}

pub(super) fn failed(error: &ArchiveError) -> Refusal {
    Refusal::error(SqlState::INTERNAL_ERROR, error.to_string())
}

#[cfg(test)]
mod tests {
    use disk::{Files, RealFiles};

    use super::*;

    const SIZE: SegmentSize = SegmentSize::MIN;

    fn table(dir: &std::path::Path) -> (Table, Arc<dyn Files>) {
        let files: Arc<dyn Files> = Arc::new(RealFiles::new(dir.to_owned()));
        (Table::new(Slots::claim(Arc::clone(&files), "test").unwrap()).unwrap(), files)
    }

    #[test]
    fn a_slot_goes_where_its_follower_is_also_back() {
        let dir = tempfile::tempdir().unwrap();
        let (table, files) = table(dir.path());
        let at = |lsn: u64| Some((TimelineId::FIRST, Lsn::new(lsn)));
        table.create("a", None, at(9 << 20)).unwrap();
        let mut held = table.take("a", 1, Lsn::new(1 << 20)).unwrap();
        for (flushed, is_written) in [(3 << 20, true), (3 << 20 | 5, false), (4 << 20, true)] {
            assert_eq!(held.flushed(Lsn::new(flushed), SIZE), is_written, "{flushed}");
            assert_eq!(table.read("a").unwrap().restart, at(flushed));
            if is_written {
                table.save(&mut held, TimelineId::FIRST).unwrap();
                assert_eq!(archive::slots(&*files).unwrap().pop().unwrap().restart, at(flushed));
            }
        }
        // One that was made for a stream is where that begins.
        table.create("b", Some(2), at(1 << 20)).unwrap();
        table.take("b", 2, Lsn::new(5 << 20)).unwrap();
        assert_eq!(table.read("b").unwrap().restart, at(5 << 20));
        table.drop_temporary(2).unwrap();
        let horizons = Horizons { xmin: 7, catalog_xmin: 0 };
        table.need(&held, horizons);
        table.save(&mut held, TimelineId::FIRST).unwrap();
        assert_eq!(archive::slots(&*files).unwrap().pop().unwrap().xmin, 7);
        assert_eq!(table.needs(), [horizons]);
        // What was expired isn't kept any more, and the slot stays where it can be kept from.
        let expired = r#"{"expired": [{"timeline": 1, "before": "0/300000", "at": ""}]}"#;
        std::fs::write(dir.path().join("expired.json"), expired).unwrap();
        assert!(held.flushed(Lsn::new(1 << 20), SIZE));
        assert!(table.save(&mut held, TimelineId::FIRST).is_err());
        assert_eq!(archive::slots(&*files).unwrap().pop().unwrap().restart, at(4 << 20));
    }

    #[test]
    fn a_slot_that_can_not_be_let_go_keeps_and_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (table, _) = table(dir.path());
        table.create("a", None, Some((TimelineId::FIRST, Lsn::new(1 << 20)))).unwrap();
        let (slots, away) = (dir.path().join("slots"), dir.path().join("away"));
        std::fs::rename(&slots, &away).unwrap();
        std::fs::write(&slots, "").unwrap();
        let let_go = || table.let_go(Lsn::new(9 << 20), 1 << 20).pop().unwrap();
        assert!(let_go().written.is_err());
        assert!(table.read("a").unwrap().keeps_from().is_some());
        std::fs::remove_file(&slots).unwrap();
        std::fs::rename(&away, &slots).unwrap();
        let lost = let_go();
        assert_eq!((lost.name.as_str(), lost.retained), ("a", 8 << 20));
        assert!(lost.written.is_ok() && table.read("a").unwrap().keeps_from().is_none());
        assert!(table.let_go(Lsn::new(9 << 20), 1 << 20).is_empty());
    }
}
