//! Child processes of a test: run to the end within a limit, or kept running and watched.
//!
//! Invariant: a child is ended by its own process id and reaped by whoever started it. Never
//! does: kill by name.

mod running;
mod usage;

use std::env;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub use running::{Line, Running, Stream};
pub use rustix::process::Signal;
pub use usage::{children_of, cpu_seconds, is_gone, peak_own_bytes, peak_rss_bytes};

use crate::Error;

/// How often a child is looked at while its end is awaited. Short, as tests wait for many.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// How much of a failed program's output an error carries: the last lines say why.
const OUTPUT_TAIL_BYTES: usize = 4000;

/// Runs `command` to its end and gives what it printed; an error if it isn't a success or takes
/// longer than `timeout` (it is killed then). `what` says in messages what was being done.
pub fn run(command: &mut Command, timeout: Duration, what: &str) -> Result<Output, Error> {
    run_with_input(command, "", timeout, what)
}

/// As [`run`], with `input` on its standard input.
pub fn run_with_input(
    command: &mut Command,
    input: &str,
    timeout: Duration,
    what: &str,
) -> Result<Output, Error> {
    let output = run_unchecked(command, input, timeout, what)?;
    if output.status.success() {
        return Ok(output);
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(Error::Failed {
        what: what.to_owned(),
        status: output.status.to_string(),
        output: tail(&text).to_owned(),
    })
}

/// As [`run_with_input`], but any exit status will do.
pub fn run_unchecked(
    command: &mut Command,
    input: &str,
    timeout: Duration,
    what: &str,
) -> Result<Output, Error> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(move || {
            // A program that doesn't read its input has closed the pipe: nothing to report.
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(input.as_bytes());
            }
        });
        let stdout = scope.spawn(move || read_all(stdout));
        let stderr = scope.spawn(move || read_all(stderr));
        let ended = wait_timeout(&mut child, timeout);
        if !matches!(ended, Ok(Some(_))) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let (stdout, stderr) = (join(stdout), join(stderr));
        match ended {
            Ok(Some(status)) => Ok(Output { status, stdout, stderr }),
            Ok(None) => Err(Error::Timeout {
                what: what.to_owned(),
                waited: timeout,
                detail: tail(&String::from_utf8_lossy(&stderr)).to_owned(),
            }),
            Err(source) => Err(Error::Spawn { program: program_of(command), source }),
        }
    })
}

/// Starts `command`, with an error that names the program.
pub(crate) fn spawn(command: &mut Command) -> Result<Child, Error> {
    command.spawn().map_err(|source| Error::Spawn { program: program_of(command), source })
}

/// Waits for a child's end, at most for `timeout`; `None` if it still runs.
pub fn wait_timeout(child: &mut Child, timeout: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Sends `signal` to the process `pid`. That it is gone already is no error.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The built `seawall` program: `SEAWALL_BIN`, or the one beside the running test's own file.
pub fn seawall_bin() -> Result<PathBuf, Error> {
    if let Some(path) = env::var_os("SEAWALL_BIN") {
        return Ok(PathBuf::from(path));
    }
    let exe = env::current_exe().map_err(Error::io("find", "the running program".as_ref()))?;
    // A test lies in target/PROFILE/deps, xtask and the benches in target/PROFILE.
    let found = exe.ancestors().skip(1).take(2).map(|dir| dir.join("seawall"));
    found.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Error::Other(format!(
            "no `seawall` program beside {}: build it with `cargo build -p seawall`, or set SEAWALL_BIN",
            exe.display()
        ))
    })
}

/// The last part of a text, cut at a character's edge.
pub(crate) fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(OUTPUT_TAIL_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

fn program_of(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn read_all(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

fn join(reader: thread::ScopedJoinHandle<'_, Vec<u8>>) -> Vec<u8> {
    reader.join().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_takes_too_long_is_ended_and_named() {
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(50), "a nap");
        assert!(error.is_err_and(|e| e.to_string().contains("a nap")));
    }

    #[test]
    fn large_input_and_output_do_not_block_each_other() {
        let input = "x".repeat(4 << 20);
        let mut cat = Command::new("cat");
        let output = run_with_input(&mut cat, &input, Duration::from_secs(20), "cat");
        assert_eq!(output.map(|o| o.stdout.len()).ok(), Some(4 << 20));
    }

    #[test]
    fn lines_are_awaited_and_the_child_ends_with_its_guard() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; sleep 60"]);
        let running = Running::spawn(&mut command, "sh").expect("sh starts");
        let line = running.wait_for_line("two", Duration::from_secs(10)).expect("it prints");
        assert_eq!((line.stream, line.text.as_str()), (Stream::Stderr, "two"));
        let pid = running.pid();
        assert!(peak_rss_bytes(pid).is_some_and(|bytes| bytes > 0));
        assert!(cpu_seconds(pid).is_some());
        drop(running);
        assert!(is_gone(pid));
    }
}
