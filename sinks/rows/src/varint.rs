//! Unsigned numbers in base 128, low bits first, in as few bytes as they take; signed ones zigzag-coded first.
//!
//! What the formats of rows and of the history's lineage are written with.

/// Appends a number.
pub fn push(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a signed number.
pub fn push_signed(out: &mut Vec<u8>, number: i64) {
    push(out, ((number << 1) ^ (number >> 63)) as u64);
}

/// Reads numbers and bytes off what is left; every method gives `None` at the end or at what no writer wrote.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.0.split_off_first().copied()
    }

    /// What [`push`] wrote.
    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
            if byte < 0x80 {
                // A last byte without bits is one too many.
                return (byte != 0 || shift == 0).then_some(number);
            }
        }
        None
    }

    /// What [`push_signed`] wrote.
    pub fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        self.0.split_off(..length)
    }

    /// What [`push_text`] wrote.
    pub fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

/// Appends the length of a text, then its bytes.
pub fn push_text(out: &mut Vec<u8>, text: &str) {
    push(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_round_trip(a in any::<u64>(), b in any::<i64>(), small in 0..300_u64) {
            let mut out = Vec::new();
            push(&mut out, a);
            push_signed(&mut out, b);
            push(&mut out, small);
            let mut reader = Reader(&out);
            prop_assert_eq!((reader.number(), reader.signed(), reader.number()), (Some(a), Some(b), Some(small)));
            prop_assert!(reader.0.is_empty() && reader.number().is_none());
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            let mut reader = Reader(&bytes);
            while reader.number().is_some() {}
            let _ = Reader(&bytes).text();
        }
    }

    #[test]
    fn a_number_of_more_bytes_than_it_takes_is_refused() {
        assert_eq!(Reader(&[0]).number(), Some(0));
        assert_eq!(Reader(&[0x80, 0]).number(), None);
        assert_eq!(Reader(&[0xff, 0x80, 0]).number(), None);
        assert_eq!(Reader(&[0x80, 0x01]).number(), Some(128));
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        assert_eq!(Reader(&[0xff; 11]).number(), None);
        assert_eq!(Reader(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).number(), None);
        assert_eq!(Reader(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).number(), Some(u64::MAX));
    }
}
