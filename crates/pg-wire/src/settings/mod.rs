//! Where to connect to and as whom: flags over a connection string or URI over a service over the
//! environment over defaults, as libpq 18 resolves them.
//!
//! Every option that libpq knows is known; what can't be done is refused by name and never
//! ignored, and an unknown option is an error with the nearest known one. The environment, files,
//! the home directory and the user's name come in as values. No error shows a password, nor any
//! text in which a piece of one may have ended up.

mod conninfo;
mod error;
mod keywords;
mod require_auth;
mod server;
mod service;
mod session;
mod tls;
mod uri;
mod values;

#[cfg(test)]
mod tests;

pub use error::{Origin, SettingsError};
pub use require_auth::{AuthMethod, RequireAuth};
pub use server::{Endpoint, Host, Server};
pub use service::DEFAULT_SYSCONFDIR;
pub use session::{ChannelBinding, Fit, ProtocolRange, ProtocolVersion, TargetSession};
pub use tls::{CertMode, ConfigFile, RootCerts, SslMode, SslNegotiation, TlsSettings, TlsVersion};

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Secret;
use crate::pgpass::{self, Lookup, PassFileWarning, PassKey};
use values::Values;

/// Where servers put their Unix sockets unless told otherwise: Debian's packages, and upstream.
pub const DEFAULT_SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The port unless told otherwise (`DEF_PGPORT`).
pub const DEFAULT_PORT: u16 = 5432;

/// The database that a physical replication connection names, and its name in password files.
pub const REPLICATION_DATABASE: &str = "replication";

/// TCP keepalives; what is `None` is the system's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalives {
    /// Whether there are any.
    pub enabled: bool,
    /// How long a connection is idle before the first.
    pub idle: Option<Duration>,
    /// How long until the next.
    pub interval: Option<Duration>,
    /// How many may be lost.
    pub count: Option<u32>,
}

