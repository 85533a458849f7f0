//! Just enough of the framing to find WAL bytes and status updates.
//!
//! Both walkers take chunks cut anywhere and keep no body beyond what a test may ask for.
//!
//! | message | bytes |
//! |---|---|
//! | startup, and requests for encryption | length i32 (counts itself), code i32, … |
//! | any other | tag u8, length i32 (counts itself), body |
//! | CopyData, from the server | `d`, length, `w`, start u64, end u64, time i64, WAL data |
//! | CopyData, from the client | `d`, length, `r`, write u64, flush u64, apply u64, time i64, reply u8 |
//!
//! Source: PostgreSQL's documentation, "Message Formats" and "Streaming Replication Protocol".

/// A tag and a length.
pub(super) const HEADER_BYTES: usize = 5;

/// What stands before WAL data in a CopyData body.
const WAL_HEADER_BYTES: usize = 25;

/// A status update's body.
const STATUS_BYTES: usize = 34;

/// How much of a client's message is kept: a query's text, a status update.
const MAX_KEPT_BYTES: usize = 4096;

/// Codes of requests that the server answers with a single byte: SSLRequest, GSSENCRequest.
const ENCRYPTION_REQUESTS: [u32; 2] = [80_877_103, 80_877_104];

/// WAL data within a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WalSpan {
    /// The first byte's place in the chunk.
    pub(super) offset: usize,
    /// How many bytes.
    pub(super) len: usize,
    /// The first byte's LSN.
    pub(super) lsn: u64,
}

/// Follows the bytes from the server.
#[derive(Default)]
pub(super) struct ServerFrames {
    /// The header, and of a CopyData body what stands before WAL data.
    head: Vec<u8>,
    /// Body bytes still to come, once the header is whole.
    left: usize,
    /// The LSN of the next byte of WAL data, within such a message.
    lsn: Option<u64>,
    /// Answers to requests for encryption that are due: bytes without framing.
    pub(super) single_bytes: usize,
    /// Encryption was accepted: nothing can be followed any more.
    pub(super) opaque: bool,
}

impl ServerFrames {
    /// Walks over the next chunk and gives the WAL data in it.
    pub(super) fn walk(&mut self, chunk: &[u8]) -> Vec<WalSpan> {
        let mut spans = Vec::new();
        let mut at = 0;
        while at < chunk.len() && !self.opaque {
            if self.single_bytes > 0 {
                self.single_bytes -= 1;
                self.opaque = chunk[at] != b'N';
                at += 1;
            } else if self.left == 0 || self.head_is_short() {
                self.head.push(chunk[at]);
                at += 1;
                self.head_grew();
            } else {
                let len = self.left.min(chunk.len() - at);
                if let Some(lsn) = &mut self.lsn {
                    spans.push(WalSpan { offset: at, len, lsn: *lsn });
                    *lsn += len as u64;
                }
                at += len;
                self.left -= len;
                self.end_if_whole();
            }
        }
        spans
    }

    /// Whether the body's first bytes have yet to say what it is.
    fn head_is_short(&self) -> bool {
        let copy_data = self.head[0] == b'd' && self.lsn.is_none();
        let more = self.head.len() == HEADER_BYTES
            || (self.head.len() < HEADER_BYTES + WAL_HEADER_BYTES && self.head[5] == b'w');
        copy_data && more
    }

    fn head_grew(&mut self) {
        if self.head.len() < HEADER_BYTES {
            return;
        }
        if self.head.len() == HEADER_BYTES {
            self.left = (be_u32(&self.head[1..]) as usize).saturating_sub(4);
        } else {
            self.left -= 1;
        }
        if self.head.len() == HEADER_BYTES + WAL_HEADER_BYTES {
            self.lsn = Some(be_u64(&self.head[HEADER_BYTES + 1..]));
        }
        self.end_if_whole();
    }

    fn end_if_whole(&mut self) {
        if self.left == 0 {
            self.head.clear();
            self.lsn = None;
        }
    }
}

/// What a client's message was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClientFrame {
    /// Asks for encryption; the server answers with one byte.
    EncryptionRequest,
    /// write, flush, apply, time, reply requested.
    Status(u64, u64, u64, i64, bool),
    Query(String),
    CopyDone,
    Terminate,
    Other,
}

/// Follows the bytes from the client.
#[derive(Default)]
pub(super) struct ClientFrames {
    /// Tag (0 before startup is over), length and the first part of the body.
    kept: Vec<u8>,
    /// Body bytes still to come, once the header is whole.
    left: usize,
    started: bool,
}

