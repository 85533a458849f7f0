//! What a server reports: errors and notices.
//!
//! Decisions are made by [`SqlState`] only: texts are localised. What is shown is one line with
//! no control characters in it, since a peer chooses it and a terminal obeys it.

use std::fmt;

use crate::reader::Reader;

/// Longest field kept, in characters. A statement that a server quotes may be long, and the
/// program that shows it is not.
const MAX_FIELD_CHARS: usize = 4096;

/// A five-character SQLSTATE (`utils/errcodes.h`, 10–18).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    /// The message had none.
    pub const MISSING: SqlState = SqlState(*b"-----");
    /// A command that this connection can't do.
    pub const FEATURE_NOT_SUPPORTED: SqlState = SqlState(*b"0A000");
    /// The peer broke the protocol.
    pub const PROTOCOL_VIOLATION: SqlState = SqlState(*b"08P01");
    /// A number is outside its range.
    pub const NUMERIC_VALUE_OUT_OF_RANGE: SqlState = SqlState(*b"22003");
    /// `invalid_parameter_value`
    pub const INVALID_PARAMETER_VALUE: SqlState = SqlState(*b"22023");
    /// The user may not connect so: pg_hba.conf, or the missing REPLICATION attribute.
    pub const INVALID_AUTHORIZATION: SqlState = SqlState(*b"28000");
    /// The password is wrong.
    pub const INVALID_PASSWORD: SqlState = SqlState(*b"28P01");
    /// The database doesn't exist.
    pub const INVALID_CATALOG_NAME: SqlState = SqlState(*b"3D000");
    /// The user lacks a privilege.
    pub const INSUFFICIENT_PRIVILEGE: SqlState = SqlState(*b"42501");
    /// The command can't be read.
    pub const SYNTAX_ERROR: SqlState = SqlState(*b"42601");
    /// A name (a slot's) isn't one.
    pub const INVALID_NAME: SqlState = SqlState(*b"42602");
    /// The object (a slot) doesn't exist.
    pub const UNDEFINED_OBJECT: SqlState = SqlState(*b"42704");
    /// The object (a slot) exists already.
    pub const DUPLICATE_OBJECT: SqlState = SqlState(*b"42710");
    /// The server has no more room on disk.
    pub const DISK_FULL: SqlState = SqlState(*b"53100");
    /// No connection, or no WAL sender, is free.
    pub const TOO_MANY_CONNECTIONS: SqlState = SqlState(*b"53300");
    /// All slots are in use: max_replication_slots.
    pub const CONFIGURATION_LIMIT_EXCEEDED: SqlState = SqlState(*b"53400");
    /// The object's state forbids it: an invalidated slot.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: SqlState = SqlState(*b"55000");
    /// The object (a slot) is in use.
    pub const OBJECT_IN_USE: SqlState = SqlState(*b"55006");
    /// The command was cancelled.
    pub const QUERY_CANCELED: SqlState = SqlState(*b"57014");
    /// The server shuts down, or somebody ended the backend.
    pub const ADMIN_SHUTDOWN: SqlState = SqlState(*b"57P01");
    /// Another server process crashed.
    pub const CRASH_SHUTDOWN: SqlState = SqlState(*b"57P02");
    /// The server starts, stops or recovers.
    pub const CANNOT_CONNECT_NOW: SqlState = SqlState(*b"57P03");
    /// A file doesn't exist: WAL that was removed, a history file.
    pub const UNDEFINED_FILE: SqlState = SqlState(*b"58P01");
    /// Anything that the server gave no code of its own.
    pub const INTERNAL_ERROR: SqlState = SqlState(*b"XX000");
    /// Pages whose checksums don't hold, among other things.
    pub const DATA_CORRUPTED: SqlState = SqlState(*b"XX001");

    /// The first two characters: `08` is about connections, `53` about resources, `57` about an
    /// operator's intervention.
    #[must_use]
    pub fn class(self) -> [u8; 2] {
        let [first, second, ..] = self.0;
        [first, second]
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            let shown = if byte.is_ascii_alphanumeric() || byte == b'-' { byte } else { b'?' };
            write!(f, "{}", char::from(shown))?;
        }
        Ok(())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An error or a notice of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerMessage {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING`, `NOTICE`, ..., not localised where the server gives
    /// it so (field V, from 9.6).
    pub severity: String,
    /// The SQLSTATE (field C).
    pub sqlstate: SqlState,
    /// The message (M), in the server's language.
    pub message: String,
    /// More about it (D).
    pub detail: Option<String>,
    /// What to do (H).
    pub hint: Option<String>,
    /// Where it happened in the server (W).
    pub context: Option<String>,
    /// The server's function that reported it (R): never localised, so that cases without a
    /// SQLSTATE of their own can be told apart for a person.
    pub routine: Option<String>,
}

impl ServerMessage {
    /// Whether the server closes the connection after this.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }

    /// Reads the fields of an ErrorResponse or NoticeResponse; unknown ones are passed over.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Box<Self>> {
        let mut message = Self {
            severity: String::new(),
            sqlstate: SqlState::MISSING,
            message: String::new(),
            detail: None,
            hint: None,
            context: None,
            routine: None,
        };
        loop {
            let field = reader.u8()?;
            if field == 0 {
                break;
            }
            let bytes = reader.c_string()?;
            let text = || -> String {
                String::from_utf8_lossy(bytes).chars().take(MAX_FIELD_CHARS).collect()
            };
            match field {
                b'V' => message.severity = text(),
                b'S' if message.severity.is_empty() => message.severity = text(),
                b'C' => message.sqlstate = bytes.try_into().map_or(SqlState::MISSING, SqlState),
                b'M' => message.message = text(),
                b'D' => message.detail = Some(text()),
                b'H' => message.hint = Some(text()),
                b'W' => message.context = Some(text()),
                b'R' => message.routine = Some(text()),
                _ => {}
            }
        }
        Some(Box::new(message))
    }
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.severity.is_empty() { "ERROR" } else { &self.severity };
        write!(f, "{}: {}", OneLine(severity), OneLine(&self.message))?;
        if let Some(detail) = &self.detail {
            write!(f, "; detail: {}", OneLine(detail))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {}", OneLine(hint))?;
        }
        if self.sqlstate != SqlState::MISSING {
            write!(f, " (SQLSTATE {})", self.sqlstate)?;
        }
        Ok(())
    }
}

/// Text with a space in place of each control character.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| write!(f, "{}", if c.is_control() { ' ' } else { c }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::BackendMessage;

    #[track_caller]
    fn read(body: &[u8]) -> ServerMessage {
        match BackendMessage::parse(b'E', body) {
            Ok(BackendMessage::ErrorResponse(message)) => *message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_error_as_a_server_sends_it() {
        let body = b"SFATAL\0VFATAL\0C55006\0Mreplication slot \"s\" is active for PID 42\0\
                     Hdo something\0Ddetail here\0Fslot.c\0L500\0RReplicationSlotAcquire\0\0";
        let message = read(body);
        assert_eq!(message.sqlstate, SqlState::OBJECT_IN_USE);
        assert_eq!(message.sqlstate.class(), *b"55");
        assert!(message.is_fatal());
        assert_eq!(message.routine.as_deref(), Some("ReplicationSlotAcquire"));
        assert_eq!(
            message.to_string(),
            "FATAL: replication slot \"s\" is active for PID 42; detail: detail here; \
             hint: do something (SQLSTATE 55006)"
        );
    }

    #[test]
    fn the_severity_is_the_one_that_is_not_localised() {
        for body in [b"SFATALE\0VFATAL\0\0".as_slice(), b"VFATAL\0SFATALE\0\0"] {
            assert_eq!(read(body).severity, "FATAL");
        }
        assert_eq!(read(b"SFATALE\0\0").severity, "FATALE");
    }

    #[test]
    fn texts_are_harmless_and_bounded() {
        let message = read(b"SERROR\0Ma\x1b[31m\nb\xff\0C42\0\0");
        assert_eq!(message.to_string(), "ERROR: a [31m b\u{fffd}");
        let long = [b"M".as_slice(), &[b'x'; 10_000], b"\0\0"].concat();
        assert_eq!(read(&long).message.len(), MAX_FIELD_CHARS);
        assert_eq!(SqlState([0x1b, b'a', b'1', b' ', 0xff]).to_string(), "?a1??");
    }
}
