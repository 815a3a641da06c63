//! Values of any size on a keyspace whose values end at 100 kB.
//!
//! ```text
//! up to 90,000 bytes   key                -> the value; its first byte is its version, never 0
//! more                 key                -> 0, u8 layout = 1, u32 LE length of the value, u32 LE number of chunks
//!                      key, (chunk: int)  -> bytes of the value, 90,000 in each chunk but the last; chunk = 0, 1, 2 …
//! ```
//! A chunk's key is the key with one more tuple element, so chunks stand between their key and the next, and one range
//! read brings them all. All of a value is written in one transaction.

use foundationdb_tuple::TuplePack;

/// Most bytes in one value or chunk.
pub const CHUNK_BYTES: usize = 90_000;

const SPLIT: u8 = 0;
const LAYOUT: u8 = 1;

/// What stands under the key of a split value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitHead {
    /// Length of the whole value.
    pub length: u32,
    /// Number of chunks that follow.
    pub chunks: u32,
}

/// Bytes that start like the head of a split value and are none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeadError {
    /// Written by another version of this layout.
    #[error("layout {0} of split values is not known to this build (it reads layout {LAYOUT})")]
    Layout(u8),
    /// Cut short, or its numbers contradict each other.
    #[error("the head of a split value is damaged")]
    Damaged,
}

/// Number of chunks that a value of this length is split into; 0 when it stays whole.
pub fn chunks(length: usize) -> usize {
    if length <= CHUNK_BYTES { 0 } else { length.div_ceil(CHUNK_BYTES) }
}

/// The key of one chunk.
pub fn chunk_key(key: &[u8], chunk: u32) -> Vec<u8> {
    let mut out = key.to_vec();
    push_chunk_element(&mut out, chunk);
    out
}

/// Appends what makes a key the key of one of its chunks.
pub fn push_chunk_element(key: &mut Vec<u8>, chunk: u32) {
    (chunk,).pack_into_vec(key);
}

impl SplitHead {
    /// The head of a value of this length.
    pub fn of(length: usize) -> Self {
        // A value is part of a transaction of 1 MB.
        Self { length: length as u32, chunks: chunks(length) as u32 }
    }

    /// The head as it is stored.
    pub fn encode(self) -> [u8; 10] {
        let mut out = [0; 10];
        (out[0], out[1]) = (SPLIT, LAYOUT);
        out[2..6].copy_from_slice(&self.length.to_le_bytes());
        out[6..].copy_from_slice(&self.chunks.to_le_bytes());
        out
    }

    /// Reads what stands under a key: the head, or `None` when it is a whole value.
    ///
    /// # Errors
    /// [`HeadError`] when it is a head that this build does not understand.
    pub fn parse(value: &[u8]) -> Result<Option<Self>, HeadError> {
        match value {
            [SPLIT, LAYOUT, rest @ ..] => {
                let &[a, b, c, d, e, f, g, h] = rest else { return Err(HeadError::Damaged) };
                let head = Self { length: u32::from_le_bytes([a, b, c, d]), chunks: u32::from_le_bytes([e, f, g, h]) };
                let sound = head.chunks > 0 && head == Self::of(head.length as usize);
                if sound { Ok(Some(head)) } else { Err(HeadError::Damaged) }
            }
            [SPLIT, layout, ..] => Err(HeadError::Layout(*layout)),
            [SPLIT] | [] => Err(HeadError::Damaged),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_pinned() {
        let head = SplitHead::of(CHUNK_BYTES + 1);
        assert_eq!(head, SplitHead { length: 90_001, chunks: 2 });
        assert_eq!(head.encode(), [0, 1, 0x91, 0x5f, 1, 0, 2, 0, 0, 0]);
        assert_eq!(SplitHead::parse(&head.encode()), Ok(Some(head)));
        assert_eq!(chunk_key(b"k", 0), b"k\x14");
        assert_eq!(chunk_key(b"k", 5), b"k\x15\x05");
    }

    #[test]
    fn a_value_is_split_only_when_it_must_be() {
        assert_eq!([0, 1, CHUNK_BYTES].map(chunks), [0, 0, 0]);
        assert_eq!([CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 1].map(chunks), [2, 2, 3]);
    }

    #[test]
    fn what_is_no_head_is_said_to_be_none() {
        assert_eq!(SplitHead::parse(&[1, 2, 3]), Ok(None));
        assert_eq!(SplitHead::parse(&[0, 2, 0, 0, 0, 0, 0, 0, 0, 0]), Err(HeadError::Layout(2)));
        for damaged in [&[][..], &[0], &[0, 1], &[0, 1, 0, 0, 0, 0, 0, 0, 0], &[0, 1, 9, 0, 0, 0, 1, 0, 0, 0]] {
            assert_eq!(SplitHead::parse(damaged), Err(HeadError::Damaged), "{damaged:?}");
        }
    }
}
