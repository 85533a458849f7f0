//! What is wanted of TLS: whether, with which files, and how strict. Files are named here and read
//! elsewhere.

use std::path::{Path, PathBuf};

use super::values::Values;
use super::{Origin, SettingsError};
use crate::Secret;

/// How TLS is wanted.
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

impl SslMode {
    /// Whether the server's certificate must be of a known authority, whatever files there are.
    #[must_use]
    pub fn verifies(self) -> bool {
        self >= Self::VerifyCa
    }

    fn name(self) -> &'static str {
        SSL_MODES.iter().find_map(|(name, mode)| (*mode == self).then_some(*name)).unwrap_or("")
    }
}

/// How TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslNegotiation {
    /// With a question to the server, in plain text.
    Postgres,
    /// At once, with ALPN; from 17 on.
    Direct,
}

/// Whether the server is shown a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertMode {
    /// Never, even if there is one.
    Disable,
    /// If it asks and there is one.
    Allow,
    /// It has to ask, and gets one.
    Require,
}

/// A version of TLS. What is older than 1.2 nobody offers any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2
    V1_2,
    /// TLS 1.3
    V1_3,
}

/// A file, and whether somebody named it: one that is named must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigFile {
    /// By an option.
    Named(PathBuf),
    /// Where libpq looks by itself; `None` for a user without a home.
    Default(Option<PathBuf>),
}

impl ConfigFile {
    /// Where it is, or would be.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Named(path) => Some(path),
            Self::Default(path) => path.as_deref(),
        }
    }
}

/// Which authorities are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCerts {
    /// Those of the system (`sslrootcert=system`).
    System,
    /// Those in a file.
    File(ConfigFile),
}

/// All that concerns TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whether.
    pub mode: SslMode,
    /// How it begins.
    pub negotiation: SslNegotiation,
    /// Whom to trust.
    pub root_certs: RootCerts,
    /// Certificates that aren't trusted any more.
    pub crl: ConfigFile,
    /// More of those, in files named by OpenSSL's hash.
    pub crl_dir: Option<PathBuf>,
    /// The client's certificate.
    pub cert: ConfigFile,
    /// Its key.
    pub key: ConfigFile,
    /// What the key is encrypted with.
    pub key_password: Option<Secret>,
    /// Whether to show the certificate.
    pub cert_mode: CertMode,
    /// Whether to tell the server, in the clear, which name it was called by.
    pub sni: bool,
    /// The oldest version to speak.
    pub min_version: TlsVersion,
    /// The newest, if there is a bound.
    pub max_version: Option<TlsVersion>,
}

/// What libpq names its files in the home directory.
const DIR: &str = ".postgresql";

