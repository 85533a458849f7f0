//! Each rule of the model, with both of its outcomes over seeds.

mod durability;
mod faults;
mod names;
mod performing;

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::{Access, AlignedBuf, BLOCK, DiskError, ErrorKind, Files, Outcome};

/// Enough for every outcome that has a chance of some percent.
const SEEDS: u64 = 300;

const BLOCK_BYTES: u64 = BLOCK as u64;

/// What the crashes of a disk show, over the seeds, by `look`.
fn outcomes<T: Ord>(disk: &SimDisk, loss: PowerLoss, look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    (0..SEEDS).map(|seed| look(&disk.crash(seed, loss))).collect()
}

/// The names in the root, as one text.
fn names(disk: &SimDisk) -> String {
    disk.names(Path::new("")).unwrap().join(" ")
}

fn set<T: Ord, const N: usize>(items: [T; N]) -> BTreeSet<T> {
    BTreeSet::from(items)
}

fn p(path: &str) -> &Path {
    Path::new(path)
}

/// The content of a file, however long; `None` if it isn't there.
fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    disk.read(p(path), 1 << 24).ok()
}

/// The bytes of each sector's start: enough where sectors are filled with one byte.
fn sectors(disk: &SimDisk, path: &str) -> Vec<u8> {
    content(disk, path).unwrap_or_default().into_iter().step_by(512).collect()
}

fn filled(byte: u8, blocks: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(blocks * BLOCK);
    buf.fill(byte);
    buf
}

/// Performs a chain in a lane of its own, with everything else that is queued.
fn chain(disk: &mut SimDisk, lane: Lane, ops: Vec<Op>) -> Vec<Result<(), DiskError>> {
    let ids = (0..).map(OpId);
    disk.submit(lane, ids.zip(ops).collect());
    disk.run();
    std::iter::from_fn(|| disk.poll())
        .map(|completion| completion.result.map(|_| ()).map_err(|failure| failure.error))
        .collect()
}

fn one(disk: &mut SimDisk, op: Op) -> Result<(), DiskError> {
    chain(disk, Lane::Meta, vec![op]).pop().unwrap()
}

fn create(disk: &mut SimDisk, path: &str, blocks: u64, access: Access) -> FileId {
    let file = disk.new_file_id();
    let size = blocks * BLOCK_BYTES;
    one(disk, Op::Create { file, path: path.into(), size, access }).unwrap();
    file
}

/// Writes whole blocks of one byte.
fn write(file: FileId, block: u64, byte: u8, blocks: usize) -> Op {
    let buf = filled(byte, blocks);
    Op::Write { file, offset: block * BLOCK_BYTES, buf, len: blocks * BLOCK }
}

/// A durable file of some blocks of 1s, open.
fn durable_file(disk: &mut SimDisk, path: &str, blocks: u64, access: Access) -> FileId {
    let file = create(disk, path, blocks, access);
    one(disk, write(file, 0, 1, blocks as usize)).unwrap();
    one(disk, Op::SyncAll { file }).unwrap();
    disk.sync_dir(p("")).unwrap();
    file
}

const HONEST: [PowerLoss; 2] = [PowerLoss::StrictPosix, PowerLoss::Ext4Ordered];
