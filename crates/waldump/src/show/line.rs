//! A record as a line of text, with `-b` as several (`XLogDumpDisplayRecord` of pg_waldump.c,
//! `XLogRecGetBlockRefInfo` of xlogdesc.c, 14–18).

use wal_describe::{Source, Zone, describe, fork_name, identify};
use wal_format::{BlockReference, Compression};

use super::image_bytes;
use crate::text::{put_lsn_padded, put_number, put_padded};

/// How lines are written.
#[derive(Clone, Debug)]
pub struct Style {
    /// In which zone times are shown.
    pub zone: Zone,
    /// `-b`
    pub details: bool,
}

/// `info` without the bits that belong to every manager (`XLR_INFO_MASK`).
const RMGR_INFO: u8 = 0xF0;

/// The size of a data page (`BLCKSZ`).
const PAGE: u32 = 8192;

/// Appends the lines of a record.
pub fn put_record(source: &Source<'_>, style: &Style, out: &mut Vec<u8>) {
    put_head(source, out);
    describe(source, &style.zone, out);
    put_blocks(source, style, out);
}

/// Appends what stands before a record's description.
#[inline]
pub fn put_head(source: &Source<'_>, out: &mut Vec<u8>) {
    let header = source.header;
    out.extend_from_slice(b"rmgr: ");
    put_rmgr(source, out);
    out.extend_from_slice(b" len (rec/tot): ");
    put_padded::<6>(header.total_len.wrapping_sub(image_bytes(source.body)), out);
    out.push(b'/');
    put_padded::<6>(header.total_len, out);
    out.extend_from_slice(b", tx: ");
    put_padded::<10>(header.xid, out);
    out.extend_from_slice(b", lsn: ");
    put_lsn_padded(source.lsn, out);
    out.extend_from_slice(b", prev ");
    put_lsn_padded(header.prev, out);
    out.extend_from_slice(b", desc: ");
    match identify(source.version, header.rmgr, header.info) {
        Some(name) => out.extend_from_slice(name.as_bytes()),
        None => {
            let text = format!("UNKNOWN ({:x})", header.info & RMGR_INFO);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out.push(b' ');
}

/// `%-11s`
#[inline]
fn put_rmgr(source: &Source<'_>, out: &mut Vec<u8>) {
    const SPACES: &[u8; 11] = b"           ";
    let rmgr = source.header.rmgr;
    let from = out.len();
    match rmgr.name() {
        Some(name) => out.extend_from_slice(name.as_bytes()),
        None => wal_describe::rmgr_name(rmgr).put(out),
    }
    let len = (out.len() - from).min(SPACES.len());
    out.extend_from_slice(SPACES.get(len..).unwrap_or_default());
}

/// Appends what stands behind a record's description, and the line's end.
#[inline]
pub fn put_blocks(source: &Source<'_>, style: &Style, out: &mut Vec<u8>) {
    if style.details {
        out.push(b'\n');
        for block in &source.body.blocks {
            put_details(source, block, out);
        }
        return;
    }
    for block in &source.body.blocks {
        out.extend_from_slice(b", blkref #");
        put_place(block, block.fork != 0, out);
        match &block.image {
            Some(image) if image.apply => out.extend_from_slice(b" FPW"),
            Some(_) => out.extend_from_slice(b" FPW for WAL verification"),
            None => {}
        }
    }
    out.push(b'\n');
}

/// A block's line, `-b`.
fn put_details(source: &Source<'_>, block: &BlockReference<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\tblkref #");
    put_place(block, true, out);
    if let Some(image) = &block.image {
        let why = if image.apply { " (FPW" } else { " (FPW for WAL verification" };
        out.extend_from_slice(why.as_bytes());
        out.extend_from_slice(b"); hole: offset: ");
        put_number(u32::from(image.hole_offset), out);
        out.extend_from_slice(b", length: ");
        put_number(u32::from(image.hole_length), out);
        if let Some(method) = image.compression {
            let length = u32::try_from(image.bytes.len()).unwrap_or(PAGE);
            let saved = PAGE.wrapping_sub(u32::from(image.hole_length)).wrapping_sub(length);
            out.extend_from_slice(b", compression saved: ");
            put_number(saved, out);
            if source.version.major() >= 15 {
                out.extend_from_slice(b", method: ");
                out.extend_from_slice(method_name(method).as_bytes());
            }
        }
    }
    out.push(b'\n');
}

/// `0: rel 1663/5/16384 fork main blk 7`
#[inline]
fn put_place(block: &BlockReference<'_>, with_fork: bool, out: &mut Vec<u8>) {
    put_number(u32::from(block.id), out);
    out.extend_from_slice(b": rel ");
    put_number(block.locator.tablespace, out);
    out.push(b'/');
    put_number(block.locator.database, out);
    out.push(b'/');
    put_number(block.locator.relation, out);
    if with_fork {
        out.extend_from_slice(b" fork ");
        out.extend_from_slice(fork_name(block.fork).unwrap_or("unknown").as_bytes());
    }
    out.extend_from_slice(b" blk ");
    put_number(block.block, out);
}

/// How an image was compressed, as the server names it.
#[must_use]
pub fn method_name(method: Compression) -> &'static str {
    match method {
        Compression::Pglz => "pglz",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
        _ => "unknown",
    }
}
