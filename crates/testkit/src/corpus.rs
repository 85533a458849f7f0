//! WAL that exercises every built-in resource manager, made on the spot by a real server.
//!
//! Some hundred record types on each version, one crash recovery among them. Nothing is kept from
//! one test run to the next: what a test reads, this run's server has written.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Error;
use crate::process::{run, run_unchecked};
use crate::scratch::Scratch;
use crate::servers::{
    Install, Server, ServerOptions, StopMode, as_server_user, install, lsn_text, parse_lsn,
    segment_size_in, segment_start, segments_in,
};

/// The statements; each that a version doesn't know fails and is passed over.
const COVERAGE: &str = include_str!("../sql/coverage.sql");
const RARE: &str = include_str!("../sql/rare.sql");

/// The statements take ten seconds on an idle machine.
const COVERAGE_LIMIT: Duration = Duration::from_secs(300);

/// Everything is kept in pg_wal until it is copied, and nothing runs that the script doesn't ask
/// for.
const CONF: [&str; 9] = [
    "wal_level = logical",
    "max_wal_size = 8GB",
    "wal_keep_size = 16GB",
    "fsync = off",
    "max_prepared_transactions = 5",
    "track_commit_timestamp = on",
    "wal_log_hints = on",
    "autovacuum = off",
    "shared_buffers = 256MB",
];

/// What varies a corpus.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CorpusOptions {
    /// The WAL segment size.
    pub segment_size_mb: u32,
    /// Lines for postgresql.conf, such as `wal_compression = lz4`.
    pub conf: Vec<String>,
}

impl Default for CorpusOptions {
    fn default() -> Self {
        Self { segment_size_mb: 16, conf: Vec::new() }
    }
}

/// A directory of WAL segments; removed on drop.
pub struct Corpus {
    scratch: Scratch,
    /// Where the first segment begins; initdb has removed older ones when segments are small.
    pub start_lsn: String,
    /// Where WAL ended before the shutdown: every record up to here is there.
    pub end_lsn: String,
    /// The timeline of its segments.
    pub timeline: u32,
    /// The WAL segment size.
    pub segment_size_mb: u32,
    /// What the statements printed, errors included.
    pub output: String,
}

impl Corpus {
    /// The directory of the segments, and of nothing else.
    pub fn dir(&self) -> PathBuf {
        self.scratch.path().join("wal")
    }

    /// The segments in order, without gaps; the last holds the shutdown checkpoint's end.
    pub fn segments(&self) -> Result<Vec<PathBuf>, Error> {
        segments_in(&self.dir())
    }
}

fn start(install: &Install, options: &CorpusOptions) -> Result<Server, Error> {
    let mut conf: Vec<String> = CONF.iter().map(|line| (*line).to_owned()).collect();
    conf.extend(options.conf.iter().cloned());
    let segment_size_mb = options.segment_size_mb;
    Server::start(install, &ServerOptions { segment_size_mb, conf, ..ServerOptions::default() })
}

/// Makes a corpus with a server of its own.
pub fn make(install: &Install, options: &CorpusOptions) -> Result<Corpus, Error> {
    let mut server = start(install, options)?;
    let output = run_script(&server, COVERAGE)?;
    server.sql("INSERT INTO h SELECT i, md5(i::text), i FROM generate_series(200001, 200400) i")?;
    // A crash, then recovery's own records.
    server.stop(StopMode::Immediate)?;
    server.restart()?;
    let end_lsn = server
        .sql("VACUUM FREEZE; CHECKPOINT; CREATE TABLE last_one(a int); SELECT pg_current_wal_flush_lsn()")?;
    server.stop(StopMode::Fast)?;
    collect(&server, 1, end_lsn, options.segment_size_mb, output)
}

