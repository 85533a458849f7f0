//! What somebody sees who starts a receiver by hand, on a real terminal (that of `script`); and
//! what becomes of a receiver whose terminal, or reader, isn't there any more.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use testkit::process::{
    Running, Signal, children_of, run_unchecked, seawall_bin, signal, wait_timeout,
};

use super::common::{LIMIT, Must, Receiver, ReceiverOptions, scratch, server, server_flush};
use super::program::receive;

/// What a pipe holds, bytes; pipe(7).
const PIPE_BYTES: usize = 64 << 10;

#[test]
fn a_line_lives_on_a_terminal_and_nowhere_else() {
    let (primary, scratch) = (server(18, 1, &[]), scratch());
    primary.init_pgbench(1).must();
    let archive = scratch.path().join("archive");
    let program = seawall_bin().must();
    let start = format!(
        "{} receive --no-slot -A {} -d '{}' -E {}",
        program.display(),
        archive.display(),
        primary.conninfo(),
        server_flush(&primary)
    );
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-f", "-c", &start, "/dev/null"]).env_remove("SEAWALL_ARCHIVE");
    let watched = run_unchecked(&mut script, "", LIMIT, "seawall on a terminal").must();
    let text = String::from_utf8_lossy(&watched.stdout);
    assert!(watched.status.success(), "{text}");
    let line = text.split("\r\u{1b}[K").find(|piece| piece.contains("/s  lag "));
    let line = line.unwrap_or_else(|| panic!("no living line in {text:?}"));
    assert!(line.starts_with("0/"), "{line:?}");

    let mut plain = Command::new("sh");
    plain.args(["-c", &start]).env_remove("SEAWALL_ARCHIVE");
    let plain = run_unchecked(&mut plain, "", LIMIT, "seawall without a terminal").must();
    assert!(plain.status.success());
    assert!(!plain.stderr.contains(&0x1b), "{}", String::from_utf8_lossy(&plain.stderr));
}

#[test]
fn output_that_nobody_takes_holds_nothing_up() {
    let (primary, scratch) = (server(18, 1, &[]), scratch());
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 20000) i").must();
    let end = server_flush(&primary).to_string();
    let run = |name: &str, stdout: Stdio, stderr: Stdio| {
        let archive = scratch.path().join(name);
        let args = ["--no-slot", "--json", "-vv", "-n", "-E", &end];
        let mut command = receive(&primary, &archive, &args);
        let mut child = command.stdout(stdout).stderr(stderr).spawn().must();
        drop(command);
        let status = wait_timeout(&mut child, LIMIT).must();
        _ = child.kill();
        assert!(status.is_some_and(|status| status.success()), "{name}: {status:?}");
    };
    let (_reader, mut full) = std::io::pipe().must();
    full.write_all(&[b'x'; PIPE_BYTES]).must();
    run("full-pipes", full.try_clone().must().into(), full.into());
    let broken = || std::io::pipe().must().1.into();
    run("broken-pipes", broken(), broken());
    let full = || File::options().write(true).open("/dev/full").must().into();
    run("full-files", full(), full());
}

#[test]
fn a_hangup_without_a_terminal_means_nothing() {
    let (primary, scratch) = (server(18, 1, &[]), scratch());
    let archive = scratch.path().join("archive");
    let mut receiver = Receiver::start(&primary, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&primary);
    receiver.running.kill(Signal::HUP);
    primary.sql("CREATE TABLE t(i int)").must();
    receiver.await_flush(&primary, server_flush(&primary));
    receiver.stop();
}

#[test]
fn a_receiver_whose_terminal_goes_away_stops_in_order() {
    let (primary, scratch) = (server(18, 1, &[]), scratch());
    let start = format!(
        "exec {} receive --no-slot -A {} -d '{}'",
        seawall_bin().must().display(),
        scratch.path().join("archive").display(),
        primary.conninfo(),
    );
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-f", "-c", &start, "/dev/null"]).env_remove("SEAWALL_ARCHIVE");
    let mut script = Running::spawn(&mut script, "seawall on a terminal").must();
    let streaming = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')";
    primary.wait_until("the receiver streams", LIMIT, streaming).must();
    for receiver in children_of(script.pid()) {
        signal(receiver, Signal::HUP);
    }
    let status = script.wait(LIMIT).must();
    assert!(status.success(), "{status}: {}", script.output_tail());
}
