//! `seawall repair`: fetches what is missing, and what doesn't hold any more, from where it still is:
//! another archive, a directory of WAL, or a command like a server's restore_command.
//!
//! What comes is proved before it gets its name, as everything that comes into `wal/`; a damaged
//! segment is moved to quarantine then, never removed. A record that runs over segments' borders is
//! named by where it begins, so where that segment is the same elsewhere, the ones behind it are
//! compared. Not repaired: what lies before what was expired, histories, unfinished segments, backups.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use archive::{ArchiveError, Catalogue, Damage, DamageKind, Method, Survey};
use disk::{AlignedBuf, RealFiles};
use pg_types::{SegmentNumber, TimelineId, WalFileKind, WalFileName};
use serde_json::json;

use crate::cli::RepairArgs;
use crate::failure::steady;
use crate::verify::{self, Scope};
use crate::{Exit, Failure, log};

/// As much is copied at once.
const CHUNK_LEN: usize = 256 << 10;
/// No record is longer (`XLogRecordMaxSize`, `access/xlogrecord.h`, 1020 MiB): so far behind its start
/// may be what is damaged of it.
const MAX_RECORD_BYTES: u64 = 1020 << 20;

/// A record may be damaged in each segment that it runs through; what is more is left to the next run.
const MAX_ROUNDS: usize = 64;

/// A segment that is wanted.
type Wanted = (TimelineId, SegmentNumber);

pub(crate) fn run(args: &RepairArgs) -> Result<(), Failure> {
    let _log = log::start(args.talk, false, Some(&args.archive));
    let about = |failure: Failure| failure.of(&format!("the archive {}", args.archive.display()));
    repair(args).map_err(about)
}

fn repair(args: &RepairArgs) -> Result<(), Failure> {
    let catalogue = Catalogue::open(Arc::new(RealFiles::new(args.archive.clone())))?;
    let sources = args.from.iter().map(|dir| Source::of(dir, &catalogue));
    let mut sources = sources.collect::<Result<Vec<_>, _>>()?;
    sources.extend(args.command.iter().map(|command| Source::Command(command.clone())));
    let (filled, replaced, left) = (0, 0, BTreeSet::new());
    let mut work = Repair { args, catalogue, sources, filled, replaced, left };
    // What is mended lets what is behind it be seen: of a record, the next segment.
    for _ in 0..MAX_ROUNDS {
        let before = work.filled + work.replaced;
        work.round()?;
        if work.filled + work.replaced == before {
            break;
        }
    }
    work.tell()
}

/// Each segment in which something is missing, or that the index knows and that is gone.
fn missing(
    catalogue: &Catalogue,
    survey: &Survey,
    damages: &[Damage],
) -> Result<BTreeSet<Wanted>, Failure> {
    let size = catalogue.layout().segment_size;
    let gone = damages.iter().filter(|damage| damage.kind == DamageKind::Gone);
    let mut wanted: BTreeSet<Wanted> =
        gone.filter_map(|damage| segment_of(catalogue, damage)).collect();
    for hole in catalogue.missing(survey)? {
        let mut number = hole.from.segment(size);
        while number.start(size) < hole.to {
            if !survey.is_expired(hole.timeline, number) {
                wanted.insert((hole.timeline, number));
            }
            number = number.next();
        }
    }
    Ok(wanted)
}

/// The whole segment that is named as damaged.
fn segment_of(catalogue: &Catalogue, damage: &Damage) -> Option<Wanted> {
    let name = Method::of_name(damage.path.file_name()?.to_str()?).0;
    match WalFileName::parse(name, catalogue.layout().segment_size)? {
        WalFileName::Segment { timeline, number, kind: WalFileKind::Segment } => {
            Some((timeline, number))
        }
        _ => None,
    }
}

/// Where WAL may still be.
enum Source {
    Archive(PathBuf, Box<Catalogue>),
    Directory(PathBuf),
    Command(String),
}

impl Source {
    fn of(dir: &Path, ours: &Catalogue) -> Result<Self, Failure> {
        if !dir.is_dir() {
            return Err(Failure::usage(format!("{} is no directory", dir.display())));
        }
        match Catalogue::open(Arc::new(RealFiles::new(dir.to_owned()))) {
            Err(ArchiveError::NoArchive) => Ok(Self::Directory(dir.to_owned())),
            Err(error) => Err(Failure::from(error).of(&dir.display().to_string())),
            Ok(theirs) if theirs.identity().system_id != ours.identity().system_id => {
                Err(Failure::new(
                    Exit::WrongArchive,
                    format!("{} is the archive of another cluster", dir.display()),
                ))
            }
            Ok(theirs) => Ok(Self::Archive(dir.to_owned(), Box::new(theirs))),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Archive(dir, _) | Self::Directory(dir) => dir.display().to_string(),
            Self::Command(command) => format!("\"{command}\""),
        }
    }

    /// Writes a segment to a file; `false` if it hasn't got it.
    fn fetch(&self, wanted: Wanted, name: &str, to: &Path) -> io::Result<bool> {
        match self {
            Self::Archive(_, catalogue) => fetch_archived(catalogue, wanted, to),
            Self::Directory(dir) => fetch_file(&dir.join(name), to),
            Self::Command(command) => {
                let to = to.to_string_lossy();
                let command = command.replace("%f", name).replace("%p", &to).replace("%%", "%");
                Ok(Command::new("sh").arg("-c").arg(command).status()?.success())
            }
        }
    }
}

