//! Whether a stored backup is still what it was: every file in its tar files held against its
//! manifest again, as `pg_verifybackup` does with a directory: missing, extra, appended, truncated,
//! changed, and a manifest that doesn't hold.
//!
//! [`Contents`] is what the headers tell, all that is wrong and not the first of it; the files'
//! bytes are then summed up one by one, by as many threads as there are ([`Contents::check`]).
//! Nothing is changed, and nothing is believed that another file says.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use compression::Method;
use disk::{ErrorKind, Tree};

use crate::checksum::Hasher;
use crate::manifest::{self, ManifestFile};
use crate::store::read_manifest;
use crate::stored_tar::{StoredTar, file_names};
use crate::tar::{self, BLOCK, Entry, EntryKind, Reader, TarError};
use crate::{BackupError, Description, EntryPath, Manifest, description};

/// Something in a backup that isn't what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file in the backup's directory.
    pub file: PathBuf,
    /// The file in that tar file, as the manifest names it.
    pub member: Option<EntryPath>,
    /// What is wrong.
    pub kind: FaultKind,
}

impl Fault {
    /// Whether the backup can't be given back because of it: a file beside the backup's own does no
    /// harm.
    #[must_use]
    pub fn forbids_recovery(&self) -> bool {
        self.kind != FaultKind::Extra || self.member.is_some()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if let Some(member) = &self.member {
            write!(f, "{member}: ")?;
        }
        write!(f, "{}", self.kind)
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// A file isn't there.
    #[error("it is missing")]
    Missing,
    /// A file that nothing lists.
    #[error("it isn't part of the backup")]
    Extra,
    /// Fewer bytes than there should be.
    #[error("it is truncated: it has {got} bytes, and should have {listed}")]
    Truncated {
        /// What it has.
        got: u64,
        /// What it should have.
        listed: u64,
    },
    /// More bytes than there should be.
    #[error("something was appended: it has {got} bytes, and should have {listed}")]
    Appended {
        /// What it has.
        got: u64,
        /// What it should have.
        listed: u64,
    },
    /// Other bytes.
    #[error("it was changed: its checksum is another")]
    Changed,
    /// Bytes that should be zero.
    #[error("the padding behind it isn't zero")]
    Padding,
    /// A link where none should be.
    #[error("it is a link, and no tablespace's")]
    Link,
    /// The tar file can't be read on from here.
    #[error("at byte {at}: {error}; what is behind it can't be reached")]
    Tar {
        /// The place in the tar file.
        at: u64,
        /// Why.
        error: TarError,
    },
    /// What an incremental backup stands on isn't there, or doesn't hold.
    #[error("{0}")]
    Chain(String),
    /// The manifest doesn't hold.
    #[error("{0}")]
    Manifest(String),
    /// The disk doesn't give it.
    #[error("it can't be read: {0}")]
    Unreadable(String),
}

/// A file to be summed up.
#[derive(Clone, Debug)]
pub struct Member {
    tar: usize,
    path: EntryPath,
    at: u64,
    file: ManifestFile,
}

impl Member {
    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.file.size
    }
}

/// What a backup's headers tell.
#[derive(Debug)]
pub struct Contents {
    tars: Vec<(PathBuf, StoredTar)>,
    /// The files whose bytes are to be looked at.
    pub members: Vec<Member>,
    /// What is wrong already.
    pub faults: Vec<Fault>,
}

