//! A connection's first packet: a startup message, or a request that comes before one.

use std::collections::BTreeMap;

use crate::message::SqlState;
use crate::reader::Reader;
use crate::server::response::Refusal;

/// The codes that stand where a startup message has its version (`libpq/pqcomm.h`, 14–18).
mod code {
    pub(super) const CANCEL: u32 = 1234 << 16 | 5678;
    pub(super) const SSL: u32 = 1234 << 16 | 5679;
    pub(super) const GSS: u32 = 1234 << 16 | 5680;
}

/// The major version of the protocol.
const MAJOR: u32 = 3;
/// A cancel key has so many bytes at most (`MAX_BACKEND_KEY`, 18).
const MAX_CANCEL_KEY: usize = 256;

/// A connection's first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FirstPacket {
    /// It would speak TLS.
    Ssl,
    /// It would speak GSSAPI encryption.
    Gss,
    /// It wants another connection's command cancelled.
    Cancel {
        /// Whose.
        process_id: u32,
        /// What proves that it may.
        key: Vec<u8>,
    },
    /// It wants to log in.
    Startup(StartupMessage),
}

/// A startup message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupMessage {
    /// The protocol's minor version that the client would speak.
    pub minor: u32,
    /// `user`, `database`, `replication`, `options` and settings, by name.
    pub parameters: BTreeMap<String, String>,
    /// Options of the protocol itself (`_pq_.…`), none of which is known.
    pub unknown_options: Vec<String>,
}

impl FirstPacket {
    /// Reads a packet's body. `newest_minor` is the newest version of the protocol that is spoken,
    /// for the refusal of another.
    ///
    /// # Errors
    /// What it is answered, in the server's words.
    pub fn parse(body: &[u8], newest_minor: u32) -> Result<Self, Refusal> {
        let mut reader = Reader::new(body);
        let Some(code) = reader.u32() else { return Err(layout("it has no version")) };
        match code {
            code::SSL => Ok(Self::Ssl),
            code::GSS => Ok(Self::Gss),
            code::CANCEL => {
                let process_id = reader.u32();
                let key = reader.rest();
                let known = (4..=MAX_CANCEL_KEY).contains(&key.len());
                let process_id = process_id.filter(|_| known);
                process_id.map_or_else(
                    || Err(layout("a cancel request has a process and its key")),
                    |process_id| Ok(Self::Cancel { process_id, key: key.to_vec() }),
                )
            }
            code if code >> 16 == MAJOR => {
                Ok(Self::Startup(StartupMessage::read(code & 0xFFFF, reader)?))
            }
            code => Err(Refusal::fatal(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!(
                    "unsupported frontend protocol {}.{}: server supports 3.0 to 3.{newest_minor}",
                    code >> 16,
                    code & 0xFFFF
                ),
            )),
        }
    }
}

/// What a connection is for (`replication` in the packet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SQL.
    Ordinary,
    /// Physical replication.
    Physical,
    /// Replication by somebody who names this database: logical, and physical all the same.
    Database(String),
}

impl StartupMessage {
    fn read(minor: u32, mut reader: Reader<'_>) -> Result<Self, Refusal> {
        let mut parameters = BTreeMap::new();
        let mut unknown_options = Vec::new();
        loop {
            let mut text = || reader.c_string().map(String::from_utf8_lossy);
            let Some(name) = text() else {
                return Err(layout("expected terminator as last byte"));
            };
            if name.is_empty() {
                break;
            }
            let Some(value) = text() else {
                return Err(layout("expected terminator as last byte"));
            };
            if name.starts_with("_pq_.") {
                unknown_options.push(name.into_owned());
            } else {
                parameters.insert(name.into_owned(), value.into_owned());
            }
        }
        if !reader.is_empty() {
            return Err(layout("expected terminator as last byte"));
        }
        Ok(Self { minor, parameters, unknown_options })
    }

    /// The user, who must be named.
    ///
    /// # Errors
    /// If nobody is.
    pub fn user(&self) -> Result<&str, Refusal> {
        match self.parameters.get("user") {
            Some(user) if !user.is_empty() => Ok(user),
            _ => Err(Refusal::fatal(
                SqlState::INVALID_AUTHORIZATION,
                "no PostgreSQL user name specified in startup packet",
            )),
        }
    }

    /// What kind of connection it is to be.
    ///
    /// # Errors
    /// What is said if it is none.
    pub fn kind(&self) -> Result<Kind, Refusal> {
        match self.parameters.get("replication").map(String::as_str) {
            None => Ok(Kind::Ordinary),
            Some("database") => {
                let database = self.parameters.get("database").or(self.parameters.get("user"));
                Ok(Kind::Database(database.cloned().unwrap_or_default()))
            }
            Some(text) => match parse_bool(text) {
                Some(true) => Ok(Kind::Physical),
                Some(false) => Ok(Kind::Ordinary),
                None => Err(Refusal::fatal(
                    SqlState(*b"22023"),
                    format!("invalid value for parameter \"replication\": \"{text}\""),
                )
                .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")),
            },
        }
    }

    /// The settings that the client gives: in the packet, or as `-c name=value` and
    /// `--name=value` in `options`. Names in lower case; later ones win.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: &str| {
            settings.insert(name.replace('-', "_").to_ascii_lowercase(), value.to_owned());
        };
        let words = self.parameters.get("options").map(|options| split_options(options));
        let mut words = words.unwrap_or_default().into_iter();
        while let Some(word) = words.next() {
            let setting = match word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
                Some("") => words.next(),
                setting => setting.map(str::to_owned),
            };
            if let Some((name, value)) = setting.as_deref().and_then(|text| text.split_once('=')) {
                set(name.trim(), value);
            }
        }
        let own = ["user", "database", "replication", "options"];
        for (name, value) in &self.parameters {
            if !own.contains(&name.as_str()) {
                set(name, value);
            }
        }
        settings
    }
}

