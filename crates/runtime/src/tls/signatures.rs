//! What verifying takes on either side: chains, and who has the key of a certificate.

use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::certificate::{Certificate, Flaw, Purpose};
use super::chain::{self, Trust};
use super::crl::Crls;

/// Most certificates that the other side may send.
const MAX_SENT: usize = 32;

/// The algorithms of signatures that are accepted.
#[derive(Debug)]
pub(super) struct Signatures(WebPkiSupportedAlgorithms);

impl Signatures {
    pub(super) fn of(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms)
    }

    pub(super) fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }

    /// Verifies that a certificate leads to one of these authorities, by what was sent with it.
    pub(super) fn verify_chain(
        &self,
        purpose: Purpose,
        roots: &[Certificate],
        crls: Option<&Crls>,
        (leaf, sent, now): (&Certificate, &[CertificateDer<'_>], UnixTime),
    ) -> Result<(), Flaw> {
        // What can't be read can't be part of a chain.
        let sent = sent.iter().take(MAX_SENT).filter_map(|der| Certificate::parse(der).ok());
        let sent: Vec<Certificate> = sent.collect();
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let trust = Trust { roots, crls, algorithms: &self.0, now, purpose };
        chain::verify(&trust, leaf, &sent)
    }

    pub(super) fn verify_tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, certificate, signature, usize::MAX)
    }

    pub(super) fn verify_tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // PKCS #1 is for TLS 1.2 alone (RFC 8446, 4.2.3).
        match signature.scheme {
            SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512 => {
                Err(Error::InvalidCertificate(CertificateError::BadSignature))
            }
            _ => self.verify(message, certificate, signature, 1),
        }
    }

    /// Whether whoever sent the certificate has its key. TLS 1.2 has schemes that leave the curve
    /// open, and stand for several algorithms.
    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
        most_algorithms: usize,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::parse(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let mapping = self.0.mapping.iter();
        let algorithms = mapping.filter(|(scheme, _)| *scheme == signature.scheme);
        let algorithms =
            algorithms.flat_map(|(_, algorithms)| algorithms.iter().copied().take(most_algorithms));
        certificate
            .verify_by(algorithms, message, signature.signature())
            .map(|()| HandshakeSignatureValid::assertion())
            .ok_or(Error::InvalidCertificate(CertificateError::BadSignature))
    }
}

/// What the other side is told.
pub(super) fn alert(flaw: &Flaw) -> CertificateError {
    match flaw {
        Flaw::Expired => CertificateError::Expired,
        Flaw::Revoked => CertificateError::Revoked,
        Flaw::UnknownIssuer | Flaw::SelfSigned => CertificateError::UnknownIssuer,
        _ => CertificateError::ApplicationVerificationFailure,
    }
}
