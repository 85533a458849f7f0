//! `seawall archive-wal`: what the server's archive_command runs. It ends with 0 when the file is
//! in the archive, durably; otherwise the server keeps the file and tries again.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use archive::{Archive, ArchiveError, Catalogue, Identity, Layout};
use disk::{Files, RealFiles};
use pg_types::{WalFileKind, WalFileName};

use crate::Failure;
use crate::cli::ArchiveWalArgs;

/// A receiver that streams seals a segment some milliseconds after the server has ended it. One
/// that takes longer is behind, or isn't running.
const SEAL_PATIENCE: Duration = Duration::from_secs(3);
const SEAL_POLL: Duration = Duration::from_millis(20);
/// A page, in which the segment says whose it is.
const PAGE_BYTES: usize = 8192;

pub(crate) fn run(args: &ArchiveWalArgs) -> Result<(), Failure> {
    let about = format!("{} into the archive {}", args.file.display(), args.archive.display());
    let files: Arc<dyn Files> = Arc::new(RealFiles::new(args.archive.clone()));
    ship(&args.file, &args.archive, &files).map_err(|failure| failure.of(&about))
}

fn ship(file: &Path, archive: &Path, files: &Arc<dyn Files>) -> Result<(), Failure> {
    let catalogue = match Catalogue::open(Arc::clone(files)) {
        Err(ArchiveError::NoArchive) => make(file, files)?,
        catalogue => catalogue?,
    };
    let layout = catalogue.layout();
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = WalFileName::parse(name, layout.segment_size).ok_or_else(|| {
        Failure::usage(format!(
            "\"{name}\" is no name of a segment of {}, a .partial, a .history or a .backup",
            layout.segment_size
        ))
    })?;
    await_sealed(&**files, layout, name)?;
    let holder = format!("seawall archive-wal, process {}", std::process::id());
    let _staging = catalogue.lock_staging(&holder)?;
    let staged = archive.join(catalogue.staging());
    let copied = fs::copy(file, &staged);
    copied.map_err(|error| Failure::failed(format!("can't be copied: {error}")))?;
    catalogue.publish(name)?;
    Ok(())
}

/// Lets a receiver that is writing this segment seal it, rather than be overtaken.
fn await_sealed(files: &dyn Files, layout: Layout, name: WalFileName) -> Result<(), Failure> {
    let WalFileName::Segment { timeline, number, kind: WalFileKind::Segment } = name else {
        return Ok(());
    };
    let until = Instant::now() + SEAL_PATIENCE;
    let length =
        |path: &Path| files.len(path).map_err(|error| Failure::from(ArchiveError::from(error)));
    while length(&layout.partial(timeline, number))?.is_some() && Instant::now() < until {
        sleep(SEAL_POLL);
    }
    Ok(())
}

/// Makes the archive of the server that a segment says it is from.
fn make(file: &Path, files: &Arc<dyn Files>) -> Result<Catalogue, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("can't be read: {error}"));
    let mut page = Vec::new();
    File::open(file)
        .map_err(failed)?
        .take(PAGE_BYTES as u64)
        .read_to_end(&mut page)
        .map_err(failed)?;
    let identity = Identity::of_segment(&page).ok_or_else(|| {
        Failure::failed(
            "there is no archive yet, and this isn't the beginning of a segment, which would say \
             whose it is: run `seawall receive` once, or archive a segment first",
        )
    })?;
    let claim = Archive::claim(Arc::clone(files), "seawall archive-wal")?;
    let mut random = [0; 16];
    _ = getrandom::fill(&mut random);
    drop(claim.open(&identity, &random)?);
    Ok(Catalogue::open(Arc::clone(files))?)
}
