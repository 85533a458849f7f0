//! `seawall backup`, `restore` and `list`, with real servers: what was taken is given back, to the
//! commit that was asked for, or refused before anything is written.

mod incremental;
mod kills;
pub(crate) mod old;
mod operations;
mod parents;
mod refusals;
mod roundtrip;
mod standbys;
mod targets;
mod zero_loss;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::servers::{Install, Server, as_server_user};

use super::common::{LIMIT, Must};
use super::program::{Ended, ended};
use super::restore_wal::Kept;

/// The program as the servers' user, whose the archive and the data directories are.
pub(super) fn seawall(kept: &Kept, command: &str) -> Command {
    let mut seawall = Command::new(&kept.program);
    as_server_user(&mut seawall);
    seawall.env_clear().env("HOME", "/nonexistent").env("TZ", "UTC").current_dir("/");
    seawall.arg(command).arg("-A").arg(&kept.archive);
    seawall
}

pub(super) fn backup_command(kept: &Kept, server: &Server, more: &[&str]) -> Command {
    let mut command = seawall(kept, "backup");
    command.args(["-d", &server.conninfo(), "-w", "-c", "fast"]).args(more);
    command
}

/// Takes a backup; gives its name.
pub(super) fn backup(kept: &Kept, server: &Server, more: &[&str]) -> String {
    let taken = ended(&mut backup_command(kept, server, more));
    taken.is_well();
    taken.stdout.trim().to_owned()
}

pub(super) fn list(kept: &Kept) -> Value {
    let listed = ended(seawall(kept, "list").arg("--json"));
    listed.is_well();
    serde_json::from_str(&listed.stdout).must()
}

pub(super) fn restore(kept: &Kept, data: &Path, more: &[&str]) -> Ended {
    ended(seawall(kept, "restore").arg("-D").arg(data).args(more))
}

/// What PostgreSQL's own verifier says of a data directory that no server was started in.
pub(super) fn verified(install: &Install, data: &Path) {
    let mut verify = install.command("pg_verifybackup");
    testkit::process::run(verify.args(["-n", "-e"]).arg(data), LIMIT, "pg_verifybackup").must();
}

/// A server of what was restored, as pg_verifybackup accepts it; not started.
pub(super) fn restored(kept: &Kept, install: &Install, more: &[&str], conf: &[&str]) -> Server {
    Server::of_data_dir(install, conf, |data| {
        restore(kept, data, more).is_well();
        verified(install, data);
        Ok(())
    })
    .must()
}

/// Starts a restored server and waits until it has recovered and can be written to.
pub(super) fn recover(server: &mut Server) {
    server.restart().must();
    server.wait_until("the end of recovery", LIMIT, "NOT pg_is_in_recovery()").must();
}

/// Nothing is wrong with any table or index.
pub(super) fn check_tables(server: &Server) {
    let mut amcheck = server.install().client_command("pg_amcheck");
    amcheck.args(["--install-missing", "--heapallindexed", "-d", "postgres"]);
    amcheck.arg("-h").arg(server.socket_dir()).args(["-p", &server.port().to_string()]);
    testkit::process::run(amcheck.args(["-U", "postgres"]), LIMIT, "pg_amcheck").must();
}
