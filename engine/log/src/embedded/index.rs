//! The sparse index of a segment: one entry for every [`STRIDE_BYTES`] of it, in memory, and its byte form in the `.idx`
//! file. The layout of the file is described in [`super`].

use bytes::{Buf, BufMut};
use millrace_rows::LogId;
use xxhash_rust::xxh3::xxh3_64;

use super::format::{FORMAT_VERSION, Malformed, SEGMENT_HEADER_BYTES};

/// Distance between two entries, in bytes of the segment. An entry takes 16 bytes: the index is 1/4096 of the log. A
/// read passes over at most this much before the record that it wants.
pub(super) const STRIDE_BYTES: u64 = 64 * 1024;
const MAGIC: &[u8; 8] = b"MRLOGIDX";
const HEADER_BYTES: usize = 68;
const ENTRY_BYTES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Offset of a record, less that of the segment's first.
    offset: u32,
    /// Where the record, or the frame that begins with it, begins in the file.
    position: u32,
    appended_at: i64,
}

/// A place in a segment at which a walk can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub offset: u64,
    pub position: u64,
}

/// What is known of a segment without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    first: u64,
    /// Offset after the last record.
    pub end: u64,
    /// Bytes of the segment, up to the end of its last frame.
    pub length: u64,
    /// Append time of the last record; of the last one before the segment when it has none.
    pub last_time: i64,
    entries: Vec<Entry>,
}

impl Index {
    /// The index of a segment without records.
    pub fn empty(first: u64, base_time: i64) -> Self {
        Self { first, end: first, length: SEGMENT_HEADER_BYTES as u64, last_time: base_time, entries: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.end == self.first
    }

    /// Append time of the first record.
    pub fn first_time(&self) -> Option<i64> {
        self.entries.first().map(|entry| entry.appended_at)
    }

    /// Whether a record at `position` gets an entry.
    pub fn wants(&self, position: u64) -> bool {
        self.entries.last().is_none_or(|last| position - u64::from(last.position) >= STRIDE_BYTES)
    }

    /// Adds an entry if the last one is far enough behind. Entries come in order.
    pub fn note(&mut self, place: Place, appended_at: i64) {
        if self.wants(place.position) {
            // Segments hold less than 4 GiB: Options::segment_bytes is bounded.
            let offset = (place.offset - self.first) as u32;
            self.entries.push(Entry { offset, position: place.position as u32, appended_at });
        }
    }

    /// Takes in a frame whose records have been noted.
    pub fn extend(&mut self, end: u64, length: u64, appended_at: i64) {
        (self.end, self.length, self.last_time) = (end, length, appended_at);
    }

    fn place(&self, entry: &Entry) -> Place {
        Place { offset: self.first + u64::from(entry.offset), position: u64::from(entry.position) }
    }

    fn start(&self) -> Place {
        Place { offset: self.first, position: SEGMENT_HEADER_BYTES as u64 }
    }

    /// The last place at or before the record `offset`.
    pub fn floor(&self, offset: u64) -> Place {
        let after = self.entries.partition_point(|entry| self.first + u64::from(entry.offset) <= offset);
        after.checked_sub(1).map_or(self.start(), |at| self.place(&self.entries[at]))
    }

    /// The position at which the record `offset` is sure to have been passed: that of the first entry at or after it,
    /// else the end.
    pub fn ceiling(&self, offset: u64) -> u64 {
        let at = self.entries.partition_point(|entry| self.first + u64::from(entry.offset) < offset);
        self.entries.get(at).map_or(self.length, |entry| u64::from(entry.position))
    }

    /// The last place before the first record appended at `time` or later, and the position by which that record has
    /// begun, if the segment has it.
    pub fn around_time(&self, time: i64) -> (Place, u64) {
        let at = self.entries.partition_point(|entry| entry.appended_at < time);
        let from = at.checked_sub(1).map_or(self.start(), |before| self.place(&self.entries[before]));
        let to = self.entries.get(at).map_or(self.length, |entry| u64::from(entry.position));
        (from, to)
    }

    /// The byte form.
    pub fn encode(&self, log: LogId, partition: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES + 8);
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(FORMAT_VERSION);
        bytes.put_u32_le(partition);
        bytes.put_slice(&log.0);
        bytes.put_u64_le(self.first);
        bytes.put_u64_le(self.end);
        bytes.put_u64_le(self.length);
        bytes.put_i64_le(self.last_time);
        bytes.put_u32_le(self.entries.len() as u32);
        for entry in &self.entries {
            bytes.put_u32_le(entry.offset);
            bytes.put_u32_le(entry.position);
            bytes.put_i64_le(entry.appended_at);
        }
        let checksum = xxh3_64(&bytes);
        bytes.put_u64_le(checksum);
        bytes
    }

