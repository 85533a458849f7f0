//! The users file: a line for each user, the name and the verifier, as `pg_authid` has them.
//!
//! `name:verifier` is what seawall writes. What psql prints of `rolname, rolpassword` is taken as
//! well, aligned or not, and so are the lines of pgbouncer's userlist. Empty lines and those that
//! begin with `#` are for people. The later of two lines for a user counts.

use super::verifier::PREFIX;
use super::{Verifier, VerifierError};

/// The longest file that is read: some ten thousand users.
pub const MAX_USERS_BYTES: usize = 1 << 20;

/// The server's default (`SCRAM_SHA_256_DEFAULT_ITERATIONS`, common/scram-common.h).
const ITERATIONS: u32 = 4096;

/// A user, and the verifier's text.
type Line<'a> = (&'a str, &'a str);

/// A line that isn't understood. What it says isn't shown: it may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the users file: {error}")]
pub struct UsersError {
    /// Which, from 1 on.
    pub line: usize,
    error: VerifierError,
}

/// Whether a name can stand in the file.
#[must_use]
pub fn is_user_name(name: &str) -> bool {
    let odd = |c: char| c.is_control();
    let trimmed = unquoted(name.trim());
    !name.is_empty() && trimmed == name && !name.starts_with('#') && !name.contains(odd)
}

/// The users, in the file's order.
pub fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| split(line).map(|(name, _)| name))
}

/// The verifier of a user. Of one that there isn't it is nobody's, made with a `secret`, and with as
/// many iterations as the file's first one has.
///
/// # Errors
/// If a line isn't understood: a file that is half read isn't half right.
pub fn find(text: &str, user: &str, secret: &[u8]) -> Result<Verifier, UsersError> {
    let (mut found, mut iterations) = (None, None);
    for (at, line) in text.lines().enumerate() {
        if is_comment(line) {
            continue;
        }
        let error = |error| UsersError { line: at.saturating_add(1), error };
        let (name, verifier) = split(line).ok_or_else(|| error(VerifierError))?;
        let verifier = Verifier::parse(verifier).map_err(error)?;
        iterations = iterations.or(Some(verifier.iterations()));
        if name == user {
            found = Some(verifier);
        }
    }
    let nobodys = || Verifier::of_nobody(user, secret, iterations.unwrap_or(ITERATIONS));
    Ok(found.unwrap_or_else(nobodys))
}

/// The file with a user in it, or with another verifier for one.
#[must_use]
pub fn with(text: &str, user: &str, verifier: &str) -> String {
    let mut file = without(text, user);
    file.push_str(user);
    file.push(':');
    file.push_str(verifier);
    file.push('\n');
    file
}

/// The file without a user.
#[must_use]
pub fn without(text: &str, user: &str) -> String {
    let others = text.lines().filter(|line| split(line).is_none_or(|(name, _)| name != user));
    let mut file = String::new();
    for line in others {
        file.push_str(line);
        file.push('\n');
    }
    file
}

fn is_comment(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn split(line: &str) -> Option<Line<'_>> {
    if is_comment(line) {
        return None;
    }
    // A verifier has no such beginning within it, and a name hardly has.
    let (name, verifier) = line.split_at_checked(line.rfind(PREFIX)?)?;
    let name = name.trim_end_matches('"').trim_end();
    let name = name.strip_suffix([':', '|']).unwrap_or(name);
    Some((unquoted(name.trim()), unquoted(verifier.trim_end_matches('"').trim())))
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_the_primary_and_of_pgbouncer_are_taken() {
        let verifier = Verifier::text_of_password(b"secret");
        let lines = [
            format!("repl:{verifier}"),
            format!("repl|{verifier}"),
            format!(" repl    | {verifier}"),
            format!("\"repl\" \"{verifier}\""),
            format!("# for the standbys\n\n  repl : {verifier}"),
        ];
        for text in lines {
            let found = find(&text, "repl", b"").unwrap();
            assert_eq!(found, Verifier::parse(&verifier).unwrap(), "{text}");
            let nobodys = Verifier::of_nobody("other", b"secret", found.iterations());
            assert_eq!(find(&text, "other", b"secret"), Ok(nobodys));
            assert_eq!(names(&text).collect::<Vec<_>>(), ["repl"]);
        }
    }

    #[test]
    fn a_user_is_put_in_changed_and_taken_out() {
        let [one, two] = [b"1", b"2"].map(|password| Verifier::text_of_password(password));
        let file = with("# people\n", "a:b", &one);
        let file = with(&file, "c", &one);
        let file = with(&file, "a:b", &two);
        assert_eq!(find(&file, "a:b", b""), Ok(Verifier::parse(&two).unwrap()));
        assert_eq!(names(&file).collect::<Vec<_>>(), ["c", "a:b"]);
        assert_eq!(without(&without(&file, "a:b"), "c"), "# people\n");
    }

    #[test]
    fn a_line_that_is_none_is_named_and_not_shown() {
        let verifier = Verifier::text_of_password(b"x");
        for wrong in ["repl:canary", "repl:md5canary", "repl:SCRAM-SHA-256$canary"] {
            let error = find(&format!("a:{verifier}\n{wrong}\n"), "a", b"").unwrap_err();
            assert_eq!(error.line, 2);
            assert!(!error.to_string().contains("canary"));
        }
        for name in ["", "#a", " a", "\"a\"", "a\nb"] {
            assert!(!is_user_name(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ \"|:#a\n$]{0,20}(SCRAM-SHA-256[$])?[ a$:\"\n]{0,9}") {
            let _ = find(&text, "a", b"");
            let _ = (names(&text).count(), without(&text, "a"), is_user_name(&text));
        }
    }
}
