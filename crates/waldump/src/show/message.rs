//! The text of a logical message that is too long to be kept: three characters a byte of a message
//! that may have a gigabyte, written as its bytes pass (`logicalmsg_desc`, 14–18).
//!
//! | offset | bytes | `xl_logical_message`, `replication/message.h`, 10–18 |
//! |---|---|---|
//! | 0 | 4 | `dbId` |
//! | 4 | 1 | `transactional` |
//! | 8 | 8 | `prefix_size`, with the zero at its end |
//! | 16 | 8 | `message_size` |
//! | 24 | | the prefix, the message |

use crate::text::put_hex2;

const HEADER_BYTES: usize = 24;

/// What a message's text begins with, and where its bytes begin in the main data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// `transactional, prefix "p"; payload (7 bytes): `
    pub text: Vec<u8>,
    /// How long the message is.
    pub len: usize,
    /// How many bytes of main data there are from its first on.
    pub behind: usize,
}

/// Reads the beginning of main data; `None` if it contradicts itself or `total`, which is how long
/// it is altogether.
#[must_use]
pub fn opening(data: &[u8], total: usize) -> Option<Opening> {
    let number = |at: usize| {
        let bytes = data.get(at..)?.first_chunk()?;
        usize::try_from(u64::from_le_bytes(*bytes)).ok()
    };
    let (prefix_len, len) = (number(8)?, number(16)?);
    let prefix = data.get(HEADER_BYTES..HEADER_BYTES.checked_add(prefix_len)?)?;
    let behind = total.checked_sub(HEADER_BYTES + prefix_len).filter(|behind| *behind >= len)?;
    let prefix = prefix.split(|byte| *byte == 0).next().unwrap_or_default();
    let kind = if data.get(4) == Some(&0) { "non-transactional" } else { "transactional" };
    let mut text = format!("{kind}, prefix \"").into_bytes();
    text.extend_from_slice(prefix);
    text.extend_from_slice(format!("\"; payload ({len} bytes): ").as_bytes());
    Some(Opening { text, len, behind })
}

/// Appends bytes of a message, of which `first` says whether they are its first.
pub fn put_bytes(bytes: &[u8], first: bool, out: &mut Vec<u8>) {
    for (place, byte) in bytes.iter().enumerate() {
        if place > 0 || !first {
            out.push(b' ');
        }
        put_hex2(*byte, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_says_where_the_message_is() {
        let mut data = vec![5, 0, 0, 0, 1, 0, 0, 0];
        data.extend(3_u64.to_le_bytes());
        data.extend(4_u64.to_le_bytes());
        data.extend(b"ab\0\x01\x02\xFF\x00");
        let opening = opening(&data, data.len()).unwrap();
        assert_eq!(opening.text, b"transactional, prefix \"ab\"; payload (4 bytes): ");
        assert_eq!((opening.len, opening.behind), (4, 4));
        let mut out = Vec::new();
        put_bytes(&data[27..29], true, &mut out);
        put_bytes(&data[29..], false, &mut out);
        assert_eq!(out, b"01 02 FF 00");
        assert_eq!(super::opening(&data, data.len() - 1), None);
        assert_eq!(super::opening(&data[..20], 100), None);
    }
}
