//! CRC-32C (Castagnoli), as WAL records carry it (`port/pg_crc32c.h`), streamed.
//!
//! Three ways to the same number. Records of OLTP are some seventy bytes, where the processor's
//! own instruction in a plain loop wins; page images are eight thousand, where folding by
//! carry-less multiplication does; and where neither is there, the portable crate.
//!
//! This is one of the two modules of the workspace with `unsafe`: it calls functions compiled for
//! a processor feature after asking whether the processor has it.

/// A CRC-32C that is being computed; as large as a number, to be copied at will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crc32c {
    /// The register: inverted at the start and at the end (`INIT_CRC32C`, `FIN_CRC32C`).
    register: u32,
}

/// Below this many bytes the plain loop is faster: folding has a start-up of some 20 ns.
/// Measured by `cargo bench -p benches --bench crc`.
const FOLD_FROM: usize = 512;

impl Crc32c {
    /// The CRC of no bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self { register: !0 }
    }

    /// Goes on with these bytes.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        self.register = if bytes.len() >= FOLD_FROM {
            fold(self.register, bytes)
        } else {
            hardware::short(self.register, bytes)
        };
    }

    /// The CRC of all the bytes so far.
    #[must_use]
    pub const fn value(self) -> u32 {
        !self.register
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

/// The CRC-32C of these bytes.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(bytes);
    crc.value()
}

/// The CRC of a record: over its body, then over its header's first 20 bytes
/// (`COMP_CRC32C` in `ValidXLogRecord`, `access/transam/xlogreader.c`).
#[must_use]
#[inline]
pub fn record(body: &[u8], header: &[u8; 20]) -> u32 {
    if body.len() >= FOLD_FROM {
        return !hardware::short(fold(!0, body), header);
    }
    // One call for both: most records are so short that calls would cost as much as they do.
    !hardware::short_pair(!0, body, header)
}

fn fold(register: u32, bytes: &[u8]) -> u32 {
    use crc_fast::{CrcAlgorithm::Crc32Iscsi, Digest};
    let mut digest = Digest::new_with_init_state(Crc32Iscsi, u64::from(register));
    digest.update(bytes);
    // The register of a 32-bit CRC is 32 bits; the crate keeps every width in a u64.
    (digest.get_state() & 0xFFFF_FFFF).try_into().unwrap_or(0)
}

fn portable(register: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!register, bytes)
}

#[cfg(target_arch = "x86_64")]
mod hardware {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};

    /// A few bytes, by the processor's `crc32` instruction where it has it (SSE4.2, since 2008).
    #[inline]
    pub(super) fn short(register: u32, bytes: &[u8]) -> u32 {
        // The answer is cached by std in one atomic; the branch is predicted.
        if is_x86_feature_detected!("sse4.2") {
            #[expect(unsafe_code, reason = "the processor was asked the line before")]
            // SAFETY: `by_instruction` needs SSE4.2, which the processor has.
            unsafe {
                by_instruction(register, bytes)
            }
        } else {
            super::portable(register, bytes)
        }
    }

    /// The same over two pieces.
    #[inline]
    pub(super) fn short_pair(register: u32, first: &[u8], second: &[u8]) -> u32 {
        if is_x86_feature_detected!("sse4.2") {
            #[expect(unsafe_code, reason = "the processor was asked the line before")]
            // SAFETY: `pair_by_instruction` needs SSE4.2, which the processor has.
            unsafe {
                pair_by_instruction(register, first, second)
            }
        } else {
            super::portable(super::portable(register, first), second)
        }
    }

    #[target_feature(enable = "sse4.2")]
    fn pair_by_instruction(register: u32, first: &[u8], second: &[u8]) -> u32 {
        by_instruction(by_instruction(register, first), second)
    }

    #[inline]
    #[target_feature(enable = "sse4.2")]
    fn by_instruction(register: u32, bytes: &[u8]) -> u32 {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut wide = u64::from(register);
        for word in words {
            wide = _mm_crc32_u64(wide, u64::from_le_bytes(*word));
        }
        // The instruction leaves the upper half zero.
        let mut register = (wide & 0xFFFF_FFFF).try_into().unwrap_or(0);
        let mut rest = rest;
        if let Some((word, tail)) = rest.split_first_chunk::<4>() {
            register = _mm_crc32_u32(register, u32::from_le_bytes(*word));
            rest = tail;
        }
        for byte in rest {
            register = _mm_crc32_u8(register, *byte);
        }
        register
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod hardware {
    pub(super) use super::portable as short;

    pub(super) fn short_pair(register: u32, first: &[u8], second: &[u8]) -> u32 {
        short(short(register, first), second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    proptest::proptest! {
        #[test]
        fn every_way_gives_the_same(bytes: Vec<u8>, times in 1usize..40, cut: u16) {
            let bytes = bytes.repeat(times);
            let cut = usize::from(cut).min(bytes.len());
            let mut crc = Crc32c::new();
            crc.update(&bytes[..cut]);
            crc.update(&bytes[cut..]);
            let oracle = ::crc32c::crc32c(&bytes);
            proptest::prop_assert_eq!(crc.value(), oracle);
            proptest::prop_assert_eq!(!fold(!0, &bytes), oracle);
            proptest::prop_assert_eq!(!portable(!0, &bytes), oracle);
            let header = [7; 20];
            let whole = ::crc32c::crc32c_append(oracle, &header);
            proptest::prop_assert_eq!(record(&bytes, &header), whole);
        }
    }
}
