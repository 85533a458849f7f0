//! Every way to reach a server and to be let in; no secret in anything that is printed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::scratch::Scratch;
use testkit::servers::{Server, ServerOptions};

use super::common::{Must, pg, scratch};
use super::program::{Ended, ended, seawall};

/// What must not be printed; a part of every password, the wrong ones too.
const CANARY: &str = "c4n4ry";

/// The roles, with the authentication method that is asked of each.
const ROLES: [(&str, &str); 4] = [
    ("r_trust", "trust"),
    ("r_password", "password"),
    ("r_md5", "md5"),
    ("r_scram", "scram-sha-256"),
];

fn password(role: &str) -> String {
    format!("{CANARY} of '{role}' \\ &=:/@ü")
}

/// A server with the roles, and directories for archives and password files.
struct Scene {
    server: Server,
    scratch: Scratch,
    archives: std::cell::Cell<u32>,
}

impl Scene {
    fn new(major: u32) -> Self {
        let mut hba = "local all postgres trust\n".to_owned();
        for (role, method) in ROLES {
            for database in ["all", "replication"] {
                hba += &format!("local {database} {role} {method}\n");
                hba += &format!("host {database} {role} 127.0.0.1/32 {method}\n");
            }
        }
        let options = ServerOptions { hba: Some(hba), segment_size_mb: 1, ..Default::default() };
        let server = Server::start(&pg(major), &options).must();
        for (role, method) in ROLES {
            let encryption = if role == "r_md5" { "md5" } else { "scram-sha-256" };
            let word = password(role).replace('\'', "''");
            let _ = method;
            server
                .sql(&format!(
                    "SET standard_conforming_strings = on; SET client_min_messages = error;
                     SET client_encoding = utf8; SET password_encryption = '{encryption}';
                     CREATE ROLE {role} LOGIN REPLICATION PASSWORD '{word}'"
                ))
                .must();
        }
        Self { server, scratch: scratch(), archives: std::cell::Cell::new(0) }
    }

    fn port(&self) -> String {
        self.server.port().to_string()
    }

    fn socket(&self) -> String {
        self.server.socket_dir().display().to_string()
    }

    /// A receiver that ends at the server's end, as talkative as can be.
    fn receive(&self, conninfo: Option<&str>) -> Command {
        self.archives.set(self.archives.get() + 1);
        let archive = self.scratch.path().join(format!("archive{}", self.archives.get()));
        let end = self.server.current_lsn().must();
        let mut command =
            seawall(&["receive", "--no-slot", "-v", "-v", "--json", "-E", &end, "-A"]);
        command.arg(archive);
        if let Some(conninfo) = conninfo {
            command.args(["-d", conninfo]);
        }
        command
    }

    fn passfile(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.scratch.path().join(name);
        let escaped = password("r_scram").replace('\\', "\\\\").replace(':', "\\:");
        let line = format!("# ours\n*:{}:replication:r_scram:{escaped}\n", self.port());
        fs::write(&path, line).must();
        fs::set_permissions(&path, Permissions::from_mode(mode)).must();
        path
    }
}

/// Runs it; whatever comes of it, nothing secret was printed, and events are JSON.
fn discreet(command: &mut Command) -> Ended {
    let ended = ended(command);
    for text in [&ended.stdout, &ended.stderr] {
        assert!(!text.contains(CANARY), "a secret was printed: {text}");
    }
    for line in ended.stdout.lines() {
        let value: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(value.is_ok_and(|value| value["event"].is_string()), "no event: {line}");
    }
    ended
}

