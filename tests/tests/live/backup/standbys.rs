//! Standbys from the archive, and backups from standbys.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::load::{CommitLoad, LoadOptions};
use testkit::process::{Running, run};
use testkit::proxy::Proxy;
use testkit::servers::{Server, StopMode, as_server_user};

use super::super::common::{
    LIMIT, Must, Receiver, ReceiverOptions, on_each_major, server, server_flush,
};
use super::super::restore_wal::Kept;
use super::{backup, backup_command, list, recover, restored};
use crate::program::ended;

pub(super) const STREAMS: &str = "EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming' \
                       AND application_name = 'walreceiver')";

/// Waits until the standby has all that the primary has.
pub(super) fn await_all(standby: &Server, primary: &Server) {
    let end = server_flush(primary);
    let replayed = format!("pg_last_wal_replay_lsn() >= '{end}'");
    standby.wait_until("the standby to have it all", LIMIT, &replayed).must();
}

on_each_major!(a_standby_is_rebuilt_under_load, super::check);

fn check(major: u32) {
    let (kept, old) = (Kept::new(), server(major, 1, &[]));
    let proxy = Proxy::start(old.port()).must();
    let options = ReceiverOptions { port: Some(proxy.port()), slot: false, ..kept.options() };
    let mut receiver = Receiver::start(&old, &kept.archive, &options);
    receiver.await_streaming(&old);
    backup(&kept, &old, &[]);
    let load = CommitLoad::start(old.connection(), &LoadOptions::default()).must();
    load.wait_for(200, LIMIT).must();
    old.sql("SELECT pg_create_physical_replication_slot('rebuilt')").must();
    let conninfo = old.conninfo();
    let follow = ["--standby", "--primary-conninfo", &conninfo, "--primary-slot", "rebuilt"];
    let quick = ["wal_retrieve_retry_interval = 100ms"];
    // A trigger file where there is such a thing, and pg_ctl elsewhere.
    let trigger = kept.scratch.server_dir("trigger").must().join("promote");
    let by_trigger = format!("promote_trigger_file = '{}'", trigger.display());
    let with_trigger = [quick[0], &by_trigger];
    let conf: &[&str] = if major < 16 { &with_trigger } else { &quick };
    let mut new = restored(&kept, old.install(), &follow, conf);
    new.restart().must();
    old.wait_until("the rebuilt standby to stream", LIMIT, STREAMS).must();
    load.wait_for(load.acked_count() + 100, LIMIT).must();
    load.finish().must();
    await_all(&new, &old);
    let count = "SELECT count(*) FROM seawall_load";
    assert_eq!(new.sql(count).must(), old.sql(count).must());

    promote(&new, (major < 16).then_some(&trigger));
    fail_back(&kept, old, &new, (&proxy, &mut receiver), &quick);
    receiver.stop();
}

fn promote(server: &Server, trigger: Option<&std::path::PathBuf>) {
    if let Some(trigger) = trigger {
        fs::write(trigger, "").must();
        // The server removes it.
        give(trigger);
    } else {
        let mut pg_ctl = server.install().command("pg_ctl");
        run(pg_ctl.args(["promote", "-D"]).arg(server.data_dir()), LIMIT, "pg_ctl promote").must();
    }
    server.wait_until("the promotion", LIMIT, "NOT pg_is_in_recovery()").must();
}

fn give(path: &Path) {
    let mut touch = Command::new("touch");
    as_server_user(&mut touch);
    run(touch.arg(path.with_extension("done")), LIMIT, "touch").must();
}

/// The old primary's place is taken by a standby of the new one.
fn fail_back(
    kept: &Kept,
    mut old: Server,
    new: &Server,
    (proxy, receiver): (&Proxy, &mut Receiver),
    conf: &[&str],
) {
    old.stop(StopMode::Immediate).must();
    proxy.redirect(new.port());
    receiver.await_streaming(new);
    new.sql("CREATE TABLE after AS SELECT generate_series(1, 5000) i").must();
    receiver.await_flush(new, server_flush(new));
    let conninfo = new.conninfo();
    let follow = ["--standby", "--primary-conninfo", &conninfo];
    let mut back = restored(kept, old.install(), &follow, conf);
    back.restart().must();
    new.wait_until("the old primary's successor to stream", LIMIT, STREAMS).must();
    await_all(&back, new);
    assert_eq!(back.sql("SELECT count(*) FROM after").must(), "5000");
    assert_eq!(back.sql("SELECT pg_is_in_recovery()").must(), "t");
}

on_each_major!(a_standby_is_backed_up, super::check_standby);

fn check_standby(major: u32) {
    let (kept, primary) = (Kept::new(), server(major, 1, &[]));
    let mut receiver = kept.receiver(&primary);
    primary.init_pgbench(1).must();
    let standby = primary.standby(&[]).must();
    await_all(&standby, &primary);
    primary.sql("CHECKPOINT").must();
    await_all(&standby, &primary);
    backup(&kept, &standby, &[]);
    assert_eq!(list(&kept)["backups"][0]["from_standby"], true);
    primary.sql("CREATE TABLE later AS SELECT 7 i").must();
    receiver.await_flush(&primary, server_flush(&primary));
    // The backup has the standby's own signal file and connection, which aren't for this one.
    let mut server = restored(&kept, primary.install(), &[], &[]);
    assert!(!server.data_dir().join("standby.signal").exists());
    recover(&mut server);
    assert_eq!(server.sql("SELECT i FROM later").must(), "7");
    drop(server);

    // A promotion in the midst of one.
    let mut command = backup_command(&kept, &standby, &["-r", "1M"]);
    let mut running = Running::spawn(&mut command, "seawall backup").must();
    let sends = "EXISTS (SELECT FROM pg_stat_replication WHERE state = 'backup') \
                 AND EXISTS (SELECT FROM pg_stat_progress_basebackup WHERE phase LIKE 'streaming%')";
    standby.wait_until("the backup to be sent", LIMIT, sends).must();
    standby.promote().must();
    let status = running.wait(LIMIT).must();
    assert_eq!(status.code(), Some(1), "{}", running.output_tail());
    assert!(running.output_tail().contains("promoted"), "{}", running.output_tail());
    assert_eq!(list(&kept)["backups"].as_array().map(Vec::len), Some(1));
    assert_eq!(fs::read_dir(kept.archive.join("backups")).must().count(), 1, "it is cleared away");
    let again = ended(&mut super::seawall(&kept, "list"));
    again.is_well();
    receiver.stop();
}
