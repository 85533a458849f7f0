//! What a server says, read from a message's tag and body.
//!
//! A parsed message borrows from the body. It has read every byte of it: leftover bytes are an
//! error, as is a body that ends early. Text that isn't UTF-8 (a server in another encoding) is
//! read with replacement characters, since it is only shown.

use std::borrow::Cow;

use super::{ServerMessage, Tag, tag};
use crate::reader::Reader;

/// Shortest and longest cancel key: 4 bytes on protocol 3.0, up to 256 on 3.2.
const CANCEL_KEY_LEN: std::ops::RangeInclusive<usize> = 4..=256;

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendMessage<'a> {
    /// What the server wants for authentication, or that it has enough.
    Authentication(Authentication<'a>),
    /// Who serves this connection.
    BackendKeyData {
        /// The server process's id.
        process_id: i32,
        /// What a cancel request must show; 4 to 256 bytes.
        secret_key: &'a [u8],
    },
    /// A setting's value, at the start and whenever it changes.
    ParameterStatus {
        /// The setting.
        name: Cow<'a, str>,
        /// Its value now.
        value: Cow<'a, str>,
    },
    /// The server waits for a command.
    ReadyForQuery {
        /// `I` idle, `T` in a transaction, `E` in a failed one.
        status: u8,
    },
    /// The columns of the rows that follow.
    RowDescription(Vec<Column>),
    /// One row, a NULL as `None`.
    DataRow(Vec<Option<&'a [u8]>>),
    /// A command is done.
    CommandComplete {
        /// The command's tag, such as `SELECT` or `COPY 0`.
        tag: Cow<'a, str>,
    },
    /// The command was empty.
    EmptyQueryResponse,
    /// The command, or the connection, has failed.
    ErrorResponse(Box<ServerMessage>),
    /// Something to be told to a person.
    NoticeResponse(Box<ServerMessage>),
    /// Copying in both directions begins: the replication stream.
    CopyBothResponse,
    /// Copying from the server begins.
    CopyOutResponse,
    /// Copying to the server begins.
    CopyInResponse,
    /// A piece of what is copied; see [`crate::stream`].
    CopyData(&'a [u8]),
    /// The server has nothing more to copy.
    CopyDone,
    /// The server doesn't know the protocol's minor version or options that were asked for.
    NegotiateProtocolVersion {
        /// The newest it knows. Servers 11–18 put the whole version (`3 << 16 | minor`) here.
        newest_minor: u32,
        /// The options that it doesn't know.
        unrecognized: Vec<Cow<'a, str>>,
    },
    /// A NOTIFY.
    NotificationResponse {
        /// The process that notified.
        process_id: i32,
        /// The channel.
        channel: Cow<'a, str>,
        /// The payload.
        payload: Cow<'a, str>,
    },
}

/// What an AuthenticationRequest asks for (`libpq/protocol.h`, `AUTH_REQ_*`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authentication<'a> {
    /// Nothing more.
    Ok,
    /// The password itself.
    CleartextPassword,
    /// The password hashed with the user's name and this salt.
    Md5Password {
        /// The salt.
        salt: [u8; 4],
    },
    /// A SASL exchange by one of these mechanisms.
    Sasl {
        /// The mechanisms' names, the server's preferred one first.
        mechanisms: Vec<Cow<'a, str>>,
    },
    /// The next challenge.
    SaslContinue(&'a [u8]),
    /// The exchange's outcome.
    SaslFinal(&'a [u8]),
    /// Something that is not implemented: 2 Kerberos, 6 SCM, 7 GSSAPI, 9 SSPI and others.
    Unsupported {
        /// The request's code.
        code: u32,
    },
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type's object id: 25 is text, 20 int8, 23 int4.
    pub type_oid: u32,
}

/// A message that isn't as the protocol says. The connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// No message that a server sends has this tag.
    #[error("the server sent a message with the unknown tag {}", Tag(*.tag))]
    UnknownTag {
        /// The tag.
        tag: u8,
    },
    /// The body isn't what the tag says.
    #[error("the server sent a malformed {message} message: {what}")]
    Malformed {
        /// The message's name.
        message: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

impl<'a> BackendMessage<'a> {
    /// Reads a message from its tag and its whole body.
    ///
    /// # Errors
    /// An unknown tag; a body that is too short, too long, or otherwise not the tag's.
    pub fn parse(tag: u8, body: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body);
        let (name, message) = Self::fields(tag, &mut reader)?;
        let malformed = |what| Err(MessageError::Malformed { message: name, what });
        match message {
            None => malformed("it ends early, or a field of it is impossible"),
            Some(_) if !reader.is_empty() => malformed("bytes are left over"),
            Some(message) => Ok(message),
        }
    }

    /// The message's name for errors, and its fields, `None` where they can't be read.
    fn fields(
        tag: u8,
        reader: &mut Reader<'a>,
    ) -> Result<(&'static str, Option<Self>), MessageError> {
        Ok(match tag {
            tag::AUTHENTICATION => {
                ("Authentication", authentication(reader).map(Self::Authentication))
            }
            tag::BACKEND_KEY_DATA => ("BackendKeyData", backend_key_data(reader)),
            tag::PARAMETER_STATUS => ("ParameterStatus", parameter_status(reader)),
            tag::READY_FOR_QUERY => {
                ("ReadyForQuery", reader.u8().map(|status| Self::ReadyForQuery { status }))
            }
            tag::ROW_DESCRIPTION => {
                ("RowDescription", row_description(reader).map(Self::RowDescription))
            }
            tag::DATA_ROW => ("DataRow", data_row(reader).map(Self::DataRow)),
            tag::COMMAND_COMPLETE => {
                ("CommandComplete", text(reader).map(|tag| Self::CommandComplete { tag }))
            }
            tag::EMPTY_QUERY_RESPONSE => ("EmptyQueryResponse", Some(Self::EmptyQueryResponse)),
            tag::ERROR_RESPONSE => {
                ("ErrorResponse", ServerMessage::read(reader).map(Self::ErrorResponse))
            }
            tag::NOTICE_RESPONSE => {
                ("NoticeResponse", ServerMessage::read(reader).map(Self::NoticeResponse))
            }
            tag::COPY_BOTH_RESPONSE => {
                ("CopyBothResponse", copy_formats(reader).map(|()| Self::CopyBothResponse))
            }
            tag::COPY_OUT_RESPONSE => {
                ("CopyOutResponse", copy_formats(reader).map(|()| Self::CopyOutResponse))
            }
            tag::COPY_IN_RESPONSE => {
                ("CopyInResponse", copy_formats(reader).map(|()| Self::CopyInResponse))
            }
            tag::COPY_DATA => ("CopyData", Some(Self::CopyData(reader.rest()))),
            tag::COPY_DONE => ("CopyDone", Some(Self::CopyDone)),
            tag::NEGOTIATE_PROTOCOL_VERSION => ("NegotiateProtocolVersion", negotiate(reader)),
            tag::NOTIFICATION_RESPONSE => ("NotificationResponse", notification(reader)),
            tag => return Err(MessageError::UnknownTag { tag }),
        })
    }

    /// The message's name, for messages about one that came at the wrong moment.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Authentication(_) => "Authentication",
            Self::BackendKeyData { .. } => "BackendKeyData",
            Self::ParameterStatus { .. } => "ParameterStatus",
            Self::ReadyForQuery { .. } => "ReadyForQuery",
            Self::RowDescription(_) => "RowDescription",
            Self::DataRow(_) => "DataRow",
            Self::CommandComplete { .. } => "CommandComplete",
            Self::EmptyQueryResponse => "EmptyQueryResponse",
            Self::ErrorResponse(_) => "ErrorResponse",
            Self::NoticeResponse(_) => "NoticeResponse",
            Self::CopyBothResponse => "CopyBothResponse",
            Self::CopyOutResponse => "CopyOutResponse",
            Self::CopyInResponse => "CopyInResponse",
            Self::CopyData(_) => "CopyData",
            Self::CopyDone => "CopyDone",
            Self::NegotiateProtocolVersion { .. } => "NegotiateProtocolVersion",
            Self::NotificationResponse { .. } => "NotificationResponse",
        }
    }
}

fn text<'a>(reader: &mut Reader<'a>) -> Option<Cow<'a, str>> {
    reader.c_string().map(String::from_utf8_lossy)
}

