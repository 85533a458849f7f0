//! `seawall serve`, what it shares with `seawall receive --serve`, and `seawall user`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use runtime::{Auth, Listen, TlsFiles};

use super::{TalkArgs, bytes, duration};

/// `seawall serve`
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The archive's directory.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// Where to listen: HOST:PORT, or DIRECTORY:PORT for a Unix socket; several times for several.
    #[arg(long, required = true, value_name = "ADDR")]
    pub(crate) listen: Vec<Listen>,
    #[command(flatten)]
    pub(crate) serving: ServingArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

/// Whom is served, and how.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Serving")]
pub(crate) struct ServingArgs {
    /// How those who connect over TCP prove who they are. A Unix socket is its owner's alone, and
    /// lets them in.
    #[arg(long, value_name = "METHOD", default_value = "scram-sha-256")]
    pub(crate) serve_auth: AuthArg,
    /// The users' verifiers; users in the archive's directory unless told otherwise.
    #[arg(long, value_name = "FILE")]
    pub(crate) users: Option<PathBuf>,
    /// The server's certificate, and those behind it, in PEM: TLS, which everybody over TCP has to
    /// use then. SIGHUP reads the files again.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key, which nobody else may read.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The authorities of clients' certificates, for --serve-auth cert.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// The revocation lists of those authorities: every one of them needs its own.
    #[arg(long, value_name = "FILE", requires = "tls_ca")]
    pub(crate) tls_crl: Option<PathBuf>,
    /// So many clients may be logged in.
    #[arg(long, value_name = "N", default_value = "100")]
    pub(crate) max_connections: u16,
    /// Let a follower's slot go when it keeps more than this (16MB, 10GB) in the archive.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) max_follower_retention: Option<u64>,
    /// A client that doesn't answer for so long is gone: 60s, 5min; 0 for never.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(crate) wal_sender_timeout: Duration,
}

impl ServingArgs {
    pub(crate) fn tls(&self) -> Option<TlsFiles> {
        let (certificate, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(TlsFiles {
            certificate,
            key,
            authorities: self.tls_ca.clone(),
            revoked: self.tls_crl.clone(),
        })
    }
}

/// As in `pg_hba.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuthArg {
    /// A password, against the users file.
    #[value(name = "scram-sha-256")]
    Scram,
    /// A certificate of --tls-ca whose common name is the user's.
    Cert,
    /// Nothing: whoever reaches the port reads all of the cluster's changes.
    Trust,
}

impl From<AuthArg> for Auth {
    fn from(arg: AuthArg) -> Self {
        match arg {
            AuthArg::Scram => Self::Scram,
            AuthArg::Cert => Self::Cert,
            AuthArg::Trust => Self::Trust,
        }
    }
}

/// `seawall user`
#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    #[command(subcommand)]
    pub(crate) action: UserAction,
}

/// Where the users are.
#[derive(Clone, Debug, Args)]
pub(crate) struct UsersFile {
    /// The archive's directory.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// The users' verifiers; users in the archive's directory unless told otherwise.
    #[arg(long, value_name = "FILE")]
    pub(crate) users: Option<PathBuf>,
}

impl UsersFile {
    pub(crate) fn path(&self) -> PathBuf {
        users_file(&self.archive, self.users.as_ref())
    }
}

pub(crate) fn users_file(archive: &std::path::Path, users: Option<&PathBuf>) -> PathBuf {
    users.cloned().unwrap_or_else(|| archive.join("users"))
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserAction {
    /// Let a user in, or change a user's password, which is asked for or read from standard input:
    /// a password, or a verifier as the primary's pg_authid.rolpassword has it.
    Add {
        /// The user's name.
        name: String,
        #[command(flatten)]
        file: UsersFile,
    },
    /// Let a user in no more. Who is connected stays so.
    Remove {
        /// The user's name.
        name: String,
        #[command(flatten)]
        file: UsersFile,
    },
    /// Print the users' names.
    List {
        #[command(flatten)]
        file: UsersFile,
    },
}
