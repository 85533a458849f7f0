//! `seawall`: parses the command line, calls `app`, chooses the exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match app::run(app::Cli::parse()) {
        Ok(code) => code,
        Err(failure) => {
            // Where nobody listens, the exit code still says it.
            _ = writeln!(io::stderr(), "seawall: {failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}
