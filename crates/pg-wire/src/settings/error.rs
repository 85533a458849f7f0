//! What can be wrong with connection settings.
//!
//! No variant holds a value of an option that may be, or may hold a piece of, a password.

use std::fmt;

use super::keywords;

/// Longest name that an error shows, in bytes.
const MAX_SHOWN_NAME_LEN: usize = 40;

/// Where an option was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flags,
    /// In the connection string or URI.
    Conninfo,
    /// In this environment variable.
    Environment(&'static str),
    /// In the service file's section.
    Service,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags => f.write_str("on the command line"),
            Self::Conninfo => f.write_str("in the connection string"),
            Self::Environment(name) => write!(f, "from {name}"),
            Self::Service => f.write_str("in the service file"),
        }
    }
}

/// Settings that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The connection string can't be read.
    #[error("the connection string can't be read at byte {at}: {what}")]
    Syntax {
        /// What is wrong.
        what: &'static str,
        /// Where, in bytes from 1.
        at: usize,
    },
    /// The URI can't be read.
    #[error("the connection URI can't be read at byte {at} behind its \"//\": {what}")]
    Uri {
        /// What is wrong.
        what: &'static str,
        /// Where, in bytes from 1.
        at: usize,
    },
    /// A part of the URI can't be decoded.
    #[error("the connection URI can't be read: {part} {what}")]
    UriPart {
        /// Which part.
        part: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// libpq knows no such option.
    #[error("invalid {what} {name}{}", Suggestion(*.suggestion))]
    UnknownOption {
        /// As libpq says it: an option of a string, or a parameter of a URI.
        what: &'static str,
        /// The name in quotes, or only where it stands.
        name: String,
        /// The nearest known option.
        suggestion: Option<&'static str>,
    },
    /// The option can't have this value.
    #[error("invalid {option} value{shown} ({origin}): give {expected}")]
    InvalidValue {
        /// The option.
        option: &'static str,
        /// The value, quoted, where it is harmless to show; else empty.
        shown: String,
        /// Where it was given.
        origin: Origin,
        /// What it may be.
        expected: &'static str,
    },
    /// What the option asks for isn't done.
    #[error("{option} ({origin}) is not supported: {reason}")]
    Refused {
        /// The option, with its value where that matters.
        option: String,
        /// Where it was given.
        origin: Origin,
        /// Why.
        reason: &'static str,
    },
    /// Two options that don't go together.
    #[error("{0}")]
    Conflict(String),
    /// As many hosts as addresses, and as ports, unless there is one port.
    #[error("could not match {given} {what} to {hosts} {against}")]
    Count {
        /// How many.
        given: usize,
        /// Of what.
        what: &'static str,
        /// To how many.
        hosts: usize,
        /// Of what.
        against: &'static str,
    },
    /// A service that isn't there, or a service file that can't be used.
    #[error("{0}")]
    Service(String),
    /// Nobody to connect as.
    #[error("no user to connect as: give -U, user= in the connection string, or PGUSER")]
    NoUser,
}

impl SettingsError {
    /// The option isn't known. Its name is shown if it looks like one and may be shown at all.
    pub(super) fn unknown(name: &str, show: bool, at: usize) -> Self {
        Self::unknown_as("connection option", name, show, at)
    }

    /// The same for a URI's parameter.
    pub(super) fn unknown_parameter(name: &str, show: bool, at: usize) -> Self {
        Self::unknown_as("URI query parameter:", name, show, at)
    }

    fn unknown_as(what: &'static str, name: &str, show: bool, at: usize) -> Self {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if show && name.len() <= MAX_SHOWN_NAME_LEN && !name.is_empty() && name.bytes().all(plain) {
            let suggestion = keywords::suggest(name);
            Self::UnknownOption { what, name: format!("\"{name}\""), suggestion }
        } else {
            Self::UnknownOption { what, name: format!("at byte {at}"), suggestion: None }
        }
    }
}

struct Suggestion(Option<&'static str>);

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |name| write!(f, "; did you mean \"{name}\"?"))
    }
}
