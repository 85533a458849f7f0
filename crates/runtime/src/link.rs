//! A connection that answers commands, before and after it streams.

use std::time::Duration;

use pg_wire::query::Rows;
use pg_wire::settings::{ConnectionSettings, Server, TargetSession};
use pg_wire::startup::{ServerInfo, Startup};
use replication::{Connection, Event, ProtocolError, Timing, Want};

use crate::open::Opening;
use crate::socket::Socket;
use crate::world;
use crate::{AskError, SessionError};

/// For the answer to a command: CREATE_REPLICATION_SLOT may wait for a checkpoint's disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A socket, and the machine that knows what its bytes mean.
pub struct Link {
    pub(crate) connection: Connection,
    pub(crate) socket: Socket,
    pub(crate) server: Server,
}

impl Link {
    /// Connects and authenticates with this startup packet, to whichever of the servers will do.
    ///
    /// # Errors
    /// If the server can't be reached, or refuses.
    pub async fn open(
        settings: &ConnectionSettings,
        startup: Startup,
        timing: Timing,
    ) -> Result<(Self, ServerInfo), SessionError> {
        Opening::new(settings, startup, timing).run().await
    }

    /// The settings for more connections to the same server, where several would do.
    #[must_use]
    pub fn same_server(&self, settings: &ConnectionSettings) -> ConnectionSettings {
        let servers = vec![self.server.clone()];
        ConnectionSettings { servers, target: TargetSession::Any, ..settings.clone() }
    }

    /// Says goodbye; a server that doesn't hear it notices the socket's end.
    pub fn close(&mut self) {
        self.connection.terminate();
        _ = self.transmit();
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// If the server refuses it, or the connection breaks.
    pub async fn ask(&mut self, command: &str) -> Result<Rows, AskError> {
        self.connection.query(command);
        match tokio::time::timeout(ANSWER_TIMEOUT, self.next_event()).await {
            Ok(Ok(Event::Reply(Ok(rows)))) => Ok(rows),
            Ok(Ok(Event::Reply(Err(message)))) => Err(AskError::Server(message)),
            Ok(Ok(_)) => Err(SessionError::Closed.into()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                let seconds = ANSWER_TIMEOUT.as_secs();
                Err(SessionError::from(ProtocolError::Silent { seconds }).into())
            }
        }
    }

    /// Sends what is to be sent and reads until something happens; notices are passed over.
    pub(crate) async fn next_event(&mut self) -> Result<Event, SessionError> {
        loop {
            match self.connection.poll_event() {
                Some(Event::Notice(_)) => continue,
                Some(event) => return Ok(event),
                None => {}
            }
            self.transmit()?;
            let pending = self.connection.poll_transmit().is_some();
            tokio::select! {
                result = self.socket.readable() => result.map_err(SessionError::Broken)?,
                result = self.socket.writable(), if pending => {
                    result.map_err(SessionError::Broken)?;
                    continue;
                }
            }
            self.read_input()?;
        }
    }

    /// Reads what isn't WAL. `false` if nothing was there.
    pub(crate) fn read_input(&mut self) -> Result<bool, SessionError> {
        if self.connection.want() == Want::Nothing {
            return Err(SessionError::Closed);
        }
        match self.socket.try_read(self.connection.space()).map_err(SessionError::Broken)? {
            None => Ok(false),
            Some(0) => Err(SessionError::Closed),
            Some(len) => {
                self.connection.handle_input(len, world::now())?;
                Ok(true)
            }
        }
    }

    /// Sends a command that takes these bytes, and waits for its answer, however long it takes.
    ///
    /// # Errors
    /// If the server refuses it, or the connection breaks.
    pub async fn upload(&mut self, command: &str, bytes: Vec<u8>) -> Result<Rows, AskError> {
        self.connection.upload(command, bytes);
        match self.next_event().await? {
            Event::Reply(Ok(rows)) => Ok(rows),
            Event::Reply(Err(message)) => Err(AskError::Server(message)),
            _ => Err(SessionError::Closed.into()),
        }
    }

    /// Sends what the socket takes.
    pub(crate) fn transmit(&mut self) -> Result<(), SessionError> {
        while let Some(bytes) = self.connection.poll_transmit() {
            match self.socket.try_write(bytes).map_err(SessionError::Broken)? {
                Some(len) => self.connection.transmitted(len),
                None => break,
            }
        }
        Ok(())
    }
}