impl Contents {
    /// Reads the manifest and the headers of a backup.
    #[must_use]
    pub fn of(directory: &Tree, description: &Description) -> Self {
        let mut this = Self { tars: Vec::new(), members: Vec::new(), faults: Vec::new() };
        let manifest = this.manifest(directory, description);
        let oids: Vec<u32> = description.tablespaces.iter().map(|space| space.oid).collect();
        let tablespaces =
            description.tablespaces.iter().map(|space| (Some(space.oid), space.bytes));
        let archives: Vec<_> = tablespaces.chain([(None, description.base_bytes)]).collect();
        let method = description.compression;
        this.names(directory, &archives, method);
        let mut seen = BTreeSet::new();
        let mut unreachable = false;
        for (archive, bytes) in archives {
            let name = stored_name(archive, method);
            match StoredTar::open_any(directory, archive, bytes, method) {
                Ok(file) => {
                    let tar = this.tars.len();
                    this.tars.push((name.clone(), file));
                    let manifest = manifest.as_ref();
                    let mut scan = Scan {
                        manifest,
                        oids: &oids,
                        archive,
                        name: name.clone(),
                        tar,
                        len: 0,
                        seen: &mut seen,
                        to: &mut this,
                    };
                    unreachable |= !scan.walk(bytes);
                }
                Err(error) => {
                    unreachable = true;
                    this.fault(&name, None, FaultKind::of_backup(&error));
                }
            }
        }
        // What can't be reached isn't known to be missing.
        if let Some(manifest) = manifest.filter(|_| !unreachable) {
            for path in manifest.files.keys().filter(|path| !seen.contains(*path)) {
                this.fault(Path::new(manifest::NAME), Some(path), FaultKind::Missing);
            }
        }
        this
    }

    /// Sums a file up; `buf` may have any size.
    ///
    /// # Errors
    /// If it isn't what the manifest says.
    pub fn check(&self, member: &Member, buf: &mut [u8]) -> Result<(), Fault> {
        let Some((name, tar)) = self.tars.get(member.tar) else { return Ok(()) };
        let fault =
            |kind| Err(Fault { file: name.clone(), member: Some(member.path.clone()), kind });
        let mut hasher = Hasher::new(member.file.algorithm);
        let end = member.at.saturating_add(member.file.size);
        let padded = end.next_multiple_of(BLOCK as u64);
        let (mut at, mut clean) = (member.at, true);
        while at < padded {
            let until = if at < end { end } else { padded };
            let len = usize::try_from(until - at).unwrap_or(usize::MAX).min(buf.len());
            let Some(bytes) = buf.get_mut(..len) else { break };
            if let Err(error) = tar.read_exact_at(bytes, at) {
                return fault(FaultKind::of_backup(&error));
            }
            if at < end {
                hasher.update(bytes);
            } else {
                clean &= bytes.iter().all(|byte| *byte == 0);
            }
            at += len as u64;
        }
        if hasher.finish() != member.file.sum {
            return fault(FaultKind::Changed);
        }
        if clean { Ok(()) } else { fault(FaultKind::Padding) }
    }

    /// The manifest, if it holds and is this backup's.
    fn manifest(&mut self, directory: &Tree, description: &Description) -> Option<Manifest> {
        let name = Path::new(manifest::NAME);
        let text = match read_manifest(directory) {
            Ok(text) => text,
            Err(BackupError::Disk(error)) => {
                self.fault(name, None, FaultKind::of(&error));
                return None;
            }
            Err(_) => {
                self.fault(name, None, FaultKind::Missing);
                return None;
            }
        };
        let manifest = match Manifest::parse(&text) {
            Ok(manifest) => manifest,
            Err(error) => {
                self.fault(name, None, FaultKind::Manifest(error.to_string()));
                return None;
            }
        };
        for what in manifest.differences(description) {
            self.fault(name, None, FaultKind::Manifest(what));
        }
        Some(manifest)
    }

    /// Files in the directory that don't belong there.
    fn names(&mut self, directory: &Tree, archives: &[(Option<u32>, u64)], method: Option<Method>) {
        let names = match directory.names(Path::new("")) {
            Ok(names) => names,
            Err(error) => return self.fault(Path::new(""), None, FaultKind::of(&error)),
        };
        let tars = archives.iter().flat_map(|(archive, _)| file_names(*archive, method));
        let mut known: BTreeSet<PathBuf> = tars.map(PathBuf::from).collect();
        known.extend([manifest::NAME, description::NAME].map(PathBuf::from));
        for name in names.iter().filter(|name| !known.contains(*name)) {
            // Temporaries that a killed process left do no harm.
            if !name.to_string_lossy().starts_with('.') {
                self.fault(name, None, FaultKind::Extra);
            }
        }
    }

