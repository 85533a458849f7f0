//! What it ends with: 0, 1 only for what is known to be absent, 126 and more for the rest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pg_types::{Lsn, SegmentNumber};
use testkit::process::{Running, Signal};
use testkit::scratch::Scratch;
use testkit::servers::{Server, as_server_user};

use super::super::common::disks::SmallDisk;
use super::super::common::{LIMIT, Must, Receiver, ReceiverOptions, scratch, server, server_flush};
use super::super::program::{Ended, ended, receive, seawall};
use super::{Kept, SIZE, assert_nothing_else, name, restore, sealed, work};

const ABSENT: i32 = 1;
const UNSURE: i32 = 126;
const HOLE: i32 = 200;
const DAMAGED: i32 = 201;
const UNFINISHED: i32 = 202;

/// An archive of some whole segments and a `.partial`; no receiver runs.
struct Archived {
    server: Server,
    dir: Scratch,
    archive: PathBuf,
    end: Lsn,
}

impl Archived {
    fn make() -> Self {
        let (server, dir) = (server(18, 1, &[]), scratch());
        let archive = dir.path().join("archive");
        let begin = server_flush(&server).to_string();
        ended(&mut receive(&server, &archive, &["--no-slot", "-n", "-E", &begin])).is_well();
        let end = work(&server);
        let text = end.to_string();
        ended(&mut receive(&server, &archive, &["--no-slot", "-n", "-E", &text])).is_well();
        Self { server, dir, archive, end }
    }

    /// The unfinished segment.
    fn last(&self) -> SegmentNumber {
        self.end.segment(SIZE)
    }

    /// A whole one in the middle, into which a record runs.
    fn middle(&self) -> SegmentNumber {
        let continued = |number: &&SegmentNumber| fs::read(self.file(**number)).must()[2] & 1 == 1;
        let numbers = sealed(&self.archive);
        let inner = &numbers[1..numbers.len() - 1];
        let found = inner.iter().find(continued).copied();
        found.unwrap_or_else(|| panic!("no record runs over a segment's start: {numbers:?}"))
    }

    fn file(&self, number: SegmentNumber) -> PathBuf {
        self.archive.join("wal").join(name(1, number))
    }

    fn restore(&self, number: SegmentNumber, flags: &[&str]) -> Ended {
        restore(&self.archive, &name(1, number), &self.target(), flags)
    }

    fn target(&self) -> PathBuf {
        let dir = self.dir.path().join("target");
        if !dir.exists() {
            fs::create_dir(&dir).must();
        }
        dir.join("RECOVERYXLOG")
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).must();
    bytes[at] ^= 4;
    fs::write(path, bytes).must();
}

#[test]
fn what_is_archived_is_delivered_byte_by_byte() {
    let archived = Archived::make();
    let target = archived.target();
    for number in sealed(&archived.archive) {
        archived.restore(number, &[]).is_well();
        assert!(fs::read(&target).must() == fs::read(archived.file(number)).must());
    }
    assert_nothing_else(&archived.dir.path().join("target"), &["RECOVERYXLOG"]);
    assert_eq!(fs::metadata(&target).must().permissions().mode() & 0o777, 0o600);
    // A relative path is the data directory's, where the server runs its commands.
    let number = archived.middle();
    fs::create_dir(archived.dir.path().join("pg_wal")).must();
    let mut command = seawall(&["restore-wal", &name(1, number), "pg_wal/RECOVERYXLOG", "-A"]);
    ended(command.arg(&archived.archive).current_dir(archived.dir.path())).is_well();
    // The archive by the environment; and never a link, which the server would write through.
    let linked = archived.dir.path().join("pg_wal/RECOVERYXLOG");
    let mut command = seawall(&["restore-wal", &name(1, number)]);
    ended(command.arg(&linked).env("SEAWALL_ARCHIVE", &archived.archive)).is_well();
    fs::write(&linked, "the server's own").must();
    archived.restore(number, &[]).is_well();

    // Histories, of timelines and of base backups, are delivered as they are.
    let wal = archived.archive.join("wal");
    let backup = format!("{}.00000028.backup", name(1, number));
    fs::write(wal.join(&backup), "START WAL LOCATION: 0/1000028\n").must();
    fs::write(wal.join("00000002.history"), "1\t0/FFFFFFF0\tno recovery target specified\n").must();
    for file in [backup.as_str(), "00000002.history"] {
        restore(&archived.archive, file, &target, &[]).is_well();
        assert_eq!(fs::read(&target).must(), fs::read(wal.join(file)).must());
    }
    restore(&archived.archive, "000000010000000000000001.000000AA.backup", &target, &[])
        .says(ABSENT, &["isn't there"]);
}

