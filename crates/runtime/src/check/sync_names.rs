//! `synchronous_standby_names`, and what it means for one standby.
//!
//! The grammar is that of `replication/syncrep_gram.y` and `syncrep_scanner.l`, 10–18: `a, b`,
//! `2 (a, b)`, `FIRST 2 (a, b)`, `ANY 2 (a, b)`; names bare, quoted, or `*`; compared without
//! regard to case (`pg_strcasecmp`).

/// How commits wait, as the setting says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyncNames {
    /// Whether any so many of them do (ANY), or the first ones (FIRST).
    pub(super) any: bool,
    /// How many.
    pub(super) count: usize,
    /// Who, in order.
    pub(super) names: Vec<String>,
}

/// A standby's part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It isn't named: commits never wait for it.
    None,
    /// It may have to stand in: one of those before it is missing.
    Potential,
    /// Commits wait for it as soon as it streams.
    Synchronous,
    /// Commits wait for some, of which it may be one.
    Quorum,
}

impl SyncNames {
    /// Reads the setting; `None` where commits wait for nobody, or it can't be read, which a server
    /// never has.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut tokens = tokens(text)?.into_iter().peekable();
        let mut any = false;
        let mut count = None;
        let mut names = Vec::new();
        if let Some(Token::Word(word)) = tokens.peek() {
            let method = word.to_ascii_lowercase();
            if method == "any" || method == "first" {
                // Both are names, too, where no number follows.
                let word = word.clone();
                tokens.next();
                match tokens.peek() {
                    Some(Token::Word(number)) if is_number(number) => any = method == "any",
                    _ => names.push(word),
                }
            }
        }
        if names.is_empty()
            && let Some(Token::Word(number)) = tokens.peek()
            && is_number(number)
        {
            count = number.parse().ok();
            let number = number.clone();
            tokens.next();
            match tokens.next() {
                Some(Token::Open) => {}
                // A number is a name as well.
                Some(Token::Comma) | None => (count, names) = (None, vec![number]),
                Some(_) => return None,
            }
        }
        for token in tokens {
            match token {
                Token::Word(name) | Token::Quoted(name) => names.push(name),
                Token::Comma | Token::Open | Token::Close => {}
            }
        }
        let count = count.unwrap_or(1);
        (!names.is_empty()).then_some(Self { any, count, names })
    }

    /// The part of a standby with this name.
    pub(super) fn part(&self, name: &str) -> Part {
        let is_it = |other: &String| other == "*" || other.eq_ignore_ascii_case(name);
        match self.names.iter().position(is_it) {
            None => Part::None,
            Some(_) if self.any => Part::Quorum,
            Some(place) if place < self.count => Part::Synchronous,
            Some(_) => Part::Potential,
        }
    }

    /// Whether any standby at all is meant.
    pub(super) fn has_star(&self) -> bool {
        self.names.iter().any(|name| name == "*")
    }
}

enum Token {
    Word(String),
    Quoted(String),
    Comma,
    Open,
    Close,
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            ',' => tokens.push(Token::Comma),
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            '"' => {
                let mut name = String::new();
                loop {
                    match chars.next()? {
                        // A quote within is written twice.
                        '"' if chars.peek() == Some(&'"') => name.extend(chars.next()),
                        '"' => break,
                        other => name.push(other),
                    }
                }
                tokens.push(Token::Quoted(name));
            }
            char if char.is_ascii_whitespace() => {}
            char => {
                let mut word = String::from(char);
                let ends = |next: &char| next.is_ascii_whitespace() || ",()\"".contains(*next);
                while let Some(next) = chars.next_if(|next| !ends(next)) {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, part: Option<(usize, Part)>) {
        let names = SyncNames::parse(text);
        let found = names.map(|names| (names.count, names.part("seawall")));
        assert_eq!(found, part, "{text}");
    }

    #[test]
    fn each_form_is_read() {
        check("", None);
        check(" ", None);
        check("seawall", Some((1, Part::Synchronous)));
        check("SeaWall", Some((1, Part::Synchronous)));
        check("\"seawall\"", Some((1, Part::Synchronous)));
        check("other, seawall", Some((1, Part::Potential)));
        check("other", Some((1, Part::None)));
        check("*", Some((1, Part::Synchronous)));
        check("2 (other, seawall)", Some((2, Part::Synchronous)));
        check("FIRST 1 (other, seawall)", Some((1, Part::Potential)));
        check("any 1(other,seawall)", Some((1, Part::Quorum)));
        check("ANY 2 (a, \"se\"\"a\")", Some((2, Part::None)));
        // Names that look like something else.
        check("any", Some((1, Part::None)));
        check("first, seawall", Some((1, Part::Potential)));
        check("1, seawall", Some((1, Part::Potential)));
        check("\"unended", None);
    }
}
