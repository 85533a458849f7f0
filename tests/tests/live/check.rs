//! `seawall check` in set-ups that are broken in one way each: it names that, and nothing else.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use testkit::proxy::Proxy;
use testkit::servers::{Server, ServerOptions};

use super::common::disks::SmallDisk;
use super::common::{
    LIMIT, Must, NAME, Receiver, ReceiverOptions, on_each_major, pg, scratch, server_flush,
};
use super::gaps::{forget, forgetful_server};
use super::program::{ended, receive, seawall};

/// As an administrator would set it up.
const GOOD: [&str; 3] =
    ["max_slot_wal_keep_size = 1GB", "wal_keep_size = 0", "max_wal_senders = 10"];

fn server(major: u32, conf: &[&str]) -> Server {
    let hba = "local all all trust\n\
               host replication r_password 127.0.0.1/32 scram-sha-256\n\
               host all r_nohba 127.0.0.1/32 trust\n\
               host replication r_nohba 127.0.0.1/32 reject\n\
               host all all 127.0.0.1/32 trust\n\
               host replication all 127.0.0.1/32 trust\n";
    let conf = GOOD.iter().chain(conf).map(ToString::to_string).collect();
    let hba = Some(hba.to_owned());
    let options = ServerOptions { segment_size_mb: 1, conf, hba, ..Default::default() };
    Server::start(&pg(major), &options).must()
}

/// `seawall check` as this role, on this port.
fn command(port: u16, role: &str, args: &[&str]) -> Command {
    let mut check = seawall(&["check", "-w", "-h", "127.0.0.1", "--application-name", NAME]);
    check.args(["-p", &port.to_string(), "-U", role]).args(args);
    check
}

/// What isn't well, as `check: level`.
fn faults(mut check: Command) -> Vec<String> {
    let answer = ended(check.arg("--json"));
    let value: serde_json::Value = serde_json::from_str(&answer.stdout).must();
    let is_error = value["level"] == "error";
    assert_eq!(answer.code, Some(i32::from(is_error)), "{answer:#?}");
    let checks = value["checks"].as_array().cloned().unwrap_or_default();
    let bad = checks.iter().filter(|check| check["level"] != "ok");
    let bad = bad.inspect(|check| assert!(check["hint"].is_string(), "{check}"));
    let name = |check: &serde_json::Value, key: &str| check[key].as_str().unwrap_or("?").to_owned();
    bad.map(|check| format!("{}: {}", name(check, "check"), name(check, "level"))).collect()
}

#[track_caller]
fn finds(server: &Server, role: &str, args: &[&str], expect: &[&str]) {
    assert_eq!(faults(command(server.port(), role, args)), expect, "as {role}, {args:?}");
}

on_each_major!(each_fault_of_a_server_is_named, super::check);

fn check(major: u32) {
    let server = server(major, &[]);
    for role in ["r_password", "r_nohba"] {
        server.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'secret'")).must();
    }
    server.sql("CREATE ROLE r_plain LOGIN; CREATE ROLE r_nologin REPLICATION").must();
    server.sql("SELECT pg_create_physical_replication_slot('kept', true)").must();
    server.sql("SELECT pg_create_physical_replication_slot('empty')").must();
    let slot = ["--slot", "kept"];

    finds(&server, "postgres", &slot, &[]);
    let quiet = ended(&mut command(server.port(), "postgres", &slot));
    quiet.is_well();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let wordy = ended(command(server.port(), "postgres", &slot).arg("-v"));
    for name in ["connection", "pg_hba", "replication_privilege", "slot", "clock", "version"] {
        assert!(wordy.stdout.contains(&format!("ok       {name}: ")), "{wordy:#?}");
    }
    let nagios = ended(command(server.port(), "postgres", &slot).arg("--nagios"));
    assert_eq!(nagios.code, Some(0));
    assert!(nagios.stdout.starts_with("SEAWALL OK - "), "{nagios:#?}");

    // Getting in.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").must();
    let free = nobody.local_addr().must().port();
    drop(nobody);
    assert_eq!(faults(command(free, "postgres", &slot)), ["connection: error"]);
    finds(&server, "r_password", &slot, &["connection: error"]);
    let mut wrong = command(server.port(), "r_password", &slot);
    wrong.env("PGPASSWORD", "wrong");
    assert_eq!(faults(wrong), ["connection: error"]);
    finds(&server, "r_nohba", &slot, &["pg_hba: error"]);
    finds(&server, "r_plain", &slot, &["replication_privilege: error"]);
    finds(&server, "r_nologin", &slot, &["pg_hba: error"]);
    finds(&server, "r_nobody", &slot, &["pg_hba: error"]);

    // The slot, and what is kept without one.
    finds(&server, "postgres", &["--slot", "none"], &["slot: error"]);
    finds(&server, "postgres", &["--slot", "empty"], &["slot: error"]);
    finds(&server, "postgres", &[], &["wal_keep_size: warning"]);

    // Settings.
    for (name, value, fault) in [
        ("max_slot_wal_keep_size", "-1", "max_slot_wal_keep_size: warning"),
        ("wal_sender_timeout", "0", "wal_sender_timeout: warning"),
        ("wal_sender_timeout", "1s", "wal_sender_timeout: warning"),
        ("synchronous_standby_names", "*", "synchronous_standby_names: warning"),
        ("synchronous_standby_names", "ANY 2 (live)", "synchronous_standby_names: warning"),
    ] {
        let before = server.sql(&format!("SHOW {name}")).must();
        server.set(name, value).must();
        finds(&server, "postgres", &slot, &[fault]);
        server.set(name, &before).must();
    }
    server.set("synchronous_commit", "remote_apply").must();
    finds(&server, "postgres", &slot, &[]);
    server.set("synchronous_standby_names", "first 1 (other, LIVE)").must();
    finds(&server, "postgres", &slot, &["remote_apply: error"]);
    let critical = ended(command(server.port(), "postgres", &slot).arg("--nagios"));
    assert_eq!(critical.code, Some(2));
    assert!(critical.stdout.starts_with("SEAWALL CRITICAL - remote_apply\n"), "{critical:#?}");

    // What can't work stops a receiver that begins, before it has received anything.
    let scratch = scratch();
    let archive = scratch.path().join("archive");
    let mut refused = receive(&server, &archive, &["--application-name", NAME, "--no-slot"]);
    ended(&mut refused).says(1, &["remote_apply: synchronous_commit is remote_apply"]);
    server.set("synchronous_standby_names", "").must();
    server.set("synchronous_commit", "on").must();
}

