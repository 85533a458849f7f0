//! `seawall adopt`: a directory that real pg_receivewal has filled goes on as an archive.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use pg_types::SegmentSize;
use testkit::peers::{ReceiveOptions, pg_receivewal};
use testkit::process::{Running, Signal};
use testkit::servers::{Server, full, is_segment_name};

use super::common::{
    LIMIT, Must, Random, Receiver, ReceiverOptions, SLOT, compare_with_primary, on_each_major,
    scratch, server, server_flush,
};
use super::gaps::gaps;
use super::program::{Ended, ended, fingerprint, seawall};

on_each_major!(an_archive_goes_on_where_pg_receivewal_ended, super::it_goes_on);

fn adopt(dir: &Path) -> Ended {
    ended(seawall(&["adopt"]).arg(dir))
}

/// Some segments by pg_receivewal, which has ended.
fn fill(server: &Server, dir: &Path) {
    fs::create_dir(dir).must();
    let options = ReceiveOptions {
        slot: Some(SLOT.to_owned()),
        synchronous: true,
        ..ReceiveOptions::default()
    };
    let conninfo = server.conninfo();
    let mut peer = pg_receivewal(server.install(), &conninfo, dir, &options).must();
    server.sql("CREATE TABLE t AS SELECT repeat('x', 200) FROM generate_series(1, 20000)").must();
    let end = server_flush(server);
    let done = format!(
        "EXISTS (SELECT FROM pg_stat_replication WHERE application_name = 'peer' \
         AND flush_lsn >= '{end}')"
    );
    server.wait_until("pg_receivewal to have it all", LIMIT, &done).must();
    peer.stop(Signal::INT, LIMIT).must();
}

fn it_goes_on(major: u32) {
    let (server, dir) = (server(major, 1, &[]), scratch());
    let archive = dir.path().join("received");
    fill(&server, &archive);
    let before = fingerprint(&archive);
    let adopted = adopt(&archive);
    adopted.is_well();
    assert!(adopted.stdout.contains("is an archive now"), "{adopted:#?}");
    let (segments, wal) = (before.len(), archive.join("wal"));
    let moved = fingerprint(&wal);
    let content = |files: &[(std::path::PathBuf, u64, u64)]| {
        files.iter().map(|(_, len, hash)| (*len, *hash)).collect::<Vec<_>>()
    };
    assert_eq!(content(&moved), content(&before));
    // Twice is once.
    let again = adopt(&archive);
    again.is_well();
    assert!(again.stdout.contains(&format!("already: {segments} segments")), "{again:#?}");

    let mut receiver = Receiver::start(&server, &archive, &ReceiverOptions::default());
    receiver.await_streaming(&server);
    server.sql("INSERT INTO t SELECT * FROM t").must();
    let end = server_flush(&server);
    receiver.await_flush(&server, end);
    receiver.stop();
    assert!(compare_with_primary(&wal, &server, end) > segments as u64 * SegmentSize::MIN.bytes());
    assert_eq!(gaps(&archive), [serde_json::Value::Null; 0]);
    if full(major) {
        killed_anywhere(&server, &dir.path().join("killed"));
    }
}

/// Whenever it is killed, no receiver takes what is left for an archive, and the next one ends it.
fn killed_anywhere(server: &Server, dir: &Path) {
    server.sql("DROP TABLE t").must();
    fill(server, dir);
    let files = fs::read_dir(dir).must().count();
    let mut random = Random::new("adopt");
    let mut between = 0;
    for round in 0..30 {
        let copy = dir.with_extension(round.to_string());
        assert!(Command::new("cp").arg("-a").args([dir, &copy]).status().must().success());
        let mut command = seawall(&["adopt"]);
        let running = Running::spawn(command.arg(&copy), "seawall adopt").must();
        sleep(Duration::from_micros(random.below(40_000)));
        running.kill(Signal::KILL);
        drop(running);
        let moved = fs::read_dir(copy.join("wal")).map_or(0, Iterator::count);
        if moved > 0 && !copy.join("seawall.json").exists() {
            between += 1;
            let mut receive = seawall(&["receive", "-n", "--no-slot", "-A"]);
            receive.arg(&copy).args(["-d", &server.conninfo(), "-E", "0/1"]);
            ended(&mut receive).says(6, &["isn't an archive"]);
        }
        adopt(&copy).is_well();
        assert_eq!(fs::read_dir(copy.join("wal")).must().count(), files);
        let differ = Command::new("diff").arg("-r").arg(dir).arg(copy.join("wal")).status().must();
        assert!(differ.success());
        fs::remove_dir_all(&copy).must();
    }
    assert!(between > 0, "none was killed while it moved files");
}

#[test]
fn what_isnt_understood_is_left_alone() {
    let (server, dir) = (server(18, 1, &[]), scratch());
    let received = dir.path().join("received");
    fill(&server, &received);
    let mut names: Vec<String> = fs::read_dir(&received)
        .must()
        .map(|entry| entry.must().file_name().to_string_lossy().into_owned())
        .filter(|name| is_segment_name(name))
        .collect();
    names.sort();
    let segment = received.join(&names[names.len() / 2]);
    let whole = fs::read(&segment).must();
    let check = |code: i32, texts: &[&str]| {
        let before = fingerprint(&received);
        adopt(&received).says(code, texts);
        assert_eq!(fingerprint(&received), before, "it touched something");
    };
    for (name, code, texts) in [
        ("notes.txt", 6, ["notes.txt", "isn't anything that pg_receivewal makes"]),
        ("000000010000000000000001.gz.gz", 6, ["gz.gz", "isn't anything"]),
        ("0000000100000000000000FE.gz", 1, ["unpacking of 0000000100000000000000FE.gz", "copy"]),
    ] {
        fs::write(received.join(name), "x").must();
        check(code, &texts);
        fs::remove_file(received.join(name)).must();
    }
    let history = received.join("00000002.history");
    fs::write(&history, "nonsense").must();
    check(6, &["line 1 of the history of timeline 2"]);
    fs::remove_file(&history).must();
    let mut damaged = whole.clone();
    damaged[500_000] ^= 1;
    fs::write(&segment, &damaged).must();
    check(1, &["doesn't hold", "put it back from a copy"]);
    fs::write(&segment, &whole[..4096]).must();
    check(1, &["has 4096 bytes"]);
    // Another cluster's among them.
    let mut other = whole.clone();
    other[24] ^= 1;
    fs::write(&segment, &other).must();
    check(1, &["system identifier"]);
    fs::write(&segment, &whole).must();
    adopt(&received).is_well();

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).must();
    adopt(&empty).says(6, &["no WAL in the directory"]);
    adopt(&dir.path().join("missing")).says(1, &["missing"]);
}
