//! Numbers as C's `sscanf` and `strtoul` read them, which is what the server's program takes:
//! spaces before, a sign, anything behind.

/// What is left of a text.
pub(super) struct Scan<'a>(pub(super) &'a [u8]);

impl Scan<'_> {
    /// `%u`: what is too large wraps or saturates, as in C.
    pub(super) fn unsigned(&mut self) -> Option<u32> {
        Some(low(self.number(10, usize::MAX)?))
    }

    /// `%d`
    pub(super) fn signed(&mut self) -> Option<i32> {
        self.signed_within(usize::MAX)
    }

    /// `%3d`, in so many characters.
    pub(super) fn signed_within(&mut self, width: usize) -> Option<i32> {
        Some(low(self.number(10, width)?).cast_signed())
    }

    /// `%X`
    pub(super) fn hex(&mut self) -> Option<u32> {
        Some(low(self.number(16, usize::MAX)?))
    }

    /// This very byte.
    pub(super) fn literal(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    fn skip_spaces(&mut self) {
        let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0B;
        let spaces = self.0.iter().take_while(|byte| is_space(byte)).count();
        self.0 = self.0.get(spaces..).unwrap_or_default();
    }

    fn number(&mut self, radix: u32, width: usize) -> Option<u64> {
        self.skip_spaces();
        let all = self.0;
        let mut text = all.get(..width.min(all.len())).unwrap_or_default();
        let negative = text.first() == Some(&b'-');
        if matches!(text.first(), Some(b'-' | b'+')) {
            text = text.get(1..).unwrap_or_default();
        }
        if radix == 16
            && let [b'0', b'x' | b'X', digit, ..] = text
            && digit.is_ascii_hexdigit()
        {
            text = text.get(2..).unwrap_or_default();
        }
        let digits = text.iter().take_while(|byte| char::from(**byte).is_digit(radix)).count();
        let (number, rest) = text.split_at_checked(digits)?;
        if number.is_empty() {
            return None;
        }
        let mut value = Some(0_u64);
        for byte in number {
            let digit = char::from(*byte).to_digit(radix).unwrap_or(0);
            value = value
                .and_then(|value| value.checked_mul(u64::from(radix)))
                .and_then(|value| value.checked_add(u64::from(digit)));
        }
        // What the width cut off is left, too.
        let used = width.min(all.len()).saturating_sub(rest.len());
        self.0 = all.get(used..).unwrap_or_default();
        Some(match value {
            None => u64::MAX,
            Some(value) if negative => value.wrapping_neg(),
            Some(value) => value,
        })
    }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xFFFF_FFFF).unwrap_or(0)
}

/// Two halves of a position, `%X/%X`, with anything behind.
#[must_use]
pub(super) fn position(text: &[u8]) -> Option<u64> {
    let mut scan = Scan(text);
    let high = scan.hex()?;
    scan.literal(b'/')?;
    Some(u64::from(high) << 32 | u64::from(scan.hex()?))
}

/// What is wrong with a number that must be all that a text has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Something that isn't it is there, too.
    Trailing,
    /// It is zero, or doesn't fit.
    Range,
}

/// `strtoul` with base 0: decimal, `0x` hexadecimal or `0` octal; from 1 to the greatest `u32`,
/// with nothing but spaces behind.
///
/// # Errors
/// What is wrong with it.
pub(super) fn timeline(text: &[u8]) -> Result<u32, Refused> {
    let mut scan = Scan(text);
    scan.skip_spaces();
    let unsigned = scan.0.strip_prefix(b"-").or(scan.0.strip_prefix(b"+")).unwrap_or(scan.0);
    let radix = match unsigned {
        [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit() => 16,
        [b'0', ..] => 8,
        _ => 10,
    };
    let value = scan.number(radix, usize::MAX).unwrap_or(0);
    scan.skip_spaces();
    if !scan.0.is_empty() {
        return Err(Refused::Trailing);
    }
    u32::try_from(value).ok().filter(|value| *value > 0).ok_or(Refused::Range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_cs() {
        let unsigned = |text: &str| Scan(text.as_bytes()).unsigned();
        assert_eq!(unsigned("12abc"), Some(12));
        assert_eq!(unsigned(" \t+7"), Some(7));
        assert_eq!(unsigned("-1"), Some(u32::MAX));
        assert_eq!(unsigned("4294967296"), Some(0));
        assert_eq!(unsigned("99999999999999999999999"), Some(u32::MAX));
        assert_eq!(unsigned(""), None);
        assert_eq!(unsigned("x"), None);
        assert_eq!(Scan(b"130x").signed_within(3), Some(130));
        assert_eq!(Scan(b"1305").signed_within(3), Some(130));
    }

    #[test]
    fn what_the_width_cuts_off_is_left() {
        let mut scan = Scan(b"12345");
        assert_eq!((scan.signed_within(3), scan.0), (Some(123), &b"45"[..]));
    }

    #[test]
    fn positions_may_have_anything_behind() {
        assert_eq!(position(b"0/1000028"), Some(0x100_0028));
        assert_eq!(position(b"1/ffz"), Some(0x1_0000_00FF));
        assert_eq!(position(b"0x1/0x2"), Some(0x1_0000_0002));
        assert_eq!(position(b"badval"), None);
        assert_eq!(position(b"1 /2"), None);
        assert_eq!(position(b"1/"), None);
    }

    #[test]
    fn timelines_are_decimal_hexadecimal_or_octal() {
        assert_eq!(timeline(b" 10 "), Ok(10));
        assert_eq!(timeline(b"0x10"), Ok(16));
        assert_eq!(timeline(b"010"), Ok(8));
        assert_eq!(timeline(b"1x"), Err(Refused::Trailing));
        assert_eq!(timeline(b"x"), Err(Refused::Trailing));
        assert_eq!(timeline(b"0"), Err(Refused::Range));
        assert_eq!(timeline(b"-1"), Err(Refused::Range));
        assert_eq!(timeline(b"4294967296"), Err(Refused::Range));
        assert_eq!(timeline(b""), Err(Refused::Range));
    }
}
