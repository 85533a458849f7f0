//! Who is let in.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use testkit::process::{run_unchecked, run_with_input};
use testkit::servers::{Install, as_server_user};

use super::{Serving, conninfo};
use crate::common::{LIMIT, Must, Receiver, ReceiverOptions, pg, scratch, server, server_flush};
use crate::program::{ended, seawall};

/// A made-up password that is looked for in everything that is written.
const PASSWORD: &str = "canary of the users file";

/// Whose a file is.
fn owner(path: &Path) -> u32 {
    fs::metadata(path).must().uid()
}

fn user(archive: &Path, args: &[&str]) -> Command {
    let mut command = seawall(&["user"]);
    command.args(args).arg("-A").arg(archive);
    command
}

/// IDENTIFY_SYSTEM as this user, by real psql.
fn asks(install: &Install, port: u16, user: &str, password: &str) -> (bool, String) {
    let mut psql = install.client_command("psql");
    let conninfo = format!("host=127.0.0.1 port={port} user={user} replication=1 dbname=x");
    psql.env("PGPASSWORD", password).args(["-X", "-w", "-d", &conninfo, "-c", "IDENTIFY_SYSTEM"]);
    let output = run_unchecked(&mut psql, "", LIMIT, "psql").must();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn passwords_are_proved_against_the_users_file() {
    let (primary, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let mut receiver = Receiver::start(&primary, &archive, &ReceiverOptions::default());
    receiver.await_flush(&primary, server_flush(&primary));
    let serving = Serving::start(&archive, &[]);
    for major in [14, 18] {
        let install = pg(major);
        let (ok, error) = asks(&install, serving.port, "ann", PASSWORD);
        let fails = "password authentication failed for user \"ann\"";
        assert!(!ok && error.contains(fails), "{error}");
    }
    // Whoever owns the archive has to read the file, whoever writes it.
    let another = owner(primary.data_dir());
    std::os::unix::fs::chown(&archive, Some(another), None).must();
    // A password, and a verifier that was copied from the primary.
    let add = |name: &str, secret: &str| {
        let mut command = user(&archive, &["add", name]);
        run_with_input(&mut command, &format!("{secret}\n"), LIMIT, "seawall user add").must();
    };
    add("ann", PASSWORD);
    primary.sql(&format!("CREATE ROLE bob PASSWORD '{PASSWORD}'")).must();
    let verifier = primary.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'bob'").must();
    add("bob", &verifier);
    for (secret, text) in [
        ("md5d3a5c5e4a7a5b7c3d1e0f9a8b7c6d5e4", "this is an MD5 hash"),
        ("SCRAM-SHA-512$4096:eA==$eQ==:eg==", "isn't a SCRAM verifier"),
    ] {
        let mut command = user(&archive, &["add", "odd"]);
        let ended = run_unchecked(&mut command, secret, LIMIT, "seawall user add").must();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && said.contains(text), "{said}");
    }
    let names = ended(&mut user(&archive, &["list"]));
    assert_eq!(names.stdout, "ann\nbob\n");
    let file = archive.join("users");
    assert_eq!(fs::metadata(&file).must().permissions().mode() & 0o777, 0o600);
    assert_eq!(owner(&file), another);
    assert!(!fs::read_to_string(&file).must().contains(PASSWORD));
    for major in [14, 18] {
        let install = pg(major);
        for name in ["ann", "bob"] {
            let (ok, error) = asks(&install, serving.port, name, PASSWORD);
            assert!(ok, "{name} by {major}: {error}");
            let (ok, _) = asks(&install, serving.port, name, "wrong");
            assert!(!ok);
        }
    }
    let gone = ended(&mut user(&archive, &["remove", "ann"]));
    gone.is_well();
    let (ok, error) = asks(&pg(18), serving.port, "ann", PASSWORD);
    assert!(!ok, "{error}");
    // A file that isn't understood lets nobody in, and is named.
    fs::write(&file, format!("ann:{PASSWORD}\n")).must();
    let (ok, error) = asks(&pg(18), serving.port, "bob", PASSWORD);
    assert!(!ok && error.contains("users file can't be read"), "{error}");
    serving.running.wait_for_line("line 1 of the users file", LIMIT).must();
    assert!(!serving.running.output_tail().contains(PASSWORD));
    serving.stop();
    receiver.stop();
}

#[test]
fn a_unix_socket_is_its_owners_and_one_process_serves_an_archive() {
    let (primary, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let socket = format!("{}:5999", dir.path().display());
    let options = ReceiverOptions::with(&["--serve", &socket]);
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_flush(&primary, server_flush(&primary));
    let mode = fs::metadata(dir.path().join(".s.PGSQL.5999")).must().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut psql = pg(18).client_command("psql");
    let at = format!("host={} port=5999 user=me replication=1 dbname=x", dir.path().display());
    psql.args(["-X", "-At", "-d", &at, "-c", "IDENTIFY_SYSTEM"]);
    let output = testkit::process::run(&mut psql, LIMIT, "psql").must();
    assert!(String::from_utf8_lossy(&output.stdout).contains("|1|"));
    // Whoever gets there all the same, and isn't the owner, has to have a password.
    for (path, mode) in [(dir.path().to_owned(), 0o755), (dir.path().join(".s.PGSQL.5999"), 0o666)]
    {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).must();
    }
    let mut psql = pg(18).client_command("psql");
    as_server_user(&mut psql);
    psql.args(["-X", "-At", "-w", "-d", &at, "-c", "IDENTIFY_SYSTEM"]);
    let output = run_unchecked(&mut psql, "", LIMIT, "psql").must();
    let said = String::from_utf8_lossy(&output.stderr);
    let is_another = owner(primary.data_dir()) != owner(&archive);
    assert_eq!(said.contains("no password supplied"), is_another, "{said}");
    let mut second = seawall(&["serve", "-A"]);
    second.arg(&archive).args(["--listen", "127.0.0.1:0"]);
    ended(&mut second).says(3, &["served already"]);
    receiver.stop();
    assert!(!dir.path().join(".s.PGSQL.5999").exists(), "its name goes with it");
}

#[test]
fn before_anything_is_archived_clients_are_told_to_wait() {
    let (primary, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let port = testkit::servers::free_port().must();
    let serve = format!("127.0.0.1:{port}");
    // Nobody listens there.
    let nowhere = Some(testkit::servers::free_port().must());
    let extra = ["--serve", &serve, "--serve-auth", "trust"];
    let options = ReceiverOptions { port: nowhere, ..ReceiverOptions::with(&extra) };
    let receiver = Receiver::start(&primary, &archive, &options);
    receiver.running.wait_for_line("serving on", LIMIT).must();
    let mut psql = pg(18).client_command("psql");
    let at = format!("{} replication=1 dbname=x", conninfo(port));
    psql.args(["-X", "-d", &at, "-c", "IDENTIFY_SYSTEM"]);
    let output = run_unchecked(&mut psql, "", LIMIT, "psql").must();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("the database system is starting up"), "{error}");
    receiver.stop();
    // No directory is made that isn't an archive yet.
    assert!(!archive.join("slots").exists());
}