/// In a conninfo's quotes.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// In a URI.
fn encoded(word: &str) -> String {
    word.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn every_method_on_every_socket(major: u32) {
    let scene = Scene::new(major);
    for (role, method) in ROLES {
        for host in ["127.0.0.1".to_owned(), scene.socket()] {
            let words = quoted(&password(role));
            let conninfo =
                format!("host={host} port={} user={role} password={words}", scene.port());
            discreet(&mut scene.receive(Some(&conninfo))).is_well();
            let wrong = conninfo.replace(CANARY, "c4n4ry-wrong");
            let began = Instant::now();
            let refused = discreet(&mut scene.receive(Some(&wrong)));
            if method == "trust" {
                refused.is_well();
            } else {
                assert_eq!(refused.code, Some(1), "{refused:#?}");
                assert!(refused.stderr.contains("password authentication failed"), "{refused:#?}");
                assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
            }
        }
    }
}

#[test]
fn every_method_on_every_socket_14() {
    every_method_on_every_socket(14);
}

#[test]
fn every_method_on_every_socket_18() {
    every_method_on_every_socket(18);
}

#[test]
fn settings_come_from_flags_strings_uris_and_the_environment() {
    let scene = Scene::new(18);
    let (port, socket, word) = (scene.port(), scene.socket(), password("r_scram"));
    let uris = [
        format!("postgresql://r_scram:{}@127.0.0.1:{port}/", encoded(&word)),
        format!("postgres://r_scram@{}:{port}?password={}", encoded(&socket), encoded(&word)),
        format!(
            "postgresql:///?host={socket}&port={port}&user=r_scram&password={}",
            encoded(&word)
        ),
    ];
    for uri in uris {
        discreet(&mut scene.receive(Some(&uri))).is_well();
    }
    let mut by_environment = scene.receive(None);
    by_environment.envs([("PGHOST", "127.0.0.1"), ("PGPORT", &port), ("PGUSER", "r_scram")]);
    by_environment.envs([("PGPASSWORD", &word[..]), ("PGAPPNAME", "by_environment")]);
    discreet(&mut by_environment).is_well();
    let log = scene.server.log_text();
    assert!(log.contains("by_environment LOG:  received replication"), "{log}");

    // Flags win over the string, and the string over the environment.
    let mut mixed = scene.receive(Some(&format!(
        "host=nowhere.invalid port=1 user=nobody password={}",
        quoted(&word)
    )));
    mixed.args(["-h", &socket, "-p", &port, "-U", "r_scram", "-w"]);
    mixed.env("PGPASSWORD", "c4n4ry-wrong").env("PGUSER", "nobody");
    discreet(&mut mixed).is_well();
}

#[test]
fn a_password_file_is_used_if_nobody_else_can_read_it() {
    let scene = Scene::new(18);
    let conninfo = format!("host=127.0.0.1 port={} user=r_scram", scene.port());
    let good = scene.passfile("good", 0o600);
    discreet(scene.receive(Some(&conninfo)).env("PGPASSFILE", &good)).is_well();
    let with_passfile = format!("{conninfo} passfile={}", quoted(&good.display().to_string()));
    discreet(&mut scene.receive(Some(&with_passfile))).is_well();
    let home = scene.passfile(".pgpass", 0o600);
    discreet(scene.receive(Some(&conninfo)).env("HOME", scene.scratch.path())).is_well();

    fs::set_permissions(&home, Permissions::from_mode(0o644)).must();
    let began = Instant::now();
    let ignored = discreet(scene.receive(Some(&conninfo)).env("HOME", scene.scratch.path()));
    assert_eq!(ignored.code, Some(1), "{ignored:#?}");
    let shown = home.display().to_string();
    assert!(ignored.stderr.contains(&shown), "{ignored:#?}");
    assert!(ignored.stderr.contains("there is none"), "{ignored:#?}");
    assert!(ignored.stderr.contains("0600"), "the warning doesn't say what to do: {ignored:#?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn what_cannot_be_read_is_refused_without_a_secret() {
    let (check, port) =
        (|conninfo: &str| discreet(&mut seawall(&["slot", "read", "s", "-d", conninfo])), 1);
    for conninfo in [
        "host=db password='c4n4ry".to_owned(),
        "host=db password=c4n4ry c4n4ry".to_owned(),
        "host=db pasword=c4n4ry".to_owned(),
        "postgresql://u:c4n4ry@db:port/".to_owned(),
        "postgresql://u:c4n4ry@[::1/".to_owned(),
        "postgresql://u:c4n4ry%zz@db/".to_owned(),
        "postgresql://u@db/?sslmode=maybe&password=c4n4ry".to_owned(),
        "postgresql://u:c4n4ry@db/?sslmode=require".to_owned(),
        format!("host=127.0.0.1 port={port} user=u password=c4n4ry"),
    ] {
        let ended = check(&conninfo);
        assert!(matches!(ended.code, Some(1 | 2)), "{conninfo}: {ended:#?}");
        assert!(ended.stderr.starts_with("seawall: "), "{conninfo}: {ended:#?}");
    }
}

fn slots_with_a_password(major: u32) {
    let scene = Scene::new(major);
    let conninfo = format!("host={} port={} user=r_scram", scene.socket(), scene.port());
    let slot = |args: &[&str]| {
        let mut command = seawall(&["slot"]);
        command.args(args).args(["-d", &conninfo]).env("PGPASSWORD", password("r_scram"));
        discreet_text(&mut command)
    };
    slot(&["create", "s"]).is_well();
    let read = slot(&["read", "s"]);
    read.is_well();
    assert!(read.stdout.starts_with("s: keeps WAL from "), "{read:#?}");
    slot(&["drop", "s"]).is_well();
}

/// As [`discreet`], for a command that prints no events.
fn discreet_text(command: &mut Command) -> Ended {
    let ended = ended(command);
    assert!(!format!("{ended:?}").contains(CANARY), "a secret was printed: {ended:#?}");
    ended
}

#[test]
fn slots_with_a_password_14() {
    slots_with_a_password(14);
}

#[test]
fn slots_with_a_password_18() {
    slots_with_a_password(18);
}
