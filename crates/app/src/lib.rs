//! The commands: what a user types, and what is shown.
//!
//! Flags are parsed purely first ([`Cli`]); then [`run`] takes effect and gives the exit code.
//! Decisions about WAL, the protocol or the archive aren't made here.

use std::ffi::OsString;
use std::process::ExitCode;

mod adopt;
mod archive_wal;
mod backup;
mod board;
mod check;
mod cli;
mod compress;
mod connect;
mod expire;
mod expire_named;
mod failure;
mod find;
mod gaps;
mod init;
mod list;
mod log;
mod observer;
mod receive;
mod repair;
mod restore;
mod restore_wal;
mod serve;
mod serve_backup;
mod service;
mod slot;
mod status;
mod terminal;
mod timelines;
mod user;
mod verify;

pub use cli::Cli;
pub use failure::{Exit, Failure};

/// Runs what was asked for; gives what the process ends with.
///
/// # Errors
/// What went wrong, with the exit code that says of which kind it is.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let done = match cli.command {
        // What it found is its exit code.
        cli::Command::Check(args) => return check::run(&args),
        cli::Command::Verify(args) => return verify::run(&args),
        cli::Command::Init(args) => init::run(&args),
        cli::Command::Receive(args) => receive::run(&args),
        cli::Command::Backup(args) => backup::run(&args),
        cli::Command::Restore(args) => restore::run(&args),
        cli::Command::List(args) => list::run(&args),
        cli::Command::ArchiveWal(args) => archive_wal::run(&args),
        cli::Command::Adopt(args) => adopt::run(&args),
        cli::Command::RestoreWal(args) => restore_wal::run(&args),
        cli::Command::Expire(args) => expire::run(&args),
        cli::Command::Repair(args) => repair::run(&args),
        cli::Command::Find(args) => find::run(&args),
        cli::Command::Gaps(args) => gaps::run(&args),
        cli::Command::Status(args) => status::run(&args),
        cli::Command::Serve(args) => serve::run(&args),
        cli::Command::User(args) => user::run(&args),
        cli::Command::Slot(args) => slot::run(&args),
        cli::Command::Waldump(args) => return Ok(dump(args.args)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Runs `seawall waldump`, if that is what was called, before clap sees its options: they are
/// pg_waldump's, and so are their rules. Gives the exit code.
#[must_use]
pub fn run_waldump(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter().skip(1);
    let is_called = args.next().is_some_and(|command| command == "waldump");
    is_called.then(|| dump(args))
}

fn dump(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let name = OsString::from("seawall waldump");
    let args: Vec<OsString> = std::iter::once(name).chain(args).collect();
    ExitCode::from(waldump::run(waldump::Program::Seawall, &args))
}
