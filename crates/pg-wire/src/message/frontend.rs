//! What a client says, written by postgres-protocol.
//!
//! Each function gives the message's bytes. Text that goes into a C string can't hold a NUL, and a
//! message not more than its length field can say; there is no other way to fail.

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::settings::ProtocolVersion;

/// The text can't be put into a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be sent to the server: it contains a NUL byte, or is longer than 2 GiB")]
pub struct EncodeError {
    /// What the text is; never the text.
    pub what: &'static str,
}

/// The startup packet of this protocol version with these parameters.
///
/// # Errors
/// A NUL byte in a parameter.
pub fn startup<'a>(
    version: ProtocolVersion,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<u8>, EncodeError> {
    let mut out = BytesMut::new();
    frontend::startup_message(parameters, &mut out)
        .map_err(|_| EncodeError { what: "a startup parameter" })?;
    // The library writes 3.0, behind the length.
    if let Some(place) = out.get_mut(4..8) {
        place.copy_from_slice(&version.code().to_be_bytes());
    }
    Ok(out.into())
}

/// A password, or its md5 hash.
///
/// # Errors
/// A NUL byte in it.
pub fn password(password: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let mut out = BytesMut::new();
    frontend::password_message(password, &mut out)
        .map_err(|_| EncodeError { what: "the password" })?;
    Ok(out.into())
}

/// The first message of a SASL exchange.
///
/// # Errors
/// A NUL byte in the mechanism's name.
pub fn sasl_initial_response(mechanism: &str, data: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(mechanism, data, &mut out)
        .map_err(|_| EncodeError { what: "the SASL mechanism" })?;
    Ok(out.into())
}

/// A later message of a SASL exchange.
///
/// # Errors
/// A message longer than the protocol's 2 GiB.
pub fn sasl_response(data: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let mut out = BytesMut::new();
    frontend::sasl_response(data, &mut out)
        .map_err(|_| EncodeError { what: "the SASL response" })?;
    Ok(out.into())
}

/// A command of [`crate::command`], or SQL where the connection takes it.
///
/// # Errors
/// A NUL byte in it.
pub fn query(command: &str) -> Result<Vec<u8>, EncodeError> {
    let mut out = BytesMut::new();
    frontend::query(command, &mut out).map_err(|_| EncodeError { what: "the command" })?;
    Ok(out.into())
}

/// A piece of what is copied to the server.
///
/// # Errors
/// A piece longer than the protocol's 2 GiB.
pub fn copy_data(payload: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let mut out = BytesMut::new();
    frontend::CopyData::new(payload)
        .map_err(|_| EncodeError { what: "the copied data" })?
        .write(&mut out);
    Ok(out.into())
}

/// The client has nothing more to copy: the stream's end.
#[must_use]
pub const fn copy_done() -> [u8; 5] {
    *b"c\0\0\0\x04"
}

/// The connection's end.
#[must_use]
pub const fn terminate() -> [u8; 5] {
    *b"X\0\0\0\x04"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_as_bytes() {
        let start =
            startup(ProtocolVersion::V3_2, [("user", "u"), ("replication", "true")]).unwrap();
        assert_eq!(start, b"\0\0\0\x21\0\x03\0\x02user\0u\0replication\0true\0\0");
        assert_eq!(password(b"pw").unwrap(), b"p\0\0\0\x07pw\0");
        assert_eq!(sasl_initial_response("M", b"xy").unwrap(), b"p\0\0\0\x0cM\0\0\0\0\x02xy");
        assert_eq!(sasl_response(b"xy").unwrap(), b"p\0\0\0\x06xy");
        assert_eq!(query("SHOW x").unwrap(), b"Q\0\0\0\x0bSHOW x\0");
        assert_eq!(copy_data(b"abc").unwrap(), b"d\0\0\0\x07abc");
    }

    #[test]
    fn fixed_messages_are_those_of_the_library() {
        let mut out = BytesMut::new();
        frontend::copy_done(&mut out);
        frontend::terminate(&mut out);
        assert_eq!(out, [copy_done(), terminate()].concat());
    }

    #[test]
    fn a_nul_is_refused_without_showing_the_text() {
        let error = password(b"canary\0").unwrap_err().to_string();
        assert!(error.contains("password") && !error.contains("canary"), "{error}");
        assert!(startup(ProtocolVersion::V3_0, [("user", "a\0b")]).is_err());
        assert!(query("a\0").is_err());
    }
}
