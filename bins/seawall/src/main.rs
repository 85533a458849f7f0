//! `seawall`: parses the command line, calls `app`, chooses the exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match app::run(app::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            #[expect(clippy::print_stderr, reason = "the one place where a program says why")]
            {
                eprintln!("seawall: {failure}");
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}
