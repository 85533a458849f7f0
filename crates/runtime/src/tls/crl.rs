//! Certificates that their authorities took back.
//!
//! As libpq sets OpenSSL up: once a list is loaded, every certificate of a chain needs one of its
//! issuer, in force, or isn't accepted.

use std::time::{Duration, UNIX_EPOCH};

use x509_cert::certificate::Raw;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;

use super::certificate::{Certificate, Flaw, first_element};
use super::chain::Trust;

/// CRL number and authority key identifier: nothing else that is critical is understood.
const KNOWN: [ObjectIdentifier; 2] =
    [ObjectIdentifier::new_unwrap("2.5.29.20"), ObjectIdentifier::new_unwrap("2.5.29.35")];

/// The lists in use.
#[derive(Debug, Default)]
pub(super) struct Crls {
    lists: Vec<Crl>,
}

#[derive(Debug)]
struct Crl {
    signed: Vec<u8>,
    list: CertificateList<Raw>,
}

impl Crls {
    /// Adds a list.
    pub(super) fn add(&mut self, der: &[u8]) -> Result<(), Flaw> {
        let list = CertificateList::<Raw>::from_der(der).map_err(Flaw::malformed)?;
        let signed = der.get(first_element(der)?).unwrap_or_default().to_vec();
        self.lists.push(Crl { signed, list });
        Ok(())
    }

    /// Whether `certificate` isn't revoked by `issuer`, whose list has to say so.
    pub(super) fn check(
        &self,
        certificate: &Certificate,
        issuer: &Certificate,
        trust: &Trust<'_>,
    ) -> Result<(), Flaw> {
        let of_issuer = |crl: &&Crl| crl.list.tbs_cert_list.issuer == *issuer.subject();
        let mut verdict = Err(Flaw::NoCrl);
        for crl in self.lists.iter().filter(of_issuer) {
            match crl.check(certificate, issuer, trust) {
                Err(Flaw::Revoked) => return Err(Flaw::Revoked),
                Ok(()) => verdict = Ok(()),
                Err(flaw) if verdict.is_err() => verdict = Err(flaw),
                Err(_) => {}
            }
        }
        verdict
    }
}

impl Crl {
    fn check(
        &self,
        certificate: &Certificate,
        issuer: &Certificate,
        trust: &Trust<'_>,
    ) -> Result<(), Flaw> {
        let list = &self.list.tbs_cert_list;
        let extensions = list.crl_extensions.iter().flatten();
        let understood = extensions
            .clone()
            .all(|extension| KNOWN.contains(&extension.extn_id) || !extension.critical);
        if !understood || !issuer.may_sign_crls() {
            return Err(Flaw::CrlInvalid);
        }
        let (algorithm, signature) = (&self.list.signature_algorithm, &self.list.signature);
        issuer
            .verify(algorithm, &self.signed, signature, trust.algorithms)
            .map_err(|_| Flaw::CrlInvalid)?;
        let now = trust.now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let is_over = list.next_update.is_some_and(|next| now >= next.to_unix_duration());
        if now < list.this_update.to_unix_duration() || is_over {
            return Err(Flaw::CrlExpired);
        }
        let mut revoked = list.revoked_certificates.iter().flatten();
        if revoked.any(|revoked| revoked.serial_number.as_bytes() == certificate.serial()) {
            return Err(Flaw::Revoked);
        }
        Ok(())
    }
}
