//! BASE_BACKUP: real pg_basebackup of each version seeds servers from the archive, in every form
//! that it has; pg_verifybackup accepts what it gets, and a server that is started from it has the
//! primary's rows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pg_types::Lsn;
use testkit::process::{Running, run, run_unchecked};
use testkit::scratch::Scratch;
use testkit::servers::{Install, Server, StopMode, full};

use super::wire::{Message, REPLICATION, Wire, error};
use super::{Serving, await_replay, conninfo, receive_and_serve, standby_of, work};
use crate::common::{LIMIT, Must, on_each_major, pg, scratch, server, server_flush, until};
use crate::program::{ended, seawall};
use crate::status;

const COUNT: &str = "SELECT count(*) FROM t";

/// Takes a backup into the archive.
fn back_up(server: &Server, archive: &Path, more: &[&str]) {
    let mut command = seawall(&["backup", "-A"]);
    command.arg(archive).args(["-d", &server.conninfo(), "-w", "-c", "fast"]).args(more);
    ended(&mut command).is_well();
}

/// pg_basebackup of the archive into `target`, as the servers' user.
fn pg_basebackup(install: &Install, port: u16, target: &Path, more: &[&str]) -> Command {
    let mut command = install.command("pg_basebackup");
    command.args(["-w", "--no-sync", "-d", &conninfo(port), "-D"]).arg(target).args(more);
    command
}

fn copy(install: &Install, port: u16, target: &Path, more: &[&str]) {
    let mut command = pg_basebackup(install, port, target, more);
    run(&mut command, LIMIT, &format!("pg_basebackup {more:?}")).must();
}

fn verify(install: &Install, target: &Path, more: &[&str]) {
    let mut verify = install.command("pg_verifybackup");
    run(verify.arg("-e").args(more).arg(target), LIMIT, "pg_verifybackup").must();
}

/// A server with a tablespace, and the directory that it is in.
fn primary(major: u32) -> (Server, PathBuf) {
    let primary = server(major, 1, &[]);
    let space = primary.scratch().server_dir("space one").must();
    let sql = format!(
        "CREATE TABLESPACE one LOCATION '{}';
         CREATE TABLE t1 (i int PRIMARY KEY) TABLESPACE one;
         INSERT INTO t1 SELECT generate_series(1, 20000)",
        space.display()
    );
    primary.sql(&sql).must();
    work(&primary);
    (primary, space)
}

/// A place for copies, and the tablespace's place in each.
struct Copies {
    scratch: Scratch,
    /// Where the primary's is.
    space: PathBuf,
    /// Where the copies' are.
    spaces: PathBuf,
}

impl Copies {
    fn of(space: &Path) -> Self {
        let scratch = scratch();
        let spaces = scratch.server_dir("spaces").must();
        Self { scratch, space: space.to_owned(), spaces }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.scratch.server_dir(name).must()
    }

    fn mapping(&self, name: &str) -> String {
        format!("{}={}", self.space.display(), self.spaces.join(name).display())
    }

    /// A plain copy that is verified.
    fn plain(&self, install: &Install, port: u16, name: &str, more: &[&str]) -> PathBuf {
        let (target, mapping) = (self.dir(name), self.mapping(name));
        copy(install, port, &target, &[&["-T", &mapping], more].concat());
        let no_wal = more.windows(2).any(|pair| pair == ["-X", "none"]);
        verify(install, &target, if no_wal { &["-n"] } else { &[] });
        target
    }

    /// A server that a plain copy is made for, not started.
    fn server(&self, install: &Install, port: u16, name: &str, more: &[&str]) -> Server {
        let mapping = self.mapping(name);
        let more = [&["-T", &mapping], more].concat();
        Server::of_data_dir(install, &["fsync = off"], |data| {
            copy(install, port, data, &more);
            verify(install, data, &[]);
            Ok(())
        })
        .must()
    }
}

/// It recovers, is opened, and has this many rows, or that many.
fn opens_with(mut server: Server, rows: &[&str]) {
    server.restart().must();
    server.wait_until("the end of recovery", LIMIT, "NOT pg_is_in_recovery()").must();
    let there = server.sql(COUNT).must();
    assert!(rows.contains(&there.as_str()), "{there}");
    assert_eq!(server.sql("SELECT sum(i) FROM t1").must(), "200010000");
}

