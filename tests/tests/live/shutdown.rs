//! A clean shutdown of the primary ends as fast with its synchronous standby as without, and all
//! of its WAL is in the archive then, the shutdown checkpoint too.

use std::path::Path;
use std::time::Duration;

use pg_types::Lsn;
use testkit::process::run;
use testkit::servers::{Server, StopMode, full};

use crate::common::{
    Decoded, LIMIT, Must, Receiver, ReceiverOptions, compare_with_primary, on_each_major, scratch,
    server,
};

/// A shutdown's checkpoint takes longer or shorter; a wait for a timer takes longer than this.
const LEEWAY: Duration = Duration::from_secs(1);

/// What goes before a shutdown.
const ENDINGS: [(&str, &str); 2] = [
    ("after a commit", "INSERT INTO t VALUES (1)"),
    ("after a switch", "INSERT INTO t VALUES (1); SELECT pg_switch_wal()"),
];

on_each_major!(a_clean_shutdown_is_as_fast_as_without, super::check);

fn check(major: u32) {
    let sizes: &[u32] = if full(major) { &[1, 16] } else { &[1] };
    for &size in sizes {
        let (mut primary, scratch) = (server(major, size, &[]), scratch());
        primary.sql("CREATE TABLE t(a int)").must();
        for (what, sql) in ENDINGS {
            let with = with_standby(&mut primary, &scratch.path().join("archive"), sql);
            primary.restart().must();
            primary.set_synchronous_standbys("").must();
            primary.sql(sql).must();
            let without = primary.stop(StopMode::Fast).must();
            assert!(
                with < without + LEEWAY,
                "{what}, {size} MB: {with:?} with a standby, {without:?} without"
            );
            primary.restart().must();
        }
    }
}

/// The time that a shutdown takes with a synchronous standby.
fn with_standby(primary: &mut Server, archive: &Path, sql: &str) -> Duration {
    let options = ReceiverOptions::with(&["-s", "10"]);
    let receiver = Receiver::start_synchronous(primary, archive, &options);
    primary.sql(sql).must();
    let took = primary.stop(StopMode::Fast).must();
    receiver.running.wait_for_line("connecting again", LIMIT).must();
    let wal_dir = receiver.wal_dir();
    let decoded = Decoded::of(&wal_dir);
    assert!(decoded.ends_with_shutdown(), "the last record is {:?}", decoded.last);
    let last = decoded.last.map(|last| last.lsn);
    assert_eq!(last, Some(checkpoint(primary)), "the shutdown checkpoint, ours and the primary's");
    compare_with_primary(&wal_dir, primary, decoded.proved);
    receiver.stop();
    took
}

/// Where the stopped primary's last checkpoint is, as its control file says.
fn checkpoint(primary: &Server) -> Lsn {
    let mut controldata = primary.install().client_command("pg_controldata");
    let output = run(controldata.arg(primary.data_dir()), LIMIT, "pg_controldata").must();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let location = text.lines().find_map(|line| line.strip_prefix("Latest checkpoint location:"));
    location.unwrap_or_else(|| panic!("no checkpoint in {text}")).trim().parse().must()
}
