//! Statistics (`XLogRecStoreStats` of xlogstats.c, `XLogDumpDisplayStats` of pg_waldump.c, 14–18).

use std::fmt::Write as _;

use pg_types::Lsn;
use wal_describe::{builtin_rmgrs, custom_rmgrs, identify, rmgr_name};
use wal_format::{RecordHeader, RmgrId, WalVersion};

use crate::cli::options::Statistics;

/// Managers, and types of records of each.
const RMGRS: usize = 256;
const TYPES: usize = 16;

/// What was counted of some records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub records: u64,
    /// Their bytes without page images.
    pub record_bytes: u64,
    /// Their page images' bytes.
    pub image_bytes: u64,
}

impl Count {
    #[inline]
    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.record_bytes += other.record_bytes;
        self.image_bytes += other.image_bytes;
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Stats {
    counts: Box<[[Count; TYPES]; RMGRS]>,
    /// The managers that anything was counted of: few, and the others needn't be looked at.
    met: [bool; RMGRS],
    /// The first record that is read, whether or not it is counted.
    pub start: Lsn,
    /// The end of the last one that was counted; invalid if there is none.
    pub end: Lsn,
}

impl Stats {
    /// Nothing yet.
    #[must_use]
    pub fn new(start: Lsn) -> Self {
        let counts = Box::new([[Count::default(); TYPES]; RMGRS]);
        Self { counts, met: [false; RMGRS], start, end: Lsn::INVALID }
    }

    /// Counts a record.
    #[inline]
    pub fn record(&mut self, header: &RecordHeader, image_bytes: u32, end: Lsn) {
        let kind = header.info >> 4;
        // A transaction's first bit says whether there is more to come.
        let kind = if header.rmgr == RmgrId::TRANSACTION { kind & 0x07 } else { kind };
        let count = Count {
            records: 1,
            record_bytes: u64::from(header.total_len.saturating_sub(image_bytes)),
            image_bytes: u64::from(image_bytes),
        };
        let rmgr = usize::from(header.rmgr.0);
        let of_rmgr = self.counts.get_mut(rmgr).and_then(|types| types.get_mut(usize::from(kind)));
        if let (Some(place), Some(met)) = (of_rmgr, self.met.get_mut(rmgr)) {
            place.add(count);
            *met = true;
        }
        self.end = end;
    }

    /// Adds what was counted behind this.
    pub fn merge(&mut self, later: &Self) {
        let places = self.counts.iter_mut().zip(&mut self.met);
        let later_places = later.counts.iter().zip(&later.met);
        for ((place, met), (more, _)) in places.zip(later_places).filter(|(_, (_, met))| **met) {
            place.iter_mut().zip(more).for_each(|(place, more)| place.add(*more));
            *met = true;
        }
        if later.end.is_valid() {
            self.end = later.end;
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        for (place, met) in self.counts.iter_mut().zip(&mut self.met).filter(|(_, met)| **met) {
            place.fill(Count::default());
            *met = false;
        }
        self.end = Lsn::INVALID;
    }

    fn of(&self, rmgr: RmgrId) -> &[Count] {
        self.counts.get(usize::from(rmgr.0)).map_or(&[], <[Count; TYPES]>::as_slice)
    }

    fn sum(&self, rmgr: RmgrId) -> Count {
        let mut sum = Count::default();
        self.of(rmgr).iter().for_each(|count| sum.add(*count));
        sum
    }

    /// As the program of this version shows them.
    #[must_use]
    pub fn text(&self, by: Statistics, version: WalVersion) -> String {
        let since_15 = version.major() >= 15;
        let mut out = String::new();
        if since_15 {
            if !self.end.is_valid() {
                return out;
            }
            _ = writeln!(out, "WAL statistics between {} and {}:", self.start, self.end);
        }
        let rmgrs: Vec<RmgrId> = builtin_rmgrs().chain(custom_rmgrs(version)).collect();
        let mut total = Count::default();
        rmgrs.iter().for_each(|rmgr| total.add(self.sum(*rmgr)));
        out.push_str(&heading());
        for rmgr in rmgrs {
            let mut name = Vec::new();
            rmgr_name(rmgr).put(&mut name);
            let name = String::from_utf8_lossy(&name).into_owned();
            match by {
                Statistics::Rmgr => {
                    let count = self.sum(rmgr);
                    if rmgr.name().is_some() || count.records > 0 {
                        row(&name, count, total, &mut out);
                    }
                }
                Statistics::Record => self.types(rmgr, &name, total, version, &mut out),
            }
        }
        footing(total, &mut out);
        out
    }

    fn types(&self, rmgr: RmgrId, name: &str, total: Count, version: WalVersion, out: &mut String) {
        for (kind, count) in (0_u8..).zip(self.of(rmgr)) {
            let info = kind << 4;
            if count.records == 0 {
                continue;
            }
            match identify(version, rmgr, info) {
                Some(id) => row(&format!("{name}/{id}"), *count, total, out),
                None => row(&format!("{name}/UNKNOWN ({info:x})"), *count, total, out),
            }
        }
    }
}

fn heading() -> String {
    let line = |cells: [&str; 9]| {
        let [name, cells @ ..] = cells;
        let mut out = format!("{name:<27}");
        for pair in cells.as_chunks::<2>().0 {
            let [number, percent] = pair;
            _ = write!(out, " {number:>20} {percent:>8}");
        }
        out.push('\n');
        out
    };
    let names =
        ["Type", "N", "(%)", "Record size", "(%)", "FPI size", "(%)", "Combined size", "(%)"];
    let lines =
        ["----", "-", "---", "-----------", "---", "--------", "---", "-------------", "---"];
    line(names) + &line(lines)
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

fn row(name: &str, count: Count, total: Count, out: &mut String) {
    let (combined, all) =
        (count.record_bytes + count.image_bytes, total.record_bytes + total.image_bytes);
    _ = write!(out, "{name:<27}");
    for (part, whole) in [
        (count.records, total.records),
        (count.record_bytes, total.record_bytes),
        (count.image_bytes, total.image_bytes),
        (combined, all),
    ] {
        _ = write!(out, " {part:>20} ({:6.2})", percent(part, whole));
    }
    out.push('\n');
}

fn footing(total: Count, out: &mut String) {
    let line = "--------";
    _ = writeln!(
        out,
        "{:<27} {line:>20} {:8} {line:>20} {:8} {line:>20} {:8} {line:>20}",
        "", "", "", ""
    );
    let all = total.record_bytes + total.image_bytes;
    let share = |part| format!("[{:.2}%]", percent(part, all));
    _ = writeln!(
        out,
        "{:<27} {:>20} {:<9}{:>20} {:<9}{:>20} {:<9}{all:>20} {:<6}",
        "Total",
        total.records,
        "",
        total.record_bytes,
        share(total.record_bytes),
        total.image_bytes,
        share(total.image_bytes),
        "[100%]"
    );
}
