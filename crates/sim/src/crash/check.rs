//! What must hold of an archive: its bytes are the primary's, its names are what was said.
//!
//! All reading is done on a copy of the disk, so that a fault which is still to come hits the
//! archive and not the check.

use std::path::Path;

use archive::{Archive, Layout, Resume, Stored};
use disk::sim::SimDisk;
use disk::{Access, AlignedBuf, Files};
use pg_types::{Lsn, SegmentNumber, WalFileName};

use super::{Ledger, Primary, Trouble, Violation};

/// I3: a segment that was said to be sealed has its name after whatever happened, and its bytes.
pub(super) fn sealed(
    disk: &SimDisk,
    primary: &Primary,
    ledger: &Ledger,
    trouble: Trouble,
) -> Result<(), Violation> {
    let disk = &disk.kill();
    for number in &ledger.sealed {
        let path = path(primary, WalFileName::segment(primary.timeline(), *number));
        // What isn't settled may be wrong where the stream was, and may be withdrawn.
        let settled = number.end(primary.segment_size()) <= ledger.flush;
        let there = disk.len(&path).ok().flatten().is_some();
        let sure = settled || trouble != Trouble::Stream;
        if there && sure {
            same(disk, primary, &path, *number, Lsn::MAX)?;
        } else if !there && sure {
            let what = format!("{} was said to be sealed, and isn't there", path.display());
            return Err(Violation::new(what).logged(disk));
        }
    }
    for (path, bytes) in &ledger.evidence {
        if disk.read(path, usize::MAX).ok().as_ref() != Some(&**bytes) {
            let what = format!("{} was said to be kept, and isn't there", path.display());
            return Err(Violation::new(what).logged(disk));
        }
    }
    Ok(())
}

/// I1, I2, I4: what was acknowledged is proved, what is proved is the primary's, without a hole.
pub(super) fn resumed(
    disk: &SimDisk,
    primary: &Primary,
    ledger: &Ledger,
    resume: &Resume,
    trouble: Trouble,
) -> Result<(), Violation> {
    let disk = &disk.kill();
    let proved = resume.proved();
    let wrong = |what: String| Err(Violation::new(what).logged(disk));
    if proved < ledger.flush {
        return wrong(format!("{} was acknowledged, and {proved} is proved", ledger.flush));
    }
    if proved < ledger.write {
        return wrong(format!("{} was acknowledged as written, {proved} is proved", ledger.write));
    }
    if proved > primary.end() || resume.start > primary.end() {
        return wrong(format!("{proved} is proved, past the end {}", primary.end()));
    }
    let size = primary.segment_size();
    let mut number = primary.start().segment(size);
    while number.start(size) < resume.start {
        let path = path(primary, WalFileName::segment(primary.timeline(), number));
        // Behind what is proved lies a record of which not all has come.
        let until = if trouble == Trouble::Stream { proved } else { Lsn::MAX };
        same(disk, primary, &path, number, until)?;
        number = number.next();
    }
    if let Stored::Partial { .. } = resume.stored {
        let path = path(primary, WalFileName::partial(primary.timeline(), number));
        same(disk, primary, &path, number, proved)?;
    }
    if trouble == Trouble::Nothing && !resume.notes.is_empty() {
        return wrong(format!("a crash alone leaves nothing to mend: {:?}", resume.notes));
    }
    Ok(())
}

/// I5: in the end the archive holds what the primary has, under the right names, and nothing else.
pub(super) fn converged(
    disk: &SimDisk,
    primary: &Primary,
    archive: &Archive,
    trouble: Trouble,
) -> Result<(), Violation> {
    let disk = &disk.kill();
    let size = primary.segment_size();
    let timeline = primary.timeline();
    let mut expected = Vec::new();
    let mut number = primary.start().segment(size);
    while number.end(size) <= primary.end() {
        let path = path(primary, WalFileName::segment(timeline, number));
        same(disk, primary, &path, number, Lsn::MAX)?;
        expected.push(path);
        number = number.next();
    }
    let partial = path(primary, WalFileName::partial(timeline, number));
    same(disk, primary, &partial, number, primary.end())?;
    expected.push(partial);
    expected.push(archive.layout().prepared(timeline, number.next()));
    let names = |dir| disk.names(Path::new(dir)).map_err(|e| Violation::new(e.to_string()));
    for name in names(Layout::WAL)? {
        if !expected.contains(&Path::new(Layout::WAL).join(&name)) {
            return Err(Violation::new(format!("{name} is left over")));
        }
    }
    let aside = names(Layout::QUARANTINE)?;
    if trouble != Trouble::Stream && !aside.is_empty() {
        return Err(Violation::new(format!("{aside:?} were set aside without a reason")));
    }
    Ok(())
}

/// Whether a segment's bytes before `until` are the primary's.
fn same(
    disk: &SimDisk,
    primary: &Primary,
    path: &Path,
    number: SegmentNumber,
    until: Lsn,
) -> Result<(), Violation> {
    let wrong = |what: String| Violation::new(what).logged(disk);
    let start = number.start(primary.segment_size());
    let len = usize::try_from(primary.segment_size().bytes()).unwrap_or(usize::MAX);
    let mut buf = AlignedBuf::zeroed(len);
    let read = disk.open_read(path, Access::Direct).and_then(|file| file.read_at(0, &mut buf, len));
    let read = read.map_err(|error| wrong(format!("I4: {error}")))?;
    if read != len {
        return Err(wrong(format!("I2: {} has {read} bytes", path.display())));
    }
    let wanted = usize::try_from(until.saturating_since(start)).unwrap_or(usize::MAX).min(len);
    let truth = primary.bytes(start, wanted);
    let stored = &buf[..truth.len()];
    if truth == stored {
        return Ok(());
    }
    let same = truth.iter().zip(stored).take_while(|(truth, stored)| truth == stored).count();
    let lsn = start.saturating_add(same as u64);
    Err(wrong(format!("I2: {} differs from the primary at {lsn}", path.display())))
}

/// Every segment's name and bytes, to show that nothing has changed.
pub(super) fn contents(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let disk = disk.kill();
    let mut names = disk.names(Path::new(Layout::WAL)).unwrap_or_default();
    names.retain(|name| !name.starts_with('.'));
    let read = |name: String| {
        let bytes = disk.read(&Path::new(Layout::WAL).join(&name), usize::MAX).unwrap_or_default();
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

fn path(primary: &Primary, name: WalFileName) -> std::path::PathBuf {
    Path::new(Layout::WAL).join(name.display(primary.segment_size()).to_string())
}
