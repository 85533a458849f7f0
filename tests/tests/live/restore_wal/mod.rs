//! `seawall restore-wal`, as the servers and people use it: what it delivers, and what it ends with
//! where it can't.

mod codes;
mod damage;
mod failback;
mod kills;
mod recovery;

use std::fs;
use std::path::{Path, PathBuf};

use pg_types::{Lsn, SegmentNumber, SegmentSize, TimelineId, WalFileName};
use testkit::process::seawall_bin;
use testkit::scratch::Scratch;
use testkit::servers::Server;

use super::common::{Must, Receiver, ReceiverOptions, scratch, server_flush};
use super::program::{Ended, ended, seawall};

pub(super) const SIZE: SegmentSize = SegmentSize::MIN;

/// An archive and a program that the servers' user can get at.
pub(super) struct Kept {
    pub(super) scratch: Scratch,
    pub(super) program: PathBuf,
    pub(super) archive: PathBuf,
}

impl Kept {
    pub(super) fn new() -> Self {
        let scratch = scratch();
        let program = scratch.path().join("seawall");
        fs::copy(seawall_bin().must(), &program).must();
        let archive = scratch.server_dir("kept").must().join("archive");
        Self { scratch, program, archive }
    }

    /// A receiver, as the servers' user.
    pub(super) fn options(&self) -> ReceiverOptions {
        ReceiverOptions { as_server: Some(self.program.clone()), ..ReceiverOptions::default() }
    }

    pub(super) fn receiver(&self, server: &Server) -> Receiver {
        let mut receiver = Receiver::start(server, &self.archive, &self.options());
        receiver.await_streaming(server);
        receiver
    }

    /// The line of a server's configuration.
    pub(super) fn restore_command(&self, flags: &str) -> String {
        self.restore_from(&self.archive, flags)
    }

    pub(super) fn restore_from(&self, archive: &Path, flags: &str) -> String {
        let (program, archive) = (self.program.display(), archive.display());
        format!("restore_command = '{program} restore-wal %f %p -A {archive} {flags}'")
    }

    pub(super) fn segment(&self, number: SegmentNumber) -> PathBuf {
        self.archive.join("wal").join(name(1, number))
    }

    /// The numbers of the whole segments of timeline 1.
    pub(super) fn sealed(&self) -> Vec<SegmentNumber> {
        sealed(&self.archive)
    }
}

pub(super) fn sealed(archive: &Path) -> Vec<SegmentNumber> {
    let names = fs::read_dir(archive.join("wal")).must();
    let names = names.map(|entry| entry.must().file_name().to_string_lossy().into_owned());
    let mut numbers: Vec<SegmentNumber> = names
        .filter(|name| name.len() == 24 && name.starts_with("00000001"))
        .filter_map(|name| WalFileName::parse(&name, SIZE)?.start(SIZE))
        .map(|start| start.segment(SIZE))
        .collect();
    numbers.sort();
    numbers
}

pub(super) fn name(timeline: u32, number: SegmentNumber) -> String {
    let Some(timeline) = TimelineId::new(timeline) else { panic!("timelines begin at 1") };
    WalFileName::segment(timeline, number).display(SIZE).to_string()
}

/// Some segments of WAL.
pub(super) fn work(server: &Server) -> Lsn {
    server.sql("CREATE TABLE IF NOT EXISTS t(a text)").must();
    server.sql("INSERT INTO t SELECT repeat('x', 200) FROM generate_series(1, 20000)").must();
    server_flush(server)
}

/// `seawall restore-wal` in a directory of its own, without trying again unless told to.
pub(super) fn restore(archive: &Path, name: &str, path: &Path, flags: &[&str]) -> Ended {
    let mut command = seawall(&["restore-wal", "--retry-for", "0", name]);
    ended(command.arg(path).arg("-A").arg(archive).args(flags))
}

/// What is left beside a target: nothing, whatever happened.
#[track_caller]
pub(super) fn assert_nothing_else(dir: &Path, there: &[&str]) {
    let mut names: Vec<String> = fs::read_dir(dir)
        .must()
        .map(|entry| entry.must().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, there);
}
