//! Where to connect to and as whom: flags over a connection string or URI over the environment
//! over defaults, as libpq resolves them.
//!
//! Every option that libpq knows is known; what isn't there yet is refused by name and never
//! ignored, and an unknown option is an error with the nearest known one. The environment, the
//! home directory and the user's name come in as values. No error shows a password, nor any text
//! in which a piece of one may have ended up.

mod conninfo;
mod error;
mod keywords;
mod require_auth;
mod uri;
mod values;

#[cfg(test)]
mod tests;

pub use error::{Origin, SettingsError};
pub use require_auth::{AuthMethod, RequireAuth};

use std::fmt;
use std::net::IpAddr;
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

/// How TLS is wanted. Until there is TLS, settings only ever have the first three, and each of
/// them connects in plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server insists.
    Allow,
    /// If the server can.
    Prefer,
    /// Or no connection.
    Require,
    /// With a certificate of a known authority.
    VerifyCa,
    /// With such a certificate for this host.
    VerifyFull,
}

const SSL_MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

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

/// How to reach one server. Made by [`ConnectionSettings::resolve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Where it listens.
    pub host: Host,
    /// The address to connect to; no name is resolved then.
    pub hostaddr: Option<IpAddr>,
    /// The port, in the socket's name too.
    pub port: u16,
    /// Who connects.
    pub user: String,
    /// The database; physical replication has none and doesn't send it.
    pub dbname: Option<String>,
    /// The password, if one was given or found.
    pub password: Option<Secret>,
    /// The file to look in where no password was given.
    pub passfile: Option<PathBuf>,
    /// What the server shall call this client; `synchronous_standby_names` goes by it.
    pub application_name: Option<String>,
    /// Command-line options for the server process.
    pub options: Option<String>,
    /// How long to try; none is without end.
    pub connect_timeout: Option<Duration>,
    /// TCP keepalives.
    pub keepalives: Keepalives,
    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`).
    pub tcp_user_timeout: Option<Duration>,
    /// How TLS is wanted.
    pub sslmode: SslMode,
    /// Which ways of authentication are accepted; all of them unless told otherwise.
    pub require_auth: Option<RequireAuth>,
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
    /// The home directory, where `.pgpass` is.
    pub home: Option<PathBuf>,
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
        let (host, hostaddr) = values.host(&inputs.socket_dirs)?;
        let password = inputs.flags.password.clone();
        let password = password.or_else(|| values.text("password").map(Secret::new));
        let in_home = || inputs.home.as_ref().map(|home| home.join(".pgpass"));
        Ok(Self {
            host,
            hostaddr,
            port: values.port()?,
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
            connect_timeout: values.seconds("connect_timeout")?,
            keepalives: Keepalives {
                enabled: values.integer("keepalives")?.is_none_or(|value| value != 0),
                idle: values.seconds("keepalives_idle")?,
                interval: values.seconds("keepalives_interval")?,
                count: values.positive("keepalives_count")?,
            },
            tcp_user_timeout: values
                .positive("tcp_user_timeout")?
                .map(|millis| Duration::from_millis(u64::from(millis))),
            sslmode: values.sslmode()?,
            require_auth: match values.get("require_auth") {
                Some((text, origin)) => Some(RequireAuth::parse(text, origin)?),
                None => None,
            },
        })
    }

    /// The socket's path, where the server listens on one.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.host {
            Host::Unix { dir } => Some(dir.join(format!(".s.PGSQL.{}", self.port))),
            Host::Tcp { .. } => None,
        }
    }

    /// The server for people: `db:5432`, or the socket's path.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint<'_> {
        Endpoint(self)
    }

    /// The password file to look in, if no password was given.
    #[must_use]
    pub fn password_file(&self) -> Option<&Path> {
        if self.password.is_some() { None } else { self.passfile.as_deref() }
    }

    /// What this connection is looked up by in a password file; `database` is
    /// [`REPLICATION_DATABASE`] for physical replication.
    #[must_use]
    pub fn pass_key(&self, database: &str) -> PassKey {
        PassKey {
            host: PassKey::host_name(&self.host),
            port: self.port,
            database: database.to_owned(),
            user: self.user.clone(),
        }
    }

    /// Takes the password from a password file's content, unless there is one already. `mode` is
    /// the file's permission bits; a file that others can read isn't used, and the warning says so.
    pub fn use_password_file(
        &mut self,
        content: &[u8],
        mode: u32,
        database: &str,
    ) -> Option<PassFileWarning> {
        if self.password.is_some() {
            return None;
        }
        match pgpass::lookup(content, mode, &self.pass_key(database)) {
            Lookup::Found(password) => {
                self.password = Some(password).filter(|password| !password.is_empty());
                None
            }
            Lookup::NoEntry => None,
            Lookup::Ignored(warning) => Some(warning),
        }
    }
}

/// A server for people; see [`ConnectionSettings::endpoint`].
pub struct Endpoint<'a>(&'a ConnectionSettings);

impl fmt::Display for Endpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.0;
        match (&settings.host, settings.socket_path()) {
            (_, Some(path)) => write!(f, "{}", path.display()),
            (Host::Tcp { host }, None) if host.contains(':') => {
                write!(f, "[{host}]:{}", settings.port)
            }
            (Host::Tcp { host }, None) => write!(f, "{host}:{}", settings.port),
            (Host::Unix { dir }, None) => write!(f, "{}", dir.display()),
        }
    }
}
