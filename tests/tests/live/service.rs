//! The receiver as a service: what it tells systemd, and the journal.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use testkit::process::{Running, Signal, seawall_bin};

use super::common::{LIMIT, Must, Receiver, scratch, server, server_flush};
use super::program::receive;

/// The next datagram, which has to come.
fn next(socket: &UnixDatagram) -> String {
    let mut datagram = vec![0; 64 << 10];
    let len = socket.recv(&mut datagram).must();
    String::from_utf8_lossy(&datagram[..len]).into_owned()
}

/// Takes datagrams until one is as it is wanted.
fn wait_for(socket: &UnixDatagram, what: &str, is: impl Fn(&str) -> bool) -> String {
    let mut seen = Vec::new();
    for _ in 0..1000 {
        let datagram = next(socket);
        if is(&datagram) {
            return datagram;
        }
        seen.push(datagram);
    }
    panic!("no {what} among {seen:#?}")
}

fn listen(at: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(at).must();
    socket.set_read_timeout(Some(LIMIT)).must();
    socket
}

/// Type=notify with a watchdog: ready at once, then what it does, and signs of life.
#[test]
fn systemd_is_told() {
    let (primary, scratch) = (server(18, 1, &[]), scratch());
    let socket = listen(&scratch.path().join("notify"));
    let mut command = receive(&primary, &scratch.path().join("archive"), &["--no-slot"]);
    command.env("NOTIFY_SOCKET", scratch.path().join("notify"));
    command.env("WATCHDOG_USEC", "200000");
    let mut running = Running::spawn(&mut command, "seawall receive").must();
    assert_eq!(next(&socket).trim_end(), "READY=1");
    wait_for(&socket, "state", |text| text.trim_end() == "STATUS=streaming");
    for _ in 0..3 {
        wait_for(&socket, "sign of life", |text| text.trim_end() == "WATCHDOG=1");
    }
    let (status, _) = running.stop(Signal::TERM, LIMIT).must();
    assert!(status.success());
    wait_for(&socket, "end", |text| text.trim_end() == "STOPPING=1");
}

/// With standard error connected to the journal, entries have fields. The journal's socket has one
/// fixed name, so that this takes a mount namespace, and the right to make one.
#[test]
#[expect(clippy::print_stderr, reason = "a test that can't be what it is says so aloud")]
fn the_journal_gets_fields() {
    let may = Command::new("unshare").args(["--mount", "true"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        let root = fs::metadata("/proc/self").must();
        assert_ne!(std::os::unix::fs::MetadataExt::uid(&root), 0, "root, and no mount namespace");
        eprintln!("NOT TESTED HERE, the journal: it takes a mount namespace, and so CAP_SYS_ADMIN");
        return;
    }
    let (primary, scratch) = (server(18, 1, &[]), scratch());
    let journal = scratch.path().join("systemd").join("journal");
    fs::create_dir_all(&journal).must();
    let socket = listen(&journal.join("socket"));
    let archive = scratch.path().join("archive");
    let start = format!(
        "mkdir -p /run/systemd && mount --bind {} /run/systemd && exec 2>{} && \
         export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) && \
         exec {} receive --no-slot -A {} -d '{}' -n -E {}",
        scratch.path().join("systemd").display(),
        scratch.path().join("stderr").display(),
        seawall_bin().must().display(),
        archive.display(),
        primary.conninfo(),
        server_flush(&primary),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &start]).env_remove("SEAWALL_ARCHIVE");
    let mut running = Running::spawn(&mut command, "seawall with a journal").must();
    let entry = wait_for(&socket, "entry", |text| text.contains("SEAWALL_EVENT=streaming\n"));
    for line in [
        "PRIORITY=6",
        "SYSLOG_IDENTIFIER=seawall",
        &format!("SEAWALL_ARCHIVE={}", archive.display()),
        "SEAWALL_TIMELINE=1",
    ] {
        assert!(entry.lines().any(|said| said == line), "no {line} in {entry}");
    }
    assert!(entry.starts_with("MESSAGE=streaming timeline 1 from 0/"), "{entry}");
    assert!(running.wait(LIMIT).must().success());
    assert_eq!(fs::read_to_string(scratch.path().join("stderr")).must(), "");
}

/// A journal that takes nothing holds no WAL up, and no end.
#[test]
fn a_service_that_is_not_listened_to_goes_on() {
    let (primary, scratch) = (server(18, 1, &[]), scratch());
    let socket = listen(&scratch.path().join("notify"));
    let mut command = receive(&primary, &scratch.path().join("archive"), &["--no-slot"]);
    command.args(["--application-name", "live"]);
    command.env("NOTIFY_SOCKET", scratch.path().join("notify"));
    command.env("WATCHDOG_USEC", "2000");
    let mut running = Running::spawn(&mut command, "seawall receive").must();
    assert_eq!(next(&socket).trim_end(), "READY=1");
    drop(socket);
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) i").must();
    let end = server_flush(&primary);
    let flushed = format!("(SELECT max(flush_lsn) FROM pg_stat_replication) >= '{end}'");
    primary.wait_until("all to be durable", LIMIT, &flushed).must();
    assert!(Receiver::flush_lsn(&primary) >= end);
    let (status, took) = running.stop(Signal::TERM, LIMIT).must();
    assert!(status.success() && took < Duration::from_secs(2), "{status}, {took:?}");
}