on_each_major!(pg_basebackup_seeds_servers_from_the_archive, super::check);

fn check(major: u32) {
    let ((primary, space), dir) = (primary(major), scratch());
    let (archive, install) = (dir.path().join("archive"), primary.install());
    let (receiver, port) = receive_and_serve(&primary, &archive);
    back_up(&primary, &archive, &[]);
    let rows = primary.sql(COUNT).must();
    let end = work(&primary);
    let copies = Copies::of(&space);

    // The default, -X stream, as a server of its own: pg_basebackup streams on until the backup has
    // come, so that it may have what came since.
    let more = ["-X", "stream", "-P", "-l", "it's mine"];
    let streamed = copies.server(install, port, "streamed", &more);
    let label = fs::read_to_string(streamed.data_dir().join("backup_label")).must();
    assert!(label.contains("\nLABEL: it's mine\n"), "{label}");
    let all = primary.sql(COUNT).must();
    opens_with(streamed, &[&rows, &all]);

    // As a standby of the archive: it gets all that came since from there.
    let mut standby = copies.server(install, port, "standby", &["-X", "fetch", "-R"]);
    standby.restart().must();
    await_replay(&standby, end);
    assert_eq!(standby.sql(COUNT).must(), all);
    drop(standby);

    opens_with(of_tar(&copies, install, port), &[&rows]);
    copies.plain(install, port, "none", &["-X", "none", "--manifest-checksums=NONE"]);
    if full(major) {
        for sums in ["SHA224", "SHA384"] {
            let more = ["-X", "none", "--manifest-checksums", sums, "--manifest-force-encode"];
            let target = copies.plain(install, port, sums, &more);
            let manifest = fs::read_to_string(target.join("backup_manifest")).must();
            assert!(manifest.contains(sums) && !manifest.contains("\"Path\""), "{sums}");
        }
        let target = copies.dir("no manifest");
        let mapping = copies.mapping("no manifest");
        copy(install, port, &target, &["-X", "none", "--no-manifest", "-T", &mapping]);
        assert!(!target.join("backup_manifest").exists());
    }
    if major >= 15 {
        // These programs of 15 are built without zstd.
        let known = if major == 15 { 2 } else { 3 };
        let methods = ["gzip", "lz4", "zstd:level=7"];
        let methods = methods.into_iter().take(if full(major) { known } else { 1 });
        for method in methods {
            let compress = format!("--compress=server-{method}");
            copies.plain(install, port, &method.replace('=', " "), &["-X", "fetch", &compress]);
        }
    }
    receiver.stop();
}

/// A server of tar files, put in place as a person would.
fn of_tar(copies: &Copies, install: &Install, port: u16) -> Server {
    let (tars, space) = (copies.dir("tars"), copies.dir("space of tar"));
    copy(install, port, &tars, &["-F", "t", "-X", "fetch"]);
    let as_server = |program: &str, args: &[&Path]| {
        let mut command = Command::new(program);
        testkit::servers::as_server_user(&mut command);
        run(command.current_dir("/").args(args), LIMIT, program).map(drop)
    };
    let untar = |tar: &str, to: &Path| {
        as_server("tar", &[Path::new("-xf"), &tars.join(tar), Path::new("-C"), to])
    };
    Server::of_data_dir(install, &["fsync = off"], |data| {
        untar("base.tar", data)?;
        let map = fs::read_to_string(data.join("tablespace_map")).must();
        let (oid, place) = map.trim_end().split_once(' ').unwrap_or_default();
        assert_eq!(Path::new(place), copies.space);
        untar(&format!("{oid}.tar"), &space)?;
        let link = data.join("pg_tblspc").join(oid);
        std::os::unix::fs::symlink(&space, &link).must();
        as_server("cp", &[&tars.join("backup_manifest"), data])?;
        verify(install, data, &[]);
        fs::remove_file(&link).must();
        fs::write(data.join("tablespace_map"), format!("{oid} {}\n", space.display())).must();
        Ok(())
    })
    .must()
}

