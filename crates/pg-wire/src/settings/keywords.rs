//! Every connection option that libpq 18 knows (`PQconninfoOptions`, fe-connect.c), and what
//! becomes of it here.
//!
//! An option is used, or does nothing that could be missed (the reason stands beside it), or is
//! refused by name because what it asks for isn't done. None is ignored otherwise.

/// An option.
pub(super) struct Keyword {
    pub(super) name: &'static str,
    /// The environment variable that sets it.
    pub(super) env: Option<&'static str>,
    pub(super) treatment: Treatment,
}

/// What becomes of an option.
pub(super) enum Treatment {
    /// It is a field of the settings, or resolves to one.
    Used,
    /// It changes nothing here; why.
    Harmless(#[expect(dead_code, reason = "for readers of the table")] &'static str),
    /// One of these values changes nothing here, the others need what isn't done.
    Values {
        harmless: &'static [&'static str],
        refused: &'static [&'static str],
        reason: &'static str,
    },
    /// Harmless but for this value.
    RefusedValue { value: &'static str, reason: &'static str },
    /// Any value of it needs what isn't done.
    Refused(&'static str),
}

use Treatment::{Harmless, Refused, RefusedValue, Used, Values};

const NO_GSS: &str = "GSSAPI is not available";
const ONLY_GSS: &str = "concerns GSSAPI only, which is refused when the server asks for it";
const ONLY_OAUTH: &str = "concerns OAuth only, which is refused when the server asks for it";
const NO_SCRAM_KEY: &str = "SCRAM keys are not used: give the password";
const NO_COMPRESSION: &str = "compression inside TLS is insecure (CRIME), and isn't done";
const NO_KEY_LOG: &str = "the secrets of TLS connections are not written to files";

const fn keyword(name: &'static str, env: Option<&'static str>, treatment: Treatment) -> Keyword {
    Keyword { name, env, treatment }
}

pub(super) static KEYWORDS: &[Keyword] = &[
    keyword("service", Some("PGSERVICE"), Used),
    keyword("servicefile", Some("PGSERVICEFILE"), Used),
    keyword("user", Some("PGUSER"), Used),
    keyword("password", Some("PGPASSWORD"), Used),
    keyword("passfile", Some("PGPASSFILE"), Used),
    keyword("channel_binding", Some("PGCHANNELBINDING"), Used),
    keyword("connect_timeout", Some("PGCONNECT_TIMEOUT"), Used),
    keyword("dbname", Some("PGDATABASE"), Used),
    keyword("host", Some("PGHOST"), Used),
    keyword("hostaddr", Some("PGHOSTADDR"), Used),
    keyword("port", Some("PGPORT"), Used),
    keyword(
        "client_encoding",
        Some("PGCLIENTENCODING"),
        Harmless("replication answers are ASCII, and other texts are only shown"),
    ),
    keyword("options", Some("PGOPTIONS"), Used),
    keyword("application_name", Some("PGAPPNAME"), Used),
    keyword("fallback_application_name", None, Used),
    keyword("keepalives", None, Used),
    keyword("keepalives_idle", None, Used),
    keyword("keepalives_interval", None, Used),
    keyword("keepalives_count", None, Used),
    keyword("tcp_user_timeout", None, Used),
    keyword("sslmode", Some("PGSSLMODE"), Used),
    keyword("sslnegotiation", Some("PGSSLNEGOTIATION"), Used),
    keyword(
        "sslcompression",
        Some("PGSSLCOMPRESSION"),
        RefusedValue { value: "1", reason: NO_COMPRESSION },
    ),
    keyword("sslcert", Some("PGSSLCERT"), Used),
    keyword("sslkey", Some("PGSSLKEY"), Used),
    keyword("sslcertmode", Some("PGSSLCERTMODE"), Used),
    keyword("sslpassword", None, Used),
    keyword("sslrootcert", Some("PGSSLROOTCERT"), Used),
    keyword("sslcrl", Some("PGSSLCRL"), Used),
    keyword("sslcrldir", Some("PGSSLCRLDIR"), Used),
    keyword("sslsni", Some("PGSSLSNI"), Used),
    keyword("sslkeylogfile", None, Refused(NO_KEY_LOG)),
    keyword("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION"), Used),
    keyword("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION"), Used),
    keyword("requirepeer", Some("PGREQUIREPEER"), Used),
    keyword("require_auth", Some("PGREQUIREAUTH"), Used),
    keyword("min_protocol_version", Some("PGMINPROTOCOLVERSION"), Used),
    keyword("max_protocol_version", Some("PGMAXPROTOCOLVERSION"), Used),
    keyword(
        "gssencmode",
        Some("PGGSSENCMODE"),
        Values { harmless: &["disable", "prefer"], refused: &["require"], reason: NO_GSS },
    ),
    keyword("krbsrvname", Some("PGKRBSRVNAME"), Harmless(ONLY_GSS)),
    keyword("gsslib", Some("PGGSSLIB"), Harmless(ONLY_GSS)),
    keyword("gssdelegation", Some("PGGSSDELEGATION"), Harmless(ONLY_GSS)),
    keyword(
        "replication",
        None,
        Harmless("each connection is opened in the mode that its work needs"),
    ),
    keyword("target_session_attrs", Some("PGTARGETSESSIONATTRS"), Used),
    keyword("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), Used),
    keyword("scram_client_key", None, Refused(NO_SCRAM_KEY)),
    keyword("scram_server_key", None, Refused(NO_SCRAM_KEY)),
    keyword("oauth_issuer", None, Harmless(ONLY_OAUTH)),
    keyword("oauth_client_id", None, Harmless(ONLY_OAUTH)),
    keyword("oauth_client_secret", None, Harmless(ONLY_OAUTH)),
    keyword("oauth_scope", None, Harmless(ONLY_OAUTH)),
];

