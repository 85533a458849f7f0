//! A content in frames that stand by themselves, each of which says how long it is, both packed and
//! unpacked: so any of them can be unpacked alone, and several at once. To the tools it is one
//! content; the frames of Zstandard and of LZ4 say all that by themselves, and a member of gzip does
//! in an extra field (RFC 1952, 2.3.1.1), which others pass over.
//!
//! Never unpacked by trust: a frame whose content isn't what it says is an error.

mod lz4;

use std::io::{self, Write};

use flate2::{Decompress, FlushDecompress, GzBuilder, Status};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use crate::{GZIP_FAST, Method, ZSTD_LEVEL};

/// `Magic_Number` of a Zstandard frame (RFC 8878, 3.1.1).
const ZSTD_MAGIC: u32 = 0xFD2F_B528;
/// A member of gzip: its magic, deflate, and that there is an extra field (RFC 1952, 2.3.1).
const GZIP_MAGIC: u32 = 0x0408_8B1F;
/// The extra field: 12 bytes, of which this subfield takes all: `SW`, 8 bytes, which are the lengths
/// of the member and of its content.
const GZIP_EXTRA: [u8; 6] = [12, 0, b'S', b'W', 8, 0];
/// Where the lengths are in a member, behind ten bytes of header and the above.
const GZIP_LENGTHS: usize = 16;
const GZIP_HEADER_LEN: usize = GZIP_LENGTHS + 8;

/// As much is looked at in one place: no header is longer.
pub const PEEK_LEN: usize = 24;
/// A frame is unpacked as a whole: nobody makes memory of more than that.
pub const MAX_CONTENT_LEN: usize = 1 << 20;
/// Of what can't be compressed a frame is longer than its content, by a few bytes a block.
const MAX_FRAME_LEN: u64 = MAX_CONTENT_LEN as u64 * 9 / 8;
/// The largest segments have a gigabyte, in pieces of 256 KiB; what has more is read as a stream.
const MAX_FRAMES: usize = 4096;

/// Gives the bytes at an offset, zeros behind the file's end.
pub type Peek<'a> = dyn FnMut(u64) -> [u8; PEEK_LEN] + 'a;

/// Where a frame lies, and how long what is in it says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its first byte in the file.
    pub at: u64,
    /// Its bytes in the file.
    pub len: usize,
    /// The bytes of its content.
    pub content: usize,
}

impl Method {
    /// The frames of a compressed file of so many bytes; `None` unless all of it is such frames, of
    /// at most [`MAX_CONTENT_LEN`] each.
    #[must_use]
    pub fn frames(self, len: u64, peek: &mut Peek<'_>) -> Option<Vec<Frame>> {
        let frame_at = match self {
            Self::Zstd => zstd_frame,
            Self::Lz4 => lz4::frame,
            Self::Gzip => gzip_frame,
        };
        let (mut frames, mut at) = (Vec::new(), 0_u64);
        while at < len {
            let (end, content) = frame_at(at, len, peek)?;
            let bytes = end.checked_sub(at).filter(|bytes| (1..=MAX_FRAME_LEN).contains(bytes))?;
            let content = usize::try_from(content).ok().filter(|len| *len <= MAX_CONTENT_LEN)?;
            if frames.len() == MAX_FRAMES {
                return None;
            }
            frames.push(Frame { at, len: usize::try_from(bytes).ok()?, content });
            at = end;
        }
        (at == len).then_some(frames)
    }

    /// Packs a frame, at the level that segments are packed at; adds it to `packed`.
    ///
    /// # Errors
    /// If the encoder fails.
    pub fn pack(self, content: &[u8], packed: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Zstd => {
                let frame = zrip::compress(content, ZSTD_LEVEL).map_err(io::Error::other)?;
                packed.extend_from_slice(&frame);
            }
            Self::Lz4 => {
                // A block's checksum is of what it is packed to, a tenth of its content: that one is
                // looked at here. lz4 1.9.4 fails at frames without the other one behind each other.
                let info = FrameInfo::new()
                    .block_size(BlockSize::Max256KB)
                    .block_mode(BlockMode::Independent)
                    .block_checksums(true)
                    .content_checksum(true)
                    .content_size(Some(content.len() as u64));
                let mut encoder = FrameEncoder::with_frame_info(info, packed);
                encoder.write_all(content)?;
                encoder.finish()?;
            }
            Self::Gzip => {
                let mut extra = GZIP_EXTRA[2..].to_vec();
                extra.extend_from_slice(&[0; 8]);
                let level = flate2::Compression::new(GZIP_FAST.unsigned_abs());
                let mut encoder = GzBuilder::new().extra(extra).write(Vec::new(), level);
                encoder.write_all(content)?;
                let mut member = encoder.finish()?;
                let lengths = [member.len(), content.len()]
                    .map(|len| u32::try_from(len).map(u32::to_le_bytes).map_err(io::Error::other));
                for (place, length) in [GZIP_LENGTHS, GZIP_LENGTHS + 4].into_iter().zip(lengths) {
                    if let Some(to) = member.get_mut(place..place + 4) {
                        to.copy_from_slice(&length?);
                    }
                }
                packed.extend_from_slice(&member);
            }
        }
        Ok(())
    }

    /// What unpacks frames one by one.
    #[must_use]
    pub fn unpacker(self) -> Unpacker {
        Unpacker {
            method: self,
            zstd: zrip::DecompressContext::new(),
            unpacked: Vec::new(),
            inflate: Decompress::new(false),
        }
    }
}

