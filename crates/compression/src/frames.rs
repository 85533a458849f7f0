//! Where frames begin, without unpacking any: for whoever wants the last one alone.

use crate::Method;

/// `Magic_Number` of a Zstandard frame (RFC 8878, 3.1.1).
const ZSTD_MAGIC: u32 = 0xFD2F_B528;
/// The magic of an LZ4 frame (`lz4_Frame_format.md`).
const LZ4_MAGIC: u32 = 0x184D_2204;

/// As much is looked at in one place: a magic and a descriptor.
pub const PEEK_LEN: usize = 8;

/// Gives the bytes at an offset, zeros behind the file's end.
pub type Peek<'a> = dyn FnMut(u64) -> [u8; PEEK_LEN] + 'a;

impl Method {
    /// Where the last frame of a compressed file of so many bytes begins; `None` if that can't be
    /// told, as of gzip, or there is but one.
    #[must_use]
    pub fn last_frame(self, len: u64, peek: &mut Peek<'_>) -> Option<u64> {
        let frame_end = match self {
            Self::Zstd => zstd_frame_end,
            Self::Lz4 => lz4_frame_end,
            Self::Gzip => return None,
        };
        let (mut start, mut end) = (0, frame_end(0, len, peek)?);
        while end < len {
            start = end;
            // It has a header at least, so that this ends.
            end = frame_end(start, len, peek)?;
        }
        (start > 0 && end == len).then_some(start)
    }
}

fn word(at: u64, peek: &mut Peek<'_>) -> u32 {
    let [a, b, c, d, ..] = peek(at);
    u32::from_le_bytes([a, b, c, d])
}

/// Where the frame ends that begins at `start`, from the lengths of its blocks.
fn zstd_frame_end(start: u64, len: u64, peek: &mut Peek<'_>) -> Option<u64> {
    let [.., descriptor, _, _, _] = peek(start);
    if word(start, peek) != ZSTD_MAGIC {
        return None;
    }
    let is_single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4].get(usize::from(descriptor & 3))?;
    let content = match descriptor >> 6 {
        0 => u64::from(is_single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let mut at = start.checked_add(5 + u64::from(!is_single) + dictionary + content)?;
    while at < len {
        let header = word(at, peek) & 0xFF_FFFF;
        // A run has one byte, however long it is.
        let block = if header >> 1 & 3 == 1 { 1 } else { u64::from(header >> 3) };
        at = at.checked_add(3 + block)?;
        if header & 1 == 1 {
            return at.checked_add(if descriptor & 4 != 0 { 4 } else { 0 });
        }
    }
    None
}

fn lz4_frame_end(start: u64, len: u64, peek: &mut Peek<'_>) -> Option<u64> {
    let [.., flags, _, _, _] = peek(start);
    if word(start, peek) != LZ4_MAGIC {
        return None;
    }
    let checksum = |bit: u8| if flags & bit != 0 { 4 } else { 0 };
    let content = if flags & 0x08 != 0 { 8 } else { 0 };
    let mut at = start.checked_add(7 + content + checksum(0x01))?;
    while at < len {
        let header = word(at, peek);
        at = at.checked_add(4)?;
        if header == 0 {
            return at.checked_add(checksum(0x04));
        }
        at = at.checked_add(u64::from(header & 0x7FFF_FFFF) + checksum(0x10))?;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn pack(method: Method, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = method.encoder(Vec::new()).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn last_frame(method: Method, bytes: &[u8]) -> Option<usize> {
        let mut peek = |at: u64| {
            let mut peeked = [0; PEEK_LEN];
            let there = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
            peeked.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
            peeked
        };
        method.last_frame(bytes.len() as u64, &mut peek).map(|at| usize::try_from(at).unwrap())
    }

    #[test]
    fn the_last_frame_is_found_and_can_be_read_alone() {
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let noise: Vec<u8> =
            (0..300_000_u32).map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8).collect();
        for method in [Method::Zstd, Method::Lz4] {
            for first in [bytes.as_slice(), &noise, &[0; 500_000], b""] {
                let packed = pack(method, first);
                assert_eq!(last_frame(method, &packed), None, "{method}: there is but one");
                let both = [packed.clone(), pack(method, &bytes)].concat();
                assert_eq!(last_frame(method, &both), Some(packed.len()), "{method}");
                let mut last = Vec::new();
                let mut decoder = method.decoder(&both[packed.len()..], 2 << 20);
                decoder.read_to_end(&mut last).unwrap();
                assert!(last == bytes);
                assert_eq!(last_frame(method, &both[..both.len() - 1]), None, "{method}: cut off");
            }
        }
        let gzip = pack(Method::Gzip, &bytes);
        assert_eq!(last_frame(Method::Gzip, &[gzip.clone(), gzip].concat()), None);
    }

    #[test]
    fn any_bytes_end() {
        for seed in 0..2000_u32 {
            let mut bytes: Vec<u8> =
                (0..64_u32).map(|i| ((i ^ seed).wrapping_mul(0x9E37_79B1) >> 23) as u8).collect();
            for (method, magic) in [(Method::Zstd, ZSTD_MAGIC), (Method::Lz4, LZ4_MAGIC)] {
                bytes[..4].copy_from_slice(&magic.to_le_bytes());
                _ = last_frame(method, &bytes);
            }
        }
    }
}
