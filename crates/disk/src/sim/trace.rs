//! What a simulated disk did: a hash to compare runs by, and the last lines for people.
//!
//! Invariant: the hash covers every operation performed with its bytes and its outcome, and
//! depends on nothing else: the same seed gives the same hash.

use std::collections::VecDeque;
use std::fmt::Display;

use super::rng::mix;

/// Lines kept: enough to see how a segment came to be, printed with a failing seed.
const LOG_LINES: usize = 400;

#[derive(Clone, Default)]
pub(super) struct Trace {
    hash: u64,
    number: u64,
    lines: VecDeque<String>,
}

impl Trace {
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    pub(super) fn record(&mut self, what: impl Display) {
        let line = format!("#{} {what}", self.number);
        self.number += 1;
        self.bytes(line.as_bytes());
        if self.lines.len() == LOG_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Hashes content that the line doesn't show.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
        self.hash = mix(self.hash ^ bytes.len() as u64);
    }

    /// FNV-1a by words: a byte at a time would be what a simulation waits for. The rotation
    /// brings the high bits, which a multiplication can't move down, into play.
    fn word(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(29) ^ word).wrapping_mul(0x0000_0100_0000_01B3);
    }
}
