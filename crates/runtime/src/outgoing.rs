//! A base backup, given to a client: a thread of its own reads what is stored ([`BackupSource`]),
//! and whoever has the socket hands one part after the other to the [`Sender`].
//!
//! The other direction of [`Intake`](crate::Intake). The thread is never more than a few buffers
//! ahead, and ends with the [`BackupFeed`].

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use pg_types::TimelineId;
use pg_wire::base_backup::BackupPoint;
use pg_wire::message::SqlState;
use pg_wire::server::grammar::BaseBackup;
use pg_wire::server::response::Refusal;
use replication::sender::{Answer, BackupPart, BackupStart, Sender};
use tokio::sync::mpsc;

use crate::world::now;

/// Parts between the disk and the socket, so that neither waits for the other's hiccups: half a
/// megabyte at the most.
const PARTS: usize = 4;

/// Gives a backup's bytes, on a thread of its own.
pub trait BackupSource: Send {
    /// What comes next. The buffer is cleared, and has the bytes if it is [`GivenPart::Data`].
    ///
    /// # Errors
    /// What the client is told: it has no backup then.
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<GivenPart, Refusal>;
}

/// What comes next of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenPart {
    /// The archive with this place.
    Archive(usize),
    /// The bytes that are in the buffer; with them so many of archives were given, before
    /// compression.
    Data {
        /// How many.
        done: u64,
    },
    /// The manifest.
    Manifest,
    /// Nothing: it ends here.
    End(BackupPoint),
}

/// What a client is to be given, or why it isn't.
pub type Opened = Result<(BackupStart, Box<dyn BackupSource>), Refusal>;

/// The backups that are stored beside the WAL that is served. Both take the disk.
pub trait StoredBackups: fmt::Debug + Send + Sync {
    /// The one that a client is given, as it asks for it: with which a server on this timeline can
    /// begin.
    fn open(&self, asked: &BaseBackup, timeline: TimelineId) -> Opened;

    /// Where that begins; `None` if there is none.
    fn start(&self, timeline: TimelineId) -> Option<BackupPoint>;
}

/// What has come from the thread.
#[derive(Debug)]
pub(crate) struct Given(What);

impl Given {
    /// Where the backup begins, if this is its beginning.
    pub(crate) fn begins(&self) -> Option<BackupPoint> {
        match &self.0 {
            What::Start(start) => Some(start.start),
            _ => None,
        }
    }
}

#[derive(Debug)]
enum What {
    Start(BackupStart),
    Part(GivenPart, Vec<u8>),
    Failed(Refusal),
}

/// A backup that is being read for a client.
#[derive(Debug)]
pub(crate) struct BackupFeed {
    given: mpsc::Receiver<Given>,
    free: std::sync::mpsc::Sender<Vec<u8>>,
}

impl BackupFeed {
    /// Begins.
    ///
    /// # Errors
    /// If a thread can't be started.
    pub(crate) fn start(
        backups: Arc<dyn StoredBackups>,
        asked: BaseBackup,
        timeline: TimelineId,
    ) -> io::Result<Self> {
        let (to_give, given) = mpsc::channel(PARTS);
        let (free, buffers) = std::sync::mpsc::channel();
        let read = move || {
            // What isn't taken any more isn't missed.
            _ = read(backups.open(&asked, timeline), &to_give, &buffers);
        };
        std::thread::Builder::new().name("backup".to_owned()).spawn(read)?;
        Ok(Self { given, free })
    }

    /// Waits for what comes next, not before this time. Cancel safe.
    pub(crate) async fn next(&mut self, not_before: Option<Instant>) -> Given {
        if let Some(time) = not_before.filter(|time| *time > now()) {
            tokio::time::sleep_until(time.into()).await;
        }
        let ended = || {
            let text = "the backup's reader ended before the backup did";
            Given(What::Failed(Refusal::error(SqlState::INTERNAL_ERROR, text)))
        };
        self.given.recv().await.unwrap_or_else(ended)
    }

    /// Hands it over; whether more is to come.
    pub(crate) fn hand_over(&mut self, given: Given, sender: &mut Sender) -> bool {
        let now = now();
        match given.0 {
            What::Start(start) => sender.answer(Answer::Backup(start), now),
            What::Part(part, buffer) => {
                let part = match part {
                    GivenPart::Archive(place) => BackupPart::Archive(place),
                    GivenPart::Data { done } => BackupPart::Data { bytes: &buffer, done },
                    GivenPart::Manifest => BackupPart::Manifest,
                    GivenPart::End(stop) => BackupPart::End(stop),
                };
                sender.backup_part(part, now);
                // The thread has ended, perhaps.
                _ = self.free.send(buffer);
            }
            What::Failed(refusal) if sender.is_in_backup() => {
                sender.fail(&refusal);
                // What has come meanwhile is read now.
                sender.handle_input(&[], now);
            }
            What::Failed(refusal) => sender.answer(Answer::Refused(refusal), now),
        }
        sender.is_in_backup()
    }
}

/// Reads a backup to its end, or until nobody takes it any more.
fn read(
    opened: Opened,
    to_give: &mpsc::Sender<Given>,
    buffers: &std::sync::mpsc::Receiver<Vec<u8>>,
) -> Result<(), mpsc::error::SendError<Given>> {
    let give = |what| to_give.blocking_send(Given(what));
    let mut source = match opened {
        Ok((start, source)) => {
            give(What::Start(start))?;
            source
        }
        Err(refusal) => return give(What::Failed(refusal)),
    };
    loop {
        let mut buffer = buffers.try_recv().unwrap_or_default();
        match source.next(&mut buffer) {
            Ok(part) => {
                give(What::Part(part, buffer))?;
                if matches!(part, GivenPart::End(_)) {
                    return Ok(());
                }
            }
            Err(refusal) => return give(What::Failed(refusal)),
        }
    }
}