#[test]
fn absent_is_said_only_of_what_is_known_to_be() {
    let archived = Archived::make();
    let (target, wal) = (archived.target(), archived.archive.join("wal"));
    let last = archived.last();
    let check = |number: SegmentNumber, flags: &[&str], code: i32, texts: &[&str]| {
        archived.restore(number, flags).says(code, texts);
        assert!(!target.exists());
    };
    check(last.next(), &[], ABSENT, &["what is archived ends at"]);
    check(last.next(), &["--standby"], ABSENT, &[]);
    // What was acknowledged isn't given up unasked.
    check(last, &[], UNFINISHED, &["with --partial", &archived.end.to_string()]);
    check(last, &["--standby"], ABSENT, &[]);
    restore(&archived.archive, "00000002.history", &target, &[]).says(ABSENT, &["isn't there"]);
    let history = restore(&archived.archive, "00000001.history", &target, &[]);
    history.says(ABSENT, &[]);
    check(SegmentNumber::new(0), &[], HOLE, &["later WAL of its timeline"]);
    let other = restore(&archived.archive, &name(7, last), &target, &[]);
    other.says(UNSURE, &["nothing of timeline 7 is archived"]);

    // A file that was taken away, from the middle and from the end.
    let middle = archived.middle();
    let aside = archived.dir.path().join("aside");
    for number in [middle, last] {
        let file = archived.file(number);
        let file = if number == last { file.with_extension("partial") } else { file };
        fs::rename(&file, &aside).must();
        let code = if number == last { ABSENT } else { HOLE };
        check(number, &[], code, &[]);
        fs::rename(&aside, &file).must();
    }
    // The index knows what was settled.
    let settled = sealed(&archived.archive)[0];
    for number in sealed(&archived.archive) {
        fs::rename(archived.file(number), archived.dir.path().join(name(1, number))).must();
    }
    let partial = archived.file(last).with_extension("partial");
    fs::rename(&partial, &aside).must();
    fs::copy(&aside, wal.join(name(1, SegmentNumber::new(0)))).must();
    check(settled, &[], HOLE, &["index knows it", "seawall gaps"]);
    fs::remove_file(wal.join(name(1, SegmentNumber::new(0)))).must();
    check(last.next(), &[], UNSURE, &["no WAL at all"]);

    // Not mounted, and no archive at all.
    fs::rename(&wal, aside.with_extension("wal")).must();
    check(last.next(), &[], UNSURE, &[]);
    let nowhere = archived.dir.path().join("nowhere");
    restore(&nowhere, &name(1, last), &target, &[]).says(UNSURE, &["isn't mounted"]);
    restore(&nowhere, &name(1, last), &target, &["--standby"]).says(ABSENT, &["isn't mounted"]);
}

