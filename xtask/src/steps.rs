//! Steps that are all taken, timed, and summed up at the end.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

struct Taken {
    name: &'static str,
    took: Duration,
    failure: Option<String>,
}

/// What has been done so far.
#[derive(Default)]
pub(crate) struct Steps {
    taken: Vec<Taken>,
}

impl Steps {
    /// Takes a step; a failure is remembered, and the next steps are taken all the same.
    pub(crate) fn take(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) {
        println!("\n==> {name}");
        let from = Instant::now();
        let failure = step().err().map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            println!("{name}: {failure}");
        }
        self.taken.push(Taken { name, took: from.elapsed(), failure });
    }

    /// Prints the table of steps; an error if one failed.
    pub(crate) fn finish(self) -> Result<()> {
        println!();
        for step in &self.taken {
            let verdict = if step.failure.is_some() { "FAILED" } else { "ok" };
            println!("{:<22} {:>7.1} s  {verdict}", step.name, step.took.as_secs_f32());
        }
        let failed = self.taken.iter().filter(|step| step.failure.is_some()).map(|step| step.name);
        let failed: Vec<&str> = failed.collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

/// Runs a command with its output shown; an error if it isn't a success.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("starting {name}"))?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}
