//! A SCRAM verifier as `pg_authid.rolpassword` holds it:
//! `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`, the last three in base64.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::scram::hmac;

pub(super) const PREFIX: &str = "SCRAM-SHA-256$";
/// A salt's length (`SCRAM_DEFAULT_SALT_LEN`, common/scram-common.h).
const SALT_LEN: usize = 16;
/// A longer one would only make messages longer.
const MAX_SALT: usize = 128;

/// What proves a password without being one. Its debug text doesn't show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: [u8; 32],
    pub(super) server_key: [u8; 32],
    /// No password proves it.
    pub(super) is_nobodys: bool,
}

/// The text is no verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this isn't a SCRAM verifier as pg_authid.rolpassword has it (SCRAM-SHA-256$4096:…$…:…); a \
     password, or an md5 hash, isn't one"
)]
pub struct VerifierError;

impl Verifier {
    /// Reads one.
    ///
    /// # Errors
    /// If it isn't one.
    pub fn parse(text: &str) -> Result<Self, VerifierError> {
        Self::read(text).ok_or(VerifierError)
    }

    fn read(text: &str) -> Option<Self> {
        let (head, keys) = text.strip_prefix(PREFIX)?.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let decode = |text: &str| STANDARD.decode(text).ok();
        let salt = decode(salt).filter(|salt| (1..=MAX_SALT).contains(&salt.len()))?;
        Some(Self {
            iterations: iterations.parse().ok().filter(|count| *count > 0)?,
            salt,
            stored_key: decode(stored_key)?.try_into().ok()?,
            server_key: decode(server_key)?.try_into().ok()?,
            is_nobodys: false,
        })
    }

    /// Makes the verifier of a password, with a new salt.
    #[must_use]
    pub fn text_of_password(password: &[u8]) -> String {
        postgres_protocol::password::scram_sha_256(password)
    }

    /// A verifier that no password proves, for a user who doesn't exist: who asks learns nothing from
    /// the challenge, since the same name always gets the same salt, which comes from a `secret` that
    /// doesn't change, and as many iterations as others have.
    #[must_use]
    pub fn of_nobody(user: &str, secret: &[u8], iterations: u32) -> Self {
        let salt = hmac(secret, &[user.as_bytes()]).into_iter().take(SALT_LEN).collect();
        let (stored_key, server_key) = ([0; 32], [0; 32]);
        Self { iterations, salt, stored_key, server_key, is_nobodys: true }
    }

    /// How often the password is hashed.
    #[must_use]
    pub fn iterations(&self) -> u32 {
        self.iterations
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_postgres_writes_is_read_and_nothing_else() {
        let text = Verifier::text_of_password(b"secret");
        let verifier = Verifier::parse(&text).unwrap();
        assert_eq!((verifier.iterations, verifier.salt.len()), (4096, 16));
        assert!(!format!("{verifier:?}").contains("key"));
        for wrong in ["", "secret", "md5abc", &text[1..], &text[..text.len() - 4], "SCRAM-SHA-256$"]
        {
            assert_eq!(Verifier::parse(wrong), Err(VerifierError), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(rest in "[$:A-Za-z0-9+/=]{0,60}") {
            let _ = Verifier::parse(&format!("{PREFIX}{rest}"));
        }
    }
}