impl ClientFrames {
    /// Walks over the next chunk and gives the messages that end in it.
    pub(super) fn walk(&mut self, chunk: &[u8]) -> Vec<ClientFrame> {
        let mut frames = Vec::new();
        for &byte in chunk {
            if self.kept.is_empty() && !self.started {
                self.kept.push(0);
            }
            if self.kept.len() < HEADER_BYTES {
                self.kept.push(byte);
                if self.kept.len() == HEADER_BYTES {
                    self.left = (be_u32(&self.kept[1..]) as usize).saturating_sub(4);
                }
            } else {
                self.left -= 1;
                if self.kept.len() < MAX_KEPT_BYTES {
                    self.kept.push(byte);
                }
            }
            if self.kept.len() >= HEADER_BYTES && self.left == 0 {
                frames.push(self.whole());
                self.kept.clear();
            }
        }
        frames
    }

    fn whole(&mut self) -> ClientFrame {
        let body = &self.kept[HEADER_BYTES..];
        match self.kept[0] {
            0 if body.len() == 4 && ENCRYPTION_REQUESTS.contains(&be_u32(body)) => {
                ClientFrame::EncryptionRequest
            }
            0 => {
                self.started = true;
                ClientFrame::Other
            }
            b'd' if body.len() == STATUS_BYTES && body[0] == b'r' => {
                let word = |at: usize| be_u64(&body[at..]);
                let time = word(25).cast_signed();
                ClientFrame::Status(word(1), word(9), word(17), time, body[33] != 0)
            }
            b'Q' => {
                let text = String::from_utf8_lossy(body);
                ClientFrame::Query(text.trim_end_matches('\0').to_owned())
            }
            b'c' => ClientFrame::CopyDone,
            b'X' => ClientFrame::Terminate,
            _ => ClientFrame::Other,
        }
    }
}

pub(super) fn be_u32(bytes: &[u8]) -> u32 {
    bytes[..4].iter().fold(0, |word, &byte| word << 8 | u32::from(byte))
}

fn be_u64(bytes: &[u8]) -> u64 {
    bytes[..8].iter().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short");
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    fn wal_message(lsn: u64, data: &[u8]) -> Vec<u8> {
        message(b'd', &[&[b'w'][..], &lsn.to_be_bytes(), &[9; 16], data].concat())
    }

    #[test]
    fn wal_bytes_are_found_at_every_cut() {
        let stream = [
            b"N".to_vec(),
            message(b'R', &[0; 4]),
            message(b'd', &[b'k', 1, 2]),
            wal_message(0x100, b"abcdefg"),
            message(b'd', &[]),
            wal_message(0x200, b""),
            message(b'Z', b"I"),
            wal_message(0x107, b"xyz"),
        ]
        .concat();
        for cut in 1..stream.len() {
            let mut frames = ServerFrames { single_bytes: 1, ..ServerFrames::default() };
            let mut found = Vec::new();
            for chunk in stream.chunks(cut) {
                for span in frames.walk(chunk) {
                    let bytes = &chunk[span.offset..span.offset + span.len];
                    found.extend(bytes.iter().zip(span.lsn..).map(|(&byte, lsn)| (lsn, byte)));
                }
            }
            let expected: Vec<(u64, u8)> = (0x100..).zip(*b"abcdefgxyz").collect();
            assert_eq!(found, expected, "chunks of {cut}");
        }
    }

    #[test]
    fn status_updates_are_found_at_every_cut() {
        let status: Vec<u8> = [
            &[b'r'][..],
            &7u64.to_be_bytes(),
            &6u64.to_be_bytes(),
            &5u64.to_be_bytes(),
            &4i64.to_be_bytes(),
            &[1],
        ]
        .concat();
        let request = [&8u32.to_be_bytes()[..], &80_877_103u32.to_be_bytes()].concat();
        let startup = [&9u32.to_be_bytes()[..], &[0, 3, 0, 0, 0]].concat();
        let stream = [
            request,
            startup,
            message(b'Q', b"IDENTIFY_SYSTEM\0"),
            message(b'd', &status),
            message(b'c', b""),
            message(b'X', b""),
        ]
        .concat();
        for cut in 1..stream.len() {
            let mut frames = ClientFrames::default();
            let found: Vec<_> = stream.chunks(cut).flat_map(|chunk| frames.walk(chunk)).collect();
            assert_eq!(
                found,
                [
                    ClientFrame::EncryptionRequest,
                    ClientFrame::Other,
                    ClientFrame::Query("IDENTIFY_SYSTEM".into()),
                    ClientFrame::Status(7, 6, 5, 4, true),
                    ClientFrame::CopyDone,
                    ClientFrame::Terminate,
                ]
            );
        }
    }
}
