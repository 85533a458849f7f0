//! A client's bytes, cut into messages.
//!
//! | | first packet | later messages |
//! |---|---|---|
//! | 0 | length, 4 bytes, counts itself | tag |
//! | 4 (1) | body | length, 4 bytes, counts itself; then the body |

use crate::reader::Reader;

/// Longest startup packet, its length included (`MAX_STARTUP_PACKET_LENGTH`, libpq/pqcomm.h).
pub const MAX_STARTUP_PACKET: usize = 10_000;

/// What a client begins with that speaks TLS without asking (`sslnegotiation=direct`, 17): a record
/// of its handshake. No startup packet is so long.
pub const TLS_HANDSHAKE: u8 = 0x16;

/// Longest message of somebody who hasn't proved who they are (`PG_MAX_SASL_MESSAGE_LENGTH`,
/// libpq/sasl.h): a SCRAM message has some hundred bytes.
pub const MAX_LOGIN_BODY: usize = 1024;

/// Longest message afterwards: the longest command is a BASE_BACKUP with a label of 1,024 bytes,
/// and the longest reply has 34. Nothing a physical replication client says needs more.
pub const MAX_BODY: usize = 16 << 10;

/// A packet or message that can't be one: there is nobody to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The first packet's length.
    #[error("its first packet says that it has {length} bytes: this is no PostgreSQL client")]
    Startup {
        /// As sent.
        length: u32,
    },
    /// A later message's length.
    #[error(
        "it announced a message of {length} bytes (0x{tag:02X}) where at most {limit} are taken"
    )]
    Length {
        /// Its tag.
        tag: u8,
        /// As sent.
        length: u32,
        /// What is taken here.
        limit: usize,
    },
}

/// The body of the first packet in `bytes`, and the packet's whole length; `None` while it isn't
/// all there.
///
/// # Errors
/// A length that no startup packet has. Nothing is answered to it, as the real server does.
pub fn startup_packet(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, FrameError> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    let whole = usize::try_from(length).unwrap_or(usize::MAX);
    // Four bytes for the length, four for the code.
    if !(8..=MAX_STARTUP_PACKET).contains(&whole) {
        return Err(FrameError::Startup { length });
    }
    Ok(rest.get(..whole.saturating_sub(4)).map(|body| (body, whole)))
}

/// A message's tag, its body, and the length of all of it.
type Message<'a> = (u8, &'a [u8], usize);

/// The first message in `bytes`; `None` while it isn't all there. `limit` is the longest body that is taken.
///
/// # Errors
/// A length that doesn't count itself, or is above the limit.
pub fn message(bytes: &[u8], limit: usize) -> Result<Option<Message<'_>>, FrameError> {
    let Some(([tag, length @ ..], rest)) = bytes.split_first_chunk::<5>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    match length.checked_sub(4).map(usize::try_from) {
        Some(Ok(len)) if len <= limit => {
            Ok(rest.get(..len).map(|body| (*tag, body, len.saturating_add(5))))
        }
        _ => Err(FrameError::Length { tag: *tag, length, limit }),
    }
}

/// What a client says once it is connected (`libpq/protocol.h`, 14–18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// A command, without its NUL; `None` if there is no NUL where it must be.
    Query(Option<&'a [u8]>),
    /// A password, or a step of a SASL exchange.
    Password(&'a [u8]),
    /// A piece of what is copied: a reply to a stream.
    CopyData(&'a [u8]),
    /// The client has nothing more to copy.
    CopyDone,
    /// It gives copying up.
    CopyFail,
    /// Good-bye.
    Terminate,
    /// It wants to know when all before it is done.
    Sync,
    /// It wants what is there to be sent.
    Flush,
    /// Parse, Bind, Describe, Execute or Close.
    Extended,
    /// A call of a function.
    FunctionCall,
    /// No such message.
    Unknown(u8),
}

impl<'a> ClientMessage<'a> {
    /// Reads a message; each has something to be answered.
    #[must_use]
    pub fn parse(tag: u8, body: &'a [u8]) -> Self {
        match tag {
            b'Q' => {
                let mut reader = Reader::new(body);
                let text = reader.c_string();
                Self::Query(text.filter(|_| reader.is_empty()))
            }
            b'p' => Self::Password(body),
            b'd' => Self::CopyData(body),
            b'c' => Self::CopyDone,
            b'f' => Self::CopyFail,
            b'X' => Self::Terminate,
            b'S' => Self::Sync,
            b'H' => Self::Flush,
            b'P' | b'B' | b'D' | b'E' | b'C' => Self::Extended,
            b'F' => Self::FunctionCall,
            tag => Self::Unknown(tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_startup_packet_is_whole_or_not_there_and_never_too_long() {
        let packet = b"\0\0\0\x09\0\x03\0\0\0rest";
        for cut in 0..9 {
            assert_eq!(startup_packet(&packet[..cut]), Ok(None));
        }
        assert_eq!(startup_packet(packet), Ok(Some((&packet[4..9], 9))));
        assert_eq!(startup_packet(&10_000_u32.to_be_bytes()), Ok(None));
        for length in [0, 7, 10_001, u32::MAX, u32::from_be_bytes(*b"GET ")] {
            let wrong = Err(FrameError::Startup { length });
            assert_eq!(startup_packet(&length.to_be_bytes()), wrong);
        }
    }

    #[test]
    fn a_message_is_whole_or_not_there_and_never_too_long() {
        let bytes = b"Q\0\0\0\x06x\0rest";
        for cut in 0..7 {
            assert_eq!(message(&bytes[..cut], 100), Ok(None));
        }
        assert_eq!(message(bytes, 2), Ok(Some((b'Q', b"x\0".as_slice(), 7))));
        let wrong = |length| Err(FrameError::Length { tag: b'Q', length, limit: 1 });
        assert_eq!(message(bytes, 1), wrong(6));
        assert_eq!(message(b"Q\0\0\0\x03", 1), wrong(3));
        assert_eq!(message(b"Q\xff\xff\xff\xff", 1), wrong(u32::MAX));
    }

    #[test]
    fn a_commands_nul_is_where_it_must_be() {
        let check = |body: &[u8], expect: Option<&[u8]>| {
            assert_eq!(ClientMessage::parse(b'Q', body), ClientMessage::Query(expect));
        };
        check(b"SHOW x\0", Some(b"SHOW x"));
        check(b"\0", Some(b""));
        check(b"SHOW x", None);
        check(b"SHOW\0x\0", None);
        check(b"", None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((body, len))) = startup_packet(&bytes) {
                prop_assert_eq!(body.len() + 4, len);
            }
            if let Ok(Some((tag, body, len))) = message(&bytes, MAX_BODY) {
                prop_assert_eq!(body.len() + 5, len);
                let _ = ClientMessage::parse(tag, body);
            }
        }
    }
}
