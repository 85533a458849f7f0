//! What a power loss leaves.
//!
//! Purpose: from the state at one moment to what the next boot finds, chosen by a seed.
//!
//! Invariant, for every variant but the lying one: bytes that a successful fsync of the file
//! covered, and names that an fsync of their directory covered, are there.
//! Never invents a byte where something was durable: such a sector holds its old content or one
//! that was written to it since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::content::{Content, SECTOR};
use super::image::{Image, Ino, NameChange, NameLog, Names, ROOT, apply};
use super::inode::{Inode, Pending};
use super::rng::Rng;

/// Runs of garbage in one file that was never synced; enough to hit any reader, and cheap.
const GARBAGE_RUNS: u64 = 8;
/// Sectors in such a run at most: 64 KiB, some pages of any size.
const GARBAGE_SECTORS: u64 = 128;

/// How a disk loses power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PowerLoss {
    /// Only what POSIX promises. Of all that no successful fsync covered, any subset survives, in
    /// any order:
    ///
    /// - each 512-byte sector has its durable content, or that after any one of the writes since;
    /// - a file has its durable length, or that after any one of the changes since; sectors past
    ///   the durable length which didn't survive are zeros or garbage (stale bytes of other files
    ///   among it);
    /// - of the name changes that no fsync of *their* directory covered any subset survives, but
    ///   changes of the same name keep their order. A rename within a directory happened or
    ///   didn't. A rename between directories is one change too until one of the two is synced;
    ///   after that the other half stands alone: the target synced means both names may be
    ///   there, the source synced that neither may.
    StrictPosix,
    /// Like ext4 with `data=ordered` and `auto_da_alloc`:
    ///
    /// - the journal keeps name changes in their order, of all directories: a prefix survives,
    ///   and each fsync of any directory, and each of a file that is new or has grown, makes all
    ///   earlier ones durable;
    /// - overwritten sectors within the durable length are as with POSIX;
    /// - a length that survives implies the bytes of the writes that made the file grow so far;
    ///   allocated space that didn't survive reads as zeros, never garbage;
    /// - a surviving [`Op::Replace`](crate::Op::Replace) over an existing file implies all that
    ///   had been written to the new file before.
    Ext4Ordered,
    /// A disk that says that it has synced, and keeps the bytes in a volatile cache: the archive
    /// is as [`StrictPosix`](Self::StrictPosix) could have left it at one of the last
    /// sixteen or so syncs (the older, the fewer to choose from), or now.
    LyingFsync,
}

/// The file system that a boot after the power loss finds.
pub(super) fn survive(image: &Image, rng: &mut Rng, ordered: bool) -> Image {
    let mut flushed: BTreeMap<Ino, (u64, u64)> = BTreeMap::new();
    let names = if ordered {
        let survivors = choose_prefix(&image.journal, rng);
        for flush in survivors.iter().filter_map(|change| change.flush) {
            if flush.atomic {
                let entry = flushed.entry(flush.ino).or_default();
                *entry = (entry.0.max(flush.seq), entry.1.max(flush.len));
            }
        }
        applied(&image.journal, &survivors)
    } else {
        applied(&image.posix, &choose_subset(&image.posix, rng))
    };

    let mut booted = Image::new();
    booted.seq = image.seq;
    booted.next_ino = image.next_ino;
    let mut todo = vec![ROOT];
    let mut visited = BTreeSet::from([ROOT]);
    while let Some(dir) = todo.pop() {
        let Some(entries) = names.get(&dir) else { continue };
        booted.live.insert(dir, Arc::clone(entries));
        for ino in entries.values().copied() {
            if !visited.insert(ino) {
                continue;
            }
            if image.dirs.contains(&ino) {
                booted.dirs.insert(ino);
                todo.push(ino);
            } else if let Some(inode) = image.inodes.get(&ino) {
                let (content, len) = if ordered {
                    let floor = flushed.get(&ino).copied().unwrap_or_default();
                    ordered_file(inode, floor, rng)
                } else {
                    posix_file(inode, image, rng)
                };
                booted.inodes.insert(ino, Arc::new(Inode::booted(content, len)));
            }
        }
    }
    booted.posix.base = booted.live.clone();
    booted.journal.base = booted.live.clone();
    booted
}

