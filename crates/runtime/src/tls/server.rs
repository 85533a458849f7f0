//! Our side of TLS as a server: one certificate, and the clients' ones where an authority is named.
//!
//! Clients' certificates are verified by webpki, which is stricter than OpenSSL: it takes no version
//! 1 and no unknown critical extension.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pg_wire::startup::ALPN;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};

use super::certificate::Certificate;
use super::{TlsError, TlsStream, cpu, end_point, files, name};
use crate::stream::Stream;

/// What handshakes need.
pub(crate) struct ServerTls {
    config: Arc<ServerConfig>,
    end_point: Option<Vec<u8>>,
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
    pub(crate) fn new(
        certificate: &Path,
        key: &Path,
        authorities: Option<&PathBuf>,
    ) -> Result<Self, TlsError> {
        cpu::check()?;
        let provider = Arc::new(rustls_graviola::default_provider());
        let certified = files::certified(certificate, key, None, &provider)?;
        let end_point = certified.cert.first().and_then(|leaf| end_point::hash(leaf));
        let handshake = |error: &dyn std::fmt::Display| TlsError::Handshake(error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| handshake(&error))?;
        let builder = match authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(files::authorities(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                // Whether one is a must is decided where users log in.
                let verifier = verifier.allow_unauthenticated().build();
                builder.with_client_cert_verifier(verifier.map_err(|error| handshake(&error))?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), end_point })
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
        let stream = TlsStream::accept(stream, Arc::clone(&self.config), received).await?;
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
