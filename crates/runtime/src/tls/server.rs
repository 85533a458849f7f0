//! Our side of TLS as a server: one certificate, and the clients' ones where an authority is named.

use std::path::PathBuf;
use std::sync::Arc;

use pg_wire::startup::ALPN;
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};

use super::certificate::Certificate;
use super::client_verifier::ClientVerifier;
use super::{TlsError, TlsStream, cpu, end_point, files, name};
use crate::serve::TlsFiles;
use crate::stream::Stream;

/// What handshakes need.
pub(crate) struct ServerTls {
    config: Arc<ServerConfig>,
    end_point: Option<Vec<u8>>,
    clients: Option<Arc<ClientVerifier>>,
}

/// What a handshake came to.
pub(crate) struct Secured {
    pub(crate) stream: TlsStream,
    /// The hash of our certificate, which SCRAM is bound to.
    pub(crate) end_point: Option<Vec<u8>>,
    /// Whether the client named the protocol that it wants to speak.
    pub(crate) has_alpn: bool,
    /// The common name in the client's certificate, which was verified.
    pub(crate) common_name: Option<String>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that can't be used, or a processor that can't do it.
    pub(crate) fn new(of: &TlsFiles) -> Result<Self, TlsError> {
        cpu::check()?;
        let provider = Arc::new(rustls_graviola::default_provider());
        let certified = files::certified(&of.certificate, &of.key, None, &provider)?;
        let end_point = certified.cert.first().and_then(|leaf| end_point::hash(leaf));
        let handshake = |error: &dyn std::fmt::Display| TlsError::Handshake(error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| handshake(&error))?;
        let verifier = |path: &PathBuf| ClientVerifier::new(path, of.revoked.as_deref(), &provider);
        let clients = of.authorities.as_ref().map(verifier).transpose()?.map(Arc::new);
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients) as _),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), end_point, clients })
    }

    /// Does a handshake, of which `received` was read already.
    ///
    /// # Errors
    /// If it fails.
    pub(crate) async fn accept(
        &self,
        stream: Stream,
        received: Vec<u8>,
    ) -> Result<Secured, TlsError> {
        let accepted = TlsStream::accept(stream, Arc::clone(&self.config), received).await;
        let flaw = |error| match (&error, &self.clients) {
            (TlsError::Handshake(_), Some(clients)) => {
                clients.take_flaw().map_or(error, TlsError::Certificate)
            }
            _ => error,
        };
        let stream = accepted.map_err(flaw)?;
        let has_alpn = stream.has_alpn();
        let shown = stream.peer_certificate().map(Certificate::parse);
        let common_name = match shown {
            None => None,
            Some(certificate) => {
                let certificate = certificate.map_err(TlsError::Certificate)?;
                name::common_name(&certificate)
            }
        };
        Ok(Secured { stream, end_point: self.end_point.clone(), has_alpn, common_name })
    }
}
