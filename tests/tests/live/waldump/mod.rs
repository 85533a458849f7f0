//! `pg_waldump` (the drop-in) and `seawall waldump` beside PostgreSQL's own pg_waldump of each
//! version: standard output, standard error and exit code, byte for byte, with no exceptions.

mod beyond;
mod damage;
mod long;
mod options;
mod suite;
mod text;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use testkit::process::{run_unchecked, seawall_bin};
use testkit::servers::Install;

use crate::common::Must;

/// A corpus takes a second or two; the server's program waits five for a file that isn't there.
const LIMIT: Duration = Duration::from_secs(300);

/// The drop-in, built beside seawall.
pub(super) fn drop_in() -> PathBuf {
    let path = seawall_bin().must().with_file_name("pg_waldump");
    assert!(path.is_file(), "{}: build it with cargo build -p pg_waldump", path.display());
    path
}

/// What the server's own program does.
pub(super) fn theirs(install: &Install, dir: &Path, args: &[&str]) -> Output {
    finish(install.client_command("pg_waldump"), dir, args)
}

/// What the drop-in does, called by the name of the server's own: messages begin with it.
pub(super) fn ours(install: &Install, dir: &Path, args: &[&str]) -> Output {
    let mut command = in_utc(Command::new(drop_in()));
    command.arg0(install.bin("pg_waldump"));
    finish(command, dir, args)
}

/// What `seawall waldump` does.
pub(super) fn own(dir: &Path, args: &[&str]) -> Output {
    let mut command = in_utc(Command::new(seawall_bin().must()));
    command.arg("waldump").args(args).current_dir(dir);
    run_unchecked(&mut command, "", LIMIT, "seawall waldump").must()
}

fn in_utc(mut command: Command) -> Command {
    command.env_clear().env("TZ", "UTC").env("LC_ALL", "C");
    command
}

fn finish(mut command: Command, dir: &Path, args: &[&str]) -> Output {
    command.args(args).current_dir(dir);
    run_unchecked(&mut command, "", LIMIT, "pg_waldump").must()
}

/// Holds the drop-in against the server's program; gives what they print.
#[track_caller]
pub(super) fn same(install: &Install, dir: &Path, args: &[&str]) -> String {
    let theirs = theirs(install, dir, args);
    equal(&theirs, &ours(install, dir, args), &format!("{} {args:?}", install.version));
    String::from_utf8_lossy(&theirs.stdout).into_owned()
}

/// Exit code, standard error and standard output, of which the first line that differs is told.
#[track_caller]
pub(super) fn equal(theirs: &Output, ours: &Output, what: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for (name, theirs, ours) in
        [("stdout", &theirs.stdout, &ours.stdout), ("stderr", &theirs.stderr, &ours.stderr)]
    {
        if theirs != ours {
            let (theirs, ours) = (text(theirs), text(ours));
            let mut lines = theirs.split('\n').zip(ours.split('\n')).enumerate();
            let differs = lines.find(|(_, (theirs, ours))| theirs != ours);
            panic!(
                "{what}: {name} differs, {} and {} bytes: {differs:#?}",
                theirs.len(),
                ours.len()
            );
        }
    }
    assert_eq!(theirs.status.code(), ours.status.code(), "{what}: {}", text(&theirs.stderr));
}

/// The names of segments in a directory, in order.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let segments = testkit::servers::segments_in(dir).must();
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    segments.iter().filter_map(name).collect()
}
