//! What was promised, to whom it can't be taken back: kept outside of everything that crashes.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use archive::Writer;
use disk::Files;
use disk::sim::{PowerLoss, SimDisk};
use pg_types::{Acknowledgement, Lsn, SegmentNumber};

/// An invariant is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which, and how.
    pub what: String,
    /// Where in the exploration: the operations and crashes before it.
    pub context: String,
    /// The disk's last operations.
    pub log: String,
}

/// Lines of a disk's log that are worth reading with a violation.
const LOG_LINES: usize = 40;

impl Violation {
    /// This one.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), context: String::new(), log: String::new() }
    }

    /// With what the disk did last, if nothing further inside has said so.
    #[must_use]
    pub(crate) fn logged(mut self, disk: &SimDisk) -> Self {
        if self.log.is_empty() {
            let log = disk.log();
            let lines: Vec<&str> = log.lines().collect();
            self.log = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        }
        self
    }

    /// The same, seen from further outside.
    #[must_use]
    pub(crate) fn within(mut self, context: impl fmt::Display) -> Self {
        self.context = format!("{context}\n{}", self.context);
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}{}", self.what, self.context, self.log)
    }
}

impl std::error::Error for Violation {}

/// What is acknowledged: the rule, or a mutant of it that must be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckRule {
    /// As the writer says.
    Right,
    /// Flushed as soon as it is durable, proved or not.
    DurableUnproved,
    /// Flushed as soon as it is proved.
    ProvedNotDurable,
    /// Flushed as soon as it is written.
    WrittenAsFlushed,
    /// Flushed as soon as it has come.
    ReceivedAsFlushed,
    /// Written as soon as it is proved.
    ProvedAsWritten,
    /// The lesser of proved and durable, which may be in the middle of a record.
    WithinARecord,
    /// Also while what was acknowledged before comes again.
    BelowTheFloor,
}

impl AckRule {
    pub(crate) fn of(self, writer: &Writer) -> Option<Acknowledgement> {
        let positions = writer.positions();
        let right = writer.acknowledgement();
        let flush = match self {
            Self::Right => return right,
            Self::BelowTheFloor => return Some(positions.acknowledgement()),
            Self::ProvedAsWritten => {
                return right.map(|ack| Acknowledgement { write: positions.proved.0, ..ack });
            }
            Self::WithinARecord => positions.acknowledgement().flush,
            Self::DurableUnproved => positions.durable.0,
            Self::ProvedNotDurable => positions.proved.0,
            Self::WrittenAsFlushed => positions.written.0.min(positions.proved.0),
            Self::ReceivedAsFlushed => positions.received.0,
        };
        right.map(|ack| Acknowledgement { flush, write: ack.write.max(flush) })
    }
}

/// The greatest of what was ever promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// The greatest flush that was acknowledged.
    pub flush: Lsn,
    /// The greatest write.
    pub write: Lsn,
    /// Segments that are said to be sealed.
    pub sealed: BTreeSet<SegmentNumber>,
    /// Files that were set aside as evidence, and their bytes.
    pub evidence: Vec<(PathBuf, Arc<Vec<u8>>)>,
}

impl Ledger {
    /// Nothing is promised before `start`.
    #[must_use]
    pub fn new(start: Lsn) -> Self {
        Self { flush: start, write: start, sealed: BTreeSet::new(), evidence: Vec::new() }
    }

    /// Remembers what was set aside.
    pub(crate) fn keep(&mut self, disk: &SimDisk, path: PathBuf) {
        if let Ok(bytes) = disk.read(&path, usize::MAX) {
            self.evidence.push((path, Arc::new(bytes)));
        }
    }

    pub(crate) fn acknowledge(&mut self, ack: Acknowledgement) -> Result<(), Violation> {
        if ack.flush < self.flush || ack.write < self.write {
            let (flush, write) = (self.flush, self.write);
            let what = format!("acknowledged {ack:?} after write {write}, flush {flush}");
            return Err(Violation::new(what));
        }
        if ack.write < ack.flush {
            return Err(Violation::new(format!(
                "acknowledged as flushed what isn't written: {ack:?}"
            )));
        }
        (self.flush, self.write) = (ack.flush, ack.write);
        Ok(())
    }

    /// What of it a loss of power leaves standing.
    pub(crate) fn after_power_loss(&self, loss: PowerLoss) -> Self {
        let mut left = self.clone();
        left.write = left.flush;
        if loss == PowerLoss::LyingFsync {
            left.sealed.clear();
            left.evidence.clear();
        }
        left
    }
}
