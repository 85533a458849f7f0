//! Finding the file in one archive after the other.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use archive::{Absence, ArchiveError, Catalogue};
use disk::{DiskError, ErrorKind, RealFiles};
use pg_types::{Branch, Lsn, SegmentNumber, SystemId, TimelineId, WalFileKind, WalFileName};

use super::deliver::{Target, copy};
use super::{Kind, Refusal, say};
use crate::board;
use crate::cli::RestoreWalArgs;

/// A history has a line for each promotion; a base backup's has a dozen lines.
const MAX_HISTORY_BYTES: usize = 1 << 20;

/// Delivers the file from the first archive that has it.
pub(super) fn deliver(args: &RestoreWalArgs) -> Result<(), Refusal> {
    let mut refused: Option<Refusal> = None;
    for archive in &args.archive {
        let Err(refusal) = deliver_from(archive, args) else { return Ok(()) };
        let about = format!("{}: {}", archive.display(), refusal.message);
        let all = refused.as_ref().map_or(about.clone(), |all| format!("{}; {about}", all.message));
        let kind = refused.map_or(refusal.kind, |all| all.kind.max(refusal.kind));
        refused = Some(Refusal::new(kind, all));
    }
    let about = format!("{} from the archive ", args.name.display());
    let nowhere = Refusal::new(Kind::Refused, "no archive was named");
    let Refusal { kind, message } = refused.unwrap_or(nowhere);
    Err(Refusal::new(kind, about + &message))
}

fn deliver_from(archive: &Path, args: &RestoreWalArgs) -> Result<(), Refusal> {
    let catalogue = Catalogue::open(Arc::new(RealFiles::new(archive.to_owned())))?;
    let layout = catalogue.layout();
    let name = args.name.to_str().and_then(|name| WalFileName::parse(name, layout.segment_size));
    let Some(name) = name else { return Err(no_name(&args.name)) };
    admit(&catalogue, &args.path)?;
    match name {
        WalFileName::Segment { timeline, number, kind: WalFileKind::Segment } => {
            Segment { archive, catalogue: &catalogue, args, timeline, number }.deliver()
        }
        WalFileName::Segment { kind: WalFileKind::Partial, .. } => Err(Refusal::new(
            Kind::Refused,
            "a .partial is delivered under its segment's name, and with --partial",
        )),
        WalFileName::TimelineHistory(timeline) => {
            match catalogue.small_file(name, MAX_HISTORY_BYTES)? {
                Some(content) => {
                    Branch::parse(timeline, &content).map_err(ArchiveError::from)?;
                    deliver_small(&args.path, &content)
                }
                None => match catalogue.absence_of_history(timeline)? {
                    Absence::There => Err(moved()),
                    absence => Err(explain(absence)),
                },
            }
        }
        WalFileName::Segment { kind: WalFileKind::BackupHistory { .. }, .. } => {
            match catalogue.small_file(name, MAX_HISTORY_BYTES)? {
                Some(content) => deliver_small(&args.path, &content),
                None => Err(Refusal::new(Kind::Absent, "it isn't there")),
            }
        }
    }
}

fn no_name(name: &OsStr) -> Refusal {
    let message = format!(
        "\"{}\" is no name of a segment or of a history; restore_command = 'seawall restore-wal \
         %f %p …' gives the server's",
        name.display()
    );
    Refusal::new(Kind::Refused, message)
}

/// Refuses an archive of another cluster than the one whose `pg_wal` the file is for, if it is in
/// a data directory.
fn admit(catalogue: &Catalogue, path: &Path) -> Result<(), Refusal> {
    let data = path.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    // `system_identifier` comes first in `ControlFileData` (`catalog/pg_control.h`, 10–18).
    let mut bytes = [0; 8];
    let control = File::open(data.join("global/pg_control"));
    if control.and_then(|mut file| file.read_exact(&mut bytes)).is_err() {
        return Ok(());
    }
    let (cluster, archived) = (SystemId(u64::from_le_bytes(bytes)), catalogue.identity().system_id);
    if cluster == archived {
        return Ok(());
    }
    Err(Refusal::new(
        Kind::Refused,
        format!(
            "it is the archive of the cluster with system identifier {archived}, and the data \
             directory's is {cluster}: name that cluster's archive"
        ),
    ))
}

fn deliver_small(path: &Path, content: &[u8]) -> Result<(), Refusal> {
    let target = Target::create(path)?;
    target.write(0, content)?;
    target.publish()
}

/// A segment that was asked for.
struct Segment<'a> {
    archive: &'a Path,
    catalogue: &'a Catalogue,
    args: &'a RestoreWalArgs,
    timeline: TimelineId,
    number: SegmentNumber,
}

