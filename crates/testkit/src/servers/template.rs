//! One initdb a version and segment size, kept in the cache and copied for each server.
//!
//! Copies share the template's system identifier; [`super::ServerOptions::new_system_id`] asks for
//! a cluster of its own instead.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Install;
use super::place::{self, Place};
use crate::Error;
use crate::process::run;
use crate::scratch::Scratch;

/// Part of a template's name: another initdb command line, another number.
const TEMPLATE_FORMAT: u32 = 1;

/// initdb takes a second, on a busy machine ten.
const INITDB_LIMIT: Duration = Duration::from_secs(120);

/// Copying 40 MB.
const COPY_LIMIT: Duration = Duration::from_secs(60);

/// Makes the data directory `data` in `scratch`, owned by the server's user.
pub(super) fn make_data_dir(
    install: &Install,
    scratch: &Scratch,
    segment_size_mb: u32,
    new_system_id: bool,
) -> Result<PathBuf, Error> {
    let data = scratch.server_dir("data")?;
    if new_system_id {
        initdb(install, &data, segment_size_mb)?;
    } else {
        let template = ensure_template(install, segment_size_mb)?;
        let mut copy = Command::new("cp");
        place::as_server_user(&mut copy);
        copy.args(["-a", "--reflink=auto"]).arg(template.join(".")).arg(&data);
        run(&mut copy, COPY_LIMIT, &format!("copying the cluster in {}", template.display()))?;
    }
    Ok(data)
}

fn ensure_template(install: &Install, segment_size_mb: u32) -> Result<PathBuf, Error> {
    let place = Place::prepare()?;
    let name = format!("template-{}-{segment_size_mb}mb-{TEMPLATE_FORMAT}", install.version);
    let kept = place.servers.join(&name);
    if kept.is_dir() {
        return Ok(kept);
    }
    let _lock = place.lock(&name)?;
    if !kept.is_dir() {
        let scratch = tempfile::Builder::new()
            .prefix(".initdb-")
            .tempdir_in(&place.servers)
            .map_err(Error::io("create in", &place.servers))?;
        place::make_own_dir(scratch.path())?;
        let data = scratch.path().join("data");
        fs::create_dir(&data).map_err(Error::io("create", &data))?;
        place::give_to_server_user(&data)?;
        initdb(install, &data, segment_size_mb)?;
        fs::rename(&data, &kept).map_err(Error::io("rename to", &kept))?;
    }
    Ok(kept)
}

fn initdb(install: &Install, data: &Path, segment_size_mb: u32) -> Result<(), Error> {
    let mut command = install.command("initdb");
    command.args(["--data-checksums", "--auth=trust", "--username=postgres", "--no-sync"]);
    command.args(["--encoding=UTF8", "--locale=C"]);
    if install.major >= 11 {
        command.arg(format!("--wal-segsize={segment_size_mb}"));
    } else if segment_size_mb != 16 {
        return Err(Error::Other("PostgreSQL 10 has segments of 16 MB, as it was built".into()));
    }
    command.arg("--pgdata").arg(data);
    run(&mut command, INITDB_LIMIT, &format!("initdb of PostgreSQL {}", install.version))?;
    Ok(())
}
