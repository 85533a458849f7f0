//! `pg_waldump`, as PostgreSQL's own, for the WAL of every version: hands its arguments on, and
//! ends with the exit code that it is given.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use waldump::Program;

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    ExitCode::from(waldump::run(Program::DropIn, &args))
}