impl Segment<'_> {
    fn deliver(&self) -> Result<(), Refusal> {
        let Self { catalogue, timeline, number, .. } = *self;
        if let Some(reader) = catalogue.open_segment(timeline, number)? {
            return self.pass_on(&reader);
        }
        // Its state is asked for first, so that what it does meanwhile is seen behind.
        let streaming = self.is_streaming()?;
        let absence = catalogue.absence(timeline, number)?;
        match absence {
            Absence::There => Err(moved()),
            Absence::Partial { left } => self.deliver_partial(left, streaming),
            Absence::Left { unfinished: true, .. } if self.args.lost_branch => {
                self.deliver_partial(None, streaming)
            }
            Absence::PastTheEnd { .. } if streaming => Err(Refusal::new(
                Kind::Unfinished,
                "it isn't archived yet, and a receiver is streaming: what comes next isn't known",
            )),
            absence => Err(explain(absence)),
        }
    }

    /// Delivers what is proved of an unfinished segment, if that was asked for.
    fn deliver_partial(&self, left: Option<Lsn>, streaming: bool) -> Result<(), Refusal> {
        let Self { catalogue, args, timeline, number, .. } = *self;
        let Some(mut reader) = catalogue.open_partial(timeline, number)? else {
            return Err(moved());
        };
        let start = number.start(catalogue.layout().segment_size);
        if let Some(left) = left {
            reader = reader.up_to(left.saturating_since(start));
        }
        let to = start.saturating_add(reader.len());
        if !reader.is_empty() && args.partial {
            return self.pass_on(&reader);
        }
        if streaming {
            let message = "it isn't whole yet: a receiver is streaming it";
            return Err(Refusal::new(Kind::Unfinished, message));
        }
        if reader.is_empty() {
            return Err(explain(Absence::PastTheEnd { end: start }));
        }
        Err(Refusal::new(
            Kind::Unfinished,
            format!(
                "it is archived as a .partial only, up to {to}: with --partial recovery goes on to \
                 there; without, what was acknowledged would be lost"
            ),
        ))
    }

    fn pass_on(&self, reader: &archive::Reader) -> Result<(), Refusal> {
        let proof = self.catalogue.prove(reader)?;
        if let Some(before) = proof.lacks() {
            say(&format!(
                "{} in the archive {}: the record that runs into it isn't proved, since {} isn't \
                 there",
                self.args.name.display(),
                self.archive.display(),
                before.display()
            ));
        }
        copy(reader, proof, &self.args.path, self.catalogue.layout().segment_size.bytes())
    }

    /// Whether a receiver is getting WAL. One that can't connect isn't: what is archived is then
    /// what there is.
    fn is_streaming(&self) -> Result<bool, Refusal> {
        let receiver = board::ask(self.archive).map_err(|error| {
            Refusal::new(Kind::Unsure, format!("the receiver doesn't answer: {error}"))
        })?;
        let state = receiver.as_ref().and_then(|receiver| receiver["state"].as_str());
        Ok(state.is_some_and(|state| !matches!(state, "connecting" | "stopping")))
    }
}

fn explain(absence: Absence) -> Refusal {
    match absence {
        Absence::There | Absence::Partial { .. } => moved(),
        Absence::PastTheEnd { end } if end.is_valid() => {
            Refusal::new(Kind::Absent, format!("it isn't there: what is archived ends at {end}"))
        }
        Absence::PastTheEnd { .. } => {
            Refusal::new(Kind::Absent, "it isn't there, and nothing that belongs to it")
        }
        Absence::Left { at, .. } => {
            Refusal::new(Kind::Absent, format!("it isn't there: its timeline was left at {at}"))
        }
        Absence::Expired { before, at } => Refusal::new(
            Kind::Hole,
            format!(
                "it isn't there any more: it was expired ({at}), and what is kept of its timeline \
                 begins at {before}"
            ),
        ),
        Absence::Hole { why } => Refusal::new(
            Kind::Hole,
            format!(
                "it is missing: {why}. `seawall gaps` tells what is; put it back from a copy, or \
                 with `seawall archive-wal`"
            ),
        ),
        Absence::Unknown { why } => {
            let message = format!("it isn't there, and {why}: is this the right archive?");
            Refusal::new(Kind::Unsure, message)
        }
    }
}

/// It came, or got its final name, between two looks.
fn moved() -> Refusal {
    Refusal::new(Kind::Unsure, "it is just coming")
}

impl From<ArchiveError> for Refusal {
    fn from(error: ArchiveError) -> Self {
        let kind = match error {
            ArchiveError::Disk(error) => return error.into(),
            ArchiveError::Damaged { .. }
            | ArchiveError::OddSize { .. }
            | ArchiveError::BadHistory(_) => Kind::Damaged,
            _ => Kind::Unsure,
        };
        let hint = match error {
            ArchiveError::NoArchive => "; it isn't there, or isn't mounted",
            _ => "",
        };
        Self::new(kind, format!("{error}{hint}"))
    }
}

impl From<DiskError> for Refusal {
    fn from(error: DiskError) -> Self {
        let corrupt = error.kind() == ErrorKind::Corrupt;
        let kind = if corrupt { Kind::Damaged } else { Kind::Unsure };
        Self::new(kind, error.to_string())
    }
}

impl Refusal {
    /// What the target's file system said.
    pub(super) fn target(what: &str, path: &Path, error: &io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there",
            _ => "",
        };
        Self::new(Kind::Unsure, format!("can't {what} {}: {error}{hint}", path.display()))
    }
}
