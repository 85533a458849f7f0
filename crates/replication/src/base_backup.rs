//! A base backup as it comes: what its messages mean, in both of the protocol's forms.
//!
//! Up to 14 there is a CopyOut for each row of the answer's second result, in that order, and one
//! more for the manifest; from 15 there is one, which says itself what begins. The bytes go past
//! this, to where [`Want::Backup`](crate::Want::Backup) has them put.

use pg_types::ServerVersion;
use pg_wire::base_backup::{BackupArchive, BackupNote, BackupPoint, is_one_copy};
use pg_wire::message::{BackendMessage, ServerMessage};
use pg_wire::query::QueryResult;

use crate::ProtocolError;
use crate::inbox::BackupCopy;

/// What happens to a base backup. What begins has ended when the next begins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackupEvent {
    /// It has begun, with these archives to come.
    Started(BackupPoint, Vec<BackupArchive>),
    /// The bytes of the archive with this place among them follow.
    Archive(usize),
    /// The bytes of the manifest follow.
    Manifest,
    /// So many bytes are sent, the server says.
    Progress(u64),
    /// All is sent, and this is the end of the WAL that it needs.
    Stopped(BackupPoint),
    /// It is done.
    Ended,
    /// It has failed; behind [`Stopped`](Self::Stopped), nevertheless.
    Failed(Box<ServerMessage>),
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first row is expected.
    Start,
    /// The rows of its archives.
    Archives,
    /// A CopyOut.
    Copies,
    /// Within one.
    Copying,
    /// The last row.
    Stop,
    /// Nothing more but CommandComplete.
    End,
}

/// A base backup that was asked for.
#[derive(Debug)]
pub(crate) struct Transfer {
    copy: BackupCopy,
    phase: Phase,
    /// The result whose rows are coming.
    result: QueryResult,
    start: Option<BackupPoint>,
    archives: Vec<BackupArchive>,
    /// CopyOuts that have begun.
    copies: usize,
    /// Whether something has begun that bytes belong to.
    open: bool,
    /// Bytes of the running CopyData that are still to come.
    missing: usize,
    error: Option<Box<ServerMessage>>,
}

impl Transfer {
    pub(crate) fn new(version: ServerVersion) -> Self {
        let copy = if is_one_copy(version) { BackupCopy::WithKinds } else { BackupCopy::Bare };
        Self {
            copy,
            phase: Phase::Start,
            result: QueryResult::new(),
            start: None,
            archives: Vec::new(),
            copies: 0,
            open: false,
            missing: 0,
            error: None,
        }
    }

    pub(crate) fn copy(&self) -> BackupCopy {
        self.copy
    }

    /// Bytes that follow.
    pub(crate) fn missing(&self) -> usize {
        self.missing
    }

    /// So many of them were taken.
    pub(crate) fn took(&mut self, len: usize) {
        self.missing = self.missing.saturating_sub(len);
    }

    /// A CopyData begins that has so many bytes to keep.
    pub(crate) fn bytes_follow(&mut self, len: usize) -> Result<(), ProtocolError> {
        if self.phase != Phase::Copying || !self.open {
            return Err(ProtocolError::BackupMessage);
        }
        self.missing = len;
        Ok(())
    }

