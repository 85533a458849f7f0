//! `seawall backup --incremental`: after which backup, and that one's manifest for the server.

use std::path::Path;

use backup::{BackupError, Backups, Description, Incremental, sound};
use disk::TreeLock;
use pg_types::Branch;
use pg_wire::base_backup::{UPLOAD_MANIFEST, has_incremental};
use runtime::{AskError, Facts, Link, Shutdown};

use crate::Failure;

/// What is possible where an incremental backup isn't.
pub(super) const FULL: &str = "take a full one, without --incremental";

/// What the server is when the next backup is taken.
struct Now {
    /// Its line of history.
    branch: Branch,
    data_checksums: bool,
}

impl Now {
    /// Why no incremental backup of the server can follow this one.
    fn unfit(&self, all: &[Description], backup: &Description) -> Option<String> {
        if let Err(error) = sound(all, backup) {
            return Some(error.to_string());
        }
        let (id, timeline) = (&backup.id, self.branch.timeline());
        if !backup.is_on(&self.branch) {
            return Some(format!(
                "the backup {id} isn't on the server's line of history, that of timeline {timeline}"
            ));
        }
        (self.data_checksums && !backup.data_checksums).then(|| {
            format!("the cluster has got checksums since the backup {id}: its pages have none")
        })
    }
}

/// The backup that an incremental one is taken after: the wanted one, or the newest that is sound,
/// whole and of the server's own history. What the server hasn't summaries for any more, it says
/// itself.
pub(super) async fn parent(
    link: &mut Link,
    (facts, data_checksums): (&Facts, bool),
    archive: &Path,
    wanted: Option<&str>,
) -> Result<(Description, TreeLock), Failure> {
    if !has_incremental(facts.version) {
        return Err(Failure::usage(format!(
            "incremental backups are taken from PostgreSQL 17 on, and the server is {}",
            facts.version
        )));
    }
    let now = Now { branch: runtime::line_of_history(link, facts).await?, data_checksums };
    let backups = Backups::open(archive)?;
    let parent = choose(&now, &backups.list()?.0, wanted)?;
    // As long as this one is under way the other isn't expired; it may have been before.
    let lock = backups.directory(&parent.id)?.lock_shared().map_err(BackupError::from)?;
    sound(&backups.list()?.0, &parent)?;
    Ok((parent, lock))
}

fn choose(now: &Now, all: &[Description], wanted: Option<&str>) -> Result<Description, Failure> {
    match wanted {
        Some(id) => {
            let parent = all.iter().find(|backup| backup.id == id);
            let parent = parent.ok_or_else(|| BackupError::NoBackup { id: id.to_owned() })?;
            match now.unfit(all, parent) {
                None => Ok(parent.clone()),
                Some(why) => Err(Failure::failed(format!("{why}; {FULL}, or name another"))),
            }
        }
        None => {
            let fit = all.iter().rev().find(|backup| now.unfit(all, backup).is_none());
            fit.cloned().ok_or_else(|| {
                let newest = all.last().and_then(|newest| now.unfit(all, newest));
                let why = newest.map_or_else(String::new, |why| format!(" ({why})"));
                Failure::failed(format!(
                    "there is no backup that an incremental one could follow{why}: {FULL}"
                ))
            })
        }
    }
}

/// What `backup.json` says of it.
pub(super) fn link(parent: &Description, block_size: &str) -> Result<Incremental, Failure> {
    let size = block_size.parse();
    let size =
        size.map_err(|_| Failure::failed(format!("the server's block_size is {block_size}")))?;
    Ok(Incremental { parent: parent.id.clone(), from: parent.start, block_size: size })
}

/// Gives the server the manifest of the backup that the next one is to follow.
pub(super) async fn upload(
    link: &mut Link,
    archive: &Path,
    parent: &Description,
    shutdown: &mut Shutdown,
) -> Result<(), Failure> {
    let manifest = Backups::open(archive)?.manifest(&parent.id)?;
    let uploaded = tokio::select! {
        uploaded = link.upload(UPLOAD_MANIFEST, manifest) => uploaded,
        _ = shutdown.changed() => return Err(super::stopped()),
    };
    uploaded.map(drop).map_err(|error: AskError| {
        Failure::from(error).of(&format!("an incremental backup after {}", parent.id))
    })
}