fn authentication<'a>(reader: &mut Reader<'a>) -> Option<Authentication<'a>> {
    Some(match reader.u32()? {
        0 => Authentication::Ok,
        3 => Authentication::CleartextPassword,
        5 => Authentication::Md5Password { salt: reader.array()? },
        10 => {
            let mut mechanisms = Vec::new();
            loop {
                let name = text(reader)?;
                if name.is_empty() {
                    break Authentication::Sasl { mechanisms };
                }
                mechanisms.push(name);
            }
        }
        11 => Authentication::SaslContinue(reader.rest()),
        12 => Authentication::SaslFinal(reader.rest()),
        code => {
            reader.rest();
            Authentication::Unsupported { code }
        }
    })
}

fn backend_key_data<'a>(reader: &mut Reader<'a>) -> Option<BackendMessage<'a>> {
    let process_id = reader.i32()?;
    let secret_key = reader.rest();
    CANCEL_KEY_LEN
        .contains(&secret_key.len())
        .then_some(BackendMessage::BackendKeyData { process_id, secret_key })
}

fn parameter_status<'a>(reader: &mut Reader<'a>) -> Option<BackendMessage<'a>> {
    Some(BackendMessage::ParameterStatus { name: text(reader)?, value: text(reader)? })
}

fn row_description(reader: &mut Reader<'_>) -> Option<Vec<Column>> {
    let mut columns = Vec::new();
    for _ in 0..reader.u16()? {
        let name = text(reader)?.into_owned();
        // Table and column number; then, behind the type: its size, modifier, and the format.
        reader.take(6)?;
        let type_oid = reader.u32()?;
        reader.take(8)?;
        columns.push(Column { name, type_oid });
    }
    Some(columns)
}

