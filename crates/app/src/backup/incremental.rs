//! `seawall backup --incremental`: after which backup, and that one's manifest for the server.

use std::path::Path;

use backup::{BackupError, Backups, Description, Incremental, chain};
use disk::TreeLock;
use pg_wire::base_backup::{UPLOAD_MANIFEST, has_incremental};
use runtime::{AskError, Facts, Link, Shutdown};

use crate::Failure;

/// The backup that an incremental one is taken after: the wanted one, or the newest that is sound and
/// whole. What the server hasn't summaries for any more, it says itself.
pub(super) fn parent(
    archive: &Path,
    wanted: Option<&str>,
    facts: &Facts,
) -> Result<(Description, TreeLock), Failure> {
    if !has_incremental(facts.version) {
        return Err(Failure::usage(format!(
            "incremental backups are taken from PostgreSQL 17 on, and the server is {}",
            facts.version
        )));
    }
    let backups = Backups::open(archive)?;
    let (all, _) = backups.list()?;
    let good = |backup: &&Description| backup.damage.is_empty() && chain(&all, backup).is_ok();
    let parent = match wanted {
        Some(id) => {
            let parent = all.iter().find(|backup| backup.id == id);
            parent.ok_or_else(|| BackupError::NoBackup { id: id.to_owned() })?
        }
        None => all.iter().rev().find(good).ok_or_else(|| {
            Failure::failed(
                "there is no backup yet that an incremental one could follow: take a full one",
            )
        })?,
    };
    // As long as this one is under way the other isn't expired; it may have been before.
    let lock = backups.directory(&parent.id)?.lock_shared().map_err(BackupError::from)?;
    chain(&backups.list()?.0, parent)?;
    Ok((parent.clone(), lock))
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
