//! `require_auth`: which ways of authentication the client accepts.
//!
//! As in libpq: a list of methods of which one must be used, or a list of methods with `!` before
//! each, none of which may be used. `none` is a server that asks for nothing.

use super::SettingsError;

/// A way of authentication that `require_auth` can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthMethod {
    /// The server asks for nothing: trust, peer, or a certificate.
    None,
    /// The password itself.
    Password,
    /// Its md5 hash.
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// GSSAPI, which isn't implemented.
    Gss,
    /// SSPI, which isn't implemented.
    Sspi,
    /// OAuth, which isn't implemented.
    Oauth,
}

const METHODS: [(AuthMethod, &str); 7] = [
    (AuthMethod::None, "none"),
    (AuthMethod::Password, "password"),
    (AuthMethod::Md5, "md5"),
    (AuthMethod::ScramSha256, "scram-sha-256"),
    (AuthMethod::Gss, "gss"),
    (AuthMethod::Sspi, "sspi"),
    (AuthMethod::Oauth, "oauth"),
];

/// Which ways of authentication are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequireAuth {
    methods: Vec<AuthMethod>,
    /// Whether the methods are those that are *not* accepted.
    negated: bool,
}

impl RequireAuth {
    /// Whether this way is accepted.
    #[must_use]
    pub fn allows(&self, method: AuthMethod) -> bool {
        self.methods.contains(&method) != self.negated
    }

    /// Reads the option's value.
    pub(super) fn parse(text: &str, origin: super::Origin) -> Result<Self, SettingsError> {
        let invalid = |expected| SettingsError::InvalidValue {
            option: "require_auth",
            shown: format!(": {text:?}"),
            origin,
            expected,
        };
        let mut parsed = Self { methods: Vec::new(), negated: text.starts_with('!') };
        for entry in text.split(',') {
            let name = match (entry.strip_prefix('!'), parsed.negated) {
                (Some(name), true) => name,
                (None, false) => entry,
                _ => return Err(invalid("either methods, or methods with \"!\" before each")),
            };
            let method = METHODS
                .iter()
                .find_map(|(method, known)| (*known == name).then_some(*method))
                .ok_or_else(|| {
                    invalid(
                        "a comma-separated list of none, password, md5, scram-sha-256, gss, sspi, \
                         oauth",
                    )
                })?;
            if parsed.methods.contains(&method) {
                return Err(invalid("each method once"));
            }
            parsed.methods.push(method);
        }
        Ok(parsed)
    }
}

impl std::fmt::Display for RequireAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        for (_, name) in METHODS.iter().filter(|(method, _)| self.methods.contains(method)) {
            write!(f, "{separator}{}{name}", if self.negated { "!" } else { "" })?;
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Origin;

    #[test]
    fn lists() {
        let check = |text: &str, allowed: &[AuthMethod]| {
            let parsed = RequireAuth::parse(text, Origin::Conninfo).unwrap();
            let found: Vec<_> =
                METHODS.iter().map(|it| it.0).filter(|it| parsed.allows(*it)).collect();
            assert_eq!(found, allowed, "{text}");
            assert_eq!(parsed.to_string(), text);
        };
        check("scram-sha-256", &[AuthMethod::ScramSha256]);
        check("none,md5", &[AuthMethod::None, AuthMethod::Md5]);
        check(
            "!none,!password,!md5",
            &[AuthMethod::ScramSha256, AuthMethod::Gss, AuthMethod::Sspi, AuthMethod::Oauth],
        );
    }

    #[test]
    fn what_is_no_list() {
        for text in ["", "x", "none,", "none,!md5", "!none,md5", "md5,md5", "!", "none, md5"] {
            assert!(RequireAuth::parse(text, Origin::Conninfo).is_err(), "{text}");
        }
    }
}
