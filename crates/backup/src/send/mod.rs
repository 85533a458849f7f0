//! A stored backup as it goes out to a client, which may want it in another form than it is stored:
//! with its own label, with the tablespaces' links or a map of them, with the WAL that it needs,
//! with other sums in its manifest, compressed.
//!
//! [`Outgoing::next`] gives part after part, as the real server would send them; whoever drives it
//! makes messages of them. Invariants: what is read is held against the stored manifest on the way,
//! file by file, and WAL is proved, so that a client whose backup came to its end has what was
//! stored; memory is a few buffers and, only where other sums are asked for than are stored, one sum
//! for each file. Never here: a file that is written, a tar entry that isn't a server's.

mod archive;
mod compress;
mod listed;
mod manifest;
#[cfg(test)]
mod tests;
mod wal;

use std::path::Path;

use ::archive::Catalogue;
use archive::Walk;
use disk::{DiskError, OldFile, TreeLock};
use pg_types::Branch;

use crate::manifest::NAME;
use crate::{Algorithm, BackupError, Backups, Description, EntryPath, ManifestFile, StoredTar};
use compress::Compressor;
use listed::Lines;
use manifest::Rewritten;

/// How many bytes make a piece. One may have as many again, as WAL is read in pieces of that size.
const PIECE_BYTES: usize = 64 << 10;
/// The first major version in whose protocol pieces are cut anywhere, and tar files have their end.
const WHOLE_TARS_SINCE_MAJOR: u32 = 15;

/// How it is to go out.
#[derive(Clone, Debug)]
pub struct Form {
    /// What `backup_label` is to say.
    pub label: String,
    /// Whether the tablespaces' links come as a file, or as links.
    pub tablespace_map: bool,
    /// Whether the WAL that the backup needs comes with it.
    pub wal: bool,
    /// What the manifest is to be like, if there is to be one.
    pub manifest: Option<ManifestForm>,
    /// How archives are compressed.
    pub compression: Option<Compression>,
}

/// How a manifest is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestForm {
    /// The sums of its files.
    pub algorithm: Algorithm,
    /// Whether all paths are in hex.
    pub force_encode: bool,
}

/// How archives are compressed as they go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// By what.
    pub method: compression::Method,
    /// How hard it tries, by its own scale.
    pub level: i32,
}

/// What comes next. What begins has ended when the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The archive with this place: the tablespaces in their order, then the data directory.
    Archive(usize),
    /// The bytes that were put into the buffer.
    Data,
    /// The manifest.
    Manifest,
    /// Nothing any more.
    End,
}

/// A stored backup on its way out.
pub struct Outgoing {
    sent: Sent,
    tars: Vec<Option<StoredTar>>,
    listing: Option<OldFile>,
    stage: Stage,
    compressor: Option<Compressor>,
    /// Bytes that are to be compressed.
    plain: Vec<u8>,
    /// As long as it is sent it isn't expired, nor the WAL that it needs.
    _reading: TreeLock,
}

enum Stage {
    /// The archive with this place is next.
    Before(usize),
    Archive(usize, Box<Walk>),
    Manifest(Box<Rewritten>),
    Over,
}

/// What is known of the whole.
struct Sent {
    description: Description,
    form: Form,
    catalogue: Catalogue,
    /// Whether a piece has bytes of one file at the most, and a tar file no end: up to 14.
    bare: bool,
    lines: Lines,
    notes: Notes,
    /// Bytes of archives, before compression.
    done: u64,
}

/// What the manifest will say that the stored one doesn't.
#[derive(Default)]
struct Notes {
    /// The sums of the stored files whose sums are asked for anew, one after another.
    sums: Vec<u8>,
    /// Instead of `backup_label` and `tablespace_map`.
    in_front: Vec<Added>,
    /// Behind everything else.
    behind: Vec<Added>,
}

/// A file that isn't sent as it is stored.
struct Added {
    path: EntryPath,
    file: ManifestFile,
    modified: String,
}

/// The newest of an archive's backups that a server on this branch can begin with: without damage,
/// with a manifest of the server's, and with the WAL that it needs.
///
/// # Errors
/// If there is none, or the disk fails.
pub fn newest(
    catalogue: &Catalogue,
    backups: &Backups,
    branch: &Branch,
) -> Result<Description, BackupError> {
    let survey = catalogue.survey()?;
    let mut why = String::new();
    for backup in backups.list()?.0.into_iter().rev() {
        let last = backup.stop.lsn.as_u64().saturating_sub(1);
        let from = catalogue.archived_from(branch, &survey, backup.start.lsn);
        let to = catalogue.archived_from(branch, &survey, pg_types::Lsn::new(last));
        let fault = if !backup.is_on(branch) {
            "is of another timeline"
        } else if !backup.damage.is_empty() {
            "is damaged"
        } else if backup.incremental.is_some() {
            "is incremental, which nobody could start from"
        } else if !backup.manifest_of_server {
            "has no manifest of the server's"
        } else if from.is_none() || from != to {
            "needs WAL that is missing"
        } else {
            return Ok(backup);
        };
        why += &format!("; {} {fault}", backup.id);
    }
    Err(BackupError::NoneOnBranch { timeline: branch.timeline(), why })
}

