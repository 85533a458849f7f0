//! The old primary comes back behind the new one, by pg_rewind and the archive.

use std::fs;

use testkit::process::run;
use testkit::proxy::Proxy;
use testkit::servers::{StopMode, as_server_user};

use super::super::common::{LIMIT, Must, Receiver, ReceiverOptions, server};
use super::{Kept, work};

fn the_old_primary_follows_the_new_one(major: u32) {
    let kept = Kept::new();
    let small = ["wal_log_hints = on", "max_wal_size = 2MB", "min_wal_size = 2MB"];
    let mut old = server(major, 1, &small);
    let proxy = Proxy::start(old.port()).must();
    let options = ReceiverOptions { port: Some(proxy.port()), ..kept.options() };
    let mut receiver = Receiver::start(&old, &kept.archive, &options);
    receiver.await_streaming(&old);
    let restore = kept.restore_command("--standby");
    let new = old.standby(&[&restore, "wal_retrieve_retry_interval = 100ms"]).must();
    let end = work(&old);
    let replayed = format!("pg_last_wal_replay_lsn() >= '{end}'");
    new.wait_until("the standby to have it all", LIMIT, &replayed).must();
    new.promote().must();
    // The old one goes on alone, and recycles the WAL from before the fork.
    old.set("wal_keep_size", "0").must();
    let forked = old.wal_segments().must();
    for _ in 0..3 {
        let end = work(&old);
        receiver.await_flush(&old, end);
        old.sql("CHECKPOINT").must();
    }
    old.stop(StopMode::Fast).must();
    let gone = forked.iter().filter(|segment| !segment.exists()).count();
    assert!(gone > 0, "it still has all of {forked:?}");
    proxy.redirect(new.port());
    receiver.await_streaming(&new);
    receiver.await_flush(&new, work(&new));

    let rewind = |flags: &[&str]| {
        let mut rewind = old.install().command("pg_rewind");
        as_server_user(&mut rewind);
        rewind.args(flags).arg("-D").arg(old.data_dir());
        rewind.arg(format!("--source-server={} dbname=postgres", new.conninfo()));
        run(&mut rewind, LIMIT, "pg_rewind")
    };
    let without = rewind(&["--dry-run"]);
    assert!(without.is_err(), "it has all that it takes: the archive isn't asked");
    old.add_conf(&restore).must();
    let rewound = rewind(&["-c"]).must();
    let said = String::from_utf8_lossy(&rewound.stderr);
    assert!(said.contains("Done!"), "{said}");
    // It took the new one's configuration with it.
    let port = format!("port = {}", old.port());
    let socket = format!("unix_socket_directories = '{}'", old.socket_dir().display());
    let follow = format!("primary_conninfo = '{}'", new.conninfo());
    for line in [port, socket, follow, restore, "wal_retrieve_retry_interval = 100ms".to_owned()] {
        old.add_conf(&line).must();
    }
    old.add_file("postgresql.auto.conf", "").must();
    old.add_file("standby.signal", "").must();
    old.restart().must();
    let streams = "EXISTS (SELECT FROM pg_stat_replication WHERE application_name = 'walreceiver' \
                   AND state = 'streaming')";
    new.wait_until("the old primary to stream", LIMIT, streams).must();
    let end = work(&new);
    let replayed = format!("pg_last_wal_replay_lsn() >= '{end}'");
    old.wait_until("the old primary to have it all", LIMIT, &replayed).must();
    let rows = "SELECT count(*) FROM t";
    assert_eq!(old.sql(rows).must(), new.sql(rows).must());
    assert!(!fs::exists(old.wal_dir().join("xlogtemp.seawall")).must());
    receiver.stop();
}

#[test]
fn the_old_primary_follows_the_new_one_14() {
    the_old_primary_follows_the_new_one(14);
}

#[test]
fn the_old_primary_follows_the_new_one_18() {
    the_old_primary_follows_the_new_one(18);
}
