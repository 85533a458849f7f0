//! Page images of every method: unpacked, or refused. Nothing may panic or take more than a page.
//!
//! Input: the method, the hole, and the image's bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use waldump::show::images::{PAGE_BYTES, restore};
use wal_format::{BlockImage, Compression};

fuzz_target!(|data: &[u8]| {
    let [method, o0, o1, l0, l1, bytes @ ..] = data else { return };
    let compression = match method % 4 {
        0 => None,
        1 => Some(Compression::Pglz),
        2 => Some(Compression::Lz4),
        _ => Some(Compression::Zstd),
    };
    let image = BlockImage {
        bytes,
        hole_offset: u16::from_le_bytes([*o0, *o1]),
        hole_length: u16::from_le_bytes([*l0, *l1]),
        info: 0,
        apply: true,
        compression,
    };
    let _ = restore(&image, &mut [0; PAGE_BYTES]);
});
