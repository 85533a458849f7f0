//! A replication command's words (repl_scanner.l, 14–18).

use pg_types::Lsn;

use crate::message::SqlState;
use crate::server::response::Refusal;

/// An identifier has so many bytes at most: `NAMEDATALEN` less its NUL.
const MAX_IDENTIFIER: usize = 63;

/// A word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A bare word as it was written: a keyword in upper case, or an identifier.
    Word(String),
    /// An identifier in double quotes.
    Quoted(String),
    /// A string in single quotes.
    Text(String),
    /// A number; one that is too large wraps, as the server's does.
    Number(u32),
    /// A position.
    Position(Lsn),
    /// Any other character.
    Char(char),
}

/// A command's words.
///
/// # Errors
/// A quote that isn't closed.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Refusal> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
        let Some(first) = rest.chars().next() else { return Ok(tokens) };
        let (token, after) = match first {
            '\'' | '"' => {
                let (text, after) = quoted(rest, first)?;
                let token = if first == '"' { Token::Quoted(text) } else { Token::Text(text) };
                (token, after)
            }
            _ => match position(rest) {
                Some(found) => found,
                None => word(rest, first),
            },
        };
        tokens.push(token);
        rest = after;
    }
}

/// A quoted text, in which the quote is written twice, and what follows.
fn quoted(text: &str, quote: char) -> Result<(String, &str), Refusal> {
    let mut out = String::new();
    let mut rest = text.strip_prefix(quote).unwrap_or_default();
    while let Some((part, after)) = rest.split_once(quote) {
        out.push_str(part);
        match after.strip_prefix(quote) {
            Some(after) => {
                out.push(quote);
                rest = after;
            }
            None => return Ok((out, after)),
        }
    }
    Err(Refusal::error(SqlState::SYNTAX_ERROR, "unterminated quoted string"))
}

/// `X/X`: each half wraps at 32 bits, as the server's scanf does.
fn position(text: &str) -> Option<(Token, &str)> {
    let (high, rest) = run(text, |c| c.is_ascii_hexdigit());
    let (low, rest) = run(rest.strip_prefix('/')?, |c| c.is_ascii_hexdigit());
    let half = |digits: &str| {
        let tail = digits.len().saturating_sub(8);
        digits.get(tail..).and_then(|digits| u64::from_str_radix(digits, 16).ok())
    };
    Some((Token::Position(Lsn::new(half(high)? << 32 | half(low)?)), rest))
}

fn word(text: &str, first: char) -> (Token, &str) {
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    if first.is_ascii_digit() {
        let (digits, rest) = run(text, |c| c.is_ascii_digit());
        let number = digits.bytes().fold(0_u32, |number, digit| {
            number.wrapping_mul(10).wrapping_add(u32::from(digit.wrapping_sub(b'0')))
        });
        (Token::Number(number), rest)
    } else if starts(first) {
        let (word, rest) = run(text, |c| starts(c) || c.is_ascii_digit() || c == '$');
        (Token::Word(word.to_owned()), rest)
    } else {
        let rest = text.strip_prefix(first).unwrap_or_default();
        (Token::Char(first), rest)
    }
}

/// The characters at a text's start that fit, and the rest.
fn run(text: &str, fits: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !fits(c)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// An identifier as the server keeps it: cut to its length.
pub(super) fn truncated(name: &str) -> String {
    let mut end = name.len().min(MAX_IDENTIFIER);
    while !name.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    name.get(..end).unwrap_or_default().to_owned()
}
