//! The real disk on a real file system, whatever that can do.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::{BLOCK, ErrorKind};

/// A completion of these operations doesn't take longer unless the test has found a bug.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    dir: tempfile::TempDir,
    disk: RealDisk,
    woken: Arc<AtomicUsize>,
    next_op: u64,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&woken);
        let wake = Arc::new(move || _ = counter.fetch_add(1, Ordering::SeqCst));
        let disk = RealDisk::new(dir.path().to_owned(), wake).unwrap();
        Self { dir, disk, woken, next_op: 0 }
    }

    /// Submits a chain and waits for all of it.
    fn chain(&mut self, lane: Lane, ops: Vec<Op>) -> Vec<Result<Outcome, Failure>> {
        let first = self.next_op;
        self.next_op += ops.len() as u64;
        let ids = (first..self.next_op).map(OpId);
        let count = ops.len();
        self.disk.submit(lane, ids.zip(ops).collect());
        let deadline = Instant::now() + PATIENCE;
        let mut results = Vec::new();
        while results.len() < count {
            match self.disk.poll() {
                Some(completion) => {
                    assert_eq!(completion.id, OpId(first + results.len() as u64));
                    results.push(completion.result);
                }
                None => {
                    assert!(Instant::now() < deadline, "{} of {count} completed", results.len());
                    std::thread::yield_now();
                }
            }
        }
        results
    }

    /// Waking comes after the completions, once for each chain.
    fn await_woken(&self, chains: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.woken.load(Ordering::SeqCst) != chains {
            let woken = self.woken.load(Ordering::SeqCst);
            assert!(woken < chains && Instant::now() < deadline, "woken {woken} times");
            std::thread::yield_now();
        }
    }

    fn one(&mut self, op: Op) -> Result<Outcome, Failure> {
        self.chain(Lane::Meta, vec![op]).pop().unwrap()
    }

    fn create(&mut self, path: &str, size: u64, access: Access) -> FileId {
        let file = self.disk.new_file_id();
        self.one(Op::Create { file, path: path.into(), size, access }).unwrap();
        file
    }
}

fn filled(byte: u8, blocks: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(blocks * BLOCK);
    buf.fill(byte);
    buf
}

fn kind(result: &Result<Outcome, Failure>) -> ErrorKind {
    result.as_ref().unwrap_err().error.kind
}

#[test]
fn what_is_written_is_read_back_by_either_access() {
    for access in [Access::Direct, Access::Buffered] {
        let mut rig = Rig::new();
        let file = rig.create("a", 8 * BLOCK as u64, access);
        let write = Op::Write { file, offset: BLOCK as u64, buf: filled(7, 3), len: 2 * BLOCK };
        let results = rig.chain(Lane::Write, vec![write, Op::SyncData { file }]);
        assert!(matches!(&results[0], Ok(Outcome::Wrote(buf)) if buf.capacity() == 3 * BLOCK));
        let read = Op::Read { file, offset: 0, buf: filled(9, 16), len: 16 * BLOCK };
        let Ok(Outcome::Read(buf, len)) = rig.one(read) else { panic!("the read fails") };
        assert_eq!(len, 8 * BLOCK, "up to the end of the file");
        assert!(buf[..BLOCK].iter().all(|byte| *byte == 0));
        assert!(buf[BLOCK..3 * BLOCK].iter().all(|byte| *byte == 7));
        assert!(buf[3 * BLOCK..len].iter().all(|byte| *byte == 0));
        rig.await_woken(3);
        assert_eq!(rig.disk.len(Path::new("a")).unwrap(), Some(8 * BLOCK as u64));
    }
}

#[test]
fn an_unaligned_direct_write_is_refused_where_direct_writes_work() {
    let mut rig = Rig::new();
    let file = rig.create("a", BLOCK as u64, Access::Direct);
    let is_direct = rig.disk.shared.file(file, "look").unwrap().is_direct();
    for (offset, len) in [(1, BLOCK), (0, 1)] {
        let result = rig.one(Op::Write { file, offset, buf: filled(1, 1), len });
        assert_eq!(result.is_err(), is_direct);
    }
}