    fn fault(&mut self, file: &Path, member: Option<&EntryPath>, kind: FaultKind) {
        self.faults.push(Fault { file: file.to_owned(), member: member.cloned(), kind });
    }
}

/// The file that has a tar file's bytes.
fn stored_name(archive: Option<u32>, method: Option<Method>) -> PathBuf {
    file_names(archive, method).into_iter().next().unwrap_or_default().into()
}

impl FaultKind {
    fn of_backup(error: &BackupError) -> Self {
        match error {
            BackupError::Disk(error) => Self::of(error),
            error => Self::Unreadable(error.to_string()),
        }
    }

    fn of(error: &disk::DiskError) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Missing,
            _ => Self::Unreadable(error.message.clone()),
        }
    }
}

/// Goes through the headers of one tar file.
struct Scan<'a> {
    manifest: Option<&'a Manifest>,
    oids: &'a [u32],
    archive: Option<u32>,
    /// The file that it is stored in.
    name: PathBuf,
    tar: usize,
    /// What there is of it; what it is cut off in is said once.
    len: u64,
    seen: &'a mut BTreeSet<EntryPath>,
    to: &'a mut Contents,
}

impl Scan<'_> {
    /// Says whether the end was reached.
    fn walk(&mut self, listed: u64) -> bool {
        let name = self.name.clone();
        let (mut reader, mut header) = (Reader::new(), [0; BLOCK]);
        let Some(got) = self.file().map(StoredTar::len) else { return false };
        match got.cmp(&listed) {
            std::cmp::Ordering::Less => {
                self.to.fault(&name, None, FaultKind::Truncated { got, listed });
            }
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => {
                self.to.fault(&name, None, FaultKind::Appended { got, listed });
            }
        }
        let len = got.min(listed);
        self.len = len;
        while reader.position().saturating_add(BLOCK as u64) <= len {
            let at = reader.position();
            let read = self.file().map(|file| file.read_exact_at(&mut header, at));
            if let Some(Err(error)) = read {
                self.to.fault(&name, None, FaultKind::of_backup(&error));
                return false;
            }
            let fed = reader.feed(&header, self).and_then(|()| reader.skip_data(self));
            if let Err(error) = fed {
                self.to.fault(&name, None, FaultKind::Tar { at, error });
                return false;
            }
        }
        let whole = reader.position() == len && reader.finish() == Ok(true);
        if !whole && got >= listed {
            let kind = FaultKind::Tar { at: len, error: TarError::Truncated };
            self.to.fault(&name, None, kind);
        }
        whole
    }

    fn file(&self) -> Option<&StoredTar> {
        self.to.tars.get(self.tar).map(|(_, file)| file)
    }
}

impl tar::Visitor for Scan<'_> {
    type Error = TarError;

    fn entry(&mut self, entry: &Entry, at: u64) -> Result<(), TarError> {
        let path = match self.archive {
            Some(oid) => entry.path.in_tablespace(oid),
            None => entry.path.clone(),
        };
        let name = self.name.clone();
        let size = match entry.kind {
            EntryKind::Directory => return Ok(()),
            EntryKind::Link => {
                if !path.is_link_of(self.oids) {
                    self.to.fault(&name, Some(&path), FaultKind::Link);
                }
                return Ok(());
            }
            EntryKind::File { size } => size,
        };
        let Some(manifest) = self.manifest else { return Ok(()) };
        let Some(file) = manifest.files.get(&path).cloned() else {
            self.to.fault(&name, Some(&path), FaultKind::Extra);
            return Ok(());
        };
        self.seen.insert(path.clone());
        let listed = file.size;
        if size < listed {
            self.to.fault(&name, Some(&path), FaultKind::Truncated { got: size, listed });
        } else if size > listed {
            self.to.fault(&name, Some(&path), FaultKind::Appended { got: size, listed });
        } else if at.saturating_add(size) <= self.len {
            self.to.members.push(Member { tar: self.tar, path, at, file });
        }
        Ok(())
    }

    fn data(&mut self, _bytes: &[u8]) -> Result<(), TarError> {
        Ok(())
    }

    fn entry_end(&mut self) -> Result<(), TarError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
