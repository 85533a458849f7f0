//! Everything at once, and everything killed at random: what is delivered is what is archived.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testkit::process::{Running, Signal};
use testkit::servers::{Server, as_server_user};

use super::super::backup::{
    backup, backup_command, check_tables, list, recover, restore, restored, verified,
};
use super::super::common::{Must, Random, Receiver, full_run, server, server_flush};
use super::{Kept, name, sealed, work};

/// Between two bursts of the load: some ten megabytes a second are enough.
const PAUSE: Duration = Duration::from_millis(200);

fn for_how_long() -> Duration {
    Duration::from_secs(if full_run() { 180 } else { 8 })
}

/// Ends a program within some milliseconds, by itself or by SIGKILL; says whether it did well.
fn killed(command: &mut Command, random: &mut Random, within_ms: u64) -> bool {
    let mut running = Running::spawn(command, "a program of the loop").must();
    thread::sleep(Duration::from_millis(random.below(within_ms)));
    running.kill(Signal::KILL);
    running.wait(Duration::from_secs(60)).is_ok_and(|status| status.success())
}

/// What the loops share. Each goes on until the time is up.
struct Scene {
    kept: Kept,
    primary: Server,
    targets: PathBuf,
    until: Instant,
    delivered: AtomicUsize,
}

impl Scene {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    fn work(&self) {
        while self.goes_on() {
            work(&self.primary);
            thread::sleep(PAUSE);
        }
    }

    fn receive(&self, mut receiver: Receiver, mut random: Random) {
        while self.goes_on() {
            thread::sleep(Duration::from_millis(random.below(700)));
            receiver.kill9();
            receiver = Receiver::start(&self.primary, &self.kept.archive, &self.kept.options());
        }
        receiver.await_flush(&self.primary, server_flush(&self.primary));
        receiver.stop();
    }

    /// Ships what the stream will bring a moment later.
    fn ship(&self, mut random: Random) {
        while self.goes_on() {
            let segments = self.primary.wal_segments().must();
            let Some(segment) = segments.get(segments.len().saturating_sub(3)) else { continue };
            let mut ship = Command::new(&self.kept.program);
            as_server_user(&mut ship);
            ship.args(["archive-wal", "-A"]).arg(&self.kept.archive).arg(segment);
            killed(&mut ship, &mut random, 60);
        }
    }

    /// Both loops deliver into one directory, as a server that was started again does.
    fn deliver(&self, place: u32, mut random: Random) {
        while self.goes_on() {
            let numbers = sealed(&self.kept.archive);
            let Some(count) = (numbers.len() as u64).checked_sub(1) else { continue };
            let number = numbers[usize::try_from(random.below(count + 1)).must()];
            let target = self.targets.join(format!("RECOVERYXLOG.{place}"));
            _ = fs::remove_file(&target);
            let mut restore = Command::new(&self.kept.program);
            as_server_user(&mut restore);
            restore.args(["restore-wal", "--retry-for", "5", &name(1, number)]);
            restore.arg(&target).arg("-A").arg(&self.kept.archive);
            let well = killed(&mut restore, &mut random, 30);
            assert!(target.exists() || !well, "it ended well without delivering");
            if target.exists() {
                self.delivered.fetch_add(1, Ordering::Relaxed);
                same(&target, &self.kept.segment(number));
            }
        }
    }

    /// Some are killed early, some late, and some end.
    fn back_up(&self, mut random: Random) {
        while self.goes_on() {
            killed(&mut backup_command(&self.kept, &self.primary, &[]), &mut random, 4000);
        }
    }

    fn copy(&self) {
        let copy = self.targets.join("copied");
        while self.goes_on() {
            for number in sealed(&self.kept.archive) {
                fs::copy(self.kept.segment(number), &copy).must();
                same(&copy, &self.primary.wal_dir().join(name(1, number)));
            }
        }
    }

    /// Restores every backup that is listed, and starts some servers from them.
    fn check_backups(&self) -> usize {
        let listed = list(&self.kept);
        let ids = listed["backups"].as_array().into_iter().flatten();
        let ids: Vec<&str> = ids.filter_map(|backup| backup["id"].as_str()).collect();
        for id in &ids {
            let data = self.kept.scratch.server_dir(&format!("data-{id}")).must();
            restore(&self.kept, &data, &["--backup", id]).is_well();
            verified(self.primary.install(), &data);
            fs::remove_dir_all(&data).must();
        }
        for id in ids.first().into_iter().chain(ids.last()) {
            let mut server = restored(&self.kept, self.primary.install(), &["--backup", id], &[]);
            recover(&mut server);
            check_tables(&server);
        }
        ids.len()
    }
}

#[test]
fn whatever_is_killed_what_is_delivered_is_whole() {
    let kept = Kept::new();
    let primary = server(18, 1, &[]);
    let receiver = kept.receiver(&primary);
    let targets = kept.scratch.server_dir("targets").must();
    let until = Instant::now() + for_how_long();
    let scene = Scene { kept, primary, targets, until, delivered: AtomicUsize::new(0) };
    let seed = Random::new("restore-wal under kills").below(u64::MAX);
    let random = |number: u64| Random::seeded(seed ^ number);
    thread::scope(|scope| {
        scope.spawn(|| scene.work());
        scope.spawn(|| scene.receive(receiver, random(1)));
        scope.spawn(|| scene.ship(random(2)));
        scope.spawn(|| scene.deliver(3, random(3)));
        scope.spawn(|| scene.deliver(4, random(4)));
        scope.spawn(|| scene.back_up(random(5)));
        scope.spawn(|| scene.copy());
    });
    let delivered = scene.delivered.load(Ordering::Relaxed);
    assert!(delivered > 10, "only {delivered} were delivered");
    let taken = backup(&scene.kept, &scene.primary, &[]);
    assert!(scene.check_backups() > 0, "{taken} isn't listed");
    // And the archive is the primary's, to the end.
    for number in scene.kept.sealed() {
        same(&scene.kept.segment(number), &scene.primary.wal_dir().join(name(1, number)));
    }
}

fn same(one: &Path, other: &Path) {
    let (one_bytes, other_bytes) = (fs::read(one).must(), fs::read(other).must());
    assert!(one_bytes == other_bytes, "{} and {} differ", one.display(), other.display());
}
