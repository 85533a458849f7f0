//! BASE_BACKUP: the newest stored backup that a standby of what is served can begin with, in the form
//! that the client asks for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use archive::Catalogue;
use backup::send::{Compression, Form, ManifestForm, Outgoing, Part, newest};
use backup::{Algorithm, BackupError, Backups, Description, Point};
use disk::{Files, RealFiles};
use pg_types::{Branch, TimelineId};
use pg_wire::base_backup::{BackupArchive, BackupPoint};
use pg_wire::message::SqlState;
use pg_wire::server::grammar::{BaseBackup, Method};
use pg_wire::server::response::Refusal;
use replication::sender::BackupStart;
use runtime::{BackupSource, GivenPart, Opened, StoredBackups};

/// `program_limit_exceeded`
const PROGRAM_LIMIT_EXCEEDED: SqlState = SqlState(*b"54000");
/// `Z_DEFAULT_COMPRESSION`
const GZIP_DEFAULT: i32 = 6;
/// `ZSTD_CLEVEL_DEFAULT`
const ZSTD_DEFAULT: i32 = 3;
/// `io_error`
const IO_ERROR: SqlState = SqlState(*b"58030");

/// The backups of the archive in this directory.
#[derive(Debug)]
pub(crate) struct Stored(pub(crate) PathBuf);

impl StoredBackups for Stored {
    fn start(&self, timeline: TimelineId) -> Option<BackupPoint> {
        let (_, _, backup) = newest_on(&self.0, timeline).ok()?;
        Some(point(backup.start))
    }

    fn open(&self, asked: &BaseBackup, timeline: TimelineId) -> Opened {
        let outgoing = newest_on(&self.0, timeline).and_then(|(catalogue, backups, backup)| {
            tracing::info!("a client takes the backup {} ({})", backup.id, backup.label);
            Outgoing::new(catalogue, &backups, backup, form(asked))
        });
        let outgoing = outgoing.map_err(|error| refusal(&error))?;
        let archives = outgoing.archives().into_iter();
        let archives = archives.map(|(oid, location, bytes)| BackupArchive {
            oid,
            location: location.map(str::to_owned),
            bytes,
        });
        let start = BackupStart {
            start: point(outgoing.description().start),
            archives: archives.collect(),
            progress: asked.progress,
            suffix: asked.compression.map_or("", |compression| compression.method.suffix()),
            max_rate_kb: asked.max_rate_kb,
            to_client: asked.to_client,
        };
        Ok((start, Box::new(Source(outgoing))))
    }
}

/// The newest backup on this timeline and those that it comes from.
fn newest_on(
    archive: &Path,
    timeline: TimelineId,
) -> Result<(Catalogue, Backups, Description), BackupError> {
    let files: Arc<dyn Files> = Arc::new(RealFiles::new(archive.to_owned()));
    let (catalogue, backups) = (Catalogue::open(files)?, Backups::open(archive)?);
    let branch = catalogue.history(timeline)?.unwrap_or_else(|| Branch::root(timeline));
    let backup = newest(&catalogue, &backups, &branch)?;
    Ok((catalogue, backups, backup))
}

/// What the client asks for, as the backup's crate has it.
fn form(asked: &BaseBackup) -> Form {
    let manifest = asked.manifest.map(|manifest| ManifestForm {
        algorithm: Algorithm::parse(manifest.checksums).unwrap_or_default(),
        force_encode: manifest.force_encode,
    });
    let compression = asked.compression.and_then(|asked| {
        let (method, default) = match asked.method {
            Method::None => return None,
            Method::Gzip => (archive::Method::Gzip, GZIP_DEFAULT),
            Method::Lz4 => (archive::Method::Lz4, 0),
            Method::Zstd => (archive::Method::Zstd, ZSTD_DEFAULT),
        };
        Some(Compression { method, level: asked.level.unwrap_or(default) })
    });
    Form {
        label: asked.label.clone(),
        tablespace_map: asked.tablespace_map,
        wal: asked.wal,
        manifest,
        compression,
    }
}

struct Source(Outgoing);

impl BackupSource for Source {
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<GivenPart, Refusal> {
        let part = self.0.next(buffer).map_err(|error| {
            tracing::error!("the backup {} can't be given: {error}", self.0.description().id);
            refusal(&error)
        })?;
        Ok(match part {
            Part::Archive(place) => GivenPart::Archive(place),
            Part::Data => GivenPart::Data { done: self.0.done() },
            Part::Manifest => GivenPart::Manifest,
            Part::End => GivenPart::End(point(self.0.description().stop)),
        })
    }
}

fn point(point: Point) -> BackupPoint {
    BackupPoint { lsn: point.lsn, timeline: point.timeline }
}

fn refusal(error: &BackupError) -> Refusal {
    let sqlstate = match error {
        BackupError::NoneOnBranch { .. } => {
            let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
            return Refusal::error(state, error.to_string())
                .hint("Take a backup into the archive first: seawall backup -A DIR");
        }
        BackupError::LongLink { .. } => PROGRAM_LIMIT_EXCEEDED,
        BackupError::WalMissing { .. } => SqlState::UNDEFINED_FILE,
        BackupError::Disk(_) => IO_ERROR,
        _ => SqlState::DATA_CORRUPTED,
    };
    Refusal::error(sqlstate, error.to_string())
}
