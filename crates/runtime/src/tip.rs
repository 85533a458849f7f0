//! Up to where an archive's WAL may be handed on: what is proved and durable here.
//!
//! The receiver says so the moment that it is so, on a channel that keeps the newest value alone:
//! nothing waits for whoever listens. Another process is told by a socket ([`announce`]), and where
//! no receiver runs, the archive itself is looked at ([`follow`]).
//!
//! Invariant: on a timeline the end never goes back.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use archive::{ArchiveError, Catalogue};
use disk::Files;
use pg_types::{Lsn, ServerVersion, TimelineId};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use crate::Shutdown;

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

/// A line has some fifty bytes.
const MAX_LINE: usize = 256;
/// So many processes are told; one serves.
const MAX_LISTENERS: usize = 4;
/// Telling takes no more.
const STACK_BYTES: usize = 128 << 10;
/// How often it is looked whether a receiver runs, and without one, whether WAL came.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Begins a session: its number is the next one.
pub(crate) fn publish(to: &TipSender, new: Tip) {
    to.send_modify(|tip| {
        let before = *tip;
        let session = before.map_or(0, |before| before.session) + 1;
        let same = before.filter(|before| before.timeline == new.timeline);
        let end = same.map_or(new.end, |before| before.end.max(new.end));
        *tip = Some(Tip { end, session, ..new });
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
    fn line(&self) -> String {
        let Self { version, timeline, end, session } = self;
        format!("{} {timeline} {end} {session}\n", version.num())
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut next = || words.next();
        let version = ServerVersion::from_num(u32::from_str(next()?).ok()?);
        let timeline = TimelineId::new(next()?.parse().ok()?)?;
        let end = next()?.parse().ok()?;
        let session = next()?.parse().ok()?;
        Some(Self { version, timeline, end, session })
    }
}

/// Tells whoever connects of the tip, for as long as it changes: each by a thread of its own, so
/// that telling costs the receiver nothing.
pub async fn announce(listener: std::os::unix::net::UnixListener, tip: TipReceiver) {
    let listener = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
    let Ok(listener) = listener else { return };
    let told = Arc::new(Semaphore::new(MAX_LISTENERS));
    loop {
        let accepted = listener.accept().await.and_then(|(stream, _)| stream.into_std());
        let Ok(stream) = accepted else {
            // Out of descriptors, say: whoever asks tries again, too.
            tokio::time::sleep(LOOK_INTERVAL).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&told).try_acquire_owned() else { continue };
        let tip = tip.clone();
        let work = move || {
            _ = tell_alone(stream, tip);
            drop(permit);
        };
        // Whoever isn't told asks again.
        _ = thread::Builder::new().name("tip".to_owned()).stack_size(STACK_BYTES).spawn(work);
    }
}

fn tell_alone(stream: std::os::unix::net::UnixStream, tip: TipReceiver) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async { tell(&UnixStream::from_std(stream)?, tip).await })
}

async fn tell(stream: &UnixStream, mut tip: TipReceiver) -> io::Result<()> {
    loop {
        let line = tip.borrow_and_update().map(|tip| tip.line()).unwrap_or_default();
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            stream.writable().await?;
            match stream.try_write(rest) {
                Ok(len) => rest = rest.get(len..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        tokio::select! {
            changed = tip.changed() => changed.map_err(|_| ErrorKind::BrokenPipe)?,
            // It says nothing: what is readable is its end.
            ended = stream.readable() => return ended,
        }
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

/// Keeps the tip of an archive that another process receives into, or nobody. `socket` is that
/// process's, `wal` the directory of segments, `trouble` is told what can't be read.
pub async fn follow(
    socket: PathBuf,
    wal: PathBuf,
    files: Arc<dyn Files>,
    to: TipSender,
    mut shutdown: Shutdown,
    trouble: impl Fn(&ArchiveError),
) {
    let mut seen = None;
    loop {
        // Also beside a receiver, whose server may be down: what is archived can be had.
        let changed = changed(&wal);
        if seen != changed || to.borrow().is_none() {
            seen = changed;
            let (files, to) = (Arc::clone(&files), to.clone());
            let looked = tokio::task::spawn_blocking(move || publish_archived(&files, &to)).await;
            if let Ok(Err(error)) = looked {
                trouble(&error);
            }
        }
        let listened = async {
            if let Ok(stream) = UnixStream::connect(&socket).await {
                _ = listen(&stream, &to).await;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        tokio::select! {
            () = listened => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

fn changed(dir: &Path) -> Option<SystemTime> {
    std::fs::metadata(dir).and_then(|metadata| metadata.modified()).ok()
}

/// Takes what a receiver says, until it ends.
async fn listen(stream: &UnixStream, to: &TipSender) -> io::Result<()> {
    let mut line = Vec::new();
    let mut session = None;
    loop {
        stream.readable().await?;
        let mut bytes = [0; MAX_LINE];
        let len = match stream.try_read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        line.extend_from_slice(bytes.get(..len).unwrap_or_default());
        let Some(end) = line.iter().rposition(|byte| *byte == b'\n') else {
            if line.len() > MAX_LINE {
                return Err(ErrorKind::InvalidData.into());
            }
            continue;
        };
        let rest = line.split_off(end + 1);
        let lines = std::mem::replace(&mut line, rest);
        // Of several the newest says all.
        let newest = String::from_utf8_lossy(&lines);
        let newest = newest.lines().next_back().and_then(Tip::parse);
        let Some(tip) = newest else { return Err(ErrorKind::InvalidData.into()) };
        let known = *to.borrow();
        let same = session == Some(tip.session)
            && known.is_some_and(|known| known.timeline == tip.timeline);
        if same {
            advance(to, tip.end);
        } else {
            session = Some(tip.session);
            publish(to, tip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tip(timeline: u32, end: u64) -> Tip {
        let version = ServerVersion::from_num(180_006);
        let timeline = TimelineId::new(timeline).unwrap();
        Tip { version, timeline, end: Lsn::new(end), session: 0 }
    }

    #[test]
    fn an_end_never_goes_back_on_its_timeline() {
        let to = TipSender::new(None);
        let now = || (*to.borrow()).map(|tip| (tip.timeline.as_u32(), tip.end, tip.session));
        advance(&to, Lsn::new(5));
        assert_eq!(now(), None);
        publish(&to, tip(1, 100));
        advance(&to, Lsn::new(90));
        assert_eq!(now(), Some((1, Lsn::new(100), 1)));
        publish(&to, tip(1, 50));
        assert_eq!(now(), Some((1, Lsn::new(100), 2)));
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

    #[tokio::test]
    async fn a_follower_in_another_process_hears_of_each_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tip.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (from, to) = (TipSender::new(None), TipSender::new(None));
        let announcing = tokio::spawn(announce(listener, from.subscribe()));
        let mut heard = to.subscribe();
        let stream = UnixStream::connect(&path).await.unwrap();
        let listening = tokio::spawn(async move { listen(&stream, &to).await });
        publish(&from, tip(1, 100));
        let at = |end: u64| move |tip: &Option<Tip>| tip.is_some_and(|t| t.end == Lsn::new(end));
        heard.wait_for(at(100)).await.unwrap();
        advance(&from, Lsn::new(200));
        heard.wait_for(at(200)).await.unwrap();
        publish(&from, tip(2, 150));
        heard.wait_for(at(150)).await.unwrap();
        announcing.abort();
        listening.abort();
    }
}
