//! Faults that a test injects, and mutants that a test must catch.
//!
//! A *fault* is something that a disk does: an operation fails, and says so. A *mutation* is a
//! bug in the code above, played by the disk: an operation says that it has been done, and hasn't.

use std::path::Path;

use rustix::io::Errno;

use crate::{Lane, OpKind};

/// A set of kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpClass {
    /// Every operation, also those that only read.
    Any,
    /// Every operation that changes what a crash can find: those that `operations()` counts.
    Change,
    /// All three kinds of sync.
    Sync,
    /// Writes and appends.
    Write,
    /// One kind.
    Kind(OpKind),
}

impl OpClass {
    /// Whether the kind is in the set.
    #[must_use]
    pub fn has(self, kind: OpKind) -> bool {
        match self {
            Self::Any => true,
            Self::Change => kind.is_change(),
            Self::Sync => kind.is_sync(),
            Self::Write => matches!(kind, OpKind::Write | OpKind::Append | OpKind::Zero),
            Self::Kind(one) => one == kind,
        }
    }
}

/// Which operation a fault hits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpMatch {
    /// The kinds that count.
    pub class: OpClass,
    /// Only operations on a path that contains this; for renames either path counts.
    pub path: Option<String>,
    /// So many matching operations, from the injection on, are let pass; 0 hits the next one.
    pub nth: u64,
}

impl OpMatch {
    /// The nth operation of a class, from now, counted from 0.
    #[must_use]
    pub fn nth(class: OpClass, nth: u64) -> Self {
        Self { class, path: None, nth }
    }

    /// The next operation of a class.
    #[must_use]
    pub fn next(class: OpClass) -> Self {
        Self::nth(class, 0)
    }

    /// Only where a path contains this.
    #[must_use]
    pub fn on(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    fn has(&self, kind: OpKind, paths: [Option<&Path>; 2]) -> bool {
        self.class.has(kind)
            && self.path.as_ref().is_none_or(|wanted| {
                paths.into_iter().flatten().any(|path| path.to_string_lossy().contains(wanted))
            })
    }
}

/// What happens to the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// EIO. A write may have been done up to any sector; a sync loses what it should have synced
    /// (see [`FsyncFailsThenSucceeds`](Self::FsyncFailsThenSucceeds)).
    Eio,
    /// ENOSPC. A write may have been done up to any sector.
    Enospc,
    /// EROFS; nothing is done.
    Erofs,
    /// A write is done in two halves and succeeds; no effect on other operations.
    ShortWrite,
    /// The system call is interrupted and repeated: no effect that a caller may see.
    Eintr,
    /// A sync fails with EIO. The file's dirty pages are dropped and their content on the platter
    /// is the old one, direct writes are lost or not; the next sync succeeds without them, and
    /// buffered reads may still show them. The names of a directory stay undecided until its
    /// next sync. No effect on other operations.
    FsyncFailsThenSucceeds,
}

impl FaultKind {
    /// The error that an operation of this kind ends with.
    pub(super) fn errno(self, kind: OpKind) -> Option<Errno> {
        match self {
            Self::Eio => Some(Errno::IO),
            Self::Enospc => Some(Errno::NOSPC),
            Self::Erofs => Some(Errno::ROFS),
            Self::ShortWrite | Self::Eintr => None,
            Self::FsyncFailsThenSucceeds => kind.is_sync().then_some(Errno::IO),
        }
    }
}

/// How often a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Times {
    /// To so many matching operations in a row.
    Count(u32),
    /// To every matching operation from the first one on, until the faults are cleared.
    Forever,
}

/// A fault to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which operation it hits first.
    pub at: OpMatch,
    /// What happens.
    pub what: FaultKind,
    /// How often.
    pub times: Times,
}

