//! What is wrong is told, and nothing is lost by it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use archive::Archive;
use disk::RealFiles;
use testkit::process::{Running, Signal, run};
use testkit::servers::{Server, ServerOptions, StopMode};

use super::super::common::{LIMIT, Must, full_run, pg, scratch, server, server_flush};
use super::super::restore_wal::Kept;
use super::{backup, backup_command, list, recover, restore, restored, seawall, verified};
use crate::program::{self, ended};

/// A file of more than 8 GB is through by then on a slow disk.
const LONG: Duration = Duration::from_secs(900);

/// Damaged pages on the server: the backup is kept, marked, and taken only by name.
fn damage_on_the_server_is_marked(major: u32) {
    let (kept, mut primary) = (Kept::new(), server(major, 1, &[]));
    primary.sql("CREATE TABLE bad AS SELECT generate_series(1, 20000) i").must();
    let file = primary.sql("SELECT pg_relation_filepath('bad')").must();
    primary.stop(StopMode::Fast).must();
    let path = primary.data_dir().join(file);
    let file = OpenOptions::new().write(true).open(&path).must();
    file.write_all_at(b"damage", 3 * 8192 + 4000).must();
    primary.restart().must();
    let taken = ended(&mut backup_command(&kept, &primary, &[]));
    assert_eq!(taken.code, Some(1), "{taken:?}");
    assert!(taken.stderr.contains("is kept, and marked"), "{taken:?}");
    let listed = list(&kept);
    let damage = listed["backups"][0]["damage"].as_array().cloned().unwrap_or_default();
    assert!(damage.len() >= 2, "{listed}");
    let id = taken.stdout.trim();
    let data = kept.scratch.server_dir("data").must();
    restore(&kept, &data, &[]).says(1, &["isn't sound", "its own files damaged", id]);
    let mut server = restored(&kept, primary.install(), &["--backup", id], &[]);
    recover(&mut server);
}

#[test]
fn damage_on_the_server_is_marked_14() {
    damage_on_the_server_is_marked(14);
}

#[test]
fn damage_on_the_server_is_marked_18() {
    damage_on_the_server_is_marked(18);
}

/// A byte of the stored backup, its manifest, or its description.
#[test]
fn damage_in_the_archive_is_found() {
    let (kept, primary) = (Kept::new(), server(17, 1, &[]));
    let id = backup(&kept, &primary, &[]);
    let dir = kept.archive.join("backups").join(&id);
    let data = kept.scratch.server_dir("data").must();
    let flipped = |name: &str, at: u64, texts: &[&str]| {
        let path = dir.join(name);
        let file = OpenOptions::new().read(true).write(true).open(&path).must();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).must();
        file.write_all_at(&[byte[0] ^ 1], at).must();
        let failed = restore(&kept, &data, &["--backup", &id]);
        failed.says(1, texts);
        assert!(!data.join("global/pg_control").exists());
        file.write_all_at(&byte, at).must();
        for entry in fs::read_dir(&data).must() {
            let path = entry.must().path();
            if path.is_dir() {
                fs::remove_dir_all(&path).must();
            } else {
                fs::remove_file(&path).must();
            }
        }
    };
    flipped("base.tar", 5 << 20, &["its checksum is another", "isn't a cluster"]);
    flipped("base.tar", 0, &["isn't a cluster"]);
    flipped("backup_manifest", 200, &["manifest can't be believed"]);
    let len = fs::metadata(dir.join("base.tar")).must().len();
    let file = OpenOptions::new().write(true).open(dir.join("base.tar")).must();
    file.set_len(len - 512).must();
    restore(&kept, &data, &[]).says(1, &["base.tar has"]);
    assert_eq!(fs::read_dir(&data).must().count(), 0);
}

/// Whom a backup is of, who takes it, and how it is stopped.
#[test]
fn one_backup_at_a_time_and_of_one_cluster() {
    let (kept, primary) = (Kept::new(), server(18, 1, &[]));
    let receiver = kept.receiver(&primary);
    let mut command = backup_command(&kept, &primary, &["-r", "1M"]);
    let mut running = Running::spawn(&mut command, "seawall backup").must();
    let sends = "EXISTS (SELECT FROM pg_stat_progress_basebackup WHERE phase LIKE 'streaming%')";
    primary.wait_until("the backup to be sent", LIMIT, sends).must();
    let second = ended(&mut backup_command(&kept, &primary, &[]));
    second.says(3, &["another backup into this archive is under way"]);
    running.stop(Signal::TERM, LIMIT).must();
    assert_eq!(fs::read_dir(kept.archive.join("backups")).must().count(), 0, "it is cleared away");
    let other = ServerOptions { segment_size_mb: 1, new_system_id: true, ..Default::default() };
    let other = Server::start(&pg(18), &other).must();
    ended(&mut backup_command(&kept, &other, &[])).says(6, &["another cluster"]);
    ended(backup_command(&kept, &primary, &[]).args(["-l", "a\nb"]))
        .says(2, &["control characters"]);
    receiver.stop();
}

