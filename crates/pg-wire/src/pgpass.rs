//! The password file (`~/.pgpass`): lines of `host:port:database:user:password`.
//!
//! Reads as libpq does (`passwordFromFile`, fe-connect.c): the first line whose four fields match
//! wins, `*` matches anything, `\` takes the next character as it is, lines that begin with `#`
//! are comments. Who has the file gives its content and its permission bits; a file that others
//! can read is not used. No error holds anything of the content.

use std::path::Path;

use crate::Secret;
use crate::settings::{DEFAULT_SOCKET_DIRS, Host};

/// The permission bits of group and others; a password file has none of them.
const GROUP_AND_OTHERS: u32 = 0o077;

/// What a line is looked up by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassKey {
    /// The host as it was given; `localhost` for the default socket directory.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The database; `replication` for physical replication.
    pub database: String,
    /// The user.
    pub user: String,
}

impl PassKey {
    /// The name under which a host stands in the file.
    #[must_use]
    pub fn host_name(host: &Host) -> String {
        match host {
            Host::Tcp { host } => host.clone(),
            Host::Unix { dir } => {
                let is_default = DEFAULT_SOCKET_DIRS.iter().any(|it| Path::new(it) == dir);
                if is_default { "localhost".into() } else { dir.to_string_lossy().into_owned() }
            }
        }
    }
}

/// What the file gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The password of the first line that matches; may be empty, which counts as none.
    Found(Secret),
    /// No line matches.
    NoEntry,
    /// The file was not used, and a person should hear why.
    Ignored(PassFileWarning),
}

/// Why a password file was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PassFileWarning {
    /// Others can get at it.
    #[error(
        "the password file has group or world access (mode {mode:04o}) and is not used: \
         chmod 0600 it"
    )]
    OthersHaveAccess {
        /// Its permission bits.
        mode: u32,
    },
}

/// Looks a password up in a file's content; `mode` is the file's permission bits.
#[must_use]
pub fn lookup(content: &[u8], mode: u32, key: &PassKey) -> Lookup {
    if mode & GROUP_AND_OTHERS != 0 {
        return Lookup::Ignored(PassFileWarning::OthersHaveAccess { mode: mode & 0o7777 });
    }
    let port = key.port.to_string();
    let fields = [&key.host, &port, &key.database, &key.user];
    content
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.starts_with(b"#"))
        .find_map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let password =
                fields.iter().try_fold(line, |rest, field| strip_field(rest, field.as_bytes()))?;
            Some(Lookup::Found(Secret::new(unescape(password))))
        })
        .unwrap_or(Lookup::NoEntry)
}

/// What follows the line's first field, if that field matches.
fn strip_field<'a>(line: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = line.strip_prefix(b"*:") {
        return Some(rest);
    }
    let (mut line, mut wanted) = (line.iter(), wanted.iter());
    loop {
        let byte = match line.next()? {
            // A colon in the middle of what is wanted (an IPv6 address) needs no backslash.
            b':' if wanted.as_slice().is_empty() => return Some(line.as_slice()),
            b'\\' => line.next()?,
            byte => byte,
        };
        if wanted.next()? != byte {
            return None;
        }
    }
}

/// A password up to the next `:`, without its backslashes.
fn unescape(text: &[u8]) -> Vec<u8> {
    let (mut text, mut out) = (text.iter(), Vec::new());
    while let Some(byte) = text.next() {
        match byte {
            b':' => break,
            b'\\' => out.push(*text.next().unwrap_or(&b'\\')),
            byte => out.push(*byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(host: &str, user: &str) -> PassKey {
        let (host, user) = (host.to_owned(), user.to_owned());
        PassKey { host, port: 5432, database: "replication".into(), user }
    }

    #[track_caller]
    fn check(content: &str, key: &PassKey, expect: Option<&str>) {
        let expect = expect.map_or(Lookup::NoEntry, |text| Lookup::Found(Secret::new(text)));
        assert_eq!(lookup(content.as_bytes(), 0o600, key), expect, "{content}");
    }

    #[test]
    fn the_first_line_that_matches_wins() {
        let key = key("db", "u");
        check("db:5432:replication:u:pw", &key, Some("pw"));
        check("db:5432:replication:u:pw\r\n", &key, Some("pw"));
        check("*:*:*:*:one\ndb:5432:replication:u:two\n", &key, Some("one"));
        check("other:*:*:*:one\ndb:*:*:u:two\n", &key, Some("two"));
        check("#db:5432:replication:u:no\n\ndb:5432:replication:u:pw", &key, Some("pw"));
        check("db:5433:*:*:x\ndb:5432:postgres:*:x\ndb:5432:*:v:x", &key, None);
        check("", &key, None);
        check("db:5432:replication:u", &key, None);
        check("db:5432:replication:u:", &key, Some(""));
        check("d:*:*:*:x\ndbb:*:*:*:x\n**:*:*:*:x\n:*:*:*:x", &key, None);
    }

    #[test]
    fn escapes() {
        check(r"::1:*:*:*:x", &key("::1", "u"), Some("x"));
        check(r"\:\:1:*:*:*:x", &key("::1", "u"), Some("x"));
        check(r"*:*:*:a\\b:x", &key("h", r"a\b"), Some("x"));
        check(r"*:*:*:a\:b:x", &key("h", "a:b"), Some("x"));
        check(r"*:*:*:*:p\:w\\x\y:rest", &key("h", "u"), Some(r"p:w\xy"));
        check(r"*:*:*:*:end\", &key("h", "u"), Some(r"end\"));
        check(r"\*:*:*:*:x", &key("h", "u"), None);
        check(r"h\", &key("h", "u"), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        for mode in [0o640, 0o604, 0o660, 0o601, 0o777] {
            let result = lookup(b"*:*:*:*:canary", mode, &key("h", "u"));
            assert_eq!(result, Lookup::Ignored(PassFileWarning::OthersHaveAccess { mode }));
        }
        let found = lookup(b"*:*:*:*:canary", 0o100_600, &key("h", "u"));
        assert_eq!(found, Lookup::Found(Secret::new("canary")));
        assert!(!format!("{found:?}").contains("canary"));
    }

    #[test]
    fn the_default_socket_is_localhost() {
        let check = |host, expect: &str| assert_eq!(PassKey::host_name(&host), expect);
        check(Host::Tcp { host: "db".into() }, "db");
        check(Host::Unix { dir: "/tmp".into() }, "localhost");
        check(Host::Unix { dir: "/var/run/postgresql".into() }, "localhost");
        check(Host::Unix { dir: "/srv/pg".into() }, "/srv/pg");
    }

    proptest! {
        #[test]
        fn arbitrary_content_never_panics(
            content in prop::collection::vec(prop_oneof![Just(b':'), Just(b'\\'), Just(b'*'),
                Just(b'\n'), any::<u8>()], 0..200),
            host: String,
        ) {
            let _ = lookup(&content, 0o600, &key(&host, "u"));
        }

        #[test]
        fn escaped_fields_match_what_they_escape(host: String, password: String) {
            prop_assume!(!host.contains('\n') && !password.contains(['\n', '\r']));
            prop_assume!(!host.starts_with('#'));
            let escape = |text: &str| text.replace('\\', r"\\").replace(':', r"\:");
            let line = format!("{}:*:*:*:{}", escape(&host), escape(&password));
            let found = lookup(line.as_bytes(), 0o600, &key(&host, "u"));
            prop_assert_eq!(found, Lookup::Found(Secret::new(password)));
        }
    }
}