/// Makes the WAL of a standby that was promoted: the second timeline, of which the first segment
/// begins with the end of the first.
pub fn make_promoted(install: &Install, options: &CorpusOptions) -> Result<Corpus, Error> {
    let mut primary = start(install, options)?;
    primary.sql("CREATE TABLE t(a int); INSERT INTO t SELECT generate_series(1, 1000)")?;
    let mut standby = primary.standby(&["wal_keep_size = 16GB", "fsync = off"])?;
    // It waits until the standby has all.
    primary.stop(StopMode::Fast)?;
    standby.promote()?;
    let end_lsn =
        standby.sql("INSERT INTO t VALUES (0); CHECKPOINT; SELECT pg_current_wal_flush_lsn()")?;
    standby.stop(StopMode::Fast)?;
    collect(&standby, 2, end_lsn, options.segment_size_mb, String::new())
}

/// The first transaction id of a page of transaction status whose file is the second: all of the
/// first may be truncated away (32 pages of 8 kB, two bits a transaction).
const SECOND_STATUS_FILE: u32 = 32 * 8192 * 4;
const STATUS_FILE_BYTES: usize = 32 * 8192;

/// `XLOG_BLCKSZ`
const PAGE_BYTES: u64 = 8192;

/// The length of the record that a crash is to break off: some dozens of pages.
const BROKEN_BYTES: u64 = 300_000;

/// Makes a corpus of record types that everyday work doesn't write, with a server of its own.
pub fn make_rare(install: &Install, options: &CorpusOptions) -> Result<Corpus, Error> {
    let mut server = start(install, options)?;
    advance_transaction_id(&mut server)?;
    let output = run_script(&server, RARE)?;
    break_a_record_off(&mut server, u64::from(options.segment_size_mb) << 20)?;
    let end_lsn = server.sql("CREATE TABLE last_one(a int); SELECT pg_current_wal_flush_lsn()")?;
    server.stop(StopMode::Fast)?;
    collect(&server, 1, end_lsn, options.segment_size_mb, output)
}

/// Lets transaction ids go on a file of transaction status later, as if all before were long over.
fn advance_transaction_id(server: &mut Server) -> Result<(), Error> {
    server.stop(StopMode::Fast)?;
    let mut reset = server.install().command("pg_resetwal");
    as_server_user(&mut reset);
    reset.args(["-x", &(SECOND_STATUS_FILE + 100).to_string()]).args(["-u", "700"]);
    run(reset.arg(server.data_dir()), COVERAGE_LIMIT, "pg_resetwal")?;
    let first = server.data_dir().join("pg_xact/0000");
    let second = server.data_dir().join("pg_xact/0001");
    // A copy has the owner that the server needs.
    let mut copy = std::process::Command::new("cp");
    run(copy.arg("-p").arg(&first).arg(&second), COVERAGE_LIMIT, "cp")?;
    fs::write(&second, vec![0; STATUS_FILE_BYTES]).map_err(Error::io("write", &second))?;
    server.restart()
}

/// Lets a crash break a long record off in its middle: the server is killed, and the second half
/// of its last record never was. What it writes next says so.
fn break_a_record_off(server: &mut Server, segment_size: u64) -> Result<(), Error> {
    let lsn = server.sql(&format!(
        "SELECT pg_logical_emit_message(false, 'broken', repeat('b', {BROKEN_BYTES})); \
         CREATE TABLE flushes_it(a int)"
    ))?;
    server.stop(StopMode::Immediate)?;
    let end =
        parse_lsn(&lsn).ok_or_else(|| Error::Other(format!("the message ends at {lsn:?}")))?;
    let from = (end - BROKEN_BYTES / 2) / PAGE_BYTES * PAGE_BYTES;
    for segment in server.wal_segments()? {
        let name = segment.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let start = segment_start(&name, segment_size).unwrap_or(0);
        let lost = from.saturating_sub(start).min(segment_size);
        let mut bytes = fs::read(&segment).map_err(Error::io("read", &segment))?;
        let lost = usize::try_from(lost).unwrap_or(usize::MAX).min(bytes.len());
        bytes[lost..].fill(0);
        fs::write(&segment, bytes).map_err(Error::io("write", &segment))?;
    }
    server.restart()
}

