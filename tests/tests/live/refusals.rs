//! What isn't this receiver's to write to is refused: a message that says what to do, an exit
//! code of its own, and nothing touched.

use std::fs;
use std::path::{Path, PathBuf};

use testkit::peers::{ReceiveOptions, pg_receivewal};
use testkit::process::run;
use testkit::servers::{Server, ServerOptions, StopMode};

use super::common::{
    LIMIT, Must, Receiver, ReceiverOptions, compare_with_primary, pg, scratch, server, server_flush,
};
use super::program::{Ended, ended, fingerprint, receive, seawall};

const USAGE: i32 = 2;
const IN_USE: i32 = 3;
const WRONG_ARCHIVE: i32 = 6;

/// Runs a receiver into a directory that has to stay as it is.
fn refused(server: &Server, archive: &Path, more: &[&str]) -> Ended {
    let before = fingerprint(archive);
    let ended = ended(&mut receive(server, archive, more));
    assert_eq!(fingerprint(archive), before, "something was touched: {ended:?}");
    ended
}

/// An archive with some WAL of `server` in it, and nobody who writes to it.
fn filled_archive(server: &Server, dir: &Path) -> PathBuf {
    let archive = dir.join("archive");
    let options = ReceiverOptions { slot: false, ..ReceiverOptions::default() };
    let mut receiver = Receiver::start(server, &archive, &options);
    receiver.await_streaming(server);
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i").must();
    receiver.await_flush(server, server_flush(server));
    receiver.stop();
    archive
}

#[test]
fn a_second_receiver_is_refused_and_harms_nothing() {
    let (server, scratch) = (server(18, 1, &[]), scratch());
    let archive = scratch.path().join("archive");
    let mut first = Receiver::start(&server, &archive, &ReceiverOptions::default());
    first.await_streaming(&server);
    first.await_flush(&server, server_flush(&server));
    let holder = format!("process {}", first.running.pid());
    for more in [&["--no-slot"][..], &["--slot", "another", "--create-slot"]] {
        let second = ended(&mut receive(&server, &archive, more));
        second.says(IN_USE, &["the archive is in use", &holder, "choose another directory"]);
    }
    let slots = server.sql("SELECT count(*) FROM pg_replication_slots").must();
    assert_eq!(slots, "1", "the second one made a slot");
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) i").must();
    let end = server_flush(&server);
    first.await_flush(&server, end);
    compare_with_primary(&first.wal_dir(), &server, end);
    first.stop();
}

#[test]
fn removing_the_lock_lets_no_second_receiver_in() {
    let (server, scratch) = (server(18, 1, &[]), scratch());
    let archive = scratch.path().join("archive");
    let mut first = Receiver::start(&server, &archive, &ReceiverOptions::default());
    first.await_streaming(&server);
    fs::remove_dir_all(archive.join("run")).must();
    let second = ended(&mut receive(&server, &archive, &["--no-slot"]));
    second.says(IN_USE, &["the archive is in use"]);
    first.stop();
}

#[test]
fn an_archive_without_what_makes_it_one_says_what_to_do() {
    let (server, scratch) = (server(18, 1, &[]), scratch());
    let archive = filled_archive(&server, scratch.path());
    for spare in ["index", "quarantine"] {
        fs::remove_dir_all(archive.join(spare)).must();
    }
    let end = server_flush(&server).to_string();
    ended(&mut receive(&server, &archive, &["--no-slot", "-n", "-E", &end])).is_well();
    let (wal, elsewhere) = (archive.join("wal"), archive.join("elsewhere"));
    fs::rename(&wal, &elsewhere).must();
    refused(&server, &archive, &["--no-slot"]).says(WRONG_ARCHIVE, &["no directory wal/"]);
    fs::rename(&elsewhere, &wal).must();
    fs::remove_file(archive.join("seawall.json")).must();
    let refused = refused(&server, &archive, &["--no-slot"]);
    refused.says(WRONG_ARCHIVE, &["restore seawall.json"]);
}

#[test]
fn another_cluster_is_refused() {
    let (mine, scratch) = (server(18, 1, &[]), scratch());
    let archive = filled_archive(&mine, scratch.path());
    let options = ServerOptions { new_system_id: true, segment_size_mb: 1, ..Default::default() };
    let other = Server::start(&pg(18), &options).must();
    let ids = [&mine, &other]
        .map(|server| server.sql("SELECT system_identifier FROM pg_control_system()").must());
    assert_ne!(ids[0], ids[1]);
    let refused = refused(&other, &archive, &["--no-slot"]);
    refused.says(WRONG_ARCHIVE, &[&ids[0], &ids[1], "give it an archive of its own"]);
}

fn another_segment_size_is_refused(major: u32) {
    let (mut server, scratch) = (server(major, 1, &[]), scratch());
    let archive = filled_archive(&server, scratch.path());
    server.stop(StopMode::Fast).must();
    let mut resetwal = server.install().command("pg_resetwal");
    resetwal.args(["--wal-segsize", "2", "-D"]).arg(server.data_dir());
    run(&mut resetwal, LIMIT, "pg_resetwal").must();
    server.restart().must();
    let refused = refused(&server, &archive, &["--no-slot"]);
    refused.says(WRONG_ARCHIVE, &["1MB", "2MB", "give it an archive of its own"]);
}