fn fetch_archived(catalogue: &Catalogue, wanted: Wanted, to: &Path) -> io::Result<bool> {
    let (timeline, number) = wanted;
    let opened = catalogue.open_segment(timeline, number).map_err(io::Error::other)?;
    let Some(reader) = opened else { return Ok(false) };
    let (mut file, mut buf, mut at) = (File::create(to)?, AlignedBuf::zeroed(CHUNK_LEN), 0);
    while at < reader.len() {
        let got = reader.read_at(at, &mut buf).map_err(io::Error::other)?;
        let read = buf.get(..got).filter(|read| !read.is_empty());
        let Some(read) = read else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        file.write_all(read)?;
        at += got as u64;
    }
    Ok(true)
}

/// A file of this name, compressed or not.
fn fetch_file(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::copy(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        copied => return copied.map(|_| true),
    }
    for method in Method::ALL {
        let mut packed = from.as_os_str().to_owned();
        packed.push(method.suffix());
        let packed = match File::open(packed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            packed => packed?,
        };
        let most = pg_types::SegmentSize::MAX.bytes();
        let mut unpacked = method.decoder(BufReader::new(packed), most);
        return io::copy(&mut unpacked, &mut File::create(to)?).map(|_| true);
    }
    Ok(false)
}

struct Repair<'a> {
    args: &'a RepairArgs,
    catalogue: Catalogue,
    sources: Vec<Source>,
    filled: usize,
    replaced: usize,
    /// What is still to be done, for people.
    left: BTreeSet<String>,
}

impl Repair<'_> {
    /// Looks what is to be done, and tries each of it.
    fn round(&mut self) -> Result<(), Failure> {
        let scope = Scope { full: self.args.full, ..Scope::default() };
        let report = steady(|| verify::examine(&self.args.archive, &scope))?;
        let survey = self.catalogue.survey().map_err(ArchiveError::from)?;
        let missing = missing(&self.catalogue, &survey, &report.damages)?;
        let damaged = report.damages.iter().filter(|damage| damage.kind != DamageKind::Gone);
        let damaged: BTreeSet<Wanted> =
            damaged.filter_map(|damage| segment_of(&self.catalogue, damage)).collect();
        self.left.clear();
        for wanted in missing {
            self.fill(wanted)?;
        }
        for wanted in damaged {
            self.mend(wanted)?;
        }
        Ok(())
    }

    fn name(&self, (timeline, number): Wanted) -> String {
        let size = self.catalogue.layout().segment_size;
        WalFileName::segment(timeline, number).display(size).to_string()
    }

    fn locked(&self) -> Result<disk::Lock, Failure> {
        let holder = format!("seawall repair, process {}", std::process::id());
        Ok(self.catalogue.lock_staging(&holder)?)
    }

    /// Has the sources bring a segment to the staging file, one after the other, until `done` is
    /// through with one. Says whether one was.
    fn with_sources(
        &self,
        wanted: Wanted,
        mut done: impl FnMut(&str) -> Result<bool, ArchiveError>,
    ) -> Result<bool, Failure> {
        let (name, staged) = (self.name(wanted), self.args.archive.join(self.catalogue.staging()));
        let _lock = self.locked()?;
        for source in &self.sources {
            match source.fetch(wanted, &name, &staged) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    tracing::warn!("{name} can't be had from {}: {error}", source.shown());
                    continue;
                }
            }
            match done(&source.shown()) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                // The disk here is what fails, and would with the others.
                Err(error @ ArchiveError::Disk(_)) => return Err(error.into()),
                Err(error) => tracing::warn!("{name} from {}: {error}", source.shown()),
            }
        }
        Ok(false)
    }

    fn fill(&mut self, wanted: Wanted) -> Result<(), Failure> {
        let (timeline, number) = wanted;
        let (catalogue, name) = (&self.catalogue, self.name(wanted));
        let filled = self.with_sources(wanted, |source| {
            catalogue.publish(WalFileName::segment(timeline, number))?;
            tracing::info!("filled {name} from {source}");
            Ok(true)
        })?;
        self.filled += usize::from(filled);
        if !filled {
            self.left.insert(format!("{name} is missing"));
        }
        Ok(())
    }

    /// Replaces a damaged segment, or the one behind it that a record of it runs into.
    fn mend(&mut self, (timeline, number): Wanted) -> Result<(), Failure> {
        let size = self.catalogue.layout().segment_size;
        let last = SegmentNumber::new(number.as_u64() + MAX_RECORD_BYTES / size.bytes() + 1);
        let mut at = number;
        while at <= last {
            let (mut same, catalogue, name) = (false, &self.catalogue, self.name((timeline, at)));
            let replaced = self.with_sources((timeline, at), |source| {
                same = catalogue.is_as_staged(timeline, at)?;
                if !same {
                    catalogue.replace_damaged(timeline, at)?;
                    tracing::info!(
                        "replaced {name} by that of {source}; the old one is in quarantine"
                    );
                }
                Ok(!same)
            })?;
            self.replaced += usize::from(replaced);
            if replaced {
                return Ok(());
            }
            if !same {
                break;
            }
            at = at.next();
        }
        let name = self.name((timeline, number));
        self.left.insert(format!("{name} is damaged"));
        Ok(())
    }

    fn tell(&self) -> Result<(), Failure> {
        let Self { filled, replaced, left, .. } = self;
        let text = if self.args.json {
            let left: Vec<&String> = left.iter().collect();
            format!("{}\n", json!({"filled": filled, "replaced": replaced, "left": left}))
        } else {
            format!("{filled} segments filled, {replaced} replaced\n")
        };
        let written = io::stdout().write_all(text.as_bytes());
        written.map_err(|error| Failure::failed(format!("can't write the answer: {error}")))?;
        match left.first() {
            None => Ok(()),
            Some(first) => Err(Failure::failed(format!(
                "{} segments are still to be repaired, and no source has them whole: {first}{}",
                left.len(),
                if left.len() > 1 { ", and others" } else { "" }
            ))),
        }
    }
}
