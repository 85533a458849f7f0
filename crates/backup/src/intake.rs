//! A backup as it comes in: its tar files are written as they are, and read on the way, so that
//! each file's sum is known when the manifest comes.

use std::collections::BTreeMap;
use std::path::Path;

use compression::Method;
use disk::{DiskError, NewFile, Tree};
use pg_types::{Lsn, TimelineId};

use crate::checksum::Hasher;
use crate::manifest::{self, MAX_MANIFEST_BYTES, WalRange};
use crate::stored_tar::TarWriter;
use crate::tar::{self, Entry, EntryKind, Reader, TarError};
use crate::{Algorithm, BackupError, BackupLabel, EntryPath, Manifest, ManifestFile, Point, label};

/// The two blocks of zeros at a tar file's end, which servers up to 14 leave out.
const TAR_END: [u8; 2 * tar::BLOCK] = [0; 2 * tar::BLOCK];
/// So many written bytes are made durable while the next come, so that the end hasn't all to wait
/// for.
const SYNC_EVERY_BYTES: u64 = 16 << 20;
/// The cluster's identifier is the first thing in `pg_control` (`ControlFileData`,
/// `catalog/pg_control.h`, 10–18), which has 8 KiB.
const MAX_CAPTURED_BYTES: usize = label::MAX_LABEL_BYTES;

pub(crate) const PG_CONTROL: &str = "global/pg_control";

/// The tar file of a tablespace, or of the data directory.
pub(crate) fn tar_name(oid: Option<u32>) -> String {
    oid.map_or_else(|| "base.tar".to_owned(), |oid| format!("{oid}.tar"))
}

/// Takes a backup's bytes.
pub struct Intake {
    directory: Tree,
    /// The archives to come: tablespaces by oid, `None` for the data directory.
    archives: Vec<Option<u32>>,
    /// The bytes of those that are there.
    bytes: Vec<Option<u64>>,
    method: Option<Method>,
    open: Open,
    files: Files,
    manifest: Vec<u8>,
    syncer: Syncer,
}

/// What is coming in.
enum Open {
    Nothing,
    Archive(Box<OpenArchive>),
    Manifest,
}

struct OpenArchive {
    place: usize,
    file: TarWriter,
    tar: Reader,
    unsynced: u64,
}

/// What was taken in, and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The `backup_label`.
    pub label: BackupLabel,
    /// How many files there are.
    pub files: u64,
    /// The bytes of each tar file, in the order of the archives.
    pub bytes: Vec<u64>,
    /// Whether the manifest is the server's.
    pub manifest_of_server: bool,
    /// The WAL that it needs, by timeline.
    pub wal: Vec<(TimelineId, Lsn, Lsn)>,
}

impl Intake {
    /// Into this directory, with these archives to come and sums of this kind; compressed, if that
    /// is wanted.
    ///
    /// # Errors
    /// If threads can't be started.
    pub fn new(
        directory: Tree,
        archives: Vec<Option<u32>>,
        algorithm: Algorithm,
        method: Option<Method>,
    ) -> Result<Self, BackupError> {
        let bytes = vec![None; archives.len()];
        let oids = archives.iter().copied().flatten().collect();
        Ok(Self {
            directory,
            archives,
            bytes,
            method,
            open: Open::Nothing,
            files: Files::new(algorithm, oids),
            manifest: Vec::new(),
            syncer: Syncer::start()?,
        })
    }

    /// The bytes of the archive with this place follow.
    ///
    /// # Errors
    /// If it came already, or the one before doesn't hold.
    pub fn begin_archive(&mut self, place: usize) -> Result<(), BackupError> {
        self.end()?;
        let (Some(oid), Some(None)) = (self.archives.get(place), self.bytes.get(place)) else {
            return Err(BackupError::NotABackup("an archive came twice".to_owned()));
        };
        let file = TarWriter::create(&self.directory, *oid, self.method)?;
        self.files.tablespace = *oid;
        let open = OpenArchive { place, file, tar: Reader::new(), unsynced: 0 };
        self.open = Open::Archive(Box::new(open));
        Ok(())
    }

    /// The bytes of the manifest follow.
    ///
    /// # Errors
    /// If it came already, or the archive before doesn't hold.
    pub fn begin_manifest(&mut self) -> Result<(), BackupError> {
        self.end()?;
        if !self.manifest.is_empty() {
            return Err(BackupError::NotABackup("the manifest came twice".to_owned()));
        }
        self.open = Open::Manifest;
        Ok(())
    }

