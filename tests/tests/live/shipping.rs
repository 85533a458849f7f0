//! Log shipping beside streaming: the server's archive_command brings what streaming left out, and
//! nothing is ever written over.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pg_types::{Lsn, SegmentSize, TimelineId, WalFileName};
use testkit::load::Commits;
use testkit::process::{Running, Signal, seawall_bin};
use testkit::servers::{Server, ServerOptions, StopMode};

use super::common::{
    Decoded, LIMIT, Must, Random, Receiver, ReceiverOptions, compare_with_primary, forgetful, lsn,
    pg, scratch, server, server_flush, small_segment_mb,
};
use super::gaps::{gaps, oldest_segment};
use super::program::{Ended, ended, fingerprint, receive, seawall};
use super::restore_wal::{name, sealed};

const NO_GAP: [serde_json::Value; 0] = [];

/// A server that archives into `archive`, both in a directory of the server's user.
struct Shipping {
    server: Server,
    archive: PathBuf,
    program: PathBuf,
}

impl Shipping {
    fn start<S: ToString>(major: u32, conf: &[S]) -> Self {
        let options = ServerOptions {
            segment_size_mb: small_segment_mb(major),
            conf: ["archive_mode = on", "fsync = off", "archive_command = '/bin/false'"]
                .map(str::to_owned)
                .into_iter()
                .chain(conf.iter().map(ToString::to_string))
                .collect(),
            ..Default::default()
        };
        let server = Server::start(&pg(major), &options).must();
        let dir = server.scratch().server_dir("shipping").must();
        // Where the server's user can get at it.
        let program = server.scratch().path().join("seawall");
        fs::copy(seawall_bin().must(), &program).must();
        let archive = dir.join("archive");
        let command = format!("{} archive-wal %p -A {}", program.display(), archive.display());
        server.set("archive_command", &command).must();
        Self { server, archive, program }
    }

    fn receiver(&self) -> Receiver {
        let as_server = Some(self.program.clone());
        let options = ReceiverOptions { slot: false, as_server, ..ReceiverOptions::default() };
        let mut receiver = Receiver::start(&self.server, &self.archive, &options);
        receiver.await_streaming(&self.server);
        receiver
    }

    /// Some megabytes of WAL, and what is whole of it archived and forgotten.
    fn work(&self) {
        for _ in 0..3 {
            self.server.sql("DROP TABLE IF EXISTS t").must();
            self.server.sql("CREATE TABLE t AS SELECT generate_series(1, 60000) i").must();
            self.server.sql("CHECKPOINT").must();
        }
    }

    /// Waits until the server has nothing left to archive.
    fn await_archived(&self) {
        let last = "SELECT pg_walfile_name(pg_switch_wal())";
        let last = self.server.sql(last).must();
        let done = format!("(SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver)");
        self.server.wait_until("everything to be archived", LIMIT, &done).must();
        let failed = self.server.sql("SELECT failed_count FROM pg_stat_archiver").must();
        let log = self.server.log_text();
        let said: Vec<&str> = log.lines().filter(|line| line.contains("seawall: ")).collect();
        assert!(said.is_empty(), "{failed} failures: {said:?}");
    }
}

pub(crate) fn what_streaming_left_out_is_shipped(major: u32) {
    let shipping = Shipping::start(major, &forgetful(major));
    let mut receiver = shipping.receiver();
    shipping.work();
    receiver.await_flush(&shipping.server, server_flush(&shipping.server));
    receiver.stop();
    shipping.work();
    shipping.await_archived();
    shipping.work();
    shipping.await_archived();
    // The server has forgotten what came meanwhile, and the archive has it.
    let mut receiver = shipping.receiver();
    shipping.work();
    receiver.await_flush(&shipping.server, server_flush(&shipping.server));
    shipping.await_archived();
    receiver.await_flush(&shipping.server, server_flush(&shipping.server));
    receiver.stop();
    assert_eq!(gaps(&shipping.archive), NO_GAP);
    assert!(!shipping.archive.join("gaps.json").exists());
    compare_what_is_left(&shipping);
}

/// Commits go on all the time, and the server keeps nothing for the receiver that comes and goes.
#[test]
fn under_load_no_gap_is_left() {
    let shipping = Shipping::start(18, &forgetful(18));
    shipping.server.init_pgbench(2).must();
    let mut load = shipping.server.pgbench(&["-n", "-N", "-c", "2", "-T", "600"]);
    let load = Running::spawn(&mut load, "pgbench").must();
    let removed_all = |before: Lsn| {
        while oldest_segment(&shipping.server) <= before {
            shipping.server.sql("CHECKPOINT").must();
        }
    };
    for killed in [false, true, false] {
        let mut receiver = shipping.receiver();
        receiver.await_flush(&shipping.server, server_flush(&shipping.server));
        if killed {
            receiver.kill9();
        } else {
            receiver.stop();
        }
        // What comes now it can have from the archive alone.
        removed_all(server_flush(&shipping.server));
    }
    let mut receiver = shipping.receiver();
    receiver.await_flush(&shipping.server, server_flush(&shipping.server));
    drop(load);
    shipping.await_archived();
    receiver.await_flush(&shipping.server, server_flush(&shipping.server));
    receiver.stop();
    assert_eq!(gaps(&shipping.archive), NO_GAP);
    compare_what_is_left(&shipping);
    // Without a hole, and each record holds: Decoded refuses both.
    let wal = shipping.archive.join("wal");
    let decoded = Decoded::of(&wal);
    let theirs = Commits::read(shipping.server.install(), &wal).must();
    assert_eq!(theirs.len(), decoded.commits.len(), "commits by pg_waldump, and by wal-format");
}