fn applied(log: &NameLog, survivors: &[&NameChange]) -> BTreeMap<Ino, Arc<Names>> {
    let mut names = log.base.clone();
    for change in survivors {
        apply(&mut names, change);
    }
    names
}

/// An ordered journal: everything up to some moment.
fn choose_prefix<'a>(log: &'a NameLog, rng: &mut Rng) -> Vec<&'a NameChange> {
    let groups: BTreeSet<u64> = log.pending.iter().map(|change| change.group).collect();
    let kept = match rng.below(4) {
        0 => 0,
        1 => groups.len(),
        _ => rng.index(groups.len() + 1),
    };
    let kept: BTreeSet<u64> = groups.into_iter().take(kept).collect();
    log.pending.iter().filter(|change| kept.contains(&change.group)).collect()
}

/// POSIX: any subset, but a change of a name needs the earlier ones of that name.
fn choose_subset<'a>(log: &'a NameLog, rng: &mut Rng) -> Vec<&'a NameChange> {
    let groups: BTreeSet<u64> = log.pending.iter().map(|change| change.group).collect();
    let wish = Subset::choose(groups.len(), rng);
    let wished: BTreeSet<u64> = groups
        .into_iter()
        .enumerate()
        .filter(|(index, _)| wish.has(*index, rng))
        .map(|(_, group)| group)
        .collect();
    let mut survivors = Vec::new();
    let mut lost: BTreeSet<(Ino, &str)> = BTreeSet::new();
    let mut rest = log.pending.as_slice();
    while let Some(first) = rest.first() {
        // The changes of one group are neighbours, whatever has been absorbed between them.
        let end = rest.iter().take_while(|change| change.group == first.group).count();
        let (group, tail) = rest.split_at(end);
        rest = tail;
        let blocked = group.iter().any(|change| lost.contains(&(change.dir, &*change.name)));
        if wished.contains(&first.group) && !blocked {
            survivors.extend(group);
        } else {
            lost.extend(group.iter().map(|change| (change.dir, &*change.name)));
        }
    }
    survivors
}

/// Which of a number of changes survive. Coins alone would hardly ever show the extremes, which
/// is where the bugs are.
enum Subset {
    None,
    All,
    Prefix(usize),
    Suffix(usize),
    AllBut(usize),
    Coins,
}

impl Subset {
    fn choose(count: usize, rng: &mut Rng) -> Self {
        match rng.below(6) {
            0 => Self::None,
            1 => Self::All,
            2 => Self::Prefix(rng.index(count + 1)),
            3 => Self::Suffix(rng.index(count + 1)),
            4 => Self::AllBut(rng.index(count)),
            _ => Self::Coins,
        }
    }

    fn has(&self, index: usize, rng: &mut Rng) -> bool {
        match *self {
            Self::None => false,
            Self::All => true,
            Self::Prefix(end) => index < end,
            Self::Suffix(start) => index >= start,
            Self::AllBut(lost) => index != lost,
            Self::Coins => rng.coin(),
        }
    }
}

fn posix_file(inode: &Inode, image: &Image, rng: &mut Rng) -> (Content, u64) {
    let mut content = inode.durable.clone();
    if inode.pending.is_empty() {
        return (content, inode.durable_len);
    }
    let len = match rng.below(4) {
        0 => inode.durable_len,
        1 | 2 => inode.len,
        _ => inode.pending[rng.index(inode.pending.len())].len_after,
    };
    // Whether writes are torn or survive as wholes is one choice for the file.
    if rng.coin() {
        garbage(&mut content, inode, len, image, rng);
    }
    if rng.chance(1, 4) {
        choose_sectors(&mut content, inode, rng);
    } else {
        choose_writes(&mut content, &inode.pending, |_| false, rng);
    }
    content.truncate(len);
    (content, len)
}

