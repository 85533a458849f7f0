//! `seawall`: parses the command line, calls `app`, chooses the exit code.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = app::run_waldump(env::args_os()) {
        return code;
    }
    match app::run(app::Cli::of_process()) {
        Ok(code) => code,
        Err(failure) => {
            // Where nobody listens, the exit code still says it.
            if !failure.is_quiet() {
                _ = writeln!(io::stderr(), "seawall: {failure}");
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}