/// How to reach a server, or one of several. Made by [`ConnectionSettings::resolve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// The servers, in the order in which they are tried; at least one.
    pub servers: Vec<Server>,
    /// Whether to try them in random order.
    pub load_balance: bool,
    /// Which of them will do.
    pub target: TargetSession,
    /// Who connects.
    pub user: String,
    /// The database; physical replication has none and doesn't send it.
    pub dbname: Option<String>,
    /// The password, if one was given.
    pub password: Option<Secret>,
    /// The file to look in where no password was given.
    pub passfile: Option<PathBuf>,
    /// What the server shall call this client; `synchronous_standby_names` goes by it.
    pub application_name: Option<String>,
    /// Command-line options for the server process.
    pub options: Option<String>,
    /// How long to try each address.
    pub connect_timeout: Option<Duration>,
    /// TCP keepalives.
    pub keepalives: Keepalives,
    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`).
    pub tcp_user_timeout: Option<Duration>,
    /// All that concerns TLS.
    pub tls: TlsSettings,
    /// Whether SCRAM is bound to the TLS connection.
    pub channel_binding: ChannelBinding,
    /// Which ways of authentication are accepted; all of them unless told otherwise.
    pub require_auth: Option<RequireAuth>,
    /// The user that the server must run as, where it is reached by a Unix socket.
    pub require_peer: Option<String>,
    /// Which versions of the protocol will do.
    pub protocol: ProtocolRange,
}

/// The least time to connect, as in libpq: a bound of one second might pass at once.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads a connection string or URI into its options; a later one of the same name overrides.
///
/// # Errors
/// A string that can't be read, and an unknown option.
pub fn parse(text: &str) -> Result<Vec<(&'static str, String)>, SettingsError> {
    match uri::strip_scheme(text) {
        Some(rest) => uri::parse(rest),
        None => conninfo::parse(text),
    }
}

/// What flags give. Empty texts count as not given.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `-h`
    pub host: Option<String>,
    /// `-p`
    pub port: Option<String>,
    /// `-U`
    pub user: Option<String>,
    /// The database, where a command takes one.
    pub dbname: Option<String>,
    /// What was asked for on the terminal (`-W`); never a flag's own text.
    pub password: Option<Secret>,
    /// `--application-name`
    pub application_name: Option<String>,
}

/// All that settings are made of.
pub struct Inputs<'a> {
    /// What flags give.
    pub flags: Flags,
    /// A connection string or URI (`-d`).
    pub conninfo: Option<String>,
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The operating system's name of the user, the default for `user`.
    pub os_user: Option<String>,
    /// The home directory, where `.pgpass` and `.postgresql` are.
    pub home: Option<PathBuf>,
    /// Reads a file: of services.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// Those of [`DEFAULT_SOCKET_DIRS`] that exist; the first one is the default host.
    pub socket_dirs: Vec<PathBuf>,
    /// The application's name where nothing else gives one.
    pub fallback_application_name: Option<String>,
}

impl Default for Inputs<'_> {
    /// Nothing: no flags, an empty environment, nobody.
    fn default() -> Self {
        Self {
            flags: Flags::default(),
            conninfo: None,
            env: &|_| None,
            os_user: None,
            home: None,
            read_file: &|_| Err(io::ErrorKind::NotFound.into()),
            socket_dirs: Vec::new(),
            fallback_application_name: None,
        }
    }
}

impl ConnectionSettings {
    /// Resolves settings: flags over the connection string over the environment over defaults.
    ///
    /// # Errors
    /// A string that can't be read, an unknown option, a value that an option can't have, an
    /// option whose effect isn't there yet, and no user.
    pub fn resolve(inputs: &Inputs<'_>) -> Result<Self, SettingsError> {
        let values = Values::collect(inputs)?;
        values.refuse_what_is_missing()?;
        let password = inputs.flags.password.clone();
        let password = password.or_else(|| values.text("password").map(Secret::new));
        let in_home = || inputs.home.as_ref().map(|home| home.join(".pgpass"));
        let balance = [("disable", false), ("random", true)];
        let connect_timeout = values.seconds("connect_timeout")?;
        Ok(Self {
            servers: Server::list(&values, &inputs.socket_dirs)?,
            load_balance: values
                .choice("load_balance_hosts", &balance, "disable or random")?
                .unwrap_or(false),
            target: TargetSession::resolve(&values)?,
            user: values
                .text("user")
                .or_else(|| inputs.os_user.clone())
                .ok_or(SettingsError::NoUser)?,
            dbname: values.text("dbname"),
            password: password.filter(|password| !password.is_empty()),
            passfile: values.text("passfile").map(PathBuf::from).or_else(in_home),
            application_name: values
                .text("application_name")
                .or_else(|| values.text("fallback_application_name"))
                .or_else(|| inputs.fallback_application_name.clone()),
            options: values.text("options"),
            connect_timeout: connect_timeout.map(|limit| limit.max(MIN_CONNECT_TIMEOUT)),
            keepalives: Keepalives {
                enabled: values.integer("keepalives")?.is_none_or(|value| value != 0),
                idle: values.seconds("keepalives_idle")?,
                interval: values.seconds("keepalives_interval")?,
                count: values.positive("keepalives_count")?,
            },
            tcp_user_timeout: values
                .positive("tcp_user_timeout")?
                .map(|millis| Duration::from_millis(u64::from(millis))),
            tls: TlsSettings::resolve(&values, inputs.home.as_deref())?,
            channel_binding: ChannelBinding::resolve(&values)?,
            require_auth: match values.get("require_auth").filter(|(text, _)| !text.is_empty()) {
                Some((text, origin)) => Some(RequireAuth::parse(text, origin)?),
                None => None,
            },
            require_peer: values.text("requirepeer"),
            protocol: ProtocolRange::resolve(&values)?,
        })
    }

    /// The servers for people: `db:5432`, or the socket's path, between commas.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint<'_> {
        Endpoint(&self.servers)
    }

    /// The password file to look in, if no password was given.
    #[must_use]
    pub fn password_file(&self) -> Option<&Path> {
        if self.password.is_some() { None } else { self.passfile.as_deref() }
    }

    /// What a connection is looked up by in a password file; `database` is
    /// [`REPLICATION_DATABASE`] for physical replication.
    #[must_use]
    pub fn pass_key(&self, server: &Server, database: &str) -> PassKey {
        PassKey {
            host: PassKey::host_name(&server.host),
            port: server.port,
            database: database.to_owned(),
            user: self.user.clone(),
        }
    }

    /// The password for one of the servers.
    #[must_use]
    pub fn password_for<'a>(&'a self, server: &'a Server) -> Option<&'a Secret> {
        self.password.as_ref().or(server.password.as_ref())
    }

    /// Takes each server's password from a password file's content, as it is now, unless one was
    /// given. `mode`
    /// is the file's permission bits; a file that others can read isn't used, and the warning says
    /// so.
    pub fn use_password_file(
        &mut self,
        content: &[u8],
        mode: u32,
        database: &str,
    ) -> Option<PassFileWarning> {
        if self.password.is_some() {
            return None;
        }
        let keys: Vec<PassKey> =
            self.servers.iter().map(|server| self.pass_key(server, database)).collect();
        for (server, key) in self.servers.iter_mut().zip(keys) {
            match pgpass::lookup(content, mode, &key) {
                Lookup::Found(password) => {
                    server.password = Some(password).filter(|password| !password.is_empty());
                }
                Lookup::NoEntry => server.password = None,
                Lookup::Ignored(warning) => return Some(warning),
            }
        }
        None
    }
}
