//! Commits, aborts, prepared transactions (`Transaction`; `access/xact.h`).

use pg_types::Lsn;
use serde::{Serialize, Serializer};
use wal_format::RelFileLocator;

use crate::far::Data;
use crate::identify::XACT_OPERATION;
use crate::invalidation::Invalidations;
use crate::layout::{Items, layout, lossy};
use crate::path::put_path;
use crate::text::put;
use crate::{Source, Style, Time, c_string};

/// What a record of a transaction's state says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Transaction<'a> {
    /// `XLOG_XACT_COMMIT`, `XLOG_XACT_COMMIT_PREPARED`
    Commit(End<'a>),
    /// `XLOG_XACT_ABORT`, `XLOG_XACT_ABORT_PREPARED`
    Abort(End<'a>),
    /// `XLOG_XACT_PREPARE`
    Prepare(Prepare<'a>),
    /// `XLOG_XACT_ASSIGNMENT` (`xl_xact_assignment`)
    Assignment {
        /// `xtop`: the top-level transaction
        toplevel: u32,
        /// `xsub`
        subxacts: Items<'a, u32>,
    },
    /// `XLOG_XACT_INVALIDATIONS` (`xl_xact_invals`), from 14 on
    Invalidations(Invalidations<'a>),
    /// A number that stands for nothing.
    Nothing,
}

/// How a transaction ended (`xl_xact_commit`, `xl_xact_abort`, and the parts behind them that
/// `xinfo` announces: `ParseCommitRecord`, `ParseAbortRecord`, 10–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct End<'a> {
    /// `xact_time`
    pub time: Time,
    /// `xinfo`: which parts there are, and what the commit asks of a standby
    pub xinfo: u32,
    /// `twophase_xid` and `twophase_gid`, of a prepared transaction
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepared: Option<Prepared<'a>>,
    /// The relations whose files it drops (`xl_xact_relfilelocators`)
    pub relations: Items<'a, RelFileLocator>,
    /// Its subtransactions (`xl_xact_subxacts`)
    pub subxacts: Items<'a, u32>,
    /// The statistics that it drops (`xl_xact_stats_items`), from 15 on
    pub dropped_stats: DroppedStats<'a>,
    /// `xl_xact_invals`, with the database of `xl_xact_dbinfo`; never in an abort
    #[serde(flatten)]
    pub invalidations: Invalidations<'a>,
    /// `xl_xact_origin`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Which prepared transaction ended (`xl_xact_twophase`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prepared<'a> {
    /// `xid`
    pub xid: u32,
    /// Its name, where it is logged: with `wal_level` logical.
    #[serde(serialize_with = "lossy")]
    pub gid: &'a [u8],
}

/// Where a transaction was replicated from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Origin {
    /// The record's replication origin.
    pub node: u16,
    /// `origin_lsn`
    pub lsn: Lsn,
    /// `origin_timestamp`
    pub time: Time,
}

layout! {
    /// `xl_xact_stats_item` of 15–17.
    NarrowStats {
        /// `kind`
        kind: i32,
        /// `dboid`
        database: u32,
        /// `objoid`
        object: u32,
    }
}

layout! {
    /// `xl_xact_stats_item` from 18 on, which keeps the object's id in two halves.
    WideStats {
        /// `kind`
        kind: i32,
        /// `dboid`
        database: u32,
        /// `objid_lo`
        object_low: u32,
        /// `objid_hi`
        object_high: u32,
    }
}

/// Statistics that go with what a transaction drops.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum DroppedStats<'a> {
    /// 15–17
    Narrow(Items<'a, NarrowStats>),
    /// From 18 on
    Wide(Items<'a, WideStats>),
}

/// Statistics of one object.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StatsKey {
    /// `kind`
    pub kind: i32,
    /// `dboid`
    pub database: u32,
    /// `objid`
    pub object: u64,
}

impl<'a> DroppedStats<'a> {
    const NONE: Self = Self::Narrow(Items::none());

    fn read(data: &mut Data<'a>, count: i32, major: u32) -> Option<Self> {
        Some(if major >= 18 {
            Self::Wide(data.items(count)?)
        } else {
            Self::Narrow(data.items(count)?)
        })
    }

    /// The keys in order.
    pub fn iter(&self) -> impl Iterator<Item = StatsKey> + use<'a> {
        let (narrow, wide) = match self {
            Self::Narrow(items) => (*items, Items::none()),
            Self::Wide(items) => (Items::none(), *items),
        };
        let narrow = narrow.iter().map(|item| (item.kind, item.database, item.object.into()));
        let wide = wide.iter().map(|item| {
            let object = u64::from(item.object_high) << 32 | u64::from(item.object_low);
            (item.kind, item.database, object)
        });
        narrow.chain(wide).map(|(kind, database, object)| StatsKey { kind, database, object })
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Narrow(items) => items.is_empty(),
            Self::Wide(items) => items.is_empty(),
        }
    }

    fn text(&self, label: &str, style: &Style<'_>, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put!(out, "; ", label, "dropped stats:");
            for key in self.iter() {
                put!(out, " ", key.kind, "/", key.database, "/", key.object);
                style.relieve(out);
            }
        }
    }
}

