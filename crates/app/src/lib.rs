//! The commands: what a user types, and what is shown.
//!
//! Flags are parsed purely first ([`Cli`]); then [`run`] takes effect and gives the exit code.
//! Decisions about WAL, the protocol or the archive aren't made here.

mod adopt;
mod archive_wal;
mod board;
mod cli;
mod connect;
mod failure;
mod find;
mod gaps;
mod observer;
mod quoting;
mod receive;
mod restore_wal;
mod slot;
mod status;
mod terminal;

pub use cli::Cli;
pub use failure::{Exit, Failure};

/// Runs what was asked for.
///
/// # Errors
/// What went wrong, with the exit code that says of which kind it is.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        cli::Command::Receive(args) => receive::run(&args),
        cli::Command::ArchiveWal(args) => archive_wal::run(&args),
        cli::Command::Adopt(args) => adopt::run(&args),
        cli::Command::RestoreWal(args) => restore_wal::run(&args),
        cli::Command::Find(args) => find::run(&args),
        cli::Command::Gaps(args) => gaps::run(&args),
        cli::Command::Status(args) => status::run(&args),
        cli::Command::Slot(args) => slot::run(&args),
    }
}
