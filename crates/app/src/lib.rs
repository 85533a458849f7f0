//! The commands: what a user types, and what is shown.
//!
//! Flags are parsed purely first ([`Cli`]); then [`run`] takes effect and gives the exit code.
//! Decisions about WAL, the protocol or the archive aren't made here.

mod archive_wal;
mod board;
mod cli;
mod connect;
mod failure;
mod find;
mod gaps;
mod observer;
mod receive;
mod slot;
mod status;
mod terminal;

use std::ffi::OsString;

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
        cli::Command::Find(args) => find::run(&args),
        cli::Command::Gaps(args) => gaps::run(&args),
        cli::Command::Status(args) => status::run(&args),
        cli::Command::Slot(args) => slot::run(&args),
        cli::Command::Waldump(args) => match dump(args.args) {
            0 => Ok(()),
            _ => Err(Failure::failed("the dump ended early")),
        },
    }
}

/// Runs `seawall waldump`, if that is what was called, before clap sees its options: they are
/// pg_waldump's, and so are their rules. Gives the exit code.
#[must_use]
pub fn run_waldump(args: impl IntoIterator<Item = OsString>) -> Option<u8> {
    let mut args = args.into_iter().skip(1);
    let is_called = args.next().is_some_and(|command| command == "waldump");
    is_called.then(|| dump(args))
}

fn dump(args: impl IntoIterator<Item = OsString>) -> u8 {
    let name = OsString::from("seawall waldump");
    let args: Vec<OsString> = std::iter::once(name).chain(args).collect();
    waldump::run(waldump::Program::Seawall, &args)
}
