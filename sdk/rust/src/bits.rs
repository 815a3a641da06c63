//! Validity bits, lowest first, that exist only once a null was written.

use std::ops::Range;

/// A growing validity bitmap. While every row has a value it holds a count and no bytes.
#[derive(Debug, Default)]
pub(crate) struct Bits {
    bytes: Option<Vec<u8>>,
    len: usize,
}

fn bit(bytes: &[u8], at: usize) -> bool {
    bytes[at / 8] >> (at % 8) & 1 == 1
}

impl Bits {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, at: usize) -> bool {
        self.bytes.as_ref().is_none_or(|bytes| bit(bytes, at))
    }

    pub(crate) fn push(&mut self, valid: bool) {
        if valid && self.bytes.is_none() {
            self.len += 1;
            return;
        }
        let len = self.len;
        let bytes = self.bytes.get_or_insert_with(|| ones(len));
        if len.is_multiple_of(8) {
            bytes.push(0);
        }
        // Bits past the end are kept zero, so that setting is enough.
        bytes[len / 8] |= u8::from(valid) << (len % 8);
        self.len += 1;
    }

    /// Appends the bits of `rows` in `from`, where `None` stands for a value in every row.
    pub(crate) fn extend(&mut self, from: Option<&[u8]>, rows: Range<usize>) {
        match from {
            None if self.bytes.is_none() => self.len += rows.len(),
            None => rows.for_each(|_| self.push(true)),
            Some(from) if self.len.is_multiple_of(8) && rows.start.is_multiple_of(8) => {
                let len = self.len;
                let bytes = self.bytes.get_or_insert_with(|| ones(len));
                bytes.extend_from_slice(&from[rows.start / 8..rows.end.div_ceil(8)]);
                self.len += rows.len();
                self.clear_tail();
            }
            Some(from) => rows.for_each(|row| self.push(bit(from, row))),
        }
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = len;
        if let Some(bytes) = &mut self.bytes {
            bytes.truncate(len.div_ceil(8));
            self.clear_tail();
        }
    }

    fn clear_tail(&mut self) {
        if let (Some(last), tail @ 1..) = (self.bytes.as_mut().and_then(|bytes| bytes.last_mut()), self.len % 8) {
            *last &= (1 << tail) - 1;
        }
    }

    pub(crate) fn into_validity(self) -> Option<Vec<u8>> {
        self.bytes
    }
}

fn ones(len: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; len / 8];
    if !len.is_multiple_of(8) {
        bytes.push((1 << (len % 8)) - 1);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(bool),
        Extend(Option<Vec<u8>>, usize, usize),
        Truncate(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<bool>().prop_map(Step::Push),
            (proptest::option::of(proptest::collection::vec(any::<u8>(), 6)), 0..40usize, 0..9usize)
                .prop_map(|(from, start, len)| Step::Extend(from, start, len)),
            (0..20usize).prop_map(Step::Truncate),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_vector_of_booleans(steps in proptest::collection::vec(step(), 0..40)) {
            let (mut bits, mut model) = (Bits::default(), Vec::new());
            for step in steps {
                match step {
                    Step::Push(valid) => {
                        bits.push(valid);
                        model.push(valid);
                    }
                    Step::Extend(from, start, len) => {
                        bits.extend(from.as_deref(), start..start + len);
                        model.extend((start..start + len).map(|at| from.as_ref().is_none_or(|from| bit(from, at))));
                    }
                    Step::Truncate(by) => {
                        let len = model.len().saturating_sub(by);
                        bits.truncate(len);
                        model.truncate(len);
                    }
                }
                prop_assert_eq!(bits.len(), model.len());
                prop_assert!((0..model.len()).all(|at| bits.get(at) == model[at]));
            }
            if let Some(bytes) = bits.into_validity() {
                prop_assert_eq!(bytes.len(), model.len().div_ceil(8));
                let set: usize = bytes.iter().map(|byte| byte.count_ones() as usize).sum();
                prop_assert_eq!(set, model.iter().filter(|valid| **valid).count(), "bits past the end are zero");
            }
        }
    }
}
