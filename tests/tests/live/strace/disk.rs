//! What the traced calls have left on the disk: for another process to read, and for a power loss
//! to leave.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use pg_types::{Lsn, SegmentNumber, SegmentSize, TimelineId, WalFileName};
use testkit::servers::{Server, is_segment_name};

use super::Status;
use super::calls::{System, ThreadId};
use crate::common::Must;

const SIZE: SegmentSize = SegmentSize::MIN;

/// The directory of the segments.
const WAL_DIR: &str = "wal";

/// A segment's bytes, by its final name.
type Images = BTreeMap<String, Vec<u8>>;

/// A call that hasn't ended yet, with what it will have done.
enum Pending {
    Write { segment: String, offset: usize, bytes: Vec<u8> },
    /// What was written before the sync was called.
    Sync { segment: String, image: Vec<u8> },
    SyncNames { names: BTreeSet<String> },
    Rename { from: String, to: String },
    Nothing,
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct TracedDisk {
    pending: BTreeMap<ThreadId, Pending>,
    written: Images,
    durable: Images,
    names: BTreeSet<String>,
    durable_names: BTreeSet<String>,
    /// Where the first segment starts that was written to.
    start: Option<Lsn>,
}

impl TracedDisk {
    pub(super) fn begin(&mut self, thread: ThreadId, call: System) {
        let pending = match call {
            System::Write { file, offset, bytes } => match segment_in(&file) {
                Some(segment) => {
                    Pending::Write { segment, offset: usize::try_from(offset).must(), bytes }
                }
                None => Pending::Nothing,
            },
            System::Sync { file } if file == WAL_DIR => {
                Pending::SyncNames { names: self.names.clone() }
            }
            System::Sync { file } => match segment_in(&file) {
                Some(segment) => {
                    let image = self.written.get(&segment).cloned().unwrap_or_default();
                    Pending::Sync { segment, image }
                }
                None => Pending::Nothing,
            },
            System::Rename { from, to } => Pending::Rename { from, to },
            System::Send { .. } | System::Other => Pending::Nothing,
        };
        self.pending.insert(thread, pending);
    }

    pub(super) fn end(&mut self, thread: ThreadId, well: bool) {
        let Some(pending) = self.pending.remove(&thread).filter(|_| well) else { return };
        match pending {
            Pending::Write { segment, offset, bytes } => {
                let image = self.written.entry(segment).or_default();
                let end = offset + bytes.len();
                image.resize(image.len().max(end), 0);
                image[offset..end].copy_from_slice(&bytes);
            }
            Pending::Sync { segment, image } => {
                self.durable.insert(segment, image);
            }
            Pending::SyncNames { names } => self.durable_names = names,
            Pending::Rename { from, to } => {
                self.names.remove(&from);
                self.names.insert(to);
            }
            Pending::Nothing => {}
        }
    }

    /// Whether what a status message says is so: `write` would survive the process, and `flush` a
    /// power loss, each with the primary's bytes.
    pub(super) fn assert_holds(&mut self, status: Status, server: &Server) {
        let Status { write, flush } = status;
        assert!(flush <= write, "flush {flush} is past write {write}");
        if self.start.is_none() {
            let first = self.written.keys().next();
            self.start = first.and_then(|name| WalFileName::parse(name, SIZE)?.start(SIZE));
        }
        let end_of = |images: &Images, until: Lsn, names: &BTreeSet<String>, what: &str| {
            // Segments before are complete, and were looked at when they were current.
            let number = until.saturating_since(Lsn::new(1)) / SIZE.bytes();
            let number = SegmentNumber::new(number);
            let start = number.start(SIZE);
            let name = WalFileName::segment(TimelineId::FIRST, number).display(SIZE).to_string();
            let len = usize::try_from(until.saturating_since(start)).must();
            let ours = images.get(&name).and_then(|image| image.get(..len));
            let theirs = fs::read(server.wal_dir().join(&name)).must();
            assert!(
                ours == theirs.get(..len),
                "{what} {until}: {name} has no {len} bytes of the primary's yet, but {:?}",
                images.get(&name).map(Vec::len)
            );
            let partial = format!("{name}.partial");
            assert!(
                names.contains(&partial) || names.contains(&name),
                "{what} {until}: {name} hasn't its name yet: {names:?}"
            );
            // The one before is whole.
            if Some(start) > self.start {
                let before = WalFileName::segment(TimelineId::FIRST, number.previous().unwrap_or(number));
                let before = before.display(SIZE).to_string();
                let whole = images.get(&before).map(Vec::len) == usize::try_from(SIZE.bytes()).ok();
                assert!(whole, "{what} {until}: {before} isn't complete");
            }
        };
        if write.is_valid() {
            end_of(&self.written, write, &self.names, "written up to");
        }
        if flush.is_valid() {
            end_of(&self.durable, flush, &self.durable_names, "flushed up to");
        }
    }
}

/// The final name of the segment whose file this is, by whatever name it goes now.
fn segment_in(file: &str) -> Option<String> {
    let name = file.trim_start_matches('.').get(..24)?;
    is_segment_name(name).then(|| name.to_owned())
}