#[test]
fn a_timeline_that_was_left_ends_there() {
    let archived = Archived::make();
    let (target, wal) = (archived.target(), archived.archive.join("wal"));
    let (last, end) = (archived.last(), archived.end);
    let history = format!("1\t{end}\tno recovery target specified\n");
    fs::write(wal.join("00000002.history"), history).must();
    // Nothing of timeline 2 is there yet: it goes on in the old one's last file.
    let on = |timeline: u32, number: SegmentNumber, flags: &[&str]| {
        restore(&archived.archive, &name(timeline, number), &target, flags)
    };
    on(2, last, &[]).says(ABSENT, &[]);
    on(1, last, &[]).says(UNFINISHED, &["--partial"]);
    on(1, last, &["--partial"]).is_well();
    let served = fs::read(&target).must();
    let until = usize::try_from(end.segment_offset(SIZE)).must();
    assert!(served[until..].iter().all(|byte| *byte == 0));
    fs::remove_file(&target).must();
    on(1, last.next(), &[]).says(ABSENT, &["was left at"]);
    // It has the segment: the old one's is nobody's way any more.
    fs::copy(
        archived.file(last).with_extension("partial"),
        wal.join(format!("{}.partial", name(2, last))),
    )
    .must();
    on(1, last, &["--partial"]).says(ABSENT, &["was left at"]);
    on(2, last.next(), &[]).says(ABSENT, &[]);
    // A history that has to be somewhere.
    fs::remove_file(wal.join("00000002.history")).must();
    restore(&archived.archive, "00000002.history", &target, &[])
        .says(HOLE, &["not its history", "put"]);
    restore(&archived.archive, "00000003.history", &target, &[]).says(ABSENT, &[]);
    // A timeline that begins behind a segment that isn't there.
    let begin = last.next().next().next().start(SIZE);
    fs::write(wal.join("00000003.history"), format!("1\t{begin}\tx\n")).must();
    on(1, last.next(), &[]).says(HOLE, &["timeline 3 goes on from"]);
    fs::write(wal.join("00000003.history"), "nonsense").must();
    restore(&archived.archive, "00000003.history", &target, &[]).says(DAMAGED, &["line 1"]);
}

#[test]
fn an_unfinished_segment_is_delivered_up_to_its_proved_end() {
    let archived = Archived::make();
    let (last, target) = (archived.last(), archived.target());
    archived.restore(last, &["--partial"]).is_well();
    let (served, partial) =
        (fs::read(&target).must(), fs::read(archived.file(last).with_extension("partial")).must());
    let end = usize::try_from(archived.end.segment_offset(SIZE)).must();
    assert_eq!(served.len() as u64, SIZE.bytes());
    assert!(served[..end] == partial[..end]);
    assert!(served[end..].iter().all(|byte| *byte == 0));
    let only = format!("{}.partial", name(1, last));
    restore(&archived.archive, &only, &target, &[]).says(UNSURE, &["--partial"]);
    // A receiver that streams may have more at any moment.
    let mut receiver = Receiver::start(
        &archived.server,
        &archived.archive,
        &ReceiverOptions { slot: false, ..ReceiverOptions::default() },
    );
    receiver.await_streaming(&archived.server);
    fs::remove_file(&target).must();
    archived.restore(last, &[]).says(UNFINISHED, &["a receiver is streaming it"]);
    archived.restore(last.next(), &[]).says(UNFINISHED, &["a receiver is streaming"]);
    archived.restore(last.next(), &["--standby"]).says(ABSENT, &[]);
    restore(&archived.archive, "00000002.history", &target, &[]).says(ABSENT, &[]);
    archived.restore(last, &["--partial"]).is_well();
    receiver.stop();
}

