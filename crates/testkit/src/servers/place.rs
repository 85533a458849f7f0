//! Where servers and scratch clusters lie, and which user they belong to.
//!
//! Wheels: `~/.cache/seawall/wheels`. Unpacked servers: beside them, or, for root, whose home
//! other users can't enter, in `/var/tmp/seawall-servers-0`. That directory is refused if somebody
//! else owns it or may write to it.

use std::env;
use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// `nobody` and `nogroup` where /etc/passwd doesn't name the user; the kernel's overflow ids.
const NOBODY: (u32, u32) = (65534, 65534);

/// The directories of the cache.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Downloaded wheels, one file a version.
    pub(crate) wheels: PathBuf,
    /// Unpacked servers, templates of clusters, lock files.
    pub(crate) servers: PathBuf,
}

impl Place {
    /// Finds the cache's directories and makes what is missing.
    pub(crate) fn prepare() -> Result<Self, Error> {
        let cache = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
            (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
            (_, Some(home)) if !home.is_empty() => PathBuf::from(home).join(".cache"),
            _ => return Err(Error::Other("neither XDG_CACHE_HOME nor HOME is set".into())),
        };
        let cache = cache.join("seawall");
        let wheels = cache.join("wheels");
        fs::create_dir_all(&wheels).map_err(Error::io("create", &wheels))?;
        let servers = if is_root() {
            PathBuf::from(format!("/var/tmp/seawall-servers-{}", uid()))
        } else {
            cache.join("servers")
        };
        make_own_dir(&servers)?;
        Ok(Self { wheels, servers })
    }

    /// Locks `name` among all processes that use this cache, until the file is dropped.
    pub(crate) fn lock(&self, name: &str) -> Result<File, Error> {
        let path = self.servers.join(format!(".lock-{name}"));
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(file)
    }
}

/// Makes a directory that others may enter and only we may write to, or verifies one.
pub(crate) fn make_own_dir(path: &Path) -> Result<(), Error> {
    if let Err(error) = DirBuilder::new().mode(0o755).create(path)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(Error::io("create", path)(error));
    }
    let metadata = fs::symlink_metadata(path).map_err(Error::io("look at", path))?;
    if !metadata.is_dir() || metadata.uid() != uid() || metadata.mode() & 0o022 != 0 {
        return Err(Error::Other(format!(
            "{} must be a directory that user {} owns and nobody else may write to: remove it",
            path.display(),
            uid()
        )));
    }
    // A strict umask would shut the server's user out.
    fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(Error::io("chmod", path))
}

/// Gives a path to the user whom servers run as.
pub(crate) fn give_to_server_user(path: &Path) -> Result<(), Error> {
    if !is_root() {
        return Ok(());
    }
    let (uid, gid) = nobody();
    chown(path, Some(uid), Some(gid)).map_err(Error::io("chown", path))
}

/// Makes `command` run as the server's user.
pub(crate) fn as_server_user(command: &mut Command) {
    if is_root() {
        let (uid, gid) = nobody();
        command.uid(uid).gid(gid);
    }
}

/// This process's user.
pub(crate) fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

pub(crate) fn is_root() -> bool {
    uid() == 0
}

fn nobody() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    entry
        .filter(|fields| fields[0] == "nobody")
        .find_map(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
        .unwrap_or(NOBODY)
}