    /// Bytes of what has begun.
    ///
    /// # Errors
    /// If they don't hold, or the disk fails.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        match &mut self.open {
            Open::Nothing => return Err(BackupError::NotABackup("bytes of nothing".to_owned())),
            Open::Manifest => {
                if self.manifest.len() + bytes.len() > MAX_MANIFEST_BYTES {
                    return Err(BackupError::NotABackup("its manifest has no end".to_owned()));
                }
                self.manifest.extend_from_slice(bytes);
            }
            Open::Archive(open) => {
                open.tar.feed(bytes, &mut self.files)?;
                open.file.write(bytes)?;
                open.unsynced += bytes.len() as u64;
                if open.unsynced >= SYNC_EVERY_BYTES {
                    open.unsynced = 0;
                    self.syncer.sync(open.file.again()?);
                }
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BackupError> {
        if let Open::Archive(open) = std::mem::replace(&mut self.open, Open::Nothing) {
            let OpenArchive { place, mut file, tar, .. } = *open;
            let mut bytes = tar.position();
            if !tar.finish()? {
                file.write(&TAR_END)?;
                bytes += TAR_END.len() as u64;
            }
            file.finish()?.into_iter().for_each(|file| self.syncer.sync(file));
            if let Some(place) = self.bytes.get_mut(place) {
                *place = Some(bytes);
            }
        }
        Ok(())
    }

    /// Everything has come: it is held against the manifest and made durable, but for the names in
    /// the directory. `start` and `stop` are what the server said.
    ///
    /// # Errors
    /// If something is missing or doesn't hold, or the disk failed.
    pub fn finish(
        mut self,
        start: Point,
        stop: Point,
        system_identifier: u64,
    ) -> Result<Taken, BackupError> {
        self.end()?;
        let missing = || BackupError::NotABackup("not all of its archives came".to_owned());
        let bytes: Option<Vec<u64>> = self.bytes.iter().copied().collect();
        let bytes = bytes.ok_or_else(missing)?;
        let label = self.files.label()?;
        if label.start != start.lsn || label.timeline.is_some_and(|id| id != start.timeline) {
            let what = format!("its backup_label begins at {}", label.start);
            return Err(BackupError::NotABackup(what));
        }
        self.files.check_cluster(system_identifier)?;
        let files = self.files.sums.len() as u64;
        let manifest_of_server = !self.manifest.is_empty();
        let wal = if manifest_of_server {
            let manifest = Manifest::parse(&self.manifest)?;
            if manifest.system_identifier.is_some_and(|id| id != system_identifier) {
                return Err(BackupError::NotABackup(
                    "its manifest is another cluster's".to_owned(),
                ));
            }
            compare(&self.files.sums, &manifest.files)?;
            manifest.wal
        } else {
            // Only 13 and later have the timeline change within a backup.
            let wal = vec![WalRange { timeline: stop.timeline, start: start.lsn, end: stop.lsn }];
            let files = std::mem::take(&mut self.files.sums);
            let manifest = Manifest { system_identifier: None, files, wal };
            self.manifest = manifest.write().into_bytes();
            manifest.wal
        };
        let mut file = self.directory.create(Path::new(manifest::NAME))?;
        file.write(&self.manifest)?;
        self.syncer.sync(file);
        self.syncer.finish()?;
        let wal = wal.iter().map(|range| (range.timeline, range.start, range.end)).collect();
        Ok(Taken { label, files, bytes, manifest_of_server, wal })
    }
}

/// What was received is what is listed, file by file, and nothing else.
fn compare(
    received: &BTreeMap<EntryPath, ManifestFile>,
    listed: &BTreeMap<EntryPath, ManifestFile>,
) -> Result<(), BackupError> {
    let wrong =
        |path: &EntryPath, what: String| BackupError::NotAsListed { path: path.clone(), what };
    for (path, file) in received {
        match listed.get(path) {
            None => return Err(wrong(path, "it isn't listed".to_owned())),
            Some(other) if other.size != file.size => {
                let what = format!("it has {} bytes, and should have {}", file.size, other.size);
                return Err(wrong(path, what));
            }
            Some(other) if other != file => {
                return Err(wrong(path, "its checksum is another".to_owned()));
            }
            Some(_) => {}
        }
    }
    match listed.keys().find(|path| !received.contains_key(*path)) {
        Some(path) => Err(wrong(path, "it is missing".to_owned())),
        None => Ok(()),
    }
}

/// The sums of the files that went by, and the content of those few that are looked into.
struct Files {
    algorithm: Algorithm,
    /// The tablespaces there are.
    oids: Vec<u32>,
    /// The one whose tar file it is.
    tablespace: Option<u32>,
    sums: BTreeMap<EntryPath, ManifestFile>,
    current: Option<(EntryPath, u64, Hasher)>,
    capture: Option<Vec<u8>>,
    label: Vec<u8>,
    control: Vec<u8>,
}

impl Files {
    fn new(algorithm: Algorithm, oids: Vec<u32>) -> Self {
        Self {
            algorithm,
            oids,
            tablespace: None,
            sums: BTreeMap::new(),
            current: None,
            capture: None,
            label: Vec::new(),
            control: Vec::new(),
        }
    }

