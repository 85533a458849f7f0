//! TLS as libpq does it: which certificates are trusted and which are shown, from the same files
//! with the same rules, on rustls.
//!
//! A server that verifies with libpq verifies here, and one that doesn't is refused here, with the
//! few exceptions that docs/CONNECTING.md lists. Files are read at each connection, so that a
//! renewed certificate counts from the next one on. Never does: trust a certificate because a file
//! that was named can't be read.

mod certificate;
mod chain;
mod constraints;
mod cpu;
mod crl;
mod end_point;
mod error;
mod files;
mod name;
mod server;
mod stream;
mod verifier;

#[cfg(test)]
mod tests;

pub use error::TlsError;
pub(crate) use server::ServerTls;
pub(crate) use stream::TlsStream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pg_wire::settings::{CertMode, Server, TlsSettings, TlsVersion};
use pg_wire::startup::{ALPN, Channel};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SignatureScheme, SupportedProtocolVersion};

use self::verifier::Verifier;

/// Everything that one handshake needs.
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    verifier: Arc<Verifier>,
    shown: Arc<ShownCertificate>,
}

impl Client {
    /// Reads the files, and makes ready for a handshake with this server.
    ///
    /// # Errors
    /// A file that can't be used, or a processor that can't do it.
    pub(crate) fn new(settings: &TlsSettings, server: &Server) -> Result<Self, TlsError> {
        cpu::check()?;
        let provider = Arc::new(rustls_graviola::default_provider());
        let verifier = Arc::new(Verifier::of_server(settings, server, &provider)?);
        let shown = Arc::new(ShownCertificate::new(settings, &provider)?);
        let dangerous = |error: rustls::Error| TlsError::Handshake(error.to_string());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(settings))
            .map_err(dangerous)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_client_cert_resolver(Arc::clone(&shown) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        let name = sent_name(settings, server);
        config.enable_sni = name.is_some();
        // The name is for the server alone; the verifier knows what to look for.
        let name = name.unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()));
        Ok(Self { config: Arc::new(config), name, verifier, shown })
    }

    /// What SCRAM and `sslcertmode` have to know of the connection.
    fn channel(&self, certificate: &[u8]) -> Channel {
        Channel::Tls {
            end_point: end_point::hash(certificate),
            certificate_requested: self.shown.requested.load(Ordering::Relaxed),
            certificate_sent: self.shown.sent.load(Ordering::Relaxed),
        }
    }
}

fn versions(settings: &TlsSettings) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(TlsVersion::V1_3, &TLS13), (TlsVersion::V1_2, &TLS12)];
    let newest = settings.max_version.unwrap_or(TlsVersion::V1_3);
    let wanted = |version: &TlsVersion| (settings.min_version..=newest).contains(version);
    all.into_iter().filter(|(version, _)| wanted(version)).map(|(_, it)| it).collect()
}

/// The name to tell the server; as in libpq no address, and none that can't be one.
fn sent_name(settings: &TlsSettings, server: &Server) -> Option<ServerName<'static>> {
    let name = server.name().filter(|_| settings.sni)?;
    let is_address = name.contains(':') || name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if is_address {
        return None;
    }
    ServerName::try_from(name.to_owned()).ok()
}

/// The client's certificate, and what became of it.
#[derive(Debug)]
struct ShownCertificate {
    key: Option<Arc<CertifiedKey>>,
    requested: AtomicBool,
    sent: AtomicBool,
}

impl ShownCertificate {
    fn new(settings: &TlsSettings, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let key = match settings.cert_mode {
            CertMode::Disable => None,
            CertMode::Allow | CertMode::Require => files::client_certificate(settings, provider)?,
        };
        let (requested, sent) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { key: key.map(Arc::new), requested, sent })
    }
}

impl ResolvesClientCert for ShownCertificate {
    /// Whatever authorities the server names: whether it takes the certificate is for it to say.
    fn resolve(
        &self,
        _authorities: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.requested.store(true, Ordering::Relaxed);
        let key = self.key.as_ref().filter(|key| key.key.choose_scheme(schemes).is_some())?;
        self.sent.store(true, Ordering::Relaxed);
        Some(Arc::clone(key))
    }

    fn has_certs(&self) -> bool {
        // Always asked, so that it is known whether the server did.
        true
    }
}
