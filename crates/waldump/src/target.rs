//! What is to be read: which directory, from where to where, of which version. The search for
//! files and the checks are those of pg_waldump's `main`, in its order.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use archive::Catalogue;
use disk::RealFiles;
use pg_types::{Branch, Lsn, SegmentNumber, SegmentSize, TimelineId};
use wal_format::{LongHeader, PageHeader, WalVersion};

use crate::cli::words::Failure;
use crate::cli::{Options, Program};
use crate::read::files::{Forms, Segments, is_segment_name, open_in, os_words, stem};
use crate::read::reader::PAGE_BYTES;

/// How many pages are looked at to find out which version wrote a file whose first page doesn't
/// say.
const VERSION_PAGES: u64 = 4;

/// What is read; see the [module](self).
#[derive(Clone, Debug)]
pub struct Target {
    /// The segments.
    pub segments: Segments,
    /// Where reading begins.
    pub start: Lsn,
    /// Where it ends; invalid for the end of WAL.
    pub end: Lsn,
    /// The version whose WAL it is.
    pub version: WalVersion,
}

/// A failure, and the version if WAL has been read before.
pub type Refusal = (Failure, Option<WalVersion>);

/// What a file says of itself.
#[derive(Clone, Copy, Debug)]
struct Probe {
    size: SegmentSize,
    version: Option<WalVersion>,
    header: PageHeader,
}

impl Target {
    /// Finds what the options name.
    ///
    /// # Errors
    /// In the server's program's words.
    pub fn find(program: Program, options: &Options) -> Result<Self, Refusal> {
        let forms = if program == Program::Seawall { Forms::Any } else { Forms::Plain };
        let early = |failure| (failure, None);
        let mut dir = options.path.as_ref().map(PathBuf::from);
        if let Some(archive) = &options.archive {
            dir = Some(wal_of_archive(archive).map_err(early)?);
        }
        if let Some(dir) = &dir {
            can_be_opened(dir).map_err(|error| early(Failure::argument(about_dir(dir, &error))))?;
        }
        if let Some(save) = &options.save_fullpage {
            make_empty_dir(Path::new(save)).map_err(early)?;
        }
        let finder = Finder { options, forms };
        let found = match options.files.first() {
            Some(first) => finder.by_file(dir, first)?,
            None => finder.by_position(dir)?,
        };
        Ok(found.along_history(program))
    }

    /// With the history file of its timeline, if the program follows one.
    fn along_history(mut self, program: Program) -> Self {
        if program == Program::Seawall {
            self.segments.branch = branch_of(&self.segments.dir, self.segments.timeline);
        }
        self
    }
}

struct Finder<'a> {
    options: &'a Options,
    forms: Forms,
}

