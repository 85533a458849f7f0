//! Our side of TLS as a server: one certificate, and the clients' ones where an authority is named.

use std::path::PathBuf;
use std::sync::Arc;

use pg_wire::startup::ALPN;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};

use super::certificate::Certificate;
use super::verifier::{Authorities, Verifier};
use super::{TlsError, TlsStream, cpu, end_point, files, name};
use crate::serve::TlsFiles;
use crate::stream::Stream;

/// What handshakes need.
pub(crate) struct ServerTls {
    provider: Arc<CryptoProvider>,
    certified: Arc<SingleCertAndKey>,
    end_point: Option<Vec<u8>>,
    /// Whose certificates clients may show.
    authorities: Option<Arc<Authorities>>,
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
        let read = |roots: &PathBuf| Authorities::of_clients(roots, of.revoked.as_deref());
        let authorities = of.authorities.as_ref().map(read).transpose()?.map(Arc::new);
        let certified = Arc::new(SingleCertAndKey::from(certified));
        Ok(Self { provider, certified, end_point, authorities })
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
        // One for each handshake, as it tells what was wrong in it.
        let of_client = |of: &Arc<Authorities>| Verifier::of_client(Arc::clone(of), &self.provider);
        let verifier = self.authorities.as_ref().map(of_client).map(Arc::new);
        let accepted = TlsStream::accept(stream, self.config(verifier.as_ref())?, received).await;
        let flaw = || verifier.as_ref().and_then(|verifier| verifier.take_flaw());
        let stream = accepted.map_err(|error| flaw().map_or(error, TlsError::Certificate))?;
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

    fn config(&self, verifier: Option<&Arc<Verifier>>) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| TlsError::Handshake(error.to_string()))?;
        let builder = match verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier) as _),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&self.certified) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}
