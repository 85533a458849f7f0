//! Where clients come from: TCP and Unix sockets.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::str::FromStr;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, UnixListener};

use crate::stream::Stream;

/// PostgreSQL's port.
const DEFAULT_PORT: u16 = 5432;
/// A client that went away without a word is noticed within some minutes, whatever it was doing.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(60);

/// What may be on its way to a client on this machine: more leaves the processor's cache before it is
/// read, and is seldom filled, so that the client sleeps and is woken for each piece (`bench serve`).
/// For others the kernel finds out by itself how much the way takes.
const NEAR_BUFFER: usize = 256 << 10;

/// An address to listen on: `HOST:PORT`, or `DIRECTORY:PORT` for a Unix socket there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// TCP.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket under the name that clients look for.
    Unix {
        /// Its directory.
        dir: PathBuf,
        /// The port, which is part of its name.
        port: u16,
    },
}

/// It is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT, as in 0.0.0.0:5433 or [::1]:5433, or a socket's DIRECTORY:PORT")]
pub struct InvalidListen;

impl FromStr for Listen {
    type Err = InvalidListen;

    fn from_str(text: &str) -> Result<Self, InvalidListen> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains([']', '/']) => {
                (host, port.parse().map_err(|_| InvalidListen)?)
            }
            _ => (text, DEFAULT_PORT),
        };
        if host.starts_with('/') {
            return Ok(Self::Unix { dir: host.into(), port });
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // An address of IPv6 without brackets can't be told from one with a port.
        if host.is_empty() || bare.is_none() && host.contains([':', '[', ']']) {
            return Err(InvalidListen);
        }
        Ok(Self::Tcp { host: bare.unwrap_or(host).to_owned(), port })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { .. } => write!(f, "{}", self.socket().display()),
        }
    }
}

impl Listen {
    /// Whether it can be reached from this machine alone.
    #[must_use]
    pub fn is_here(&self) -> bool {
        match self {
            Self::Unix { .. } => true,
            Self::Tcp { host, .. } => {
                let address = host.parse().map(|address: IpAddr| address.is_loopback());
                address.unwrap_or(host == "localhost")
            }
        }
    }

    /// A Unix socket's path, as clients know it.
    fn socket(&self) -> PathBuf {
        match self {
            Self::Unix { dir, port } => dir.join(format!(".s.PGSQL.{port}")),
            Self::Tcp { .. } => PathBuf::new(),
        }
    }

    pub(super) fn bind_tcp(&self) -> io::Result<std::net::TcpListener> {
        match self {
            Self::Tcp { host, port } => std::net::TcpListener::bind((host.as_str(), *port)),
            Self::Unix { .. } => Err(ErrorKind::InvalidInput.into()),
        }
    }

    /// A socket that nobody answers on is a dead process's.
    pub(super) fn bind_unix(&self) -> io::Result<UnixSocket> {
        let path = self.socket();
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(ErrorKind::AddrInUse.into());
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(&path)?;
        // Whoever may connect is let in: nobody but the owner may.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(UnixSocket { listener, path })
    }
}

/// A Unix socket; its name goes with it.
pub(super) struct UnixSocket {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    pub(super) fn listener(&self) -> io::Result<Listener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(Listener::Unix(UnixListener::from_std(listener)?))
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.path);
    }
}

pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A new connection.
pub(super) struct Accepted {
    pub(super) stream: Stream,
    /// Where it comes from, for people.
    pub(super) address: String,
    /// Whether only the socket's owner can have made it.
    pub(super) is_local: bool,
}

impl Listener {
    pub(super) fn tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        TcpListener::from_std(listener).map(Self::Tcp)
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                if address.ip().to_canonical().is_loopback() {
                    SockRef::from(&stream).set_send_buffer_size(NEAR_BUFFER)?;
                }
                let (stream, is_local) = (Stream::Tcp(stream), false);
                Ok(Accepted { stream, address: address.to_string(), is_local })
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                // Whoever slipped in before the socket's mode was set isn't let in for being here.
                let peer = stream.peer_cred()?.uid();
                let is_local = peer == rustix::process::geteuid().as_raw() || peer == 0;
                let stream = Stream::Unix(stream);
                Ok(Accepted { stream, address: "[local]".to_owned(), is_local })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |text: &str, expect: &str| {
            let shown = Listen::from_str(text).map(|listen| listen.to_string());
            assert_eq!(shown.as_deref().unwrap_or("none"), expect, "{text}");
        };
        check("0.0.0.0:5433", "0.0.0.0:5433");
        check("localhost", "localhost:5432");
        check("[::1]:5433", "[::1]:5433");
        check("[::1]", "[::1]:5432");
        check("/run/seawall:5433", "/run/seawall/.s.PGSQL.5433");
        check("/run/seawall", "/run/seawall/.s.PGSQL.5432");
        for wrong in ["", ":5433", "::1", "db:x", "db:99999", "[::1:5"] {
            check(wrong, "none");
        }
    }
}
