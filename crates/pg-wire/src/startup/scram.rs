//! The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677): postgres-protocol's, with its bound
//! made visible and its errors put into words.
//!
//! The header says how the exchange is bound to its connection: not at all and not able to (`n`,
//! without TLS or where binding is switched off); able to, but the server offered nothing (`y`),
//! which a server that did offer it takes for an attack; or by the hash of the server's
//! certificate (`p=tls-server-end-point`, RFC 5929).

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use super::StartupError;

/// Most iterations of the password's hash: some 25 times the server's default, and well below a
/// second, during which nothing else happens on the connection's thread. It is the bound inside
/// postgres-protocol too (CVE-2026-42198: a server may ask for hours), and is checked first here
/// so that the error says what to do.
pub const MAX_SCRAM_ITERATIONS: u32 = 100_000;

/// Most characters of an iteration count, or of a server's reason, that an error shows.
const SHOWN_CHARS: usize = 100;

/// An exchange. `message` may be asked for until `finish`.
pub(super) struct Scram {
    inner: ScramSha256,
}

impl Scram {
    pub(super) fn new(password: &[u8], binding: ChannelBinding) -> Self {
        Self { inner: ScramSha256::new(password, binding) }
    }

    /// The client's first message.
    pub(super) fn message(&self) -> &[u8] {
        self.inner.message()
    }

    /// Takes the server's challenge and gives the client's proof.
    pub(super) fn answer(&mut self, challenge: &[u8]) -> Result<&[u8], StartupError> {
        check_iterations(challenge)?;
        // The library asks for its state to be right before `message`; after an error it isn't.
        self.inner.update(challenge).map_err(|error| wrong(&error))?;
        Ok(self.inner.message())
    }

    /// Checks the server's proof.
    pub(super) fn finish(mut self, outcome: &[u8]) -> Result<(), StartupError> {
        self.inner.finish(outcome).map_err(|error| wrong(&error))
    }
}

fn wrong(error: &std::io::Error) -> StartupError {
    let what = error.to_string();
    let what = what.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS).collect();
    StartupError::Scram { what }
}

/// Looks for `i=` in `r=nonce,s=salt,i=count`; what isn't a challenge is left to the library.
fn check_iterations(challenge: &[u8]) -> Result<(), StartupError> {
    let Ok(text) = std::str::from_utf8(challenge) else { return Ok(()) };
    let Some(count) = text.split(',').find_map(|part| part.strip_prefix("i=")) else {
        return Ok(());
    };
    if !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(());
    }
    match count.parse::<u32>() {
        Ok(0) => Err(StartupError::Scram { what: "it asks for no iterations".to_owned() }),
        Ok(iterations) if iterations <= MAX_SCRAM_ITERATIONS => Ok(()),
        _ => Err(StartupError::TooManyIterations {
            iterations: count.chars().take(SHOWN_CHARS).collect(),
        }),
    }
}
