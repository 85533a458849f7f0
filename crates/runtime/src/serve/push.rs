//! What goes out on a connection: answers, and WAL piece by piece.
//!
//! A follower that doesn't read has one piece waiting for it, and a few answers. Invariant: no piece
//! is begun before all answers are out, and nothing comes between a piece's header and its bytes.

use std::io;
use std::time::{Duration, SystemTime};

use pg_wire::message::SqlState;
use pg_wire::server::response::Refusal;
use pg_wire::stream::pg_micros_from_system_time;
use replication::sender::Piece;

use super::connection::{Connection, internal};
use super::source::{Content, LoadError, Wanted};
use crate::socket::Socket;
use crate::world;

/// So long a thread waits for a socket that takes no more: one that is read fast takes more within
/// some hundred microseconds, and any other is left to the event loop.
const PATIENCE: Duration = Duration::from_millis(20);
/// WAL between two looks at what the client says, on a thread that others want, too.
const MAX_PUSH: usize = 16 << 20;

/// Why no more was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// All there is was written.
    All,
    /// The socket takes no more now.
    Full,
    /// It was much, and others want to be looked after.
    Enough,
    /// What comes next takes the disk.
    NeedsDisk,
}

/// A piece on its way.
pub(super) struct Sending {
    header: [u8; Piece::HEADER_LEN],
    piece: Piece,
    content: Content,
    sent: usize,
}

impl Sending {
    fn write(&mut self, socket: &mut Socket) -> io::Result<Option<usize>> {
        let header = self.header.get(self.sent..).unwrap_or_default();
        let of_wal = self.sent.saturating_sub(Piece::HEADER_LEN);
        let written = match &self.content {
            Content::Read(loaded) => {
                let wal = loaded.get(&self.piece).unwrap_or_default();
                socket.try_write_both(header, wal.get(of_wal..).unwrap_or_default())?
            }
            Content::InFile(source, offset) => {
                let file = source.descriptor().ok_or(io::ErrorKind::Unsupported)?;
                let (at, len) = (offset.saturating_add(of_wal as u64), self.piece.len - of_wal);
                match socket.try_send_file(header, file, at, len)? {
                    // It has become shorter.
                    Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    written => written,
                }
            }
        };
        self.sent += written.unwrap_or(0);
        Ok(written)
    }

    fn is_done(&self) -> bool {
        self.sent >= Piece::HEADER_LEN + self.piece.len
    }
}

impl Connection {
    /// Writes answers and WAL on a thread that may wait, for the disk and for the socket.
    pub(super) fn push_and_wait(&mut self) -> io::Result<Pushed> {
        let (mut left, mut pushed) = (MAX_PUSH, Ok(Pushed::Full));
        while matches!(pushed, Ok(Pushed::Full)) {
            pushed = self.push_some(true, &mut left);
            if matches!(pushed, Ok(Pushed::Full)) && !self.socket.wait_writable(PATIENCE)? {
                break;
            }
        }
        self.socket.attach()?;
        pushed
    }

    /// Writes what can be written without waiting for anything.
    pub(super) fn push(&mut self) -> io::Result<Pushed> {
        self.push_some(false, &mut { MAX_PUSH })
    }

    /// Writes until the socket takes no more, and `left` bytes of WAL at the most.
    fn push_some(&mut self, may_wait: bool, left: &mut usize) -> io::Result<Pushed> {
        loop {
            if let Some(sending) = &mut self.sending {
                if matches!(sending.content, Content::InFile(..)) && !may_wait {
                    return Ok(Pushed::NeedsDisk);
                }
                match sending.write(&mut self.socket) {
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(Pushed::Full),
                    Err(error) => self.read_instead(error)?,
                }
                if let Some(sent) = self.sending.take_if(|sending| sending.is_done()) {
                    *left = left.saturating_sub(sent.piece.len);
                    self.sender.piece_sent(&sent.piece, world::now());
                }
            } else if let Some(bytes) = self.sender.poll_transmit() {
                let Some(len) = self.socket.try_write(bytes)? else { return Ok(Pushed::Full) };
                self.sender.transmitted(len);
            } else if let Some(piece) = self.sender.next_piece() {
                if *left == 0 {
                    return Ok(Pushed::Enough);
                }
                if !self.begin_piece(piece, may_wait) {
                    return Ok(Pushed::NeedsDisk);
                }
            } else {
                return Ok(Pushed::All);
            }
        }
    }

    /// Has a piece sent next; `false` if that takes the disk, and this isn't the thread for it.
    fn begin_piece(&mut self, piece: Piece, may_wait: bool) -> bool {
        let Some(wanted) = self.wanted(piece, self.socket.takes_files()) else {
            self.sender.fail(&internal());
            return true;
        };
        let content = match self.source.as_ref().and_then(|source| source.cached(&wanted)) {
            Some(content) => Ok(content),
            None if may_wait => self.load(&wanted),
            None => return false,
        };
        match content {
            Ok(content) => {
                let time_us = pg_micros_from_system_time(SystemTime::now());
                let header = self.sender.piece_header(&piece, time_us);
                self.sending = Some(Sending { header, piece, content, sent: 0 });
            }
            Err(refusal) => self.sender.fail(&refusal),
        }
        true
    }

    /// A file can't be sent as it is, or the socket broke, which will be said again: the piece is
    /// read. It may be half on its way, and what is wrong with it can't be told the client then.
    fn read_instead(&mut self, error: io::Error) -> io::Result<()> {
        let Some(sending) = self.sending.take() else { return Err(error) };
        if matches!(sending.content, Content::Read(_)) {
            return Err(error);
        }
        let wanted = self.wanted(sending.piece, false).ok_or(io::ErrorKind::Unsupported)?;
        let content = self.load(&wanted).map_err(|_| error)?;
        self.sending = Some(Sending { content, ..sending });
        Ok(())
    }

    fn wanted(&self, piece: Piece, takes_files: bool) -> Option<Wanted> {
        let tip = (*self.tip.borrow())?;
        Some(Wanted { piece, end: self.end, tip, takes_files })
    }

    fn load(&mut self, wanted: &Wanted) -> Result<Content, Refusal> {
        let catalogue = self.hub.catalogue().ok_or_else(internal)?;
        match self.hub.sources.load(&catalogue, wanted, self.source.as_ref()) {
            Ok((source, content)) => {
                self.source = Some(source);
                Ok(content)
            }
            Err(LoadError::Missing(name)) => {
                let text = format!("requested WAL segment {name} has already been removed");
                Err(Refusal::error(SqlState::UNDEFINED_FILE, text))
            }
            Err(LoadError::Broken(error)) => {
                self.hub.trouble(&error.to_string());
                Err(Refusal::error(SqlState::DATA_CORRUPTED, error.to_string()))
            }
        }
    }
}
