//! What each connection option was given, by which source, and what it comes to.
//!
//! Nothing is taken from the values before [`Values::refuse_what_is_missing`] has passed them. A
//! value is shown in an error only where it can't be a piece of a password.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::keywords::{KEYWORDS, Treatment};
use super::{
    DEFAULT_PORT, DEFAULT_SOCKET_DIRS, Host, Inputs, Origin, SSL_MODES, SettingsError, SslMode,
    conninfo, uri,
};

/// What each option was given, and where.
pub(super) struct Values(BTreeMap<&'static str, (String, Origin)>);

impl Values {
    /// Puts the sources over each other.
    pub(super) fn collect(inputs: &Inputs<'_>) -> Result<Self, SettingsError> {
        let mut values = BTreeMap::new();
        for keyword in KEYWORDS {
            if let Some(name) = keyword.env
                && let Some(text) = (inputs.env)(name)
            {
                values.insert(keyword.name, (text, Origin::Environment(name)));
            }
        }
        // What PGSSLMODE was before there was one; libpq still heeds it.
        if let Some(text) = (inputs.env)("PGREQUIRESSL")
            && text.starts_with('1')
        {
            let required = ("require".to_owned(), Origin::Environment("PGREQUIRESSL"));
            values.entry("sslmode").or_insert(required);
        }
        if let Some(text) = &inputs.conninfo {
            let pairs = match uri::strip_scheme(text) {
                Some(rest) => uri::parse(rest)?,
                None => conninfo::parse(text)?,
            };
            values.extend(pairs.into_iter().map(|(name, text)| (name, (text, Origin::Conninfo))));
        }
        let flags = &inputs.flags;
        for (name, flag) in [
            ("host", &flags.host),
            ("port", &flags.port),
            ("user", &flags.user),
            ("dbname", &flags.dbname),
            ("application_name", &flags.application_name),
        ] {
            if let Some(text) = flag.as_ref().filter(|text| !text.is_empty()) {
                values.insert(name, (text.clone(), Origin::Flags));
            }
        }
        Ok(Self(values))
    }

    pub(super) fn get(&self, name: &str) -> Option<(&str, Origin)> {
        self.0.get(name).map(|(text, origin)| (text.as_str(), *origin))
    }

    /// The option's text; empty is as good as none.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).filter(|(text, _)| !text.is_empty()).map(|(text, _)| text.to_owned())
    }

    /// Refuses, by name, each option that asks for what isn't there.
    pub(super) fn refuse_what_is_missing(&self) -> Result<(), SettingsError> {
        for keyword in KEYWORDS {
            let Some((text, origin)) = self.get(keyword.name) else { continue };
            if text.contains('\0') {
                return Err(SettingsError::InvalidValue {
                    option: keyword.name,
                    shown: String::new(),
                    origin,
                    expected: "text without NUL bytes",
                });
            }
            let refused =
                |option: String, reason| Err(SettingsError::Refused { option, origin, reason });
            match &keyword.treatment {
                Treatment::Refused(reason) if !text.is_empty() => {
                    return refused(keyword.name.to_owned(), reason);
                }
                Treatment::RefusedValue { value, reason } if text == *value => {
                    return refused(format!("{}={value}", keyword.name), reason);
                }
                Treatment::Values { refused: values, reason, .. } if values.contains(&text) => {
                    return refused(format!("{}={text}", keyword.name), reason);
                }
                Treatment::Values { harmless, .. } if !harmless.contains(&text) => {
                    return Err(SettingsError::InvalidValue {
                        option: keyword.name,
                        shown: format!(" {text:?}"),
                        origin,
                        expected: "one of the values that libpq documents for it",
                    });
                }
                _ => {}
            }
        }
        for name in ["host", "hostaddr", "port"] {
            if let Some((text, origin)) = self.get(name)
                && text.contains(',')
            {
                return Err(SettingsError::Refused {
                    option: format!("more than one {name}"),
                    origin,
                    reason: "choosing among servers is not available yet: give one",
                });
            }
        }
        Ok(())
    }

    pub(super) fn host(
        &self,
        socket_dirs: &[PathBuf],
    ) -> Result<(Host, Option<IpAddr>), SettingsError> {
        let hostaddr = match self.get("hostaddr").filter(|(text, _)| !text.is_empty()) {
            None => None,
            Some((text, origin)) => {
                let invalid = SettingsError::InvalidValue {
                    option: "hostaddr",
                    shown: String::new(),
                    origin,
                    expected: "a numeric IPv4 or IPv6 address",
                };
                Some(text.parse::<IpAddr>().map_err(|_| invalid)?)
            }
        };
        let given = self.get("host").filter(|(text, _)| !text.is_empty());
        let host = match (given, hostaddr) {
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
            (Some((host, _)), _) => Host::Tcp { host: host.to_owned() },
            (None, None) => {
                let [.., upstream] = DEFAULT_SOCKET_DIRS;
                let dir = socket_dirs.first().cloned().unwrap_or_else(|| upstream.into());
                Host::Unix { dir }
            }
        };
        Ok((host, hostaddr))
    }

    pub(super) fn port(&self) -> Result<u16, SettingsError> {
        let Some((text, origin)) = self.get("port").filter(|(text, _)| !text.is_empty()) else {
            return Ok(DEFAULT_PORT);
        };
        // Not shown: in a URI whose password has a bare slash, this is a piece of it.
        let port = text.trim().parse().ok().filter(|port| *port != 0);
        port.ok_or(SettingsError::InvalidValue {
            option: "port",
            shown: String::new(),
            origin,
            expected: "a number from 1 to 65535 (in a URI, / and @ in a password are %2F and %40)",
        })
    }

    pub(super) fn integer(&self, name: &'static str) -> Result<Option<i32>, SettingsError> {
        let Some((text, origin)) = self.get(name) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| SettingsError::InvalidValue {
            option: name,
            shown: String::new(),
            origin,
            expected: "an integer",
        })
    }

    /// An integer; zero and less mean none.
    pub(super) fn positive(&self, name: &'static str) -> Result<Option<u32>, SettingsError> {
        let value = self.integer(name)?.and_then(|value| u32::try_from(value).ok());
        Ok(value.filter(|value| *value != 0))
    }

    pub(super) fn seconds(&self, name: &'static str) -> Result<Option<Duration>, SettingsError> {
        Ok(self.positive(name)?.map(|seconds| Duration::from_secs(u64::from(seconds))))
    }

    pub(super) fn sslmode(&self) -> Result<SslMode, SettingsError> {
        let Some((text, origin)) = self.get("sslmode") else { return Ok(SslMode::Prefer) };
        let mode = SSL_MODES.iter().find_map(|(name, mode)| (*name == text).then_some(*mode));
        match mode {
            Some(mode) if mode <= SslMode::Prefer => Ok(mode),
            Some(_) => Err(SettingsError::Refused {
                option: format!("sslmode={text}"),
                origin,
                reason: "TLS is not available yet (sslmode=disable connects without it)",
            }),
            None => Err(SettingsError::InvalidValue {
                option: "sslmode",
                shown: format!(" {text:?}"),
                origin,
                expected: "disable, allow, prefer, require, verify-ca or verify-full",
            }),
        }
    }
}
