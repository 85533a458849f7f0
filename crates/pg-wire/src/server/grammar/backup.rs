//! BASE_BACKUP: bare words up to 14, a list in parentheses from 15 (repl_gram.y), and what its
//! options have to be (`parse_basebackup_options`, `backup/basebackup.c`, 14–18).

use super::compression::{Compression, Method, specification};
use super::lexer::Token;
use super::{Parser, boolean, syntax};
use crate::base_backup::{MAX_LABEL_LEN, MAX_RATE_KB};
use crate::message::SqlState;
use crate::server::response::Refusal;
use crate::server::startup::parse_bool;

/// What an option is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A string or a word.
    Text(String),
    /// A number.
    Number(u32),
}

/// A BASE_BACKUP. What says when the server makes its checkpoint, whether it verifies
/// pages and whether it waits for WAL to be archived is held against the rules, and not kept: a
/// stored backup has all that behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseBackup {
    /// What `backup_label` is to say.
    pub label: String,
    /// Whether sizes are told.
    pub progress: bool,
    /// Whether the WAL that the backup needs comes with it.
    pub wal: bool,
    /// The most that is sent, in kilobytes per second; within [`MAX_RATE_KB`].
    pub max_rate_kb: Option<u32>,
    /// Whether the tablespaces' links come as a file, `tablespace_map`, or as links.
    pub tablespace_map: bool,
    /// How the manifest is to be, if there is to be one.
    pub manifest: Option<ManifestForm>,
    /// How the archives are compressed.
    pub compression: Option<Compression>,
    /// Whether the client gets it; otherwise nobody does, and it is only read.
    pub to_client: bool,
}

/// How a manifest is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestForm {
    /// The sums of its files, as the manifest names them.
    pub checksums: &'static str,
    /// Whether all paths are in hex.
    pub force_encode: bool,
}

/// The sums that a manifest may have (`common/checksum_helper.c`).
const CHECKSUMS: [&str; 6] = ["NONE", "CRC32C", "SHA224", "SHA256", "SHA384", "SHA512"];
/// What they are if nothing is said.
const DEFAULT_CHECKSUMS: &str = "CRC32C";
/// The label if none is given.
const DEFAULT_LABEL: &str = "base backup";
/// The first major version that knows INCREMENTAL.
const INCREMENTAL_SINCE_MAJOR: u32 = 17;

/// An option by its name in lower case.
type Options = Vec<(String, Option<Value>)>;

fn refuse<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::error(SqlState::SYNTAX_ERROR, text))
}