/// A bug of the code above, played by the disk. Stays through crashes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mutation {
    /// Syncs of this class on a path of this pattern succeed without effect. In a pattern `*`
    /// stands for anything: `wal` is that directory, `wal/*.partial` the files. A file goes by
    /// the name that it has at the time.
    DropSync {
        /// The kinds of sync.
        class: OpClass,
        /// The paths.
        path: String,
    },
    /// As [`DropSync`](Self::DropSync), but only some of them.
    DropSyncIn {
        /// The lane; `None` for the blocking view.
        lane: Option<Lane>,
        /// The kinds of sync.
        class: OpClass,
        /// The paths.
        path: String,
        /// The last rename before it, as `from -> to`; `*` for any, or none so far.
        after: String,
    },
    /// A sync that directly follows a write of the same file in its chain takes effect before
    /// the write.
    SyncBeforeWrite,
    /// Syncs are reported when they are submitted, and done later.
    CompleteBeforeDone,
}

impl Mutation {
    /// `lane` and `renamed` are those of [`DropSyncIn`](Self::DropSyncIn).
    pub(super) fn drops(
        &self,
        kind: OpKind,
        path: &Path,
        in_lane: Option<Lane>,
        renamed: &str,
    ) -> bool {
        match self {
            Self::DropSyncIn { lane, class, path: pattern, after } => {
                *lane == in_lane
                    && kind.is_sync()
                    && class.has(kind)
                    && glob(pattern, &path.to_string_lossy())
                    && glob(after, renamed)
            }
            Self::DropSync { class, path: pattern } => {
                kind.is_sync() && class.has(kind) && glob(pattern, &path.to_string_lossy())
            }
            _ => false,
        }
    }
}

#[derive(Clone)]
struct Active {
    fault: Fault,
    /// Matching operations to let pass.
    skip: u64,
}

/// The faults that are still to come.
#[derive(Clone, Default)]
pub(super) struct Faults {
    active: Vec<Active>,
    /// How many have happened.
    pub(super) happened: u64,
}

impl Faults {
    pub(super) fn inject(&mut self, fault: Fault) {
        if fault.times != Times::Count(0) {
            self.active.push(Active { skip: fault.at.nth, fault });
        }
    }

    pub(super) fn clear(&mut self) {
        self.active.clear();
    }

    /// Counts an operation, and says what happens to it. Where two faults hit, the first
    /// injected one does.
    pub(super) fn hit(&mut self, kind: OpKind, paths: [Option<&Path>; 2]) -> Option<FaultKind> {
        let mut hit = None;
        self.active.retain_mut(|active| {
            if !active.fault.at.has(kind, paths) {
                return true;
            }
            if active.skip > 0 {
                active.skip -= 1;
                return true;
            }
            if hit.is_some() {
                return true;
            }
            hit = Some(active.fault.what);
            match &mut active.fault.times {
                Times::Forever => true,
                Times::Count(left) => {
                    *left -= 1;
                    *left > 0
                }
            }
        });
        self.happened += u64::from(hit.is_some());
        hit
    }
}

/// Whether `*` in the pattern can be filled in so that it is the text.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| glob(tail, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expect) in [
            ("wal", "wal", true),
            ("wal", "wal/x", false),
            ("wal/*", "wal/x", true),
            ("*.partial", "wal/1.partial", true),
            ("*.partial", "wal/1.partial.tmp", false),
            ("wal/.*.tmp", "wal/.a.tmp", true),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, text), expect, "{pattern} {text}");
        }
    }

    #[test]
    fn a_fault_hits_the_nth_and_so_often() {
        let mut faults = Faults::default();
        let at = OpMatch::nth(OpClass::Sync, 1).on("b");
        faults.inject(Fault { at, what: FaultKind::Eio, times: Times::Count(2) });
        let mut hit = |kind, path| faults.hit(kind, [Some(Path::new(path)), None]).is_some();
        assert!(!hit(OpKind::Write, "b"));
        assert!(!hit(OpKind::SyncAll, "a"));
        assert!(!hit(OpKind::SyncAll, "b"));
        assert!(hit(OpKind::SyncData, "b"));
        assert!(!hit(OpKind::SyncData, "a"));
        assert!(hit(OpKind::SyncDir, "b"));
        assert!(!hit(OpKind::SyncDir, "b"));
    }
}
