//! From the other side's certificate to an authority that is trusted.
//!
//! As OpenSSL builds and checks a chain for libpq, and for the server: trusted issuers are looked for
//! before those that were sent, and it ends in a self-signed certificate that is trusted, which may be
//! the other side's own. Every certificate of it has to be valid now, the last one too.

use std::time::SystemTime;

use rustls::crypto::WebPkiSupportedAlgorithms;

use super::certificate::{Authority, Certificate, Flaw, Purpose};
use super::constraints;
use super::crl::Crls;

/// Longest chain: real ones have three or four.
const MAX_CHAIN: usize = 16;
/// Most signatures that are verified for one handshake: the other side chooses what it sends.
const MAX_SIGNATURES: u32 = 100;

/// What is trusted.
pub(super) struct Trust<'a> {
    pub(super) roots: &'a [Certificate],
    pub(super) crls: Option<&'a Crls>,
    pub(super) algorithms: &'a WebPkiSupportedAlgorithms,
    pub(super) now: SystemTime,
    /// What for.
    pub(super) purpose: Purpose,
}

/// Finds a chain from `leaf`, and checks it; `sent` is what came with it.
pub(super) fn verify(
    trust: &Trust<'_>,
    leaf: &Certificate,
    sent: &[Certificate],
) -> Result<(), Flaw> {
    let mut search = Search { trust, sent, signatures: 0, flaw: None };
    let mut path = vec![leaf];
    if search.extend(&mut path) {
        return Ok(());
    }
    Err(search.flaw.unwrap_or(match leaf.is_self_signed() {
        true => Flaw::SelfSigned,
        false => Flaw::UnknownIssuer,
    }))
}

struct Search<'a, 't> {
    trust: &'t Trust<'t>,
    sent: &'a [Certificate],
    signatures: u32,
    /// What was wrong with the first chain that got so far as to be wrong.
    flaw: Option<Flaw>,
}

impl<'a, 't: 'a> Search<'a, 't> {
    /// Goes on from the end of a path; `true` when it has come to a chain that holds.
    fn extend(&mut self, path: &mut Vec<&'a Certificate>) -> bool {
        let Some(last) = path.last().copied() else { return false };
        let roots = &self.trust.roots;
        if last.is_self_signed() {
            if !roots.iter().any(|root| root.der() == last.der()) {
                return false;
            }
            let checked = check(self.trust, path);
            return self.note(checked);
        }
        if path.len() >= MAX_CHAIN {
            return false;
        }
        for issuer in roots.iter().chain(self.sent) {
            let is_in_path = path.iter().any(|other| other.der() == issuer.der());
            if is_in_path || !last.may_be_issued_by(issuer) {
                continue;
            }
            self.signatures += 1;
            if self.signatures > MAX_SIGNATURES {
                return false;
            }
            let signed = last.is_signed_by(issuer, self.trust.algorithms);
            if !self.note(signed) {
                continue;
            }
            path.push(issuer);
            if self.extend(path) {
                return true;
            }
            path.pop();
        }
        false
    }

    fn note(&mut self, result: Result<(), Flaw>) -> bool {
        match result {
            Ok(()) => true,
            Err(flaw) => {
                self.flaw.get_or_insert(flaw);
                false
            }
        }
    }
}

/// Checks a whole chain (`check_chain` and what follows it, crypto/x509/x509_vfy.c).
fn check(trust: &Trust<'_>, path: &[&Certificate]) -> Result<(), Flaw> {
    // Authorities between this one and the leaf that don't just replace each other.
    let mut below = 0;
    for (depth, certificate) in path.iter().enumerate() {
        certificate.check_critical()?;
        let (is_leaf, is_last) = (depth == 0, depth + 1 == path.len());
        if !is_leaf {
            match certificate.authority() {
                Authority::Stated => {}
                Authority::Tolerated if is_last => {}
                Authority::Tolerated | Authority::None => return Err(Flaw::NotAnAuthority),
            }
        }
        if !certificate.serves(trust.purpose, is_leaf) {
            return Err(Flaw::Purpose);
        }
        if depth > 1 && certificate.path_len().is_some_and(|most| below > most) {
            return Err(Flaw::PathTooLong);
        }
        if !is_leaf && !certificate.is_self_issued() {
            below += 1;
        }
    }
    constraints::check(path)?;
    if let Some(crls) = trust.crls {
        for (depth, certificate) in path.iter().enumerate() {
            // The last one vouches for itself.
            let issuer = path.get(depth + 1).unwrap_or(certificate);
            crls.check(certificate, issuer, trust)?;
        }
    }
    path.iter().try_for_each(|certificate| certificate.check_time(trust.now))
}
