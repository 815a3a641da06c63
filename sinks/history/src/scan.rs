//! Reads a range value by value: pages of the keyspace joined, split values put together.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use millrace_keyspace::{Pair, Snapshot};

use crate::keys::{after, shown};
use crate::reader::ReadError;
use crate::value::{SplitHead, chunk_key};

/// A forward scan in one snapshot. Holds one page of the keyspace: at most 1 MB and one value.
pub(crate) struct Scan<'s> {
    snapshot: &'s dyn Snapshot,
    range: Range<Vec<u8>>,
    page: VecDeque<Pair>,
    more: bool,
    page_pairs: usize,
    scanned: usize,
    scanned_bytes: usize,
}

impl<'s> Scan<'s> {
    /// Reads `range` in pages of about `page_pairs` pairs.
    pub(crate) fn new(snapshot: &'s dyn Snapshot, range: Range<Vec<u8>>, page_pairs: usize) -> Self {
        let more = range.start < range.end;
        Self {
            snapshot,
            range,
            page: VecDeque::new(),
            more,
            page_pairs: page_pairs.max(1),
            scanned: 0,
            scanned_bytes: 0,
        }
    }

    /// Keys read by [`next`](Self::next) so far, chunks counted.
    pub(crate) fn scanned(&self) -> usize {
        self.scanned
    }

    /// Bytes of keys and values read so far.
    pub(crate) fn scanned_bytes(&self) -> usize {
        self.scanned_bytes
    }

    /// Whether nothing is left.
    pub(crate) async fn exhausted(&mut self) -> Result<bool, ReadError> {
        self.fill().await?;
        Ok(self.page.is_empty())
    }

    /// The next key and its whole value.
    pub(crate) async fn next(&mut self) -> Result<Option<Pair>, ReadError> {
        let Some((key, value)) = self.next_pair().await? else { return Ok(None) };
        let damaged = |detail: &str| ReadError::Broken(format!("key {}: {detail}", shown(&key)));
        let Some(head) = SplitHead::parse(&value).map_err(|error| damaged(&error.to_string()))? else {
            return Ok(Some((key, value)));
        };
        let mut whole = BytesMut::with_capacity(head.length as usize);
        for chunk in 0..head.chunks {
            let expected = chunk_key(&key, chunk);
            match self.next_pair().await? {
                Some((found, bytes)) if *found == *expected => whole.extend_from_slice(&bytes),
                _ => return Err(damaged(&format!("chunk {chunk} of {} is missing", head.chunks))),
            }
        }
        if whole.len() != head.length as usize {
            return Err(damaged("its chunks have another length than its head says"));
        }
        Ok(Some((key, whole.freeze())))
    }

    async fn next_pair(&mut self) -> Result<Option<Pair>, ReadError> {
        self.fill().await?;
        let pair = self.page.pop_front();
        if let Some((key, value)) = &pair {
            self.scanned += 1;
            self.scanned_bytes += key.len() + value.len();
        }
        Ok(pair)
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        while self.page.is_empty() && self.more {
            let page = self.snapshot.range(&self.range.start, &self.range.end, self.page_pairs).await?;
            self.more = page.more;
            if let Some((last, _)) = page.pairs.last() {
                self.range.start = [last, &[0][..]].concat();
            }
            self.page = page.pairs.into();
        }
        Ok(())
    }
}

/// The rest of a range behind a value and its chunks.
pub(crate) fn behind(key: &Bytes, range: Range<Vec<u8>>) -> Range<Vec<u8>> {
    after(key)..range.end
}