/// Unpacks frames, each by itself.
pub struct Unpacker {
    method: Method,
    zstd: zrip::DecompressContext,
    unpacked: Vec<u8>,
    inflate: Decompress,
}

impl Unpacker {
    /// Unpacks a frame to where there is just the room that its content is said to need.
    ///
    /// # Errors
    /// If it doesn't hold, or isn't as long; what is in `content` then is worth nothing.
    pub fn unpack(&mut self, frame: &[u8], content: &mut [u8]) -> io::Result<()> {
        match self.method {
            Method::Zstd => self.decompress(frame, content),
            Method::Lz4 => lz4::unpack(frame, content),
            Method::Gzip => self.inflate(frame, content),
        }
    }

    /// zrip has memory of its own.
    fn decompress(&mut self, frame: &[u8], content: &mut [u8]) -> io::Result<()> {
        self.unpacked.clear();
        let into = &mut self.unpacked;
        let unpacked = self.zstd.decompress_into_with_limit(frame, into, content.len());
        unpacked.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if self.unpacked.len() != content.len() {
            return Err(odd_length());
        }
        content.copy_from_slice(&self.unpacked);
        Ok(())
    }

    /// The member's content. Its trailer is what [flate2's decoder](flate2::bufread::GzDecoder) would
    /// check, too, with a slower checksum.
    fn inflate(&mut self, member: &[u8], content: &mut [u8]) -> io::Result<()> {
        let body = member.get(GZIP_HEADER_LEN..).and_then(|body| body.split_last_chunk::<8>());
        let Some((deflated, [a, b, c, d, len @ ..])) = body else { return Err(odd_length()) };
        self.inflate.reset(false);
        let status = self.inflate.decompress(deflated, content, FlushDecompress::Finish)?;
        let all = (self.inflate.total_in(), self.inflate.total_out())
            == (deflated.len() as u64, content.len() as u64)
            && u32::from_le_bytes(*len) as usize == content.len();
        if status != Status::StreamEnd || !all {
            return Err(odd_length());
        }
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, content);
        checked(crc == u64::from(u32::from_le_bytes([*a, *b, *c, *d])))
    }
}

/// What a checksum said.
fn checked(holds: bool) -> io::Result<()> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "a frame's checksum doesn't hold");
    holds.then_some(()).ok_or_else(broken)
}

fn odd_length() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame isn't as long as it says")
}

/// A little-endian number of so many of the peeked bytes.
fn number(peeked: &[u8; PEEK_LEN], at: usize, bytes: usize) -> u64 {
    let bytes = peeked.iter().skip(at).take(bytes).rev();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn word(at: u64, peek: &mut Peek<'_>) -> u32 {
    let [a, b, c, d, ..] = peek(at);
    u32::from_le_bytes([a, b, c, d])
}

/// Where the frame ends that begins at `start`, from the lengths of its blocks; and its content's
/// length.
fn zstd_frame(start: u64, len: u64, peek: &mut Peek<'_>) -> Option<(u64, u64)> {
    let peeked = peek(start);
    if number(&peeked, 0, 4) != u64::from(ZSTD_MAGIC) {
        return None;
    }
    let [.., descriptor] = *peeked.first_chunk::<5>()?;
    let is_single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4].get(usize::from(descriptor & 3))?;
    let before = 5 + usize::from(!is_single) + dictionary;
    let (bytes, content) = match descriptor >> 6 {
        0 if is_single => (1, number(&peeked, before, 1)),
        0 => return None,
        1 => (2, number(&peeked, before, 2) + 256),
        2 => (4, number(&peeked, before, 4)),
        _ => (8, number(&peeked, before, 8)),
    };
    let mut at = start.checked_add((before + bytes) as u64)?;
    while at < len {
        let header = word(at, peek) & 0xFF_FFFF;
        // A run has one byte, however long it is.
        let block = if header >> 1 & 3 == 1 { 1 } else { u64::from(header >> 3) };
        at = at.checked_add(3 + block)?;
        if header & 1 == 1 {
            let end = at.checked_add(if descriptor & 4 != 0 { 4 } else { 0 })?;
            return Some((end, content));
        }
    }
    None
}