impl Parser {
    pub(super) fn base_backup(&mut self) -> Result<BaseBackup, Refusal> {
        let mut options = Options::new();
        if self.major < 15 {
            while let Some(option) = self.bare_option()? {
                options.push(option);
            }
        } else if self.character('(') {
            loop {
                options.push(self.option()?);
                if self.character(')') {
                    break;
                }
                if !self.character(',') {
                    return Err(syntax());
                }
            }
        }
        // Nothing is said of an option before all of the command is read.
        self.at_end()?;
        Read::new(self.major).all(options)
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
        Ok(Some((word.to_ascii_lowercase(), value)))
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

/// The options that were read so far.
struct Read {
    major: u32,
    names: Vec<String>,
    backup: BaseBackup,
    force_encode: Option<bool>,
    checksums: Option<&'static str>,
    target: Option<String>,
    target_detail: Option<String>,
    method: Option<Method>,
    detail: Option<String>,
    incremental: bool,
}

impl Read {
    fn new(major: u32) -> Self {
        let backup = BaseBackup {
            label: DEFAULT_LABEL.to_owned(),
            progress: false,
            wal: false,
            max_rate_kb: None,
            tablespace_map: false,
            manifest: None,
            compression: None,
            to_client: true,
        };
        Self {
            major,
            names: Vec::new(),
            backup,
            force_encode: None,
            checksums: None,
            target: None,
            target_detail: None,
            method: None,
            detail: None,
            incremental: false,
        }
    }

    fn all(mut self, options: Options) -> Result<BaseBackup, Refusal> {
        for (name, value) in options {
            self.option(&name, value.as_ref())?;
            self.names.push(name);
        }
        self.finish()
    }

    fn option(&mut self, name: &str, value: Option<&Value>) -> Result<(), Refusal> {
        let flag = || value.map_or(Ok(true), |value| boolean(name, value));
        let text = || match value {
            Some(Value::Text(text)) => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            None => refuse(format!("{name} requires a parameter")),
        };
        if self.names.iter().any(|other| other == name) {
            return refuse(format!("duplicate option \"{name}\""));
        }
        let backup = &mut self.backup;
        match name {
            "label" => backup.label = text()?,
            "progress" => backup.progress = flag()?,
            "wal" => backup.wal = flag()?,
            "tablespace_map" => backup.tablespace_map = flag()?,
            "max_rate" => backup.max_rate_kb = Some(rate(value)?),
            "wait" | "verify_checksums" => _ = flag()?,
            "fast" | "nowait" | "noverify_checksums" if self.major < 15 => {}
            "checkpoint" => {
                let kind = text()?;
                if !["fast", "spread"].iter().any(|known| kind.eq_ignore_ascii_case(known)) {
                    return refuse(format!("unrecognized checkpoint type: \"{kind}\""));
                }
            }
            "manifest" => {
                let kind = text()?;
                self.force_encode = match parse_bool(&kind) {
                    Some(wanted) => wanted.then_some(false),
                    None if kind.eq_ignore_ascii_case("force-encode") => Some(true),
                    None => return refuse(format!("unrecognized manifest option: \"{kind}\"")),
                };
            }
            "manifest_checksums" => {
                let name = text()?;
                let known = CHECKSUMS.into_iter().find(|known| name.eq_ignore_ascii_case(known));
                if known.is_none() {
                    return refuse(format!("unrecognized checksum algorithm: \"{name}\""));
                }
                self.checksums = known;
            }
            "target" => self.target = Some(text()?),
            "target_detail" => self.target_detail = Some(text()?),
            "compression" => {
                let name = text()?;
                let method = Method::parse(&name);
                if method.is_none() {
                    return refuse(format!("unrecognized compression algorithm: \"{name}\""));
                }
                self.method = method;
            }
            "compression_detail" => self.detail = Some(text()?),
            "incremental" if self.major >= INCREMENTAL_SINCE_MAJOR => self.incremental = flag()?,
            _ => return refuse(format!("unrecognized base backup option: \"{name}\"")),
        }
        Ok(())
    }

    /// What the options have to be together.
    fn finish(mut self) -> Result<BaseBackup, Refusal> {
        if self.force_encode.is_none() && self.checksums.is_some() {
            return refuse("manifest checksums require a backup manifest");
        }
        let checksums = self.checksums.unwrap_or(DEFAULT_CHECKSUMS);
        self.backup.manifest =
            self.force_encode.map(|force_encode| ManifestForm { checksums, force_encode });
        self.backup.to_client = target(self.target.as_deref(), self.target_detail.as_deref())?;
        self.backup.compression = match (self.method, self.detail.as_deref()) {
            (None, None) => None,
            (None, Some(_)) => {
                let text = "compression detail cannot be specified unless compression is enabled";
                return refuse(text);
            }
            (Some(method), detail) => specification(method, detail, self.major)
                .or_else(|why| refuse(format!("invalid compression specification: {why}")))?,
        };
        let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
        if self.incremental {
            let text = "incremental backups cannot be taken unless WAL summarization is enabled";
            return Err(Refusal::error(state, text));
        }
        if self.backup.label.len() > MAX_LABEL_LEN {
            let text = format!("backup label too long (max {MAX_LABEL_LEN} bytes)");
            return Err(Refusal::error(SqlState::INVALID_PARAMETER_VALUE, text));
        }
        Ok(self.backup)
    }
}

fn rate(value: Option<&Value>) -> Result<u32, Refusal> {
    match value {
        Some(Value::Number(rate)) if MAX_RATE_KB.contains(rate) => Ok(*rate),
        Some(Value::Number(rate)) => {
            let (least, most) = (MAX_RATE_KB.start(), MAX_RATE_KB.end());
            let text = format!(
                "{} is outside the valid range for parameter \"MAX_RATE\" ({least} .. {most})",
                rate.cast_signed()
            );
            Err(Refusal::error(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, text))
        }
        _ => refuse("max_rate requires a numeric value"),
    }
}

/// Whether it is to go to the client; otherwise to nobody.
fn target(target: Option<&str>, detail: Option<&str>) -> Result<bool, Refusal> {
    let unsupported = |text: String| Err(Refusal::error(SqlState::FEATURE_NOT_SUPPORTED, text));
    match (target, detail) {
        (None | Some("client"), None) => Ok(true),
        (Some("blackhole"), None) => Ok(false),
        (None, Some(_)) => refuse("target detail cannot be used without target"),
        (Some(target @ ("client" | "blackhole")), Some(_)) => {
            refuse(format!("target \"{target}\" does not accept a target detail"))
        }
        (Some("server"), None) => refuse("target \"server\" requires a target detail"),
        (Some("server"), _) => unsupported(
            "target \"server\" isn't served by seawall: it sends to the client".to_owned(),
        ),
        (Some(target), _) => unsupported(format!("unrecognized target: \"{target}\"")),
    }
}
