//! `seawall`: parses the command line, calls `app`, chooses the exit code.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    if let Some(code) = app::run_waldump(env::args_os()) {
        return ExitCode::from(code);
    }
    match app::run(app::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where nobody listens, the exit code still says it.
            _ = writeln!(io::stderr(), "seawall: {failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}
