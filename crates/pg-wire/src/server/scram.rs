//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), as auth-scram.c speaks it.
//!
//! A user who doesn't exist gets a challenge like anybody else, goes through the same steps, and
//! fails at the same place. Comparisons take the same time whatever they compare.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Verifier;
use super::response::Refusal;
use crate::message::SqlState;

/// The mechanism that is always offered.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// The one that is offered within TLS, and bound to the server's certificate.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// The header of a message that is bound to it (RFC 5929).
const BOUND: &str = "p=tls-server-end-point,,";

/// Bytes of the server's nonce (`SCRAM_RAW_NONCE_LEN`, common/scram-common.h).
pub const NONCE_LEN: usize = 18;

/// An exchange that waits for the client's first or last message.
pub struct Exchange {
    verifier: Verifier,
    nonce: String,
    /// The hash of the server's certificate, within TLS.
    end_point: Option<Vec<u8>>,
    state: State,
}

enum State {
    First,
    Final {
        /// The client's first message without its header.
        first_bare: String,
        /// What the client has to give back of its header, in base64.
        binding: String,
        server_first: String,
        nonce: String,
    },
    Done,
}

/// What is sent next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The challenge.
    Continue(Vec<u8>),
    /// The proof that the server knows the verifier: the client is let in.
    Success(Vec<u8>),
    /// The password is wrong, or the user isn't known.
    Failure,
}

impl Exchange {
    /// An exchange with a user who has this verifier. `nonce` is random; `end_point` is the hash of
    /// the server's certificate where there is one to be bound to.
    #[must_use]
    pub fn new(verifier: Verifier, nonce: [u8; NONCE_LEN], end_point: Option<Vec<u8>>) -> Self {
        let nonce = STANDARD.encode(nonce);
        Self { verifier, nonce, end_point, state: State::First }
    }

    /// Takes the body of a password message: the first one names the mechanism.
    ///
    /// # Errors
    /// What a client is told that doesn't keep to the protocol.
    pub fn handle(&mut self, body: &[u8]) -> Result<Step, Refusal> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::First => {
                let (is_bound, message) = initial_response(body, self.end_point.is_some())?;
                self.first(is_bound, message)
            }
            State::Final { first_bare, binding, server_first, nonce } => {
                let message = as_text(body)?;
                let (without_proof, proof) =
                    message.rsplit_once(",p=").ok_or_else(|| malformed("there is no proof"))?;
                let mut attributes = without_proof.split(',');
                let mut attribute = |name: &str| {
                    attributes.next().and_then(|text| text.strip_prefix(name).map(str::to_owned))
                };
                if attribute("c=").as_deref() != Some(&*binding) {
                    return Err(violation(
                        "unexpected SCRAM channel-binding attribute in client-final-message",
                    ));
                }
                if attribute("r=").as_deref() != Some(&*nonce) {
                    return Err(violation("invalid SCRAM response (nonce mismatch)"));
                }
                let proof = STANDARD.decode(proof).ok().and_then(|proof| proof.try_into().ok());
                let proof: [u8; 32] =
                    proof.ok_or_else(|| malformed("the proof isn't one of SHA-256"))?;
                let auth = [&*first_bare, ",", &server_first, ",", without_proof];
                Ok(self.verify(&auth.map(str::as_bytes), proof))
            }
            State::Done => Err(violation("the SCRAM exchange has ended")),
        }
    }

    /// What the client has to give back of its header, in base64, and the rest of its first
    /// message: `n,,n=,r=nonce`.
    fn header<'a>(&self, is_bound: bool, message: &'a str) -> Result<(String, &'a str), Refusal> {
        if is_bound {
            let Some(bare) = message.strip_prefix(BOUND) else {
                return Err(malformed("channel binding was chosen, and its data isn't there"));
            };
            let hash = self.end_point.as_deref().unwrap_or_default();
            return Ok((STANDARD.encode([BOUND.as_bytes(), hash].concat()), bare));
        }
        if message.starts_with("y,,") && self.end_point.is_some() {
            let text = "SCRAM channel binding negotiation error";
            return Err(Refusal::fatal(SqlState::INVALID_AUTHORIZATION, text).detail(
                "The client supports SCRAM channel binding but thinks the server does not.  \
                 However, this server does support channel binding.",
            ));
        }
        if message.starts_with('p') {
            return Err(violation("the client requires SCRAM channel binding, which takes TLS"));
        }
        for flag in ["n,,", "y,,"] {
            if let Some(bare) = message.strip_prefix(flag) {
                return Ok((STANDARD.encode(flag), bare));
            }
        }
        Err(malformed("unexpected channel-binding flag, or an authorization identity"))
    }

    fn first(&mut self, is_bound: bool, message: &str) -> Result<Step, Refusal> {
        let (binding, bare) = self.header(is_bound, message)?;
        let mut attributes = bare.split(',');
        // The name is the startup packet's; libpq sends an empty one.
        let named = attributes.next().is_some_and(|text| text.starts_with("n="));
        let client_nonce = attributes.next().and_then(|text| text.strip_prefix("r="));
        let client_nonce = client_nonce.filter(|nonce| {
            named && !nonce.is_empty() && nonce.bytes().all(|byte| (0x21..=0x7E).contains(&byte))
        });
        let Some(client_nonce) = client_nonce else {
            return Err(malformed("a name and a nonce were expected"));
        };
        let nonce = format!("{client_nonce}{}", self.nonce);
        let Verifier { iterations, salt, .. } = &self.verifier;
        let server_first = format!("r={nonce},s={},i={iterations}", STANDARD.encode(salt));
        let step = Step::Continue(server_first.clone().into_bytes());
        self.state = State::Final { first_bare: bare.to_owned(), binding, server_first, nonce };
        Ok(step)
    }

    fn verify(&self, auth: &[&[u8]], proof: [u8; 32]) -> Step {
        let mut client_key = hmac(&self.verifier.stored_key, auth);
        client_key.iter_mut().zip(proof).for_each(|(to, from)| *to ^= from);
        let stored_key: [u8; 32] = Sha256::digest(client_key).into();
        let right: bool = stored_key.ct_eq(&self.verifier.stored_key).into();
        if !right || self.verifier.is_nobodys {
            return Step::Failure;
        }
        let signature = hmac(&self.verifier.server_key, auth);
        Step::Success(format!("v={}", STANDARD.encode(signature)).into_bytes())
    }
}

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(key) else {
        debug_assert!(false, "HMAC takes keys of any length");
        return [0; 32];
    };
    for part in parts {
        hmac.update(part);
    }
    hmac.finalize().into_bytes().into()
}

