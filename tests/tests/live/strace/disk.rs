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
    Write {
        segment: String,
        offset: usize,
        bytes: Vec<u8>,
    },
    /// What was written before the sync was called.
    Sync {
        segment: String,
        image: Vec<u8>,
    },
    SyncNames {
        names: BTreeSet<String>,
    },
    Rename {
        from: String,
        to: String,
    },
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
    /// Where the stream starts.
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
        if self.written.is_empty() {
            // Where the stream starts nothing is claimed yet.
            let start = write.segment_start(SIZE);
            self.start = Some(start);
            assert_eq!((write, flush), (start, flush.min(start)), "nothing was written yet");
            return;
        }
        let written = Held { images: &self.written, names: &self.names, what: "written" };
        written.assert_up_to(write, self.start, server);
        let durable = Held { images: &self.durable, names: &self.durable_names, what: "flushed" };
        durable.assert_up_to(flush, self.start, server);
    }
}

/// What is there after one kind of end.
struct Held<'a> {
    images: &'a Images,
    names: &'a BTreeSet<String>,
    what: &'static str,
}

impl Held<'_> {
    /// Whether everything before `until` is there, as the primary has it. Segments before the
    /// current one are complete, and were compared when they were current.
    fn assert_up_to(&self, until: Lsn, start: Option<Lsn>, server: &Server) {
        let what = self.what;
        if until <= start.unwrap_or_default() {
            return;
        }
        let number = SegmentNumber::new(until.saturating_since(Lsn::new(1)) / SIZE.bytes());
        let name = segment_name(number);
        let len = usize::try_from(until.saturating_since(number.start(SIZE))).must();
        let ours = self.images.get(&name).and_then(|image| image.get(..len));
        let theirs = fs::read(server.wal_dir().join(&name));
        let theirs = theirs.unwrap_or_else(|error| panic!("the primary's {name}: {error}"));
        assert!(
            ours == theirs.get(..len),
            "{what} up to {until} is claimed: {name} hasn't {len} bytes of the primary's yet, \
             but {:?}",
            self.images.get(&name).map(Vec::len)
        );
        let named = self.names.contains(&format!("{name}.partial")) || self.names.contains(&name);
        assert!(named, "{what} up to {until} is claimed: {name} hasn't its name: {:?}", self.names);
        let before = number.previous().filter(|_| Some(number.start(SIZE)) > start);
        if let Some(before) = before.map(segment_name) {
            let whole = self.images.get(&before).map(|image| image.len() as u64);
            assert_eq!(whole, Some(SIZE.bytes()), "{what} up to {until}: {before} isn't complete");
        }
    }
}

fn segment_name(number: SegmentNumber) -> String {
    WalFileName::segment(TimelineId::FIRST, number).display(SIZE).to_string()
}

/// The final name of the segment whose file this is, by whatever name it goes now.
fn segment_in(file: &str) -> Option<String> {
    let name = file.trim_start_matches('.').get(..24)?;
    is_segment_name(name).then(|| name.to_owned())
}