#[test]
fn damage_is_found_wherever_it_is() {
    let archived = Archived::make();
    let (number, target) = (archived.middle(), archived.target());
    let (file, before) =
        (archived.file(number), archived.file(SegmentNumber::new(number.as_u64() - 1)));
    let size = usize::try_from(SIZE.bytes()).must();
    let whole = fs::read(&file).must();
    let whole_before = fs::read(&before).must();
    let refused = |texts: &[&str]| {
        archived.restore(number, &[]).says(DAMAGED, texts);
        archived.restore(number, &["--standby"]).says(ABSENT, texts);
        assert!(!target.exists());
    };
    // In its middle, at its end, in its header, and in the record that runs into it: in the part
    // that lies in it, and in the part that lies before.
    for at in [size / 2, 0, 8, 24, 32, 41] {
        flip(&file, at);
        refused(&["doesn't hold any more"]);
        fs::write(&file, &whole).must();
    }
    flip(&before, size - 9);
    refused(&["doesn't hold any more"]);
    fs::write(&before, &whole_before).must();
    for len in [0, 40, 8192, size - 1, size + 1] {
        let mut bytes = whole.clone();
        bytes.resize(len, 0);
        fs::write(&file, &bytes).must();
        refused(&["and a segment has 1048576"]);
    }
    let mut zeros = whole.clone();
    zeros[8192..16384].fill(0);
    fs::write(&file, &zeros).must();
    refused(&["doesn't hold any more"]);
    fs::write(&file, &whole).must();
    // Another archive that has it whole is as good.
    let copy = archived.dir.path().join("copy");
    let copied = Command::new("cp").arg("-a").arg(&archived.archive).arg(&copy).status().must();
    assert!(copied.success());
    flip(&file, size / 3);
    archived.restore(number, &["-A", &copy.to_string_lossy()]).is_well();
    assert!(fs::read(&target).must() == whole);
    fs::write(&file, &whole).must();
    // Nothing proves the record that runs in where the segment before isn't archived; it is said.
    fs::remove_file(&target).must();
    fs::rename(&before, archived.dir.path().join("before")).must();
    let unproved = archived.restore(number, &[]);
    unproved.says(0, &["isn't proved", &name(1, SegmentNumber::new(number.as_u64() - 1))]);
}

#[test]
fn several_archives_are_asked_in_order() {
    let archived = Archived::make();
    let (last, target) = (archived.last(), archived.target());
    let nowhere = archived.dir.path().join("nowhere");
    let nowhere = nowhere.to_string_lossy();
    let ours = archived.archive.to_string_lossy();
    let ask = |archives: &[&str], number: SegmentNumber| {
        let mut command = seawall(&["restore-wal", "--retry-for", "0", &name(1, number)]);
        command.arg(&target);
        for archive in archives {
            command.args(["-A", archive]);
        }
        ended(&mut command)
    };
    ask(&[&nowhere, &ours], archived.middle()).is_well();
    fs::remove_file(&target).must();
    // It is absent if it is so everywhere.
    ask(&[&ours, &nowhere], last.next())
        .says(UNSURE, &["what is archived ends at", "isn't mounted"]);
    let copy = archived.dir.path().join("copy");
    assert!(
        Command::new("cp").arg("-a").args([&archived.archive, &copy]).status().must().success()
    );
    ask(&[&ours, &copy.to_string_lossy()], last.next()).says(ABSENT, &[]);
    fs::remove_file(copy.join("wal").join(name(1, archived.middle()))).must();
    ask(&[&copy.to_string_lossy()], archived.middle()).says(HOLE, &[]);
    ask(&[&copy.to_string_lossy(), &ours], archived.middle()).is_well();
}

#[test]
fn another_clusters_data_directory_is_refused() {
    let archived = Archived::make();
    let data = archived.dir.path().join("data");
    fs::create_dir_all(data.join("global")).must();
    fs::create_dir(data.join("pg_wal")).must();
    let target = data.join("pg_wal/RECOVERYXLOG");
    let control = archived.server.data_dir().join("global/pg_control");
    let mut content = fs::read(control).must();
    let number = archived.middle();
    let ask = || restore(&archived.archive, &name(1, number), &target, &["--standby"]);
    fs::write(data.join("global/pg_control"), &content).must();
    ask().is_well();
    content[0] ^= 1;
    fs::write(data.join("global/pg_control"), &content).must();
    ask().says(UNSURE, &["the archive of the cluster with system identifier"]);
}

