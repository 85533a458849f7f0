//! The whole text of WAL that real servers make in this run.

use std::fs;
use std::path::Path;

use testkit::corpus::{self, CorpusOptions};
use testkit::scratch::Scratch;
use testkit::servers::{Install, Server, ServerOptions, StopMode, full};

use super::{names, own, same, theirs};
use crate::common::{Must, on_each_major, pg, scratch};

on_each_major!(a_corpus_in_segments_of_1_mb, super::small_segments);
on_each_major!(page_images_compressed_and_checked, super::images);
on_each_major!(pgbench_a_promotion_and_a_crash, super::promotion);
on_each_major!(wal_levels_without_checksums, super::levels);

fn options(segment_size_mb: u32, conf: &[&str]) -> CorpusOptions {
    CorpusOptions { segment_size_mb, conf: conf.iter().map(ToString::to_string).collect() }
}

/// The text, the blocks, the statistics and every filter.
fn small_segments(major: u32) {
    let install = pg(major);
    let corpus = corpus::shared(major, &options(1, &[])).must();
    let dir = corpus.dir();
    let segments = names(&dir);
    let (first, last) = (segments.first().unwrap().as_str(), segments.last().unwrap().as_str());
    let text = same(&install, &dir, &[first, last]);
    assert!(text.lines().count() > 50_000, "no corpus: {}", text.len());
    same(&install, &dir, &["-b", first, last]);
    same(&install, &dir, &["-z", first, last]);
    same(&install, &dir, &["--stats=record", first, last]);
    same(&install, &dir, &["-q", first, last]);
    one_thread_says_the_same(&dir, first, last, &text);
    filters(&install, &dir, &segments, &text);
}

/// And so does the subcommand, on one thread and on more than there are cores.
fn one_thread_says_the_same(dir: &Path, first: &str, last: &str, text: &str) {
    for jobs in ["1", "5"] {
        let ours = own(dir, &["-j", jobs, first, last]);
        assert!(ours.stdout == text.as_bytes(), "-j {jobs} differs");
    }
}

fn filters(install: &Install, dir: &Path, segments: &[String], text: &str) {
    let middle = &segments[segments.len() / 2];
    let next = &segments[segments.len() / 2 + 1];
    for rmgr in ["Heap", "heap2", "XLOG", "Btree", "Transaction", "SPGist", "LogicalMessage"] {
        same(install, dir, &["-r", rmgr, middle, next]);
    }
    let xid = text.lines().nth(40_000).and_then(|line| {
        line.split("tx: ").nth(1)?.split(',').next().map(|xid| xid.trim().to_owned())
    });
    let xid = xid.unwrap();
    let (first, last) = (segments[0].as_str(), segments[segments.len() - 1].as_str());
    same(install, dir, &["--xid", &xid, first, last]);
    same(install, dir, &["-n", "1000", middle, next]);
    same(install, dir, &["-n", "0", middle]);
    same(install, dir, &["-r", "heap", "-x", &xid, "-n", "3", "--stats", first, last]);
    same(install, dir, &["-r", "heap", "-r", "btree", middle]);
    same(
        install,
        dir,
        &["-z", "-r", "custom200", middle].map(|arg| {
            // 14 knows no extension's managers.
            if install.major == 14 && arg == "custom200" { "CommitTs" } else { arg }
        }),
    );
    positions(install, dir, text);
    if install.major >= 15 {
        by_block(install, dir, text, first, last);
    }
    if install.major >= 16 {
        images_saved(install, dir, middle, next);
    }
}

/// -s and -e on and beside records, with a file and without.
fn positions(install: &Install, dir: &Path, text: &str) {
    let lsn_of = |at: usize| {
        let line = text.lines().nth(at).unwrap();
        let lsn = line.split("lsn: ").nth(1).unwrap().split(',').next().unwrap();
        testkit::servers::parse_lsn(lsn).unwrap()
    };
    let show = testkit::servers::lsn_text;
    let (from, to) = (lsn_of(30_000), lsn_of(31_000));
    for (start, end) in [(from, to), (from + 8, to + 8), (from - 1, to + 30), (from, from)] {
        let (start, end) = (show(start), show(end));
        same(install, dir, &["-p", ".", "-s", &start, "-e", &end]);
        same(install, dir, &["-q", "-s", &start, "-e", &end]);
    }
    // Within a page header, and on a page.
    let page = from & !8191;
    for start in [page, page + 1, page + 24, page + 8191] {
        same(install, dir, &["-s", &show(start), "-e", &show(to), "-z"]);
    }
    same(install, dir, &["-s", &show(to), "-e", &show(from)]);
}

