//! `seawall expire --backup ID` and `--release NAME`: one thing goes that somebody named, by the same
//! steps as everything that expires; WAL stays, and goes by the next expiry that nothing keeps it from.
//!
//! Never: a backup that another one builds on, or that somebody reads; one that recovery is possible
//! from, if it isn't from any other.

use std::sync::Arc;

use archive::Catalogue;
use backup::{BackupError, Backups, Held};
use disk::{Files, RealFiles};
use serde_json::json;

use crate::cli::ExpireArgs;
use crate::expire::{HOLDER, lock};
use crate::failure::steady;
use crate::verify::{self, Scope};
use crate::{Exit, Failure};

/// Removes one backup; gives what is said of it.
pub(crate) fn backup(args: &ExpireArgs, id: &str) -> Result<String, Failure> {
    let files: Arc<dyn Files> = Arc::new(RealFiles::new(args.archive.clone()));
    Catalogue::open(Arc::clone(&files))?;
    let backups = Backups::open(&args.archive)?;
    let _one = if args.yes { Some(lock(&*files)?) } else { None };
    let held = admit(&files, args, &backups, id)?;
    if args.yes {
        without_it(args, id)?;
        let tree = backups.directory(id)?;
        let Some(_reading) = tree.try_lock().map_err(BackupError::from)? else {
            return Err(in_use(id, "somebody reads it just now"));
        };
        backups.unlist(id)?;
        drop(held);
        backups.remove_files(id)?;
    }
    Ok(told(args, "backup", id))
}

/// Lets a hold go.
pub(crate) fn hold(args: &ExpireArgs, name: &str) -> Result<String, Failure> {
    let backups = Backups::open(&args.archive)?;
    if args.yes {
        backups.release(name)?;
    } else if !backups.restore_holds()?.iter().any(|hold| hold.name == name) {
        return Err(BackupError::NoHold { name: name.to_owned() }.into());
    }
    Ok(told(args, "hold", name))
}

fn in_use(id: &str, who: &str) -> Failure {
    Failure::new(Exit::InUse, format!("the backup {id} stays: {who}"))
}

/// Nobody needs it; the lock keeps anybody from taking a backup that builds on it.
fn admit(
    files: &Arc<dyn Files>,
    args: &ExpireArgs,
    backups: &Backups,
    id: &str,
) -> Result<Held, Failure> {
    let holder = format!("{HOLDER}, process {}", std::process::id());
    let held = match Backups::open(&args.archive)?.hold(&**files, &holder) {
        Err(BackupError::Locked { .. }) => {
            return Err(in_use(id, "a backup is being taken, which may build on it"));
        }
        held => held?,
    };
    let (all, broken) = backups.list()?;
    if !all.iter().any(|of| of.id == id) && !broken.iter().any(|of| of.id == id) {
        return Err(BackupError::NoBackup { id: id.to_owned() }.into());
    }
    let builds = all.iter().filter(|of| of.parent() == Some(id)).map(|of| of.id.as_str());
    let builds: Vec<&str> = builds.collect();
    if !builds.is_empty() {
        let message = format!(
            "the backup {id} stays: {} {} on it; remove that first",
            builds.join(", "),
            if builds.len() == 1 { "builds" } else { "build" }
        );
        return Err(Failure::failed(message));
    }
    // What can't be read may build on it.
    match broken.iter().find(|of| of.id != id) {
        Some(other) => Err(Failure::failed(format!(
            "the backup {id} stays: {}, and may build on it; remove that one first",
            other.error
        ))),
        None => Ok(held),
    }
}

/// If recovery is possible from it, it is from another one, too, by what is really there.
fn without_it(args: &ExpireArgs, id: &str) -> Result<(), Failure> {
    let report = steady(|| verify::examine(&args.archive, &Scope::default()))?;
    let recoverable = |wanted: bool| {
        let mut all = report.backups.iter();
        all.any(|of| (of.description.id == id) == wanted && of.is_recoverable())
    };
    if recoverable(true) && !recoverable(false) {
        return Err(Failure::new(
            Exit::Corrupt,
            format!(
                "the backup {id} stays: recovery is possible from it, and from no other one \
                 (`seawall verify` tells why); take another with `seawall backup` first"
            ),
        ));
    }
    Ok(())
}

fn told(args: &ExpireArgs, what: &str, name: &str) -> String {
    if args.json {
        return format!("{}\n", json!({"dry_run": !args.yes, what: name}));
    }
    match args.yes {
        true => format!("removed the {what} {name}\n"),
        false => format!("the {what} {name} would go, and --yes removes it\n"),
    }
}
