//! Which transactions' commit records an archive holds, by the real pg_waldump.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use super::Acked;
use crate::Error;
use crate::process::{run_unchecked, tail};
use crate::servers::{Install, is_segment_name, lsn_text, segment_size_in, segment_start};

/// pg_waldump over a test's WAL, some hundred megabytes at most.
const WALDUMP_LIMIT: Duration = Duration::from_secs(300);

/// Suffix of the segment that is being received.
const PARTIAL: &str = ".partial";

/// The commit records found in a directory of WAL segments.
#[derive(Debug, Default)]
pub struct Commits {
    /// LSN of each commit record by the transaction's id (its lower 32 bits).
    by_xid: HashMap<u32, String>,
    /// LSN of the last record of a transaction that was found.
    last_lsn: String,
    /// What pg_waldump said at the end of each run of segments, such as where it found no more.
    ends: Vec<String>,
    segments: usize,
}

/// How a comparison came out.
#[derive(Debug)]
pub struct Checked {
    /// How many acknowledged commits were looked up.
    pub acknowledged: usize,
    /// Those whose commit record isn't there.
    pub missing: Vec<Acked>,
}

impl Commits {
    /// Reads the segments of `wal_dir`, `.partial` ones included, without changing anything there.
    pub fn read(install: &Install, wal_dir: &Path) -> Result<Self, Error> {
        let view = tempfile::tempdir().map_err(Error::io("create in", &std::env::temp_dir()))?;
        let names = make_view(wal_dir, view.path())?;
        let mut commits = Self { segments: names.len(), ..Self::default() };
        let Some(first) = names.first() else { return Ok(commits) };
        let size = segment_size_in(&view.path().join(first), first).unwrap_or_default();
        for run in contiguous_runs(&names, size) {
            commits.read_run(install, view.path(), &run[0], size)?;
        }
        Ok(commits)
    }

    /// One pg_waldump from a run's first segment to where WAL ends; it always ends by complaining
    /// that there is no more. (Given a file's name, it would read that file only.)
    fn read_run(
        &mut self,
        install: &Install,
        dir: &Path,
        first: &str,
        segment_size: u64,
    ) -> Result<(), Error> {
        let start = lsn_text(segment_start(first, segment_size).unwrap_or_default());
        // Versions before 16 take the timeline in decimal only.
        let timeline = u32::from_str_radix(&first[..8], 16).unwrap_or_default().to_string();
        let mut waldump = install.client_command("pg_waldump");
        waldump.args(["--rmgr=Transaction", "--start", &start, "--timeline", &timeline]);
        waldump.arg("--path").arg(dir);
        let what = format!("pg_waldump from {first}");
        let output = run_unchecked(&mut waldump, "", WALDUMP_LIMIT, &what)?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            self.read_line(line);
        }
        self.ends.push(tail(&String::from_utf8_lossy(&output.stderr)).trim().to_owned());
        Ok(())
    }

    /// `rmgr: Transaction len (rec/tot): 34/34, tx: 742, lsn: 0/0152A4C8, prev …, desc: COMMIT …`
    fn read_line(&mut self, line: &str) {
        let field = |name: &str| {
            let (_, rest) = line.split_once(name)?;
            rest.trim_start().split([',', ' ']).next()
        };
        let (Some(xid), Some(lsn), Some(kind)) = (field("tx:"), field("lsn:"), field("desc:"))
        else {
            return;
        };
        lsn.clone_into(&mut self.last_lsn);
        if kind == "COMMIT"
            && let Ok(xid) = xid.parse()
        {
            self.by_xid.insert(xid, lsn.to_owned());
        }
    }

    /// How many commit records there are.
    pub fn len(&self) -> usize {
        self.by_xid.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_xid.is_empty()
    }

    /// How many segments were read.
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// The LSN of a transaction's commit record.
    pub fn lsn_of(&self, xid: u64) -> Option<&str> {
        #[expect(clippy::cast_possible_truncation, reason = "WAL has the lower half of an xid")]
        self.by_xid.get(&(xid as u32)).map(String::as_str)
    }

    /// The LSN of the last transaction record found.
    pub fn last_lsn(&self) -> &str {
        &self.last_lsn
    }

    /// Why pg_waldump stopped, a line for each run of neighbouring segments.
    pub fn ends(&self) -> &[String] {
        &self.ends
    }

    /// Looks every acknowledged commit up.
    pub fn check(&self, acked: &[Acked]) -> Checked {
        let missing = acked.iter().filter(|commit| self.lsn_of(commit.xid).is_none());
        Checked { acknowledged: acked.len(), missing: missing.copied().collect() }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} acknowledged, {} of them missing", self.acknowledged, self.missing.len())?;
        if let Some(first) = self.missing.first() {
            let Acked { client, counter, xid, .. } = first;
            write!(f, ", the first: transaction {xid}, client {client}'s commit {counter}")?;
        }
        Ok(())
    }
}

/// Fills `view` with links to whole segments and with copies of `.partial` ones, under their final
/// names and brought to full length. Files that don't hold the segment they are named for are left
/// out: pg_waldump takes the segment size from any file it comes upon. Gives the names in order.
fn make_view(wal_dir: &Path, view: &Path) -> Result<Vec<String>, Error> {
    let wal_dir = wal_dir.canonicalize().map_err(Error::io("find", wal_dir))?;
    let mut names = Vec::new();
    let mut partials = Vec::new();
    for entry in fs::read_dir(&wal_dir).map_err(Error::io("read", &wal_dir))?.flatten() {
        let (path, Ok(name)) = (entry.path(), entry.file_name().into_string()) else { continue };
        let partial = name.strip_suffix(PARTIAL).filter(|name| is_segment_name(name));
        let segment = partial.unwrap_or(&name);
        let Some(size) = segment_size_in(&path, segment) else { continue };
        if partial.is_some() {
            partials.push((segment.to_owned(), path, size));
        } else if is_segment_name(&name) {
            let link = view.join(&name);
            symlink(path, &link).map_err(Error::io("link", &link))?;
            names.push(name);
        }
    }
    for (name, path, size) in partials {
        if !names.contains(&name) {
            let copy = view.join(&name);
            fs::copy(&path, &copy).map_err(Error::io("copy", &path))?;
            let file = OpenOptions::new().write(true).open(&copy);
            file.and_then(|file| file.set_len(size)).map_err(Error::io("lengthen", &copy))?;
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Cuts sorted names where the timeline changes or a segment is missing.
fn contiguous_runs(names: &[String], segment_size: u64) -> impl Iterator<Item = &[String]> {
    names.chunk_by(move |a, b| {
        let end_of_a = segment_start(a, segment_size).map(|start| start + segment_size);
        a[..8] == b[..8] && end_of_a == segment_start(b, segment_size)
    })
}
