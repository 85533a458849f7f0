//! What made the WAL: relations, managers or transactions by their bytes, records and images.
//!
//! Bounded: of more than [`MOST_KEYS`] different ones those with the fewest bytes are forgotten,
//! and counted together. Whoever made a great part of the WAL isn't among them.

use std::collections::HashMap;
use std::fmt::Write as _;

use wal_describe::rmgr_name;
use wal_format::{RecordBody, RecordHeader, RelFileLocator, RmgrId};

use crate::cli::options::Top;

/// Different ones that are counted; some 20 MiB.
pub const MOST_KEYS: usize = 200_000;

/// How many are shown.
const SHOWN: usize = 20;

/// How long the longest bar is.
const BAR: usize = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Relation(u32, u32, u32),
    /// Records without a block.
    NoRelation,
    Rmgr(u8),
    Xid(u32),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    bytes: u64,
    records: u64,
    images: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.records += other.records;
        self.images += other.images;
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Makers {
    what: Top,
    sums: HashMap<Key, Sum>,
    forgotten: Sum,
    forgotten_keys: u64,
}

impl Makers {
    /// Nothing yet.
    #[must_use]
    pub fn new(what: Top) -> Self {
        Self { what, sums: HashMap::new(), forgotten: Sum::default(), forgotten_keys: 0 }
    }

    /// Counts a record. Each of its relations gets its own blocks' bytes; what belongs to no block
    /// goes to the first one's.
    pub fn record(&mut self, header: &RecordHeader, body: &RecordBody<'_>) {
        let bytes = u64::from(header.total_len);
        let images = body.blocks.iter().filter(|block| block.image.is_some()).count() as u64;
        let whole = Sum { bytes, records: 1, images };
        match self.what {
            Top::Rmgrs => self.add(Key::Rmgr(header.rmgr.0), whole),
            Top::Xids => self.add(Key::Xid(header.xid), whole),
            Top::Relations => self.relations(bytes, body),
        }
    }

    fn relations(&mut self, bytes: u64, body: &RecordBody<'_>) {
        let Some(first) = body.blocks.first() else {
            self.add(Key::NoRelation, Sum { bytes, records: 1, images: 0 });
            return;
        };
        let of_blocks: usize = body.blocks.iter().map(block_bytes).sum();
        let rest = bytes.saturating_sub(of_blocks as u64);
        self.add(relation(&first.locator), Sum { bytes: rest, records: 0, images: 0 });
        let mut before = None;
        for block in &body.blocks {
            // A record counts once for a relation, whose blocks are side by side.
            let again = before == Some(block.locator);
            before = Some(block.locator);
            let sum = Sum {
                bytes: block_bytes(block) as u64,
                records: u64::from(!again),
                images: u64::from(block.image.is_some()),
            };
            self.add(relation(&block.locator), sum);
        }
    }

    fn add(&mut self, key: Key, sum: Sum) {
        self.sums.entry(key).or_default().add(sum);
        if self.sums.len() > MOST_KEYS {
            self.forget_half();
        }
    }

    /// Adds what was counted behind this.
    pub fn merge(&mut self, later: &mut Self) {
        for (key, sum) in later.sums.drain() {
            self.add(key, sum);
        }
        self.forgotten.add(std::mem::take(&mut later.forgotten));
        self.forgotten_keys += std::mem::take(&mut later.forgotten_keys);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::new(self.what);
    }

    fn forget_half(&mut self) {
        let mut bytes: Vec<u64> = self.sums.values().map(|sum| sum.bytes).collect();
        let middle = bytes.len() / 2;
        let (_, least, _) = bytes.select_nth_unstable(middle);
        let least = *least;
        let (forgotten, keys) = (&mut self.forgotten, &mut self.forgotten_keys);
        self.sums.retain(|_, sum| {
            let keep = sum.bytes > least;
            if !keep {
                forgotten.add(*sum);
                *keys += 1;
            }
            keep
        });
    }

