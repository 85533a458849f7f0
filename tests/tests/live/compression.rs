//! `seawall receive --compress`: settled segments become `X.zst`, `X.lz4` or `X.gz`, which the tools
//! of those names unpack to what the server wrote, and everything goes on as with plain ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use archive::Method;
use testkit::peers::{ReceiveOptions, pg_receivewal};
use testkit::process::{Running, Signal};
use testkit::servers::{Server, full, is_segment_name, system_program};

use super::common::{
    LIMIT, Must, Random, Receiver, ReceiverOptions, SLOT, compare_with_primary, on_each_major,
    scratch, server, server_flush,
};
use super::gaps::gaps;
use super::program::{Ended, ended, seawall};

on_each_major!(compressed_segments_are_as_good_as_plain_ones, super::check);

fn packed(wal: &Path, method: Method) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(wal).must().map(|entry| entry.must().path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(method.suffix()));
    paths.sort();
    paths
}

fn plain(wal: &Path) -> usize {
    let names = fs::read_dir(wal).must().map(|entry| entry.must().file_name());
    names.filter(|name| is_segment_name(&name.to_string_lossy())).count()
}

/// Waits until only the newest segment, which isn't settled, is plain.
fn await_packed(wal: &Path) {
    let until = Instant::now() + LIMIT;
    while plain(wal) > 1 {
        assert!(Instant::now() < until, "{} segments aren't compressed", plain(wal));
        sleep(Duration::from_millis(20));
    }
}

/// Unpacks with the tool of that name.
fn unpacked(path: &Path, method: Method) -> Vec<u8> {
    let tool = method.to_string();
    let tool = system_program(&tool, &tool).must();
    let output = Command::new(tool).arg("-dc").arg(path).output().must();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{method} of {}: {said}", path.display());
    output.stdout
}

/// A copy of an archive whose segments are plain, made by the tools.
fn plain_copy(wal: &Path, to: &Path) {
    fs::create_dir(to).must();
    for entry in fs::read_dir(wal).must().map(Must::must) {
        let name = entry.file_name().to_string_lossy().into_owned();
        match Method::of_name(&name) {
            (plain, Some(method)) => {
                fs::write(to.join(plain), unpacked(&entry.path(), method)).must();
            }
            _ => _ = fs::copy(entry.path(), to.join(&name)).must(),
        }
    }
}

fn restore(archive: &Path, name: &str, to: &Path) -> Ended {
    ended(seawall(&["restore-wal", "--retry-for", "0", name]).arg(to).arg("-A").arg(archive))
}

fn load(server: &Server) {
    server.sql("CREATE TABLE IF NOT EXISTS t(x text)").must();
    server.sql("INSERT INTO t SELECT repeat('x', 200) FROM generate_series(1, 30000)").must();
}

fn check(major: u32) {
    let (server, dir) = (server(major, 1, &[]), scratch());
    for method in Method::ALL.into_iter().filter(|method| full(major) || *method == Method::Zstd) {
        check_method(&server, &dir.path().join(method.to_string()), method);
        server.sql(&format!("SELECT pg_drop_replication_slot('{SLOT}')")).must();
    }
}

fn check_method(server: &Server, dir: &Path, method: Method) {
    fs::create_dir(dir).must();
    let (archive, wal) = (dir.join("archive"), dir.join("archive/wal"));
    let options = ReceiverOptions::with(&["--compress", &method.to_string()]);
    let mut receiver = Receiver::start(server, &archive, &options);
    receiver.await_streaming(server);
    load(server);
    receiver.await_flush(server, server_flush(server));
    await_packed(&wal);
    super::memory::assert_small(&receiver.running, "compressing");
    // Killed, it goes on behind compressed segments.
    receiver.running.kill(Signal::KILL);
    drop(receiver);
    let mut receiver = Receiver::start(server, &archive, &options);
    receiver.await_streaming(server);
    load(server);
    let end = server_flush(server);
    receiver.await_flush(server, end);
    await_packed(&wal);
    receiver.stop();

    let files = packed(&wal, method);
    assert!(files.len() > 10, "{files:?}");
    let copy = dir.join("plain");
    plain_copy(&wal, &copy);
    compare_with_primary(&copy, server, end);
    assert_eq!(gaps(&archive), [serde_json::Value::Null; 0]);
    for tool in ["status", "list"] {
        ended(seawall(&[tool, "-A"]).arg(&archive)).is_well();
    }
    let found = ended(seawall(&["find", "--time", "2200-01-01 00:00:00Z", "-A"]).arg(&archive));
    found.says(1, &["no commit or abort later than 2200-01-01"]);
    let verified = || ended(seawall(&["verify", "-A"]).arg(&archive));
    verified().is_well();
    check_restore(&archive, &files, &copy, dir);
    check_shipping(&archive, &files, &copy);
    check_damage(&archive, &files, &dir.join("damaged"));
    verified().is_well();
    let path = &files[files.len() / 2];
    let whole = fs::read(path).must();
    fs::write(path, &whole[..whole.len() - 9]).must();
    let damaged = verified();
    let named = path.strip_prefix(&archive).must().display().to_string();
    assert!(damaged.code != Some(0) && damaged.stdout.contains(&named), "{damaged:#?}");
    fs::write(path, &whole).must();
}