impl Serialize for DroppedStats<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// A transaction that is prepared (`xl_xact_prepare`, 13–18; before, `TwoPhaseFileHeader` of
/// twophase.c).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prepare<'a> {
    /// `xid`
    pub xid: u32,
    /// `prepared_at`
    pub time: Time,
    /// `owner`
    pub owner: u32,
    /// The transaction's name
    #[serde(serialize_with = "lossy")]
    pub gid: &'a [u8],
    /// Its subtransactions
    pub subxacts: Items<'a, u32>,
    /// What a commit drops
    pub relations_on_commit: Items<'a, RelFileLocator>,
    /// What a rollback drops
    pub relations_on_abort: Items<'a, RelFileLocator>,
    /// The statistics that a commit drops, from 15 on
    pub dropped_stats_on_commit: DroppedStats<'a>,
    /// The statistics that a rollback drops, from 15 on
    pub dropped_stats_on_abort: DroppedStats<'a>,
    /// Messages for a commit, with `database`
    #[serde(flatten)]
    pub invalidations: Invalidations<'a>,
    /// `origin_lsn`, `origin_timestamp`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

const XLOG_XACT_HAS_INFO: u8 = 0x80;
/// `XACT_XINFO_HAS_…`
const HAS_DBINFO: u32 = 1;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_RELFILES: u32 = 1 << 2;
const HAS_INVALS: u32 = 1 << 3;
const HAS_TWOPHASE: u32 = 1 << 4;
const HAS_ORIGIN: u32 = 1 << 5;
const HAS_GID: u32 = 1 << 7;
const HAS_DROPPED_STATS: u32 = 1 << 8;
/// `XACT_COMPLETION_…`
const APPLY_FEEDBACK: u32 = 1 << 29;
const UPDATE_RELCACHE_FILE: u32 = 1 << 30;
const FORCE_SYNC_COMMIT: u32 = 1 << 31;

impl<'a> Transaction<'a> {
    pub(crate) fn read(source: &Source<'a>) -> Option<Self> {
        let mut data = Data::of(source);
        let major = source.version.major();
        Some(match source.header.info & XACT_OPERATION {
            0x00 | 0x30 => Self::Commit(End::read(source, &mut data, true)?),
            0x20 | 0x40 => Self::Abort(End::read(source, &mut data, false)?),
            0x10 => Self::Prepare(Prepare::read(source, &mut data)?),
            0x50 => {
                let (toplevel, count) = (data.field()?, data.field()?);
                let subxacts = data.items(count)?;
                Self::Assignment { toplevel, subxacts }
            }
            0x60 if major >= 14 => {
                let count = data.field()?;
                let messages = data.items(count)?;
                let (database, tablespace, relcache_init_file) = (0, 0, false);
                Self::Invalidations(Invalidations {
                    database,
                    tablespace,
                    relcache_init_file,
                    messages,
                })
            }
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Commit(end) => end.commit_text(style, out),
            Self::Abort(end) => end.abort_text(style, out),
            Self::Prepare(prepare) => prepare.text(style, out),
            Self::Assignment { toplevel, subxacts } => {
                put!(out, "xtop ", *toplevel, ": subxacts:");
                for xid in subxacts.iter() {
                    put!(out, " ", xid);
                    style.relieve(out);
                }
            }
            Self::Invalidations(invalidations) => invalidations.text(style, out),
            Self::Nothing => {}
        }
    }
}

impl<'a> End<'a> {
    /// `commit` has invalidation messages, an abort has none.
    fn read(source: &Source<'a>, data: &mut Data<'a>, commit: bool) -> Option<Self> {
        let major = source.version.major();
        let time = data.field()?;
        let has_info = source.header.info & XLOG_XACT_HAS_INFO != 0;
        let xinfo = if has_info { data.field()? } else { 0 };
        let has = |part: u32| xinfo & part != 0;
        let mut end = Self {
            time,
            xinfo,
            prepared: None,
            relations: Items::none(),
            subxacts: Items::none(),
            dropped_stats: DroppedStats::NONE,
            invalidations: Invalidations {
                database: 0,
                tablespace: 0,
                relcache_init_file: has(UPDATE_RELCACHE_FILE),
                messages: Items::none(),
            },
            origin: None,
        };
        if has(HAS_DBINFO) {
            end.invalidations.database = data.field()?;
            end.invalidations.tablespace = data.field()?;
        }
        if has(HAS_SUBXACTS) {
            let count = data.field()?;
            end.subxacts = data.items(count)?;
        }
        if has(HAS_RELFILES) {
            let count = data.field()?;
            end.relations = data.items(count)?;
        }
        if has(HAS_DROPPED_STATS) && major >= 15 {
            let count = data.field()?;
            end.dropped_stats = DroppedStats::read(data, count, major)?;
        }
        if has(HAS_INVALS) && commit {
            let count = data.field()?;
            end.invalidations.messages = data.items(count)?;
        }
        if has(HAS_TWOPHASE) {
            let xid = data.field()?;
            let gid = if has(HAS_GID) { data.name()? } else { &[] };
            end.prepared = Some(Prepared { xid, gid });
        }
        if has(HAS_ORIGIN) {
            end.origin = Some(Origin {
                node: source.body.origin.unwrap_or(0),
                lsn: data.field()?,
                time: data.field()?,
            });
        }
        Some(end)
    }

