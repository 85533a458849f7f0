//! Whether a server's WAL is the archive's: asked of it without a slot and beside the stream,
//! where the stream can't tell. Before one, if the server ends before the archive, or if nothing
//! that is stored would come again; after one, if it brought what doesn't hold.

use std::time::{Duration, SystemTime};

use archive::{Archive, ArchiveError, Comparison, Likeness, Resume, Stop, Writer};
use pg_types::{Branch, Lsn, TimelineId};
use pg_wire::command::start_replication;
use pg_wire::settings::ConnectionSettings;
use pg_wire::stream::pg_micros_from_system_time;
use replication::{Event, Timing, Want};

use super::{Observer, Receiver, Report};
use crate::session::connect;
use crate::world;
use crate::{Facts, Link, SessionError};

/// A segment of the usual size over a slow line; what takes longer is left undecided.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(60);
/// Read at once.
const READ_BYTES: usize = 64 << 10;

impl Receiver<'_> {
    /// Where streaming goes on with a server that may be behind the archive, or have another
    /// history: `resume`, unless what is archived past its last proved record was replaced.
    ///
    /// # Errors
    /// If the server has another history, or is behind and has to be waited for.
    pub(super) async fn within_history(
        &mut self,
        archive: &Archive,
        facts: &Facts,
        branch: &Branch,
        resume: Resume,
        observer: &mut dyn Observer,
    ) -> Result<Resume, SessionError> {
        let (timeline, archived) = (resume.timeline, resume.proved());
        let here = branch.stretches().iter().find(|stretch| stretch.timeline == timeline);
        let left = here.and_then(|stretch| stretch.end);
        let server = left.unwrap_or(facts.system.xlogpos);
        if resume.start <= server && archived <= server {
            if archived > resume.start {
                return Ok(resume);
            }
            // Nothing that is stored will come again.
            let replaced = self.refuse_other(archive, timeline, archived, resume.start).await?;
            return if replaced {
                self.fetch_again(archive, branch, &resume, observer)
            } else {
                Ok(resume)
            };
        }
        match self.compare(archive, timeline, archived, server).await? {
            Likeness::Differs(_) => self.fetch_again(archive, branch, &resume, observer),
            // A timeline that was left gets no longer.
            _ if left.is_some() => self.fetch_again(archive, branch, &resume, observer),
            Likeness::Same | Likeness::Unsure => {
                Err(SessionError::Behind { server, archived: archived.max(resume.start) })
            }
        }
    }

    /// A record was broken off by a crash of the server, which replaced the rest of it: the
    /// segments that it ran through hold nothing else.
    fn fetch_again(
        &mut self,
        archive: &Archive,
        branch: &Branch,
        resume: &Resume,
        observer: &mut dyn Observer,
    ) -> Result<Resume, SessionError> {
        let here = branch.up_to(resume.timeline);
        let here = here.as_ref().unwrap_or(branch);
        if let Some(withdrawn) = archive.withdraw(here, resume.proved())? {
            self.ended = None;
            observer.report(&Report::Withdrawn(&withdrawn));
        }
        archive.resume(branch, self.ended, false)?.ok_or(SessionError::Closed)
    }

    /// Refuses a server that has other bytes for what is proved, if it can be asked; says whether
    /// it has others behind that.
    ///
    /// # Errors
    /// If it has another history.
    pub(super) async fn refuse_other(
        &self,
        archive: &Archive,
        timeline: TimelineId,
        archived: Lsn,
        until: Lsn,
    ) -> Result<bool, SessionError> {
        match self.compare(archive, timeline, archived, until).await {
            Err(error @ SessionError::Diverged { .. }) => Err(error),
            compared => Ok(matches!(compared, Ok(Likeness::Differs(_)))),
        }
    }

    /// What a stream that had to stop really was: another history, if the server has other bytes
    /// than the archive for what is proved, and they hold. One that brought a record which goes on
    /// from the archive's last isn't.
    pub(super) async fn second_look(
        &self,
        archive: &Archive,
        timeline: TimelineId,
        archived: Lsn,
        writer: &Writer,
    ) -> Result<(), SessionError> {
        match writer.stop() {
            Some(Stop::Corrupt(_)) if writer.positions().proved.0 <= archived => {}
            Some(Stop::Diverged { .. }) => {}
            _ => return Ok(()),
        }
        match (self.compare(archive, timeline, archived, archived).await, writer.stop()) {
            (Err(error @ SessionError::Diverged { .. }), _) => Err(error),
            // Asked again it is the same: a byte that nothing protects was changed on the way.
            (Ok(Likeness::Same), Some(Stop::Diverged { from, to })) => {
                Err(SessionError::CameWrong { from: *from, to: *to })
            }
            // A server that can't be asked has told enough.
            _ => Ok(()),
        }
    }

    /// Compares what is archived with the server's up to `until`; `archived` is the end of what is
    /// proved of it.
    ///
    /// # Errors
    /// If what differs is proved: another history, of which a piece is kept. And if the server
    /// can't be asked.
    async fn compare(
        &self,
        archive: &Archive,
        timeline: TimelineId,
        archived: Lsn,
        until: Lsn,
    ) -> Result<Likeness, SessionError> {
        let asked = compare(&self.here, archive, timeline, until).await?;
        let (Likeness::Differs(at), Some(comparison)) = &asked else { return Ok(asked.0) };
        if *at >= archived {
            return Ok(asked.0);
        }
        let kept = archive.keep_difference(comparison)?;
        Err(SessionError::Diverged { timeline, at: *at, kept })
    }
}

