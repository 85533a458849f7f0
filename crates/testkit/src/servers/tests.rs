//! Each version starts, answers, survives a kill, and is gone afterwards.

use std::time::Duration;

use super::*;
use crate::process::is_gone;

fn each_version(check: impl Fn(&Install)) {
    for major in majors_for_this_run() {
        let install = install(major).expect("PostgreSQL can be had");
        assert_eq!(install.major, major);
        check(&install);
    }
}

#[test]
fn every_version_starts_answers_survives_a_kill_and_goes() {
    let check = |install: &Install| {
        let mut server = Server::start(install, &ServerOptions::default()).expect("starts");
        assert!(
            server.sql("SHOW server_version").expect("sql").starts_with(&install.major.to_string())
        );
        assert_eq!(server.sql("SHOW data_checksums").expect("sql"), "on");
        server.sql("CREATE TABLE t(a int); INSERT INTO t VALUES (7)").expect("sql");
        let killed = server.pid().expect("runs");
        server.kill9();
        assert!(is_gone(killed) && server.sql("SELECT 1").is_err());
        server.restart().expect("recovers");
        assert_eq!(server.sql("SELECT a FROM t").expect("sql"), "7");
        server.stop(StopMode::Fast).expect("stops");
        let scratch = server.scratch().path().to_path_buf();
        server.restart().expect("starts again");
        let pid = server.pid().expect("runs");
        drop(server);
        assert!(is_gone(pid) && !scratch.exists());
    };
    each_version(check);
    on_each_old_major(check);
}

#[test]
fn options_reach_the_server() {
    let install = install(18).expect("PostgreSQL can be had");
    let options = ServerOptions {
        segment_size_mb: 1,
        conf: vec!["wal_level = logical".into()],
        auth: "scram-sha-256".into(),
        new_system_id: true,
        ..ServerOptions::default()
    };
    let server = Server::start(&install, &options).expect("starts");
    assert_eq!(server.sql("SHOW wal_segment_size; SHOW wal_level").expect("sql"), "1MB\nlogical");
    server.set("work_mem", "7MB").expect("sets");
    assert_eq!(server.sql("SHOW work_mem").expect("sql"), "7MB");
    server.sql("ALTER ROLE postgres PASSWORD 'open sesame'").expect("sql");
    let mut psql = install.client_command("psql");
    psql.args([
        "-X",
        "-w",
        "-d",
        &format!("{} dbname=postgres", server.conninfo()),
        "-c",
        "SELECT 1",
    ]);
    let refused =
        crate::process::run(&mut psql, Duration::from_secs(20), "psql without a password");
    assert!(refused.is_err_and(|e| e.to_string().contains("no password supplied")));
    psql.env("PGPASSWORD", "open sesame");
    crate::process::run(&mut psql, Duration::from_secs(20), "psql").expect("comes in");
    let other = Server::start(&install, &ServerOptions::default()).expect("starts");
    let system_id = "SELECT system_identifier FROM pg_control_system()";
    assert_ne!(server.sql(system_id).expect("sql"), other.sql(system_id).expect("sql"));
}

#[test]
fn a_condition_that_never_comes_is_named_with_the_log() {
    let install = install(14).expect("PostgreSQL can be had");
    let server = Server::start(&install, &ServerOptions::default()).expect("starts");
    let error = server.wait_until("a wonder", Duration::from_millis(100), "false");
    let text = error.expect_err("it never comes").to_string();
    assert!(text.contains("a wonder") && text.contains("database system is ready"), "{text}");
}
