//! The system calls of the real program, by strace: nothing is claimed as flushed before the
//! fdatasync of its bytes and the fsync of the directory that has its file's name.
//!
//! The log gives what was written where and when it was synced; what a power loss would leave at
//! the moment of each status message is put together from that, and held against the primary.

mod backup;
mod calls;
mod disk;

use std::path::Path;
use std::process::Command;

use pg_types::Lsn;
use testkit::load::Session;
use testkit::process::{Running, Signal, children_of};
use testkit::servers::{Server, system_program};

use self::calls::{Call, read_calls};
use self::disk::TracedDisk;
use super::common::{LIMIT, Must, SLOT, scratch, server, server_flush};
use super::program::receive;

/// What is traced: whatever could write a file, name it, sync it, or send.
const TRACED: &str = "trace=write,writev,pwrite64,pwritev,pwritev2,fdatasync,fsync,rename,renameat,\
                      renameat2,link,linkat,unlink,unlinkat,sendto,sendmsg,io_uring_enter";

/// The receiver's name.
const NAME: &str = "traced";

/// Commits one at a time, each waiting for its own status message.
const COMMITS: usize = 300;

/// A status message's positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status {
    write: Lsn,
    flush: Lsn,
}

fn traced_receiver(server: &Server, archive: &Path, log: &Path) -> Running {
    let more = ["--slot", SLOT, "--create-slot", "--application-name", NAME, "-w", "-q"];
    let seawall = receive(server, archive, &more);
    let mut strace = Command::new(system_program("strace", "strace").must());
    strace.env_clear().env("HOME", "/nonexistent");
    strace.args(["-f", "-y", "-xx", "-s", "4000000", "-e", TRACED, "-o"]).arg(log);
    strace.arg(seawall.get_program()).args(seawall.get_args());
    Running::spawn(&mut strace, "strace seawall receive").must()
}

/// Single commits, and records that run over pages and segments.
fn load(server: &Server) {
    let mut session = Session::open(server.connection(), "SELECT 1").must();
    for commit in 0..COMMITS {
        let size = [8, 100, 700, 5000][commit % 4];
        let emit = format!("SELECT pg_logical_emit_message(true, 'live', repeat('x', {size}))");
        session.timed_row(&emit, LIMIT).must();
        if commit % 100 == 50 {
            let emit = "SELECT pg_logical_emit_message(true, 'live', repeat('y', 1500000))";
            session.timed_row(emit, LIMIT).must();
            session.timed_row("SELECT pg_switch_wal()", LIMIT).must();
        }
    }
}

fn nothing_is_claimed_before_it_is_durable(major: u32) {
    let (server, scratch) = (server(major, 1, &[]), scratch());
    let (archive, log) = (scratch.path().join("archive"), scratch.path().join("strace.log"));
    let mut traced = traced_receiver(&server, &archive, &log);
    let streams = "EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')";
    if let Err(error) = server.wait_until("the traced receiver to stream", LIMIT, streams) {
        panic!("{error}\n{}", traced.output_tail());
    }
    server.set_synchronous_standbys(NAME).must();
    let synchronous = "EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')";
    server.wait_until("the traced receiver to be synchronous", LIMIT, synchronous).must();
    load(&server);
    let end = server_flush(&server);
    // strace passes no signal on to what it traces.
    for child in children_of(traced.pid()) {
        testkit::process::signal(child, Signal::TERM);
    }
    assert!(traced.wait(LIMIT).must().success(), "{}", traced.output_tail());
    server.set_synchronous_standbys("").must();

    let checked = check(&log, &server);
    assert!(checked.statuses >= COMMITS, "{checked:?}");
    assert!(checked.last.flush >= end, "{checked:?}, and the load ended at {end}");
}

/// What was looked at.
#[derive(Debug)]
struct Checked {
    /// Status messages that claimed more than the one before.
    statuses: usize,
    last: Status,
}

fn check(log: &Path, server: &Server) -> Checked {
    let mut disk = TracedDisk::default();
    let mut last = Status { write: Lsn::INVALID, flush: Lsn::INVALID };
    let mut statuses = 0;
    read_calls(log, |call| match call {
        Call::Begun(id, call) => {
            for status in call.statuses() {
                disk.assert_holds(status, server);
                statuses += usize::from(status.flush > last.flush);
                last = status;
            }
            disk.begin(id, call);
        }
        Call::Ended(id, well) => disk.end(id, well),
    });
    Checked { statuses, last }
}

#[test]
fn nothing_is_claimed_before_it_is_durable_14() {
    nothing_is_claimed_before_it_is_durable(14);
}

#[test]
fn nothing_is_claimed_before_it_is_durable_18() {
    nothing_is_claimed_before_it_is_durable(18);
}
