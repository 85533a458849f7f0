//! `--max-slot-retention`: a receiver that gets no further doesn't fill the server's disk.

use pg_types::Lsn;

use super::common::disks::SmallDisk;
use super::common::{
    LIMIT, Must, Receiver, ReceiverOptions, compare_with_primary, scratch, server_flush,
};
use super::gaps::{forget, forgetful_server, gaps};
use super::program::{ended, seawall};

/// The archive's file system.
const SIZE_MB: u64 = 64;
/// What the slot may keep.
const BOUND: &str = "4MB";

fn bounded() -> ReceiverOptions {
    ReceiverOptions::with(&["--max-slot-retention", BOUND, "--json"])
}

/// The disk stops: at the bound the server may remove WAL; when the disk is there again, receiving
/// goes on, with a slot, and what is missing is told to the segment.
fn a_stopped_disk_holds_no_wal(major: u32) {
    let (server, scratch) = (forgetful_server(major), scratch());
    let Some(mut disk) = SmallDisk::ext4(scratch.path().join("disk"), SIZE_MB) else { return };
    let archive = disk.path().join("archive");
    let mut receiver = Receiver::start(&server, &archive, &bounded());
    receiver.await_streaming(&server);
    server.sql("CREATE TABLE u AS SELECT generate_series(1, 30000) i").must();
    let before = server_flush(&server);
    receiver.await_flush(&server, before);

    disk.freeze();
    let still_kept = forget(&server);
    assert!(still_kept <= before, "the slot keeps what isn't archived: {still_kept}, {before}");
    receiver.running.wait_for_line("ALARM: the replication slot", LIMIT).must();
    receiver.running.wait_for_line("\"slot_let_go\"", LIMIT).must();
    assert_eq!(server.sql("SELECT count(*) FROM pg_replication_slots").must(), "0");
    let oldest = forget(&server);
    assert!(oldest > before, "its WAL can be removed");
    let status = ended(seawall(&["status", "-A"]).arg(&archive));
    assert!(status.stdout.contains("ALARM: let go"), "{status:#?}");
    assert!(status.stdout.contains("next        wait until"), "{status:#?}");

    disk.thaw();
    receiver.await_streaming(&server);
    let back = "(SELECT restart_lsn FROM pg_replication_slots) > '0/0'";
    server.wait_until("the slot to be there again", LIMIT, back).must();
    server.sql("CREATE TABLE v AS SELECT generate_series(1, 30000) i").must();
    let end = server_flush(&server);
    receiver.await_flush(&server, end);
    let found = gaps(&archive);
    assert_eq!(found.len(), 1, "{found:?}");
    let at = |key: &str| -> Lsn { found[0][key].as_str().unwrap_or_default().parse().must() };
    assert!(at("from") >= before && at("to") == oldest, "{found:?}, and the server has {oldest}");
    let reason = found[0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("--max-slot-retention"), "{found:?}");
    receiver.stop();
}

#[test]
fn a_stopped_disk_holds_no_wal_14() {
    a_stopped_disk_holds_no_wal(14);
}

#[test]
fn a_stopped_disk_holds_no_wal_18() {
    a_stopped_disk_holds_no_wal(18);
}

/// The same with a disk that is full.
#[test]
fn a_full_disk_holds_no_wal() {
    let (server, scratch) = (forgetful_server(18), scratch());
    let Some(disk) = SmallDisk::tmpfs(scratch.path().join("disk"), 16) else { return };
    let archive = disk.path().join("archive");
    let mut receiver = Receiver::start(&server, &archive, &bounded());
    receiver.await_streaming(&server);
    server.sql("CREATE TABLE u AS SELECT generate_series(1, 300000) i").must();
    receiver.running.wait_for_line("\"disk_full\"", LIMIT).must();
    let archived = Receiver::flush_lsn(&server);
    forget(&server);
    receiver.running.wait_for_line("\"slot_let_go\"", LIMIT).must();
    let oldest = forget(&server);
    assert!(oldest > archived, "{oldest} is kept, and {archived} is archived");
    receiver.stop();
}

/// One that was away for long and gets on with it isn't taken for one that can't.
#[test]
fn a_receiver_that_catches_up_keeps_its_slot() {
    let (server, scratch) = (forgetful_server(18), scratch());
    let archive = scratch.path().join("archive");
    let mut receiver = Receiver::start(&server, &archive, &bounded());
    receiver.await_streaming(&server);
    receiver.stop();
    for _ in 0..3 {
        forget(&server);
    }
    let mut receiver = Receiver::start(&server, &archive, &bounded());
    let end = server_flush(&server);
    receiver.await_streaming(&server);
    receiver.await_flush(&server, end);
    assert_eq!(gaps(&archive), Vec::<serde_json::Value>::new());
    let output = receiver.running.output_tail();
    assert!(!output.contains("slot_let_go"), "{output}");
    receiver.stop();
    compare_with_primary(&archive.join("wal"), &server, end);
}

#[test]
fn a_bound_without_leave_to_make_the_slot_is_refused() {
    let mut receive = seawall(&["receive", "-A", "x", "-S", "s", "--max-slot-retention", "1GB"]);
    ended(&mut receive).says(2, &["--create-slot"]);
    let mut receive = seawall(&["receive", "-A", "x", "--max-slot-retention", "much"]);
    ended(&mut receive).says(2, &["512MB"]);
}
