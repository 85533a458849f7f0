//! A server with TLS, and psql and seawall side by side before it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use testkit::process::run_unchecked;
use testkit::scratch::Scratch;
use testkit::servers::{Server, ServerOptions};

use super::certificates::certificates;
use crate::common::{LIMIT, Must, pg, scratch};
use crate::program::{Ended, ended, seawall};

/// A part of every password.
pub(crate) const CANARY: &str = "c4n4ry";
/// Everybody's password.
pub(crate) const PASSWORD: &str = "c4n4ry pass";

/// Variables, and their values.
pub(crate) type Env<'a> = &'a [(&'a str, &'a str)];

/// The password in the environment, as most attempts have it.
pub(crate) const WITH_PASSWORD: Env<'static> = &[("PGPASSWORD", PASSWORD)];

/// What came of an attempt to connect for replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Plain,
    Tls,
    Refused,
}

/// The roles, and their lines in pg_hba.conf.
const ROLES: [(&str, &str, &str); 7] = [
    ("t_md5", "host", "md5"),
    ("t_scram", "host", "scram-sha-256"),
    ("t_trust", "host", "trust"),
    ("t_cert", "hostssl", "cert"),
    ("t_ssl", "hostssl", "scram-sha-256"),
    ("t_nossl", "hostnossl", "scram-sha-256"),
    ("t_reject", "host", "reject"),
];

/// A server that has TLS, with all roles, and a slot `s` to ask for.
pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) scratch: Scratch,
}

impl Scene {
    pub(crate) fn new(major: u32) -> Self {
        let mut hba = "local all postgres trust\n".to_owned();
        for (role, kind, method) in ROLES {
            for database in ["all", "replication"] {
                hba += &format!("{kind} {database} {role} 127.0.0.1/32 {method}\n");
            }
        }
        hba += "local all all trust\nlocal replication all trust\n";
        let conf = vec!["log_connections = on".to_owned()];
        let options =
            ServerOptions { hba: Some(hba), conf, segment_size_mb: 1, ..Default::default() };
        let server = Server::start(&pg(major), &options).must();
        for (role, _, _) in ROLES {
            let encryption = if role == "t_md5" { "md5" } else { "scram-sha-256" };
            server
                .sql(&format!(
                    "SET client_min_messages = error; SET password_encryption = '{encryption}';
                     CREATE ROLE {role} LOGIN REPLICATION PASSWORD '{PASSWORD}'"
                ))
                .must();
        }
        server.sql("SELECT pg_create_physical_replication_slot('s', true)").must();
        let scene = Self { server, scratch: scratch() };
        scene.install("ca.crt", "root.crt");
        scene.show("good", &[]);
        let settings = "ALTER SYSTEM SET ssl_ca_file = 'root.crt'; ALTER SYSTEM SET ssl = on";
        for statement in settings.split("; ") {
            scene.server.sql(statement).must();
        }
        scene.server.reload().must();
        scene
    }

    /// Puts a certificate's file into the data directory, for the server alone.
    fn install(&self, from: &str, to: &str) {
        let to = self.server.data_dir().join(to);
        fs::copy(certificates().join(from), &to).must();
        fs::set_permissions(&to, Permissions::from_mode(0o600)).must();
        let owner = fs::metadata(self.server.data_dir()).must();
        chown(&to, Some(owner.uid()), Some(owner.gid())).must();
    }

    /// Lets the server show this certificate from now on, and these behind it.
    pub(crate) fn show(&self, name: &str, behind: &[&str]) {
        self.install(&format!("{name}.crt"), "server.crt");
        self.install(&format!("{name}.key"), "server.key");
        let read = |name: &str| fs::read(certificates().join(format!("{name}.crt"))).must();
        let mut chain = read(name);
        behind.iter().for_each(|name| chain.extend(read(name)));
        fs::write(self.server.data_dir().join("server.crt"), chain).must();
        self.server.reload().must();
    }

    /// `host=127.0.0.1`, the port and a role.
    pub(crate) fn conninfo(&self, role: &str, more: &str) -> String {
        let port = self.server.port();
        format!("host=127.0.0.1 port={port} user={role} {more}")
    }

    /// psql 18 with this string, and this environment.
    pub(crate) fn psql(&self, conninfo: &str, home: &Path, env: Env<'_>) -> Outcome {
        let name = next_name();
        let mut psql = pg(18).client_command("psql");
        psql.env("HOME", home).envs(env.iter().copied()).args(["-X", "-A", "-t", "-w"]);
        let whole = format!(
            "connect_timeout=20 {conninfo} dbname=replication replication=true \
             application_name={name}"
        );
        psql.args(["-c", "IDENTIFY_SYSTEM", "-d", &whole]);
        let output = run_unchecked(&mut psql, "", LIMIT, "psql").must();
        self.outcome(output.status.success(), &name)
    }

