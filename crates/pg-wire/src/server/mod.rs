//! The server's side of the protocol: what a client sends, read as a server reads it, and what it
//! is answered.
//!
//! [`frame`] cuts a client's bytes into messages and holds each against a cap before any of it is
//! waited for; [`startup`] reads the first packet; [`scram`] lets a client prove its password
//! against a [`Verifier`]; [`grammar`] reads the replication commands; [`response`] writes answers.
//!
//! Only what a physical replication client needs is understood, and everything else has the real
//! server's refusal. Never here: a socket, a clock, randomness, a password.

pub mod frame;
pub mod grammar;
pub mod response;
pub mod scram;
pub mod startup;
pub mod users;

mod verifier;

use subtle::ConstantTimeEq;

pub use verifier::{Verifier, VerifierError};

/// Whether two secrets are the same, in a time that tells nothing of where they differ.
#[must_use]
pub fn same_secret(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}
