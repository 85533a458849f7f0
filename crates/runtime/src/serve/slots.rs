//! Followers' slots while they are served: who uses which, and how far each has come.
//!
//! How far is known in memory at once; the file follows when a slot has moved into another
//! segment, and when its stream ends, since a segment is what is removed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use archive::{ArchiveError, Slot, Slots};
use pg_types::{Lsn, SegmentSize, TimelineId};
use pg_wire::command::{SlotName, SlotNameError};
use pg_wire::message::SqlState;
use pg_wire::server::response::Refusal;
use tokio::sync::watch;

use super::hub::Hub;
use super::{SLOTS_INTERVAL, ServeReport};
use crate::world;

/// As many slots as anybody has followers.
const MAX_SLOTS: usize = 100;

pub(super) struct Table {
    store: Slots,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Changes when a slot is given back.
    released: watch::Sender<u64>,
}

struct Entry {
    slot: Slot,
    active: Option<u32>,
    /// Up to where its stream has flushed, while there is one.
    flushed: Arc<AtomicU64>,
}

impl Entry {
    fn new(slot: Slot) -> Self {
        let at = slot.restart.map_or(0, |(_, at)| at.as_u64());
        Self { slot, active: None, flushed: Arc::new(AtomicU64::new(at)) }
    }

    /// As it is now.
    fn now(&self) -> Slot {
        let mut slot = self.slot.clone();
        if let Some((_, at)) = &mut slot.restart {
            *at = Lsn::new(self.flushed.load(Ordering::Relaxed)).max(*at);
        }
        slot
    }
}

/// A slot that a stream uses.
pub(super) struct Held {
    pub(super) name: String,
    timeline: TimelineId,
    flushed: Arc<AtomicU64>,
    /// What its file says.
    saved: Lsn,
}

impl Held {
    /// The follower has flushed this. Whether the file is to follow.
    pub(super) fn flushed(&self, at: Lsn, size: SegmentSize) -> bool {
        self.flushed.fetch_max(at.as_u64(), Ordering::Relaxed);
        self.saved.segment(size) < at.segment(size) || !self.saved.is_valid()
    }

    pub(super) fn at(&self) -> Lsn {
        Lsn::new(self.flushed.load(Ordering::Relaxed))
    }
}

impl Table {
    pub(super) fn new(store: Slots) -> Result<Self, ArchiveError> {
        let slots = store.begin()?.into_iter();
        let entries = slots.map(|slot| (slot.name.clone(), Entry::new(slot))).collect();
        Ok(Self { store, entries: Mutex::new(entries), released: watch::Sender::new(0) })
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
        let mut entries = self.entries();
        if entries.contains_key(name) {
            let text = format!("replication slot \"{name}\" already exists");
            return Err(Refusal::error(SqlState::DUPLICATE_OBJECT, text));
        }
        if entries.len() >= MAX_SLOTS {
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
        };
        self.store.keep(&slot).map_err(|error| failed(&error))?;
        entries.insert(name.to_owned(), Entry { active: temporary, ..Entry::new(slot) });
        Ok(())
    }

    /// Drops a slot; `false` if somebody uses it, and that is waited for.
    pub(super) fn drop(&self, name: &str, wait: bool, pid: u32) -> Result<bool, Refusal> {
        let mut entries = self.entries();
        let entry = entries.get(name).ok_or_else(|| missing(name))?;
        match entry.active {
            Some(other) if other != pid && wait => return Ok(false),
            Some(other) if other != pid => return Err(in_use(name, other)),
            _ => {}
        }
        self.store.remove(name).map_err(|error| failed(&error))?;
        entries.remove(name);
        Ok(true)
    }

    /// Takes a slot for a stream.
    pub(super) fn take(&self, name: &str, pid: u32) -> Result<Held, Refusal> {
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
        let (timeline, saved) = entry.slot.restart.unwrap_or((TimelineId::FIRST, Lsn::INVALID));
        let (name, flushed) = (name.to_owned(), Arc::clone(&entry.flushed));
        Ok(Held { name, timeline, flushed, saved })
    }

    /// Writes how far a slot has come, on this timeline.
    pub(super) fn save(&self, held: &mut Held, timeline: TimelineId) -> Result<(), ArchiveError> {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&held.name) else { return Ok(()) };
        let at = held.at();
        if !at.is_valid() || (held.saved, held.timeline) == (at, timeline) {
            return Ok(());
        }
        entry.slot.restart = Some((timeline, at));
        (held.saved, held.timeline) = (at, timeline);
        self.store.keep(&entry.slot)
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
        let mut entries = self.entries();
        let ours = |entry: &Entry| entry.slot.temporary && entry.active == Some(pid);
        let names: Vec<String> =
            entries.iter().filter(|(_, entry)| ours(entry)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.store.remove(&name)?;
            entries.remove(&name);
        }
        drop(entries);
        self.released.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Lets slots go that keep more than `limit`; gives each, what it kept, and who uses it.
    fn let_go(&self, end: Lsn, limit: u64) -> Vec<(String, u64, Option<u32>)> {
        let mut lost = Vec::new();
        for (name, entry) in self.entries().iter_mut() {
            let Some(from) = entry.now().keeps_from() else { continue };
            let retained = end.saturating_since(from);
            if retained <= limit {
                continue;
            }
            entry.slot = entry.now();
            entry.slot.lost = Some(format!("it kept {retained} bytes, and may keep {limit}"));
            // One that can't be written keeps too much on the disk, and is told again.
            if self.store.keep(&entry.slot).is_ok() {
                lost.push((name.clone(), retained, entry.active));
            }
        }
        lost
    }
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
            for (slot, retained, pid) in lost.unwrap_or_default() {
                hub.tell(&ServeReport::SlotLost { slot: &slot, retained, limit });
                if let Some(pid) = pid {
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