impl Finder<'_> {
    /// STARTSEG, and perhaps ENDSEG.
    fn by_file(&self, dir: Option<PathBuf>, first: &OsStr) -> Result<Target, Refusal> {
        let (named_dir, name) = split_path(first);
        let dir = match (dir, named_dir) {
            (Some(dir), _) => Some(dir),
            (None, Some(named)) => {
                can_be_opened(&named)
                    .map_err(|error| (Failure::fatal(about_dir(&named, &error)), None))?;
                Some(named)
            }
            (None, None) => None,
        };
        let (dir, probe) = self.identify(dir, Some(name))?;
        let size = probe.size;
        let late = |failure| (failure, probe.version);
        let (mut timeline, mut number) = self.position_of(name, &probe);
        let first_number = number;
        let mut start = self.options.start;
        if !start.is_valid() {
            start = number.start(size);
        } else if start.segment(size) != number {
            return Err(late(not_inside("start", start, name)));
        }
        let mut end = self.options.end;
        if let Some(last) = self.options.files.get(1) {
            let (_, last_name) = split_path(last);
            let last_probe = self.probe(&dir, last_name, probe.version)?;
            (timeline, number) = self.position_of(last_name, &last_probe.unwrap_or(probe));
            if number < first_number {
                let text = [b"ENDSEG ", last.as_bytes(), b" is before STARTSEG ", first.as_bytes()];
                return Err(late(Failure::fatal(text.concat())));
            }
        }
        if !end.is_valid() {
            end = number.end(size);
        }
        if end.segment(size) != number && end != number.end(size) {
            let last = self.options.files.last().map_or(first, OsString::as_os_str);
            return Err(late(not_inside("end", end, last)));
        }
        Ok(self.target(dir, &probe, timeline, start, end))
    }

    /// A directory, and where to start.
    fn by_position(&self, dir: Option<PathBuf>) -> Result<Target, Refusal> {
        let (dir, probe) = self.identify(dir, None)?;
        let mut start = self.options.start;
        let mut timeline = self.options.timeline.unwrap_or(1);
        if self.options.archive.is_some() {
            let newest = newest_timeline(&dir, probe.size);
            timeline = self.options.timeline.or(newest).unwrap_or(1);
            if !start.is_valid() {
                start = first_start(&dir, timeline, probe.size).unwrap_or(Lsn::INVALID);
            }
        }
        if !start.is_valid() {
            return Err((Failure::argument("no start WAL location given"), probe.version));
        }
        Ok(self.target(dir, &probe, timeline, start, self.options.end))
    }

    fn target(&self, dir: PathBuf, probe: &Probe, timeline: u32, start: Lsn, end: Lsn) -> Target {
        // An unknown magic is for the reader to refuse, which it does as the newest.
        let version = probe.version.unwrap_or(WalVersion::NEWEST);
        let size = probe.size;
        let segments = Segments { dir, size, timeline, branch: None, forms: self.forms };
        Target { segments, start, end, version }
    }

    /// Timeline and number by a file's name (`XLogFromFileName`); of a file with another name by
    /// its first page.
    fn position_of(&self, name: &OsStr, probe: &Probe) -> (u32, SegmentNumber) {
        let digits = |range: std::ops::Range<usize>| {
            let text = std::str::from_utf8(name.as_bytes().get(range)?).ok()?;
            u32::from_str_radix(text, 16).ok()
        };
        let parts = digits(0..8).zip(digits(8..16)).zip(digits(16..24));
        match parts {
            Some(((timeline, log), rest)) => {
                let number = u64::from(log) * probe.size.segments_per_log_id() + u64::from(rest);
                (timeline, SegmentNumber::new(number))
            }
            None => (probe.header.timeline, probe.header.address.segment(probe.size)),
        }
    }

    /// The directory that has the file, or any segment, and what that says of itself
    /// (`identify_target_directory`).
    fn identify(
        &self,
        dir: Option<PathBuf>,
        name: Option<&OsStr>,
    ) -> Result<(PathBuf, Probe), Refusal> {
        let places = match dir {
            Some(dir) => vec![dir.clone(), dir.join("pg_wal")],
            None => {
                let data = env::var_os("PGDATA").map(|data| PathBuf::from(data).join("pg_wal"));
                [PathBuf::from("."), PathBuf::from("pg_wal")].into_iter().chain(data).collect()
            }
        };
        for place in places {
            let name = match name {
                Some(name) => Some(name.to_os_string()),
                None => any_segment(&place, self.forms),
            };
            let Some(name) = name else { continue };
            if let Some(probe) = self.probe_if_there(&place, &name, None)? {
                return Ok((place, probe));
            }
        }
        let text = match name {
            Some(name) => [b"could not locate WAL file \"", name.as_bytes(), b"\""].concat(),
            None => b"could not find any WAL file".to_vec(),
        };
        Err((Failure::fatal(text), None))
    }

    /// As [`Self::probe_if_there`], of a file that must be there.
    fn probe(
        &self,
        dir: &Path,
        name: &OsStr,
        version: Option<WalVersion>,
    ) -> Result<Option<Probe>, Refusal> {
        let opened = open_in(dir, self.stem_of(name), self.forms);
        match opened {
            Ok(_) if is_segment_name(self.stem_of(name)) => Ok(None),
            Ok(_) => self.probe_if_there(dir, name, version),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = [b"could not open file \"", name.as_bytes(), b"\""].concat();
                Err((Failure::fatal(text), version))
            }
            Err(error) => Err((could_not("open", name, &error), version)),
        }
    }

    fn stem_of<'b>(&self, name: &'b OsStr) -> &'b OsStr {
        if self.forms == Forms::Any { stem(name) } else { name }
    }

    /// What a file says of itself (`search_directory`).
    fn probe_if_there(
        &self,
        dir: &Path,
        name: &OsStr,
        version: Option<WalVersion>,
    ) -> Result<Option<Probe>, Refusal> {
        let early = |failure| (failure, version);
        let mut segment = match open_in(dir, self.stem_of(name), self.forms) {
            Ok(segment) => segment,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // One that is no directory has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            Err(error) => return Err(early(could_not("open", name, &error))),
        };
        let mut page = vec![0; PAGE_BYTES];
        let got = segment.read_at(&mut page, 0);
        let got = got.map_err(|error| early(could_not("read", name, &error)))?;
        let mut version = version_of(&page).or(version);
        let mut number = 1;
        while version.is_none() && number < VERSION_PAGES {
            let mut start = [0; 2];
            _ = segment.read_at(&mut start, number * PAGE_BYTES as u64);
            version = version_of(&start);
            number += 1;
        }
        let version = version.or_else(|| self.version_beside(dir));
        if got < PAGE_BYTES {
            let rest = format!("\": read {got} of {PAGE_BYTES}");
            let text = [b"could not read file \"", name.as_bytes(), rest.as_bytes()].concat();
            return Err((Failure::fatal(text), version));
        }
        let header = PageHeader::read(&page).unwrap_or(PageHeader::NONE);
        let size = LongHeader::of_page(&page).map_or(0, |long| long.segment_size);
        match SegmentSize::new(u64::from(size)) {
            Ok(size) => Ok(Some(Probe { size, version, header })),
            Err(_) => Err((invalid_size(name, size, version), version)),
        }
    }

    /// The version of another segment in the directory: a file that was made in advance, or that
    /// lost its beginning, doesn't say.
    fn version_beside(&self, dir: &Path) -> Option<WalVersion> {
        /// So many are looked at.
        const MOST_FILES: usize = 16;
        let mut names = stems(dir).filter(|name| is_segment_name(name)).take(MOST_FILES);
        names.find_map(|name| {
            let mut start = [0; 2];
            open_in(dir, &name, self.forms).ok()?.read_at(&mut start, 0).ok()?;
            version_of(&start)
        })
    }
}

