//! The command lines of what keeps an archive in order.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{TalkArgs, duration};

/// `seawall verify`
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The archive's directory.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// Only this backup, those that it stands on, and WAL from there on. Several may be given.
    #[arg(long, value_name = "ID")]
    pub(crate) backup: Vec<String>,
    /// Also read what hasn't changed since it was verified.
    #[arg(long)]
    pub(crate) full: bool,
    /// How many threads read; as many as there are processors unless told otherwise.
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing where all is well.
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

/// `seawall repair`
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// The archive's directory.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// Where the segments may still be: another archive, or any directory that has them, compressed
    /// or not, a server's pg_wal for one. Several are asked one after the other.
    #[arg(long, value_name = "DIR", required_unless_present = "command")]
    pub(crate) from: Vec<PathBuf>,
    /// What brings a segment, as a server's restore_command does: %f is its name, %p where to put it.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
    /// Look for damage also in what hasn't changed since it was verified.
    #[arg(long)]
    pub(crate) full: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

/// `seawall expire`
#[derive(Debug, Args)]
pub(crate) struct ExpireArgs {
    /// The archive's directory.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// Keep so many base backups, the newest ones, and the WAL from there on.
    #[arg(long, value_name = "N", required_unless_present_any = ["keep_for", "backup", "release"])]
    pub(crate) keep_backups: Option<NonZeroUsize>,
    /// Keep what recovery to any moment of this last time needs: 12h, 7d. With both, what either
    /// keeps is kept.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) keep_for: Option<Duration>,
    /// Remove this backup, and no WAL; not while another one builds on it, or if nothing could be
    /// recovered without it.
    #[arg(long, value_name = "ID", conflicts_with_all = ["keep_backups", "keep_for", "release"])]
    pub(crate) backup: Option<String>,
    /// Let go what is held for a server that was restored, and has recovered: a name that `seawall
    /// list` tells.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["keep_backups", "keep_for"])]
    pub(crate) release: Option<String>,
    /// Say what would go and why, and remove nothing; so it is without --yes, too.
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
    /// Remove it, once what is kept has been verified.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