    fn has(&self, bit: u32) -> bool {
        self.xinfo & bit != 0
    }

    /// What commits and aborts begin with. Of a prepared transaction whose xid is 0 there is no
    /// word.
    fn begin_text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        if let Some(prepared) = self.prepared.filter(|prepared| prepared.xid != 0) {
            put!(out, prepared.xid, ": ");
        }
        style.zone.put(self.time, out);
        relations_text("rels", &self.relations, style, out);
        subxacts_text(&self.subxacts, style, out);
    }

    fn commit_text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        self.begin_text(style, out);
        self.dropped_stats.text("", style, out);
        self.invalidations.text(style, out);
        if self.has(APPLY_FEEDBACK) && style.since(15) {
            put!(out, "; apply_feedback");
        }
        if self.has(FORCE_SYNC_COMMIT) {
            put!(out, "; sync");
        }
        if let Some(origin) = self.origin {
            origin.text(style, out);
        }
    }

    fn abort_text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        self.begin_text(style, out);
        if let Some(origin) = self.origin.filter(|_| style.since(15)) {
            origin.text(style, out);
        }
        self.dropped_stats.text("", style, out);
    }
}

impl Origin {
    fn text(self, style: &Style<'_>, out: &mut Vec<u8>) {
        put!(out, "; origin: node ", self.node, ", lsn ", self.lsn, ", at ");
        style.zone.put(self.time, out);
    }
}

fn relations_text(
    label: &str,
    relations: &Items<'_, RelFileLocator>,
    style: &Style<'_>,
    out: &mut Vec<u8>,
) {
    if !relations.is_empty() {
        put!(out, "; ", label, ":");
        for relation in relations.iter() {
            put!(out, " ");
            put_path(style.version, &relation, 0, out);
            style.relieve(out);
        }
    }
}

fn subxacts_text(subxacts: &Items<'_, u32>, style: &Style<'_>, out: &mut Vec<u8>) {
    if !subxacts.is_empty() {
        put!(out, "; subxacts:");
        for xid in subxacts.iter() {
            put!(out, " ", xid);
            style.relieve(out);
        }
    }
}

impl<'a> Prepare<'a> {
    fn read(source: &Source<'a>, data: &mut Data<'a>) -> Option<Self> {
        let major = source.version.major();
        let all = data.remaining();
        // `magic`, `total_len`
        data.skip(8)?;
        let (xid, database) = (data.field()?, data.field()?);
        let (time, owner) = (data.field()?, data.field()?);
        let subxacts = data.field()?;
        let (on_commit, on_abort) = (data.field()?, data.field()?);
        let (stats_on_commit, stats_on_abort) =
            if major >= 15 { (data.field()?, data.field()?) } else { (0, 0) };
        let messages = data.field()?;
        let relcache_init_file = data.field()?;
        data.skip(1)?;
        let gid = data.field::<u16>()?;
        let (lsn, origin_time) = (data.field()?, data.field()?);
        // Every part begins at a multiple of 8 from the record's start.
        let align = |data: &mut Data<'a>| {
            let used = all.checked_sub(data.remaining())?;
            let padding = used.next_multiple_of(8).checked_sub(used)?;
            data.skip(padding.min(data.remaining()))
        };
        let gid = c_string(data.take(gid.into())?);
        align(data)?;
        let subxacts = data.items(subxacts)?;
        align(data)?;
        let relations_on_commit = data.items(on_commit)?;
        align(data)?;
        let relations_on_abort = data.items(on_abort)?;
        align(data)?;
        let dropped_stats_on_commit = DroppedStats::read(data, stats_on_commit, major)?;
        align(data)?;
        let dropped_stats_on_abort = DroppedStats::read(data, stats_on_abort, major)?;
        align(data)?;
        let messages = data.items(messages)?;
        let tablespace = 0;
        let node = source.body.origin.filter(|node| *node != 0);
        Some(Self {
            xid,
            time,
            owner,
            gid,
            subxacts,
            relations_on_commit,
            relations_on_abort,
            dropped_stats_on_commit,
            dropped_stats_on_abort,
            invalidations: Invalidations { database, tablespace, relcache_init_file, messages },
            origin: node.map(|node| Origin { node, lsn, time: origin_time }),
        })
    }

    fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        put!(out, "gid ", self.gid, ": ");
        style.zone.put(self.time, out);
        relations_text("rels(commit)", &self.relations_on_commit, style, out);
        relations_text("rels(abort)", &self.relations_on_abort, style, out);
        self.dropped_stats_on_commit.text("commit ", style, out);
        self.dropped_stats_on_abort.text("abort ", style, out);
        subxacts_text(&self.subxacts, style, out);
        self.invalidations.text(style, out);
        if let Some(origin) = self.origin.filter(|_| style.since(15)) {
            origin.text(style, out);
        }
    }
}
