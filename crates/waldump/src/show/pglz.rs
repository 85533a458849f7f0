//! PostgreSQL's own compression, unpacked (`pglz_decompress`, `common/pg_lzcompress.c`, 10–18).
//!
//! A control byte speaks for the next eight items, from its lowest bit on: 0 is a byte to copy, 1
//! a tag that repeats what lies `offset` bytes back:
//!
//! | byte | bits | |
//! |---|---|---|
//! | 0 | 0–3 | length − 3; 15 says that a third byte is to be added |
//! | 0 | 4–7 | the offset's upper four bits |
//! | 1 | 0–7 | the offset's lower eight bits |
//! | 2 | 0–7 | only with a length of 15 + 3: more length |

/// Unpacks into just `output`; `None` if the input isn't that.
#[must_use]
pub fn unpack(input: &[u8], output: &mut [u8]) -> Option<()> {
    let mut input = input.iter().copied();
    let mut at = 0;
    while at < output.len() {
        let mut control = input.next()?;
        for _ in 0..8 {
            if at == output.len() {
                break;
            }
            if control & 1 == 0 {
                *output.get_mut(at)? = input.next()?;
                at += 1;
            } else {
                let (first, second) = (input.next()?, input.next()?);
                let mut len = usize::from(first & 0x0F) + 3;
                if len == 18 {
                    len += usize::from(input.next()?);
                }
                let offset = usize::from(first & 0xF0) << 4 | usize::from(second);
                let len = len.min(output.len() - at);
                repeat(output, at, offset, len)?;
                at += len;
            }
            control >>= 1;
        }
    }
    // All of the input is used, or it was of something else.
    input.next().is_none().then_some(())
}

/// Copies what lies `offset` bytes back; where that is less than `len` the copy repeats itself.
fn repeat(output: &mut [u8], at: usize, offset: usize, len: usize) -> Option<()> {
    let from = at.checked_sub(offset).filter(|from| *from < at)?;
    let mut done = 0;
    while done < len {
        let step = (len - done).min(offset + done);
        output.copy_within(from..from + step, at + done);
        done += step;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(input: &[u8], len: usize, expect: Option<&[u8]>) {
        let mut output = vec![0xEE; len];
        let unpacked = unpack(input, &mut output);
        assert_eq!(unpacked.map(|()| output.as_slice()), expect);
    }

    #[test]
    fn bytes_and_repeats() {
        check(&[0b0000_0000, b'a', b'b', b'c'], 3, Some(b"abc"));
        // "ab", then 6 bytes from 2 back, which runs over its own copy.
        check(&[0b0000_0100, b'a', b'b', 0x03, 0x02], 8, Some(b"abababab"));
        // A length of 18 + 2.
        check(&[0b0000_0010, b'x', 0x0F, 0x01, 2], 21, Some(&[b'x'; 21]));
    }

    #[test]
    fn what_points_before_the_beginning_or_is_cut_off_is_refused() {
        check(&[0b0000_0001, 0x00, 0x01], 3, None);
        check(&[0b0000_0010, b'x', 0x00, 0x00], 4, None);
        check(&[0b0000_0000, b'a'], 3, None);
        check(&[], 1, None);
        check(&[0, b'a', b'b'], 1, None);
        check(&[], 0, Some(b""));
    }

    /// A packer of the simplest kind: the longest repeat among the last few offsets.
    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let control = out.len();
            out.push(0);
            for bit in 0..8 {
                if at >= bytes.len() {
                    break;
                }
                let matching = |offset: usize| {
                    let back = bytes[at - offset..].iter();
                    bytes[at..].iter().zip(back).take(273).take_while(|(a, b)| a == b).count()
                };
                let best = (1..=at.min(4095)).map(|offset| (matching(offset), offset)).max();
                match best {
                    Some((len @ 3.., offset)) => {
                        out[control] |= 1 << bit;
                        let short = (len - 3).min(15);
                        out.push((short | offset >> 8 << 4) as u8);
                        out.push((offset & 0xFF) as u8);
                        if short == 15 {
                            out.push((len - 18) as u8);
                        }
                        at += len;
                    }
                    _ => {
                        out.push(bytes[at]);
                        at += 1;
                    }
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_out(bytes in proptest::collection::vec(0_u8..4, 0..600)) {
            let mut output = vec![0; bytes.len()];
            prop_assert!(unpack(&pack(&bytes), &mut output).is_some());
            prop_assert_eq!(output, bytes);
        }

        #[test]
        fn any_bytes_are_unpacked_or_refused(input: Vec<u8>, len in 0_usize..9000) {
            let mut output = vec![0; len];
            let _ = unpack(&input, &mut output);
        }
    }
}