/// The mechanism's name, a length, and as many bytes: whether it is the bound one, and those.
fn initial_response(body: &[u8], may_bind: bool) -> Result<(bool, &str), Refusal> {
    let mut reader = crate::reader::Reader::new(body);
    let mechanism = reader.c_string();
    let is_bound = may_bind && mechanism == Some(MECHANISM_PLUS.as_bytes());
    if !is_bound && mechanism != Some(MECHANISM.as_bytes()) {
        return Err(violation("client selected an invalid SASL authentication mechanism"));
    }
    let len = reader.u32().and_then(|len| usize::try_from(len).ok());
    let message = len.and_then(|len| reader.take(len)).filter(|_| reader.is_empty());
    let message = as_text(message.ok_or_else(|| malformed("its length is wrong"))?)?;
    Ok((is_bound, message))
}

fn as_text(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes).map_err(|_| malformed("it isn't text"))
}

fn malformed(what: &str) -> Refusal {
    Refusal::fatal(SqlState::PROTOCOL_VIOLATION, "malformed SCRAM message").detail(what)
}

fn violation(message: &str) -> Refusal {
    Refusal::fatal(SqlState::PROTOCOL_VIOLATION, message)
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use proptest::prelude::*;

    use super::*;

    const NONCE: [u8; NONCE_LEN] = [7; NONCE_LEN];

    fn initial(message: &[u8]) -> Vec<u8> {
        let len = u32::try_from(message.len()).unwrap().to_be_bytes();
        [b"SCRAM-SHA-256\0", len.as_slice(), message].concat()
    }

    /// postgres-protocol's client against this server.
    fn exchange(password: &[u8], verifier: Verifier, binding: ChannelBinding) -> Step {
        let mut client = ScramSha256::new(password, binding);
        let mut server = Exchange::new(verifier, NONCE, None);
        let Step::Continue(challenge) = server.handle(&initial(client.message())).unwrap() else {
            panic!("no challenge")
        };
        client.update(&challenge).unwrap();
        let step = server.handle(client.message()).unwrap();
        if let Step::Success(proof) = &step {
            client.finish(proof).unwrap();
        }
        step
    }

    fn verifier() -> Verifier {
        Verifier::parse(&Verifier::text_of_password(b"right")).unwrap()
    }

    #[test]
    fn the_right_password_and_no_other() {
        let ok = |step| matches!(step, Step::Success(_));
        assert!(ok(exchange(b"right", verifier(), ChannelBinding::unsupported())));
        assert!(ok(exchange(b"right", verifier(), ChannelBinding::unrequested())));
        let wrong = exchange(b"wrong", verifier(), ChannelBinding::unsupported());
        assert_eq!(wrong, Step::Failure);
        assert_eq!(
            exchange(
                b"right",
                Verifier::of_nobody("u", b"secret", 4096),
                ChannelBinding::unsupported()
            ),
            Step::Failure
        );
    }

    #[test]
    fn within_tls_it_is_bound_to_the_certificate() {
        let check = |ours: &[u8], theirs: ChannelBinding, name: &str| {
            let mut client = ScramSha256::new(b"right", theirs);
            let end_point = Some(ours.to_vec());
            let mut server = Exchange::new(verifier(), NONCE, end_point);
            let first = client.message();
            let len = u32::try_from(first.len()).unwrap().to_be_bytes();
            let first = [name.as_bytes(), b"\0", &len, first].concat();
            let challenge = match server.handle(&first) {
                Ok(Step::Continue(challenge)) => challenge,
                Ok(other) => panic!("{other:?}"),
                Err(refusal) => return refusal.message,
            };
            client.update(&challenge).unwrap();
            match server.handle(client.message()) {
                Ok(step) => format!("{}", matches!(step, Step::Success(_))),
                Err(refusal) => refusal.message,
            }
        };
        let bound = |hash: &[u8]| ChannelBinding::tls_server_end_point(hash.to_vec());
        assert_eq!(check(b"hash", bound(b"hash"), MECHANISM_PLUS), "true");
        assert!(check(b"hash", bound(b"other"), MECHANISM_PLUS).contains("channel-binding"));
        assert_eq!(check(b"hash", ChannelBinding::unsupported(), MECHANISM), "true");
        let downgraded = check(b"hash", ChannelBinding::unrequested(), MECHANISM);
        assert!(downgraded.contains("negotiation error"), "{downgraded}");
        let unbound = check(b"hash", ChannelBinding::unsupported(), MECHANISM_PLUS);
        assert!(unbound.contains("malformed"), "{unbound}");
    }

    #[test]
    fn a_user_who_does_not_exist_always_has_the_same_salt() {
        let challenge = |user: &str, nonce| {
            let mut server =
                Exchange::new(Verifier::of_nobody(user, b"secret", 10_000), nonce, None);
            let Ok(Step::Continue(challenge)) = server.handle(&initial(b"n,,n=,r=abc")) else {
                panic!("no challenge")
            };
            let text = String::from_utf8(challenge).unwrap();
            text.split_once(",s=").unwrap().1.to_owned()
        };
        assert_eq!(challenge("a", NONCE), challenge("a", [8; NONCE_LEN]));
        assert_ne!(challenge("a", NONCE), challenge("b", NONCE));
        assert!(challenge("a", NONCE).ends_with(",i=10000"));
    }

    #[test]
    fn what_is_no_scram_is_refused() {
        let check = |bodies: &[&[u8]], expect: &str| {
            let mut server = Exchange::new(verifier(), NONCE, None);
            let mut steps: Vec<_> = bodies.iter().map(|body| server.handle(body)).collect();
            let refusal = steps.pop().unwrap().unwrap_err();
            let text = format!("{} {:?}", refusal.message, refusal.detail);
            assert!(refusal.is_fatal() && text.contains(expect), "{text}");
        };
        check(&[b"password\0"], "invalid SASL");
        check(&[b"SCRAM-SHA-256-PLUS\0"], "invalid SASL");
        check(&[b"SCRAM-SHA-256\0\xff\xff\xff\xff"], "length is wrong");
        check(&[&initial(b"p=tls-server-end-point,,n=,r=x")], "channel binding");
        check(&[&initial(b"n,a=x,n=,r=x")], "authorization identity");
        check(&[&initial(b"n,,r=x")], "a name and a nonce");
        check(&[&initial(b"n,,n=,r=")], "a name and a nonce");
        check(&[&initial(b"")], "channel-binding flag");
        let first = initial(b"n,,n=,r=abc");
        let check_last = |last: &[u8], expect: &str| check(&[&first, last], expect);
        check_last(b"c=biws,r=abc", "no proof");
        check_last(b"c=eSws,r=abc,p=x", "channel-binding attribute");
        check_last(b"c=biws,r=abc,p=x", "nonce mismatch");
        check_last(b"\xff", "isn't text");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(
            first in prop::collection::vec(any::<u8>(), 0..60),
            second in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut server = Exchange::new(verifier(), NONCE, None);
            let _ = server.handle(&initial(&first));
            prop_assert!(!matches!(server.handle(&second), Ok(Step::Success(_))));
        }
    }
}
