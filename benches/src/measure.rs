//! How long a program ran, what it used, and what many runs come to.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde_json::{Value, json};
use testkit::process::{cpu_seconds, peak_rss_bytes};

/// How often a running program is looked at; its peak memory is known that exactly.
const LOOK: Duration = Duration::from_millis(5);

/// What one run of a program took.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// From start to end.
    pub seconds: f64,
    /// User and system time.
    pub cpu_seconds: f64,
    /// The greatest resident set.
    pub peak_rss_bytes: u64,
}

/// Runs a program to its end.
///
/// # Errors
/// If it fails, or takes longer than `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<Usage> {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let watched = watch(&mut child, started, limit);
    let status = child.wait()?;
    let usage = watched?;
    if !status.success() {
        bail!("{:?} ended with {status}", command.get_program());
    }
    Ok(usage)
}

/// Watches a child until it ends, and reads what it used before it is reaped.
///
/// # Errors
/// If it takes longer than `limit`.
pub fn watch(child: &mut Child, started: Instant, limit: Duration) -> Result<Usage> {
    let pid = child.id();
    let id = WaitId::Pid(Pid::from_child(child));
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let mut peak = 0;
    while waitid(id.clone(), options)?.is_none() {
        peak = peak_rss_bytes(pid).unwrap_or(0).max(peak);
        if started.elapsed() > limit {
            child.kill()?;
            bail!("the program didn't end in {limit:?}");
        }
        std::thread::sleep(LOOK);
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu_seconds = cpu_seconds(pid).context("reading the program's CPU time")?;
    Ok(Usage { seconds, cpu_seconds, peak_rss_bytes: peak })
}

/// Waits for a child to end without looking at it meanwhile, which would take part of a processor from
/// what runs for milliseconds; so its peak memory isn't known.
///
/// # Errors
/// If what it used can't be read.
pub fn wait(child: &Child, started: Instant) -> Result<Usage> {
    waitid(WaitId::Pid(Pid::from_child(child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu_seconds = cpu_seconds(child.id()).context("reading the program's CPU time")?;
    Ok(Usage { seconds, cpu_seconds, peak_rss_bytes: 0 })
}

/// The middle of some numbers.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Usages as JSON.
#[must_use]
pub fn usages_json(usages: &[Usage]) -> Value {
    json!({
        "seconds": usages.iter().map(|usage| usage.seconds).collect::<Vec<_>>(),
        "cpu_seconds": usages.iter().map(|usage| usage.cpu_seconds).collect::<Vec<_>>(),
        "peak_rss_bytes": usages.iter().map(|usage| usage.peak_rss_bytes).max(),
    })
}

/// The value of `--name N` among arguments.
///
/// # Errors
/// If it is no number.
pub fn argument(args: &[String], name: &str, default: u64) -> Result<u64> {
    match args.iter().position(|arg| arg == name) {
        None => Ok(default),
        Some(at) => {
            let value = args.get(at + 1).with_context(|| format!("{name} wants a number"))?;
            value.parse().with_context(|| format!("{name} {value}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median([]).is_nan());
    }
}
