//! A receiver and the process that serves its archive: what they tell each other by a socket.
//!
//! Both say lines of which the newest says all: the receiver where the tip is, the other what its
//! followers need of the primary, from when they need something.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use archive::ArchiveError;
use disk::Files;
use pg_wire::feedback::Horizons;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use crate::Shutdown;
use crate::tip::{Tip, TipReceiver, TipSender, advance, publish, publish_archived};

/// A line has some fifty bytes.
const MAX_LINE: usize = 256;
/// So many processes are told; one serves.
const MAX_LISTENERS: usize = 4;
/// Telling takes no more.
const STACK_BYTES: usize = 128 << 10;
/// How often it is looked whether a receiver runs, and without one, whether WAL came.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What the followers of other processes need of the primary, as those say.
#[derive(Debug, Default)]
pub struct Needs {
    /// By connection.
    each: Mutex<BTreeMap<u64, Horizons>>,
    together: watch::Sender<Horizons>,
}

impl Needs {
    /// What they need together.
    #[must_use]
    pub fn together(&self) -> watch::Receiver<Horizons> {
        self.together.subscribe()
    }

    /// A connection needs this; nothing once it has gone.
    fn say(&self, connection: u64, needed: Horizons) {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        match needed {
            Horizons::NONE => each.remove(&connection),
            needed => each.insert(connection, needed),
        };
        let all = Horizons::of_all(&each.values().copied().collect::<Vec<_>>());
        self.together.send_if_modified(|together| std::mem::replace(together, all) != all);
    }
}

/// Tells whoever connects of the tip, for as long as it changes, and takes what they need: each by
/// a thread of its own, so that telling costs the receiver nothing.
pub async fn announce(
    listener: std::os::unix::net::UnixListener,
    tip: TipReceiver,
    needs: Arc<Needs>,
) {
    let listener = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
    let Ok(listener) = listener else { return };
    let told = Arc::new(Semaphore::new(MAX_LISTENERS));
    for connection in 0.. {
        let accepted = listener.accept().await.and_then(|(stream, _)| stream.into_std());
        let Ok(stream) = accepted else {
            // Out of descriptors, say: whoever asks tries again, too.
            tokio::time::sleep(LOOK_INTERVAL).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&told).try_acquire_owned() else { continue };
        let (tip, needs) = (tip.clone(), Arc::clone(&needs));
        let work = move || {
            _ = talk_alone(stream, tip, |needed| needs.say(connection, needed));
            needs.say(connection, Horizons::NONE);
            drop(permit);
        };
        // Whoever isn't told asks again.
        _ = thread::Builder::new().name("tip".to_owned()).stack_size(STACK_BYTES).spawn(work);
    }
}

fn talk_alone(
    stream: std::os::unix::net::UnixStream,
    tip: TipReceiver,
    need: impl Fn(Horizons),
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async { talk(&UnixStream::from_std(stream)?, tip, need).await })
}

/// The receiver's side, until the other ends.
async fn talk(
    stream: &UnixStream,
    mut tip: TipReceiver,
    need: impl Fn(Horizons),
) -> io::Result<()> {
    let mut lines = Lines::default();
    let mut told = None;
    loop {
        let now = *tip.borrow_and_update();
        if let Some(tip) = now.filter(|now| told != Some(*now)) {
            say(stream, &tip.line()).await?;
        }
        told = now;
        tokio::select! {
            changed = tip.changed() => changed.map_err(|_| ErrorKind::BrokenPipe)?,
            line = lines.newest(stream) => match line? {
                Some(line) => need(horizons(&line).ok_or(ErrorKind::InvalidData)?),
                None => return Ok(()),
            },
        }
    }
}

/// An archive that another process receives into, or nobody.
pub struct Followed {
    /// The socket that the receiver listens on.
    pub socket: PathBuf,
    /// The directory of segments.
    pub wal: PathBuf,
    /// The archive.
    pub files: Arc<dyn Files>,
}

