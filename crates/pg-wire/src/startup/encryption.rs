//! What comes before the startup packet: whether to ask for TLS, what the answer means, and what to
//! try next when it fails (`select_next_encryption_method`, fe-connect.c, 17 and 18).
//!
//! `allow` begins in plain text and goes on to TLS, `prefer` the other way round, each once; what
//! is stricter tries TLS alone. A Unix socket is never encrypted, whatever the mode. What a server
//! says before TLS is up may be anybody's words: its error isn't shown (CVE-2024-10977), and a
//! byte behind the answer ends the connection (CVE-2021-23222).

use super::StartupError;
use crate::settings::{Server, SslMode};

/// SSLRequest: its length, and the code 1234.5679 in place of a protocol's version.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// ALPN's name of the protocol; a server that takes TLS at once must agree to it.
pub const ALPN: &[u8] = b"postgresql";

/// How one attempt is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    Plain,
    /// By TLS.
    Tls,
}

/// The ways that are left to try with one address.
#[derive(Clone, Debug)]
pub struct Attempts {
    left: Vec<Encryption>,
}

impl Attempts {
    /// All of a mode's ways.
    #[must_use]
    pub fn new(mode: SslMode, server: &Server) -> Self {
        let left = match mode {
            _ if server.socket_path().is_some() => vec![Encryption::Plain],
            SslMode::Disable => vec![Encryption::Plain],
            SslMode::Allow => vec![Encryption::Tls, Encryption::Plain],
            SslMode::Prefer => vec![Encryption::Plain, Encryption::Tls],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => vec![Encryption::Tls],
        };
        Self { left }
    }

    /// The next way to try; none if all have failed.
    pub fn next_way(&mut self) -> Option<Encryption> {
        self.left.pop()
    }

    /// Whether plain text is still to be tried, so that a server without TLS will do.
    #[must_use]
    pub fn may_be_plain(&self) -> bool {
        self.left.contains(&Encryption::Plain)
    }
}

/// What the server answers to [`SSL_REQUEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslAnswer {
    /// TLS begins.
    Yes,
    /// There is no TLS; the startup packet may follow in plain text.
    No,
}

impl SslAnswer {
    /// Reads what came: exactly one byte.
    ///
    /// # Errors
    /// An error of the server, whose text nobody vouches for; anything that is no answer; and
    /// bytes behind it, which somebody else must have put there.
    pub fn read(bytes: &[u8]) -> Result<Self, StartupError> {
        match bytes {
            [b'S'] => Ok(Self::Yes),
            [b'N'] => Ok(Self::No),
            [b'S' | b'N', _, ..] => Err(StartupError::PlaintextBeforeTls),
            [b'E', ..] => Err(StartupError::ErrorBeforeTls),
            _ => Err(StartupError::NoSslAnswer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Host;

    #[test]
    fn each_way_is_tried_once() {
        let tcp = Host::Tcp { host: "h".into() };
        let unix = Host::Unix { dir: "/x".into() };
        let check = |host: &Host, mode, expect: &[Encryption]| {
            let server =
                Server { host: host.clone(), named: true, hostaddr: None, port: 1, password: None };
            let mut attempts = Attempts::new(mode, &server);
            let ways: Vec<_> = std::iter::from_fn(|| attempts.next_way()).collect();
            assert_eq!(ways, expect, "{mode:?}");
        };
        check(&tcp, SslMode::Disable, &[Encryption::Plain]);
        check(&tcp, SslMode::Allow, &[Encryption::Plain, Encryption::Tls]);
        check(&tcp, SslMode::Prefer, &[Encryption::Tls, Encryption::Plain]);
        for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
            check(&tcp, mode, &[Encryption::Tls]);
            check(&unix, mode, &[Encryption::Plain]);
        }
    }

    #[test]
    fn answers() {
        let check = |bytes: &[u8], expect| assert_eq!(SslAnswer::read(bytes), expect, "{bytes:?}");
        check(b"S", Ok(SslAnswer::Yes));
        check(b"N", Ok(SslAnswer::No));
        check(b"SR", Err(StartupError::PlaintextBeforeTls));
        check(b"NR", Err(StartupError::PlaintextBeforeTls));
        check(b"E", Err(StartupError::ErrorBeforeTls));
        check(b"EF", Err(StartupError::ErrorBeforeTls));
        check(b"R", Err(StartupError::NoSslAnswer));
        check(b"", Err(StartupError::NoSslAnswer));
        assert_eq!(SSL_REQUEST[4..], 80_877_103_u32.to_be_bytes());
    }
}
