//! Memory that direct I/O accepts.
//!
//! Invariant: the first byte's address and the length are multiples of [`BLOCK`], for as long as
//! the buffer lives. Never grows, never moves its bytes, never uses unsafe code: it allocates a
//! block more than asked for and starts where the alignment is right.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// The alignment of buffers, lengths and offsets for direct I/O, in bytes.
///
/// 4096 satisfies every device in use: logical sectors are 512 or 4096 bytes.
pub const BLOCK: usize = 4096;

/// A buffer whose memory is aligned to [`BLOCK`].
///
/// Its memory is zeroed by the allocator, so that pages nobody has touched cost no memory.
pub struct AlignedBuf {
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
}

impl AlignedBuf {
    /// A buffer of `capacity` zero bytes.
    ///
    /// # Panics
    ///
    /// If `capacity` isn't a multiple of [`BLOCK`]: the sizes of buffers are constants.
    #[must_use]
    pub fn zeroed(capacity: usize) -> Self {
        assert!(capacity.is_multiple_of(BLOCK), "capacity {capacity} isn't a multiple of {BLOCK}");
        // `vec![0; n]` is calloc, which leaves fresh pages untouched; resize() would touch them.
        let memory = vec![0u8; capacity + BLOCK - 1];
        let misaligned = memory.as_ptr().addr() % BLOCK;
        let start = if misaligned == 0 { 0 } else { BLOCK - misaligned };
        Self { memory, start, capacity }
    }

    /// The number of bytes it holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.capacity]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.capacity]
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_and_stays_so_when_moved() {
        for blocks in [0, 1, 3, 256] {
            let buf = AlignedBuf::zeroed(blocks * BLOCK);
            let moved = Box::new(buf);
            assert_eq!(moved.len(), blocks * BLOCK);
            assert!(moved.as_ptr().addr().is_multiple_of(BLOCK));
            assert!(moved.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    #[should_panic(expected = "multiple of 4096")]
    fn refuses_an_unaligned_capacity() {
        let _ = AlignedBuf::zeroed(100);
    }
}