impl Outgoing {
    /// A stored backup in this form. Its files are opened here, so that it may be removed meanwhile.
    ///
    /// # Errors
    /// If a file is missing or the disk fails.
    pub fn new(
        catalogue: Catalogue,
        backups: &Backups,
        description: Description,
        form: Form,
    ) -> Result<Self, BackupError> {
        let directory = backups.directory(&description.id)?;
        let reading = directory.lock_shared()?;
        let mut tars = Vec::new();
        for (oid, _, _) in archives(&description) {
            tars.push(Some(description.open_tar(&directory, oid)?));
        }
        let lines = Lines::new(directory.open_file(Path::new(NAME))?)?;
        let listing = Some(directory.open_file(Path::new(NAME))?);
        let bare = description.server_major() < WHOLE_TARS_SINCE_MAJOR;
        let notes = Notes::default();
        let sent = Sent { description, form, catalogue, bare, lines, notes, done: 0 };
        let (stage, compressor) = (Stage::Before(0), None);
        let plain = Vec::new();
        Ok(Self { sent, tars, listing, stage, compressor, plain, _reading: reading })
    }

    /// Which it is.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.sent.description
    }

    /// Its archives in their order: a tablespace's oid and place, `None` for the data directory; the
    /// bytes as stored.
    #[must_use]
    pub fn archives(&self) -> Vec<(Option<u32>, Option<&str>, u64)> {
        archives(&self.sent.description).collect()
    }

    /// How many bytes of archives were given, before compression.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.sent.done
    }

    /// What comes next. The buffer is cleared, and has the bytes if it is [`Part::Data`].
    ///
    /// # Errors
    /// If the stored backup or the WAL doesn't hold, or the disk fails: what was given is no backup.
    pub fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Part, BackupError> {
        buffer.clear();
        loop {
            match &mut self.stage {
                Stage::Before(place) => {
                    let place = *place;
                    return self.begin(place);
                }
                Stage::Archive(place, walk) => {
                    let place = *place;
                    let Some(compressor) = &mut self.compressor else {
                        if walk.fill(&mut self.sent, buffer)? {
                            return Ok(Part::Data);
                        }
                        self.stage = Stage::Before(place + 1);
                        continue;
                    };
                    self.plain.clear();
                    let failed = |error: std::io::Error| {
                        DiskError::from_io("compression", Path::new(""), &error)
                    };
                    if walk.fill(&mut self.sent, &mut self.plain)? {
                        compressor.take(&self.plain, buffer).map_err(failed)?;
                    } else if let Some(compressor) = self.compressor.take() {
                        compressor.finish(buffer).map_err(failed)?;
                        self.stage = Stage::Before(place + 1);
                    }
                    if !buffer.is_empty() {
                        return Ok(Part::Data);
                    }
                }
                Stage::Manifest(manifest) => {
                    if manifest.fill(&self.sent, buffer)? {
                        return Ok(Part::Data);
                    }
                    self.stage = Stage::Over;
                }
                Stage::Over => return Ok(Part::End),
            }
        }
    }

    /// Begins the archive with this place, or what comes behind the last.
    fn begin(&mut self, place: usize) -> Result<Part, BackupError> {
        if let Some(tar) = self.tars.get_mut(place).and_then(Option::take) {
            let oid = self.sent.description.tablespaces.get(place).map(|space| space.oid);
            self.stage = Stage::Archive(place, Box::new(Walk::new(tar, oid)));
            let compressor = self.sent.form.compression.map(Compressor::new).transpose();
            self.compressor = compressor
                .map_err(|error| DiskError::from_io("compression", Path::new(""), &error))?;
            return Ok(Part::Archive(place));
        }
        if let Some(listed) = self.sent.lines.next_file()? {
            return Err(not_as_listed(&listed.path, "it is missing"));
        }
        match (self.listing.take(), self.sent.form.manifest) {
            (Some(listing), Some(form)) => {
                let manifest = Rewritten::new(Lines::new(listing)?, form);
                self.stage = Stage::Manifest(Box::new(manifest));
                Ok(Part::Manifest)
            }
            _ => {
                self.stage = Stage::Over;
                Ok(Part::End)
            }
        }
    }
}

/// A backup's archives in the order in which servers send them.
fn archives(backup: &Description) -> impl Iterator<Item = (Option<u32>, Option<&str>, u64)> {
    let tablespaces = backup.tablespaces.iter();
    let tablespaces =
        tablespaces.map(|space| (Some(space.oid), Some(space.location.as_str()), space.bytes));
    tablespaces.chain([(None, None, backup.base_bytes)])
}

impl Sent {
    /// What is to be computed of a stored file for the manifest, if its sum isn't the stored one.
    fn resummed(&self, stored: Algorithm) -> Option<Algorithm> {
        let wanted = self.form.manifest.map(|form| form.algorithm)?;
        (wanted != stored && wanted != Algorithm::None).then_some(wanted)
    }
}

fn not_as_listed(path: &EntryPath, what: &str) -> BackupError {
    BackupError::NotAsListed { path: path.clone(), what: what.to_owned() }
}
