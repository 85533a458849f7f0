//! Takes the words out of what a server says: each field of an error or a notice but its SQLSTATE
//! and its severity in English becomes a row of `x`, as long as it was, so that no frame changes.
//! What a localised server, or one of another version, would say is as little to be relied on.

use super::frames::{HEADER_BYTES, be_u32};

/// Fields that a program may read: the SQLSTATE, and the severity that isn't translated.
const KEPT_FIELDS: [u8; 2] = [b'C', b'V'];

/// Follows the bytes from the server.
#[derive(Default)]
pub(super) struct Words {
    head: Vec<u8>,
    /// Bytes of the body still to come, once the header is whole.
    left: usize,
    /// The field whose value is passing.
    field: Option<u8>,
    /// Answers to requests for encryption that are due: bytes without framing.
    pub(super) single_bytes: usize,
}

impl Words {
    /// Rewrites the next chunk in place.
    pub(super) fn rewrite(&mut self, mut chunk: &mut [u8]) {
        while !chunk.is_empty() {
            let len = if self.single_bytes > 0 && self.head.is_empty() {
                self.single_bytes -= 1;
                1
            } else if self.head.len() < HEADER_BYTES {
                self.head.push(chunk[0]);
                if self.head.len() == HEADER_BYTES {
                    self.left = (be_u32(&self.head[1..]) as usize).saturating_sub(4);
                    self.field = None;
                }
                1
            } else {
                let len = self.left.min(chunk.len());
                if matches!(self.head[0], b'E' | b'N') {
                    self.fields(&mut chunk[..len]);
                }
                self.left -= len;
                len
            };
            if self.head.len() == HEADER_BYTES && self.left == 0 {
                self.head.clear();
            }
            chunk = &mut chunk[len..];
        }
    }

    fn fields(&mut self, body: &mut [u8]) {
        for byte in body {
            match self.field {
                None if *byte == 0 => {}
                None => self.field = Some(*byte),
                Some(_) if *byte == 0 => self.field = None,
                Some(field) if KEPT_FIELDS.contains(&field) => {}
                Some(_) => *byte = b'x',
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short");
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn words_go_and_codes_stay_at_every_cut() {
        let error = b"SFEHLER\0VERROR\0C58P01\0MSegment weg\0Fwalsender.c\0\0";
        let told = b"Sxxxxxx\0VERROR\0C58P01\0Mxxxxxxxxxxx\0Fxxxxxxxxxxx\0\0";
        let data = message(b'd', b"ME\0not an error\0");
        let refusal = b"N".to_vec();
        let stream = [refusal.clone(), message(b'Z', b"I"), message(b'E', error), data.clone()];
        let (stream, expected) =
            (stream.concat(), [refusal, message(b'Z', b"I"), message(b'E', told), data].concat());
        for cut in 1..stream.len() {
            let mut words = Words { single_bytes: 1, ..Words::default() };
            let mut stream = stream.clone();
            stream.chunks_mut(cut).for_each(|chunk| words.rewrite(chunk));
            assert_eq!(stream, expected, "chunks of {cut}");
        }
    }
}
