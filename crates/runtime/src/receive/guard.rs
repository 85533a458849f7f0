//! The guard of the server's disk.
//!
//! A slot keeps WAL for a receiver for as long as it takes. One that can't write, or doesn't keep
//! up, would fill the disk that it is there to protect; so past a bound the slot is let go, which is
//! an alarm, and made anew once the receiver has caught up. What the server removes meanwhile is a
//! gap, and found as any other; what it still has is streamed, without a slot.
//!
//! A receiver that was away for long and is catching up isn't behind in this sense: what is kept
//! for it shrinks.

use std::cell::Cell;
use std::time::Duration;

use pg_types::Lsn;
use pg_wire::command::{SlotName, drop_replication_slot};
use pg_wire::message::SqlState;
use pg_wire::settings::ConnectionSettings;
use replication::Timing;
use tokio::time::sleep;

use crate::receive::Progress;
use crate::session::connect;
use crate::{AskError, SessionError};

/// How often is looked: a server writes a gigabyte in that time at the most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A slot is taken back when what it would keep is this small a part of the bound, so that one
/// that is let go and taken back by turns has something done between.
const TAKE_BACK_PART: u64 = 2;

/// For the guard's connections, which stream nothing.
const TIMING: Timing = Timing::NONE;

/// What is to be done about a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It keeps more than the bound, and not less than before.
    LetGo {
        /// What it keeps, bytes.
        retained: u64,
    },
    /// It was let go, and would keep little now.
    TakeBack,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Guard {
    /// The most that a slot may keep, bytes; no bound, no guard.
    limit: Option<u64>,
    /// What it kept when it was looked at last, bytes.
    last: u64,
    /// Whether the slot was let go.
    has_let_go: bool,
}

impl Guard {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit, last: 0, has_let_go: false }
    }

    pub(super) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Whether streaming has to do without the slot.
    pub(super) fn has_let_go(&self) -> bool {
        self.has_let_go
    }

    pub(super) fn set_let_go(&mut self, has_let_go: bool) {
        self.has_let_go = has_let_go;
    }

    /// Judges what the slot keeps, bytes, now.
    pub(super) fn look(&mut self, retained: u64) -> Option<Look> {
        let limit = self.limit?;
        let last = std::mem::replace(&mut self.last, retained);
        if self.has_let_go {
            return (retained <= limit / TAKE_BACK_PART).then_some(Look::TakeBack);
        }
        // Twice in a row, so that one that has just come back isn't judged by where it begins.
        (retained > limit && last > limit && retained >= last).then_some(Look::LetGo { retained })
    }

    /// Watches a stream, and what is left of it, until something is to be done.
    ///
    /// The stream says how much there is. Where nothing gets any further it isn't read, perhaps,
    /// and the server is asked.
    pub(super) async fn watch(
        &mut self,
        settings: &ConnectionSettings,
        standing: &Cell<Progress>,
    ) -> Look {
        if self.limit.is_none() {
            return std::future::pending().await;
        }
        let mut before = standing.get();
        loop {
            sleep(LOOK_INTERVAL).await;
            let now = standing.get();
            let stands_still = now.positions.durable == before.positions.durable;
            let end = if stands_still && now.acknowledged < now.upstream {
                // A server that can't be asked keeps what it keeps; it is asked again.
                server_end(settings).await.unwrap_or(now.upstream)
            } else {
                now.upstream
            };
            if let Some(look) = self.look(end.saturating_since(now.acknowledged)) {
                return look;
            }
            before = now;
        }
    }
}

async fn server_end(settings: &ConnectionSettings) -> Result<Lsn, SessionError> {
    let (mut link, facts) = connect(settings, TIMING).await?;
    link.close();
    Ok(facts.system.xlogpos)
}

/// Drops a slot; fine if there is none any more. Who streams with it has to be gone: that is waited
/// for.
pub(super) async fn drop_slot(
    settings: &ConnectionSettings,
    slot: &SlotName,
) -> Result<(), SessionError> {
    let (mut link, _) = connect(settings, TIMING).await?;
    match link.ask(&drop_replication_slot(slot, true)).await {
        Ok(_) => {}
        Err(AskError::Server(message)) if message.sqlstate == SqlState::UNDEFINED_OBJECT => {}
        Err(error) => return Err(error.into()),
    }
    link.close();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(limit: Option<u64>, retained: &[u64]) -> Vec<Option<Look>> {
        let mut guard = Guard::new(limit);
        retained.iter().map(|retained| guard.look(*retained)).collect()
    }

    #[test]
    fn a_slot_is_let_go_that_keeps_too_much_and_not_less() {
        let let_go = |retained| Some(Look::LetGo { retained });
        assert_eq!(looks(None, &[900, 1000]), [None, None]);
        assert_eq!(looks(Some(100), &[100, 100, 100]), [None, None, None]);
        assert_eq!(looks(Some(100), &[90, 101, 101]), [None, None, let_go(101)]);
        assert_eq!(looks(Some(100), &[500, 400, 300, 200]), [None; 4], "it catches up");
        assert_eq!(looks(Some(100), &[500, 400, 410]), [None, None, let_go(410)]);
    }

    #[test]
    fn it_is_taken_back_when_it_would_keep_little() {
        let mut guard = Guard::new(Some(100));
        guard.set_let_go(true);
        assert_eq!(guard.look(500), None);
        assert_eq!(guard.look(51), None);
        assert_eq!(guard.look(50), Some(Look::TakeBack));
        guard.set_let_go(false);
        assert_eq!(guard.look(60), None);
    }
}
