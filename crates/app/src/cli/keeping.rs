//! The command lines of what keeps an archive in order.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::duration;

/// `seawall verify`
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The archive's directory.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// Also read what hasn't changed since it was verified.
    #[arg(long)]
    pub(crate) full: bool,
    /// How many threads read; as many as there are processors unless told otherwise.
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `seawall expire`
#[derive(Debug, Args)]
pub(crate) struct ExpireArgs {
    /// The archive's directory.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// Keep so many base backups, the newest ones, and the WAL from there on.
    #[arg(long, value_name = "N", required_unless_present = "keep_for")]
    pub(crate) keep_backups: Option<NonZeroUsize>,
    /// Keep what recovery to any moment of this last time needs: 12h, 7d. With both, what either
    /// keeps is kept.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) keep_for: Option<Duration>,
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