    /// A table, with bars where it is for a terminal.
    #[must_use]
    pub fn text(&self, bars: bool) -> String {
        let sorted = self.sorted();
        let total = self.total();
        let most = sorted.first().map_or(0, |(_, sum)| sum.bytes);
        let title = match self.what {
            Top::Relations => "Relation",
            Top::Rmgrs => "Manager",
            Top::Xids => "Transaction",
        };
        let mut out = format!(
            "{title:<28} {:>16} {:>7} {:>12} {:>10}\n",
            "Bytes", "(%)", "Records", "Images"
        );
        let mut line = |name: &str, sum: &Sum| {
            let share = 100.0 * sum.bytes as f64 / total.bytes.max(1) as f64;
            let (bytes, records, images) = (sum.bytes, sum.records, sum.images);
            _ = write!(out, "{name:<28} {bytes:>16} {share:>7.2} {records:>12} {images:>10}");
            if bars {
                let len = (sum.bytes as f64 / most.max(1) as f64 * BAR as f64).round();
                _ = write!(out, " {}", "█".repeat((len as usize).min(BAR)));
            }
            out.push('\n');
        };
        for (key, sum) in sorted.iter().take(SHOWN) {
            line(&key.name(), sum);
        }
        let mut others = self.forgotten;
        sorted.iter().skip(SHOWN).for_each(|(_, sum)| others.add(*sum));
        if others.records > 0 {
            let more = self.forgotten_keys + sorted.len().saturating_sub(SHOWN) as u64;
            line(&format!("{more} others"), &others);
        }
        line("Total", &total);
        out
    }

    /// An object for each.
    #[must_use]
    pub fn json(&self) -> String {
        let mut out = String::new();
        for (key, Sum { bytes, records, images }) in self.sorted() {
            let line = serde_json::json!({
                "name": key.name(), "bytes": bytes, "records": records, "images": images,
            });
            _ = writeln!(out, "{line}");
        }
        out
    }

    fn sorted(&self) -> Vec<(Key, Sum)> {
        let mut sorted: Vec<(Key, Sum)> = self.sums.iter().map(|(key, sum)| (*key, *sum)).collect();
        sorted.sort_by_key(|(key, sum)| (std::cmp::Reverse(sum.bytes), *key));
        sorted
    }

    fn total(&self) -> Sum {
        let mut total = self.forgotten;
        self.sums.values().for_each(|sum| total.add(*sum));
        total
    }
}

fn block_bytes(block: &wal_format::BlockReference<'_>) -> usize {
    block.image.map_or(0, |image| image.bytes.len()) + block.data.map_or(0, <[u8]>::len)
}

fn relation(of: &RelFileLocator) -> Key {
    Key::Relation(of.tablespace, of.database, of.relation)
}

impl Key {
    fn name(self) -> String {
        match self {
            Self::Relation(tablespace, database, relation) => {
                format!("{tablespace}/{database}/{relation}")
            }
            Self::NoRelation => "no relation".to_owned(),
            Self::Rmgr(rmgr) => {
                let mut name = Vec::new();
                rmgr_name(RmgrId(rmgr)).put(&mut name);
                String::from_utf8_lossy(&name).into_owned()
            }
            Self::Xid(0) => "no transaction".to_owned(),
            Self::Xid(xid) => xid.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_types::Lsn;

    fn header(xid: u32, total_len: u32) -> RecordHeader {
        RecordHeader { total_len, xid, prev: Lsn::INVALID, info: 0, rmgr: RmgrId(10), crc: 0 }
    }

    fn empty() -> RecordBody<'static> {
        RecordBody { blocks: Vec::new(), main_data: &[], origin: None, toplevel_xid: None }
    }

    #[test]
    fn the_greatest_come_first() {
        let mut makers = Makers::new(Top::Xids);
        for (xid, len) in [(7, 100), (8, 50), (7, 100)] {
            makers.record(&header(xid, len), &empty());
        }
        let text = makers.text(true);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("7 ") && lines[1].contains(" 200 "), "{text}");
        assert!(lines[1].ends_with(&"█".repeat(BAR)), "{text}");
        assert!(lines[3].starts_with("Total") && lines[3].contains(" 250 "), "{text}");
    }

    #[test]
    fn too_many_are_forgotten_and_counted() {
        let mut makers = Makers::new(Top::Xids);
        let keys = u32::try_from(MOST_KEYS).unwrap() + 1;
        for xid in 1..=keys {
            makers.record(&header(xid, if xid == 77 { 9999 } else { 30 + xid % 2 }), &empty());
        }
        assert!(makers.sums.len() < MOST_KEYS && makers.forgotten_keys > 0);
        assert_eq!(makers.total().records, u64::from(keys));
        assert!(makers.text(false).lines().nth(1).unwrap().starts_with("77 "));
    }
}
