//! Messages and their frames: a tag, a length that counts itself, a body.
//!
//! [`FrameHeader`] is read first and capped by the connection's [`Phase`], so that a caller never
//! makes room for what a peer only claims; [`BackendMessage`] then borrows from the body. The
//! parsers are our own where postgres-protocol's `Message::parse` knows no `CopyBothResponse` and
//! no `NegotiateProtocolVersion`, caps nothing and owns what it gives; what is sent
//! ([`frontend`]) is built by postgres-protocol.
//!
//! Nothing here buffers: who reads the socket decides where the bytes lie.

mod backend;
pub mod frontend;
mod server_message;

pub use backend::{Authentication, BackendMessage, Column, MessageError};
pub use server_message::{ServerMessage, SqlState};

use std::fmt;

/// Longest body before the session is ready: libpq's own cap for errors before authentication
/// (`MAX_ERRLEN`, fe-connect.c), and everything else there is far smaller.
pub const MAX_STARTUP_BODY: usize = 30_000;

/// Longest body of anything but CopyData afterwards. The largest that a physical replication
/// client asks for is a timeline history file: some 60 bytes a timeline, so room for thousands.
pub const MAX_CONTROL_BODY: usize = 1 << 20;

/// Longest CopyData: the server's own limit for a message (`PQ_LARGE_MESSAGE_LIMIT`, just below
/// 1 GiB). Nothing is allocated by it: WAL goes through in pieces as it arrives.
pub const MAX_COPY_DATA_BODY: usize = 1 << 30;

/// The tags of the messages that a server sends (`libpq/protocol.h`, 10–18).
pub mod tag {
    /// AuthenticationRequest, of any kind.
    pub const AUTHENTICATION: u8 = b'R';
    /// BackendKeyData.
    pub const BACKEND_KEY_DATA: u8 = b'K';
    /// ParameterStatus.
    pub const PARAMETER_STATUS: u8 = b'S';
    /// ReadyForQuery.
    pub const READY_FOR_QUERY: u8 = b'Z';
    /// RowDescription.
    pub const ROW_DESCRIPTION: u8 = b'T';
    /// DataRow.
    pub const DATA_ROW: u8 = b'D';
    /// CommandComplete.
    pub const COMMAND_COMPLETE: u8 = b'C';
    /// EmptyQueryResponse.
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    /// ErrorResponse.
    pub const ERROR_RESPONSE: u8 = b'E';
    /// NoticeResponse.
    pub const NOTICE_RESPONSE: u8 = b'N';
    /// CopyBothResponse: the stream begins.
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    /// CopyOutResponse.
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    /// CopyInResponse.
    pub const COPY_IN_RESPONSE: u8 = b'G';
    /// CopyData, in both directions.
    pub const COPY_DATA: u8 = b'd';
    /// CopyDone, in both directions.
    pub const COPY_DONE: u8 = b'c';
    /// NegotiateProtocolVersion.
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    /// NotificationResponse.
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
}

/// How far a connection is, which decides how long its messages may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Until the first ReadyForQuery: whoever answers may not be a server at all.
    Startup,
    /// Commands, their answers, and the stream.
    Established,
}

/// A message's first five bytes.
///
/// | offset | field | |
/// |---|---|---|
/// | 0 | tag | one byte |
/// | 1 | length | 4 bytes, big-endian, counts itself but not the tag |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Which message it is: one of [`tag`], or an unknown one.
    pub tag: u8,
    /// How many bytes of body follow the header.
    pub len: usize,
}

impl FrameHeader {
    /// The header's own length in bytes.
    pub const LEN: usize = 5;

    /// Reads a header and holds it against the phase's cap.
    ///
    /// # Errors
    /// A length below its own four bytes, or above the cap: the peer doesn't speak the protocol,
    /// or the stream has lost its place. The connection is of no more use.
    pub fn parse(bytes: [u8; Self::LEN], phase: Phase) -> Result<Self, FrameError> {
        let [tag, length @ ..] = bytes;
        let length = u32::from_be_bytes(length);
        let limit = match (phase, tag) {
            (Phase::Startup, _) => MAX_STARTUP_BODY,
            (Phase::Established, tag::COPY_DATA) => MAX_COPY_DATA_BODY,
            (Phase::Established, _) => MAX_CONTROL_BODY,
        };
        match length.checked_sub(4).map(usize::try_from) {
            Some(Ok(len)) if len <= limit => Ok(Self { tag, len }),
            Some(_) | None if phase == Phase::Startup && tag == tag::ERROR_RESPONSE => {
                Err(FrameError::BareError)
            }
            Some(_) => Err(FrameError::TooLong { tag, length, limit }),
            None => Err(FrameError::TooShort { tag, length }),
        }
    }

