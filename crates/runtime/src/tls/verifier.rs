//! What rustls asks about the server's certificate.

use std::sync::{Mutex, PoisonError};

use pg_wire::settings::{Server, SslMode, TlsSettings};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::certificate::{Certificate, Flaw, Purpose};
use super::crl::Crls;
use super::signatures::{Signatures, alert};
use super::{TlsError, files, name};

/// Verifies as the settings want it.
#[derive(Debug)]
pub(super) struct Verifier {
    /// The authorities; none where nothing is verified.
    roots: Option<Vec<Certificate>>,
    crls: Option<Crls>,
    /// The name that must be in the certificate.
    host: Option<String>,
    signatures: Signatures,
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
        let signatures = Signatures::of(provider);
        Ok(Self { roots, crls, host, signatures, flaw: Mutex::new(None) })
    }

    /// What was wrong with the certificate, if that was what ended the handshake.
    pub(super) fn take_flaw(&self) -> Option<Flaw> {
        self.flaw.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn verify(&self, leaf: &[u8], sent: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Flaw> {
        let leaf = Certificate::parse(leaf)?;
        if let Some(roots) = &self.roots {
            let crls = self.crls.as_ref();
            self.signatures.verify_chain(Purpose::Server, roots, crls, (&leaf, sent, now))?;
        }
        match &self.host {
            Some(host) => name::check(&leaf, host),
            None => Ok(()),
        }
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
            let alert = alert(&flaw);
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
        self.signatures.verify_tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes()
    }
}