/// An option by the name that a person gave, with its value. `requiressl`, which `sslmode` was
/// before 8.0, libpq still reads so.
pub(super) fn pair(name: &str, value: String) -> Option<(&'static str, String)> {
    if name == "requiressl" {
        let mode = if value.starts_with('1') { "require" } else { "prefer" };
        return Some(("sslmode", mode.to_owned()));
    }
    find(name).map(|keyword| (keyword.name, value))
}

/// The option of this name.
pub(super) fn find(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}

/// Longest name for which a suggestion is looked for: the distance takes quadratic time.
const MAX_SUGGESTED_LEN: usize = 64;

/// Most edits between a name and its suggestion.
const MAX_SUGGESTED_DISTANCE: usize = 3;

/// The known option nearest to a name that isn't one, if any is near.
pub(super) fn suggest(name: &str) -> Option<&'static str> {
    if name.len() > MAX_SUGGESTED_LEN {
        return None;
    }
    KEYWORDS
        .iter()
        .map(|keyword| (distance(name.as_bytes(), keyword.name.as_bytes()), keyword.name))
        .min()
        .filter(|(distance, _)| *distance <= MAX_SUGGESTED_DISTANCE && *distance < name.len())
        .map(|(_, name)| name)
}

/// How many bytes must be inserted, removed or replaced to make one of the other (Levenshtein).
fn distance(from: &[u8], to: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (done, a) in from.iter().enumerate() {
        let mut diagonal = done;
        let mut left = done.saturating_add(1);
        let mut cells = row.iter_mut();
        if let Some(first) = cells.next() {
            *first = left;
        }
        for (cell, b) in cells.zip(to) {
            let replaced = diagonal.saturating_add(usize::from(a != b));
            diagonal = *cell;
            left = replaced.min(left.saturating_add(1)).min(diagonal.saturating_add(1));
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let check = |a: &str, b: &str, expect| {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), expect, "{a} {b}");
        };
        check("", "", 0);
        check("", "abc", 3);
        check("abc", "", 3);
        check("host", "host", 0);
        check("kitten", "sitting", 3);
    }

    #[test]
    fn suggestions() {
        let check = |name, expect| assert_eq!(suggest(name), expect, "{name}");
        check("hots", Some("host"));
        check("pasword", Some("password"));
        check("application-name", Some("application_name"));
        check("database", None);
        check("x", None);
        check(&"x".repeat(1000), None);
    }

    #[test]
    fn every_option_stands_once() {
        for (at, keyword) in KEYWORDS.iter().enumerate() {
            assert!(KEYWORDS[..at].iter().all(|other| other.name != keyword.name));
        }
        // The 50 of libpq 18.6's PQconndefaults(), and 19's `servicefile`.
        assert_eq!(KEYWORDS.len(), 51);
    }
}
