//! The real pg_waldump, and the parts of its lines.

use std::fmt::Write as _;
use std::time::Duration;

use pg_types::Lsn;
use testkit::corpus::Corpus;
use testkit::process::run_unchecked;
use testkit::servers::Install;
use wal_format::{Record, RecordBody};

use super::Must;

/// pg_waldump prints some hundred thousand lines.
const WALDUMP_LIMIT: Duration = Duration::from_secs(300);

/// The names of forks, as pg_waldump prints them.
const FORKS: [&str; 4] = ["main", "fsm", "vm", "init"];

/// What the real program prints of a corpus, in UTC.
pub(crate) fn waldump(install: &Install, corpus: &Corpus) -> String {
    waldump_in(install, corpus, "UTC")
}

/// What the real program prints of a corpus, in this time zone.
pub(crate) fn waldump_in(install: &Install, corpus: &Corpus, tz: &str) -> String {
    let mut waldump = install.client_command("pg_waldump");
    waldump.env("TZ", tz).args(["--timeline", &corpus.timeline.to_string()]);
    waldump.args(["--start", &corpus.start_lsn, "--path"]).arg(corpus.dir());
    // It ends by complaining that there is no more.
    let output = run_unchecked(&mut waldump, "", WALDUMP_LIMIT, "pg_waldump").must();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A line up to its description (`XLogDumpDisplayRecord` of pg_waldump.c, 14–18).
pub(crate) fn line_head(record: &Record, body: &RecordBody<'_>) -> String {
    let header = &record.header;
    let images = body.blocks.iter().filter_map(|block| block.image.as_ref());
    let image_bytes: usize = images.map(|image| image.bytes.len()).sum();
    let without_images = header.total_len - u32::try_from(image_bytes).must();
    format!(
        "rmgr: {:<11} len (rec/tot): {without_images:>6}/{:>6}, tx: {:>10}, lsn: {}, prev {}, desc: ",
        header.rmgr.to_string(),
        header.total_len,
        header.xid,
        padded(record.lsn),
        padded(header.prev),
    )
}

/// A line's block references.
pub(crate) fn line_blocks(body: &RecordBody<'_>) -> String {
    let mut blocks = String::new();
    for block in &body.blocks {
        let rel = &block.locator;
        let (id, spc, db, number) = (block.id, rel.tablespace, rel.database, rel.relation);
        let _ = write!(blocks, ", blkref #{id}: rel {spc}/{db}/{number}");
        if block.fork != 0 {
            let fork = FORKS.get(usize::from(block.fork)).copied();
            let _ = write!(blocks, " fork {}", fork.unwrap_or("unknown"));
        }
        let _ = write!(blocks, " blk {}", block.block);
        blocks.push_str(match &block.image {
            Some(image) if image.apply => " FPW",
            Some(_) => " FPW for WAL verification",
            None => "",
        });
    }
    blocks
}

fn padded(lsn: Lsn) -> String {
    format!("{:X}/{:08X}", lsn.as_u64() >> 32, lsn.as_u64() & 0xFFFF_FFFF)
}
