//! The system libraries that the fetched servers need: found missing by `ldd`, named with their
//! Debian packages, installed when this process is root. And a test's system programs likewise.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::place::{Place, is_root};
use crate::Error;
use crate::process::{run, run_unchecked};

/// What tests run. A library that only an unused extension wants (uuid-ossp) isn't asked for.
const CHECKED: [&str; 8] = [
    "bin/postgres",
    "bin/initdb",
    "bin/psql",
    "bin/pgbench",
    "bin/pg_waldump",
    "bin/pg_receivewal",
    "lib/dblink.so",
    "lib/libpqwalreceiver.so",
];

/// Which Debian package brings a library (bookworm's names; later releases provide them too).
const PACKAGES: [(&str, &str); 9] = [
    ("libxml2.so", "libxml2"),
    ("libxslt.so", "libxslt1.1"),
    ("libossp-uuid.so", "libossp-uuid16"),
    ("libgssapi_krb5.so", "libgssapi-krb5-2"),
    ("liblz4.so", "liblz4-1"),
    ("libzstd.so", "libzstd1"),
    ("libssl.so", "libssl3"),
    ("libcrypto.so", "libssl3"),
    ("libz.so", "zlib1g"),
];

/// `ldd` over some files.
const LDD_LIMIT: Duration = Duration::from_secs(60);

/// A package list's update and a few small packages over a slow line; dpkg's lock is awaited, too.
const APT_LIMIT: Duration = Duration::from_secs(600);

/// Versions found complete by this process; one look at each is enough.
static COMPLETE: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// Makes sure that the server's programs find their libraries.
pub(super) fn ensure(place: &Place, version: &'static str, prefix: &Path) -> Result<(), Error> {
    let mut complete = COMPLETE.lock().unwrap_or_else(PoisonError::into_inner);
    if complete.contains(version) {
        return Ok(());
    }
    if !missing(prefix)?.is_empty() {
        // Another process of this run may be installing them right now.
        let _lock = place.lock("apt")?;
        let still = missing(prefix)?;
        if is_root() && !still.is_empty() {
            apt_install(&packages(&still))?;
        }
        let still = missing(prefix)?;
        if !still.is_empty() {
            return Err(Error::Libraries {
                version,
                packages: packages(&still).join(" "),
                missing: still.into_iter().collect::<Vec<_>>().join(", "),
            });
        }
    }
    complete.insert(version);
    Ok(())
}

/// Where a system program is that a test runs beside the servers, such as strace; installed with
/// its Debian package when it is missing and this process is root.
pub fn system_program(name: &str, package: &str) -> Result<PathBuf, Error> {
    let find = || {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    let _lock = Place::prepare()?.lock("apt")?;
    if is_root() && find().is_none() {
        apt_install(&[package])?;
    }
    find().ok_or_else(|| {
        Error::Other(format!("no {name} on this system: apt-get install -y {package}"))
    })
}

fn missing(prefix: &Path) -> Result<BTreeSet<String>, Error> {
    let mut ldd = Command::new("ldd");
    ldd.env("LC_ALL", "C").env("LD_LIBRARY_PATH", prefix.join("lib"));
    ldd.args(CHECKED.iter().map(|file| prefix.join(file)));
    let output = run_unchecked(&mut ldd, "", LDD_LIMIT, "ldd over PostgreSQL's programs")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Error::Other(format!("{} is damaged, remove it: {errors}", prefix.display())));
    }
    Ok(parse_missing(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_missing(ldd_output: &str) -> BTreeSet<String> {
    let lines = ldd_output.lines().filter_map(|line| line.trim().strip_suffix("=> not found"));
    lines.map(|name| name.trim().to_owned()).collect()
}

fn packages(missing: &BTreeSet<String>) -> Vec<&str> {
    let package = |library: &String| {
        let known = PACKAGES.iter().find(|(name, _)| library.starts_with(name));
        known.map(|(_, package)| *package)
    };
    let found: BTreeSet<&str> = missing.iter().filter_map(package).collect();
    found.into_iter().collect()
}

fn apt_install(packages: &[&str]) -> Result<(), Error> {
    if packages.is_empty() {
        return Ok(());
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
        command
    };
    run(apt().arg("update"), APT_LIMIT, "apt-get update")?;
    let what = format!("apt-get install -y {}", packages.join(" "));
    run(apt().args(["install", "-y", "--no-install-recommends"]).args(packages), APT_LIMIT, &what)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named_with_its_package() {
        let output = "prefix/bin/postgres:\n\tlibxml2.so.2 => not found\n\
                      \tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tlibcrypto.so.3 => not found\n\
                      \tlibssl.so.3 => not found\n\tlibodd.so.1 => not found\n";
        let found = parse_missing(output);
        assert_eq!(found.len(), 4);
        assert_eq!(packages(&found), ["libssl3", "libxml2"]);
    }
}
