//! The buffers that bytes are received into, and written from.

use disk::{AlignedBuf, BLOCK};
use pg_types::Lsn;

/// A few buffers that go round: filled, written, filled again.
#[derive(Debug)]
pub(super) struct Ring {
    free: Vec<AlignedBuf>,
    /// The one that is being filled.
    pub(super) filling: Option<Filling>,
    /// The bytes of the block that the last buffer broke off in, for the next to begin with.
    carried: Vec<u8>,
}

/// A buffer that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    /// The position of its first byte: the start of a block.
    pub(super) start: Lsn,
    pub(super) buf: AlignedBuf,
    /// The bytes that are in it.
    pub(super) filled: usize,
    /// The bytes that were handed over before.
    carried: usize,
    /// The most that may be in it.
    limit: usize,
}

impl Ring {
    pub(super) fn new(buffers: usize, buffer_bytes: usize) -> Self {
        let free = (0..buffers).map(|_| AlignedBuf::zeroed(buffer_bytes)).collect();
        Self { free, filling: None, carried: Vec::with_capacity(BLOCK) }
    }

    /// Begins a buffer at `start`, with what was carried over, for bytes before `end`; `None` if
    /// none is free.
    pub(super) fn start(&mut self, start: Lsn, end: Lsn) -> Option<()> {
        let mut buf = self.free.pop()?;
        let room = usize::try_from(end.saturating_since(start)).unwrap_or(usize::MAX);
        let limit = room.min(buf.capacity());
        let carried = self.carried.len();
        buf[..carried].copy_from_slice(&self.carried);
        self.carried.clear();
        self.filling = Some(Filling { start, buf, filled: carried, carried, limit });
        Some(())
    }

    /// Ends the buffer that is being filled, and carries over the block that it breaks off in;
    /// `None` if nothing new is in it.
    pub(super) fn finish(&mut self) -> Option<Filling> {
        let new = self.filling.as_ref().is_some_and(|filling| filling.filled > filling.carried);
        let filling = self.filling.take_if(|_| new)?;
        let whole_blocks = filling.filled / BLOCK * BLOCK;
        self.carried.clear();
        self.carried.extend_from_slice(&filling.buf[whole_blocks..filling.filled]);
        Some(filling)
    }

    pub(super) fn release(&mut self, buf: AlignedBuf) {
        self.free.push(buf);
    }

    /// How many buffers are free.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn spare(&mut self) -> Option<AlignedBuf> {
        self.free.pop()
    }
}

impl Filling {
    /// Where the next bytes go.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.buf[self.filled..self.limit]
    }

    /// Counts `len` bytes that were put into [`room`](Self::room), and gives them.
    pub(super) fn add(&mut self, len: usize) -> &[u8] {
        let from = self.filled;
        self.filled = (from + len).min(self.limit);
        &self.buf[from..self.filled]
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled == self.limit
    }

    /// The position after its last byte.
    pub(super) fn end(&self) -> Lsn {
        self.start.saturating_add(self.filled as u64)
    }

    /// Whole blocks that hold all its bytes, the rest zeros.
    pub(super) fn padded_len(&mut self) -> usize {
        let len = self.filled.next_multiple_of(BLOCK);
        self.buf[self.filled..len].fill(0);
        len
    }
}