    /// seawall with this string, which must have ended well or with an error that says something.
    pub(crate) fn seawall(&self, conninfo: &str, home: &Path, env: Env<'_>) -> (Outcome, Ended) {
        let name = next_name();
        let mut command = seawall(&["slot", "read", "s", "-d"]);
        command.arg(format!("{conninfo} application_name={name}"));
        command.env("HOME", home).envs(env.iter().copied());
        let ended = discreet(&mut command);
        let ended_well = ended.code == Some(0);
        assert!(ended_well || ended.stderr.contains("seawall: "), "{ended:#?}");
        (self.outcome(ended_well, &name), ended)
    }

    /// seawall with a URI: whether it connects.
    pub(crate) fn seawall_uri(&self, uri: &str, home: &Path, env: Env<'_>) -> (bool, Ended) {
        let mut command = seawall(&["slot", "read", "s", "-d", uri]);
        let ended = discreet(command.env("HOME", home).envs(env.iter().copied()));
        (ended.code == Some(0), ended)
    }

    fn outcome(&self, ended_well: bool, name: &str) -> Outcome {
        if !ended_well {
            return Outcome::Refused;
        }
        let (log, name) = (self.server.log_text(), format!("application_name={name}"));
        let mut lines = log.lines().rev().filter(|line| line.contains("connection authorized"));
        let line = lines.find(|line| line.contains(&name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {log}"));
        if line.contains("SSL enabled") { Outcome::Tls } else { Outcome::Plain }
    }

    /// A home directory of this name, made if need be.
    pub(crate) fn home(&self, name: &str) -> PathBuf {
        let home = self.scratch.path().join(name);
        fs::create_dir_all(home.join(".postgresql")).must();
        home
    }
}

/// Each attempt has a name of its own in the server's log.
fn next_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("try{}-", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs it; whatever comes of it, no password was printed.
pub(crate) fn discreet(command: &mut Command) -> Ended {
    let ended = ended(command);
    for text in [&ended.stdout, &ended.stderr] {
        assert!(!text.contains(CANARY), "a secret was printed: {text}");
    }
    ended
}

/// Attempts by psql and by seawall, and where they differ.
#[derive(Default)]
pub(crate) struct Comparison {
    tried: u32,
    refused: u32,
    encrypted: u32,
    differences: Vec<String>,
}

impl Comparison {
    /// Both with the same string; the outcome is the same.
    pub(crate) fn same(&mut self, scene: &Scene, conninfo: &str, home: &Path) {
        self.same_in(scene, conninfo, home, WITH_PASSWORD);
    }

    /// The same in this environment.
    pub(crate) fn same_in(&mut self, scene: &Scene, conninfo: &str, home: &Path, env: Env<'_>) {
        let theirs = scene.psql(conninfo, home, env);
        let (ours, ended) = scene.seawall(conninfo, home, env);
        self.tried += 1;
        self.refused += u32::from(theirs == Outcome::Refused);
        self.encrypted += u32::from(theirs == Outcome::Tls);
        if ours != theirs {
            self.differs(conninfo, theirs, ours, &ended);
        }
    }

    /// Where seawall is stricter by design: psql connects, and seawall says why it doesn't.
    pub(crate) fn stricter(&mut self, scene: &Scene, conninfo: &str, home: &Path, why: &str) {
        let theirs = scene.psql(conninfo, home, WITH_PASSWORD);
        let (ours, ended) = scene.seawall(conninfo, home, WITH_PASSWORD);
        self.tried += 1;
        if theirs == Outcome::Refused || ours != Outcome::Refused || !ended.stderr.contains(why) {
            self.differs(conninfo, theirs, ours, &ended);
        }
    }

    fn differs(&mut self, conninfo: &str, theirs: Outcome, ours: Outcome, ended: &Ended) {
        let said = &ended.stderr;
        self.differences.push(format!("{conninfo}: psql {theirs:?}, seawall {ours:?} {said}"));
    }

    /// All were as they should be, and there were as many as that.
    #[track_caller]
    pub(crate) fn finish(self, at_least: u32) {
        assert!(self.differences.is_empty(), "{}", self.differences.join("\n"));
        let Self { tried, refused, encrypted, .. } = self;
        let is_mixed = refused >= at_least / 4 && encrypted >= at_least / 4;
        assert!(tried >= at_least && is_mixed, "of {tried}, {refused} refused, {encrypted} on TLS");
    }
}
