//! Text without formatting machinery: every value appends itself to a buffer that its caller
//! reuses.

use pg_types::Lsn;
use wal_format::RelFileLocator;

/// Appends its text, as the server's format strings give it.
pub(crate) trait Put {
    fn put(self, out: &mut Vec<u8>);
}

/// Appends each part after the other.
macro_rules! put {
    ($out:expr, $($part:expr),+ $(,)?) => {
        { $($crate::text::Put::put($part, $out);)+ }
    };
}
pub(crate) use put;

impl Put for &str {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl Put for &[u8] {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

/// The decimal digits of a `u64` at the most.
const MOST_DIGITS: usize = 20;

#[inline]
fn digit(value: u64) -> u8 {
    match u8::try_from(value % 10) {
        Ok(digit) => b'0' | digit,
        Err(_) => b'0',
    }
}

impl Put for u64 {
    fn put(mut self, out: &mut Vec<u8>) {
        let mut digits = [0; MOST_DIGITS];
        let mut first = MOST_DIGITS;
        for (place, slot) in digits.iter_mut().enumerate().rev() {
            *slot = digit(self);
            first = place;
            self /= 10;
            if self == 0 {
                break;
            }
        }
        out.extend_from_slice(digits.get(first..).unwrap_or_default());
    }
}

impl Put for i64 {
    fn put(self, out: &mut Vec<u8>) {
        if self < 0 {
            out.push(b'-');
        }
        self.unsigned_abs().put(out);
    }
}

impl Put for u32 {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        u64::from(self).put(out);
    }
}

impl Put for u16 {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        u64::from(self).put(out);
    }
}

impl Put for u8 {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        u64::from(self).put(out);
    }
}

impl Put for usize {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        u64::try_from(self).unwrap_or(u64::MAX).put(out);
    }
}

impl Put for i32 {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        i64::from(self).put(out);
    }
}

impl Put for i8 {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        i64::from(self).put(out);
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[inline]
fn nibble(byte: u8) -> u8 {
    HEX.get(usize::from(byte & 0x0F)).copied().unwrap_or(b'0')
}

/// `%02X`
#[derive(Clone, Copy)]
pub(crate) struct Hex2(pub(crate) u8);

impl Put for Hex2 {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[nibble(self.0 >> 4), nibble(self.0)]);
    }
}

/// `%X`
#[derive(Clone, Copy)]
pub(crate) struct Hex(pub(crate) u32);

impl Put for Hex {
    fn put(self, out: &mut Vec<u8>) {
        let nibbles = self.0.to_be_bytes().map(|byte| [nibble(byte >> 4), nibble(byte)]);
        let nibbles = nibbles.as_flattened();
        let first = nibbles.iter().position(|nibble| *nibble != b'0');
        let first = first.unwrap_or(nibbles.len().saturating_sub(1));
        out.extend_from_slice(nibbles.get(first..).unwrap_or_default());
    }
}

impl Put for Lsn {
    fn put(self, out: &mut Vec<u8>) {
        let [h0, h1, h2, h3, l0, l1, l2, l3] = self.as_u64().to_be_bytes();
        let high = u32::from_be_bytes([h0, h1, h2, h3]);
        put!(out, Hex(high), "/", Hex(u32::from_be_bytes([l0, l1, l2, l3])));
    }
}

/// `%u/%u/%u`
impl Put for RelFileLocator {
    fn put(self, out: &mut Vec<u8>) {
        put!(out, self.tablespace, "/", self.database, "/", self.relation);
    }
}

/// A full transaction id as `epoch:xid`.
#[derive(Clone, Copy)]
pub(crate) struct EpochXid(pub(crate) u64);

impl Put for EpochXid {
    fn put(self, out: &mut Vec<u8>) {
        let xid = self.0 & u64::from(u32::MAX);
        put!(out, self.0 >> 32, ":", xid);
    }
}

/// `T` or `F`, the server's `%c` of a bool.
pub(crate) fn letter(value: bool) -> &'static str {
    if value { "T" } else { "F" }
}

/// `[1, 2]`, as `array_desc` gives it from 16 on.
pub(crate) fn put_list<T>(
    out: &mut Vec<u8>,
    items: impl Iterator<Item = T>,
    mut put_item: impl FnMut(T, &mut Vec<u8>),
) {
    put!(out, "[");
    for (index, item) in items.enumerate() {
        if index > 0 {
            put!(out, ", ");
        }
        put_item(item, out);
    }
    put!(out, "]");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(part: impl Put) -> String {
        let mut out = Vec::new();
        part.put(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_those_of_std() {
        for value in [0, 1, 9, 10, 99, 100, 4_294_967_295, u64::MAX] {
            assert_eq!(text(value), value.to_string());
        }
        for value in [0, -1, i64::MIN, i64::MAX] {
            assert_eq!(text(value), value.to_string());
        }
        for value in [0, 1, 0xF, 0x10, 0xABC_DEF0, u32::MAX] {
            assert_eq!(text(Hex(value)), format!("{value:X}"));
        }
        assert_eq!(text(Hex2(0x0A)), "0A");
        assert_eq!(text(Lsn::new(0x16_B374_D848)), "16/B374D848");
        assert_eq!(text(Lsn::INVALID), "0/0");
        assert_eq!(text(EpochXid(0x3_0000_0007)), "3:7");
    }
}
