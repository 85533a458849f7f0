//! A data directory, made from a backup.
//!
//! Where it goes is looked at first ([`Destination::examine`]) and nothing is touched until all of
//! it is acceptable. Then the files are written by several threads, each held against the manifest;
//! links come last; everything is made durable; and only [`Restored::complete`] gives
//! `global/pg_control` its name, without which no server starts. A restore that is killed leaves
//! a directory that no server takes for a cluster.

mod destination;
mod incremental;
mod plan;
#[cfg(test)]
mod tests;
mod unpack;

use std::path::{Path, PathBuf};

use disk::{DiskError, Readers, Tree};

pub use destination::{Destination, Tablespace};

use crate::description::Description;
use crate::intake::PG_CONTROL;
use crate::manifest::{self, Manifest, ManifestFile};
use crate::store::read_manifest;
use crate::{BackupError, EntryPath};
use plan::Plan;
use unpack::Unpacked;

/// What `pg_control` is called until everything else is durable.
const CONTROL_UNDER_WAY: &str = "global/pg_control.restoring";
/// What tells a server to make its tablespaces' links: they are made here.
const TABLESPACE_MAP: &str = "tablespace_map";

/// A data directory that lacks its configuration, and the name that makes it one.
#[derive(Debug)]
pub struct Restored {
    data: Tree,
    others: Vec<Tree>,
    /// What the backup has of `postgresql.auto.conf`.
    auto_conf: Vec<u8>,
    /// How many files were written.
    pub files: u64,
    /// How many bytes.
    pub bytes: u64,
    /// What was renamed aside.
    pub aside: Vec<PathBuf>,
}

/// A backup, and where its files are.
#[derive(Debug)]
pub struct Link {
    /// Its directory.
    pub directory: Tree,
    /// What it is.
    pub description: Description,
}

/// Writes a backup's files to where they belong, by so many threads: the last one of a
/// [chain](crate::chain()). The destination has to have been [examined](Destination::examine).
///
/// # Errors
/// If the backup doesn't hold, or the disk fails. What was written then is no cluster.
pub fn restore(
    chain: &[Link],
    destination: &Destination,
    threads: usize,
) -> Result<Restored, BackupError> {
    let nothing = || BackupError::NotABackup("there is none".to_owned());
    let newest = chain.last().filter(|_| chain.len() < incremental::MAX_CHAIN);
    let newest = newest.ok_or_else(nothing)?;
    let description = &newest.description;
    let mut manifests = manifests(chain)?;
    // Before anything is touched: what the tar files hold is what they should.
    let plan = Plan::of(&manifests)?;
    let aside = destination.set_aside()?;
    let readers = if description.group_access { Readers::Group } else { Readers::Owner };
    let places = Places::make(description, destination, readers)?;
    for (archive, path) in &plan.directories {
        places.directory(*archive, path)?;
    }
    let Unpacked { auto_conf, bytes, made } = unpack::files(chain, &plan, &places, threads)?;
    places.links(description, destination)?;
    let kept = match manifests.pop() {
        Some((_, manifest)) if description.incremental.is_some() => {
            combined(manifest, made).write().into_bytes()
        }
        _ => manifest::without(&read_manifest(&newest.directory)?, TABLESPACE_MAP)?,
    };
    places.data.create(Path::new(manifest::NAME))?.write(&kept)?;
    let files = plan.files();
    let others = places.others.into_iter().map(|(_, tree)| tree).chain(places.wal).collect();
    Ok(Restored { data: places.data, others, auto_conf, files, bytes, aside })
}

/// Whether a backup can be given back as far as headers and manifests tell: the last one of a
/// [chain](crate::chain()).
///
/// # Errors
/// If the chain lacks something, as the blocks that a file hasn't changed.
pub fn can_restore(chain: &[Link]) -> Result<(), BackupError> {
    Plan::of(&manifests(chain)?).map(drop)
}

/// Every backup's own manifest.
fn manifests(chain: &[Link]) -> Result<Vec<(&Link, Manifest)>, BackupError> {
    let manifest = |link: &Link| {
        let manifest = Manifest::parse(&read_manifest(&link.directory)?)?;
        match manifest.differences(&link.description).into_iter().next() {
            None => Ok(manifest),
            Some(what) => Err(manifest::wrong(what).into()),
        }
    };
    let all = chain.iter().map(|link| {
        manifest(link)
            .map(|it| (link, it))
            .map_err(|error: BackupError| error.of(&link.description))
    });
    all.collect()
}

