//! The replication commands as a server of 14–18 reads them (repl_gram.y): case-sensitive
//! keywords; options bare up to 14, in parentheses from 15, where a slot's may be bare too.
//!
//! What isn't a replication command at all is [`Command::Sql`]: a physical WAL sender refuses it.

mod backup;
mod compression;
mod lexer;

pub use backup::{BaseBackup, ManifestForm};
pub use compression::{Compression, Method};

use pg_types::{Lsn, TimelineId};

use self::backup::Value;
use self::lexer::{Token, tokens, truncated};
use super::response::Refusal;
use super::startup::parse_bool;
use crate::message::SqlState;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// IDENTIFY_SYSTEM
    IdentifySystem,
    /// SHOW, with the setting's name.
    Show(String),
    /// TIMELINE_HISTORY
    TimelineHistory(TimelineId),
    /// CREATE_REPLICATION_SLOT … PHYSICAL
    CreateSlot {
        /// Its name; nothing says yet that it may be one.
        name: String,
        /// Whether it goes with the connection.
        temporary: bool,
        /// Whether it keeps WAL from now on.
        reserve_wal: bool,
    },
    /// READ_REPLICATION_SLOT
    ReadSlot(String),
    /// DROP_REPLICATION_SLOT
    DropSlot {
        /// Its name.
        name: String,
        /// Whether to wait until nobody uses it.
        wait: bool,
    },
    /// START_REPLICATION
    Start {
        /// The slot, if there is one.
        slot: Option<String>,
        /// From where.
        at: Lsn,
        /// On which timeline; the newest unless it is said.
        timeline: Option<TimelineId>,
    },
    /// BASE_BACKUP
    BaseBackup(BaseBackup),
    /// A replication command that only logical or incremental clients send; its name.
    Other(&'static str),
    /// Anything else.
    Sql,
}