#[test]
fn names_that_no_server_asks_for_are_refused() {
    let archived = Archived::make();
    let target = archived.target();
    for name in ["../seawall.json", "%f", "x", "", "000000010000000000000001/..", "postgresql.conf"]
    {
        restore(&archived.archive, name, &target, &["--standby"]).says(UNSURE, &[]);
    }
    let number = name(1, archived.middle());
    for args in [&["restore-wal"][..], &["restore-wal", "--bogus"], &["restore-wal", &number, "x"]]
    {
        ended(&mut seawall(args)).says(UNSURE, &["Usage"]);
    }
    // A `%` in a path is nobody's to replace.
    let strange = archived.dir.path().join("a %p 'b");
    fs::create_dir(&strange).must();
    restore(&archived.archive, &number, &strange.join("%f"), &[]).is_well();
    assert_nothing_else(&strange, &["%f"]);
}

#[test]
fn what_may_be_mended_is_tried_again() {
    let archived = Archived::make();
    let (number, target) = (archived.middle(), archived.target());
    let aside = archived.dir.path().join("aside");
    let start = || {
        let mut command = seawall(&["restore-wal", "--retry-for", "1min", &name(1, number)]);
        command.arg(&target).arg("-A").arg(&archived.archive);
        let running = Running::spawn(&mut command, "seawall restore-wal").must();
        running.wait_for_line("trying again for 60 s", LIMIT).must();
        running
    };
    fs::rename(archived.file(number), &aside).must();
    let mut hole = start();
    fs::rename(&aside, archived.file(number)).must();
    assert!(hole.wait(LIMIT).must().success(), "{}", hole.output_tail());
    fs::remove_file(&target).must();
    // SIGTERM is obeyed, and isn't taken for an answer.
    fs::rename(&archived.archive, &aside).must();
    let mut unmounted = start();
    let (status, _) = unmounted.stop(Signal::TERM, LIMIT).must();
    assert_eq!((status.code(), status.signal()), (None, Some(15)));
    let mut unmounted = start();
    fs::rename(&aside, &archived.archive).must();
    assert!(unmounted.wait(LIMIT).must().success());
    assert!(fs::read(&target).must() == fs::read(archived.file(number)).must());
}

#[test]
fn a_target_that_cant_be_written_is_no_end_of_the_log() {
    let kept = Kept::new();
    let server = server(18, 1, &[]);
    let mut receiver = kept.receiver(&server);
    receiver.await_flush(&server, work(&server));
    receiver.stop();
    let number = kept.sealed()[1];
    let dir = kept.scratch.server_dir("target").must();
    let ask = |path: &Path| {
        let mut command = Command::new(&kept.program);
        as_server_user(&mut command);
        command.args(["restore-wal", "--retry-for", "0", &name(1, number)]).arg(path);
        ended(command.arg("-A").arg(&kept.archive))
    };
    ask(&dir.join("RECOVERYXLOG")).is_well();
    ask(&dir).says(UNSURE, &["can't"]);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o500)).must();
    ask(&dir.join("another")).says(UNSURE, &["can't create", "xlogtemp.seawall"]);
    ask(&dir.join("missing/RECOVERYXLOG")).says(UNSURE, &["can't create"]);
    assert_nothing_else(&dir, &["RECOVERYXLOG"]);
    fs::set_permissions(kept.segment(number), fs::Permissions::from_mode(0o0)).must();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).must();
    ask(&dir.join("another")).says(UNSURE, &["Permission denied"]);

    let Some(disk) = SmallDisk::tmpfs(kept.scratch.path().join("small"), 20) else { return };
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; (20 << 20) - (1 << 19)]).must();
    let full = disk.path().join("RECOVERYXLOG");
    fs::set_permissions(kept.segment(number), fs::Permissions::from_mode(0o600)).must();
    restore(&kept.archive, &name(1, number), &full, &[]).says(UNSURE, &["make room there"]);
    assert_nothing_else(disk.path(), &["ballast"]);
    fs::remove_file(&ballast).must();
    restore(&kept.archive, &name(1, number), &full, &[]).is_well();
}