/// Copies what a stopped server has written.
fn collect(
    server: &Server,
    timeline: u32,
    end_lsn: String,
    segment_size_mb: u32,
    output: String,
) -> Result<Corpus, Error> {
    let scratch = Scratch::new("corpus")?;
    copy_segments(server, timeline, &scratch.path().join("wal"))?;
    let start_lsn = String::new();
    let mut corpus = Corpus { scratch, start_lsn, end_lsn, timeline, segment_size_mb, output };
    let first = corpus.segments()?.into_iter().next().unwrap_or_default();
    let first = first.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let start = segment_start(&first, u64::from(segment_size_mb) << 20);
    let no_segment = || Error::Other(format!("the corpus starts with the file {first:?}"));
    corpus.start_lsn = lsn_text(start.ok_or_else(no_segment)?);
    Ok(corpus)
}

/// As [`make`], made once in this process for each version and options, and then shared.
pub fn shared(major: u32, options: &CorpusOptions) -> Result<Arc<Corpus>, Error> {
    type Made = HashMap<(u32, CorpusOptions), Arc<Corpus>>;
    static MADE: Mutex<Option<Made>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let made = made.get_or_insert_with(HashMap::new);
    let key = (major, options.clone());
    if let Some(corpus) = made.get(&key) {
        return Ok(Arc::clone(corpus));
    }
    let corpus = Arc::new(make(&install(major)?, options)?);
    made.insert(key, Arc::clone(&corpus));
    Ok(corpus)
}

fn run_script(server: &Server, script: &str) -> Result<String, Error> {
    let tablespace = server.scratch().server_dir("ts")?;
    let files = server.scratch().server_dir("files")?;
    let mut psql = server.psql();
    psql.arg("-v").arg(format!("tsloc={}", tablespace.display()));
    psql.arg("-v").arg(format!("copyfile={}", files.join("copy.dat").display()));
    let output = run_unchecked(&mut psql, script, COVERAGE_LIMIT, "the corpus statements")?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        // Failing statements are passed over: this one ended the session.
        Err(Error::Failed {
            what: "the corpus statements".into(),
            status: output.status.to_string(),
            output: format!("{text}\n{}", server.log_text()),
        })
    }
}

fn copy_segments(server: &Server, timeline: u32, to: &Path) -> Result<(), Error> {
    fs::create_dir(to).map_err(Error::io("create", to))?;
    for segment in server.wal_segments()? {
        let name = segment.file_name().unwrap_or_default();
        let text = name.to_string_lossy();
        // Behind the end lie segments made in advance, which would make no sense to anybody.
        let known = segment_size_in(&segment, &text).is_some();
        if !known || !text.starts_with(&format!("{timeline:08X}")) {
            continue;
        }
        fs::copy(&segment, to.join(name)).map_err(Error::io("copy", &segment))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::{full, majors_for_this_run};

    #[test]
    fn a_corpus_reaches_every_resource_manager() {
        for major in majors_for_this_run().into_iter().filter(|&major| full(major)) {
            let install = install(major).expect("PostgreSQL can be had");
            let options = CorpusOptions { segment_size_mb: 1, ..CorpusOptions::default() };
            check(&install, &make(&install, &options).expect("is made"));
        }
    }

    fn check(install: &Install, corpus: &Corpus) {
        let segments = corpus.segments().expect("segments");
        assert!(segments.len() >= 50, "{}", corpus.output);
        let mut waldump = install.client_command("pg_waldump");
        waldump.args(["--stats", "--start", &corpus.start_lsn, "--end", &corpus.end_lsn]);
        waldump.arg("--path").arg(corpus.dir());
        let output = crate::process::run(&mut waldump, COVERAGE_LIMIT, "pg_waldump --stats");
        let text = String::from_utf8(output.expect("reads it all").stdout).expect("text");
        let empty: Vec<&str> = text
            .lines()
            .filter(|line| line.split_whitespace().nth(1) == Some("0"))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert!(empty.is_empty(), "no records of {empty:?}\n{text}\n{}", corpus.output);
    }
}