fn ordered_file(inode: &Inode, floor: (u64, u64), rng: &mut Rng) -> (Content, u64) {
    let mut content = inode.durable.clone();
    let sure_seq = inode.ordered_seq.max(floor.0);
    let sure_len = inode.ordered_len.max(floor.1).max(inode.durable_len);
    let growths = inode.pending.iter().map(|change| change.len_after).filter(|len| *len > sure_len);
    let growths: BTreeSet<u64> = growths.collect();
    let len = match rng.below(4) {
        0 => sure_len,
        1 => inode.len.max(sure_len),
        _ => growths.into_iter().nth(rng.index(inode.pending.len())).unwrap_or(sure_len),
    };
    let mut before = inode.durable_len;
    let sure: Vec<bool> = inode
        .pending
        .iter()
        .map(|change| {
            let grew = change.len_after > before && !change.data.is_empty();
            before = before.max(change.len_after);
            change.seq <= sure_seq || (grew && change.len_after <= len)
        })
        .collect();
    choose_writes(&mut content, &inode.pending, |index| sure[index], rng);
    content.truncate(len);
    (content, len)
}

/// Lets writes survive as wholes, apart from one that is torn.
fn choose_writes(
    content: &mut Content,
    pending: &[Pending],
    sure: impl Fn(usize) -> bool,
    rng: &mut Rng,
) {
    let subset = Subset::choose(pending.len(), rng);
    let torn = rng.coin().then(|| rng.index(pending.len()));
    for (index, change) in pending.iter().enumerate() {
        if sure(index) {
            content.write(change.at, &change.data);
        } else if torn == Some(index) {
            tear(content, change, rng);
        } else if subset.has(index, rng) {
            content.write(change.at, &change.data);
        }
    }
}

/// Some sectors of one write: up to a place, from a place on, or any.
fn tear(content: &mut Content, change: &Pending, rng: &mut Rng) {
    let sectors = change.data.len() / SECTOR;
    let subset = match rng.below(3) {
        0 => Subset::Prefix(rng.index(sectors + 1)),
        1 => Subset::Suffix(rng.index(sectors + 1)),
        _ => Subset::Coins,
    };
    for (index, sector) in change.data.chunks(SECTOR).enumerate() {
        if subset.has(index, rng) {
            content.write(change.at + (index * SECTOR) as u64, sector);
        }
    }
}

/// Lets each sector have its durable content or that after any of its writes, on its own.
fn choose_sectors(content: &mut Content, inode: &Inode, rng: &mut Rng) {
    let mut versions: BTreeMap<u64, u64> = BTreeMap::new();
    for change in &inode.pending {
        for (index, sector) in change.data.chunks(SECTOR).enumerate() {
            let at = change.at + (index * SECTOR) as u64;
            let count = versions.entry(at).or_insert(1);
            *count += 1;
            // The k-th version replaces the choice so far once in k: all are equally likely.
            if rng.chance(1, *count) {
                content.write(at, sector);
            }
        }
    }
}

/// Puts garbage where nothing was ever durable; half of it where something was being written.
fn garbage(content: &mut Content, inode: &Inode, len: u64, image: &Image, rng: &mut Rng) {
    let sector = SECTOR as u64;
    let first = inode.durable_len.div_ceil(sector);
    let end = len.div_ceil(sector);
    if first >= end {
        return;
    }
    for _ in 0..=rng.below(GARBAGE_RUNS) {
        let written = &inode.pending[rng.index(inode.pending.len())];
        let near = written.at / sector + rng.below(written.data.len() as u64 / sector);
        let start = if rng.coin() { near.clamp(first, end - 1) } else { rng.range(first..end) };
        let sectors = rng.range(1..GARBAGE_SECTORS + 1).min(end - start);
        let mut bytes = vec![0u8; (sectors * sector) as usize];
        if rng.coin() {
            stale(&mut bytes, image, rng);
        } else {
            rng.fill(&mut bytes);
        }
        content.write(start * sector, &bytes);
    }
}

/// What another file holds: the meanest garbage, since its checksums are right.
fn stale(bytes: &mut [u8], image: &Image, rng: &mut Rng) {
    if let Some(other) = image.inodes.values().nth(rng.index(image.inodes.len())) {
        let pages = other.len / crate::BLOCK as u64;
        other.durable.read(rng.below(pages + 1) * crate::BLOCK as u64, bytes);
    }
}