/// A quiet server's segments, whose ends are zeros, and the history of a base backup.
#[test]
fn quiet_segments_and_a_backups_history_are_shipped() {
    let shipping = Shipping::start(18, &["archive_timeout = 1"]);
    let mut receiver = shipping.receiver();
    for row in 0..2 {
        let before = shipping.server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").must();
        shipping.server.sql(&format!("CREATE TABLE t{row} ()")).must();
        let shipped = format!("(SELECT last_archived_wal >= '{before}' FROM pg_stat_archiver)");
        shipping.server.wait_until("a segment by archive_timeout", LIMIT, &shipped).must();
    }
    // Makes a base backup, which is a history file, too.
    drop(shipping.server.standby(&["archive_mode = off"]).must());
    shipping.await_archived();
    receiver.await_flush(&shipping.server, server_flush(&shipping.server));
    receiver.stop();
    let wal = shipping.archive.join("wal");
    let backups = |dir: &Path| {
        let files = fs::read_dir(dir).must().map(|entry| entry.must().path());
        let mut files: Vec<PathBuf> =
            files.filter(|file| file.extension() == Some("backup".as_ref())).collect();
        files.sort();
        files
    };
    let (ours, theirs) = (backups(&wal), backups(&shipping.server.wal_dir()));
    assert_eq!((ours.len(), theirs.len()), (1, 1));
    assert!(fs::read(&ours[0]).must() == fs::read(&theirs[0]).must());
    assert_eq!(gaps(&shipping.archive), NO_GAP);
    compare_what_is_left(&shipping);
}

/// Every segment that the server still has is the archive's.
fn compare_what_is_left(shipping: &Shipping) {
    let mut compared = 0;
    for theirs in shipping.server.wal_segments().must() {
        let Some(name) = theirs.file_name() else { continue };
        let ours = shipping.archive.join("wal").join(name);
        if ours.exists() {
            assert!(fs::read(&ours).must() == fs::read(&theirs).must(), "{}", ours.display());
            compared += 1;
        }
    }
    assert!(compared > 0);
}

#[test]
fn what_streaming_left_out_is_shipped_14() {
    what_streaming_left_out_is_shipped(14);
}

#[test]
fn what_streaming_left_out_is_shipped_18() {
    what_streaming_left_out_is_shipped(18);
}

#[test]
fn a_promotion_ships_its_history_and_the_last_partial() {
    let mut shipping = Shipping::start(18, &[""; 0]);
    shipping.work();
    shipping.server.stop(StopMode::Fast).must();
    fs::write(shipping.server.data_dir().join("standby.signal"), "").must();
    shipping.server.restart().must();
    shipping.server.promote().must();
    shipping.work();
    shipping.await_archived();
    let wal = shipping.archive.join("wal");
    let history = fs::read(wal.join("00000002.history")).must();
    assert_eq!(history, fs::read(shipping.server.wal_dir().join("00000002.history")).must());
    let names: Vec<String> = fs::read_dir(&wal)
        .must()
        .map(|entry| entry.must().file_name().to_string_lossy().into_owned())
        .collect();
    let partials: Vec<&String> = names.iter().filter(|name| name.ends_with(".partial")).collect();
    assert_eq!(partials.len(), 1, "{names:?}");
    assert!(partials[0].starts_with("00000001"), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("00000002") && name.len() == 24));
    // A receiver goes on where that ends.
    let mut receiver = shipping.receiver();
    shipping.work();
    receiver.await_flush(&shipping.server, server_flush(&shipping.server));
    receiver.stop();
    assert_eq!(gaps(&shipping.archive), NO_GAP);
}

/// `seawall archive-wal` of one file.
fn ship(file: &Path, archive: &Path) -> Ended {
    let mut command = seawall(&["archive-wal", "--archive"]);
    ended(command.arg(archive).arg(file))
}

/// A server's first whole segment.
fn whole_segment(server: &Server) -> PathBuf {
    let begin = lsn(server, "SELECT pg_current_wal_lsn()").segment(SegmentSize::MIN).next();
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) i").must();
    let name = WalFileName::segment(TimelineId::FIRST, begin).display(SegmentSize::MIN).to_string();
    server.wal_dir().join(name)
}