fn by_block(install: &Install, dir: &Path, text: &str, first: &str, last: &str) {
    let line = text.lines().filter(|line| line.contains(" FPW")).nth(100).unwrap();
    let place = line.split("rel ").nth(1).unwrap();
    let relation = place.split(' ').next().unwrap();
    let block = place.split("blk ").nth(1).unwrap().split([' ', ',']).next().unwrap();
    same(install, dir, &["-R", relation, first, last]);
    same(install, dir, &["-R", relation, "-B", block, first, last]);
    same(install, dir, &["-F", "vm", first, last]);
    same(install, dir, &["--fork=fsm", "-b", first, last]);
    same(install, dir, &["-w", "--stats=record", first, last]);
    same(install, dir, &["-w", "-R", relation, "-F", "main", "-n", "5", first, last]);
}

/// The same files with the same bytes.
fn images_saved(install: &Install, dir: &Path, first: &str, last: &str) {
    let scratch = scratch();
    let (ours, theirs) = (scratch.path().join("ours"), scratch.path().join("theirs"));
    let save = |to: &Path| format!("--save-fullpage={}", to.display());
    let (our, their) = (save(&ours), save(&theirs));
    let printed = super::theirs(install, dir, &["-q", &their, first, last]);
    super::equal(
        &printed,
        &super::ours(install, dir, &["-q", &our, first, last]),
        "--save-fullpage",
    );
    let list = |dir: &Path| {
        let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(dir)
            .must()
            .map(|entry| {
                let entry = entry.must();
                (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).must())
            })
            .collect();
        files.sort();
        files
    };
    let (ours, theirs) = (list(&ours), list(&theirs));
    assert!(!theirs.is_empty(), "no images in {first} to {last}");
    assert!(ours == theirs, "{} and {} images differ", ours.len(), theirs.len());
    // A directory that isn't empty is refused.
    same(install, dir, &["-q", &their, first, last]);
}

/// Each method that the version has, consistency checks, other segment sizes.
fn images(major: u32) {
    let install = pg(major);
    let mut variants = vec![(1, vec!["wal_compression = on".to_owned()])];
    if major >= 15 {
        // The package of 15 is built without Zstandard.
        let method = if major == 15 { "lz4" } else { "zstd" };
        let method = format!("wal_compression = {method}");
        variants.push((1, vec![method, "wal_consistency_checking = all".to_owned()]));
    }
    if full(major) {
        let method = if major >= 15 { "lz4" } else { "off" };
        variants.push((64, vec![format!("wal_compression = {method}")]));
    }
    for (size, conf) in variants {
        let options = CorpusOptions { segment_size_mb: size, conf };
        let corpus = corpus::make(&install, &options).must();
        let dir = corpus.dir();
        let segments = names(&dir);
        let (first, last) = (segments[0].as_str(), segments[segments.len() - 1].as_str());
        same(&install, &dir, &["-b", first, last]);
        same(&install, &dir, &["--stats=record", first, last]);
        if major >= 16 && size == 1 {
            images_saved(&install, &dir, first, &segments[segments.len() / 4]);
        }
    }
}