fn data_row<'a>(reader: &mut Reader<'a>) -> Option<Vec<Option<&'a [u8]>>> {
    let mut columns = Vec::new();
    for _ in 0..reader.u16()? {
        columns.push(match reader.i32()? {
            -1 => None,
            len => Some(reader.take(usize::try_from(len).ok()?)?),
        });
    }
    Some(columns)
}

fn copy_formats(reader: &mut Reader<'_>) -> Option<()> {
    let _format = reader.u8()?;
    let columns = reader.u16()?;
    reader.take(usize::from(columns).checked_mul(2)?)?;
    Some(())
}

fn negotiate<'a>(reader: &mut Reader<'a>) -> Option<BackendMessage<'a>> {
    let newest_minor = reader.u32()?;
    let mut unrecognized = Vec::new();
    for _ in 0..reader.u32()? {
        unrecognized.push(text(reader)?);
    }
    Some(BackendMessage::NegotiateProtocolVersion { newest_minor, unrecognized })
}

fn notification<'a>(reader: &mut Reader<'a>) -> Option<BackendMessage<'a>> {
    let process_id = reader.i32()?;
    let channel = text(reader)?;
    let payload = text(reader)?;
    Some(BackendMessage::NotificationResponse { process_id, channel, payload })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(tag: u8, body: &[u8], expect: &BackendMessage<'_>) {
        assert_eq!(BackendMessage::parse(tag, body).as_ref(), Ok(expect));
        assert_eq!(expect.name(), BackendMessage::fields(tag, &mut Reader::new(body)).unwrap().0);
    }

    #[test]
    fn authentication_requests() {
        let check =
            |body: &[u8], expect| check(b'R', body, &BackendMessage::Authentication(expect));
        check(&[0, 0, 0, 0], Authentication::Ok);
        check(&[0, 0, 0, 3], Authentication::CleartextPassword);
        check(&[0, 0, 0, 5, 1, 2, 3, 4], Authentication::Md5Password { salt: [1, 2, 3, 4] });
        let mechanisms = vec!["SCRAM-SHA-256-PLUS".into(), "SCRAM-SHA-256".into()];
        check(
            b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
            Authentication::Sasl { mechanisms },
        );
        check(b"\0\0\0\x0br=x", Authentication::SaslContinue(b"r=x"));
        check(b"\0\0\0\x0cv=x", Authentication::SaslFinal(b"v=x"));
        check(&[0, 0, 0, 7], Authentication::Unsupported { code: 7 });
        check(&[0, 0, 0, 8, 1, 2], Authentication::Unsupported { code: 8 });
    }

    #[test]
    fn each_message() {
        let secret_key = [7; 32].as_slice();
        let body = [&[0, 0, 1, 2], secret_key].concat();
        check(b'K', &body, &BackendMessage::BackendKeyData { process_id: 258, secret_key });
        let (name, value) = ("server_version".into(), "18.6".into());
        check(b'S', b"server_version\x0018.6\0", &BackendMessage::ParameterStatus { name, value });
        check(b'Z', b"I", &BackendMessage::ReadyForQuery { status: b'I' });
        let mut body = b"\0\x01timeline\0".to_vec();
        body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 8, 255, 255, 255, 255, 0, 0]);
        let column = Column { name: "timeline".into(), type_oid: 20 };
        check(b'T', &body, &BackendMessage::RowDescription(vec![column]));
        let row = BackendMessage::DataRow(vec![Some(b"1"), None, Some(b"")]);
        check(b'D', b"\0\x03\0\0\0\x011\xff\xff\xff\xff\0\0\0\0", &row);
        check(b'C', b"COPY 0\0", &BackendMessage::CommandComplete { tag: "COPY 0".into() });
        check(b'I', b"", &BackendMessage::EmptyQueryResponse);
        check(b'W', &[0, 0, 0], &BackendMessage::CopyBothResponse);
        check(b'H', &[0, 0, 1, 0, 0], &BackendMessage::CopyOutResponse);
        check(b'G', &[0, 0, 0], &BackendMessage::CopyInResponse);
        check(b'd', b"abc", &BackendMessage::CopyData(b"abc"));
        check(b'c', b"", &BackendMessage::CopyDone);
        let unrecognized = vec!["_pq_.x".into()];
        let expect = BackendMessage::NegotiateProtocolVersion { newest_minor: 2, unrecognized };
        check(b'v', b"\0\0\0\x02\0\0\0\x01_pq_.x\0", &expect);
        let (channel, payload) = ("c".into(), "p".into());
        let expect = BackendMessage::NotificationResponse { process_id: 9, channel, payload };
        check(b'A', b"\0\0\0\x09c\0p\0", &expect);
    }

    #[test]
    fn what_is_malformed_is_named() {
        let check = |tag, body: &[u8], expect: &str| {
            let error = BackendMessage::parse(tag, body).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(b'?', b"", "unknown tag '?'");
        check(0, b"", "unknown tag 0x00");
        check(b'Z', b"", "malformed ReadyForQuery");
        check(b'Z', b"II", "left over");
        check(b'K', &[0, 0, 0, 1, 1, 2, 3], "BackendKeyData");
        check(b'K', &[0; 4 + 257], "BackendKeyData");
        check(b'D', &[255, 255], "DataRow");
        check(b'D', &[0, 1, 255, 255, 255, 254], "DataRow");
        check(b'D', &[0, 1, 127, 255, 255, 255], "DataRow");
        check(b'v', &[0, 0, 0, 0, 255, 255, 255, 255], "NegotiateProtocolVersion");
        check(b'W', &[0, 255, 255], "CopyBothResponse");
        check(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0", "Authentication");
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(
            tag: u8,
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = BackendMessage::parse(tag, &body);
            for tag in *b"RKSZTDCIENWHGdcvA" {
                let _ = BackendMessage::parse(tag, &body);
            }
        }
    }
}
