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
    let mut seen = Seen::default();
    let (chunks, tail) = value.as_chunks::<LANES>();
    for chunk in chunks {
        seen.look(chunk);
    }
    if !tail.is_empty() {
        let mut last = [0; LANES];
        last[..tail.len()].copy_from_slice(tail);
        seen.look(&last);
    }
    let flags = seen.flags.iter().fold(0, |all, flag| all | flag);
    let digits = flags & WIDE != 0 || (seen.many && has_run(value));
    Hints { at: flags & AT != 0, escapes: flags & ESCAPE != 0, digits }
}

const AT: u8 = 1;
const ESCAPE: u8 = 2;
const WIDE: u8 = 4;

/// Digits and all ASCII that may stand between those of a card number, which has thirteen of them in a row or more.
#[inline(always)]
fn is_numeric(byte: u8) -> bool {
    (byte.wrapping_sub(b'0') < 10) | (byte == b' ') | (byte == b'-') | (byte == b'+') | (byte == b'\t')
}
const RUN: u8 = 13;

#[derive(Default)]
struct Seen {
    flags: [u8; LANES],
    /// Whether two chunks side by side, of which one run of thirteen touches no more, held as many numeric bytes.
    many: bool,
    before: u8,
}

impl Seen {
    #[inline(always)]
    fn look(&mut self, bytes: &[u8; LANES]) {
        for (byte, flags) in bytes.iter().copied().zip(&mut self.flags) {
            let at = if byte == b'@' { AT } else { 0 };
            let escape = if (byte == b'\\') | (byte == b'%') { ESCAPE } else { 0 };
            // The first bytes of spaces and dashes beyond ASCII: rare, so whoever has them is looked at.
            let wide = if (byte == 0xc2) | (byte == 0xe2) { WIDE } else { 0 };
            *flags |= at | escape | wide;
        }
        let numeric = bytes.iter().fold(0u8, |sum, byte| sum + u8::from(is_numeric(*byte)));
        self.many |= self.before + numeric >= RUN;
        self.before = numeric;
    }
}

/// Whether thirteen numeric bytes stand in a row. Most values that have as many have them apart, as a UUID has.
fn has_run(value: &[u8]) -> bool {
    let mut end = RUN as usize;
    // A run that holds the byte before `end` starts after the last other byte before it.
    while end <= value.len() {
        match value[end - RUN as usize..end].iter().rposition(|byte| !is_numeric(*byte)) {
            None => return true,
            Some(other) => end += other + 1,
        }
    }
    false
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