    /// The first whole message in `bytes`: its header and its body; `None` while it isn't all
    /// there. It occupies `FrameHeader::LEN` bytes and the body's.
    ///
    /// # Errors
    /// As [`FrameHeader::parse`].
    pub fn split(bytes: &[u8], phase: Phase) -> Result<Option<(Self, &[u8])>, FrameError> {
        let Some((header, rest)) = bytes.split_first_chunk::<{ Self::LEN }>() else {
            return Ok(None);
        };
        let header = Self::parse(*header, phase)?;
        Ok(rest.get(..header.len).map(|body| (header, body)))
    }
}

/// A message's header can't be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length doesn't even count itself.
    #[error(
        "the server sent a message {} with the impossible length {length}: \
         the connection is out of step, or this is not a PostgreSQL server", Tag(*.tag)
    )]
    TooShort {
        /// The message's tag.
        tag: u8,
        /// The length as sent.
        length: u32,
    },
    /// The length is above what this phase allows.
    #[error(
        "the server announced a message {} of {length} bytes where at most {limit} are taken: \
         the connection is out of step, or this is not a PostgreSQL server", Tag(*.tag)
    )]
    TooLong {
        /// The message's tag.
        tag: u8,
        /// The length as sent.
        length: u32,
        /// The cap on the body, in bytes.
        limit: usize,
    },
    /// An error text without a frame, as a server sends it that can't start a process.
    #[error(
        "the server answered with an error outside the protocol, as it does when it cannot start \
         a process for the connection: see the server's log"
    )]
    BareError,
}

/// A tag as people read it: `'d'`, or `0x00`.
pub(crate) struct Tag(pub(crate) u8);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_ascii_graphic() {
            write!(f, "'{}'", char::from(self.0))
        } else {
            write!(f, "0x{:02X}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_capped_by_phase() {
        let check = |tag: u8, length: u32, phase, expect| {
            let [a, b, c, d] = length.to_be_bytes();
            assert_eq!(FrameHeader::parse([tag, a, b, c, d], phase), expect);
        };
        let ok = |tag, len| Ok(FrameHeader { tag, len });
        check(b'R', 8, Phase::Startup, ok(b'R', 4));
        check(b'c', 4, Phase::Established, ok(b'c', 0));
        check(b'c', 3, Phase::Established, Err(FrameError::TooShort { tag: b'c', length: 3 }));
        check(b'S', 30_004, Phase::Startup, ok(b'S', 30_000));
        let limit = MAX_STARTUP_BODY;
        let long = Err(FrameError::TooLong { tag: b'S', length: 30_005, limit });
        check(b'S', 30_005, Phase::Startup, long);
        check(b'd', (1 << 30) + 4, Phase::Established, ok(b'd', 1 << 30));
        let length = (1 << 20) + 5;
        let long = Err(FrameError::TooLong { tag: b'D', length, limit: MAX_CONTROL_BODY });
        check(b'D', length, Phase::Established, long);
        // "Ecould not fork new process for connection"
        check(b'E', u32::from_be_bytes(*b"coul"), Phase::Startup, Err(FrameError::BareError));
    }

    #[test]
    fn a_frame_is_whole_or_not_there() {
        let bytes = b"Z\0\0\0\x05Irest";
        for cut in 0..6 {
            assert_eq!(FrameHeader::split(&bytes[..cut], Phase::Established), Ok(None));
        }
        let header = FrameHeader { tag: b'Z', len: 1 };
        let expect = Ok(Some((header, b"I".as_slice())));
        assert_eq!(FrameHeader::split(bytes, Phase::Established), expect);
    }
}
