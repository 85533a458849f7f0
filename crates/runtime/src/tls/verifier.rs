//! What rustls asks about the server's certificate.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use pg_wire::settings::{Server, SslMode, TlsSettings};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::certificate::{Certificate, Flaw};
use super::chain::{self, Trust};
use super::crl::Crls;
use super::{TlsError, files, name};

/// Most certificates that a server may send.
const MAX_SENT: usize = 32;

/// Verifies as the settings want it.
#[derive(Debug)]
pub(super) struct Verifier {
    /// The authorities; none where nothing is verified.
    roots: Option<Vec<Certificate>>,
    crls: Option<Crls>,
    /// The name that must be in the certificate.
    host: Option<String>,
    algorithms: WebPkiSupportedAlgorithms,
    /// What was wrong with the certificate; rustls has no room for it.
    flaw: Mutex<Option<Flaw>>,
}

impl Verifier {
    pub(super) fn new(
        settings: &TlsSettings,
        server: &Server,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let roots = files::roots(settings)?;
        let crls = match roots {
            Some(_) => files::crls(settings)?,
            None => None,
        };
        let host = match settings.mode {
            SslMode::VerifyFull => Some(server.name().ok_or(TlsError::NoHostName)?.to_owned()),
            _ => None,
        };
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { roots, crls, host, algorithms, flaw: Mutex::new(None) })
    }

    /// What was wrong with the certificate, if that was what ended the handshake.
    pub(super) fn take_flaw(&self) -> Option<Flaw> {
        self.flaw.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn verify(&self, leaf: &[u8], sent: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Flaw> {
        let leaf = Certificate::parse(leaf)?;
        if let Some(roots) = &self.roots {
            // What can't be read can't be part of a chain.
            let sent = sent.iter().take(MAX_SENT).filter_map(|der| Certificate::parse(der).ok());
            let sent: Vec<Certificate> = sent.collect();
            let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
            let crls = self.crls.as_ref();
            let trust = Trust { roots, crls, algorithms: &self.algorithms, now };
            chain::verify(&trust, &leaf, &sent)?;
        }
        match &self.host {
            Some(host) => name::check(&leaf, host),
            None => Ok(()),
        }
    }

    /// Whether whoever sent the certificate has its key. TLS 1.2 has schemes that leave the curve
    /// open, and stand for several algorithms.
    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
        most_algorithms: usize,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::parse(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let mapping = self.algorithms.mapping.iter();
        let algorithms = mapping.filter(|(scheme, _)| *scheme == signature.scheme);
        let algorithms =
            algorithms.flat_map(|(_, algorithms)| algorithms.iter().copied().take(most_algorithms));
        certificate
            .verify_by(algorithms, message, signature.signature())
            .map(|()| HandshakeSignatureValid::assertion())
            .ok_or(Error::InvalidCertificate(CertificateError::BadSignature))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, sent, now).map(|()| ServerCertVerified::assertion()).map_err(|flaw| {
            let alert = match flaw {
                Flaw::Expired => CertificateError::Expired,
                Flaw::Revoked => CertificateError::Revoked,
                Flaw::UnknownIssuer | Flaw::SelfSigned => CertificateError::UnknownIssuer,
                _ => CertificateError::ApplicationVerificationFailure,
            };
            *self.flaw.lock().unwrap_or_else(PoisonError::into_inner) = Some(flaw);
            Error::InvalidCertificate(alert)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature, usize::MAX)
    }

    fn verify_tls13_signature(
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
            _ => self.verify_signature(message, certificate, signature, 1),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