fn version_of(page: &[u8]) -> Option<WalVersion> {
    WalVersion::from_magic(u16::from_le_bytes(*page.first_chunk()?))
}

fn invalid_size(name: &OsStr, size: u32, version: Option<WalVersion>) -> Failure {
    // `%d` of an unsigned number.
    let (shown, bytes) = (size.cast_signed(), if size == 1 { "byte" } else { "bytes" });
    if version.is_some_and(|version| version.major() < 17) {
        let first = "WAL segment size must be a power of two between 1 MB and 1 GB, but the WAL \
                     file \"";
        let last = format!("\" header specifies {shown} {bytes}");
        return Failure::fatal([first.as_bytes(), name.as_bytes(), last.as_bytes()].concat());
    }
    let last = format!("\" ({shown} {bytes})");
    let first = b"invalid WAL segment size in WAL file \"";
    Failure::Error {
        text: [first, name.as_bytes(), last.as_bytes()].concat(),
        detail: Some("The WAL segment size must be a power of two between 1 MB and 1 GB."),
    }
}

fn not_inside(which: &str, at: Lsn, name: &OsStr) -> Failure {
    let first = format!("{which} WAL location {at} is not inside file \"");
    Failure::argument([first.as_bytes(), name.as_bytes(), b"\""].concat())
}

fn could_not(what: &str, name: &OsStr, error: &io::Error) -> Failure {
    let first = format!("could not {what} file \"");
    let last = format!("\": {}", os_words(error));
    Failure::fatal([first.as_bytes(), name.as_bytes(), last.as_bytes()].concat())
}

fn about_dir(dir: &Path, error: &io::Error) -> Vec<u8> {
    let last = format!("\": {}", os_words(error));
    [b"could not open directory \"", dir.as_os_str().as_bytes(), last.as_bytes()].concat()
}

fn can_be_opened(dir: &Path) -> io::Result<()> {
    fs::read_dir(dir).map(drop)
}

