//! What rustls asks about the other side's certificate: whether OpenSSL would take it, as libpq and the
//! server have it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use pg_wire::settings::{Server, SslMode, TlsSettings};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_cert::der::Encode;

use super::certificate::{Certificate, Flaw, Purpose};
use super::chain::{self, Trust};
use super::crl::Crls;
use super::{TlsError, files, name};

/// Most certificates that the other side may send.
const MAX_SENT: usize = 32;

/// Who is trusted, and whom those took back.
#[derive(Debug)]
pub(super) struct Authorities {
    roots: Vec<Certificate>,
    crls: Option<Crls>,
    /// The roots' names, for clients that have several certificates.
    names: Vec<DistinguishedName>,
}

impl Authorities {
    fn new(roots: Vec<Certificate>, crls: Option<Crls>) -> Self {
        let names = roots.iter().filter_map(|root| root.subject().to_der().ok());
        let names = names.map(DistinguishedName::from).collect();
        Self { roots, crls, names }
    }

    /// Those of clients' certificates (`ssl_ca_file`, `ssl_crl_file`).
    pub(super) fn of_clients(roots: &Path, crl: Option<&Path>) -> Result<Self, TlsError> {
        Ok(Self::new(files::authorities(roots)?, crl.map(files::crls_of).transpose()?))
    }

    /// Those of servers' certificates; `None` where nothing is verified.
    fn of_servers(settings: &TlsSettings) -> Result<Option<Self>, TlsError> {
        let Some(roots) = files::roots(settings)? else { return Ok(None) };
        Ok(Some(Self::new(roots, files::crls(settings)?)))
    }
}

/// Verifies in one handshake.
#[derive(Debug)]
pub(super) struct Verifier {
    purpose: Purpose,
    authorities: Option<Arc<Authorities>>,
    /// The name that must be in the certificate.
    host: Option<String>,
    algorithms: WebPkiSupportedAlgorithms,
    /// What was wrong with the certificate; rustls has no room for it.
    flaw: Mutex<Option<Flaw>>,
}

impl Verifier {
    /// Of a server, as the settings want it.
    pub(super) fn of_server(
        settings: &TlsSettings,
        server: &Server,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let authorities = Authorities::of_servers(settings)?.map(Arc::new);
        let host = match settings.mode {
            SslMode::VerifyFull => Some(server.name().ok_or(TlsError::NoHostName)?.to_owned()),
            _ => None,
        };
        Ok(Self { host, ..Self::new(Purpose::Server, authorities, provider) })
    }

    /// Of a client; whether it has to show a certificate is decided where users log in.
    pub(super) fn of_client(authorities: Arc<Authorities>, provider: &CryptoProvider) -> Self {
        Self::new(Purpose::Client, Some(authorities), provider)
    }

    fn new(
        purpose: Purpose,
        authorities: Option<Arc<Authorities>>,
        provider: &CryptoProvider,
    ) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { purpose, authorities, host: None, algorithms, flaw: Mutex::new(None) }
    }

    /// What was wrong with the certificate, if that was what ended the handshake.
    pub(super) fn take_flaw(&self) -> Option<Flaw> {
        self.flaw.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn verify(&self, leaf: &[u8], sent: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        self.look(leaf, sent, now).map_err(|flaw| {
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

    fn look(&self, leaf: &[u8], sent: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Flaw> {
        let leaf = Certificate::parse(leaf)?;
        if let Some(Authorities { roots, crls, .. }) = self.authorities.as_deref() {
            // What can't be read can't be part of a chain.
            let sent = sent.iter().take(MAX_SENT).filter_map(|der| Certificate::parse(der).ok());
            let sent: Vec<Certificate> = sent.collect();
            let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
            let (crls, purpose) = (crls.as_ref(), self.purpose);
            let trust = Trust { roots, crls, algorithms: &self.algorithms, now, purpose };
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

    fn verify_tls13(
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
        self.verify(leaf, sent, now).map(|()| ServerCertVerified::assertion())
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
        self.verify_tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authorities.as_deref().map_or(&[], |authorities| &authorities.names)
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, sent, now).map(|()| ClientCertVerified::assertion())
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
        self.verify_tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