/// A newer client's forms of an older archive's backup; servers send to older clients, too.
#[test]
fn a_newer_pg_basebackup_takes_an_older_archives_backup() {
    let ((primary, space), dir) = (primary(14), scratch());
    let archive = dir.path().join("archive");
    let (receiver, port) = receive_and_serve(&primary, &archive);
    back_up(&primary, &archive, &[]);
    let copies = Copies::of(&space);
    for major in [15, 18] {
        let name = format!("by {major}");
        let (target, mapping) = (copies.dir(&name), copies.mapping(&name));
        copy(&pg(major), port, &target, &["-X", "fetch", "-T", &mapping]);
        verify(primary.install(), &target, &[]);
        assert_eq!(fs::read_to_string(target.join("PG_VERSION")).must(), "14\n");
    }
    receiver.stop();
}

on_each_major!(base_backups_answer_is_the_real_servers, super::check_answers);

fn check_answers(major: u32) {
    let ((primary, _), dir) = (primary(major), scratch());
    let archive = dir.path().join("archive");
    let (receiver, port) = receive_and_serve(&primary, &archive);
    let (mut real, _) = Wire::log_in(primary.port(), REPLICATION);
    let (mut ours, _) = Wire::log_in(port, REPLICATION);
    let plain = if major < 15 { "BASE_BACKUP FAST" } else { "BASE_BACKUP (CHECKPOINT 'fast')" };
    let none = ours.query(plain);
    assert_eq!(none[0].0, b'E', "{none:?}");
    let text = error(&none[0].1);
    assert!(text.contains("C55000") && text.contains("seawall backup -A"), "{text}");
    back_up(&primary, &archive, &[]);
    for options in if major < 15 { OPTIONS_OF_14 } else { OPTIONS_SINCE_15 } {
        if major < 17 && options.contains("INCREMENTAL 0") {
            continue;
        }
        let command = match major {
            14 => format!("BASE_BACKUP {options}"),
            _ => format!("BASE_BACKUP ({options})"),
        };
        let (theirs, ours) = (real.query(&command), ours.query(&command));
        assert_eq!(shown(&ours, major), shown(&theirs, major), "{command}");
    }
    receiver.stop();
}

const OPTIONS_OF_14: &[&str] = &[
    "FAST",
    "FAST PROGRESS WAL TABLESPACE_MAP MANIFEST 'yes' MANIFEST_CHECKSUMS 'sha512'",
    "FAST MANIFEST 'Force-Encode' NOWAIT NOVERIFY_CHECKSUMS",
    "MANIFEST 'no' MANIFEST_CHECKSUMS 'CRC32C'",
    "MANIFEST_CHECKSUMS 'x' MANIFEST 'yes'",
    "MANIFEST 'maybe'",
    "PROGRESS PROGRESS",
    "NOWAIT NOWAIT",
    "LABEL 'a' LABEL 'b'",
    "MAX_RATE 1",
    "MAX_RATE",
    "(LABEL 'x')",
    "NOSUCH",
];

const OPTIONS_SINCE_15: &[&str] = &[
    "CHECKPOINT 'fast'",
    "CHECKPOINT fast, PROGRESS, WAL, TABLESPACE_MAP, MANIFEST 1, MANIFEST_CHECKSUMS 'sha512'",
    "CHECKPOINT 'FAST', MANIFEST 'force-encode', WAIT false, TARGET 'client', LABEL 7",
    "CHECKPOINT 'fast', COMPRESSION 'gzip', COMPRESSION_DETAIL 'level=2'",
    "CHECKPOINT 'fast', INCREMENTAL 0",
    "CHECKPOINT 'fast', TARGET 'blackhole', MANIFEST 'yes', PROGRESS",
    "TARGET 'blackhole', TARGET_DETAIL 'x'",
    "INCREMENTAL",
    "INCREMENTAL 'x'",
    "NOSUCH",
    "LABEL 'a', LABEL 'b'",
    "LABEL",
    "WAIT 7",
    "WAL 'yes'",
    "CHECKPOINT 'x'",
    "MANIFEST 'x'",
    "MANIFEST 'no', MANIFEST_CHECKSUMS 'CRC32C'",
    "MANIFEST_CHECKSUMS 'x', MANIFEST 'yes'",
    "MAX_RATE '100'",
    "MAX_RATE 31",
    "MAX_RATE 99999999999",
    "TARGET 'x'",
    "TARGET 'client', TARGET_DETAIL 'x'",
    "TARGET_DETAIL 'x'",
    "TARGET 'server'",
    "COMPRESSION 'x'",
    "COMPRESSION_DETAIL '1'",
    "COMPRESSION 'none', COMPRESSION_DETAIL '1'",
    "COMPRESSION 'gzip', COMPRESSION_DETAIL '10'",
    "COMPRESSION 'gzip', COMPRESSION_DETAIL 'level'",
    "COMPRESSION 'gzip', COMPRESSION_DETAIL 'level=x'",
    "COMPRESSION 'gzip', COMPRESSION_DETAIL 'workers=3'",
    "COMPRESSION 'gzip', COMPRESSION_DETAIL 'long'",
    "COMPRESSION 'lz4', COMPRESSION_DETAIL 'level=13'",
    "COMPRESSION 'gzip', COMPRESSION_DETAIL 'foo=3,'",
    "COMPRESSION 'extrasquishy'",
    "COMPRESSION 'gzip', COMPRESSION_DETAIL ''",
    "COMPRESSION 'gzip', COMPRESSION_DETAIL 'thunk'",
    "COMPRESSION 'gzip', COMPRESSION_DETAIL 'level='",
    "COMPRESSION 'gzip', COMPRESSION_DETAIL 'level=high'",
    "COMPRESSION 'gzip', COMPRESSION_DETAIL 'level=236'",
    "COMPRESSION 'gzip', COMPRESSION_DETAIL 'level=9,'",
    "",
    "LABEL 'x' PROGRESS",
];

