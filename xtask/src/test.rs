//! `cargo xtask test`: what CI runs, and what a change has to pass.

use anyhow::{Result, bail};

use crate::steps::{Steps, run};
use crate::{cargo, fetch, no_c};

struct Options {
    full: bool,
    filter: Option<String>,
}

/// Takes every step, even after one has failed, and fails at the end if any did.
fn run_all(options: &Options) -> Result<()> {
    let mut steps = Steps::default();
    if options.filter.is_none() {
        check_sources(&mut steps);
    }
    steps.take("servers", fetch);
    steps.take("build", || run(cargo().args(["build", "--workspace", "--bins"])));
    steps.take("tests", || {
        let mut test = cargo();
        test.args(["test", "--workspace", "--no-fail-fast"]).args(&options.filter);
        if options.full {
            test.env("SEAWALL_FULL", "1");
        }
        run(&mut test)
    });
    testkit::scratch::sweep()?;
    steps.finish()
}

/// What needs no running program: the cheapest first.
fn check_sources(steps: &mut Steps) {
    steps.take("format", || {
        has_component("fmt", "rustfmt")?;
        run(cargo().args(["fmt", "--all", "--check"]))
    });
    steps.take("no C", no_c::check);
    steps.take("clippy", || {
        has_component("clippy", "clippy")?;
        run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    steps.take("rustdoc", || {
        let mut doc = cargo();
        doc.args(["doc", "--workspace", "--no-deps"]);
        // The modules are private, and the layouts are documented at the modules.
        doc.env("RUSTDOCFLAGS", "-D warnings --document-private-items");
        run(&mut doc)
    });
}

/// The command's entry.
pub(crate) fn run_tests(args: &[String]) -> Result<()> {
    let mut options = Options { full: false, filter: None };
    for arg in args {
        match arg.as_str() {
            "--full" => options.full = true,
            flag if flag.starts_with('-') => bail!("no flag {flag}: test [--full] [FILTER]"),
            filter if options.filter.is_none() => options.filter = Some(filter.to_owned()),
            more => bail!("one FILTER at most, and {more} is a second"),
        }
    }
    run_all(&options)
}

/// Toolchains can be installed without these.
fn has_component(subcommand: &str, component: &str) -> Result<()> {
    let there = cargo().args([subcommand, "--version"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        bail!("this Rust has no {component}: rustup component add {component}");
    }
    Ok(())
}
