//! `receive --compress`, `backup`, `expire --yes`, `verify`, `restore-wal`, `list`, `status` and `cp` at
//! once, each killed at random: nothing is locked out, no WAL goes that is needed, and every listed
//! backup is given back.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testkit::process::Running;
use testkit::servers::{Server, is_segment_name};

use super::super::backup::{
    backup, backup_command, check_tables, list, recover, restore, restored, seawall, verified,
};
use super::super::common::{
    LIMIT, Must, NAME, Random, Receiver, ReceiverOptions, full_run, server, server_flush,
};
use super::super::restore_wal::{Kept, work};
use super::expire::expire;
use super::{assert_sound, verify_command};
use crate::program::ended;

fn for_how_long() -> Duration {
    Duration::from_secs(if full_run() { 600 } else { 12 })
}

/// Between two bursts of the load.
const PAUSE: Duration = Duration::from_millis(200);

/// Of so many bursts, rows are there at once: a backup is taken within seconds also after ten minutes.
const BURSTS_KEPT: u32 = 16;

/// Runs a program, and kills it within so long; every third is let run to its end. Says how it
/// ended, unless it was killed.
fn now_and_then_killed(
    command: &mut std::process::Command,
    random: &mut Random,
    within_ms: u64,
) -> Option<i32> {
    let mut running = Running::spawn(command, "a program of the loop").must();
    if random.below(3) > 0 {
        thread::sleep(Duration::from_millis(random.below(within_ms)));
        running.kill9();
        return None;
    }
    let status = running.wait(LIMIT).must();
    let code = status.code();
    if code != Some(0) {
        panic!("{command:?} ended with {status}:\n{}", running.output_tail());
    }
    code
}

/// A receiver compresses in a thread of its own: it is killed with that.
fn compressing(kept: &Kept) -> ReceiverOptions {
    let extra = ["--compress", "zstd"].map(str::to_owned).to_vec();
    ReceiverOptions { extra, ..kept.options() }
}

/// The whole segments, in whichever form.
fn whole(kept: &Kept) -> Vec<PathBuf> {
    let names = fs::read_dir(kept.archive.join("wal")).must().map(|entry| entry.must().path());
    let mut whole: Vec<PathBuf> = names.filter(|path| is_segment_name(plain_name(path))).collect();
    whole.sort();
    whole
}

fn plain_name(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    archive::Method::of_name(name).0
}

/// A receiver in the place of one that was killed. A backup that found none may have the archive, and
/// brings its WAL itself: then it is waited for, as a service would.
fn again(kept: &Kept, primary: &Server) -> Receiver {
    let began = Instant::now();
    loop {
        let mut receiver = Receiver::start(primary, &kept.archive, &compressing(kept));
        let streams = format!(
            "EXISTS (SELECT FROM pg_stat_replication WHERE application_name = '{NAME}' AND state = 'streaming')"
        );
        while receiver.running.ended().is_none() {
            if primary.sql(&format!("SELECT {streams}")).must() == "t" {
                return receiver;
            }
            assert!(began.elapsed() < LIMIT, "no receiver streams");
        }
        let code = receiver.running.ended().and_then(|status| status.code());
        assert_eq!(code, Some(3), "{}", receiver.running.output_tail());
        assert!(began.elapsed() < LIMIT, "the archive is locked");
    }
}