/// Reads a command as a server of this major version does.
///
/// # Errors
/// What the server would say of it.
pub fn parse(text: &str, major: u32) -> Result<Command, Refusal> {
    let mut parser = Parser { tokens: tokens(text)?.into_iter().peekable(), major };
    let Some(Token::Word(command)) = parser.tokens.next() else { return Ok(Command::Sql) };
    let command = match command.as_str() {
        "IDENTIFY_SYSTEM" => Command::IdentifySystem,
        "SHOW" => Command::Show(parser.setting()?),
        "TIMELINE_HISTORY" => Command::TimelineHistory(parser.timeline()?),
        "CREATE_REPLICATION_SLOT" => parser.create_slot()?,
        "READ_REPLICATION_SLOT" if major >= 15 => Command::ReadSlot(parser.name()?),
        "DROP_REPLICATION_SLOT" => {
            Command::DropSlot { name: parser.name()?, wait: parser.keyword("WAIT") }
        }
        "START_REPLICATION" => parser.start()?,
        "BASE_BACKUP" => Command::BaseBackup(parser.base_backup()?),
        // What follows isn't looked at: the answer doesn't depend on it.
        "UPLOAD_MANIFEST" if major >= 17 => return Ok(Command::Other("UPLOAD_MANIFEST")),
        "ALTER_REPLICATION_SLOT" if major >= 17 => {
            return Ok(Command::Other("ALTER_REPLICATION_SLOT"));
        }
        _ => return Ok(Command::Sql),
    };
    match command {
        Command::Other(_) => Ok(command),
        command => parser.at_end().map(|()| command),
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    major: u32,
}

/// Words that can't be names (the keywords of repl_scanner.l that 14 has, too).
const KEYWORDS: [&str; 16] = [
    "BASE_BACKUP",
    "IDENTIFY_SYSTEM",
    "SHOW",
    "READ_REPLICATION_SLOT",
    "START_REPLICATION",
    "CREATE_REPLICATION_SLOT",
    "DROP_REPLICATION_SLOT",
    "TIMELINE_HISTORY",
    "PHYSICAL",
    "RESERVE_WAL",
    "LOGICAL",
    "SLOT",
    "TEMPORARY",
    "TIMELINE",
    "WAIT",
    "TWO_PHASE",
];

impl Parser {
    /// Nothing follows but a semicolon.
    fn at_end(&mut self) -> Result<(), Refusal> {
        self.character(';');
        self.tokens.peek().map_or(Ok(()), |_| Err(syntax()))
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        self.tokens.next_if(|token| matches!(token, Token::Word(word) if word == keyword)).is_some()
    }

    fn character(&mut self, character: char) -> bool {
        self.tokens.next_if_eq(&Token::Char(character)).is_some()
    }

    /// An identifier: folded to lower case unless it is quoted.
    fn name(&mut self) -> Result<String, Refusal> {
        match self.tokens.next() {
            Some(Token::Word(word)) if !KEYWORDS.contains(&word.as_str()) => {
                Ok(truncated(&word.to_ascii_lowercase()))
            }
            Some(Token::Quoted(name)) => Ok(truncated(&name)),
            _ => Err(syntax()),
        }
    }

    /// A setting's name, which may have dots in it.
    fn setting(&mut self) -> Result<String, Refusal> {
        let mut name = self.name()?;
        while self.character('.') {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Ok(name)
    }

    fn timeline(&mut self) -> Result<TimelineId, Refusal> {
        let Some(Token::Number(number)) = self.tokens.next() else { return Err(syntax()) };
        TimelineId::new(number)
            .ok_or_else(|| Refusal::error(SqlState::SYNTAX_ERROR, "invalid timeline 0"))
    }

    fn create_slot(&mut self) -> Result<Command, Refusal> {
        let name = self.name()?;
        let temporary = self.keyword("TEMPORARY");
        if self.keyword("LOGICAL") {
            return Ok(Command::Other("CREATE_REPLICATION_SLOT ... LOGICAL"));
        }
        if !self.keyword("PHYSICAL") {
            return Err(syntax());
        }
        let reserve_wal = if self.major >= 15 && self.character('(') {
            self.slot_options()?
        } else {
            let mut given = false;
            while self.keyword("RESERVE_WAL") {
                if std::mem::replace(&mut given, true) {
                    return Err(redundant());
                }
            }
            given
        };
        Ok(Command::CreateSlot { name, temporary, reserve_wal })
    }

    /// `RESERVE_WAL [boolean] [, …] )`
    fn slot_options(&mut self) -> Result<bool, Refusal> {
        let mut reserve_wal = None;
        loop {
            let (name, value) = self.option()?;
            match name.as_str() {
                "reserve_wal" if reserve_wal.is_none() => {
                    reserve_wal = Some(value.map_or(Ok(true), |value| boolean(&name, &value))?);
                }
                // These are for logical slots.
                "reserve_wal" | "snapshot" | "two_phase" | "failover" => return Err(redundant()),
                _ => {
                    let message = format!("unrecognized option: {name}");
                    return Err(Refusal::error(SqlState::INTERNAL_ERROR, message));
                }
            }
            if self.character(')') {
                return Ok(reserve_wal.unwrap_or(false));
            }
            if !self.character(',') {
                return Err(syntax());
            }
        }
    }

    /// An option in parentheses: its name in lower case, and its value.
    fn option(&mut self) -> Result<(String, Option<Value>), Refusal> {
        let name = match self.tokens.next() {
            Some(Token::Word(word)) => word.to_ascii_lowercase(),
            Some(Token::Quoted(name)) => name,
            _ => return Err(syntax()),
        };
        let is_value = |token: &Token| !matches!(token, Token::Char(_) | Token::Position(_));
        let value = self.tokens.next_if(is_value).and_then(|token| match token {
            Token::Word(text) | Token::Quoted(text) | Token::Text(text) => Some(Value::Text(text)),
            Token::Number(number) => Some(Value::Number(number)),
            Token::Position(_) | Token::Char(_) => None,
        });
        Ok((name, value))
    }

    fn start(&mut self) -> Result<Command, Refusal> {
        let slot = if self.keyword("SLOT") { Some(self.name()?) } else { None };
        if slot.is_some() && self.keyword("LOGICAL") {
            return Ok(Command::Other("START_REPLICATION ... LOGICAL"));
        }
        self.keyword("PHYSICAL");
        let Some(Token::Position(at)) = self.tokens.next() else { return Err(syntax()) };
        let timeline = if self.keyword("TIMELINE") { Some(self.timeline()?) } else { None };
        Ok(Command::Start { slot, at, timeline })
    }
}

fn syntax() -> Refusal {
    Refusal::error(SqlState::SYNTAX_ERROR, "syntax error")
}

fn redundant() -> Refusal {
    Refusal::error(SqlState::SYNTAX_ERROR, "conflicting or redundant options")
}

/// An option's boolean (`defGetBoolean`).
fn boolean(name: &str, value: &Value) -> Result<bool, Refusal> {
    let read = match value {
        Value::Number(0) => Some(false),
        Value::Number(1) => Some(true),
        Value::Number(_) => None,
        // Whole words only.
        Value::Text(text) => {
            parse_bool(text).filter(|_| text.len() > 1 && !text.eq_ignore_ascii_case("yes"))
        }
    };
    let message = || format!("{name} requires a Boolean value");
    read.ok_or_else(|| Refusal::error(SqlState::SYNTAX_ERROR, message()))
}

#[cfg(test)]
mod tests;
