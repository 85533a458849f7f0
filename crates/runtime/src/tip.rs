//! Up to where an archive's WAL may be handed on: what is proved and durable here.
//!
//! The receiver says so the moment that it is so, on a channel that keeps the newest value alone:
//! nothing waits for whoever listens. Another process is told by a socket
//! ([`announce`](crate::announce)), and where no receiver runs, the archive itself is looked at.
//!
//! Invariant: within a session the end never goes back. A new one may find a hole before it, which it
//! fills: what is behind that waits.

use std::str::FromStr;
use std::sync::Arc;

use archive::{ArchiveError, Catalogue};
use disk::Files;
use pg_types::{Lsn, ServerVersion, TimelineId};
use tokio::sync::watch;

/// The end of what may be handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The version of the server that it comes from.
    pub version: ServerVersion,
    /// The timeline that is received, or was last.
    pub timeline: TimelineId,
    /// Everything before this on it is proved and durable.
    pub end: Lsn,
    /// Files that were opened in another session aren't those that grow now.
    pub session: u64,
}

/// Tells of the tip; `None` before anything is archived.
pub type TipSender = watch::Sender<Option<Tip>>;
/// Is told of it.
pub type TipReceiver = watch::Receiver<Option<Tip>>;

/// Begins a session: its number is the next one.
pub(crate) fn publish(to: &TipSender, new: Tip) {
    to.send_modify(|tip| {
        let session = tip.map_or(0, |before| before.session) + 1;
        *tip = Some(Tip { session, ..new });
    });
}

/// More is durable.
pub(crate) fn advance(to: &TipSender, end: Lsn) {
    to.send_if_modified(|tip| match tip {
        Some(tip) if end > tip.end => {
            tip.end = end;
            true
        }
        _ => false,
    });
}

impl Tip {
    /// As it goes through the socket.
    pub(crate) fn line(&self) -> String {
        let Self { version, timeline, end, session } = self;
        format!("{} {timeline} {end} {session}\n", version.num())
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut next = || words.next();
        let version = ServerVersion::from_num(u32::from_str(next()?).ok()?);
        let timeline = TimelineId::new(next()?.parse().ok()?)?;
        let end = next()?.parse().ok()?;
        let session = next()?.parse().ok()?;
        Some(Self { version, timeline, end, session })
    }
}

/// Publishes what is archived, and durable when this returns, unless a receiver has said more. It
/// takes the disk.
///
/// # Errors
/// If the archive can't be read.
pub fn publish_archived(files: &Arc<dyn Files>, to: &TipSender) -> Result<(), ArchiveError> {
    let catalogue = match Catalogue::open(Arc::clone(files)) {
        Err(ArchiveError::NoArchive) => return Ok(()),
        catalogue => catalogue?,
    };
    let Some((timeline, end)) = catalogue.durable_end()? else { return Ok(()) };
    let known = *to.borrow();
    if known.is_none_or(|known| (known.timeline, known.end) < (timeline, end)) {
        // The minor version isn't kept; clients look at the major one.
        let major = ServerVersion::from_num(catalogue.identity().server_major * 10_000);
        let version = known.map_or(major, |known| known.version);
        publish(to, Tip { version, timeline, end, session: 0 });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tip there, of no session.
    pub(crate) fn tip(timeline: u32, end: u64) -> Tip {
        let version = ServerVersion::from_num(180_006);
        let timeline = TimelineId::new(timeline).unwrap();
        Tip { version, timeline, end: Lsn::new(end), session: 0 }
    }

    #[test]
    fn an_end_never_goes_back_in_its_session() {
        let to = TipSender::new(None);
        let now = || (*to.borrow()).map(|tip| (tip.timeline.as_u32(), tip.end, tip.session));
        advance(&to, Lsn::new(5));
        assert_eq!(now(), None);
        publish(&to, tip(1, 100));
        advance(&to, Lsn::new(90));
        assert_eq!(now(), Some((1, Lsn::new(100), 1)));
        publish(&to, tip(1, 50));
        assert_eq!(now(), Some((1, Lsn::new(50), 2)));
        publish(&to, tip(2, 80));
        assert_eq!(now(), Some((2, Lsn::new(80), 3)));
    }

    #[test]
    fn a_line_is_read_as_it_was_written_and_nothing_else_is() {
        let written = Tip { session: 7, ..tip(3, 0x1_0000_0028) };
        assert_eq!(Tip::parse(written.line().trim_end()), Some(written));
        for wrong in ["", "180006", "180006 0 0/1 1", "180006 1 x 1", "180006 1 0/1"] {
            assert_eq!(Tip::parse(wrong), None, "{wrong}");
        }
    }
}