/// What is there is put aside, tablespaces included, and nothing else is.
#[test]
fn what_is_replaced_is_put_aside() {
    let (kept, mut primary) = (Kept::new(), server(16, 1, &[]));
    let space = primary.scratch().server_dir("x").must().join("y".repeat(120));
    let mut make = std::process::Command::new("mkdir");
    testkit::servers::as_server_user(&mut make);
    run(make.arg(&space), LIMIT, "mkdir").must();
    let sql = format!(
        "CREATE TABLESPACE one LOCATION '{}'; CREATE TABLE t(i int) TABLESPACE one",
        space.display()
    );
    primary.sql(&sql).must();
    let id = backup(&kept, &primary, &[]);
    primary.stop(StopMode::Fast).must();
    // The cluster's own place: a directory that the server's user may rename in.
    let place = kept.scratch.server_dir("place").must();
    let (data, new) = (place.join("data"), place.join("space"));
    let mapping = format!("{}={}", space.display(), new.display());
    restore(&kept, &data, &["-T", &mapping]).is_well();
    restore(&kept, &data, &["-T", &mapping]).says(1, &["isn't empty", "--replace"]);
    let again = restore(&kept, &data, &["-T", &mapping, "--replace", "--backup", &id]);
    again.is_well();
    verified(primary.install(), &data);
    let mut names: Vec<String> = fs::read_dir(&place)
        .must()
        .map(|entry| entry.must().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names[1].starts_with("data.replaced-") && names[3].starts_with("space.replaced-"));
    // Whose server runs isn't replaced, and an archive never is.
    primary.restart().must();
    let running = primary.data_dir().to_path_buf();
    restore(&kept, &running, &["--replace"]).says(1, &["a server runs there"]);
    let archive = kept.archive.clone();
    restore(&kept, &archive, &["--replace"]).says(1, &["it is an archive"]);
    restore(&kept, &place.join("new"), &["-T", "/nowhere=/x"]).says(1, &["no tablespace there"]);
    let none =
        ended(seawall(&kept, "restore").args(["-D", "/x", "--standby", "--target-immediate"]));
    none.says(2, &["cannot be used with"]);
}

/// A tablespace's path that fits into no link of a tar file, on a server that sends links.
#[test]
fn a_long_path_of_a_tablespace_makes_the_backup_begin_again() {
    let (kept, primary) = (Kept::new(), server(14, 1, &[]));
    let space = primary.scratch().server_dir("x").must().join("y".repeat(120));
    let mut make = std::process::Command::new("mkdir");
    testkit::servers::as_server_user(&mut make);
    run(make.arg(&space), LIMIT, "mkdir").must();
    let sql = format!(
        "CREATE TABLESPACE one LOCATION '{}'; CREATE TABLE t TABLESPACE one AS SELECT 5 i",
        space.display()
    );
    primary.sql(&sql).must();
    backup(&kept, &primary, &[]);
    let new = kept.scratch.server_dir("new").must().join("one");
    let mapping = format!("{}={}", space.display(), new.display());
    let mut server = restored(&kept, primary.install(), &["-T", &mapping], &[]);
    recover(&mut server);
    assert_eq!(server.sql("SELECT i FROM t").must(), "5");
}

/// Without page images in its WAL a primary makes them for a backup's time; a standby can't, and
/// what it says is passed on.
#[test]
fn full_page_writes_that_are_off_are_the_servers_to_judge() {
    let (kept, primary) = (Kept::new(), server(18, 1, &["full_page_writes = off"]));
    let mut receiver = kept.receiver(&primary);
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 20000) i").must();
    let id = backup(&kept, &primary, &[]);
    primary.sql("CHECKPOINT; UPDATE t SET i = i + 1").must();
    receiver.await_flush(&primary, server_flush(&primary));
    let mut server = restored(&kept, primary.install(), &["--backup", &id], &[]);
    recover(&mut server);
    assert_eq!(server.sql("SELECT sum(i) FROM t").must(), "200030000");
    drop(server);

    let standby = primary.standby(&[]).must();
    primary.sql("CHECKPOINT; UPDATE t SET i = i + 1").must();
    super::standbys::await_all(&standby, &primary);
    let refused = ended(&mut backup_command(&kept, &standby, &[]));
    refused.says(1, &["full_page_writes=off"]);
    assert_eq!(fs::read_dir(kept.archive.join("backups")).must().count(), 1, "only the first is");
    receiver.stop();
}

/// With `SEAWALL_FULL=1`, since it takes 20 GB, a file whose size fits into no octal number of a tar
/// header; without, a small one, and only the header's own test has that size.
#[test]
fn a_users_file_is_given_back_up_to_its_end() {
    const SIZE: u64 = (8 << 30) + 12_345;
    let size = if full_run() { SIZE } else { 12_345 };
    let (kept, primary) = (Kept::new(), server(17, 1, &[]));
    primary.add_file("large", "the beginning").must();
    let large = OpenOptions::new().write(true).open(primary.data_dir().join("large")).must();
    large.set_len(size).must();
    large.write_all_at(b"the end", size - 7).must();
    let data = kept.scratch.server_dir("data").must();
    run(&mut backup_command(&kept, &primary, &[]), LONG, "seawall backup").must();
    run(seawall(&kept, "restore").arg("-D").arg(&data), LONG, "seawall restore").must();
    let mut verify = primary.install().command("pg_verifybackup");
    run(verify.args(["-n", "-e"]).arg(&data), LONG, "pg_verifybackup").must();
    let given_back = fs::File::open(data.join("large")).must();
    assert_eq!(given_back.metadata().must().len(), size);
    let mut end = [0; 7];
    given_back.read_exact_at(&mut end, size - 7).must();
    assert_eq!(&end, b"the end");
}

/// A receiver that is connecting has the archive already, and there is none yet.
#[test]
fn an_archive_that_is_being_made_is_waited_for() {
    let (primary, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let files = Arc::new(RealFiles::new(archive.clone()));
    let claim = Archive::claim(files, "the test").must();
    let releasing = thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
        drop(claim);
    });
    let mut backup = program::seawall(&["backup", "-w", "-c", "fast", "-d"]);
    ended(backup.arg(primary.conninfo()).arg("-A").arg(&archive)).is_well();
    releasing.join().unwrap_or_else(|_| panic!("the claim is held"));
}
