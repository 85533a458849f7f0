//! What is wrong with arguments and files, in the server's program's words. Before any WAL is read
//! they are those of 18.

use std::fs;

use testkit::corpus::{self, CorpusOptions};
use testkit::servers::MAJORS;

use super::{names, ours, same};
use crate::common::{Must, on_each_major, pg, scratch};

#[test]
fn wrong_arguments_are_refused_in_the_words_of_18() {
    let install = pg(18);
    let scratch = scratch();
    let dir = scratch.path();
    fs::write(dir.join("afile"), b"x").must();
    for args in [
        &[][..],
        &["--help"],
        &["-?"],
        &["-q", "--help"],
        &["-q", "-?"],
        &["x"],
        &["-q", "-V"],
        &["-q", "--version"],
        &["--not-a-valid-option"],
        &["--st", "x"],
        &["--fu", "x"],
        &["--f"],
        &["--lim"],
        &["-n"],
        &["--bkp=1"],
        &["-z=record"],
        &["--stats=foo"],
        &["--stats=rmgr", "x"],
        &["-y"],
        &["-bqy"],
        &["-B", "-1", "-R", "1/2/3"],
        &["-B", "x"],
        &["-B", "1"],
        &["-e", "foo"],
        &["-e", "1"],
        &["-s", "1/"],
        &["-s", "g/1"],
        &["-F", "foo"],
        &["-F", "main"],
        &["-n", "x"],
        &["-n", "99999999999"],
        &["-r", "foo"],
        &["-r", "custom"],
        &["-r", "custom1"],
        &["-r", "custom300"],
        &["-r", "custom128"],
        &["-r", "list"],
        &["-b", "--rmgr=LIST"],
        &["-R", "foo"],
        &["-R", "1/2"],
        &["-R", "0/1/2"],
        &["-R", "1/0/2", "-B", "7"],
        &["-t", "0"],
        &["-t", "x"],
        &["-t", "4294967296"],
        &["-t", "0x1", "-s", "0/1"],
        &["-x", "x"],
        &["a", "b", "c"],
        &["-p", "nowhere"],
        &["-p", "afile"],
        &["-p", "."],
        &["-s", "0/1000000"],
        &["foo"],
        &["nowhere/foo"],
        &["000000010000000000000001"],
        &["--save-fullpage=afile/x", "x"],
        &["--save-fullpage=.", "x"],
        &["--", "-b"],
    ] {
        same(&install, dir, args);
    }
}

#[test]
fn the_version_names_both_programs() {
    let scratch = scratch();
    for flag in ["-V", "--version"] {
        let output = ours(&pg(18), scratch.path(), &[flag, "ignored"]);
        let text = String::from_utf8(output.stdout).must();
        let ours = env!("CARGO_PKG_VERSION");
        assert_eq!(text, format!("pg_waldump (PostgreSQL) 18.6 (seawall {ours})\n"));
        assert!(output.status.success());
    }
}

on_each_major!(wrong_files_are_refused_in_the_words_of_their_version, super::files);

fn files(major: u32) {
    assert!(MAJORS.contains(&major));
    let install = pg(major);
    let options = CorpusOptions { segment_size_mb: 1, ..CorpusOptions::default() };
    let corpus = corpus::shared(major, &options).must();
    let segments = names(&corpus.dir());
    let (first, second) = (segments[0].as_str(), segments[1].as_str());
    let scratch = scratch();
    let dir = scratch.path();
    let wal = dir.join("pg_wal");
    fs::create_dir(&wal).must();
    for name in [first, second] {
        fs::copy(corpus.dir().join(name), wal.join(name)).must();
    }
    // Found in ./pg_wal, by a path, by -p, and by PGDATA's own directory.
    same(&install, dir, &["-q", first]);
    same(&install, dir, &["-z", &format!("pg_wal/{first}")]);
    same(&install, dir, &["-z", "-p", ".", first, second]);
    same(&install, dir, &["-n", "1", "-p", ".", "-s", &corpus.start_lsn]);
    same(&install, dir, &["-p", ".", "-s", "0/0"]);
    same(&install, dir, &["-s", "9/0", first]);
    same(&install, dir, &["-e", "9/0", first]);
    same(&install, dir, &["-e", "9/0", first, second]);
    same(&install, dir, &[second, first]);
    // Without a directory, in the directory: what is named is not where the first one was found.
    same(&install, dir, &[first, "000000010000000900000001"]);
    // Behind the end, the file isn't there.
    same(&install, dir, &["-q", "-p", ".", "-s", &corpus.start_lsn]);
    let bytes = fs::read(wal.join(first)).must();
    let cut = |len: usize| fs::write(wal.join(first), &bytes[..len]).must();
    // An empty file says nothing of a version, and the one beside it does.
    for len in [0, 100, 8191, 8192, 8193, 12_000, 24_576, 500_000] {
        cut(len);
        same(&install, dir, &["-q", first]);
    }
    // Sizes that no server has.
    for size in [1_u32, 0, 3 << 20, 1 << 31] {
        let mut page = bytes.clone();
        page[32..36].copy_from_slice(&size.to_le_bytes());
        fs::write(wal.join(first), &page).must();
        same(&install, dir, &[first]);
    }
    // Another size than the one that it has: positions are others then.
    let mut page = bytes.clone();
    page[32..36].copy_from_slice(&(2_u32 << 20).to_le_bytes());
    fs::write(wal.join(first), &page).must();
    same(&install, dir, &[first]);
}
