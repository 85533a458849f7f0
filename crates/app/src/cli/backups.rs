//! The command lines of what has to do with base backups.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use pg_types::Lsn;
use pg_wire::base_backup::{Label, MAX_RATE_KB};
use pg_wire::command::SlotName;

use super::{ConnectionArgs, TalkArgs, duration, slot_name};

/// How a backup's checkpoint is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Checkpoint {
    /// At once.
    Fast,
    /// Spread over its usual time.
    Spread,
}

/// `seawall backup`
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The archive's directory; it is made if it doesn't exist.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// Whether the checkpoint that it begins with is hurried.
    #[arg(short = 'c', long, value_enum, default_value = "spread")]
    pub(crate) checkpoint: Checkpoint,
    /// Take only what has changed since an earlier backup, the newest one or the one of this name;
    /// from PostgreSQL 17 on, with summarize_wal = on. It is of no use without that one.
    #[arg(short = 'i', long, value_name = "ID", num_args = 0..=1, require_equals = true)]
    pub(crate) incremental: Option<Option<String>>,
    /// Compress it: zstd, lz4 or gzip.
    #[arg(short = 'Z', long, value_name = "METHOD")]
    pub(crate) compress: Option<archive::Method>,
    /// What to call it.
    #[arg(short = 'l', long, default_value = "seawall backup", value_parser = label)]
    pub(crate) label: Label,
    /// The most that the server sends: kilobytes per second, or as 10M.
    #[arg(short = 'r', long, value_name = "RATE", value_parser = rate)]
    pub(crate) max_rate: Option<u32>,
    /// Say how far it is.
    #[arg(short = 'P', long)]
    pub(crate) progress: bool,
    /// The sums in the manifest: NONE, CRC32C, SHA224, SHA256, SHA384, SHA512.
    #[arg(long, value_name = "ALGORITHM", default_value = "CRC32C", value_parser = algorithm)]
    pub(crate) manifest_checksums: backup::Algorithm,
    /// Print what the backup is as one JSON object, in place of its name.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

/// `seawall restore`
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The archive's directory.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// The data directory to make; it has to be empty, or not to exist.
    #[arg(short = 'D', long, value_name = "PGDATA")]
    pub(crate) pgdata: PathBuf,
    /// From this backup; the newest one before the target unless told otherwise.
    #[arg(long, value_name = "ID")]
    pub(crate) backup: Option<String>,
    /// Rename what is there aside, tablespaces included.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Put the tablespace that was in OLD into NEW; `\=` stands for a `=` in a name.
    #[arg(short = 'T', long, value_name = "OLD=NEW", value_parser = mapping)]
    pub(crate) tablespace_mapping: Vec<(PathBuf, PathBuf)>,
    /// Put pg_wal there.
    #[arg(long, value_name = "DIR")]
    pub(crate) waldir: Option<PathBuf>,
    /// How many threads write; as many as there are processors, and four at the least, unless told
    /// otherwise.
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Hold the WAL that the new server's recovery needs for so long, whatever expires meanwhile: 12h,
    /// 7d; 0 for not at all.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = hold_time)]
    pub(crate) hold: Duration,
    /// What the server runs to get WAL, in place of `seawall restore-wal` with this archive.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) restore_command: Option<String>,
    #[command(flatten)]
    pub(crate) standby: StandbyArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

/// What a restored standby follows.
#[derive(Debug, Args)]
#[command(next_help_heading = "Standby")]
pub(crate) struct StandbyArgs {
    /// Make a standby.
    #[arg(long, conflicts_with = "target")]
    pub(crate) standby: bool,
    /// Its primary.
    #[arg(long, value_name = "CONNSTR", requires = "standby")]
    pub(crate) primary_conninfo: Option<String>,
    /// The slot there.
    #[arg(long, value_name = "SLOT", requires = "standby", value_parser = slot_name)]
    pub(crate) primary_slot: Option<SlotName>,
}

