//! The simulated file system: files and names, live and durable.
//!
//! Invariant: `live` is what processes see; `posix` and `journal` are what survives a power loss
//! for sure, by POSIX (each directory by its own fsync) and by an ordered journal (all names up to
//! a moment). Both logs hold every name change that isn't in their base yet, in order.
//! Never decides what a crash leaves: `loss` does, from here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use std::sync::Arc;

use rustix::io::Errno;

use super::inode::Inode;
use super::rng::Rng;

pub(super) type Ino = u64;
pub(super) type Names = BTreeMap<Arc<str>, Ino>;

pub(super) const ROOT: Ino = 1;

/// What a surviving rename over an older file brings with it in ext4's ordered mode.
#[derive(Clone, Copy)]
pub(super) struct Flush {
    pub(super) ino: Ino,
    /// All writes up to this one.
    pub(super) seq: u64,
    /// At least this length.
    pub(super) len: u64,
    /// Whether that holds whenever the name survives, and not only once the journal is synced.
    pub(super) atomic: bool,
}

/// One name set or removed. A rename is two that share their `group`.
#[derive(Clone)]
pub(super) struct NameChange {
    pub(super) seq: u64,
    pub(super) group: u64,
    pub(super) dir: Ino,
    pub(super) name: Arc<str>,
    pub(super) to: Option<Ino>,
    pub(super) flush: Option<Flush>,
}

/// Durable names, and the changes that aren't.
#[derive(Clone, Default)]
pub(super) struct NameLog {
    pub(super) base: BTreeMap<Ino, Arc<Names>>,
    pub(super) pending: Vec<NameChange>,
}

impl NameLog {
    /// Makes durable what matches; the rest stays pending.
    fn absorb(&mut self, mut covered: impl FnMut(&NameChange) -> bool) -> Vec<Flush> {
        let mut flushes = Vec::new();
        let base = &mut self.base;
        self.pending.retain(|change| {
            if !covered(change) {
                return true;
            }
            apply(base, change);
            flushes.extend(change.flush);
            false
        });
        flushes
    }
}

pub(super) fn apply(names: &mut BTreeMap<Ino, Arc<Names>>, change: &NameChange) {
    let dir = Arc::make_mut(names.entry(change.dir).or_default());
    match change.to {
        Some(ino) => dir.insert(Arc::clone(&change.name), ino),
        None => dir.remove(&change.name),
    };
}

#[derive(Clone)]
pub(super) struct Image {
    pub(super) inodes: BTreeMap<Ino, Arc<Inode>>,
    pub(super) dirs: BTreeSet<Ino>,
    pub(super) live: BTreeMap<Ino, Arc<Names>>,
    pub(super) posix: NameLog,
    pub(super) journal: NameLog,
    /// Grows with every change.
    pub(super) seq: u64,
    pub(super) next_ino: Ino,
    /// Names have gone since unreachable files were last forgotten.
    pub(super) littered: bool,
}

impl Image {
    pub(super) fn new() -> Self {
        Self {
            inodes: BTreeMap::new(),
            dirs: BTreeSet::from([ROOT]),
            live: BTreeMap::new(),
            posix: NameLog::default(),
            journal: NameLog::default(),
            seq: 0,
            next_ino: ROOT + 1,
            littered: false,
        }
    }

    pub(super) fn lookup(&self, path: &Path) -> Result<Ino, Errno> {
        let mut at = ROOT;
        for component in path.components() {
            match component {
                Component::CurDir => {}
                Component::Normal(name) => {
                    let name = name.to_str().ok_or(Errno::INVAL)?;
                    if !self.dirs.contains(&at) {
                        return Err(Errno::NOTDIR);
                    }
                    at = self.child(at, name).ok_or(Errno::NOENT)?;
                }
                _ => return Err(Errno::INVAL),
            }
        }
        Ok(at)
    }

    pub(super) fn lookup_file(&self, path: &Path) -> Result<Ino, Errno> {
        let ino = self.lookup(path)?;
        if self.dirs.contains(&ino) { Err(Errno::ISDIR) } else { Ok(ino) }
    }

    pub(super) fn lookup_dir(&self, path: &Path) -> Result<Ino, Errno> {
        let ino = self.lookup(path)?;
        if self.dirs.contains(&ino) { Ok(ino) } else { Err(Errno::NOTDIR) }
    }

    pub(super) fn names(&self, dir: Ino) -> impl Iterator<Item = (&Arc<str>, Ino)> {
        self.live.get(&dir).into_iter().flat_map(|names| names.iter().map(|(n, ino)| (n, *ino)))
    }

    pub(super) fn file(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get(&ino).map(Arc::as_ref)
    }

    pub(super) fn file_mut(&mut self, ino: Ino) -> Option<&mut Inode> {
        self.inodes.get_mut(&ino).map(Arc::make_mut)
    }

