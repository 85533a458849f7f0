//! WAL over TLS, with everything at its strictest: byte for byte, in 16 MiB, and through a
//! reconnect. And no secret anywhere.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::process::{Running, Signal, Stream};

use super::certificates::certificates;
use super::scene::{CANARY, PASSWORD, Scene};
use crate::common::{LIMIT, Must, compare_with_primary, on_each_major, server_flush};
use crate::memory::assert_small;
use crate::program::{ended, seawall};

/// A receiver whose secrets are in files and in the environment alone.
fn receiver(scene: &Scene, archive: &Path, more: &str) -> Command {
    let dir = certificates().display();
    let home = scene.home("streaming");
    let service = format!(
        "[wal]\nhost=localhost\nhostaddr=127.0.0.1\nport={}\nuser=t_scram\nsslmode=verify-full\n\
         sslrootcert={dir}/ca.crt\nsslcert={dir}/client.crt\nsslkey={dir}/encrypted.key\n\
         sslpassword=c4n4ry key\nsslcertmode=require\nchannel_binding=require\n\
         require_auth=scram-sha-256\n{more}\n",
        scene.server.port()
    );
    fs::write(home.join(".pg_service.conf"), service).must();
    let mut command = seawall(&["receive", "-S", "wal", "--create-slot", "--if-not-exists"]);
    command.args(["-v", "-v", "--json", "-s", "1", "-d", "service=wal", "-A"]).arg(archive);
    command.env("HOME", home).env("PGPASSWORD", PASSWORD);
    command
}

fn await_flush(scene: &Scene, receiver: &Running, archive: &Path) {
    let end = server_flush(&scene.server);
    let flushed = format!("(SELECT max(flush_lsn) FROM pg_stat_replication) >= '{end}'");
    if let Err(error) = scene.server.wait_until("all of it to be durable", LIMIT, &flushed) {
        panic!("{error}\n{}", receiver.output_tail());
    }
    compare_with_primary(&archive.join("wal"), &scene.server, end);
}

/// Every file below a directory has no secret in it.
fn is_clean(dir: &Path) {
    for entry in fs::read_dir(dir).must() {
        let path = entry.must().path();
        if path.is_dir() {
            is_clean(&path);
        } else if let Ok(content) = fs::read(&path) {
            let found = content.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
}

fn streams(major: u32) {
    let scene = Scene::new(major);
    let archive = scene.scratch.path().join("archive");
    let newest = if major == 14 { "ssl_max_protocol_version=TLSv1.2" } else { "" };
    let mut receiver =
        Running::spawn(&mut receiver(&scene, &archive, newest), "seawall receive").must();
    receiver.wait_for_line("\"streaming\"", LIMIT).must();
    let on_tls = "(SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid) WHERE ssl \
                  AND client_dn IS NOT NULL) = 1";
    scene.server.wait_until("a stream on TLS", LIMIT, on_tls).must();
    let rows = "CREATE TABLE t AS SELECT repeat(md5(i::text), 50) FROM generate_series(1, 30000) i";
    scene.server.sql(rows).must();
    await_flush(&scene, &receiver, &archive);
    assert_small(&receiver, "over TLS");

    // A server that has lost its TLS is waited for, not spoken to.
    scene.server.set("ssl", "off").must();
    let end_it = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication";
    scene.server.sql(end_it).must();
    receiver.wait_for_line("does not support SSL, but SSL was required", LIMIT).must();
    scene.server.set("ssl", "on").must();
    scene.server.wait_until("a stream on TLS again", LIMIT, on_tls).must();
    scene.server.sql("INSERT INTO t SELECT 'after' FROM generate_series(1, 1000)").must();
    await_flush(&scene, &receiver, &archive);

    let cmdline = fs::read(format!("/proc/{}/cmdline", receiver.pid())).must();
    assert!(!String::from_utf8_lossy(&cmdline).contains(CANARY));
    let status = ended(seawall(&["status", "--json", "-A"]).arg(&archive));
    status.is_well();
    assert!(!status.stdout.contains(CANARY), "{status:#?}");
    receiver.stop(Signal::TERM, LIMIT).must();
    for stream in [Stream::Stdout, Stream::Stderr] {
        assert!(!receiver.text(stream).contains(CANARY), "{}", receiver.text(stream));
    }
    assert!(
        !scene
            .server
            .log_text()
            .contains("connection authorized: user=t_scram application_name=seawall\n")
    );
    is_clean(&archive);
}

on_each_major!(streams_over_tls, super::streams);