/// What a backup's answer consists of, without bytes, positions, sizes, and how often progress is
/// told of.
fn shown(heard: &[Message], major: u32) -> Vec<String> {
    let show = |(tag, body): &Message| match (*tag, body.first()) {
        (b'E', _) => Some(error(body)),
        (b'D', _) => Some(format!("a row of {} columns", u16::from_be_bytes([body[0], body[1]]))),
        (b'd', Some(b'n' | b'm')) if major >= 15 => Some(body.escape_ascii().to_string()),
        // Of the real one's own archiving.
        (b'd' | b'N', _) => None,
        (tag, _) => Some(format!("{} {}", tag as char, body.escape_ascii())),
    };
    heard.iter().filter_map(show).collect()
}

/// A standby's backup ends in a segment that isn't whole yet, and its archive's timeline changes.
#[test]
fn a_standbys_backup_seeds_servers_also_after_a_promotion() {
    let ((mut primary, space), dir) = (primary(18), scratch());
    let archive = dir.path().join("archive");
    let proxy = testkit::proxy::Proxy::start(primary.port()).must();
    let (mut options, port) = super::served(&[]);
    options.port = Some(proxy.port());
    let mut receiver = crate::common::Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    let copies = Copies::of(&space);
    let mut standby = {
        let mapping = copies.mapping("the standby");
        let conf = format!("primary_conninfo = '{}'", primary.conninfo());
        let made = Server::of_data_dir(primary.install(), &[&conf], |data| {
            let mut copy = primary.install().command("pg_basebackup");
            copy.args(["-d", &primary.socket_conninfo(), "-c", "fast", "-T", &mapping, "-D"]);
            run(copy.arg(data), LIMIT, "pg_basebackup").map(drop)
        });
        made.must()
    };
    standby.make_standby().must();
    standby.restart().must();
    let rows = primary.sql(COUNT).must();
    await_replay(&standby, server_flush(&primary));
    primary.sql("CHECKPOINT").must();
    back_up(&standby, &archive, &[]);
    // That is where it is on that server.
    let copies = Copies::of(&copies.spaces.join("the standby"));
    let mut fetched = copies.server(primary.install(), port, "fetched", &["-X", "fetch"]);
    // As from any standby, it has its signal with it.
    fetched.restart().must();
    fetched.promote().must();
    assert_eq!(fetched.sql(COUNT).must(), rows);
    drop(fetched);

    let end = work(&primary);
    await_replay(&standby, end);
    receiver.await_flush(&primary, end);
    primary.stop(StopMode::Fast).must();
    standby.promote().must();
    proxy.redirect(standby.port());
    receiver.await_streaming(&standby);
    // What is streamed beside the old backup isn't led to the new timeline: where it would stop
    // there, within the first segment and before the switch, no server goes on.
    let mut old = copies.server(standby.install(), port, "streamed", &["-X", "stream", "-R"]);
    let names = segment_names(&old.data_dir().join("pg_wal"));
    assert!(names.iter().all(|name| name.starts_with("00000001")), "{names:?}");
    old.restart().must();
    await_replay(&old, work(&standby));
    drop(old);
    let mut new = copies.server(standby.install(), port, "followed", &["-X", "fetch", "-R"]);
    new.restart().must();
    await_replay(&new, work(&standby));
    assert_eq!(new.sql(COUNT).must(), standby.sql(COUNT).must());
    receiver.stop();
}