    pub(super) fn create(&mut self, path: &Path, size: u64) -> Result<Ino, Errno> {
        let (dir, name) = self.free_name(path)?;
        let ino = self.next_ino;
        self.next_ino += 1;
        let seq = self.tick();
        let mut inode = Inode { fresh: true, ..Inode::default() };
        inode.extend(seq, size);
        self.inodes.insert(ino, Arc::new(inode));
        let flush = Some(Flush { ino, seq, len: size, atomic: false });
        self.change(NameChange { seq, group: seq, dir, name, to: Some(ino), flush });
        Ok(ino)
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> Result<(), Errno> {
        let (dir, name) = self.free_name(path)?;
        let ino = self.next_ino;
        self.next_ino += 1;
        self.dirs.insert(ino);
        let seq = self.tick();
        self.change(NameChange { seq, group: seq, dir, name, to: Some(ino), flush: None });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, replace: bool) -> Result<(), Errno> {
        let ino = self.lookup(from)?;
        let (from_dir, from_name) = self.parent(from)?;
        let (dir, name) = self.parent(to)?;
        let old = self.child(dir, &name);
        if old.is_some() && !replace {
            return Err(Errno::EXIST);
        }
        if old.is_some_and(|old| self.dirs.contains(&old)) {
            return Err(Errno::ISDIR);
        }
        if old == Some(ino) {
            // rename(2) of two names of one file does nothing.
            return Ok(());
        }
        let seq = self.tick();
        let len = self.file(ino).map_or(0, |inode| inode.len);
        let flush = old.map(|_| Flush { ino, seq, len, atomic: true });
        let link = NameChange { seq, group: seq, dir, name, to: Some(ino), flush };
        let unlink = NameChange { to: None, flush: None, ..link.clone() };
        self.change(link);
        self.change(NameChange { dir: from_dir, name: from_name, ..unlink });
        Ok(())
    }

    /// A second name for a file.
    pub(super) fn link(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let ino = self.lookup_file(from)?;
        let (dir, name) = self.free_name(to)?;
        let seq = self.tick();
        self.change(NameChange { seq, group: seq, dir, name, to: Some(ino), flush: None });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> Result<(), Errno> {
        self.lookup_file(path)?;
        let (dir, name) = self.parent(path)?;
        let seq = self.tick();
        self.change(NameChange { seq, group: seq, dir, name, to: None, flush: None });
        Ok(())
    }

    /// A successful fsync of a file that began at `start`.
    pub(super) fn sync_file(&mut self, ino: Ino, start: u64) {
        let dirty = self.file(ino).is_some_and(Inode::is_metadata_dirty);
        if let Some(inode) = self.file_mut(ino) {
            inode.sync(start);
        }
        if dirty {
            self.commit_journal(start);
        }
    }

    pub(super) fn fail_sync_file(&mut self, ino: Ino, start: u64, rng: &mut Rng) {
        if let Some(inode) = self.file_mut(ino) {
            inode.fail_sync(start, rng);
        }
    }

    /// A successful fsync of a directory that began at `start`.
    pub(super) fn sync_dir(&mut self, dir: Ino, start: u64) {
        self.posix.absorb(|change| change.dir == dir && change.seq <= start);
        self.commit_journal(start);
        self.littered = true;
    }

    /// Forgets files that no name, no log and no open handle leads to.
    pub(super) fn forget_unreachable(&mut self, open: &BTreeSet<Ino>) {
        if !self.littered {
            return;
        }
        self.littered = false;
        let mut kept = open.clone();
        kept.insert(ROOT);
        for log in [&self.posix, &self.journal] {
            kept.extend(log.base.values().flat_map(|names| names.values().copied()));
            kept.extend(log.pending.iter().filter_map(|change| change.to));
        }
        kept.extend(self.live.values().flat_map(|names| names.values().copied()));
        self.inodes.retain(|ino, _| kept.contains(ino));
    }

    /// The bytes that files with a live name, or open, take up.
    pub(super) fn used_bytes(&self, open: &BTreeSet<Ino>) -> u64 {
        let mut inos = open.clone();
        inos.extend(self.live.values().flat_map(|names| names.values().copied()));
        let block = crate::BLOCK as u64;
        inos.iter()
            .filter_map(|ino| self.file(*ino))
            .map(|inode| inode.len.div_ceil(block) * block)
            .fold(0, u64::saturating_add)
    }

    pub(super) fn tick(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn commit_journal(&mut self, start: u64) {
        for flush in self.journal.absorb(|change| change.seq <= start) {
            if let Some(inode) = self.file_mut(flush.ino) {
                inode.ordered_seq = inode.ordered_seq.max(flush.seq);
                inode.ordered_len = inode.ordered_len.max(flush.len);
            }
        }
    }

    fn change(&mut self, change: NameChange) {
        let dir = self.live.entry(change.dir).or_default();
        self.littered |= dir.contains_key(&change.name);
        apply(&mut self.live, &change);
        self.posix.pending.push(change.clone());
        self.journal.pending.push(change);
    }

    fn child(&self, dir: Ino, name: &str) -> Option<Ino> {
        self.live.get(&dir)?.get(name).copied()
    }

    /// The directory that a path's last name is or would be in, and that name.
    fn parent(&self, path: &Path) -> Result<(Ino, Arc<str>), Errno> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(Errno::INVAL)?;
        let dir = self.lookup_dir(path.parent().unwrap_or(Path::new("")))?;
        Ok((dir, name.into()))
    }

    fn free_name(&self, path: &Path) -> Result<(Ino, Arc<str>), Errno> {
        let (dir, name) = self.parent(path)?;
        if self.child(dir, &name).is_some() { Err(Errno::EXIST) } else { Ok((dir, name)) }
    }
}
