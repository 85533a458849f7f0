//! A million segments: years of a busy cluster, in one directory.

use std::fs;

use testkit::servers::{segments_in, sparse_segments_before};

use super::common::{
    Must, Receiver, ReceiverOptions, compare_with_primary, scratch, server, server_flush,
};
use super::memory::assert_small;
use super::program::{ended, seawall};

/// How many there are before those that are streamed.
const MANY: u64 = 1_000_000;

/// A receiver starts on them within its memory, and whoever asks is answered; a hole in their
/// middle is found.
#[test]
fn a_million_segments_are_no_burden() {
    let (mut server, dir) = (server(18, 1, &[]), scratch());
    server.reset_wal("000000010000010000000000").must();
    let archive = dir.path().join("archive");
    let options = ReceiverOptions::default();
    let mut receiver = Receiver::start(&server, &archive, &options);
    receiver.await_streaming(&server);
    for _ in 0..3 {
        server
            .sql("SELECT pg_logical_emit_message(true, 'live', 'x'); SELECT pg_switch_wal()")
            .must();
    }
    receiver.await_flush(&server, server_flush(&server));
    let wal_dir = receiver.wal_dir();
    receiver.stop();
    let streamed = segments_in(&wal_dir).must().len() as u64;
    sparse_segments_before(&wal_dir, MANY).must();
    assert_eq!(segments_in(&wal_dir).must().len() as u64, streamed + MANY);

    let mut receiver = Receiver::start(&server, &archive, &options);
    receiver.await_streaming(&server);
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 100000)").must();
    receiver.await_flush(&server, server_flush(&server));
    assert_small(&receiver.running, "with a million segments");
    receiver.stop();
    let end = server_flush(&server);
    let hole = "0000000100000080000000FF";
    fs::remove_file(wal_dir.join(hole)).must();
    let status = ended(seawall(&["status", "-A"]).arg(&archive));
    status.is_well();
    let told = status.stdout.contains("missing     timeline 1: 80/FF00000 to 80/10000000");
    assert!(told, "{status:#?}");
    for (entry, path) in segments_in(&wal_dir).must().into_iter().enumerate() {
        if (entry as u64) < MANY - 1 {
            fs::remove_file(path).must();
        }
    }
    compare_with_primary(&wal_dir, &server, end);
}
