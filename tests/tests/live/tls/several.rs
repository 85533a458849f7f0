//! Several servers, in the order in which libpq tries them.

use std::path::Path;

use testkit::process::Running;
use testkit::servers::{Server, StopMode};

use super::scene::{Comparison, Outcome, PASSWORD, Scene, WITH_PASSWORD};
use crate::common::{LIMIT, Must, scratch, server};

fn conninfo(ports: &[u16], more: &str) -> String {
    let hosts = vec!["127.0.0.1"; ports.len()].join(",");
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    format!("host={hosts} port={} user=t_scram sslmode=require {more}", ports.join(","))
}

/// seawall connects to this one of them.
#[track_caller]
fn arrives(at: &Server, ports: &[u16], more: &str) {
    let count = || at.log_text().matches("replication connection authorized").count();
    let before = count();
    let text = conninfo(ports, more);
    let mut command = crate::program::seawall(&["slot", "read", "s", "-d", &text]);
    let ended = super::scene::discreet(command.env("PGPASSWORD", PASSWORD));
    // Once, or, with prefer-standby, again after nobody better was found.
    assert!(ended.code == Some(0) && count() > before, "{more}: {ended:#?}");
}

#[test]
fn the_first_that_will_do() {
    let scene = Scene::new(18);
    let standby = scene.server.standby(&[]).must();
    standby.wait_until("standby", LIMIT, "pg_is_in_recovery()").must();
    standby.sql("SELECT pg_create_physical_replication_slot('s', true)").must();
    let (primary, port, other) = (&scene.server, scene.server.port(), standby.port());
    let (nobody, nowhere) = (1, Path::new("/nonexistent"));
    arrives(primary, &[nobody, port, other], "");
    arrives(&standby, &[nobody, other, port], "");
    arrives(&standby, &[port, other], "target_session_attrs=standby");
    arrives(&standby, &[port, other], "target_session_attrs=prefer-standby");
    arrives(&standby, &[port, other], "target_session_attrs=read-only");
    arrives(primary, &[other, port], "target_session_attrs=primary");
    arrives(primary, &[other, port], "target_session_attrs=read-write");
    arrives(primary, &[nobody, port], "target_session_attrs=prefer-standby");
    let mut comparison = Comparison::default();
    for (ports, more) in [
        (&[nobody, port][..], ""),
        (&[port, nobody], "target_session_attrs=any load_balance_hosts=random"),
        (&[port, port], "target_session_attrs=standby"),
        (&[nobody, nobody], ""),
        // A server that refuses ends it: another isn't asked.
        (&[port, other], "user=nobody"),
        (&[port, other], "password=c4n4ry-wrong"),
        (&[port], "host=127.0.0.1,127.0.0.1"),
        (&[port, other], "host=127.0.0.1"),
    ] {
        comparison.same_in(&scene, &conninfo(ports, more), nowhere, WITH_PASSWORD);
    }
    comparison.finish(8);
    let (outcome, ended) = scene.seawall(&conninfo(&[nobody, nobody], ""), nowhere, WITH_PASSWORD);
    assert_eq!(outcome, Outcome::Refused);
    // Each is named.
    assert_eq!(ended.stderr.matches("can't connect to 127.0.0.1:1").count(), 2, "{ended:#?}");
}

/// The primary goes, the standby is promoted: receiving goes on there, with nothing set up anew.
#[test]
fn a_receiver_goes_where_the_primary_is() {
    let mut primary = server(18, 1, &[]);
    let standby = primary.standby(&[]).must();
    standby.wait_until("standby", LIMIT, "pg_is_in_recovery()").must();
    let scratch = scratch();
    let archive = scratch.path().join("archive");
    let (port, other) = (primary.port(), standby.port());
    let text = format!(
        "host=127.0.0.1,127.0.0.1 port={other},{port} user=postgres target_session_attrs=primary"
    );
    let mut command = crate::program::seawall(&["receive", "--no-slot", "-s", "1", "-A"]);
    let receiver =
        Running::spawn(command.arg(&archive).args(["-d", &text]), "seawall receive").must();
    let await_flush = |server: &Server| {
        let flushed = "(SELECT max(flush_lsn) FROM pg_stat_replication WHERE application_name = \
                       'seawall') >= pg_current_wal_flush_lsn()";
        if let Err(error) = server.wait_until("all of it to be durable", LIMIT, flushed) {
            panic!("{error}\n{}", receiver.output_tail());
        }
    };
    await_flush(&primary);
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)").must();
    await_flush(&primary);
    primary.stop(StopMode::Fast).must();
    standby.promote().must();
    standby.sql("INSERT INTO t SELECT generate_series(1, 1000)").must();
    await_flush(&standby);
    assert!(archive.join("wal/00000002.history").is_file());
}