    /// Whether the connection is gone with it.
    pub(crate) fn is_fatal(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.is_fatal())
    }

    /// Takes a message; whether it was the last one.
    pub(crate) fn message(
        &mut self,
        message: BackendMessage<'_>,
        tell: &mut dyn FnMut(BackupEvent),
    ) -> Result<bool, ProtocolError> {
        match message {
            BackendMessage::ErrorResponse(error) => {
                // The first is the cause.
                let fatal = error.is_fatal();
                let error = self.error.get_or_insert(error);
                if fatal {
                    tell(BackupEvent::Failed(error.clone()));
                    return Ok(true);
                }
            }
            BackendMessage::ReadyForQuery { .. } => {
                tell(match self.error.take() {
                    Some(error) => BackupEvent::Failed(error),
                    None if self.phase == Phase::End => BackupEvent::Ended,
                    None => return Err(ProtocolError::BackupMessage),
                });
                return Ok(true);
            }
            BackendMessage::CopyOutResponse if self.phase == Phase::Copies => {
                self.phase = Phase::Copying;
                if self.copy == BackupCopy::Bare {
                    tell(self.next_copy()?);
                }
            }
            BackendMessage::CopyData(payload) if self.phase == Phase::Copying => {
                // Without kinds, one without bytes.
                if self.copy == BackupCopy::WithKinds {
                    let note = BackupNote::parse(payload).ok_or(ProtocolError::BackupMessage)?;
                    tell(self.note(note)?);
                }
            }
            BackendMessage::CopyDone if self.phase == Phase::Copying => {
                self.open = false;
                let more = self.copy == BackupCopy::Bare;
                self.phase = if more { Phase::Copies } else { Phase::Stop };
            }
            BackendMessage::CommandComplete { .. } if self.phase == Phase::End => {}
            BackendMessage::CommandComplete { .. } => self.result_ended(tell)?,
            BackendMessage::ParameterStatus { .. } => {}
            row @ (BackendMessage::RowDescription(_) | BackendMessage::DataRow(_)) => {
                if self.phase == Phase::Copies {
                    self.phase = Phase::Stop;
                }
                if matches!(self.phase, Phase::Copying | Phase::End) {
                    return Err(ProtocolError::BackupMessage);
                }
                self.result.handle(row)?;
            }
            other => {
                let (message, place) = (other.name(), "in a base backup");
                return Err(ProtocolError::Unexpected { message, place });
            }
        }
        Ok(false)
    }

    /// The CopyOut that begins, up to 14.
    fn next_copy(&mut self) -> Result<BackupEvent, ProtocolError> {
        let place = self.copies;
        self.copies = place.saturating_add(1);
        self.open = true;
        match place.cmp(&self.archives.len()) {
            std::cmp::Ordering::Less => Ok(BackupEvent::Archive(place)),
            std::cmp::Ordering::Equal => Ok(BackupEvent::Manifest),
            std::cmp::Ordering::Greater => Err(ProtocolError::BackupMessage),
        }
    }

    fn note(&mut self, note: BackupNote) -> Result<BackupEvent, ProtocolError> {
        match note {
            BackupNote::Progress(bytes) => return Ok(BackupEvent::Progress(bytes)),
            BackupNote::Manifest => {
                self.open = true;
                return Ok(BackupEvent::Manifest);
            }
            BackupNote::NewArchive { name } => {
                let stem = name.strip_suffix(".tar").ok_or(ProtocolError::BackupMessage)?;
                let oid = match stem {
                    "base" => None,
                    oid => Some(oid.parse().map_err(|_| ProtocolError::BackupMessage)?),
                };
                let place = self.archives.iter().position(|archive| archive.oid == oid);
                self.open = true;
                place.map(BackupEvent::Archive)
            }
        }
        .ok_or(ProtocolError::BackupMessage)
    }

    fn result_ended(&mut self, tell: &mut dyn FnMut(BackupEvent)) -> Result<(), ProtocolError> {
        let rows = std::mem::take(&mut self.result).take_result()?;
        match self.phase {
            Phase::Start => {
                self.start = Some(BackupPoint::from_rows(&rows)?);
                self.phase = Phase::Archives;
            }
            Phase::Archives => {
                self.archives = BackupArchive::from_rows(&rows)?;
                if let Some(start) = self.start {
                    tell(BackupEvent::Started(start, self.archives.clone()));
                }
                self.phase = Phase::Copies;
            }
            _ => {
                tell(BackupEvent::Stopped(BackupPoint::from_rows(&rows)?));
                self.phase = Phase::End;
            }
        }
        Ok(())
    }
}
