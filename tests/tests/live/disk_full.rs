//! A full disk, a real one: receiving waits, the primary sees what is durable and no more, the
//! connection lives, and all goes on when there is room.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use pg_types::Lsn;
use testkit::load::Session;
use testkit::servers::Server;

use super::common::disks::SmallDisk;
use super::common::{
    LIMIT, Must, Receiver, ReceiverOptions, compare_with_primary, scratch, server, server_flush,
};

/// The file system; half of it is taken by a ballast at first.
const SIZE_MB: u64 = 20;

/// What the server takes for a dead standby: a full disk lasts longer.
const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(2);

/// The walsender's process, and what it knows to be flushed.
fn walsender(server: &Server) -> (String, Lsn) {
    let pid = server.sql("SELECT pid FROM pg_stat_replication").must();
    (pid, Receiver::flush_lsn(server))
}

fn ballast(at: &Path) {
    let megabyte = vec![1; 1 << 20];
    let mut file = File::create(at).must();
    for _ in 0..SIZE_MB / 2 {
        file.write_all(&megabyte).must();
    }
}

fn waits_for_room(major: u32) {
    let scratch = scratch();
    let Some(disk) = SmallDisk::tmpfs(scratch.path().join("small"), SIZE_MB) else { return };
    let timeout = format!("wal_sender_timeout = {}s", WAL_SENDER_TIMEOUT.as_secs());
    let server = server(major, 1, &[&timeout]);
    let ballast_file = disk.path().join("ballast");
    ballast(&ballast_file);
    let mut receiver = Receiver::start_synchronous(
        &server,
        &disk.path().join("archive"),
        &ReceiverOptions::with(&["--json"]),
    );
    // Each commit waits for the receiver; together they are more than there is room for.
    let mut session = Session::open(server.connection(), "SELECT 1").must();
    let emit = "SELECT 'done' FROM pg_logical_emit_message(true, 'live', repeat('x', 700000))";
    for _ in 0..17 {
        session.send(emit).must();
    }
    let said = receiver.running.wait_for_line("\"disk_full\"", LIMIT).must();
    assert!(said.text.contains("No space left"), "{}", said.text);
    receiver.running.wait_for_line("waits until there is room", LIMIT).must();

    // What was on its way when the disk was full has arrived when nothing changes any more.
    let (pid, mut flushed) = walsender(&server);
    let (mut since, began) = (Instant::now(), Instant::now());
    while since.elapsed() < 2 * WAL_SENDER_TIMEOUT {
        let (now_pid, now_flushed) = walsender(&server);
        assert_eq!(now_pid, pid, "the connection was lost: {}", receiver.running.output_tail());
        if now_flushed != flushed {
            (flushed, since) = (now_flushed, Instant::now());
        }
        assert!(began.elapsed() < LIMIT, "it goes on, with {flushed} flushed, on a full disk");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(flushed < server_flush(&server), "nothing was left to be received");
    compare_with_primary(&receiver.wal_dir(), &server, flushed);

    fs::remove_file(&ballast_file).must();
    for _ in 0..17 {
        let answer = session.line(LIMIT).must();
        let output = receiver.running.output_tail();
        assert_eq!(answer.as_deref(), Some("done"), "a commit never came back: {output}");
    }
    receiver.running.wait_for_line("\"disk_has_room\"", LIMIT).must();
    let end = server_flush(&server);
    receiver.await_flush(&server, end);
    compare_with_primary(&receiver.wal_dir(), &server, end);
    assert_eq!(walsender(&server).0, pid, "the connection was lost");
    server.set_synchronous_standbys("").must();
    receiver.stop();
}

#[test]
fn a_full_disk_is_waited_for_14() {
    waits_for_room(14);
}

#[test]
fn a_full_disk_is_waited_for_18() {
    waits_for_room(18);
}
