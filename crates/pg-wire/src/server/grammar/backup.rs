//! BASE_BACKUP: bare words up to 14, a list in parentheses from 15.

use super::lexer::Token;
use super::{Parser, boolean, syntax};
use crate::message::SqlState;
use crate::server::response::Refusal;

/// What an option is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string or a word.
    Text(String),
    /// A number.
    Number(u32),
}

/// The slowest and the fastest that a backup may be sent, KiB a second
/// (`MAX_RATE_LOWER`, `MAX_RATE_UPPER`, backup/basebackup.h).
const MAX_RATE: std::ops::RangeInclusive<u32> = 32..=1_048_576;

/// A BASE_BACKUP, its options by their names from 15 on, in lower case, each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseBackup {
    /// The options in their order.
    pub options: Vec<(String, Option<Value>)>,
}

impl Parser {
    pub(super) fn base_backup(&mut self) -> Result<BaseBackup, Refusal> {
        let mut backup = BaseBackup::default();
        if self.major < 15 {
            while let Some((name, value)) = self.bare_option()? {
                backup.add(name, value)?;
            }
        } else if self.character('(') {
            loop {
                let (name, value) = self.option()?;
                backup.add(name, value)?;
                if self.character(')') {
                    break;
                }
                if !self.character(',') {
                    return Err(syntax());
                }
            }
        }
        Ok(backup)
    }

    fn bare_option(&mut self) -> Result<Option<(String, Option<Value>)>, Refusal> {
        let known = |token: &Token| matches!(token, Token::Word(word) if takes(word).is_some());
        let Some(Token::Word(word)) = self.tokens.next_if(known) else { return Ok(None) };
        let value = match (takes(&word), self.tokens.peek()) {
            (Some(Takes::Text), Some(Token::Text(text))) => Some(Value::Text(text.clone())),
            (Some(Takes::Number), Some(Token::Number(number))) => Some(Value::Number(*number)),
            (Some(Takes::Nothing), _) => None,
            _ => return Err(syntax()),
        };
        if value.is_some() {
            self.tokens.next();
        }
        Ok(Some(match word.as_str() {
            "FAST" => ("checkpoint".to_owned(), Some(Value::Text("fast".to_owned()))),
            "NOWAIT" => ("wait".to_owned(), Some(Value::Number(0))),
            "NOVERIFY_CHECKSUMS" => ("verify_checksums".to_owned(), Some(Value::Number(0))),
            word => (word.to_ascii_lowercase(), value),
        }))
    }
}

enum Takes {
    Nothing,
    Text,
    Number,
}

/// What an option of 14's grammar takes; `None` if it isn't one.
fn takes(word: &str) -> Option<Takes> {
    match word {
        "PROGRESS" | "FAST" | "NOWAIT" | "WAL" | "TABLESPACE_MAP" | "NOVERIFY_CHECKSUMS" => {
            Some(Takes::Nothing)
        }
        "LABEL" | "MANIFEST" | "MANIFEST_CHECKSUMS" => Some(Takes::Text),
        "MAX_RATE" => Some(Takes::Number),
        _ => None,
    }
}

impl BaseBackup {
    /// Adds an option; one that can't be, or comes twice, is refused.
    fn add(&mut self, name: String, value: Option<Value>) -> Result<(), Refusal> {
        let refuse = |text: String| Err(Refusal::error(SqlState::SYNTAX_ERROR, text));
        match name.as_str() {
            "progress" | "wait" | "wal" | "tablespace_map" | "verify_checksums" | "incremental" => {
                if let Some(value) = &value {
                    boolean(&name, value)?;
                }
            }
            "label" | "checkpoint" | "manifest" | "manifest_checksums" | "target"
            | "target_detail" | "compression" | "compression_detail" | "max_rate" => {
                if value.is_none() {
                    return refuse(format!("{name} requires a parameter"));
                }
            }
            _ => return refuse(format!("unrecognized base backup option: \"{name}\"")),
        }
        if self.options.iter().any(|(other, _)| *other == name) {
            return refuse(format!("duplicate option \"{name}\""));
        }
        match (name.as_str(), &value) {
            ("max_rate", Some(Value::Number(rate))) if !MAX_RATE.contains(rate) => {
                let (least, most) = (MAX_RATE.start(), MAX_RATE.end());
                let text = format!(
                    "{rate} is outside the valid range for parameter \"MAX_RATE\" ({least} .. {most})"
                );
                return Err(Refusal::error(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, text));
            }
            ("checkpoint", Some(Value::Text(kind))) if kind != "fast" && kind != "spread" => {
                return refuse(format!("unrecognized checkpoint type: \"{kind}\""));
            }
            ("manifest", Some(Value::Text(kind)))
                if !matches!(kind.as_str(), "yes" | "no" | "force-encode" | "true" | "false") =>
            {
                return refuse(format!("unrecognized manifest option: \"{kind}\""));
            }
            _ => {}
        }
        self.options.push((name, value));
        Ok(())
    }
}
