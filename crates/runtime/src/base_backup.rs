//! A base backup, received: one side reads the socket into buffers, the other, on a thread of its
//! own, sums up and writes what is in them ([`Intake`]).

use std::io::IoSliceMut;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pg_types::ServerVersion;
use pg_wire::base_backup::{BackupArchive, BackupPoint};
use pg_wire::command::{CreatePhysicalSlot, SlotName, create_physical_slot};
use pg_wire::message::{ServerMessage, SqlState};
use replication::{BackupEvent, Event, Want};
use tokio::sync::mpsc;

use crate::{AskError, Link, SessionError, Shutdown};

/// A buffer: the server's pieces are 32 KiB, and a write of this is a long one.
const BUFFER_BYTES: usize = 1 << 20;
/// Buffers between the socket and the disk, so that neither waits for the other's hiccups.
const BUFFERS: usize = 8;
/// How often an observer is told of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Warnings that are kept: the server tells of five damaged pages a file.
const MAX_WARNINGS: usize = 100;

/// Takes a backup's bytes, on a thread of its own.
pub trait Intake: Send + 'static {
    /// What goes wrong there; it ends the backup.
    type Error: Send + 'static;

    /// The bytes of the archive with this place follow.
    ///
    /// # Errors
    /// Ends the backup.
    fn archive(&mut self, place: usize) -> Result<(), Self::Error>;

    /// The bytes of the manifest follow.
    ///
    /// # Errors
    /// Ends the backup.
    fn manifest(&mut self) -> Result<(), Self::Error>;

    /// The next bytes.
    ///
    /// # Errors
    /// Ends the backup.
    fn data(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// A backup that has come to its end.
#[derive(Debug)]
pub struct BackupReceived<I> {
    /// What took its bytes.
    pub intake: I,
    /// Where it begins.
    pub start: BackupPoint,
    /// Where it ends.
    pub stop: BackupPoint,
    /// What it consists of.
    pub archives: Vec<BackupArchive>,
    /// What the server warned of; the first hundred.
    pub warnings: Vec<ServerMessage>,
    /// The server has sent all of it, and says that its own files are damaged.
    pub damaged: Option<Box<ServerMessage>>,
}

/// Why a backup has failed.
#[derive(Debug)]
pub enum BackupFailure<E> {
    /// The server, or the connection to it.
    Session(SessionError),
    /// What took the bytes.
    Intake(E),
    /// Somebody said so.
    Stopped,
}

impl<E> From<SessionError> for BackupFailure<E> {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

/// Has the server keep its WAL from now on, for as long as this connection lives: a backup needs
/// it until it is archived. `false` if the server has no slot to spare.
///
/// # Errors
/// If the connection breaks.
pub async fn keep_wal(
    link: &mut Link,
    version: ServerVersion,
    name: &SlotName,
) -> Result<bool, SessionError> {
    let slot = CreatePhysicalSlot { name, temporary: true, reserve_wal: true };
    match link.ask(&create_physical_slot(&slot, version)).await {
        Ok(_) => Ok(true),
        Err(AskError::Server(_)) => Ok(false),
        Err(AskError::Session(error)) => Err(error),
    }
}

/// Sends BASE_BACKUP and takes what comes. `begin` makes what takes its bytes; `progress` is told
/// how many came, and of how many.
///
/// # Errors
/// What failed; the backup isn't one then.
pub async fn base_backup<I: Intake>(
    link: &mut Link,
    (command, version): (&str, ServerVersion),
    begin: impl FnOnce(&BackupPoint, &[BackupArchive]) -> Result<I, I::Error>,
    shutdown: &mut Shutdown,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<BackupReceived<I>, BackupFailure<I::Error>> {
    link.connection.start_backup(command, version);
    let mut begin = Some(begin);
    let mut run: Option<Run<I>> = None;
    let mut warnings = Vec::new();
    let mut next_progress = Instant::now();
    loop {
        while let Some(event) = link.connection.poll_event() {
            match (event, &mut run) {
                (Event::Notice(notice), _) => {
                    if notice.severity == "WARNING" && warnings.len() < MAX_WARNINGS {
                        warnings.push(*notice);
                    }
                }
                (Event::Backup(BackupEvent::Started(start, archives)), None) => {
                    let Some(begin) = begin.take() else { return Err(SessionError::Closed.into()) };
                    let intake = begin(&start, &archives).map_err(BackupFailure::Intake)?;
                    run = Some(Run::new(start, archives, intake)?);
                }
                (Event::Backup(BackupEvent::Archive(place)), Some(run)) => {
                    run.part(Part::Archive(place)).await;
                }
                (Event::Backup(BackupEvent::Manifest), Some(run)) => run.part(Part::Manifest).await,
                (Event::Backup(BackupEvent::Stopped(point)), Some(run)) => run.stop = Some(point),
                (Event::Backup(BackupEvent::Progress(_)), _) => {}
                (Event::Backup(BackupEvent::Ended), _) => {
                    let run = run.ok_or(SessionError::Closed)?;
                    return run.ended(warnings, None).await;
                }
                (Event::Backup(BackupEvent::Failed(message)), _) => {
                    let whole = message.sqlstate == SqlState::DATA_CORRUPTED;
                    return match run {
                        Some(run) if run.stop.is_some() && whole => {
                            run.ended(warnings, Some(message)).await
                        }
                        _ => Err(SessionError::Refused { command: "base backup", message }.into()),
                    };
                }
                _ => return Err(SessionError::Closed.into()),
            }
        }
        if run.as_ref().is_some_and(Run::has_failed)
            && let Some(run) = run.take()
        {
            return run.ended(warnings, None).await;
        }
        link.transmit()?;
        let read = match (link.connection.want(), &mut run) {
            (Want::Backup { len }, Some(run)) => run.read(link, len).await?,
            _ => link.read_input()?,
        };
        if let Some(run) = &run
            && next_progress <= Instant::now()
        {
            next_progress = Instant::now() + PROGRESS_INTERVAL;
            progress(run.bytes, run.total());
        }
        if *shutdown.borrow() {
            return Err(BackupFailure::Stopped);
        }
        if !read {
            let sending = link.connection.poll_transmit().is_some();
            tokio::select! {
                result = link.socket.readable() => result.map_err(SessionError::Broken)?,
                result = link.socket.writable(), if sending => result.map_err(SessionError::Broken)?,
                _ = shutdown.changed() => {}
            }
        }
    }
}

/// What a thread is to take.
enum Part {
    Archive(usize),
    Manifest,
    Data(Vec<u8>, usize),
}

/// A backup under way.
struct Run<I: Intake> {
    start: BackupPoint,
    stop: Option<BackupPoint>,
    archives: Vec<BackupArchive>,
    bytes: u64,
    parts: mpsc::Sender<Part>,
    free: mpsc::UnboundedReceiver<Vec<u8>>,
    /// What is being filled, and how far.
    filling: Option<(Vec<u8>, usize)>,
    thread: JoinHandle<Result<I, I::Error>>,
}

impl<I: Intake> Run<I> {
    fn new(
        start: BackupPoint,
        archives: Vec<BackupArchive>,
        mut intake: I,
    ) -> Result<Self, SessionError> {
        let (parts, mut to_take) = mpsc::channel(BUFFERS);
        let (give_back, free) = mpsc::unbounded_channel();
        for _ in 0..BUFFERS {
            _ = give_back.send(vec![0; BUFFER_BYTES]);
        }
        let take = move || {
            while let Some(part) = to_take.blocking_recv() {
                match part {
                    Part::Archive(place) => intake.archive(place)?,
                    Part::Manifest => intake.manifest()?,
                    Part::Data(buffer, len) => {
                        intake.data(buffer.get(..len).unwrap_or_default())?;
                        _ = give_back.send(buffer);
                    }
                }
            }
            Ok(intake)
        };
        let thread = std::thread::Builder::new().name("backup".to_owned()).spawn(take);
        let thread = thread.map_err(SessionError::Broken)?;
        let (bytes, stop, filling) = (0, None, None);
        Ok(Self { start, stop, archives, bytes, parts, free, filling, thread })
    }

    fn total(&self) -> u64 {
        self.archives.iter().map(|archive| archive.bytes).sum()
    }

    /// The thread ends early only with an error.
    fn has_failed(&self) -> bool {
        self.parts.is_closed()
    }

    async fn part(&mut self, part: Part) {
        self.hand_over().await;
        // One that isn't taken any more: the thread's end says why.
        _ = self.parts.send(part).await;
    }

    async fn hand_over(&mut self) {
        if let Some((buffer, len)) = self.filling.take() {
            _ = self.parts.send(Part::Data(buffer, len)).await;
        }
    }

    /// Reads up to `len` bytes, and with them the header of the next message. `false` if nothing was
    /// there.
    async fn read(&mut self, link: &mut Link, len: usize) -> Result<bool, SessionError> {
        let (mut buffer, filled) = match self.filling.take() {
            Some(filling) => filling,
            None => match self.free.recv().await {
                Some(buffer) => (buffer, 0),
                // The thread has ended, which is seen in a moment.
                None => return Ok(true),
            },
        };
        let room = buffer.get_mut(filled..).unwrap_or_default();
        let wanted = len.min(room.len());
        let (place, _) = room.split_at_mut(wanted);
        let header: &mut [u8] = if wanted == len { link.connection.space() } else { &mut [] };
        let mut slices = [IoSliceMut::new(place), IoSliceMut::new(header)];
        let got = link.socket.try_read_vectored(&mut slices);
        let got = got.map_err(SessionError::Broken)?;
        let bytes = got.unwrap_or(0).min(wanted);
        self.filling = Some((buffer, filled + bytes));
        match got {
            None => return Ok(false),
            Some(0) => return Err(SessionError::Closed),
            Some(got) => {
                self.bytes += bytes as u64;
                link.connection.handle_backup(bytes);
                if filled + bytes == BUFFER_BYTES {
                    self.hand_over().await;
                }
                if got > bytes {
                    link.connection.handle_input(got - bytes, Instant::now())?;
                }
            }
        }
        Ok(true)
    }

    async fn ended(
        mut self,
        warnings: Vec<ServerMessage>,
        damaged: Option<Box<ServerMessage>>,
    ) -> Result<BackupReceived<I>, BackupFailure<I::Error>> {
        self.hand_over().await;
        drop(self.parts);
        let intake = match self.thread.join() {
            Ok(intake) => intake.map_err(BackupFailure::Intake)?,
            Err(_) => return Err(SessionError::Closed.into()),
        };
        let Some(stop) = self.stop else { return Err(SessionError::Closed.into()) };
        let (start, archives) = (self.start, self.archives);
        Ok(BackupReceived { intake, start, stop, archives, warnings, damaged })
    }
}
