//! Connection strings of the form `host=db port=5433 password='it\'s secret'`.
//!
//! Reads what libpq reads (`conninfo_parse`, fe-connect.c): spaces around `=`, values in single
//! quotes, a backslash before any character that is meant as it is. An error says where, never
//! what stands there: it might be a piece of a password.

use super::{SettingsError, keywords};

/// An option of a string: its name, which is known, and its value.
pub(super) type Pair = (&'static str, String);

/// Whether an option's value is a password.
fn is_secret(name: &str) -> bool {
    matches!(name, "password" | "sslpassword" | "oauth_client_secret")
}

/// What C's isspace() takes for one.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

/// Reads a connection string into its options; a later one of the same name overrides.
pub(super) fn parse(text: &str) -> Result<Vec<Pair>, SettingsError> {
    let mut cursor = Cursor { text, rest: text };
    let mut pairs = Vec::new();
    let mut after_bare_password = false;
    loop {
        cursor.skip_spaces();
        if cursor.rest.is_empty() {
            return Ok(pairs);
        }
        let at = cursor.at();
        let name = cursor.name()?;
        // `password=two words=x` has an unknown option `words` that is a piece of the password.
        cursor.skip_spaces();
        let quoted = cursor.rest.starts_with('\'');
        let value = if quoted { cursor.quoted()? } else { cursor.bare() };
        let pair = keywords::pair(name, value)
            .ok_or_else(|| SettingsError::unknown(name, !after_bare_password, at))?;
        after_bare_password |= is_secret(pair.0) && !quoted;
        pairs.push(pair);
    }
}

struct Cursor<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// How far this is in the text, in bytes from 1.
    fn at(&self) -> usize {
        self.text.len().saturating_sub(self.rest.len()).saturating_add(1)
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start_matches(is_space);
    }

    /// A name, and the `=` behind it.
    fn name(&mut self) -> Result<&'a str, SettingsError> {
        let at = self.at();
        let end = self.rest.find(|c| c == '=' || is_space(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest =
            rest.trim_start_matches(is_space).strip_prefix('=').ok_or(SettingsError::Syntax {
                what: "a \"=\" is missing after the word (a value with spaces needs quotes)",
                at,
            })?;
        Ok(name)
    }

    fn bare(&mut self) -> String {
        let mut value = String::new();
        let mut chars = self.rest.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => value.extend(chars.next()),
                c if is_space(c) => break,
                c => value.push(c),
            }
        }
        self.rest = chars.as_str();
        value
    }

    fn quoted(&mut self) -> Result<String, SettingsError> {
        let at = self.at();
        let mut value = String::new();
        let mut chars = self.rest.chars();
        chars.next();
        loop {
            match chars.next() {
                Some('\'') => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) => value.push(c),
                None => {
                    let what = "the quoted value has no closing quote";
                    return Err(SettingsError::Syntax { what, at });
                }
            }
        }
        self.rest = chars.as_str();
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &[(&str, &str)]) {
        let pairs = parse(text).unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(pairs, expect, "{text}");
    }

    #[test]
    fn strings_as_libpq_reads_them() {
        check("", &[]);
        check(" \t\n", &[]);
        check("host=db port=5433", &[("host", "db"), ("port", "5433")]);
        check("host = db\tport\n=\r5433 ", &[("host", "db"), ("port", "5433")]);
        check(r"user='it\'s \\ me'", &[("user", r"it's \ me")]);
        check(r"user=it\'s\ \\me", &[("user", r"it's \me")]);
        check("user='' host=db", &[("user", ""), ("host", "db")]);
        check("user=", &[("user", "")]);
        // The value is what comes next, whatever it looks like.
        check("host= port=5", &[("host", "port=5")]);
        check("user='a'host='b'", &[("user", "a"), ("host", "b")]);
        check("user=a'b", &[("user", "a'b")]);
        check("user=x\\", &[("user", "x")]);
        check("host=a host=b", &[("host", "a"), ("host", "b")]);
        check("password='a=b c'", &[("password", "a=b c")]);
    }

    #[test]
    fn errors_say_where() {
        let check = |text, expect: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
            assert!(!error.contains("canary"), "{error}");
        };
        check("host", "byte 1");
        check("host=a canary", "byte 8");
        check("password=two canary", "needs quotes");
        check("password=two canary=x", "byte 14");
        check("password=two; canary=x", "byte 15");
        check("password='canary", "byte 10");
        check("password='canary\\'", "no closing quote");
        check("hots=canary", "\"hots\"; did you mean \"host\"");
        check("ca\x1bnary=canary", "byte 1");
        check("=x", "invalid connection option at byte 1");
    }

    proptest! {
        #[test]
        fn quoted_values_come_back(values in prop::collection::vec(any::<String>(), 0..4)) {
            let quote = |value: &String| {
                format!("user = '{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
            };
            let text = values.iter().map(quote).collect::<Vec<_>>().join(" ");
            let expect: Vec<_> = values.into_iter().map(|value| ("user", value)).collect();
            prop_assert_eq!(parse(&text).unwrap(), expect);
        }

        #[test]
        fn arbitrary_text_never_panics(text in r"(user|host|=|'|\\| |\PC){0,40}") {
            let _ = parse(&text);
        }
    }
}
