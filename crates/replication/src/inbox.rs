//! Bytes to frames. A frame's header is gathered in a few bytes of scratch, so that never a byte
//! of WAL goes there; a control message's body, which is bounded, in a buffer that grows as the
//! bytes come.

use pg_wire::base_backup;
use pg_wire::message::{FrameHeader, Phase, tag};
use pg_wire::stream::{XLogDataHeader, kind};

use crate::ProtocolError;

/// A CopyData frame's header, its kind and the header of WAL: 5 + 25 bytes. The least that a
/// stream's other message has is 23, so that reading so much at once never reads WAL.
pub(crate) const SCRATCH_LEN: usize = FrameHeader::LEN + XLogDataHeader::LEN;

/// The longest message about a base backup has two paths.
const MAX_BACKUP_NOTE_LEN: usize = 8192;

/// How the bytes of a base backup come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackupCopy {
    /// As the whole of each CopyData, up to 14.
    Bare,
    /// Behind a byte that says what they are.
    WithKinds,
}

impl BackupCopy {
    /// What may be read before it is known whose bytes follow.
    fn header_len(self) -> usize {
        match self {
            Self::Bare => FrameHeader::LEN,
            Self::WithKinds => FrameHeader::LEN.saturating_add(1),
        }
    }
}

/// The pieces of a frame, as they are needed.
#[derive(Debug)]
pub(crate) struct Inbox {
    scratch: [u8; SCRATCH_LEN],
    have: usize,
    body: Vec<u8>,
    /// The frame whose body is gathered.
    gathering: Option<FrameHeader>,
    /// Bytes of a message that nobody wants any more.
    skip: usize,
    phase: Phase,
}

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A whole message, its body in [`Inbox::body`].
    Message(u8),
    /// The beginning of WAL, whose bytes follow and aren't for the inbox.
    Wal(XLogDataHeader, usize),
    /// So many bytes of a base backup follow, which aren't for the inbox either.
    Backup(usize),
    /// More bytes are needed.
    Nothing,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        let phase = Phase::Startup;
        Self {
            scratch: [0; SCRATCH_LEN],
            have: 0,
            body: Vec::new(),
            gathering: None,
            skip: 0,
            phase,
        }
    }

    /// Messages may be longer from now on.
    pub(crate) fn established(&mut self) {
        self.phase = Phase::Established;
    }

    /// Passes over the next `len` bytes.
    pub(crate) fn skip(&mut self, len: usize) {
        self.skip = len;
    }

    /// Where the next bytes go.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.scratch.get_mut(self.have..).unwrap_or_default()
    }

    /// The same in a base backup, for no more than what can't be bytes of it.
    pub(crate) fn space_in_backup(&mut self, copy: BackupCopy) -> &mut [u8] {
        let end = match self.gathering {
            Some(frame) => self.have.saturating_add(frame.len.saturating_sub(self.body.len())),
            None => copy.header_len(),
        };
        self.scratch.get_mut(self.have..end.min(SCRATCH_LEN)).unwrap_or_default()
    }

    /// Counts bytes that were put into [`space`](Self::space).
    pub(crate) fn add(&mut self, len: usize) {
        self.have = self.have.saturating_add(len).min(SCRATCH_LEN);
    }

    /// The body of the message that [`next`](Self::next) gave.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Gives what has come; with `streaming`, WAL is told from other messages.
    pub(crate) fn next(&mut self, streaming: bool) -> Result<Item, ProtocolError> {
        let skipped = self.skip.min(self.have);
        self.drop_front(skipped);
        self.skip = self.skip.saturating_sub(skipped);
        loop {
            if let Some(gathered) = self.gather() {
                return Ok(gathered);
            }
            let Some(frame) = self.header()? else { return Ok(Item::Nothing) };
            if streaming && frame.tag == tag::COPY_DATA && frame.len > 0 {
                match self.scratch.get(FrameHeader::LEN..self.have) {
                    None | Some([]) => return Ok(Item::Nothing),
                    Some([kind::XLOG_DATA, ..]) => return self.wal(frame),
                    Some([kind::KEEPALIVE, ..]) => {}
                    Some(_) => return Err(ProtocolError::StreamMessage),
                }
            }
            if streaming && frame.tag == tag::COPY_DATA && frame.len > SCRATCH_LEN {
                // Only WAL is so long; nothing is allocated for what isn't.
                return Err(ProtocolError::StreamMessage);
            }
            self.begin(frame);
        }
    }

    /// Gives what has come of a base backup.
    pub(crate) fn next_in_backup(&mut self, copy: BackupCopy) -> Result<Item, ProtocolError> {
        loop {
            if let Some(gathered) = self.gather() {
                return Ok(gathered);
            }
            let Some(frame) = self.header()? else { return Ok(Item::Nothing) };
            if frame.tag == tag::COPY_DATA && frame.len > 0 {
                let first = self.scratch.get(FrameHeader::LEN..self.have).and_then(<[u8]>::first);
                match (copy, first) {
                    (BackupCopy::Bare, _) => {
                        self.drop_front(FrameHeader::LEN);
                        return Ok(Item::Backup(frame.len));
                    }
                    (BackupCopy::WithKinds, None) => return Ok(Item::Nothing),
                    (BackupCopy::WithKinds, Some(&base_backup::kind::DATA)) => {
                        self.drop_front(FrameHeader::LEN.saturating_add(1));
                        return Ok(Item::Backup(frame.len.saturating_sub(1)));
                    }
                    (BackupCopy::WithKinds, Some(_)) if frame.len > MAX_BACKUP_NOTE_LEN => {
                        return Err(ProtocolError::BackupMessage);
                    }
                    (BackupCopy::WithKinds, Some(_)) => {}
                }
            }
            self.begin(frame);
        }
    }

    /// The header of the next frame, once it is there.
    fn header(&self) -> Result<Option<FrameHeader>, ProtocolError> {
        let header = self.scratch.get(..self.have).and_then(<[u8]>::first_chunk);
        Ok(header.map(|header| FrameHeader::parse(*header, self.phase)).transpose()?)
    }

    /// Begins to gather a message's body.
    fn begin(&mut self, frame: FrameHeader) {
        self.drop_front(FrameHeader::LEN);
        self.body.clear();
        self.gathering = Some(frame);
    }

    /// Goes on gathering, if a message is; gives it once it is whole.
    fn gather(&mut self) -> Option<Item> {
        let frame = self.gathering?;
        let missing = frame.len.saturating_sub(self.body.len());
        let taken = missing.min(self.have);
        self.body.extend_from_slice(self.scratch.get(..taken).unwrap_or_default());
        self.drop_front(taken);
        if taken < missing {
            return Some(Item::Nothing);
        }
        self.gathering = None;
        Some(Item::Message(frame.tag))
    }

    fn wal(&mut self, frame: FrameHeader) -> Result<Item, ProtocolError> {
        let Some(len) = frame.len.checked_sub(XLogDataHeader::LEN) else {
            return Err(ProtocolError::StreamMessage);
        };
        let Some(header) =
            self.scratch.get(FrameHeader::LEN..self.have).and_then(<[u8]>::first_chunk)
        else {
            return Ok(Item::Nothing);
        };
        let header = XLogDataHeader::parse(header).ok_or(ProtocolError::StreamMessage)?;
        self.drop_front(SCRATCH_LEN);
        Ok(Item::Wal(header, len))
    }

    fn drop_front(&mut self, len: usize) {
        self.scratch.copy_within(len.min(self.have)..self.have, 0);
        self.have = self.have.saturating_sub(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_types::Lsn;
    use pg_wire::stream::PrimaryKeepalive;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &len.to_be_bytes(), body].concat()
    }

    #[test]
    fn wal_never_gets_into_the_scratch() {
        let wal_header =
            XLogDataHeader { start: Lsn::new(8), wal_end: Lsn::new(9), server_time_us: 1 };
        let keepalive =
            PrimaryKeepalive { wal_end: Lsn::new(9), server_time_us: 1, reply_requested: true };
        let payload = [7; 100];
        let wal = frame(tag::COPY_DATA, &[&wal_header.encode()[..], &payload].concat());
        let bytes =
            [&frame(tag::COPY_DATA, &keepalive.encode())[..], &wal, &frame(b'c', b"")].concat();
        for piece in 1..=SCRATCH_LEN {
            let mut inbox = Inbox::new();
            inbox.established();
            let mut rest = &bytes[..];
            let (mut seen, mut raw) = (Vec::new(), 0);
            while !rest.is_empty() {
                let space = inbox.space();
                let len = piece.min(space.len()).min(rest.len());
                space[..len].copy_from_slice(&rest[..len]);
                inbox.add(len);
                rest = &rest[len..];
                loop {
                    match inbox.next(true).unwrap() {
                        Item::Nothing => break,
                        Item::Message(tag) => seen.push((tag, inbox.body().len())),
                        Item::Backup(_) => panic!("there is none"),
                        Item::Wal(header, len) => {
                            assert_eq!((header, len, inbox.have), (wal_header, 100, 0));
                            assert!(rest.starts_with(&payload));
                            rest = &rest[len..];
                            raw += len;
                        }
                    }
                }
            }
            assert_eq!((seen, raw), (vec![(b'd', 18), (b'c', 0)], 100), "{piece}");
        }
    }

    #[test]
    fn a_stream_message_of_unknown_kind_is_refused_before_it_is_gathered() {
        let mut inbox = Inbox::new();
        inbox.established();
        let start = &frame(tag::COPY_DATA, &[b'x'; 4000])[..SCRATCH_LEN];
        inbox.space()[..SCRATCH_LEN].copy_from_slice(start);
        inbox.add(SCRATCH_LEN);
        assert_eq!(inbox.next(true), Err(ProtocolError::StreamMessage));
    }
}
