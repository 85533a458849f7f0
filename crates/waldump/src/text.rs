//! Numbers as text, appended to a buffer that is reused: a dump prints some two hundred bytes a
//! record, and formatting machinery would be what it spends its time with.

use pg_types::Lsn;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[inline]
fn digit(value: u32) -> u8 {
    HEX.get((value & 0xF) as usize).copied().unwrap_or(b'0')
}

/// `%u`, right-aligned with spaces in so many places: `%6u`.
#[inline]
pub fn put_padded<const WIDTH: usize>(value: u32, out: &mut Vec<u8>) {
    let mut digits = [b' '; 10];
    let mut first = 10;
    let mut left = value;
    for (place, slot) in digits.iter_mut().enumerate().rev() {
        *slot = digit(left % 10);
        first = place;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(first.min(10 - WIDTH)..).unwrap_or_default());
}

/// `%u`
#[inline]
pub fn put_number(value: u32, out: &mut Vec<u8>) {
    put_padded::<1>(value, out);
}

/// `%X/%08X`
#[inline]
pub fn put_lsn_padded(lsn: Lsn, out: &mut Vec<u8>) {
    let (high, low) = halves(lsn);
    put_hex(high, out);
    let mut text = [b'/'; 9];
    for (place, slot) in text.iter_mut().skip(1).enumerate() {
        *slot = digit(low >> (28 - 4 * place));
    }
    out.extend_from_slice(&text);
}

/// `%X/%X`
pub fn put_lsn(lsn: Lsn, out: &mut Vec<u8>) {
    let (high, low) = halves(lsn);
    put_hex(high, out);
    out.push(b'/');
    put_hex(low, out);
}

#[inline]
fn put_hex(value: u32, out: &mut Vec<u8>) {
    if value < 16 {
        out.push(digit(value));
        return;
    }
    let places = 8 - value.leading_zeros() / 4;
    for place in (0..places).rev() {
        out.push(digit(value >> (4 * place)));
    }
}

#[inline]
fn halves(lsn: Lsn) -> (u32, u32) {
    let [h0, h1, h2, h3, l0, l1, l2, l3] = lsn.as_u64().to_be_bytes();
    (u32::from_be_bytes([h0, h1, h2, h3]), u32::from_be_bytes([l0, l1, l2, l3]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(put: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        put(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_those_of_std() {
        for value in [0, 1, 9, 10, 123, 999_999, 1_000_000, u32::MAX] {
            assert_eq!(text(|out| put_number(value, out)), value.to_string());
            assert_eq!(text(|out| put_padded::<6>(value, out)), format!("{value:>6}"));
            assert_eq!(text(|out| put_padded::<10>(value, out)), format!("{value:>10}"));
        }
        for value in [0, 0x28, 0x16_B374_D848, 0xF_0000_0000, 0x10_0000_0010, u64::MAX] {
            let lsn = Lsn::new(value);
            assert_eq!(text(|out| put_lsn(lsn, out)), lsn.to_string());
            let padded = format!("{:X}/{:08X}", value >> 32, value & 0xFFFF_FFFF);
            assert_eq!(text(|out| put_lsn_padded(lsn, out)), padded);
        }
    }
}