#[test]
fn a_refused_direct_write_goes_on_buffered() {
    let mut rig = Rig::new();
    let id = rig.create("a", BLOCK as u64, Access::Direct);
    let file = rig.disk.shared.file(id, "look").unwrap();
    // Memory at an odd address is refused as a file system without direct I/O refuses all.
    let buf = filled(3, 2);
    file.write(crate::OpKind::Write, 0, &buf[1..=BLOCK]).unwrap();
    assert_eq!(rig.disk.read(Path::new("a"), BLOCK).unwrap(), [3; BLOCK]);
}

#[test]
fn files_and_directories_are_private() {
    let mut rig = Rig::new();
    rig.create("a", 0, Access::Buffered);
    rig.disk.create_dir(Path::new("d")).unwrap();
    rig.disk.create_dir(Path::new("d")).unwrap();
    let mode = |name| rig.dir.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a"), mode("d")), (0o600, 0o700));
}

#[test]
fn a_rename_never_follows_a_failed_operation() {
    let mut rig = Rig::new();
    rig.create("a.tmp", 0, Access::Buffered);
    let unknown = FileId(99);
    let (from, to) = (PathBuf::from("a.tmp"), PathBuf::from("a"));
    let results = rig.chain(
        Lane::Meta,
        vec![
            Op::SyncAll { file: unknown },
            Op::Write { file: unknown, offset: 0, buf: filled(1, 1), len: BLOCK },
            Op::Rename { from: from.clone(), to: to.clone() },
        ],
    );
    assert_eq!(kind(&results[0]), ErrorKind::Other);
    assert_eq!(kind(&results[1]), ErrorKind::Cancelled);
    assert!(results[1].as_ref().unwrap_err().buf.is_some(), "the buffer comes back");
    assert_eq!(kind(&results[2]), ErrorKind::Cancelled);
    assert_eq!(rig.disk.names(Path::new("")).unwrap(), ["a.tmp"]);
    rig.one(Op::Rename { from, to }).unwrap();
    assert_eq!(rig.disk.names(Path::new("")).unwrap(), ["a"]);
}

