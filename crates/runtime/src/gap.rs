//! WAL that the server hasn't got any more: where it begins to have some again.
//!
//! A server has every segment from its oldest on. Which that is no command tells; START_REPLICATION
//! fails for what was removed, so that halving finds it. The slot isn't used for that: it follows
//! what it is asked for.

use std::time::{Duration, SystemTime};

use pg_types::{Branch, Lsn, SegmentNumber, SegmentSize, TimelineId};
use pg_wire::command::start_replication;
use pg_wire::message::SqlState;
use pg_wire::settings::ConnectionSettings;
use pg_wire::stream::pg_micros_from_system_time;
use replication::{Event, Timing, Want};

use crate::session::connect;
use crate::world;
use crate::{Link, SessionError};

/// A server that has a segment begins to send it at once; reading a disk that is busy may take
/// some time.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// For connections that stream nothing.
const PROBE: Timing = Timing::NONE;

/// The oldest segment of a branch that the server still has: the start of it, and its timeline.
/// `removed` is one that it hasn't.
///
/// # Errors
/// If the server can't be reached, or fails otherwise; if it was promoted or replaced meanwhile.
pub(crate) async fn oldest_kept(
    settings: &ConnectionSettings,
    branch: &Branch,
    size: SegmentSize,
    removed: SegmentNumber,
) -> Result<(TimelineId, Lsn), SessionError> {
    // Where it writes now: a session may have gone on for weeks.
    let (_, facts) = connect(settings, PROBE).await?;
    if facts.system.timeline != branch.timeline() {
        return Err(SessionError::Moved);
    }
    let server_end = facts.system.xlogpos;
    let place = |number: SegmentNumber| {
        let stretch = branch.stretch_of(number, size);
        (stretch.map_or(branch.timeline(), |stretch| stretch.timeline), number.start(size))
    };
    let (mut removed, mut kept) = (removed.as_u64(), server_end.segment(size).as_u64());
    if removed >= kept {
        return Err(SessionError::Moved);
    }
    while kept - removed > 1 {
        let middle = removed + (kept - removed) / 2;
        let (timeline, at) = place(SegmentNumber::new(middle));
        if has(settings, timeline, at).await? {
            kept = middle;
        } else {
            removed = middle;
        }
    }
    Ok(place(SegmentNumber::new(kept)))
}

/// Whether the server has the segment that starts at `at`.
async fn has(
    settings: &ConnectionSettings,
    timeline: TimelineId,
    at: Lsn,
) -> Result<bool, SessionError> {
    let (mut link, _) = connect(settings, PROBE).await?;
    link.connection.start_streaming(&start_replication(None, at, timeline), at);
    match tokio::time::timeout(PROBE_TIMEOUT, first_word(&mut link)).await {
        Ok(answer) => answer,
        Err(_) => Err(SessionError::Closed),
    }
}

async fn first_word(link: &mut Link) -> Result<bool, SessionError> {
    loop {
        while let Some(event) = link.connection.poll_event() {
            match event {
                Event::StreamFailed(message) if message.sqlstate == SqlState::UNDEFINED_FILE => {
                    return Ok(false);
                }
                Event::StreamFailed(message) => {
                    return Err(SessionError::Refused { command: "streaming", message });
                }
                Event::EndOfTimeline(_) => return Ok(true),
                Event::ServerShutDown => return Err(SessionError::ServerShutDown),
                _ => {}
            }
        }
        if matches!(link.connection.want(), Want::Wal { .. }) {
            return Ok(true);
        }
        let time_us = pg_micros_from_system_time(SystemTime::now());
        link.connection.send_status(world::now(), time_us);
        link.transmit()?;
        link.socket.readable().await.map_err(SessionError::Broken)?;
        link.read_input()?;
    }
}
