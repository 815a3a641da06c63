//! Keys and values one after the other in one buffer, so that a row costs no allocation of its own.

use std::ops::Range;

use bytes::Bytes;
use millrace_keyspace::Write;
use millrace_rows::DeadLetter;
use millrace_rows::canonical::RowEncoder;

use crate::codec;
use crate::keys::Keys;
use crate::lineage::LineageRow;
use crate::sound::Places;
use crate::value::{CHUNK_BYTES, SplitHead, chunks, push_chunk_element};

/// Pairs that are to be put.
#[derive(Default)]
pub(crate) struct Pairs {
    data: Vec<u8>,
    /// Where the key and the value of each pair end.
    ends: Vec<(usize, usize)>,
}

/// How far [`Pairs`] were filled.
#[derive(Clone, Copy)]
pub(crate) struct Filled {
    data: usize,
    ends: usize,
}

impl Filled {
    pub(crate) fn is_empty(self) -> bool {
        self.data == 0
    }
}

impl Pairs {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { data: Vec::with_capacity(bytes), ends: Vec::new() }
    }

    /// Bytes of keys and values.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Number of pairs.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn mark(&self) -> Filled {
        Filled { data: self.data.len(), ends: self.ends.len() }
    }

    /// Moves what was added since `mark` behind the pairs of `other`.
    pub(crate) fn move_since(&mut self, mark: Filled, other: &mut Self) {
        let base = other.data.len();
        other.data.extend_from_slice(&self.data[mark.data..]);
        let moved = self.ends.drain(mark.ends..);
        other.ends.extend(moved.map(|(key, value)| (key - mark.data + base, value - mark.data + base)));
        self.data.truncate(mark.data);
    }

    /// Adds a row of a batch that was checked, and says what its lineage is.
    pub(crate) fn push_row<'a>(
        &mut self,
        keys: &Keys,
        partition: u32,
        places: &Places<'a>,
        encoder: &RowEncoder<'_>,
        row: usize,
    ) -> LineageRow<&'a str> {
        let (device_id, event_time_us) = (places.device(row), places.time(row));
        let (offset, sub) = (places.offset(row), places.sub(row));
        let start = self.data.len();
        keys.push_row(&mut self.data, device_id, event_time_us, partition, offset, sub);
        let key_end = self.data.len();
        encoder.encode(row, &mut self.data);
        let chunks = self.finish_value(start, key_end);
        LineageRow { offset, sub, device_id, event_time_us, revision: places.revision(row), chunks }
    }

    /// Adds a dead letter.
    pub(crate) fn push_dead(&mut self, keys: &Keys, partition: u32, letter: &DeadLetter) {
        keys.push_dead(&mut self.data, partition, letter.offset);
        let key_end = self.data.len();
        codec::push_dead(&mut self.data, letter);
        self.ends.push((key_end, self.data.len()));
    }

    /// Adds a value of any size.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        let start = self.data.len();
        self.data.extend_from_slice(key);
        let key_end = self.data.len();
        self.data.extend_from_slice(value);
        self.finish_value(start, key_end);
    }

    /// Ends the pair whose key stands at `start..key_end` and whose value is the rest; splits it if it must be. Returns
    /// the number of chunks.
    fn finish_value(&mut self, start: usize, key_end: usize) -> u32 {
        let length = self.data.len() - key_end;
        if chunks(length) == 0 {
            self.ends.push((key_end, self.data.len()));
            return 0;
        }
        let value = self.data.split_off(key_end);
        let head = SplitHead::of(length);
        self.data.extend_from_slice(&head.encode());
        self.ends.push((key_end, self.data.len()));
        for (chunk, bytes) in (0..head.chunks).zip(value.chunks(CHUNK_BYTES)) {
            self.data.extend_from_within(start..key_end);
            push_chunk_element(&mut self.data, chunk);
            let key_end = self.data.len();
            self.data.extend_from_slice(bytes);
            self.ends.push((key_end, self.data.len()));
        }
        head.chunks
    }

    /// The writes that put all of it.
    pub(crate) fn into_writes(mut self) -> Vec<Write> {
        // The keyspace may keep the buffer for as long as a write buffer lives: not much more than what is in it.
        if self.data.capacity() > self.data.len() + self.data.len() / 4 {
            self.data.shrink_to_fit();
        }
        let data = Bytes::from(self.data);
        let mut start = 0;
        let put = |(key_end, end): (usize, usize)| {
            let pair: Range<usize> = start..end;
            start = end;
            Write::Put(data.slice(pair.start..key_end), data.slice(key_end..pair.end))
        };
        self.ends.into_iter().map(put).collect()
    }
}