/// Each is delivered as it was, and read by `seawall waldump`.
fn check_restore(archive: &Path, files: &[PathBuf], copy: &Path, dir: &Path) {
    let target = dir.join("delivered");
    for path in files {
        let name = name_of(path);
        restore(archive, &name, &target).is_well();
        assert!(fs::read(&target).must() == fs::read(copy.join(&name)).must(), "{name} differs");
    }
    let middle = name_of(&files[files.len() / 2]);
    let dump = |wal: &Path| {
        let dumped = ended(seawall(&["waldump", "-p"]).arg(wal).args([&middle, &middle]));
        (dumped.code, dumped.stdout)
    };
    assert_eq!(dump(&archive.join("wal")), dump(copy));
}

/// A name that is there compressed is there: the same is fine, another isn't.
fn check_shipping(archive: &Path, files: &[PathBuf], copy: &Path) {
    let path = &files[files.len() / 2];
    let shipped = copy.join(name_of(path));
    let ship = || ended(seawall(&["archive-wal"]).arg(&shipped).arg("-A").arg(archive));
    ship().is_well();
    assert!(!archive.join("wal").join(name_of(path)).exists());
    let before = fs::read(path).must();
    // The same again beside it, as a crash leaves it: either is read.
    fs::copy(&shipped, archive.join("wal").join(name_of(path))).must();
    ended(seawall(&["status", "-A"]).arg(archive)).is_well();
    ship().is_well();
    fs::remove_file(archive.join("wal").join(name_of(path))).must();
    assert_eq!(fs::read(path).must(), before);
}

/// What doesn't unpack is named, and never delivered.
fn check_damage(archive: &Path, files: &[PathBuf], target: &Path) {
    let path = &files[files.len() / 2];
    let (name, whole) = (name_of(path), fs::read(path).must());
    let shown = path.strip_prefix(archive).must().display().to_string();
    let mut random = Random::new("compressed damage");
    let mut damages: Vec<Vec<u8>> = (0..8)
        .map(|_| {
            let mut damaged = whole.clone();
            damaged[random.below(whole.len() as u64) as usize] ^= 1 << random.below(8);
            damaged
        })
        .collect();
    damages.extend([
        Vec::new(),
        whole[..whole.len() / 2].to_vec(),
        whole[..whole.len() - 1].to_vec(),
    ]);
    damages.push([whole.clone(), whole.clone()].concat());
    for damaged in damages {
        fs::write(path, &damaged).must();
        let delivered = restore(archive, &name, target);
        if delivered.code == Some(0) {
            // A bit that says nothing: the operating system in a gzip header, say.
            fs::write(path, &whole).must();
            let given = fs::read(target).must();
            restore(archive, &name, target).is_well();
            assert!(fs::read(target).must() == given, "{shown} was delivered damaged");
        } else {
            delivered.says(201, &[&shown]);
            assert!(!target.exists());
        }
        _ = fs::remove_file(target);
    }
    fs::write(path, &whole).must();
    restore(archive, &name, target).is_well();
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Method::of_name(&name).0.to_owned()
}