#[test]
fn servers_that_are_too_small_are_named() {
    let minimal = server(18, &["wal_level = minimal", "max_wal_senders = 0"]);
    finds(&minimal, "postgres", &[], &["wal_level: error"]);
    let few = server(18, &["max_wal_senders = 1", "wal_keep_size = 1GB"]);
    finds(&few, "postgres", &[], &["max_wal_senders: warning"]);
    let scratch = scratch();
    let archive = scratch.path().join("archive");
    let options = ReceiverOptions { slot: false, ..ReceiverOptions::default() };
    let mut receiver = Receiver::start(&few, &archive, &options);
    receiver.await_streaming(&few);
    receiver.running.wait_for_line("a base backup takes two", LIMIT).must();
    finds(&few, "postgres", &[], &["max_wal_senders: error"]);
    receiver.stop();
}

/// Of the archive alone.
fn archive_faults(archive: &Path, args: &[&str]) -> Vec<String> {
    let mut check = seawall(&["check", "--no-server", "-A"]);
    check.arg(archive).args(args);
    faults(check)
}

/// A base backup, so that nothing is wanting.
fn back_up(server: &Server, archive: &Path) {
    let mut backup = seawall(&["backup", "-c", "fast", "-A"]);
    ended(backup.arg(archive).args(["-d", &server.conninfo()])).is_well();
}

#[test]
fn each_fault_of_an_archive_is_named() {
    let (server, scratch) = (forgetful_server(18), scratch());
    let archive = scratch.path().join("archive");
    assert_eq!(archive_faults(&archive, &[]), ["archive: error"]);
    let proxy = Proxy::start(server.port()).must();
    let port = Some(proxy.port());
    let options = ReceiverOptions { port, slot: false, ..ReceiverOptions::default() };
    let mut receiver = Receiver::start(&server, &archive, &options);
    receiver.await_streaming(&server);
    receiver.await_flush(&server, server_flush(&server));
    assert_eq!(archive_faults(&archive, &[]), ["backups: warning"]);
    back_up(&server, &archive);
    assert_eq!(archive_faults(&archive, &[]), Vec::<String>::new());
    assert_eq!(archive_faults(&archive, &["--max-backup-age", "0s"]), ["backups: warning"]);

    fs::set_permissions(&archive, Permissions::from_mode(0o755)).must();
    assert_eq!(archive_faults(&archive, &[]), ["archive_modes: warning"]);
    fs::set_permissions(&archive, Permissions::from_mode(0o700)).must();

    receiver.stop();
    assert_eq!(archive_faults(&archive, &[]), ["receiver: error"]);
    forget(&server);
    let mut receiver = Receiver::start(&server, &archive, &options);
    receiver.await_streaming(&server);
    receiver.await_flush(&server, server_flush(&server));
    assert_eq!(archive_faults(&archive, &[]), ["gaps: error"]);
    receiver.stop();

    fs::write(archive.join("seawall.json"), "{").must();
    assert_eq!(archive_faults(&archive, &[]), ["archive: error"]);
}

#[test]
fn a_receiver_that_lags_and_a_disk_that_fills_are_named() {
    let (server, scratch) = (forgetful_server(18), scratch());
    let Some(mut disk) = SmallDisk::ext4(scratch.path().join("disk"), 20) else { return };
    let archive = disk.path().join("archive");
    let mut receiver = Receiver::start(&server, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&server);
    receiver.await_flush(&server, server_flush(&server));
    let unsaved = ["archive_space: error", "backups: warning"];
    assert_eq!(archive_faults(&archive, &[]), unsaved);
    disk.freeze();
    server.sql("CREATE TABLE u AS SELECT generate_series(1, 60000) i").must();
    let lag = || archive_faults(&archive, &["--max-lag", "1MB"]);
    let until = std::time::Instant::now() + LIMIT;
    while lag() != ["archive_space: error", "lag: warning", "backups: warning"] {
        assert!(std::time::Instant::now() < until, "{:?}", lag());
    }
    disk.thaw();
    receiver.await_flush(&server, server_flush(&server));
    receiver.stop();
}