    fn label(&self) -> Result<BackupLabel, BackupError> {
        BackupLabel::parse(&self.label)
            .ok_or_else(|| BackupError::NotABackup("it has no backup_label".to_owned()))
    }

    fn check_cluster(&self, system_identifier: u64) -> Result<(), BackupError> {
        let found = self.control.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        if found == Some(system_identifier) {
            return Ok(());
        }
        let what = found.map_or_else(
            || "it has no pg_control".to_owned(),
            |found| format!("its pg_control is of the cluster {found}"),
        );
        Err(BackupError::NotABackup(what))
    }
}

impl tar::Visitor for Files {
    type Error = BackupError;

    fn entry(&mut self, entry: &Entry, _at: u64) -> Result<(), BackupError> {
        let path = match self.tablespace {
            Some(oid) => entry.path.in_tablespace(oid),
            None => entry.path.clone(),
        };
        if entry.kind == EntryKind::Link && !path.is_link_of(&self.oids) {
            let what = "it is a link, and not a tablespace's".to_owned();
            return Err(BackupError::NotAsListed { path, what });
        }
        if let EntryKind::File { size } = entry.kind {
            self.capture = (path.is(label::NAME) || path.is(PG_CONTROL)).then(Vec::new);
            self.current = Some((path, size, Hasher::new(self.algorithm)));
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        if let Some((_, _, hasher)) = &mut self.current {
            hasher.update(bytes);
        }
        if let Some(content) = &mut self.capture {
            let room = MAX_CAPTURED_BYTES.saturating_sub(content.len()).min(bytes.len());
            content.extend_from_slice(bytes.get(..room).unwrap_or_default());
        }
        Ok(())
    }

    fn entry_end(&mut self) -> Result<(), BackupError> {
        let Some((path, size, hasher)) = self.current.take() else { return Ok(()) };
        match self.capture.take() {
            Some(content) if path.is(PG_CONTROL) => self.control = content,
            Some(content) => self.label = content,
            None => {}
        }
        let file = ManifestFile { size, algorithm: self.algorithm, sum: hasher.finish() };
        match self.sums.insert(path.clone(), file) {
            None => Ok(()),
            Some(_) => Err(TarError::Twice(path).into()),
        }
    }
}

/// A thread that makes files durable while others are written. Its failure is the backup's.
struct Syncer {
    files: std::sync::mpsc::SyncSender<NewFile>,
    thread: std::thread::JoinHandle<Result<(), DiskError>>,
}

/// Writing doesn't get further ahead of the disk than this many syncs.
const WAITING_SYNCS: usize = 2;

impl Syncer {
    fn start() -> Result<Self, BackupError> {
        let (files, waiting) = std::sync::mpsc::sync_channel::<NewFile>(WAITING_SYNCS);
        let thread = std::thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || waiting.into_iter().try_for_each(|file| file.sync()));
        let thread = thread
            .map_err(|error| DiskError::from_io("start of a thread", Path::new(""), &error))?;
        Ok(Self { files, thread })
    }

    fn sync(&self, file: NewFile) {
        // The thread ends early only with an error, which `finish` gives.
        _ = self.files.send(file);
    }

    fn finish(self) -> Result<(), BackupError> {
        drop(self.files);
        match self.thread.join() {
            Ok(synced) => Ok(synced?),
            Err(_) => Err(BackupError::NotABackup("the syncing thread panicked".to_owned())),
        }
    }
}
