//! Streaming under load: every acknowledged byte is the primary's, at each version and segment
//! size; and where a receiver ends that is told to.

use std::path::Path;

use pg_types::Lsn;
use testkit::process::Running;
use testkit::servers::{Server, StopMode, full};

use crate::common::{
    Decoded, LIMIT, Must, Receiver, ReceiverOptions, SLOT, compare_with_primary, lsn,
    on_each_major, restart_lsn, scratch, server, server_flush,
};

on_each_major!(every_acknowledged_byte_is_the_primarys, super::under_load);
on_each_major!(an_end_position_ends_it_with_everything_before_durable, super::end_position);
on_each_major!(no_loop_ends_it_with_the_server, super::no_loop);

/// pgbench's work: two clients, so many transactions each.
const CLIENTS: &[&str] = &["-n", "-N", "-c", "2"];

fn under_load(major: u32) {
    let sizes: &[u32] = match major {
        major if full(major) => &[1, 16, 64],
        15 => &[64],
        16 => &[1],
        _ => &[16],
    };
    for &segment_size_mb in sizes {
        stream(major, segment_size_mb);
    }
}

fn stream(major: u32, segment_size_mb: u32) {
    let (primary, scratch) = (server(major, segment_size_mb, &[]), scratch());
    let archive = scratch.path().join("archive");
    let options = ReceiverOptions::default();
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    let slot_began = restart_lsn(&primary);
    primary.init_pgbench(2).must();
    // Each sends a segment's rest in zeros: fewer of the large ones.
    let switches = if segment_size_mb == 64 { 2 } else { 6 };
    for _ in 0..switches {
        let mut load = start_pgbench(&primary, "200");
        let switched = lsn(&primary, "SELECT pg_switch_wal()");
        assert!(load.wait(LIMIT).must().success(), "{}", load.output_tail());
        receiver.await_flush(&primary, switched);
    }
    receiver.await_flush(&primary, server_flush(&primary));
    let flushed = Receiver::flush_lsn(&primary);
    assert!(restart_lsn(&primary) > slot_began, "the slot stays at {slot_began}");
    let wal_dir = receiver.wal_dir();
    receiver.stop();
    check(&primary, &wal_dir, flushed);
    let slot_keeps = restart_lsn(&primary);
    assert!(Decoded::of(&wal_dir).proved >= slot_keeps, "the slot is ahead, at {slot_keeps}");
}

fn start_pgbench(primary: &Server, transactions: &str) -> Running {
    let args = [CLIENTS, &["-t", transactions]].concat();
    Running::spawn(&mut primary.pgbench(&args), "pgbench").must()
}

/// What was acknowledged is the primary's, and is WAL whose CRCs hold.
fn check(primary: &Server, wal_dir: &Path, acknowledged: Lsn) {
    let compared = compare_with_primary(wal_dir, primary, acknowledged);
    assert!(compared > 0);
    let decoded = Decoded::of(wal_dir);
    let Decoded { proved, end, .. } = decoded;
    assert!(proved >= acknowledged, "acknowledged {acknowledged}, proved {proved}, {end:?}");
}

/// One position that is there already, one that the load gets to, and one in a record's middle.
fn end_position(major: u32) {
    let (primary, scratch) = (server(major, 1, &[]), scratch());
    primary.init_pgbench(1).must();
    let cases: [(&str, &str); 3] = [
        ("there", "SELECT pg_current_wal_flush_lsn()"),
        ("ahead", "SELECT pg_current_wal_insert_lsn() + 200000"),
        ("odd", "SELECT pg_current_wal_flush_lsn() - 13"),
    ];
    let cases = if full(major) { &cases[..] } else { &cases[1..2] };
    for (name, query) in cases {
        // It keeps everything from before the end position on.
        primary.sql(&format!("SELECT pg_create_physical_replication_slot('{SLOT}', true)")).must();
        primary.sql("INSERT INTO pgbench_history(tid) SELECT generate_series(1, 500)").must();
        let end = lsn(&primary, query);
        let archive = scratch.path().join(name);
        let options = ReceiverOptions::with(&["--no-loop", "-E", &end.to_string()]);
        let mut receiver = Receiver::start(&primary, &archive, &options);
        let mut load = start_pgbench(&primary, "500");
        let status = receiver.wait();
        let output = receiver.running.output_tail();
        assert!(status.success(), "{name}: it ended with {status}:\n{output}");
        load.wait(LIMIT).must();
        let proved = Decoded::of(&receiver.wal_dir()).proved;
        compare_with_primary(&receiver.wal_dir(), &primary, proved);
        if *name == "odd" {
            // It may end before the record that the position is in, a checkpoint's at the longest.
            assert!(proved.saturating_add(256) > end, "{end} is asked for, {proved} is proved");
        } else {
            assert!(proved >= end, "{end} is asked for, {proved} is proved");
            let keeps = restart_lsn(&primary);
            assert!(keeps >= end, "{end} was reached, and {keeps} was acknowledged last");
        }
        let inactive =
            format!("SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
        primary.wait_until("the slot to be free", LIMIT, &inactive).must();
        primary.sql(&format!("SELECT pg_drop_replication_slot('{SLOT}')")).must();
    }
}

/// With `-n` a server that goes away, in order or not, is the receiver's end, and no success.
fn no_loop(major: u32) {
    let mut primary = server(major, 16, &[]);
    let scratch = scratch();
    let archive = scratch.path().join("archive");
    let modes = [StopMode::Immediate, StopMode::Fast];
    let modes = if full(major) { &modes[..] } else { &modes[..1] };
    for mode in modes {
        let mut receiver = Receiver::start(&primary, &archive, &ReceiverOptions::with(&["-n"]));
        receiver.await_streaming(&primary);
        primary.sql("CREATE TABLE IF NOT EXISTS t(a int); INSERT INTO t VALUES (1)").must();
        let stopped = primary.stop(*mode).map(drop);
        stopped.must();
        let status = receiver.wait();
        let output = receiver.running.output_tail();
        assert!(!status.success(), "{mode:?}: it ended with success:\n{output}");
        assert_eq!(status.code(), Some(1), "{mode:?}: {output}");
        primary.restart().must();
    }
}
