//! The look at every byte that decides whether a value needs work: most don't, and this is all that they cost.
//!
//! It is written in lanes without branches, which compilers turn into vector instructions, in WebAssembly too.

/// Bytes looked at together.
const LANES: usize = 32;

/// What a value might contain; never says no to what [`crate::find`] would find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// An `@` as such.
    pub at: bool,
    /// `\` or `%`, behind which anything may be hidden.
    pub escapes: bool,
    /// Digits enough for a card number.
    pub digits: bool,
}

impl Hints {
    /// Whether there is nothing to look for.
    pub fn none(self) -> bool {
        !(self.at || self.escapes || self.digits)
    }
}

/// Looks at a value.
#[inline]
pub fn screen(value: &[u8]) -> Hints {
    let mut flags = 0;
    let (chunks, tail) = value.as_chunks::<LANES>();
    for chunk in chunks {
        flags |= lanes(chunk);
    }
    if !tail.is_empty() {
        let mut last = [0; LANES];
        last[..tail.len()].copy_from_slice(tail);
        flags |= lanes(&last);
    }
    Hints { at: flags & AT != 0, escapes: flags & ESCAPE != 0, digits: flags & DIGITS != 0 }
}

const AT: u8 = 1;
const ESCAPE: u8 = 2;
const DIGITS: u8 = 4;

#[inline]
fn lanes(bytes: &[u8; LANES]) -> u8 {
    let mut flags = [0u8; LANES];
    let mut class = [0u8; LANES];
    for i in 0..LANES {
        let byte = bytes[i];
        let escape = (byte == b'\\') | (byte == b'%');
        // The first bytes of spaces and dashes beyond ASCII: rare, so whoever has them is looked at.
        let wide = (byte == 0xc2) | (byte == 0xe2);
        flags[i] = u8::from(byte == b'@') * AT | u8::from(escape) * ESCAPE | u8::from(wide) * DIGITS;
        // Digits and all ASCII that may stand between those of a card number.
        let numeric =
            (byte.wrapping_sub(b'0') < 10) | (byte == b' ') | (byte == b'-') | (byte == b'+') | (byte == b'\t');
        class[i] = if numeric { 0xff } else { 0 };
    }
    // A run of seven such bytes (a card number has thirteen) covers four that start at a multiple of four, wherever it
    // begins.
    let (fours, _) = class.as_chunks::<4>();
    let mut any = 0u8;
    for four in fours {
        any |= if u32::from_ne_bytes(*four) == u32::MAX { DIGITS } else { 0 };
    }
    flags.iter().fold(any, |all, flag| all | flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_seen_wherever_they_stand() {
        for text in ["4111111111111111", "4111 1111 1111 1111", "4-1-1-1-1-1-1-1-1-1-1-1-1", "4222222222222"] {
            for before in 0..70 {
                for after in [0, 1, 31, 40] {
                    let value = format!("{}{text}{}", "x".repeat(before), "y".repeat(after));
                    assert!(screen(value.as_bytes()).digits, "{value}");
                }
            }
        }
    }

    #[test]
    fn single_bytes_are_seen_wherever_they_stand() {
        for at in 0..100 {
            let mut value = vec![b'x'; 100];
            assert!(screen(&value).none());
            value[at] = b'@';
            assert_eq!(screen(&value), Hints { at: true, ..Hints::default() });
            for escape in [b'%', b'\\'] {
                value[at] = escape;
                assert_eq!(screen(&value), Hints { escapes: true, ..Hints::default() });
            }
            value[at] = 0xc2;
            assert_eq!(screen(&value), Hints { digits: true, ..Hints::default() });
        }
    }

    #[test]
    fn ordinary_json_passes() {
        let value = br#"{"sku": "A-1", "price": 12.5, "size": "M", "list": [1, 2], "name": "Blue shirt"}"#;
        assert!(!screen(value).digits && !screen(value).at && !screen(value).escapes);
    }
}