#[test]
fn only_replace_replaces() {
    let rig = Rig::new();
    let (a, b) = (Path::new("a"), Path::new("b"));
    rig.disk.write_new(a, b"1").unwrap();
    rig.disk.write_new(b, b"2").unwrap();
    assert_eq!(rig.disk.write_new(a, b"").unwrap_err().kind, ErrorKind::Exists);
    assert_eq!(rig.disk.rename(a, b).unwrap_err().kind, ErrorKind::Exists);
    let by_link = rig.disk.files().root.rename_by_link(a, b);
    assert_eq!(by_link.unwrap_err().kind, ErrorKind::Exists);
    rig.disk.replace(a, b).unwrap();
    assert_eq!(rig.disk.read(b, 1).unwrap(), b"1");
    rig.disk.files().root.rename_by_link(b, a).unwrap();
    assert_eq!(rig.disk.names(Path::new("")).unwrap(), ["a"]);
    assert_eq!(rig.disk.read(a, 0).unwrap_err().kind, ErrorKind::Other, "longer than allowed");
    assert_eq!(rig.disk.remove(b).unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn an_error_names_the_file_as_it_is_called_now() {
    let mut rig = Rig::new();
    let file = rig.create("a.tmp", 0, Access::Buffered);
    rig.one(Op::Rename { from: "a.tmp".into(), to: "a".into() }).unwrap();
    let write = Op::Write { file, offset: 0, buf: filled(1, 1), len: 2 * BLOCK };
    let error = rig.one(write).unwrap_err().error;
    assert_eq!(error.to_string(), "write of a: longer than its buffer");
}

#[test]
fn a_failed_creation_leaves_no_file() {
    let mut rig = Rig::new();
    let file = rig.disk.new_file_id();
    // No file system takes a file of this size.
    let size = i64::MAX as u64;
    let create = Op::Create { file, path: "a".into(), size, access: Access::Buffered };
    rig.one(create).unwrap_err();
    assert!(rig.disk.names(Path::new("")).unwrap().is_empty());
}

#[test]
fn a_copy_has_the_prefix_and_the_old_length() {
    let rig = Rig::new();
    let bytes: Vec<u8> = (0..10_000u32).map(|i| i as u8 | 1).collect();
    rig.disk.write_new(Path::new("a"), &bytes).unwrap();
    rig.disk.copy(Path::new("a"), Path::new("b"), 5000).unwrap();
    let copy = rig.disk.read(Path::new("b"), 10_000).unwrap();
    assert_eq!(copy[..5000], bytes[..5000]);
    assert_eq!(copy[5000..], [0; 5000]);
    let error = rig.disk.copy(Path::new("a"), Path::new("c"), 10_001).unwrap_err();
    assert_eq!(error.kind, ErrorKind::ShortRead);
    assert_eq!(rig.disk.len(Path::new("c")).unwrap(), None);
}

#[test]
fn a_lock_is_held_until_it_is_dropped_and_says_by_whom() {
    let rig = Rig::new();
    let path = Path::new("lock");
    let held = rig.disk.lock(path, "a much longer holder").unwrap();
    let other = RealFiles::new(rig.dir.path().to_owned());
    let error = other.lock(path, "second").unwrap_err();
    let expect = LockError::Held { path: path.into(), holder: "a much longer holder".into() };
    assert_eq!(error, expect);
    drop(held);
    let _held = other.lock(path, "second").unwrap();
    assert_eq!(rig.disk.read(path, 100).unwrap(), b"second");
}

#[test]
fn a_listing_is_ordered() {
    let rig = Rig::new();
    rig.disk.write_new(Path::new("b"), b"12").unwrap();
    rig.disk.create_dir(Path::new("a")).unwrap();
    assert_eq!(rig.disk.names(Path::new("")).unwrap(), ["a", "b"]);
    assert_eq!(rig.disk.names(Path::new("c")).unwrap_err().kind, ErrorKind::NotFound);
    let reader = rig.disk.open_read(Path::new("b"), Access::Direct).unwrap();
    let mut buf = AlignedBuf::zeroed(BLOCK);
    assert_eq!(reader.read_at(0, &mut buf, BLOCK).unwrap(), 2);
    assert_eq!(reader.len().unwrap(), 2);
}

#[test]
fn dropping_the_disk_ends_its_threads() {
    let rig = Rig::new();
    let shared = Arc::downgrade(&rig.disk.shared);
    drop(rig);
    let deadline = Instant::now() + PATIENCE;
    while shared.strong_count() > 0 {
        assert!(Instant::now() < deadline, "a lane's thread goes on");
        std::thread::yield_now();
    }
}

#[test]
fn zeros_are_written_where_they_are_wanted() {
    for access in [Access::Direct, Access::Buffered] {
        let mut rig = Rig::new();
        let size = 8 * BLOCK as u64;
        let file = rig.create("a", size, access);
        rig.one(Op::Write { file, offset: 0, buf: filled(7, 8), len: 8 * BLOCK }).unwrap();
        rig.one(Op::Zero { file, offset: BLOCK as u64, len: 2 * BLOCK }).unwrap();
        assert_eq!(rig.disk.len(Path::new("a")).unwrap(), Some(size));
        let read = Op::Read { file, offset: 0, buf: filled(9, 8), len: 8 * BLOCK };
        let Ok(Outcome::Read(buf, len)) = rig.one(read) else { panic!("the read fails") };
        let zeros = BLOCK..3 * BLOCK;
        let right = |(at, byte): (usize, &u8)| *byte == if zeros.contains(&at) { 0 } else { 7 };
        assert!(buf[..len].iter().enumerate().all(right));
    }
}