/// Where recovery ends; at the end of all WAL unless told otherwise.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub(crate) struct TargetArgs {
    /// Before the first commit later than this, with its zone: "2026-01-31 12:00:00+01".
    #[arg(long, value_name = "TIME", group = "target")]
    pub(crate) target_time: Option<String>,
    /// At the record that starts here or behind.
    #[arg(long, value_name = "LSN", group = "target")]
    pub(crate) target_lsn: Option<Lsn>,
    /// At the end of this transaction.
    #[arg(long, value_name = "XID", group = "target")]
    pub(crate) target_xid: Option<u64>,
    /// At this restore point.
    #[arg(long, value_name = "NAME", group = "target")]
    pub(crate) target_name: Option<String>,
    /// As soon as the backup is consistent.
    #[arg(long, group = "target")]
    pub(crate) target_immediate: bool,
    /// On this timeline: its number, `latest` for the newest that is archived, or `current` for the
    /// backup's own.
    #[arg(long, value_name = "TLI", default_value = "latest", value_parser = timeline)]
    pub(crate) target_timeline: TargetTimeline,
    /// What is done there; the server pauses unless told otherwise.
    #[arg(long, value_enum, value_name = "ACTION", requires = "target")]
    pub(crate) target_action: Option<TargetAction>,
    /// Stop before the target and not behind it.
    #[arg(long, requires = "target", conflicts_with_all = ["target_name", "target_immediate"])]
    pub(crate) target_exclusive: bool,
}

/// On which timeline recovery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetTimeline {
    /// The newest that is archived.
    Latest,
    /// The backup's own.
    Current,
    /// This one.
    Number(pg_types::TimelineId),
}

/// What a server does at its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetAction {
    /// Waits, and lets itself be read from.
    Pause,
    /// Becomes a primary.
    Promote,
    /// Shuts down.
    Shutdown,
}

impl TargetAction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        }
    }
}

/// `seawall list`
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The archive's directory.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

fn hold_time(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text) }
}

fn label(text: &str) -> Result<Label, String> {
    Label::new(text).map_err(|error| error.to_string())
}

fn algorithm(text: &str) -> Result<backup::Algorithm, String> {
    let known = backup::Algorithm::parse(text);
    known.ok_or_else(|| "NONE, CRC32C, SHA224, SHA256, SHA384 and SHA512 are known".to_owned())
}

/// Kilobytes per second, or with the suffixes that pg_basebackup takes.
fn rate(text: &str) -> Result<u32, String> {
    let (digits, factor) = match text.strip_suffix('M') {
        Some(digits) => (digits, 1024),
        None => (text.strip_suffix('k').unwrap_or(text), 1),
    };
    let rate = digits.parse::<u32>().ok().and_then(|rate| rate.checked_mul(factor));
    rate.filter(|rate| MAX_RATE_KB.contains(rate)).ok_or_else(|| {
        "expected kilobytes per second, or as 100k or 10M, from 32k to 1024M".to_owned()
    })
}

fn timeline(text: &str) -> Result<TargetTimeline, String> {
    match text {
        "latest" => Ok(TargetTimeline::Latest),
        "current" => Ok(TargetTimeline::Current),
        number => {
            let number = number.parse().ok().and_then(pg_types::TimelineId::new);
            let number = number.map(TargetTimeline::Number);
            number.ok_or_else(|| "expected a timeline's number, latest or current".to_owned())
        }
    }
}

/// `OLD=NEW`, both absolute, as pg_basebackup takes it.
fn mapping(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, parts.last_mut()) {
            ('\\', Some(part)) if chars.next_if_eq(&'=').is_some() => part.push('='),
            ('=', _) => parts.push(String::new()),
            (c, Some(part)) => part.push(c),
            (_, None) => {}
        }
    }
    match parts.as_slice() {
        [old, new] => {
            let (old, new) = (PathBuf::from(old), PathBuf::from(new));
            if old.is_absolute() && new.is_absolute() {
                return Ok((old, new));
            }
            Err("both directories have to be absolute".to_owned())
        }
        _ => Err("expected OLD=NEW".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_as_pg_basebackup_takes_them() {
        for (text, expect) in [("32", Some(32)), ("100k", Some(100)), ("10M", Some(10_240))] {
            assert_eq!(rate(text).ok(), expect);
        }
        for text in ["31", "1025M", "1G", "", "k", "-1", "99999999M"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mappings_as_pg_basebackup_takes_them() {
        let pair = |old: &str, new: &str| Some((PathBuf::from(old), PathBuf::from(new)));
        assert_eq!(mapping("/a=/b").ok(), pair("/a", "/b"));
        assert_eq!(mapping(r"/a\=b=/c").ok(), pair("/a=b", "/c"));
        for text in ["/a", "a=/b", "/a=b", "/a=/b=/c"] {
            assert!(mapping(text).is_err(), "{text}");
        }
    }
}
