//! What rustls asks about a client's certificate: whether OpenSSL would take it, as the server's own
//! `ssl_ca_file` and `ssl_crl_file` have it.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_cert::der::Encode;

use super::certificate::{Certificate, Flaw, Purpose};
use super::crl::Crls;
use super::signatures::{Signatures, alert};
use super::{TlsError, files};

/// Verifies clients' certificates; whether one is a must is decided where users log in.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    roots: Vec<Certificate>,
    /// Their names, for clients that have several certificates.
    names: Vec<DistinguishedName>,
    crls: Option<Crls>,
    signatures: Signatures,
    /// What is wrong with the certificate that was looked at last, for people.
    flaw: Mutex<Option<Flaw>>,
}

impl ClientVerifier {
    /// Reads the files.
    pub(super) fn new(
        authorities: &Path,
        crl: Option<&Path>,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let roots = files::authorities(authorities)?;
        let names = roots.iter().filter_map(|root| root.subject().to_der().ok());
        let names = names.map(DistinguishedName::from).collect();
        let crls = crl.map(files::crls_of).transpose()?;
        let signatures = Signatures::of(provider);
        Ok(Self { roots, names, crls, signatures, flaw: Mutex::new(None) })
    }

    /// What was wrong with a certificate.
    pub(super) fn take_flaw(&self) -> Option<Flaw> {
        self.flaw.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = Certificate::parse(leaf).and_then(|leaf| {
            let crls = self.crls.as_ref();
            let shown = (&leaf, sent, now);
            self.signatures.verify_chain(Purpose::Client, &self.roots, crls, shown)
        });
        verified.map(|()| ClientCertVerified::assertion()).map_err(|flaw| {
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
