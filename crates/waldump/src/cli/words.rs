//! How a program of each version says what is wrong (`common/logging.c`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use wal_format::WalVersion;

/// Why a program ends, before it is put into a version's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `pg_fatal`
    Fatal(Vec<u8>),
    /// `pg_log_error`, perhaps with a detail, and the end.
    Error {
        /// What is wrong.
        text: Vec<u8>,
        /// More about it.
        detail: Option<&'static str>,
    },
    /// A wrong argument: as an error, and then where help is to be had.
    Argument {
        /// What is wrong, unless it was said already.
        text: Option<Vec<u8>>,
        /// More about it.
        detail: Option<&'static str>,
    },
    /// Lines that are complete as they are, and where help is to be had.
    Said(Vec<u8>),
    /// Nobody reads the output any more.
    Unheard,
}

impl Failure {
    /// A wrong argument.
    pub fn argument(text: impl Into<Vec<u8>>) -> Self {
        Self::Argument { text: Some(text.into()), detail: None }
    }

    /// A fatal error.
    pub fn fatal(text: impl Into<Vec<u8>>) -> Self {
        Self::Fatal(text.into())
    }
}

/// The program's name, for its messages.
#[derive(Clone, Debug)]
pub struct Words {
    /// The name without a directory; `seawall waldump` for the subcommand.
    pub name: Vec<u8>,
}

impl Words {
    /// Of a program that was called so (`get_progname`).
    #[must_use]
    pub fn of(argv0: &OsString) -> Self {
        let name = argv0.as_bytes().rsplit(|byte| *byte == b'/').next();
        Self { name: name.unwrap_or_default().to_vec() }
    }

    /// A failure in the words of this version; those of 18 where none is known yet.
    #[must_use]
    pub fn say(&self, failure: &Failure, version: Option<WalVersion>) -> Vec<u8> {
        let before_15 = version.is_some_and(|version| version.major() < 15);
        let mut out = Vec::new();
        match failure {
            Failure::Fatal(text) => {
                self.line(if before_15 { "fatal: " } else { "error: " }, text, &mut out);
            }
            Failure::Error { text, detail } => {
                self.line("error: ", text, &mut out);
                self.detail(*detail, &mut out);
            }
            Failure::Argument { text, detail } => {
                if let Some(text) = text {
                    self.line("error: ", text, &mut out);
                }
                self.detail(*detail, &mut out);
                self.hint(before_15, &mut out);
            }
            Failure::Said(lines) => {
                out.extend_from_slice(lines);
                self.hint(before_15, &mut out);
            }
            Failure::Unheard => {}
        }
        out
    }

    /// A message that isn't of a failure (`pg_log_info`).
    #[must_use]
    pub fn info(&self, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        self.line("", text.as_bytes(), &mut out);
        out
    }

    fn detail(&self, detail: Option<&str>, out: &mut Vec<u8>) {
        if let Some(detail) = detail {
            self.line("detail: ", detail.as_bytes(), out);
        }
    }

    fn hint(&self, before_15: bool, out: &mut Vec<u8>) {
        let text = [b"Try \"", self.name.as_slice(), b" --help\" for more information."].concat();
        if before_15 {
            out.extend_from_slice(&text);
            out.push(b'\n');
        } else {
            self.line("hint: ", &text, out);
        }
    }

    fn line(&self, kind: &str, text: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(text);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_changed_in_15() {
        let words = Words::of(&OsString::from("/usr/bin/pg_waldump"));
        let check = |failure: &Failure, major, expect: &str| {
            let text = words.say(failure, WalVersion::from_major(major));
            assert_eq!(String::from_utf8(text).unwrap(), expect);
        };
        check(&Failure::fatal("x"), 14, "pg_waldump: fatal: x\n");
        check(&Failure::fatal("x"), 15, "pg_waldump: error: x\n");
        let argument = Failure::argument("x");
        let hint = "Try \"pg_waldump --help\" for more information.";
        check(&argument, 14, &format!("pg_waldump: error: x\n{hint}\n"));
        check(&argument, 18, &format!("pg_waldump: error: x\npg_waldump: hint: {hint}\n"));
        assert_eq!(words.info("x"), b"pg_waldump: x\n");
    }
}