/// A directory of `pg_receivewal --compress` goes on as an archive, its unfinished segment too.
#[test]
fn what_pg_receivewal_has_compressed_is_adopted() {
    for (major, method) in [(14, Method::Gzip), (18, Method::Gzip), (18, Method::Lz4)] {
        let (server, dir) = (server(major, 1, &[]), scratch());
        let received = dir.path().join("received");
        fs::create_dir(&received).must();
        let options = ReceiveOptions {
            slot: Some(SLOT.to_owned()),
            synchronous: true,
            // Up to 14 it takes gzip's level alone.
            extra: vec![
                "--compress".to_owned(),
                if major < 15 { "1".to_owned() } else { method.to_string() },
            ],
            ..ReceiveOptions::default()
        };
        let mut peer =
            pg_receivewal(server.install(), &server.conninfo(), &received, &options).must();
        load(&server);
        let done = format!(
            "EXISTS (SELECT FROM pg_stat_replication WHERE application_name = 'peer' \
             AND write_lsn >= '{}')",
            server_flush(&server)
        );
        server.wait_until("pg_receivewal to have it all", LIMIT, &done).must();
        peer.stop(Signal::INT, LIMIT).must();
        let adopted = ended(seawall(&["adopt"]).arg(&received));
        adopted.is_well();
        ended(seawall(&["adopt"]).arg(&received)).is_well();

        let mut receiver = Receiver::start(&server, &received, &ReceiverOptions::default());
        receiver.await_streaming(&server);
        load(&server);
        let end = server_flush(&server);
        receiver.await_flush(&server, end);
        receiver.stop();
        let wal = received.join("wal");
        assert!(packed(&wal, method).len() > 3);
        let copy = dir.path().join("plain");
        plain_copy(&wal, &copy);
        compare_with_primary(&copy, &server, end);
        assert_eq!(gaps(&received), [serde_json::Value::Null; 0]);
    }
}

/// The compressed segment that an archive ends with is withdrawn where it doesn't hold, or isn't what
/// the server has, and comes again: what follows it was lost, by somebody's hand.
#[test]
fn a_compressed_segment_at_the_archives_end_is_withdrawn() {
    let kept = "wal_keep_size = '512MB'";
    let (server, dir) = (server(18, 1, &[kept, "max_wal_size = '1GB'"]), scratch());
    let methods = Method::ALL.into_iter().filter(|method| full(18) || *method == Method::Zstd);
    for (method, damaged) in methods.flat_map(|method| [(method, true), (method, false)]) {
        let archive = dir.path().join(format!("{method}-{damaged}"));
        let wal = archive.join("wal");
        let mut options = ReceiverOptions::with(&["-Z", &method.to_string()]);
        options.slot = false;
        let mut receiver = Receiver::start(&server, &archive, &options);
        receiver.await_streaming(&server);
        load(&server);
        receiver.await_flush(&server, server_flush(&server));
        await_packed(&wal);
        receiver.stop();
        let mut files = packed(&wal, method);
        let (last, whole) = (files.remove(files.len() / 2), files.len());
        for entry in fs::read_dir(&wal).must().map(Must::must) {
            if entry.path() > last && name_of(&entry.path()).len() >= 24 {
                fs::remove_file(entry.path()).must();
            }
        }
        if damaged {
            let mut bytes = fs::read(&last).must();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::write(&last, bytes).must();
        }
        let mut receiver = Receiver::start(&server, &archive, &options);
        receiver.await_streaming(&server);
        load(&server);
        let end = server_flush(&server);
        receiver.await_flush(&server, end);
        await_packed(&wal);
        receiver.stop();
        assert!(packed(&wal, method).len() > whole);
        let quarantined = fs::read_dir(archive.join("quarantine")).must().count();
        assert_eq!(quarantined, usize::from(damaged), "{method}: the damaged file is kept aside");
        let copy = dir.path().join(format!("plain-{method}-{damaged}"));
        plain_copy(&wal, &copy);
        compare_with_primary(&copy, &server, end);
        ended(seawall(&["verify", "--full", "-A"]).arg(&archive)).is_well();
    }
}

/// Killed whenever, there is always a file that holds the segment, and the next run ends the work.
#[test]
fn killed_anywhere_every_segment_stays() {
    let (server, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let wal = archive.join("wal");
    let mut receiver = Receiver::start(&server, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&server);
    load(&server);
    receiver.await_flush(&server, server_flush(&server));
    receiver.stop();
    let all = plain(&wal);
    let mut random = Random::new("compress");
    for _ in 0..15 {
        let mut command = seawall(&["receive", "--no-slot", "-Z", "lz4", "-A"]);
        command.arg(&archive).args(["-d", &server.conninfo()]);
        let running = Running::spawn(&mut command, "seawall receive").must();
        sleep(Duration::from_micros(random.below(100_000)));
        running.kill(Signal::KILL);
        drop(running);
        let names: std::collections::BTreeSet<String> = fs::read_dir(&wal)
            .must()
            .map(|entry| name_of(&entry.must().path()))
            .filter(|name| is_segment_name(name))
            .collect();
        assert!(names.len() >= all, "{names:?}");
    }
    let options = ReceiverOptions::with(&["-Z", "lz4"]);
    let mut receiver = Receiver::start(&server, &archive, &options);
    receiver.await_streaming(&server);
    let end = server_flush(&server);
    receiver.await_flush(&server, end);
    await_packed(&wal);
    receiver.stop();
    let copy = dir.path().join("plain");
    plain_copy(&wal, &copy);
    compare_with_primary(&copy, &server, end);
}