#[test]
fn the_same_is_fine_and_another_one_is_refused() {
    let (one, other, dir) = (server(18, 1, &[]), server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let segment = whole_segment(&one);
    ship(&segment, &archive).is_well();
    let archived = fingerprint(&archive.join("wal"));
    assert_eq!(archived.len(), 1);
    ship(&segment, &archive).is_well();
    assert_eq!(fingerprint(&archive.join("wal")), archived);

    // Its copies share their system identifier, and go ways of their own.
    other.sql("CREATE TABLE elsewhere()").must();
    let clones = other.wal_dir().join(segment.file_name().unwrap_or_default());
    whole_segment(&other);
    let refused = ship(&clones, &archive);
    refused.says(5, &["isn't the same", "Both were kept"]);
    assert_eq!(fingerprint(&archive.join("wal")), archived);
    assert_eq!(fs::read_dir(archive.join("quarantine")).must().count(), 1);

    let broken = dir.path().join(segment.file_name().unwrap_or_default());
    let mut bytes = fs::read(&segment).must();
    bytes[500_000] ^= 1;
    fs::write(&broken, &bytes).must();
    ship(&broken, &dir.path().join("new")).says(1, &["would not hold", "it isn't archived"]);
    fs::write(&broken, &bytes[..4096]).must();
    ship(&broken, &archive).says(1, &["would have 4096 bytes"]);
    let strange = dir.path().join("postgresql.conf");
    fs::write(&strange, "").must();
    ship(&strange, &archive).says(2, &["no name of a segment"]);
    ship(&dir.path().join("missing"), &archive).says(2, &["missing"]);
    assert_eq!(fingerprint(&archive.join("wal")), archived);
}

#[test]
fn killed_anywhere_it_is_done_by_the_next() {
    let (server, dir) = (server(18, 16, &[]), scratch());
    let mut random = Random::new("archive-wal");
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 2000000) i").must();
    let mut segments = server.wal_segments().must();
    segments.pop();
    let segment = &segments[segments.len() / 2];
    let name = segment.file_name().unwrap_or_default();
    for round in 0..20 {
        let archive = dir.path().join(round.to_string());
        let mut command = seawall(&["archive-wal", "--archive"]);
        command.arg(&archive).arg(segment);
        let running = Running::spawn(&mut command, "seawall archive-wal").must();
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        running.kill(Signal::KILL);
        drop(running);
        let archived = archive.join("wal").join(name);
        if archived.exists() {
            assert!(fs::read(&archived).must() == fs::read(segment).must(), "half of it is there");
        }
        ship(segment, &archive).is_well();
        assert!(fs::read(&archived).must() == fs::read(segment).must());
        fs::remove_dir_all(&archive).must();
    }
}

#[test]
fn a_receiver_goes_round_what_was_shipped_ahead_of_it() {
    let (server, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let end = server_flush(&server).to_string();
    ended(&mut receive(&server, &archive, &["--no-slot", "-n", "-E", &end])).is_well();
    let begin = server_flush(&server).segment(SegmentSize::MIN);
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) i").must();
    let end = server_flush(&server);
    // Two ahead, and one with a hole before it.
    for number in [begin.next().next().next(), begin.next().next().next().next().next()] {
        let name = WalFileName::segment(TimelineId::FIRST, number);
        let name = name.display(SegmentSize::MIN).to_string();
        ship(&server.wal_dir().join(name), &archive).is_well();
    }
    assert!(!gaps(&archive).is_empty());
    let mut receiver = Receiver::start(&server, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&server);
    receiver.await_flush(&server, end);
    receiver.stop();
    assert_eq!(gaps(&archive), NO_GAP);
    compare_with_primary(&archive.join("wal"), &server, end);
}

/// A receiver that was killed with two segments under way, the command having shipped what comes
/// behind them: both are fetched again.
#[test]
fn segments_under_way_before_a_shipped_one_are_fetched_again() {
    let shipping = Shipping::start(18, &["wal_keep_size = 1GB"]);
    let mut receiver = shipping.receiver();
    shipping.work();
    shipping.await_archived();
    receiver.await_flush(&shipping.server, server_flush(&shipping.server));
    receiver.kill9();
    let wal = shipping.archive.join("wal");
    let names: Vec<String> =
        sealed(&shipping.archive).into_iter().map(|number| name(1, number)).collect();
    let under_way = &names[names.len() - 3..names.len() - 1];
    for name in under_way {
        let (sealed, partial) = (wal.join(name), wal.join(format!("{name}.partial")));
        let mut bytes = fs::read(&sealed).must();
        let half = bytes.len() / 2;
        bytes[half..].fill(0);
        fs::write(&sealed, bytes).must();
        fs::rename(&sealed, &partial).must();
    }
    let mut receiver = shipping.receiver();
    receiver.await_flush(&shipping.server, server_flush(&shipping.server));
    receiver.stop();
    assert_eq!(gaps(&shipping.archive), NO_GAP);
    compare_what_is_left(&shipping);
    for name in under_way {
        assert!(wal.join(name).exists() && !wal.join(format!("{name}.partial")).exists());
    }
}