/// Keeps the tip of an archive that is served, and tells its receiver what the followers need;
/// `trouble` is told what can't be read.
pub async fn follow(
    what: Followed,
    to: TipSender,
    mut needed: watch::Receiver<Horizons>,
    mut shutdown: Shutdown,
    trouble: impl Fn(&ArchiveError),
) {
    let mut seen = None;
    loop {
        // Also beside a receiver, whose server may be down: what is archived can be had.
        let changed = changed(&what.wal);
        if seen != changed || to.borrow().is_none() {
            seen = changed;
            let (files, to) = (Arc::clone(&what.files), to.clone());
            let looked = tokio::task::spawn_blocking(move || publish_archived(&files, &to)).await;
            if let Ok(Err(error)) = looked {
                trouble(&error);
            }
        }
        let listened = async {
            if let Ok(stream) = UnixStream::connect(&what.socket).await {
                _ = listen(&stream, &to, &mut needed).await;
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

/// The serving process's side, until the receiver ends.
async fn listen(
    stream: &UnixStream,
    to: &TipSender,
    needed: &mut watch::Receiver<Horizons>,
) -> io::Result<()> {
    let mut lines = Lines::default();
    let (mut session, mut said) = (None, Horizons::NONE);
    loop {
        let now = *needed.borrow_and_update();
        if now != said {
            said = now;
            say(stream, &format!("{} {}\n", now.xmin, now.catalog_xmin)).await?;
        }
        let line = tokio::select! {
            Ok(()) = needed.changed() => continue,
            line = lines.newest(stream) => line?,
        };
        let Some(line) = line else { return Ok(()) };
        let tip = Tip::parse(&line).ok_or(ErrorKind::InvalidData)?;
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

/// What is needed, as it was said.
fn horizons(line: &str) -> Option<Horizons> {
    let (xmin, catalog_xmin) = line.split_once(' ')?;
    Some(Horizons { xmin: xmin.parse().ok()?, catalog_xmin: catalog_xmin.parse().ok()? })
}

async fn say(stream: &UnixStream, line: &str) -> io::Result<()> {
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        stream.writable().await?;
        match stream.try_write(rest) {
            Ok(len) => rest = rest.get(len..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What the other says.
#[derive(Debug, Default)]
struct Lines {
    /// Of a line that hasn't ended yet.
    begun: Vec<u8>,
}

impl Lines {
    /// Waits for a line; of several the newest. `None` at the end. Whoever stops waiting loses
    /// nothing.
    async fn newest(&mut self, stream: &UnixStream) -> io::Result<Option<String>> {
        loop {
            stream.readable().await?;
            let mut bytes = [0; MAX_LINE];
            let len = match stream.try_read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            self.begun.extend_from_slice(bytes.get(..len).unwrap_or_default());
            if let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.begun.split_off(end + 1);
                let lines = std::mem::replace(&mut self.begun, rest);
                let lines = String::from_utf8_lossy(&lines);
                return Ok(lines.lines().next_back().map(str::to_owned));
            }
            if self.begun.len() > MAX_LINE {
                return Err(ErrorKind::InvalidData.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pg_types::Lsn;

    use super::*;
    use crate::tip::tests::tip;

    #[tokio::test]
    async fn each_hears_of_each_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tip.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (from, to) = (TipSender::new(None), TipSender::new(None));
        let needs = Arc::new(Needs::default());
        let mut together = needs.together();
        let announcing = tokio::spawn(announce(listener, from.subscribe(), needs));
        let mut heard = to.subscribe();
        let needed = watch::Sender::new(Horizons { xmin: 7 << 32 | 700, catalog_xmin: 0 });
        let mut asked = needed.subscribe();
        let stream = UnixStream::connect(&path).await.unwrap();
        let listening = tokio::spawn(async move { listen(&stream, &to, &mut asked).await });
        publish(&from, tip(1, 100));
        let at = |end: u64| move |tip: &Option<Tip>| tip.is_some_and(|t| t.end == Lsn::new(end));
        heard.wait_for(at(100)).await.unwrap();
        together.wait_for(|all| all.xmin == 7 << 32 | 700).await.unwrap();
        advance(&from, Lsn::new(200));
        heard.wait_for(at(200)).await.unwrap();
        needed.send_replace(Horizons { xmin: 0, catalog_xmin: 9 });
        together.wait_for(|all| *all == Horizons { xmin: 0, catalog_xmin: 9 }).await.unwrap();
        publish(&from, tip(2, 150));
        heard.wait_for(at(150)).await.unwrap();
        listening.abort();
        together.wait_for(|all| *all == Horizons::NONE).await.unwrap();
        announcing.abort();
    }

    #[tokio::test]
    async fn a_process_that_talks_nonsense_is_left() {
        for said in ["7", "x 7\n", "7 -1\n", &"7".repeat(2 * MAX_LINE)] {
            let (here, there) = UnixStream::pair().unwrap();
            let to = TipSender::new(None);
            let talking = talk(&here, to.subscribe(), |_| panic!("{said} isn't understood"));
            let saying = async {
                say(&there, said).await.unwrap();
                drop(there);
            };
            let (ended, ()) = tokio::join!(talking, saying);
            assert!(ended.is_err() || said == "7", "{said}");
        }
    }

    #[test]
    fn what_several_need_is_the_oldest_of_it() {
        let needs = Needs::default();
        let now = || *needs.together().borrow();
        needs.say(1, Horizons { xmin: 9, catalog_xmin: 0 });
        needs.say(2, Horizons { xmin: 7, catalog_xmin: 5 });
        assert_eq!(now(), Horizons { xmin: 7, catalog_xmin: 5 });
        needs.say(2, Horizons::NONE);
        assert_eq!(now(), Horizons { xmin: 9, catalog_xmin: 0 });
        needs.say(1, Horizons::NONE);
        assert_eq!(now(), Horizons::NONE);
    }
}