fn segment_names(dir: &Path) -> Vec<String> {
    let segments =
        super::segments(dir).into_iter().filter_map(|path| path.file_name().map(Into::into));
    segments.map(|name: std::ffi::OsString| name.to_string_lossy().into_owned()).collect()
}

/// The slots of pg_basebackup: one that it makes, one that is there, and one that isn't.
#[test]
fn pg_basebackups_slots_are_kept() {
    let (primary, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let (receiver, port) = receive_and_serve(&primary, &archive);
    back_up(&primary, &archive, &[]);
    let (mut wire, _) = Wire::log_in(port, REPLICATION);
    wire.query("CREATE_REPLICATION_SLOT slot1 PHYSICAL");
    let take = |name: &str, more: &[&str]| {
        let target = dir.server_dir(name).must();
        let mut command = pg_basebackup(primary.install(), port, &target, more);
        let ended = run_unchecked(&mut command, "", LIMIT, "pg_basebackup").must();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        if ended.status.success() { Ok(target) } else { Err(said) }
    };
    let keeps_from = |name: &str| {
        let status = status::json(&archive);
        let slots = status["server"]["slots"].as_array().cloned().unwrap_or_default();
        let of_it = slots.iter().find(|slot| slot["name"] == name)?["restart_lsn"].as_str()?;
        Some(of_it.parse::<Lsn>().must())
    };
    let keeps = |name: &str| keeps_from(name).is_some();
    // The primary goes on: what the new server needs is long past.
    for _ in 0..3 {
        work(&primary);
        primary.sql("SELECT pg_switch_wal()").must();
    }
    let listed = ended(seawall(&["list", "--json", "-A"]).arg(&archive));
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).must();
    let backup = &listed["backups"][0];
    let at = |what: &str| backup[what]["lsn"].as_str().unwrap_or_default().parse::<Lsn>().must();
    let (begin, end) = (at("start"), at("stop"));
    wire.query("CREATE_REPLICATION_SLOT slot2 PHYSICAL RESERVE_WAL");
    assert_eq!(keeps_from("slot2"), Some(begin));
    take("made", &["-C", "-S", "slot0"]).must();
    let kept = keeps_from("slot0").must();
    assert!((begin.align_down(16 << 20)..=end).contains(&kept), "{kept} for {begin} to {end}");
    assert!(!keeps("slot1"));
    let again = take("again", &["-C", "-S", "slot0"]);
    assert!(again.is_err_and(|said| said.contains("already exists")));
    assert!(take("missing", &["-S", "nobody"]).is_err_and(|said| said.contains("does not exist")));
    let target = take("there", &["-S", "slot1", "-R"]).must();
    assert!(keeps("slot1"), "its stream has moved it");
    let conf = fs::read_to_string(target.join("postgresql.auto.conf")).must();
    assert!(conf.contains("primary_slot_name = 'slot1'"), "{conf}");
    take("without", &["--no-slot"]).must();
    receiver.stop();
}

/// A tablespace that is a directory of the data directory's, and not a link.
#[test]
fn a_tablespace_in_place_is_given_back() {
    let (primary, dir) = (server(18, 1, &["allow_in_place_tablespaces = on"]), scratch());
    let archive = dir.path().join("archive");
    let (receiver, port) = receive_and_serve(&primary, &archive);
    primary.sql("CREATE TABLESPACE inside LOCATION ''").must();
    primary.sql("CREATE TABLE kept TABLESPACE inside AS SELECT 1234 AS a").must();
    back_up(&primary, &archive, &[]);
    let more = ["-X", "fetch"];
    let mut server = Server::of_data_dir(primary.install(), &["fsync = off"], |data| {
        copy(primary.install(), port, data, &more);
        verify(primary.install(), data, &[]);
        Ok(())
    })
    .must();
    server.restart().must();
    assert_eq!(server.sql("SELECT a FROM kept").must(), "1234");
    let tars = dir.server_dir("tars").must();
    copy(primary.install(), port, &tars, &["-F", "t", "-X", "none"]);
    let names = fs::read_dir(&tars).must().map(|entry| entry.must().file_name());
    let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let spaces = names.iter().filter(|name| name.starts_with(char::is_numeric));
    assert_eq!(spaces.count(), 1, "{names:?}");
    receiver.stop();
}