    /// Reads the byte form back, if it is that of the segment `first` of this partition of this log.
    pub fn decode(bytes: &[u8], log: LogId, partition: u32, first: u64) -> Result<Self, Malformed> {
        let malformed = |what: &str| Err(Malformed(what.to_owned()));
        if bytes.len() < HEADER_BYTES + 8 {
            return malformed("cut short");
        }
        let (mut rest, mut checksum) = bytes.split_at(bytes.len() - 8);
        if checksum.get_u64_le() != xxh3_64(rest) {
            return malformed("checksum does not match");
        }
        let (mut magic, mut id) = ([0; 8], LogId([0; 16]));
        rest.copy_to_slice(&mut magic);
        let (version, of_partition) = (rest.get_u32_le(), rest.get_u32_le());
        rest.copy_to_slice(&mut id.0);
        if &magic != MAGIC || version != FORMAT_VERSION {
            return malformed("not an index of this format");
        }
        if id != log || of_partition != partition || rest.get_u64_le() != first {
            return malformed("the index of another segment");
        }
        let (end, length, last_time) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_i64_le());
        let count = rest.get_u32_le() as usize;
        if rest.len() != count * ENTRY_BYTES {
            return malformed("not as many entries as it says");
        }
        let entries = (0..count)
            .map(|_| Entry { offset: rest.get_u32_le(), position: rest.get_u32_le(), appended_at: rest.get_i64_le() })
            .collect();
        Ok(Self { first, end, length, last_time, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of 30,000 bytes from offset 100 on, append time 10 times the offset's index halved: 0 0 10 10 20 …
    fn index() -> Index {
        let mut index = Index::empty(100, -1);
        for n in 0..20 {
            let position = 64 + n * 30_000;
            index.note(Place { offset: 100 + n, position }, n as i64 / 2 * 10);
            index.extend(101 + n, position + 30_000, n as i64 / 2 * 10);
        }
        index
    }

    #[test]
    fn an_entry_is_a_stride_apart_from_the_next() {
        let index = index();
        let offsets: Vec<u32> = index.entries.iter().map(|entry| entry.offset).collect();
        assert_eq!(offsets, [0, 3, 6, 9, 12, 15, 18]);
    }

    #[test]
    fn floor_and_ceiling_enclose_every_record() {
        let index = index();
        for n in 0..20 {
            let position = 64 + n * 30_000;
            let floor = index.floor(100 + n);
            assert!(floor.offset <= 100 + n && floor.position <= position);
            assert!(position - floor.position < STRIDE_BYTES + 30_000);
            assert!(index.ceiling(100 + n) >= position);
        }
        assert_eq!(index.ceiling(120), index.length);
        assert_eq!(Index::empty(5, 0).floor(5), Place { offset: 5, position: 64 });
    }

    #[test]
    fn the_first_record_of_a_time_lies_within_the_places_around_it() {
        let index = index();
        for time in -5..=90 {
            let n = (0..20).find(|n| n / 2 * 10 >= time).unwrap() as u64;
            let (from, to) = index.around_time(time);
            assert!(from.offset <= 100 + n, "{time}");
            assert!(to >= 64 + n * 30_000, "{time}");
            assert!(to - from.position < 2 * (STRIDE_BYTES + 30_000), "{time}");
        }
    }

    #[test]
    fn the_file_comes_back_or_is_refused() {
        let (index, log) = (index(), LogId([9; 16]));
        let bytes = index.encode(log, 3);
        assert_eq!(Index::decode(&bytes, log, 3, 100), Ok(index));
        assert!(Index::decode(&bytes, LogId([8; 16]), 3, 100).is_err());
        assert!(Index::decode(&bytes, log, 2, 100).is_err());
        assert!(Index::decode(&bytes, log, 3, 101).is_err());
        for byte in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[byte] ^= 1;
            assert!(Index::decode(&damaged, log, 3, 100).is_err(), "byte {byte}");
            assert!(Index::decode(&bytes[..byte], log, 3, 100).is_err(), "cut at {byte}");
        }
    }
}