/// Directory and file of a path; `None` where it names no directory (`split_path`).
fn split_path(path: &OsStr) -> (Option<PathBuf>, &OsStr) {
    let bytes = path.as_bytes();
    match bytes.iter().rposition(|byte| *byte == b'/') {
        None => (None, path),
        Some(at) => {
            let (dir, name) = (bytes.get(..at), bytes.get(at + 1..));
            let dir = PathBuf::from(OsStr::from_bytes(dir.unwrap_or_default()));
            (Some(dir), OsStr::from_bytes(name.unwrap_or_default()))
        }
    }
}

/// Makes a directory for images, or takes an empty one (`create_fullpage_directory`).
fn make_empty_dir(dir: &Path) -> Result<(), Failure> {
    let about = |before: &str, after: &str| {
        let name = dir.as_os_str().as_bytes();
        Failure::fatal([before.as_bytes(), b" \"", name, b"\"", after.as_bytes()].concat())
    };
    let words = |error: &io::Error| format!(": {}", os_words(error));
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(about("directory", " exists but is not empty")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = create_dirs(dir);
            made.map_err(|error| about("could not create directory", &words(&error)))
        }
        Err(error) => Err(about("could not access directory", &words(&error))),
    }
}

/// For the owner alone, as the server makes directories (`pg_mkdir_p`, `pg_dir_create_mode`).
fn create_dirs(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Where an archive of seawall's has its segments.
fn wal_of_archive(archive: &OsStr) -> Result<PathBuf, Failure> {
    let dir = PathBuf::from(archive);
    let opened = Catalogue::open(Arc::new(RealFiles::new(dir.clone())));
    opened.map_err(|error| Failure::fatal(format!("the archive {}: {error}", dir.display())))?;
    Ok(dir.join("wal"))
}

/// The names of files, without what says which form they are.
fn stems(dir: &Path) -> impl Iterator<Item = OsString> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| stem(&entry.file_name()).to_os_string())
}

fn any_segment(dir: &Path, forms: Forms) -> Option<OsString> {
    match forms {
        Forms::Any => stems(dir).find(|name| is_segment_name(name)),
        Forms::Plain => {
            let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.find_map(|entry| Some(entry.file_name()).filter(|name| is_segment_name(name)))
        }
    }
}

/// The segments of a directory, by their names.
fn segments_in(dir: &Path, size: SegmentSize) -> impl Iterator<Item = (u32, SegmentNumber)> {
    let digits =
        |name: &str, range: std::ops::Range<usize>| u32::from_str_radix(name.get(range)?, 16).ok();
    stems(dir).filter(|name| is_segment_name(name)).filter_map(move |name| {
        let name = name.into_string().ok()?;
        let (log, rest) = (digits(&name, 8..16)?, digits(&name, 16..24)?);
        let number = u64::from(log) * size.segments_per_log_id() + u64::from(rest);
        Some((digits(&name, 0..8)?, SegmentNumber::new(number)))
    })
}

fn newest_timeline(dir: &Path, size: SegmentSize) -> Option<u32> {
    segments_in(dir, size).map(|(timeline, _)| timeline).max()
}

/// Where the first segment begins that lies on this timeline or on those that it comes from.
fn first_start(dir: &Path, timeline: u32, size: SegmentSize) -> Option<Lsn> {
    let branch = branch_of(dir, timeline);
    let on = |number| {
        let stretch = branch.as_ref().and_then(|branch| branch.stretch_of(number, size));
        stretch.map_or(timeline, |stretch| stretch.timeline.as_u32())
    };
    let ours = segments_in(dir, size).filter(|(of, number)| on(*number) == *of);
    ours.map(|(_, number)| number.start(size)).min()
}

/// The line of history that leads to a timeline, if its history file is there and can be read.
fn branch_of(dir: &Path, timeline: u32) -> Option<Arc<Branch>> {
    /// A line for each ancestor: more isn't one.
    const MOST_BYTES: u64 = 1 << 20;
    let path = dir.join(format!("{timeline:08X}.history"));
    let is_small = fs::metadata(&path).is_ok_and(|file| file.len() <= MOST_BYTES);
    let bytes = is_small.then(|| fs::read(&path).ok()).flatten()?;
    Branch::parse(TimelineId::new(timeline)?, &bytes).ok().map(Arc::new)
}