/// What is stored compressed goes out as it was; an incremental one is nothing to begin with.
#[test]
fn a_compressed_backup_is_given_and_an_incremental_one_passed_over() {
    let (primary, dir) = (server(18, 1, &["summarize_wal = on"]), scratch());
    let archive = dir.path().join("archive");
    let (mut receiver, port) = receive_and_serve(&primary, &archive);
    work(&primary);
    back_up(&primary, &archive, &["--compress", "zstd"]);
    let rows = primary.sql(COUNT).must();
    receiver.await_flush(&primary, work(&primary));
    back_up(&primary, &archive, &["--incremental"]);
    let mut server = Server::of_data_dir(primary.install(), &["fsync = off"], |data| {
        copy(primary.install(), port, data, &["-X", "fetch", "--manifest-checksums=SHA256"]);
        verify(primary.install(), data, &[]);
        Ok(())
    })
    .must();
    server.restart().must();
    server.wait_until("the end of recovery", LIMIT, "NOT pg_is_in_recovery()").must();
    assert_eq!(server.sql(COUNT).must(), rows);
    receiver.stop();
}

#[test]
fn a_damaged_backup_is_not_given_to_its_end() {
    let ((primary, space), dir) = (primary(18), scratch());
    let archive = dir.path().join("archive");
    let (receiver, _) = receive_and_serve(&primary, &archive);
    back_up(&primary, &archive, &[]);
    receiver.stop();
    let backups = fs::read_dir(archive.join("backups")).must().next();
    let tar = backups.unwrap_or_else(|| panic!("no backup")).must().path().join("base.tar");
    let mut bytes = fs::read(&tar).must();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&tar, bytes).must();
    let serving = Serving::start(&archive, &["--serve-auth", "trust"]);
    let copies = Copies::of(&space);
    let (target, mapping) = (copies.dir("copy"), copies.mapping("copy"));
    // Until it has looked at what is archived, it says that it is starting up.
    until(LIMIT, "an answer", || {
        let more = ["-X", "none", "-T", &mapping];
        let mut command = pg_basebackup(primary.install(), serving.port, &target, &more);
        let ended = run_unchecked(&mut command, "", LIMIT, "pg_basebackup").must();
        assert!(!ended.status.success());
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        (!said.contains("starting up")).then_some(())
    });
    serving.running.wait_for_line("the stored backup is damaged", LIMIT).must();
    assert_eq!(fs::read_dir(&target).must().count(), 0, "nothing is left");
    serving.stop();
}

/// One that takes its time is seen in the status, and gone with its client.
#[test]
fn a_slow_client_is_shown_and_costs_nothing_when_it_goes() {
    let (primary, dir) = (server(18, 1, &[]), scratch());
    work(&primary);
    let archive = dir.path().join("archive");
    let (receiver, port) = receive_and_serve(&primary, &archive);
    back_up(&primary, &archive, &[]);
    let target = dir.server_dir("copy").must();
    let mut command = pg_basebackup(primary.install(), port, &target, &["-X", "none", "-r", "32k"]);
    let mut client = Running::spawn(&mut command, "pg_basebackup").must();
    let states = || {
        let status = status::json(&archive);
        let followers = status["server"]["followers"].as_array().cloned().unwrap_or_default();
        followers.iter().map(|one| one["state"].clone()).collect::<Vec<_>>()
    };
    until(LIMIT, "the backup in the status", || states().contains(&"backup".into()).then_some(()));
    // Meanwhile others are served.
    let mut standby = standby_of(&primary, port, &[]);
    standby.restart().must();
    await_replay(&standby, work(&primary));
    client.kill9();
    until(LIMIT, "the end of it", || (!states().contains(&"backup".into())).then_some(()));
    receiver.stop();
}