/// Compares the segment that ends at `until` or has it, up to there. What the server hasn't got
/// any more, or doesn't give, leaves it undecided.
///
/// # Errors
/// If the server can't be reached, or the archive can't be read.
async fn compare(
    settings: &ConnectionSettings,
    archive: &Archive,
    timeline: TimelineId,
    until: Lsn,
) -> Result<(Likeness, Option<Comparison>), SessionError> {
    let compared = archive.comparison(timeline, until).map_err(ArchiveError::from)?;
    let Some(mut comparison) = compared else { return Ok((Likeness::Unsure, None)) };
    let (mut link, _) = connect(settings, Timing::NONE).await?;
    let from = comparison.from();
    link.connection.start_streaming(&start_replication(None, from, timeline), from);
    match tokio::time::timeout(COMPARE_TIMEOUT, read(&mut link, &mut comparison)).await {
        Ok(read) => read?,
        Err(_) => return Ok((Likeness::Unsure, None)),
    }
    link.connection.terminate();
    // Whether or not the server hears it: the socket closes behind it.
    _ = link.transmit();
    Ok((comparison.likeness().unwrap_or(Likeness::Unsure), Some(comparison)))
}

/// Reads until the comparison knows, or the server gives no more.
async fn read(link: &mut Link, comparison: &mut Comparison) -> Result<(), SessionError> {
    let mut buf = vec![0; READ_BYTES];
    while comparison.likeness().is_none() {
        while let Some(event) = link.connection.poll_event() {
            match event {
                Event::StreamFailed(_) | Event::EndOfTimeline(_) | Event::ServerShutDown => {
                    return Ok(());
                }
                _ => {}
            }
        }
        let Want::Wal { len, .. } = link.connection.want() else {
            let time_us = pg_micros_from_system_time(SystemTime::now());
            link.connection.send_status(world::now(), time_us);
            link.transmit()?;
            link.socket.readable().await.map_err(SessionError::Broken)?;
            link.read_input()?;
            continue;
        };
        let room = buf.get_mut(..len.min(READ_BYTES)).unwrap_or_default();
        match link.socket.try_read(room).map_err(SessionError::Broken)? {
            None => link.socket.readable().await.map_err(SessionError::Broken)?,
            Some(0) => return Ok(()),
            Some(got) => {
                let taken = comparison.take(room.get(..got).unwrap_or_default());
                taken.map_err(ArchiveError::from)?;
                link.connection.handle_wal(got, world::now());
            }
        }
    }
    Ok(())
}
