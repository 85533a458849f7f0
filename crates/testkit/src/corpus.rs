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
use crate::process::run_unchecked;
use crate::scratch::Scratch;
use crate::servers::{
    Install, Server, ServerOptions, StopMode, install, lsn_text, segment_size_in, segment_start,
    segments_in,
};

/// The statements; each that a version doesn't know fails and is passed over.
const COVERAGE: &str = include_str!("../sql/coverage.sql");

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

/// Makes a corpus with a server of its own.
pub fn make(install: &Install, options: &CorpusOptions) -> Result<Corpus, Error> {
    let mut conf: Vec<String> = CONF.iter().map(|line| (*line).to_owned()).collect();
    conf.extend(options.conf.iter().cloned());
    let segment_size_mb = options.segment_size_mb;
    let server_options = ServerOptions { segment_size_mb, conf, ..ServerOptions::default() };
    let mut server = Server::start(install, &server_options)?;
    let output = run_coverage(&server)?;
    server.sql("INSERT INTO h SELECT i, md5(i::text), i FROM generate_series(200001, 200400) i")?;
    // A crash, then recovery's own records.
    server.stop(StopMode::Immediate)?;
    server.restart()?;
    let end_lsn = server
        .sql("VACUUM FREEZE; CHECKPOINT; CREATE TABLE last_one(a int); SELECT pg_current_wal_flush_lsn()")?;
    server.stop(StopMode::Fast)?;
    let scratch = Scratch::new("corpus")?;
    copy_segments(&server, &scratch.path().join("wal"))?;
    let mut corpus = Corpus { scratch, start_lsn: String::new(), end_lsn, segment_size_mb, output };
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

fn run_coverage(server: &Server) -> Result<String, Error> {
    let tablespace = server.scratch().server_dir("ts")?;
    let files = server.scratch().server_dir("files")?;
    let mut psql = server.psql();
    psql.arg("-v").arg(format!("tsloc={}", tablespace.display()));
    psql.arg("-v").arg(format!("copyfile={}", files.join("copy.dat").display()));
    let output = run_unchecked(&mut psql, COVERAGE, COVERAGE_LIMIT, "the corpus statements")?;
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

fn copy_segments(server: &Server, to: &Path) -> Result<(), Error> {
    fs::create_dir(to).map_err(Error::io("create", to))?;
    for segment in server.wal_segments()? {
        let name = segment.file_name().unwrap_or_default();
        // Behind the end lie segments made in advance, which would make no sense to anybody.
        if segment_size_in(&segment, &name.to_string_lossy()).is_none() {
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
