//! One of the servers that settings name: where it listens.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::{DEFAULT_PORT, DEFAULT_SOCKET_DIRS, Origin, SettingsError, values::Values};
use crate::Secret;

/// Most servers that a string may name: each may cost a `connect_timeout`.
const MAX_SERVERS: usize = 64;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// On TCP.
    Tcp {
        /// A name or an address.
        host: String,
    },
    /// On a Unix socket.
    Unix {
        /// The directory in which the socket is.
        dir: PathBuf,
    },
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub host: Host,
    /// Whether somebody named the host; else it is known by its address or default alone.
    pub named: bool,
    /// The address to connect to; no name is resolved then.
    pub hostaddr: Option<IpAddr>,
    /// The port, in the socket's name too.
    pub port: u16,
    /// What a password file has for it.
    pub password: Option<Secret>,
}

impl Server {
    /// The socket's path, where the server listens on one.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.host {
            Host::Unix { dir } => Some(dir.join(format!(".s.PGSQL.{}", self.port))),
            Host::Tcp { .. } => None,
        }
    }

    /// The name that its certificate must have, if it was called by one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Tcp { host } if self.named => Some(host),
            _ => None,
        }
    }

    /// Splits `host`, `hostaddr` and `port` at their commas, as libpq does: one port is for all.
    pub(super) fn list(
        values: &Values,
        socket_dirs: &[PathBuf],
    ) -> Result<Vec<Self>, SettingsError> {
        let split = |name: &str| -> Option<(Vec<String>, Origin)> {
            let (text, origin) = values.get(name).filter(|(text, _)| !text.is_empty())?;
            Some((text.split(',').map(str::to_owned).collect(), origin))
        };
        let (hosts, addresses, ports) = (split("host"), split("hostaddr"), split("port"));
        let len = |list: &Option<(Vec<String>, Origin)>| list.as_ref().map(|(list, _)| list.len());
        let count = len(&addresses).or(len(&hosts)).unwrap_or(1);
        if count > MAX_SERVERS {
            return Err(SettingsError::Conflict(format!(
                "{count} servers are named, and at most {MAX_SERVERS} are tried"
            )));
        }
        if let Some(given) = len(&hosts).filter(|given| *given != count) {
            let (what, against) = ("host names", "hostaddr values");
            return Err(SettingsError::Count { given, what, hosts: count, against });
        }
        if let Some(given) = len(&ports).filter(|given| *given != count && *given != 1) {
            let (what, against) = ("port numbers", "hosts");
            return Err(SettingsError::Count { given, what, hosts: count, against });
        }
        let item = |list: &Option<(Vec<String>, Origin)>, at: usize| {
            let (list, origin) = list.as_ref()?;
            let text = if list.len() == 1 { list.first()? } else { list.get(at)? };
            Some((text.clone(), *origin)).filter(|(text, _)| !text.is_empty())
        };
        let server = |at| -> Result<Self, SettingsError> {
            let (hostaddr, host) = (address(item(&addresses, at))?, item(&hosts, at));
            let named = host.is_some();
            let host = place(host, hostaddr, socket_dirs)?;
            let port = port(item(&ports, at))?;
            Ok(Self { host, named, hostaddr, port, password: None })
        };
        (0..count).map(server).collect()
    }
}

impl fmt::Display for Server {
    /// For people: `db:5432`, or the socket's path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.socket_path()) {
            (_, Some(path)) => write!(f, "{}", path.display()),
            (Host::Tcp { host }, None) if host.contains(':') => {
                write!(f, "[{host}]:{}", self.port)
            }
            (Host::Tcp { host }, None) => write!(f, "{host}:{}", self.port),
            (Host::Unix { dir }, None) => write!(f, "{}", dir.display()),
        }
    }
}

/// Servers for people: each, between commas.
pub struct Endpoint<'a>(pub(super) &'a [Server]);

impl fmt::Display for Endpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, server) in self.0.iter().enumerate() {
            write!(f, "{}{server}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

fn address(given: Option<(String, Origin)>) -> Result<Option<IpAddr>, SettingsError> {
    let Some((text, origin)) = given else { return Ok(None) };
    text.parse().map(Some).map_err(|_| SettingsError::InvalidValue {
        option: "hostaddr",
        shown: String::new(),
        origin,
        expected: "a numeric IPv4 or IPv6 address",
    })
}

fn place(
    given: Option<(String, Origin)>,
    hostaddr: Option<IpAddr>,
    socket_dirs: &[PathBuf],
) -> Result<Host, SettingsError> {
    Ok(match (given, hostaddr) {
        (None, Some(address)) => Host::Tcp { host: address.to_string() },
        // An address is what is connected to, whatever the host looks like.
        (Some((dir, _)), None) if dir.starts_with('/') => Host::Unix { dir: dir.into() },
        (Some((name, origin)), None) if name.starts_with('@') => {
            return Err(SettingsError::Refused {
                option: "an abstract Unix socket (a host that begins with @)".to_owned(),
                origin,
                reason: "only sockets in directories are supported",
            });
        }
        (Some((host, _)), _) => Host::Tcp { host },
        (None, None) => {
            let [.., upstream] = DEFAULT_SOCKET_DIRS;
            let dir = socket_dirs.first().cloned().unwrap_or_else(|| upstream.into());
            Host::Unix { dir }
        }
    })
}

fn port(given: Option<(String, Origin)>) -> Result<u16, SettingsError> {
    let Some((text, origin)) = given else { return Ok(DEFAULT_PORT) };
    // Not shown: in a URI whose password has a bare slash, this is a piece of it.
    let port = text.trim().parse().ok().filter(|port| *port != 0);
    port.ok_or(SettingsError::InvalidValue {
        option: "port",
        shown: String::new(),
        origin,
        expected: "a number from 1 to 65535 (in a URI, / and @ in a password are %2F and %40)",
    })
}
