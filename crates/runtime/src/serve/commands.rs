//! The commands that take an archive. What they are answered is in the server's words.

use archive::{ArchiveError, Catalogue};
use pg_types::{Branch, Lsn, TimelineId, WalFileName};
use pg_wire::message::SqlState;
use pg_wire::server::grammar::Command;
use pg_wire::server::response::Refusal;
use pg_wire::stream::EndOfTimeline;
use replication::sender::{Answer, SlotAnswer};

use super::ServeReport;
use super::hub::Hub;
use super::slots::{Held, failed};
use crate::Tip;

/// A history has a line for each promotion that a cluster has seen.
const MAX_HISTORY_BYTES: usize = 1 << 20;

/// What a command came to.
pub(super) enum Done {
    Answer(Answer),
    /// A stream begins, with this slot.
    Stream(Answer, Option<Held>),
    /// A slot that is used is waited for.
    Wait,
}

/// Does a command of the connection `pid`. It takes the disk.
pub(super) fn run(hub: &Hub, command: &Command, pid: u32) -> Done {
    let ready = hub.catalogue().zip(*hub.tip.borrow());
    let Some((catalogue, tip)) = ready else {
        return refused(starting_up());
    };
    let done = match command {
        Command::IdentifySystem => {
            Ok(Done::Answer(Answer::System { timeline: tip.timeline, at: tip.end }))
        }
        Command::TimelineHistory(timeline) => history(&catalogue, *timeline),
        Command::CreateSlot { name, temporary, reserve_wal } => {
            // Where the server that is made of the backup needs it from, as a real server keeps it
            // from its last checkpoint on.
            let backup = || hub.what.backups.start(tip.timeline);
            let first = || backup().map_or((tip.timeline, tip.end), |at| (at.timeline, at.lsn));
            let restart = reserve_wal.then(first);
            hub.slots.create(name, temporary.then_some(pid), restart).map(|()| {
                hub.tell(&ServeReport::SlotCreated(name));
                Done::Answer(Answer::SlotCreated(name.clone()))
            })
        }
        Command::ReadSlot(name) => read_slot(hub, &catalogue, &tip, name),
        Command::DropSlot { name, wait } => hub.slots.drop(name, *wait, pid).map(|dropped| {
            if !dropped {
                return Done::Wait;
            }
            hub.need();
            hub.tell(&ServeReport::SlotDropped(name));
            Done::Answer(Answer::SlotDropped)
        }),
        Command::Start { slot, at, timeline } => {
            start(hub, &catalogue, &tip, pid, (slot.as_deref(), *at, *timeline))
        }
        // The sender refuses all others by itself.
        _ => Err(Refusal::error(SqlState::FEATURE_NOT_SUPPORTED, "it isn't served by seawall")),
    };
    done.unwrap_or_else(refused)
}

/// Nothing is archived yet that could be served.
pub(super) fn starting_up() -> Refusal {
    let text = "the database system is starting up";
    Refusal::error(SqlState::CANNOT_CONNECT_NOW, text)
}

fn refused(refusal: Refusal) -> Done {
    Done::Answer(Answer::Refused(refusal))
}

fn history(catalogue: &Catalogue, timeline: TimelineId) -> Result<Done, Refusal> {
    let name = WalFileName::TimelineHistory(timeline);
    let content = catalogue.small_file(name, MAX_HISTORY_BYTES);
    let content = content.map_err(|error| failed(&error.into()))?;
    Ok(Done::Answer(Answer::History { timeline, content }))
}

fn read_slot(hub: &Hub, catalogue: &Catalogue, tip: &Tip, name: &str) -> Result<Done, Refusal> {
    let answer = match hub.slots.read(name) {
        None => SlotAnswer::Missing,
        Some(slot) => match slot.restart {
            None => SlotAnswer::Unreserved,
            Some((_, at)) => {
                let branch = branch(catalogue, tip.timeline).map_err(|error| failed(&error))?;
                SlotAnswer::Keeps(at, timeline_at(&branch, at))
            }
        },
    };
    Ok(Done::Answer(Answer::Slot(answer)))
}

/// The line of history that the newest timeline ends.
pub(super) fn branch(catalogue: &Catalogue, timeline: TimelineId) -> Result<Branch, ArchiveError> {
    Ok(catalogue.history(timeline)?.unwrap_or_else(|| Branch::root(timeline)))
}

/// On which timeline of it a position lies.
fn timeline_at(branch: &Branch, at: Lsn) -> TimelineId {
    let mut stretches = branch.stretches().iter();
    let stretch = stretches.find(|stretch| stretch.end.is_none_or(|end| at < end));
    stretch.map_or(branch.timeline(), |stretch| stretch.timeline)
}

/// Where a timeline of the archive's history ended; `None` for the newest.
///
/// # Errors
/// If the timeline isn't part of the history.
pub(super) fn end_of(
    branch: &Branch,
    timeline: TimelineId,
) -> Result<Option<EndOfTimeline>, Refusal> {
    let stretches = branch.stretches();
    let place = stretches.iter().position(|stretch| stretch.timeline == timeline);
    let Some(place) = place else {
        let text = format!("requested timeline {timeline} is not in this server's history");
        return Err(Refusal::error(SqlState::INTERNAL_ERROR, text));
    };
    let next = stretches.get(place + 1);
    Ok(next.map(|next| EndOfTimeline { next_timeline: next.timeline, switch_point: next.begin }))
}

fn start(
    hub: &Hub,
    catalogue: &Catalogue,
    tip: &Tip,
    pid: u32,
    (slot, at, timeline): (Option<&str>, Lsn, Option<TimelineId>),
) -> Result<Done, Refusal> {
    let timeline = timeline.unwrap_or(tip.timeline);
    let held = slot.map(|name| hub.slots.take(name, pid, at)).transpose()?;
    let stream = || {
        let branch = branch(catalogue, tip.timeline).map_err(|error| failed(&error))?;
        let end = end_of(&branch, timeline)?;
        if let Some(end) = end.filter(|end| at > end.switch_point) {
            let text = format!(
                "requested starting point {at} on timeline {timeline} is not in this server's \
                 history"
            );
            let detail = format!(
                "This server's history forked from timeline {timeline} at {}.",
                end.switch_point
            );
            return Err(Refusal::error(SqlState::INTERNAL_ERROR, text).detail(detail));
        }
        let limit = end.map_or(tip.end, |end| end.switch_point.min(tip.end));
        Ok(Answer::Stream { start: at, timeline, limit, end })
    };
    match stream() {
        Ok(answer) => Ok(Done::Stream(answer, held)),
        Err(refusal) => {
            if let Some(held) = held {
                hub.slots.release(&held);
            }
            Err(refusal)
        }
    }
}