fn gzip_frame(start: u64, _len: u64, peek: &mut Peek<'_>) -> Option<(u64, u64)> {
    let peeked = peek(start);
    let extra = peeked.get(10..GZIP_LENGTHS)?;
    if number(&peeked, 0, 4) != u64::from(GZIP_MAGIC) || *extra != GZIP_EXTRA {
        return None;
    }
    let member = number(&peeked, GZIP_LENGTHS, 4);
    Some((start.checked_add(member)?, number(&peeked, GZIP_LENGTHS + 4, 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(method: Method, bytes: &[u8]) -> Option<Vec<Frame>> {
        let mut peek = |at: u64| {
            let mut peeked = [0; PEEK_LEN];
            let there = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
            peeked.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
            peeked
        };
        method.frames(bytes.len() as u64, &mut peek)
    }

    fn content() -> Vec<u8> {
        let even = (0..150_000_u32).flat_map(|i| (i / 7).to_le_bytes());
        let noise = (0..300_000_u32).map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8);
        even.chain(noise).collect()
    }

    fn packed(method: Method, bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut packed = Vec::new();
        bytes.chunks(piece).for_each(|piece| method.pack(piece, &mut packed).unwrap());
        packed
    }

    #[test]
    fn frames_are_found_and_each_is_read_alone_and_all_as_one() {
        let bytes = content();
        for method in Method::ALL {
            for piece in [bytes.len(), 256 << 10, 40_000, 200] {
                let packed = packed(method, &bytes, piece);
                let mut whole = Vec::new();
                method.decoder(packed.as_slice(), 1 << 20).read_to_end(&mut whole).unwrap();
                assert!(whole == bytes, "{method}, {piece}");
                let found = frames(method, &packed);
                if bytes.len().div_ceil(piece) > MAX_FRAMES {
                    assert_eq!(found, None);
                    continue;
                }
                let mut unpacker = method.unpacker();
                for (frame, piece) in found.unwrap().iter().zip(bytes.chunks(piece)).rev() {
                    let from = usize::try_from(frame.at).unwrap();
                    let frame_bytes = &packed[from..from + frame.len];
                    let mut content = vec![0xA5; frame.content];
                    unpacker.unpack(frame_bytes, &mut content).unwrap();
                    assert!(content == piece, "{method}");
                }
            }
        }
    }

    #[test]
    fn what_isnt_all_frames_that_say_their_lengths_has_none() {
        let bytes = content();
        for method in Method::ALL {
            let packed = packed(method, &bytes, 100_000);
            assert!(frames(method, &packed).is_some());
            for cut in [packed.len() - 1, packed.len() - 5, packed.len() / 2, 5, 1] {
                assert_eq!(frames(method, &packed[..cut]), None, "{method} {cut}");
            }
            let more = [packed.as_slice(), b"x"].concat();
            assert_eq!(frames(method, &more), None, "{method}");
            let mut stream = method.encoder(Vec::new()).unwrap();
            stream.write_all(&bytes).unwrap();
            assert_eq!(frames(method, &stream.finish().unwrap()), None, "{method}");
        }
    }

    #[test]
    fn any_bit_of_a_frame_that_flips_is_found_or_changes_nothing() {
        let bytes: Vec<u8> = (0..2000_u32).flat_map(|i| (i / 5).to_le_bytes()).collect();
        for method in Method::ALL {
            let whole = packed(method, &bytes, bytes.len());
            let mut unpacker = method.unpacker();
            for at in 0..whole.len() * 8 {
                let mut damaged = whole.clone();
                damaged[at / 8] ^= 1 << (at % 8);
                let mut content = vec![0xA5; bytes.len()];
                if unpacker.unpack(&damaged, &mut content).is_ok() {
                    assert!(content == bytes, "{method}, bit {at}");
                }
                _ = frames(method, &damaged);
            }
            for odd in [bytes.len() - 1, bytes.len() + 1] {
                assert!(unpacker.unpack(&whole, &mut vec![0; odd]).is_err(), "{method}");
            }
        }
    }
}
