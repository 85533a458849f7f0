//! A record as a line of JSON: an object with every field typed, blocks included.

use std::io::{self, Write};

use pg_types::Lsn;
use serde::{Serialize, Serializer};
use wal_describe::{Payload, Source, fork_name, identify, rmgr_name};
use wal_format::{BlockReference, RmgrId};

use super::image_bytes;
use super::line::method_name;
use crate::dump::output::PIECE_BYTES;

/// See the [module](self).
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "as_lsn")]
    lsn: Lsn,
    #[serde(serialize_with = "as_lsn")]
    end: Lsn,
    #[serde(serialize_with = "as_lsn")]
    prev: Lsn,
    timeline: u32,
    rmgr: Name,
    record: Option<&'static str>,
    info: u8,
    xid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    toplevel_xid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<u16>,
    length: u32,
    image_bytes: u32,
    fields: Payload<'a>,
    blocks: Blocks<'a>,
}

#[derive(Serialize)]
struct Block {
    id: u8,
    tablespace: u32,
    database: u32,
    relation: u32,
    fork: Fork,
    block: u32,
    will_init: bool,
    data_bytes: usize,
    image: Option<Image>,
}

#[derive(Serialize)]
struct Image {
    bytes: usize,
    hole_offset: u16,
    hole_length: u16,
    compression: Option<&'static str>,
    apply: bool,
}

struct Name(RmgrId);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut name = Vec::new();
        rmgr_name(self.0).put(&mut name);
        serializer.serialize_str(&String::from_utf8_lossy(&name))
    }
}

/// A name, or the number of a fork that doesn't exist.
#[derive(Serialize)]
#[serde(untagged)]
enum Fork {
    Known(&'static str),
    Unknown(u8),
}

struct Blocks<'a>(&'a [BlockReference<'a>]);

impl Serialize for Blocks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|block| Block {
            id: block.id,
            tablespace: block.locator.tablespace,
            database: block.locator.database,
            relation: block.locator.relation,
            fork: fork_name(block.fork).map_or(Fork::Unknown(block.fork), Fork::Known),
            block: block.block,
            will_init: block.will_init,
            data_bytes: block.data.map_or(0, <[u8]>::len),
            image: block.image.as_ref().map(|image| Image {
                bytes: image.bytes.len(),
                hole_offset: image.hole_offset,
                hole_length: image.hole_length,
                compression: image.compression.map(method_name),
                apply: image.apply,
            }),
        }))
    }
}

fn as_lsn<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(lsn)
}

/// Appends a record's line; of one that is too long to be kept as far as `relieve` hasn't taken it
/// off.
pub fn put_long(
    source: &Source<'_>,
    end: Lsn,
    timeline: u32,
    relieve: &mut dyn FnMut(&mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    // What can't be written is `relieve`'s to know.
    _ = serde_json::to_writer(Relieved { relieve, out }, &line(source, end, timeline));
    out.push(b'\n');
}

/// A buffer that doesn't grow.
struct Relieved<'a> {
    relieve: &'a mut dyn FnMut(&mut Vec<u8>),
    out: &'a mut Vec<u8>,
}

impl Write for Relieved<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(bytes);
        if self.out.len() >= PIECE_BYTES {
            (self.relieve)(self.out);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Appends a record's line.
pub fn put_record(source: &Source<'_>, end: Lsn, timeline: u32, out: &mut Vec<u8>) {
    let line = line(source, end, timeline);
    let from = out.len();
    if serde_json::to_writer(&mut *out, &line).is_err() {
        // Only a value that isn't JSON fails, and there is none among these.
        out.truncate(from);
    }
    out.push(b'\n');
}

fn line<'a>(source: &Source<'a>, end: Lsn, timeline: u32) -> Line<'a> {
    let header = source.header;
    Line {
        lsn: source.lsn,
        end,
        prev: header.prev,
        timeline,
        rmgr: Name(header.rmgr),
        record: identify(source.version, header.rmgr, header.info),
        info: header.info,
        xid: header.xid,
        toplevel_xid: source.body.toplevel_xid,
        origin: source.body.origin,
        length: header.total_len,
        image_bytes: image_bytes(source.body),
        fields: Payload::of(source),
        blocks: Blocks(&source.body.blocks),
    }
}
