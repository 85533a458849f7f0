//! A frame of LZ4 (`lz4_Frame_format.md`): a header, blocks, an end mark; each length is there.
//!
//! lz4_flex unpacks the blocks. Its decoder of frames works on streams: it has memory of its own for
//! each, and copies out of that. A frame whose blocks depend on each other is left to it.

use std::io::{self, Read};

use lz4_flex::frame::FrameDecoder;
use twox_hash::XxHash32;

use super::{Peek, checked, number, odd_length, word};

const MAGIC: u32 = 0x184D_2204;

/// The flags, `FLG`: the format's version, in two bits.
const VERSION: u8 = 0b0100_0000;
const VERSION_MASK: u8 = 0b1100_0000;
/// No block refers to the one before.
const INDEPENDENT: u8 = 0x20;
const BLOCK_CHECKSUMS: u8 = 0x10;
const CONTENT_SIZE: u8 = 0x08;
const CONTENT_CHECKSUM: u8 = 0x04;
const DICTIONARY: u8 = 0x01;

/// Magic, flags, largest block, the content's size, the header's checksum.
const HEADER_LEN: usize = 15;
/// A block's length has this bit if the block isn't packed.
const PLAIN: u32 = 0x8000_0000;

/// Where the frame ends that begins at `start`, from the lengths of its blocks; and its content's
/// length.
pub(super) fn frame(start: u64, len: u64, peek: &mut Peek<'_>) -> Option<(u64, u64)> {
    let peeked = peek(start);
    let [.., flags] = *peeked.first_chunk::<5>()?;
    if number(&peeked, 0, 4) != u64::from(MAGIC) || flags & CONTENT_SIZE == 0 {
        return None;
    }
    let content = number(&peeked, 6, 8);
    let checksum = |bit: u8| if flags & bit != 0 { 4 } else { 0 };
    let mut at = start.checked_add(HEADER_LEN as u64 + checksum(DICTIONARY))?;
    while at < len {
        let header = word(at, peek);
        at = at.checked_add(4)?;
        if header == 0 {
            return Some((at.checked_add(checksum(CONTENT_CHECKSUM))?, content));
        }
        at = at.checked_add(u64::from(header & !PLAIN) + checksum(BLOCK_CHECKSUMS))?;
    }
    None
}

/// Unpacks a frame that has just this much content.
pub(super) fn unpack(frame: &[u8], content: &mut [u8]) -> io::Result<()> {
    let header = frame.first_chunk::<HEADER_LEN>().ok_or_else(odd_length)?;
    let [m0, m1, m2, m3, flags, _largest, len @ .., checksum] = *header;
    let simple = flags & (VERSION_MASK | INDEPENDENT | CONTENT_SIZE | DICTIONARY);
    if simple != VERSION | INDEPENDENT | CONTENT_SIZE {
        return unpack_as_stream(frame, content);
    }
    let described = header.get(4..HEADER_LEN - 1).unwrap_or_default();
    let [_, expected, ..] = XxHash32::oneshot(0, described).to_le_bytes();
    checked(u32::from_le_bytes([m0, m1, m2, m3]) == MAGIC && checksum == expected)?;
    if u64::from_le_bytes(len) != content.len() as u64 {
        return Err(odd_length());
    }
    let (mut rest, mut filled) = (frame.get(HEADER_LEN..).unwrap_or_default(), 0);
    loop {
        let block_len = take_word(&mut rest)?;
        if block_len == 0 {
            break;
        }
        let block = take(&mut rest, (block_len & !PLAIN) as usize)?;
        if flags & BLOCK_CHECKSUMS != 0 {
            checked(take_word(&mut rest)? == XxHash32::oneshot(0, block))?;
        }
        let room = content.get_mut(filled..).unwrap_or_default();
        filled += unpack_block(block, block_len & PLAIN != 0, room)?;
    }
    if flags & CONTENT_CHECKSUM != 0 {
        let expected = take_word(&mut rest)?;
        checked(flags & BLOCK_CHECKSUMS != 0 || expected == XxHash32::oneshot(0, content))?;
    }
    if filled == content.len() && rest.is_empty() { Ok(()) } else { Err(odd_length()) }
}

/// Unpacks a block to where there is room; gives how much that was.
fn unpack_block(block: &[u8], plain: bool, room: &mut [u8]) -> io::Result<usize> {
    if plain {
        room.get_mut(..block.len()).ok_or_else(odd_length)?.copy_from_slice(block);
        return Ok(block.len());
    }
    lz4_flex::block::decompress_into(block, room)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn unpack_as_stream(frame: &[u8], content: &mut [u8]) -> io::Result<()> {
    let mut decoder = FrameDecoder::new(frame);
    decoder.read_exact(content)?;
    // Its end is where the checksum is looked at.
    if decoder.read(&mut [0])? == 0 { Ok(()) } else { Err(odd_length()) }
}

/// Takes so many bytes off.
fn take<'a>(rest: &mut &'a [u8], len: usize) -> io::Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len).ok_or_else(odd_length)?;
    *rest = left;
    Ok(taken)
}

fn take_word(rest: &mut &[u8]) -> io::Result<u32> {
    let (taken, left) = rest.split_first_chunk().ok_or_else(odd_length)?;
    *rest = left;
    Ok(u32::from_le_bytes(*taken))
}
