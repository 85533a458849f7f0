//! The promise of a synchronous standby: what a client saw committed is in the archive, whoever
//! is killed.

use std::fs;
use std::path::Path;

use testkit::load::{Acked, CommitLoad, LoadOptions};
use testkit::process::Running;
use testkit::servers::{Server, full};

use crate::common::{
    Decoded, LIMIT, Must, Random, Receiver, ReceiverOptions, compare_with_primary, on_each_major,
    scratch, server,
};

/// Records over several pages that nobody waits for, so that a kill breaks some of them off.
const LARGE_RECORDS: &str = "\\set n random(1, 60000)
SET synchronous_commit = off;
SELECT pg_logical_emit_message(true, 'large', repeat('x', :n));
";

/// Some megabytes a second of them.
const LARGE_RECORDS_RATE: &str = "--rate=200";

on_each_major!(no_acknowledged_commit_is_lost_with_the_primary, super::primary_killed);
on_each_major!(no_remote_write_is_lost_with_the_receiver_and_the_primary, super::both_killed);

/// What happens to the receiver while the primary is away.
#[derive(Clone, Copy)]
enum Meanwhile {
    /// It goes on, and connects again by itself.
    Stays,
    /// SIGTERM, and a new one.
    Stops,
    /// SIGKILL, and a new one.
    IsKilled,
}

fn primary_killed(major: u32) {
    use Meanwhile::{IsKilled, Stays, Stops};
    let rounds = if full(major) { 10 } else { 3 };
    let (mut primary, scratch) = (server(major, 1, &[]), scratch());
    let archive = scratch.path().join("archive");
    let options = ReceiverOptions::default();
    let mut receiver = Receiver::start_synchronous(&primary, &archive, &options);
    let wal_dir = receiver.wal_dir();
    let mut random = Random::new("killing the primary");
    let mut broken_off = 0;
    for meanwhile in [Stays, Stops, IsKilled].into_iter().cycle().take(rounds) {
        let said = receiver.running.line_count();
        let load = start_load(&primary, scratch.path(), "on", &mut random);
        primary.kill9();
        let acked = load.finish().must();
        // What it had received is on the disk by then.
        receiver.running.wait_for_line_from(said, "connecting again", LIMIT).must();
        broken_off = check(&primary, &wal_dir, &acked);
        let again = || Receiver::start(&primary, &archive, &options);
        match meanwhile {
            Stays => primary.restart().must(),
            Stops => {
                receiver.stop();
                primary.restart().must();
                receiver = Receiver::start(&primary, &archive, &options);
            }
            IsKilled => {
                receiver.kill9();
                // It finds nobody, and goes on trying.
                receiver = again();
                primary.restart().must();
            }
        }
        receiver.await_synchronous(&primary);
    }
    end(&primary, receiver, broken_off);
}

fn both_killed(major: u32) {
    let rounds = if full(major) { 5 } else { 2 };
    let (mut primary, scratch) = (server(major, 16, &[]), scratch());
    let archive = scratch.path().join("archive");
    let options = ReceiverOptions::default();
    let mut receiver = Receiver::start_synchronous(&primary, &archive, &options);
    let wal_dir = receiver.wal_dir();
    let mut random = Random::new("killing both");
    let mut broken_off = 0;
    for _ in 0..rounds {
        let load = start_load(&primary, scratch.path(), "remote_write", &mut random);
        receiver.kill9();
        primary.kill9();
        let acked = load.finish().must();
        broken_off = check(&primary, &wal_dir, &acked);
        primary.restart().must();
        receiver = Receiver::start(&primary, &archive, &options);
        receiver.await_synchronous(&primary);
    }
    end(&primary, receiver, broken_off);
}

/// Starts clients that note what was acknowledged, and returns at a random moment of their work.
fn start_load(primary: &Server, dir: &Path, synchronous_commit: &str, random: &mut Random) -> Load {
    let script = dir.join("large_records.sql");
    fs::write(&script, LARGE_RECORDS).must();
    let file = script.to_string_lossy();
    let mut large = primary.pgbench(&["-n", "-T", "600", LARGE_RECORDS_RATE, "-f", &file]);
    let large = Running::spawn(&mut large, "pgbench").must();
    let synchronous_commit = synchronous_commit.to_owned();
    let options = LoadOptions { clients: 4, synchronous_commit, ..LoadOptions::default() };
    let clients = CommitLoad::start(primary.connection(), &options).must();
    let count = 20 + usize::try_from(random.below(200)).must();
    clients.wait_for(count, LIMIT).must();
    Load { clients, _large: large }
}

struct Load {
    clients: CommitLoad,
    _large: Running,
}

impl Load {
    fn finish(self) -> Result<Vec<Acked>, testkit::Error> {
        self.clients.finish()
    }
}

/// Looks all of `acked` up in the archive; gives how many records a crash broke off in it so far.
fn check(primary: &Server, wal_dir: &Path, acked: &[Acked]) -> usize {
    let decoded = Decoded::of(wal_dir);
    decoded.assert_has(acked, primary.install(), wal_dir);
    decoded.broken_off.len()
}

/// After all crashes the archive is the primary's WAL, byte by byte.
#[expect(clippy::print_stderr, reason = "how much was hit is for whoever wants to know")]
fn end(primary: &Server, mut receiver: Receiver, broken_off: usize) {
    let wal_dir = receiver.wal_dir();
    receiver.await_flush(primary, crate::common::server_flush(primary));
    let flushed = Receiver::flush_lsn(primary);
    receiver.stop();
    let compared = compare_with_primary(&wal_dir, primary, flushed);
    assert!(Decoded::of(&wal_dir).proved >= flushed);
    eprintln!("{compared} bytes are the primary's; {broken_off} records were broken off");
}
