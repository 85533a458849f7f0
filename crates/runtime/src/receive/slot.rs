//! The slot that keeps WAL for a receiver: made, looked at, let go, made anew.

use archive::Resume;
use pg_types::Lsn;
use pg_wire::command::{SlotName, drop_replication_slot};
use pg_wire::row::SlotState;

use super::guard::{Look, drop_slot};
use super::{Observer, Receiver, Report};
use crate::session::{create_slot, read_slot};
use crate::{AskError, Facts, Link, SessionError};

impl<'a> Receiver<'a> {
    /// The slot that is streamed with.
    pub(super) fn slot(&self) -> Option<&'a SlotName> {
        self.what.slot.as_ref().filter(|_| !self.guard.has_let_go())
    }

    /// Makes the slot if that was asked for; whether it did.
    pub(super) async fn ensure_slot(
        &mut self,
        link: &mut Link,
        facts: &Facts,
        observer: &mut dyn Observer,
    ) -> Result<bool, SessionError> {
        let Some(slot) = self.slot().filter(|_| self.what.create_slot) else {
            return Ok(false);
        };
        if create_slot(link, facts.version, slot, true).await? {
            observer.report(&Report::SlotCreated(slot));
            self.slot_made = true;
            return Ok(true);
        }
        if self.what.if_not_exists || self.slot_made {
            return self.remake_slot(link, facts, slot, observer).await;
        }
        Err(SessionError::SlotExists { slot: slot.as_str().to_owned() })
    }

    /// Makes a slot anew that keeps no WAL: it was invalidated, and some versions stream from it all
    /// the same, and keep nothing. Whether it did. Below 15 such a slot heals by itself.
    async fn remake_slot(
        &mut self,
        link: &mut Link,
        facts: &Facts,
        slot: &SlotName,
        observer: &mut dyn Observer,
    ) -> Result<bool, SessionError> {
        if facts.version.major() < 15 {
            return Ok(false);
        }
        match read_slot(link, &self.here, facts.version, slot).await? {
            Some(state) if state.restart_lsn.is_none() => {}
            _ => return Ok(false),
        }
        observer.report(&Report::Note(
            "the replication slot keeps no WAL: it was invalidated (see max_slot_wal_keep_size), \
             or never used; it is made anew",
        ));
        link.ask(&drop_replication_slot(slot, false)).await?;
        create_slot(link, facts.version, slot, true).await?;
        observer.report(&Report::SlotCreated(slot));
        Ok(true)
    }

    /// Lets a slot go that keeps too much before it is streamed from: sessions that all end before
    /// they stream would never get to do it.
    pub(super) async fn look_before(
        &mut self,
        link: &mut Link,
        facts: &Facts,
        observer: &mut dyn Observer,
    ) -> Result<(), SessionError> {
        let Some(slot) = self.slot().filter(|_| self.guard.limit().is_some()) else {
            return Ok(());
        };
        // Below 15 it takes a plain connection, which a pg_hba may refuse.
        let state = read_slot(link, &self.here, facts.version, slot).await;
        let kept = state.ok().flatten().and_then(|state| state.restart_lsn);
        let Some(kept) = kept else { return Ok(()) };
        let retained = facts.system.xlogpos.saturating_since(kept);
        if let Some(Look::LetGo { retained }) = self.guard.look(retained) {
            self.let_go(retained, observer).await;
        }
        Ok(())
    }

    /// Makes a slot anew that was let go, once what it has to keep is little.
    pub(super) async fn take_back(
        &mut self,
        link: &mut Link,
        facts: &Facts,
        resume: &Resume,
        observer: &mut dyn Observer,
    ) -> Result<(), SessionError> {
        let Some(slot) = self.what.slot.as_ref().filter(|_| self.guard.has_let_go()) else {
            return Ok(());
        };
        let kept = facts.system.xlogpos.saturating_since(resume.acknowledged());
        if self.guard.look(kept) == Some(Look::TakeBack) {
            create_slot(link, facts.version, slot, true).await?;
            self.guard.set_let_go(false);
            observer.report(&Report::SlotCreated(slot));
        }
        Ok(())
    }

    /// Says what is wrong with a slot that is there, before it is streamed from.
    pub(super) async fn look_at_slot(
        &self,
        link: &mut Link,
        facts: &Facts,
        archived: Lsn,
        observer: &mut dyn Observer,
    ) -> Result<(), SessionError> {
        let size = facts.geometry.segment_size;
        let Some(slot) = self.slot() else { return Ok(()) };
        let name = slot.as_str();
        let state = match read_slot(link, &self.here, facts.version, slot).await {
            // Below 15 it takes a plain connection, which may be refused; then nobody looks.
            Err(AskError::Session(error))
                if facts.version.major() < 15 && error.is_access_refused() =>
            {
                return Ok(());
            }
            state => state?,
        };
        match state {
            // Streaming from it makes it keep WAL again, and what is missing is found there.
            Some(SlotState { restart_lsn: None, .. }) if facts.version.major() < 15 => Ok(()),
            None => Err(SessionError::NoSlot { slot: name.to_owned() }),
            Some(SlotState { restart_lsn: None, .. }) => {
                let note = format!(
                    "the replication slot \"{name}\" keeps no WAL: it was invalidated (see \
                     max_slot_wal_keep_size), or never used; `seawall slot drop {name}`, then \
                     receive with --create-slot"
                );
                observer.report(&Report::Note(&note));
                Ok(())
            }
            // WAL is kept by whole segments.
            Some(SlotState { restart_lsn: Some(kept), .. })
                if kept.segment_start(size) > archived =>
            {
                let note = format!(
                    "the replication slot \"{name}\" keeps WAL from {kept} on, and the archive ends \
                     at {archived}: somebody else advanced it, and what is between may be gone"
                );
                observer.report(&Report::Note(&note));
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    /// Drops the slot, which nobody streams from now.
    pub(super) async fn let_go(&mut self, retained: u64, observer: &mut dyn Observer) {
        let (Some(slot), Some(limit)) = (&self.what.slot, self.guard.limit()) else { return };
        match drop_slot(&self.here, slot).await {
            Ok(()) => {
                self.guard.set_let_go(true);
                observer.report(&Report::SlotLetGo { slot, retained, limit });
            }
            Err(error) => {
                let note = format!(
                    "the replication slot \"{}\" keeps {retained} bytes, more than \
                     --max-slot-retention, and can't be dropped: {error}; it is tried again",
                    slot.as_str()
                );
                observer.report(&Report::Note(&note));
            }
        }
    }
}