impl TlsSettings {
    pub(super) fn resolve(values: &Values, home: Option<&Path>) -> Result<Self, SettingsError> {
        let file = |option: &str, name: &str| match values.text(option) {
            Some(path) => ConfigFile::Named(path.into()),
            None => ConfigFile::Default(home.map(|home| home.join(DIR).join(name))),
        };
        let root_certs = match values.text("sslrootcert") {
            Some(text) if text == "system" => RootCerts::System,
            _ => RootCerts::File(file("sslrootcert", "root.crt")),
        };
        // A directory without a file leaves the default file out, as in libpq.
        let crl_dir = values.text("sslcrldir").map(PathBuf::from);
        let crl = match (file("sslcrl", "root.crl"), &crl_dir) {
            (ConfigFile::Default(_), Some(_)) => ConfigFile::Default(None),
            (crl, _) => crl,
        };
        let tls = Self {
            mode: mode(values, &root_certs)?,
            negotiation: values
                .choice(
                    "sslnegotiation",
                    &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)],
                    "postgres or direct",
                )?
                .unwrap_or(SslNegotiation::Postgres),
            root_certs,
            crl,
            crl_dir,
            cert: file("sslcert", "postgresql.crt"),
            key: file("sslkey", "postgresql.key"),
            key_password: values.text("sslpassword").map(Secret::new),
            cert_mode: values
                .choice(
                    "sslcertmode",
                    &[
                        ("disable", CertMode::Disable),
                        ("allow", CertMode::Allow),
                        ("require", CertMode::Require),
                    ],
                    "disable, allow or require",
                )?
                .unwrap_or(CertMode::Allow),
            sni: values.get("sslsni").is_none_or(|(text, _)| text.starts_with('1')),
            min_version: min_version(values)?,
            max_version: max_version(values)?,
        };
        tls.check(values)?;
        Ok(tls)
    }

    /// What doesn't go together.
    fn check(&self, values: &Values) -> Result<(), SettingsError> {
        let mode = self.mode.name();
        if self.root_certs == RootCerts::System && self.mode != SslMode::VerifyFull {
            return Err(SettingsError::Conflict(format!(
                "weak sslmode \"{mode}\" may not be used with sslrootcert=system (use \
                 \"verify-full\")"
            )));
        }
        if self.negotiation == SslNegotiation::Direct && self.mode < SslMode::Require {
            return Err(SettingsError::Conflict(format!(
                "weak sslmode \"{mode}\" may not be used with sslnegotiation=direct (use \
                 \"require\", \"verify-ca\", or \"verify-full\")"
            )));
        }
        if self.max_version.is_some_and(|max| max < self.min_version) {
            return Err(SettingsError::Conflict("invalid SSL protocol version range".to_owned()));
        }
        match values.get("sslkey") {
            Some((text, origin)) if text.contains(':') => Err(SettingsError::Refused {
                option: "sslkey with a colon".to_owned(),
                origin,
                reason: "keys in an OpenSSL engine can't be used: name a file",
            }),
            _ => Ok(()),
        }
    }
}

/// `sslmode`; with the system's authorities, who vouch for everybody, nothing but verify-full.
fn mode(values: &Values, root_certs: &RootCerts) -> Result<SslMode, SettingsError> {
    let expected = "disable, allow, prefer, require, verify-ca or verify-full";
    let given = values.choice("sslmode", &SSL_MODES, expected)?;
    let unless_given = match root_certs {
        RootCerts::System => SslMode::VerifyFull,
        RootCerts::File(_) => SslMode::Prefer,
    };
    Ok(given.unwrap_or(unless_given))
}

const OLD_VERSIONS: [&str; 2] = ["TLSv1", "TLSv1.1"];

fn min_version(values: &Values) -> Result<TlsVersion, SettingsError> {
    let option = "ssl_min_protocol_version";
    match values.get(option).filter(|(text, _)| !text.is_empty()) {
        // A lower bound below what is spoken changes nothing.
        Some((text, _)) if is_old(text) => Ok(TlsVersion::V1_2),
        Some((text, origin)) => version(option, text, origin),
        None => Ok(TlsVersion::V1_2),
    }
}

fn max_version(values: &Values) -> Result<Option<TlsVersion>, SettingsError> {
    let option = "ssl_max_protocol_version";
    match values.get(option).filter(|(text, _)| !text.is_empty()) {
        Some((text, origin)) if is_old(text) => Err(SettingsError::Refused {
            option: format!("{option}={text}"),
            origin,
            reason: "TLS older than 1.2 is insecure, and isn't spoken",
        }),
        Some((text, origin)) => version(option, text, origin).map(Some),
        None => Ok(None),
    }
}

fn is_old(text: &str) -> bool {
    OLD_VERSIONS.iter().any(|old| text.eq_ignore_ascii_case(old))
}

fn version(option: &'static str, text: &str, origin: Origin) -> Result<TlsVersion, SettingsError> {
    let known = [("TLSv1.2", TlsVersion::V1_2), ("TLSv1.3", TlsVersion::V1_3)];
    let found = known.iter().find(|(name, _)| text.eq_ignore_ascii_case(name));
    found.map(|(_, version)| *version).ok_or_else(|| SettingsError::InvalidValue {
        option,
        shown: format!(": {text:?}"),
        origin,
        expected: "TLSv1.2 or TLSv1.3",
    })
}