/// The manifest of what was combined: of the newest backup, but for the files that were made.
fn combined(newest: Manifest, made: Vec<(EntryPath, ManifestFile)>) -> Manifest {
    let mut manifest = newest;
    let space = |path: &EntryPath| path.as_path().strip_prefix("pg_tblspc").is_ok();
    manifest.files.retain(|path, _| {
        let archive = space(path).then_some(0);
        !path.is(TABLESPACE_MAP) && path.of_incremental(archive).is_none()
    });
    manifest.files.extend(made);
    manifest
}

impl Restored {
    /// What the backup has of `postgresql.auto.conf`; it isn't written by itself.
    #[must_use]
    pub fn auto_conf(&self) -> &[u8] {
        &self.auto_conf
    }

    /// Adds a file to the data directory.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn add(&self, name: &str, content: &[u8]) -> Result<(), BackupError> {
        Ok(self.data.create(Path::new(name))?.write(content)?)
    }

    /// Makes everything durable, and then the directory a cluster.
    ///
    /// # Errors
    /// If the disk fails; it isn't one then.
    pub fn complete(self) -> Result<(), BackupError> {
        for tree in self.others.iter().chain([&self.data]) {
            tree.sync_all()?;
        }
        self.data.rename(Path::new(CONTROL_UNDER_WAY), Path::new(PG_CONTROL))?;
        self.data.sync_dir(Path::new("global"))?;
        if let Some(parent) = self.data.path().canonicalize().ok().as_deref().and_then(Path::parent)
        {
            // Who may not read that directory hasn't made anything in it.
            if let Ok(parent) = Tree::open(parent, Readers::Owner) {
                parent.sync_dir(Path::new(""))?;
            }
        }
        Ok(())
    }
}

/// The open directories that a backup's files go to.
struct Places {
    data: Tree,
    /// The tablespaces', by oid.
    others: Vec<(u32, Tree)>,
    /// Where `pg_wal` is to be, if elsewhere.
    wal: Option<Tree>,
}

impl Places {
    fn make(
        description: &Description,
        destination: &Destination,
        readers: Readers,
    ) -> Result<Self, BackupError> {
        let data = own(&destination.data, readers)?;
        let wal = destination.waldir.as_deref().map(|dir| own(dir, readers)).transpose()?;
        let mut others = Vec::new();
        if !description.tablespaces.is_empty() {
            data.create_dir(Path::new("pg_tblspc"))?;
        }
        for tablespace in &description.tablespaces {
            let tree = match destination.location(tablespace.oid) {
                Some(location) => own(location, readers)?,
                None => {
                    let inside = Path::new("pg_tblspc").join(tablespace.oid.to_string());
                    data.create_dir(&inside)?;
                    data.below(&inside)?
                }
            };
            others.push((tablespace.oid, tree));
        }
        Ok(Self { data, others, wal })
    }

    /// The directory that a path of an archive is in, and the path there.
    fn tree<'a>(
        &self,
        archive: Option<u32>,
        path: &'a EntryPath,
    ) -> Result<(&Tree, &'a Path), BackupError> {
        let tree = match archive {
            Some(oid) => self.others.iter().find(|(other, _)| *other == oid).map(|(_, tree)| tree),
            None => match (&self.wal, path.as_path().strip_prefix("pg_wal")) {
                (Some(wal), Ok(within)) => return Ok((wal, within)),
                _ => Some(&self.data),
            },
        };
        let tree = tree.ok_or_else(|| {
            BackupError::NotABackup("it has a tablespace that its backup.json hasn't".to_owned())
        })?;
        Ok((tree, path.as_path()))
    }

    fn directory(&self, archive: Option<u32>, path: &EntryPath) -> Result<(), BackupError> {
        match self.tree(archive, path)? {
            // Of `pg_wal` itself, which is elsewhere.
            (_, within) if within.as_os_str().is_empty() => Ok(()),
            (tree, within) => Ok(tree.create_dir(within)?),
        }
    }

    /// The links, from what the user and `backup.json` say.
    fn links(&self, description: &Description, destination: &Destination) -> Result<(), DiskError> {
        if let Some(waldir) = &destination.waldir {
            self.data.link_to(waldir, Path::new("pg_wal"))?;
        }
        for tablespace in &description.tablespaces {
            if let Some(location) = destination.location(tablespace.oid) {
                let link = Path::new("pg_tblspc").join(tablespace.oid.to_string());
                self.data.link_to(location, &link)?;
            }
        }
        Ok(())
    }
}

/// Opens a directory of the restored cluster, made if need be, with the mode that servers want.
fn own(path: &Path, readers: Readers) -> Result<Tree, BackupError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let error = |error: std::io::Error| DiskError::from_io("create directory", path, &error);
    let mode = if readers == Readers::Group { 0o750 } else { 0o700 };
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(error)?;
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).map_err(error)?;
    Ok(Tree::open(path, readers)?)
}
