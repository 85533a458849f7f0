//! Where streaming starts that nothing is archived for yet.

use pg_types::{Branch, Lsn, TimelineId};
use pg_wire::row::{SlotState, SystemIdentity};

/// A beginning, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// The slot keeps WAL from here on: nothing that it promised is missing.
    Slot(Lsn),
    /// The server's end: nothing proves that no WAL is missing before.
    ServerEnd(Lsn),
}

impl StartFrom {
    /// The position; a stream starts at its segment's start.
    #[must_use]
    pub const fn lsn(self) -> Lsn {
        match self {
            Self::Slot(lsn) | Self::ServerEnd(lsn) => lsn,
        }
    }
}

/// Where to start: at the slot's `restart_lsn` if it keeps WAL of the server's history, else at
/// the server's end.
#[must_use]
pub fn start_from(slot: Option<&SlotState>, server: &SystemIdentity, branch: &Branch) -> StartFrom {
    let on_timeline = |tli: Option<TimelineId>| tli.is_none_or(|tli| branch.up_to(tli).is_some());
    match slot {
        Some(SlotState { restart_lsn: Some(lsn), restart_tli, .. })
            if on_timeline(*restart_tli) =>
        {
            StartFrom::Slot(*lsn)
        }
        _ => StartFrom::ServerEnd(server.xlogpos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_types::SystemId;

    #[test]
    fn a_slot_that_reserves_nothing_is_no_beginning() {
        let server = SystemIdentity {
            system_id: SystemId(1),
            timeline: TimelineId::FIRST,
            xlogpos: Lsn::new(100),
            dbname: None,
        };
        let branch = Branch::root(TimelineId::FIRST);
        let slot = |restart_lsn, restart_tli| SlotState {
            slot_type: "physical".to_owned(),
            restart_lsn,
            restart_tli,
        };
        let check = |slot: Option<SlotState>, expect| {
            assert_eq!(start_from(slot.as_ref(), &server, &branch), expect);
        };
        check(None, StartFrom::ServerEnd(Lsn::new(100)));
        check(Some(slot(None, None)), StartFrom::ServerEnd(Lsn::new(100)));
        let lsn = Some(Lsn::new(40));
        check(Some(slot(lsn, Some(TimelineId::FIRST))), StartFrom::Slot(Lsn::new(40)));
        check(Some(slot(lsn, TimelineId::new(2))), StartFrom::ServerEnd(Lsn::new(100)));
    }
}
