//! Why there is no TLS.

use std::io;
use std::path::PathBuf;

use super::certificate::Flaw;

/// TLS can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The processor is too old.
    #[error(
        "TLS can't be used on this processor, which lacks {lacks}: run seawall on one that has \
         them (x86-64 from about 2015 on), or connect with sslmode=disable over a network that \
         is secure otherwise"
    )]
    Processor {
        /// The instructions that it hasn't got.
        lacks: String,
    },
    /// No authority is known, and one must be.
    #[error(
        "root certificate file {path:?} does not exist: either provide the file, use the system's \
         trusted roots with sslrootcert=system, or change sslmode to disable server certificate \
         verification"
    )]
    NoRootFile {
        /// Where one was looked for.
        path: PathBuf,
    },
    /// A file can't be read, or has nothing that can be used.
    #[error("{what} file {path:?} can't be used: {why}")]
    File {
        /// What it is for.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// There is a certificate, and no key for it.
    #[error("certificate present, but not private key file {path:?}")]
    NoKey {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Others can get at the key.
    #[error(
        "private key file {path:?} has group or world access (mode {mode:04o}); file must have \
         permissions u=rw (0600) or less if owned by the current user, or permissions u=rw,g=r \
         (0640) or less if owned by root"
    )]
    KeyAccess {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No host is named that a certificate could be for.
    #[error("host name must be specified for a verified SSL connection (sslmode=verify-full)")]
    NoHostName,
    /// The system's authorities can't be read.
    #[error("could not load system root certificates: {0}")]
    SystemRoots(String),
    /// The server's certificate won't do.
    #[error("certificate verify failed: {0}")]
    Certificate(Flaw),
    /// The other side doesn't keep to TLS, or refuses.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
    /// The connection broke.
    #[error("the connection broke in the TLS handshake: {0}")]
    Broken(io::Error),
}