#[test]
fn whatever_is_killed_every_listed_backup_is_given_back() {
    let kept = Kept::new();
    let primary = server(18, 1, &[]);
    let mut receiver = again(&kept, &primary);
    work(&primary);
    backup(&kept, &primary, &[]);
    let dir = kept.scratch.server_dir("targets").must();
    let until = Instant::now() + for_how_long();
    let going = || Instant::now() < until;
    let (expired, taken, restores) =
        (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let seed = Random::new("expire under kills").below(u64::MAX);
    thread::scope(|scope| {
        scope.spawn(|| {
            for burst in (1..).take_while(|_: &u32| going()) {
                if burst % BURSTS_KEPT == 0 {
                    primary.sql("TRUNCATE t").must();
                }
                work(&primary);
                thread::sleep(PAUSE);
            }
        });
        scope.spawn(|| {
            let mut random = Random::seeded(seed ^ 1);
            while going() {
                thread::sleep(Duration::from_millis(500 + random.below(2000)));
                receiver.kill9_in_place();
                receiver = again(&kept, &primary);
            }
        });
        scope.spawn(|| {
            let mut random = Random::seeded(seed ^ 2);
            while going() {
                // One that is killed leaves the next one the lock.
                let mut command = backup_command(&kept, &primary, &[]);
                let well = taken_or_waited(&mut command, &mut random);
                taken.fetch_add(usize::from(well), Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut random = Random::seeded(seed ^ 3);
            while going() {
                let mut command = seawall(&kept, "expire");
                command.args(["--keep-backups", "2", "--yes"]);
                let ended = now_and_then_killed(&mut command, &mut random, 400);
                expired.fetch_add(usize::from(ended == Some(0)), Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut random = Random::seeded(seed ^ 4);
            while going() {
                let more: &[&str] = if random.below(2) == 0 { &[] } else { &["--full"] };
                now_and_then_killed(&mut verify_command(&kept, more), &mut random, 300);
            }
        });
        scope.spawn(|| {
            let mut random = Random::seeded(seed ^ 5);
            while going() {
                let segments = whole(&kept);
                let Some(path) = segments.get(segments.len() / 2) else { continue };
                let target = dir.join("RECOVERYXLOG");
                _ = fs::remove_file(&target);
                // Also by cp; either may find it just expired, or just compressed.
                _ = fs::copy(path, dir.join("copied"));
                let mut restore = seawall(&kept, "restore-wal");
                restore.args(["--retry-for", "10", plain_name(path)]).arg(&target);
                let mut running = Running::spawn(&mut restore, "restore-wal").must();
                if random.below(3) > 0 {
                    thread::sleep(Duration::from_millis(random.below(30)));
                    running.kill9();
                    continue;
                }
                let code = running.wait(LIMIT).must().code();
                let said = running.output_tail();
                let expired = code == Some(200) && said.contains("it was expired");
                assert!(code == Some(0) || expired, "{path:?}: {code:?}\n{said}");
            }
        });
        scope.spawn(|| {
            let mut random = Random::seeded(seed ^ 7);
            while going() {
                for tool in ["list", "status", "gaps"] {
                    now_and_then_killed(&mut seawall(&kept, tool), &mut random, 100);
                }
                thread::sleep(PAUSE);
            }
        });
        scope.spawn(|| {
            let mut random = Random::seeded(seed ^ 6);
            while going() {
                let listed = list(&kept);
                let Some(newest) = listed["backups"].as_array().and_then(|all| all.last()) else {
                    panic!("no backup is listed: {listed:#}");
                };
                assert_eq!(newest["windows"][0]["open"], true, "{listed:#}");
                let data =
                    kept.scratch.server_dir(&format!("data{}", random.below(u64::MAX))).must();
                let id = newest["id"].as_str().unwrap_or_default();
                // The newest isn't expired while this takes it, as long as two are kept.
                let done = restore(&kept, &data, &["--backup", id, "--hold", "2s"]);
                if done.code == Some(0) {
                    verified(primary.install(), &data);
                    restores.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert!(done.stderr.contains("there is no backup"), "{done:#?}");
                }
                fs::remove_dir_all(&data).must();
            }
        });
    });
    let counts = [&expired, &taken, &restores].map(|count| count.load(Ordering::Relaxed));
    assert!(counts.iter().all(|count| *count > 0), "expired, taken, restored: {counts:?}");
    // Nobody has the archive now; the one that was started last may have found that somebody had.
    receiver.kill9_in_place();
    let mut receiver = again(&kept, &primary);
    receiver.await_flush(&primary, server_flush(&primary));
    let is_packed = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "zst");
    let began = Instant::now();
    while whole(&kept).iter().filter(|path| !is_packed(path)).count() > 1 {
        assert!(began.elapsed() < LIMIT, "what is settled isn't compressed: {:?}", whole(&kept));
        thread::sleep(PAUSE);
    }
    assert!(whole(&kept).iter().any(is_packed));
    expire(&kept, &["--keep-backups", "2", "--yes"]).is_well();
    assert_sound(&kept, &["--full"]);
    let status = ended(&mut seawall(&kept, "status"));
    assert!(status.stdout.contains("missing     nothing"), "{status:?}");
    let listed = list(&kept);
    let all = listed["backups"].as_array().cloned().unwrap_or_default();
    assert!(!all.is_empty() && all.len() <= 2, "{listed:#}");
    for listed in all {
        let id = listed["id"].as_str().unwrap_or_default();
        let mut server = restored(&kept, primary.install(), &["--backup", id], &[]);
        recover(&mut server);
        check_tables(&server);
    }
    receiver.stop();
}

/// Whether a backup was taken; one that is killed isn't.
fn taken_or_waited(command: &mut std::process::Command, random: &mut Random) -> bool {
    now_and_then_killed(command, random, 700).is_some()
}