fn layout(what: &str) -> Refusal {
    Refusal::fatal(SqlState::PROTOCOL_VIOLATION, format!("invalid startup packet layout: {what}"))
}

/// Words between blanks; a backslash keeps the next character (`pg_split_opts`).
fn split_options(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let Some(word) = words.last_mut() else { break };
        match c {
            '\\' => word.extend(chars.next()),
            c if c.is_ascii_whitespace() => words.push(String::new()),
            c => word.push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A boolean as the server reads it: any beginning of true, false, yes, no that tells them apart,
/// on, off, 1, 0.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    let text = text.trim().to_ascii_lowercase();
    let begins = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if begins("true", 1) || begins("yes", 1) || text == "on" || text == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || text == "0" {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        [&code.to_be_bytes(), rest].concat()
    }

    fn startup(rest: &[u8]) -> StartupMessage {
        match FirstPacket::parse(&packet(3 << 16, rest), 2) {
            Ok(FirstPacket::Startup(startup)) => startup,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_before_a_startup() {
        let check = |bytes: &[u8], expect| assert_eq!(FirstPacket::parse(bytes, 0), Ok(expect));
        check(&packet(80_877_103, b""), FirstPacket::Ssl);
        check(&packet(80_877_104, b""), FirstPacket::Gss);
        let cancel = FirstPacket::Cancel { process_id: 7, key: b"abcd".to_vec() };
        check(&packet(80_877_102, b"\0\0\0\x07abcd"), cancel);
        assert!(FirstPacket::parse(&packet(80_877_102, b"\0\0\0\x07abc"), 0).is_err());
    }

    #[test]
    fn a_startup_message() {
        let startup =
            startup(b"user\0u\0replication\0on\0_pq_.x\x001\0options\0-c a=b --C-d=\\ e\0\0");
        assert_eq!(startup.user(), Ok("u"));
        assert_eq!(startup.kind(), Ok(Kind::Physical));
        assert_eq!(startup.unknown_options, ["_pq_.x"]);
        let settings = startup.settings();
        let expect = [("a", "b"), ("c_d", " e")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(settings, BTreeMap::from(expect));
    }

    #[test]
    fn kinds_of_connections() {
        let kind = |rest: &[u8]| startup(&[b"user\0u\0", rest, b"\0"].concat()).kind().unwrap();
        assert_eq!(kind(b""), Kind::Ordinary);
        assert_eq!(kind(b"replication\x000\0"), Kind::Ordinary);
        assert_eq!(kind(b"replication\0database\0"), Kind::Database("u".to_owned()));
        let database = kind(b"database\0d\0replication\0database\0");
        assert_eq!(database, Kind::Database("d".to_owned()));
    }

    #[test]
    fn what_is_refused_is_refused_in_the_servers_words() {
        let check = |bytes: &[u8], sqlstate: &[u8; 5], text: &str| {
            let refusal = match FirstPacket::parse(bytes, 2) {
                Err(refusal) => refusal,
                Ok(FirstPacket::Startup(startup)) => {
                    let user = startup.user().map(drop);
                    user.and_then(|()| startup.kind().map(drop)).unwrap_err()
                }
                Ok(other) => panic!("{other:?}"),
            };
            assert_eq!((refusal.sqlstate.0, refusal.is_fatal()), (*sqlstate, true));
            assert!(refusal.message.contains(text), "{}", refusal.message);
        };
        let v3 = |rest: &[u8]| packet(3 << 16, rest);
        check(&packet(4 << 16, b""), b"0A000", "protocol 4.0: server supports 3.0 to 3.2");
        check(&packet(80_877_105, b""), b"0A000", "protocol 1234.5681");
        check(&v3(b"user\0u\0"), b"08P01", "expected terminator as last byte");
        check(&v3(b"user\0u\0\0\0"), b"08P01", "expected terminator as last byte");
        check(&v3(b"user\0"), b"08P01", "invalid startup packet layout");
        check(b"\0\x03", b"08P01", "no version");
        check(&v3(b"\0"), b"28000", "no PostgreSQL user name");
        check(&v3(b"user\0\0\0"), b"28000", "no PostgreSQL user name");
        check(&v3(b"user\0u\0replication\0maybe\0\0"), b"22023", "\"replication\": \"maybe\"");
    }

    #[test]
    fn booleans() {
        for text in ["1", "on", "ON", "t", "tr", "true", "TRUE", "y", "yes", " on "] {
            assert_eq!(parse_bool(text), Some(true), "{text}");
        }
        for text in ["0", "of", "off", "f", "false", "n", "no"] {
            assert_eq!(parse_bool(text), Some(false), "{text}");
        }
        for text in ["", "o", "2", "truely", "onn", "database"] {
            assert_eq!(parse_bool(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_packet_is_read_or_refused(
            code in prop_oneof![any::<u32>(), Just(3 << 16), Just(80_877_102)],
            rest in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            if let Ok(FirstPacket::Startup(startup)) = FirstPacket::parse(&packet(code, &rest), 2) {
                let _ = (startup.user(), startup.kind(), startup.settings());
            }
        }
    }
}
