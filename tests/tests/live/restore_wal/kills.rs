//! Everything at once, and everything killed at random: what is delivered is what is archived.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testkit::process::{Running, Signal};
use testkit::servers::as_server_user;

use super::super::common::{Must, Random, Receiver, server, server_flush};
use super::{Kept, name, sealed, work};

/// Between two bursts of the load: some ten megabytes a second are enough.
const PAUSE: Duration = Duration::from_millis(200);

fn for_how_long() -> Duration {
    let full = std::env::var("SEAWALL_FULL").is_ok_and(|value| value == "1");
    Duration::from_secs(if full { 120 } else { 8 })
}

/// Ends a program within some milliseconds, by itself or by SIGKILL; says whether it did well.
fn killed(command: &mut Command, random: &mut Random, within_ms: u64) -> bool {
    let mut running = Running::spawn(command, "a program of the loop").must();
    thread::sleep(Duration::from_millis(random.below(within_ms)));
    running.kill(Signal::KILL);
    running.wait(Duration::from_secs(60)).is_ok_and(|status| status.success())
}

#[test]
fn whatever_is_killed_what_is_delivered_is_whole() {
    let kept = Kept::new();
    let primary = server(18, 1, &[]);
    let receiver = kept.receiver(&primary);
    let dir = kept.scratch.server_dir("targets").must();
    let until = Instant::now() + for_how_long();
    let going = || Instant::now() < until;
    let delivered = AtomicUsize::new(0);
    let seed = Random::new("restore-wal under kills").below(u64::MAX);
    thread::scope(|scope| {
        scope.spawn(|| {
            while going() {
                work(&primary);
                thread::sleep(PAUSE);
            }
        });
        scope.spawn(|| {
            let mut random = Random::seeded(seed ^ 1);
            let mut receiver = receiver;
            while going() {
                thread::sleep(Duration::from_millis(random.below(700)));
                receiver.kill9();
                receiver = Receiver::start(&primary, &kept.archive, &kept.options());
            }
            receiver.await_flush(&primary, server_flush(&primary));
            receiver.stop();
        });
        scope.spawn(|| {
            let mut random = Random::seeded(seed ^ 2);
            while going() {
                let segments = primary.wal_segments().must();
                let Some(segment) = segments.get(segments.len().saturating_sub(3)) else {
                    continue;
                };
                let mut ship = Command::new(&kept.program);
                as_server_user(&mut ship);
                ship.args(["archive-wal", "-A"]).arg(&kept.archive).arg(segment);
                killed(&mut ship, &mut random, 60);
            }
        });
        for (place, seed) in [(3, seed ^ 3), (4, seed ^ 4)] {
            let (kept, delivered, dir, going) = (&kept, &delivered, &dir, &going);
            scope.spawn(move || {
                let mut random = Random::seeded(seed);
                while going() {
                    let numbers = sealed(&kept.archive);
                    let Some(count) = (numbers.len() as u64).checked_sub(1) else { continue };
                    let number = numbers[usize::try_from(random.below(count + 1)).must()];
                    // Both deliver into the same directory, as a server that was started again does.
                    let target = dir.join(format!("RECOVERYXLOG.{place}"));
                    _ = fs::remove_file(&target);
                    let mut restore = Command::new(&kept.program);
                    as_server_user(&mut restore);
                    restore.args(["restore-wal", "--retry-for", "5", &name(1, number)]);
                    restore.arg(&target).arg("-A").arg(&kept.archive);
                    let well = killed(&mut restore, &mut random, 30);
                    delivered.fetch_add(usize::from(target.exists()), Ordering::Relaxed);
                    assert!(target.exists() || !well, "it ended well without delivering");
                    if target.exists() {
                        same(&target, &kept.segment(number));
                    }
                }
            });
        }
        scope.spawn(|| {
            let copy = dir.join("copied");
            while going() {
                for number in sealed(&kept.archive) {
                    fs::copy(kept.segment(number), &copy).must();
                    same(&copy, &primary.wal_dir().join(name(1, number)));
                }
            }
        });
    });
    let delivered = delivered.load(Ordering::Relaxed);
    assert!(delivered > 10, "only {delivered} were delivered");
    // And the archive is the primary's, to the end.
    for number in kept.sealed() {
        same(&kept.segment(number), &primary.wal_dir().join(name(1, number)));
    }
}

fn same(one: &Path, other: &Path) {
    let (one_bytes, other_bytes) = (fs::read(one).must(), fs::read(other).must());
    assert!(one_bytes == other_bytes, "{} and {} differ", one.display(), other.display());
}