#[test]
fn another_segment_size_is_refused_14() {
    another_segment_size_is_refused(14);
}

#[test]
fn another_segment_size_is_refused_18() {
    another_segment_size_is_refused(18);
}

#[test]
fn another_major_version_is_refused() {
    let (server, scratch) = (server(18, 1, &[]), scratch());
    let archive = filled_archive(&server, scratch.path());
    // pg_upgrade gives a new system identifier; a cluster that kept its own is refused as well.
    let format = archive.join("seawall.json");
    let text = fs::read_to_string(&format).must();
    assert!(text.contains("\"server_major\": 18"), "{text}");
    fs::write(&format, text.replace("\"server_major\": 18", "\"server_major\": 17")).must();
    let refused_major = refused(&server, &archive, &["--no-slot"]);
    refused_major.says(WRONG_ARCHIVE, &["PostgreSQL 17", "the server is 18", "of its own"]);
    fs::write(&format, text.replace("\"format\": 1", "\"format\": 9")).must();
    fs::write(&format, text.replace("\"min_writer\": 1", "\"min_writer\": 9")).must();
    let refused_format = refused(&server, &archive, &["--no-slot"]);
    refused_format.says(WRONG_ARCHIVE, &["the archive has format", "use the version that made it"]);
    fs::write(&format, "{").must();
    let refused_text = refused(&server, &archive, &["--no-slot"]);
    refused_text.says(WRONG_ARCHIVE, &["seawall.json can't be read", "restore it"]);
}

#[test]
fn a_directory_that_is_no_archive_is_refused() {
    let (server, scratch) = (server(18, 1, &[]), scratch());
    let stranger = scratch.path().join("stranger");
    fs::create_dir(&stranger).must();
    fs::write(stranger.join("letter.txt"), "not WAL").must();
    let refused_dir = refused(&server, &stranger, &["--no-slot"]);
    refused_dir.says(WRONG_ARCHIVE, &["letter.txt", "choose an empty directory"]);

    let theirs = scratch.path().join("pg_receivewal");
    fs::create_dir(&theirs).must();
    let install = server.install().clone();
    let mut peer =
        pg_receivewal(&install, &server.conninfo(), &theirs, &ReceiveOptions::default()).must();
    let streams = "EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')";
    server.wait_until("pg_receivewal to stream", LIMIT, streams).must();
    peer.kill9();
    let refused_peer = refused(&server, &theirs, &["--no-slot"]);
    refused_peer.says(WRONG_ARCHIVE, &["isn't an archive of seawall", ".partial", "empty"]);

    let file = scratch.path().join("file");
    fs::write(&file, "").must();
    ended(&mut receive(&server, &file, &["--no-slot"])).says(1, &["file"]);
}

#[test]
fn settings_that_cannot_be_had_are_refused_by_name() {
    let scratch = scratch();
    let archive = scratch.path().join("archive");
    let check = |conninfo: &str, texts: &[&str]| {
        let mut command = seawall(&["receive", "--no-slot", "-d", conninfo, "-A"]);
        ended(command.arg(&archive)).says(USAGE, texts);
        ended(&mut seawall(&["slot", "read", "s", "-d", conninfo])).says(USAGE, texts);
        assert!(!archive.exists(), "{conninfo}: the archive was made");
    };
    check("host=db gssencmode=require", &["gssencmode=require", "connection string"]);
    check("host=db sslcompression=1", &["sslcompression=1"]);
    check(
        "postgresql://db/?ssl_max_protocol_version=TLSv1.1",
        &["ssl_max_protocol_version=TLSv1.1"],
    );
    check("host=a,b port=1,2,3", &["could not match 3 port numbers to 2 hosts"]);
    check("postgresql://a:x,b:2/", &["invalid port value"]);
    check("service=prod", &["definition of service \"prod\" not found"]);
    check("host=db sslnegotiation=direct", &["weak sslmode \"prefer\""]);
    check("host=db sslrootcert=system sslmode=require", &["weak sslmode \"require\""]);
    check("host=db sslmod=require", &["invalid connection option \"sslmod\"", "\"sslmode\""]);
    let by_environment = |name: &str, value: &str, texts: &[&str]| {
        let mut command = seawall(&["receive", "--no-slot", "-h", "db", "-A"]);
        ended(command.arg(&archive).env(name, value)).says(USAGE, texts);
        assert!(!archive.exists());
    };
    by_environment("PGGSSENCMODE", "require", &["gssencmode", "PGGSSENCMODE"]);
    by_environment("PGSSLMODE", "strict", &["sslmode", "strict", "PGSSLMODE"]);
    by_environment("PGSERVICE", "prod", &["definition of service"]);
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let scratch = scratch();
    let archive = scratch.path().join("archive");
    let check = |args: &[&str], texts: &[&str]| {
        let mut command = seawall(&["receive", "-h", "db", "-A"]);
        ended(command.arg(&archive).args(args)).says(USAGE, texts);
        assert!(!archive.exists(), "{args:?}: the archive was made");
    };
    check(&["--no-sync", "--slot", "s"], &["--no-sync", "--slot"]);
    check(&["--no-slot", "--slot", "s"], &["--no-slot", "--slot"]);
    check(&["--create-slot"], &["--slot"]);
    check(&["--slot", "S"], &["--slot", "lower"]);
    check(&["-E", "12"], &["--endpos"]);
}