/// A standby that is promoted while pgbench runs, and then killed.
fn promotion(major: u32) {
    let conf = ["fsync = off", "wal_keep_size = 1GB", "hot_standby = on"];
    let conf = conf.map(str::to_owned).to_vec();
    let options = ServerOptions { segment_size_mb: 1, conf, ..ServerOptions::default() };
    let install = pg(major);
    let server = Server::start(&install, &options).must();
    server.init_pgbench(1).must();
    let mut standby = server.standby(&["wal_keep_size = 1GB"]).must();
    let load = ["-n", "-c", "2", "-t", "200"];
    server.pgbench(&load).output().must();
    standby.promote().must();
    standby.pgbench(&load).output().must();
    standby.stop(StopMode::Immediate).must();
    standby.restart().must();
    standby.pgbench(&["-n", "-t", "50"]).output().must();
    standby.stop(StopMode::Fast).must();
    let dir = copied(&standby);
    let wal = dir.path().join("wal");
    let all = names(&wal);
    for timeline in ["00000001", "00000002"] {
        let of = all.iter().filter(|name| name.starts_with(timeline)).collect::<Vec<_>>();
        let (first, last) = (of[0].as_str(), of[of.len() - 1].as_str());
        same(&install, &wal, &["-b", first, last]);
        same(&install, &wal, &["--stats=record", first, last]);
    }
    across_timelines(&wal, &install);
}

/// The subcommand goes from one timeline to the next by the history file.
fn across_timelines(wal: &Path, install: &Install) {
    let all = names(wal);
    let first = all.iter().find(|name| name.starts_with("00000001")).unwrap();
    let last = all.iter().rfind(|name| name.starts_with("00000002")).unwrap();
    let text = String::from_utf8(own(wal, &[first, last]).stdout).must();
    // What the server's program shows of each timeline, one after the other.
    let newer = all.iter().find(|name| name.starts_with("00000002")).unwrap();
    let older: Vec<&String> =
        all.iter().filter(|name| name.starts_with("00000001") && name[8..] < newer[8..]).collect();
    let mut expect = theirs(install, wal, &[older[0], older[older.len() - 1]]).stdout;
    expect.extend(theirs(install, wal, &[newer, last]).stdout);
    let expect = String::from_utf8(expect).must();
    // A record that runs over the switch is whole here, and there belongs to neither.
    let missing = expect.lines().filter(|line| !text.contains(*line)).count();
    assert_eq!(missing, 0, "{} of {} lines", missing, expect.lines().count());
    assert!(text.lines().count() - expect.lines().count() <= 1);
}

/// A server's segments, without what was made in advance.
fn copied(server: &Server) -> Scratch {
    let scratch = scratch();
    let wal = scratch.path().join("wal");
    fs::create_dir(&wal).must();
    for entry in fs::read_dir(server.wal_dir()).must() {
        let entry = entry.must();
        if entry.file_type().must().is_file() {
            fs::copy(entry.path(), wal.join(entry.file_name())).must();
        }
    }
    scratch
}

/// Minimal and replica, a crash in mid-load, what was recycled behind the end.
fn levels(major: u32) {
    let install = pg(major);
    for level in ["minimal", "replica"] {
        let conf = [
            "fsync = off",
            &format!("wal_level = {level}"),
            "max_wal_senders = 0",
            "min_wal_size = 2MB",
            "max_wal_size = 4MB",
            "wal_recycle = on",
            "full_page_writes = off",
        ]
        .map(str::to_owned)
        .to_vec();
        let options = ServerOptions { segment_size_mb: 1, conf, ..ServerOptions::default() };
        let mut server = Server::start(&install, &options).must();
        server.stop(StopMode::Fast).must();
        let mut disable = install.command("pg_checksums");
        disable.args(["--disable", "-D"]).arg(server.data_dir());
        testkit::process::run(&mut disable, super::LIMIT, "pg_checksums").must();
        server.restart().must();
        server.init_pgbench(1).must();
        server.pgbench(&["-n", "-t", "100"]).output().must();
        server.sql("CREATE TABLE u AS SELECT i, repeat('x', 500) FROM generate_series(1, 3000) i; CHECKPOINT; CREATE INDEX ON u(i)").must();
        server.stop(StopMode::Immediate).must();
        let dir = copied(&server);
        let wal = dir.path().join("wal");
        // Recycled segments too: their pages belong elsewhere.
        for name in names(&wal) {
            same(&install, &wal, &[&name]);
            same(&install, &wal, &["-b", "-r", "heap", &name]);
        }
        if !full(major) {
            break;
        }
    }
}
