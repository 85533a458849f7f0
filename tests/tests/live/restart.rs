//! SIGKILL of the receiver at random moments under load: the next one goes on where it ended.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pg_types::Lsn;
use testkit::load::Session;
use testkit::process::Running;
use testkit::servers::{PgConnection, Server, full};

use crate::common::{
    Decoded, LIMIT, Must, Random, Receiver, ReceiverOptions, SLOT, Segments, compare_with_primary,
    on_each_major, restart_lsn, scratch, server, server_flush,
};

/// Now and then a record over several segments.
const LARGE_RECORD: &str = "\\set n random(1, 2500000)
SELECT pg_logical_emit_message(true, 'large', repeat('x', :n));
";

/// How long a receiver lives at most, once it streams or from its start.
const LIFE_LIMIT_MS: u64 = 300;

on_each_major!(a_killed_receiver_goes_on_where_it_ended, super::killed);

fn killed(major: u32) {
    let kills = if full(major) { 20 } else { 6 };
    let (primary, scratch) = (server(major, 1, &[]), scratch());
    primary.init_pgbench(1).must();
    let archive = scratch.path().join("archive");
    let wal_dir = archive.join("wal");
    let options = ReceiverOptions::default();
    let mut random = Random::new("killing the receiver");
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    let watch = SlotWatch::start(primary.connection());
    let mut load = start_load(&primary, scratch.path());
    let mut sealed = Sealed::default();
    for kill in 0..kills {
        // One in three isn't given the time to stream.
        if kill % 3 != 2 {
            receiver.await_streaming(&primary);
        }
        // The random moment, not a wait for anything.
        thread::sleep(Duration::from_millis(random.below(LIFE_LIMIT_MS)));
        receiver.kill9();
        sealed.check(&wal_dir);
        let (keeps, decoded) = (restart_lsn(&primary), Decoded::of(&wal_dir));
        let Decoded { proved, end, .. } = decoded;
        assert!(proved >= keeps, "acknowledged {keeps}, archived {proved}, then {end:?}");
        receiver = Receiver::start(&primary, &archive, &options);
    }
    assert!(load.ended().is_none(), "the load ended early: {}", load.output_tail());
    load.kill9();
    receiver.await_flush(&primary, server_flush(&primary));
    let flushed = Receiver::flush_lsn(&primary);
    receiver.stop();
    sealed.check(&wal_dir);
    assert!(sealed.hashes.len() > 3, "only {} segments were sealed", sealed.hashes.len());
    compare_with_primary(&wal_dir, &primary, flushed);
    assert!(Decoded::of(&wal_dir).proved >= flushed);
    watch.end();
}

fn start_load(primary: &Server, dir: &Path) -> Running {
    let script = dir.join("large_record.sql");
    std::fs::write(&script, LARGE_RECORD).must();
    let file = format!("{}@1", script.display());
    let mix = ["-n", "-c", "2", "-T", "600", "--rate=400", "-b", "simple-update@100", "-f", &file];
    Running::spawn(&mut primary.pgbench(&mix), "pgbench").must()
}

/// What sealed segments held when they were first seen.
#[derive(Default)]
struct Sealed {
    hashes: BTreeMap<String, u64>,
}

impl Sealed {
    /// Every one that was ever sealed is, with the bytes that it had.
    fn check(&mut self, wal_dir: &Path) {
        let segments = Segments::of(wal_dir);
        let now: BTreeMap<String, u64> =
            segments.sealed().map(|segment| (segment.name.clone(), segment.hash())).collect();
        for (name, hash) in &self.hashes {
            assert_eq!(now.get(name), Some(hash), "{name} isn't what was sealed");
        }
        self.hashes = now;
    }
}

/// Asks for the slot's position all the time: it never goes back.
struct SlotWatch {
    ending: Arc<AtomicBool>,
    watching: JoinHandle<Result<(), String>>,
}

impl SlotWatch {
    fn start(connection: &PgConnection) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let mut session = Session::open(connection, "SELECT 1").must();
        let until = Arc::clone(&ending);
        let watching = thread::spawn(move || {
            let mut last = Lsn::INVALID;
            let mut moved = 0;
            while !until.load(Ordering::Acquire) {
                let now = position(&mut session)?;
                if now < last {
                    return Err(format!("the slot went back from {last} to {now}"));
                }
                moved += u32::from(now > last);
                last = now;
            }
            if moved > 3 { Ok(()) } else { Err(format!("the slot moved {moved} times only")) }
        });
        Self { ending, watching }
    }

    fn end(self) {
        self.ending.store(true, Ordering::Release);
        let watched = self.watching.join();
        watched.unwrap_or_else(|_| Err("the watch panicked".to_owned())).must();
    }
}

/// A look every ten milliseconds: the server sleeps in between.
fn position(session: &mut Session) -> Result<Lsn, String> {
    let query = format!(
        "SELECT restart_lsn FROM pg_replication_slots, pg_sleep(0.01) WHERE slot_name = '{SLOT}'"
    );
    let (text, _) = session.timed_row(&query, LIMIT).map_err(|error| error.to_string())?;
    text.parse::<Lsn>().map_err(|error| error.to_string())
}
