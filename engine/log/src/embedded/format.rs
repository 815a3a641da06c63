//! The byte layout of segments: encoding and decoding, no I/O. The layout itself is described in [`super`].

use bytes::{Buf, BufMut, Bytes};
use millrace_rows::LogId;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::{
    APPEND_BYTES_MAX, NewRecord, PAYLOAD_BYTES_MAX, RECEIPT_BYTES_MAX, RECORD_OVERHEAD_BYTES, Receipt, Record,
};

pub(super) const SEGMENT_MAGIC: &[u8; 8] = b"MRLOGSEG";
pub(super) const FORMAT_VERSION: u32 = 1;
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
pub(super) const FRAME_HEADER_BYTES: usize = 48;
pub(super) const RECORD_HEADER_BYTES: usize = 40;
/// First bytes of a frame. As a number (little endian) larger than any record's length, so that a walk tells the two
/// apart wherever it starts.
pub(super) const FRAME_MAGIC: u32 = 0xF7A3_E14C;
/// Most bytes of records in one frame: one append of the largest size, or several of up to this size together.
pub(super) const FRAME_BODY_BYTES_MAX: usize = APPEND_BYTES_MAX;
const RECORD_LENGTH_MAX: u32 = (RECORD_HEADER_BYTES + PAYLOAD_BYTES_MAX + RECEIPT_BYTES_MAX) as u32;
const NO_RECEIPT: u32 = u32::MAX;

const _: () = assert!(RECORD_HEADER_BYTES <= RECORD_OVERHEAD_BYTES);
const _: () = assert!(RECORD_LENGTH_MAX < FRAME_MAGIC);

/// Bytes that are not what they should be: what is wrong with them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub String);

fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(what.into()))
}

/// The first bytes of every segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub log: LogId,
    pub partition: u32,
    /// Offset of the segment's first record.
    pub first: u64,
    /// Append time of the last record before this segment: what an empty segment knows of time.
    pub base_time: i64,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let mut out = &mut bytes[..];
        out.put_slice(SEGMENT_MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u32_le(self.partition);
        out.put_slice(&self.log.0);
        out.put_u64_le(self.first);
        out.put_i64_le(self.base_time);
        out.put_u64_le(0);
        let checksum = xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Self, Malformed> {
        let mut rest = &bytes[..];
        let mut magic = [0; 8];
        rest.copy_to_slice(&mut magic);
        if &magic != SEGMENT_MAGIC {
            return malformed("the file does not begin as a segment does");
        }
        let version = rest.get_u32_le();
        if version != FORMAT_VERSION {
            return malformed(format!("segment format {version}; this build knows format {FORMAT_VERSION}"));
        }
        if (&bytes[56..]).get_u64_le() != xxh3_64(&bytes[..56]) {
            return malformed("checksum of the segment header does not match");
        }
        let partition = rest.get_u32_le();
        let mut log = LogId([0; 16]);
        rest.copy_to_slice(&mut log.0);
        Ok(Self { log, partition, first: rest.get_u64_le(), base_time: rest.get_i64_le() })
    }
}

/// Seed of the frame checksums of one partition of one log: a frame of any other is no frame here.
pub(super) fn frame_seed(log: LogId, partition: u32) -> u64 {
    xxh3_64_with_seed(&log.0, u64::from(partition))
}

/// What stands before the records of one group commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub count: u32,
    pub first: u64,
    /// Append time of every record in the frame.
    pub appended_at: i64,
    pub body_bytes: u32,
    pub body_checksum: u64,
}

impl FrameHeader {
    fn encode(&self, seed: u64, mut out: &mut [u8]) {
        let checksum = {
            let mut bytes = [0; FRAME_HEADER_BYTES - 8];
            let mut head = &mut bytes[..];
            head.put_u32_le(FRAME_MAGIC);
            head.put_u32_le(self.count);
            head.put_u64_le(self.first);
            head.put_i64_le(self.appended_at);
            head.put_u32_le(self.body_bytes);
            head.put_u32_le(0);
            head.put_u64_le(self.body_checksum);
            out.put_slice(&bytes);
            xxh3_64_with_seed(&bytes, seed)
        };
        out.put_u64_le(checksum);
    }

    /// Reads a header from the first [`FRAME_HEADER_BYTES`] of `bytes`.
    pub fn decode(bytes: &[u8], seed: u64) -> Result<Self, Malformed> {
        let Some(mut rest) = bytes.get(..FRAME_HEADER_BYTES) else {
            return malformed("the frame header is cut short");
        };
        let (checked, mut checksum) = rest.split_at(FRAME_HEADER_BYTES - 8);
        if checksum.get_u64_le() != xxh3_64_with_seed(checked, seed) {
            return malformed("checksum of the frame header does not match");
        }
        if rest.get_u32_le() != FRAME_MAGIC {
            return malformed("no frame begins here");
        }
        let (count, first, appended_at) = (rest.get_u32_le(), rest.get_u64_le(), rest.get_i64_le());
        let body_bytes = rest.get_u32_le();
        rest.advance(4);
        if body_bytes as usize > FRAME_BODY_BYTES_MAX {
            return malformed(format!("a frame of {body_bytes} bytes"));
        }
        Ok(Self { count, first, appended_at, body_bytes, body_checksum: rest.get_u64_le() })
    }
}

/// Writes records as they stand in a frame, but for append time and checksum, which [`Frame::finish`] fills in.
pub(super) fn encode_records(records: &[NewRecord], out: &mut Vec<u8>) {
    for record in records {
        let start = out.len();
        out.put_bytes(0, RECORD_HEADER_BYTES);
        let receipt_length = match &record.receipt {
            None => NO_RECEIPT,
            Some(receipt) => {
                receipt.encode(out);
                // Bounded by check_append.
                (out.len() - start - RECORD_HEADER_BYTES) as u32
            }
        };
        out.put_slice(&record.payload);
        let length = (out.len() - start) as u32;
        let mut head = &mut out[start..start + RECORD_HEADER_BYTES];
        head.put_u32_le(length);
        head.put_u32_le(receipt_length);
        head.put_u64_le(0);
        head.put_u128_le(record.id);
    }
}

/// Checksum of a record: a function of its id, append time, receipt and payload, and of nothing else. `bytes` is the
/// whole record.
fn record_checksum(bytes: &[u8]) -> u64 {
    // The lengths go in as the seed, so that bytes can't move between receipt and payload.
    let lengths = (&bytes[..8]).get_u64_le();
    xxh3_64_with_seed(&bytes[16..], lengths)
}

/// A frame under construction.
pub(super) struct Frame {
    bytes: Vec<u8>,
    count: u32,
}

impl Frame {
    /// A frame with room for `body_bytes` of records.
    pub fn with_capacity(body_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + body_bytes);
        bytes.put_bytes(0, FRAME_HEADER_BYTES);
        Self { bytes, count: 0 }
    }

    /// Adds `count` records, encoded by [`encode_records`].
    pub fn push(&mut self, records: &[u8], count: u32) {
        self.bytes.extend_from_slice(records);
        self.count += count;
    }

    /// Fills in what the writer decides and returns the bytes to write. `each` is called with the offset and the
    /// position in the frame of every record.
    pub fn finish(mut self, seed: u64, first: u64, appended_at: i64, mut each: impl FnMut(u64, usize)) -> Vec<u8> {
        let mut at = FRAME_HEADER_BYTES;
        for offset in first..first + u64::from(self.count) {
            let length = (&self.bytes[at..]).get_u32_le() as usize;
            let record = &mut self.bytes[at..at + length];
            record[32..40].copy_from_slice(&appended_at.to_le_bytes());
            let checksum = record_checksum(record);
            record[8..16].copy_from_slice(&checksum.to_le_bytes());
            each(offset, at);
            at += length;
        }
        assert_eq!(at, self.bytes.len(), "records of a frame must fill it");
        let body = &self.bytes[FRAME_HEADER_BYTES..];
        let header = FrameHeader {
            count: self.count,
            first,
            appended_at,
            body_bytes: body.len() as u32,
            body_checksum: xxh3_64(body),
        };
        header.encode(seed, &mut self.bytes[..FRAME_HEADER_BYTES]);
        self.bytes
    }
}

/// Checks a frame's body against its header.
pub(super) fn check_body(header: &FrameHeader, body: &[u8]) -> Result<(), Malformed> {
    if xxh3_64(body) != header.body_checksum {
        return malformed("checksum of the frame does not match");
    }
    Ok(())
}

/// A record found by a [`Walk`]: checked, not yet decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub offset: u64,
    /// Where in the buffer it begins: its own first byte, or that of the frame header right before it.
    pub at: usize,
    pub appended_at: i64,
    pub payload_bytes: usize,
    body: usize,
    end: usize,
}

/// What the next step of a [`Walk`] met.
#[derive(Debug)]
pub(super) enum Step {
    Record(Found),
    /// The buffer ends within or before the next record; with at least this many bytes from [`Walk::position`] on the
    /// walk gets further.
    More(usize),
}

/// Walks over records and frame headers, checking each, from any place where one of the two begins.
pub(super) struct Walk<'a> {
    bytes: &'a Bytes,
    position: usize,
    offset: u64,
    seed: u64,
}

impl<'a> Walk<'a> {
    /// Starts at `position`, where the record `offset` or the frame that begins with it stands.
    pub fn new(bytes: &'a Bytes, position: usize, offset: u64, seed: u64) -> Self {
        Self { bytes, position, offset, seed }
    }

    /// Where the next record, or its frame, begins.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Offset of the next record.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes one record further.
    pub fn step(&mut self) -> Result<Step, Malformed> {
        let mut at = self.position;
        let more = |bytes: usize| Ok(Step::More(bytes));
        let Some(mut head) = self.bytes.get(at..at + 4) else { return more(FRAME_HEADER_BYTES + RECORD_HEADER_BYTES) };
        if head.get_u32_le() == FRAME_MAGIC {
            if self.bytes.len() - at < FRAME_HEADER_BYTES + RECORD_HEADER_BYTES {
                return more(FRAME_HEADER_BYTES + RECORD_HEADER_BYTES);
            }
            let header = FrameHeader::decode(&self.bytes[at..], self.seed)?;
            if header.first != self.offset {
                return malformed(format!("a frame of offset {} stands here", header.first));
            }
            at += FRAME_HEADER_BYTES;
        }
        let skipped = at - self.position;
        let Some(mut head) = self.bytes.get(at..at + RECORD_HEADER_BYTES) else {
            return more(skipped + RECORD_HEADER_BYTES);
        };
        let (length, receipt) = (head.get_u32_le(), head.get_u32_le());
        let receipt_bytes = if receipt == NO_RECEIPT { 0 } else { receipt as usize };
        if length > RECORD_LENGTH_MAX || (length as usize) < RECORD_HEADER_BYTES + receipt_bytes {
            return malformed(format!("a record of {length} bytes with a receipt of {receipt_bytes}"));
        }
        let length = length as usize;
        let Some(record) = self.bytes.get(at..at + length) else { return more(skipped + length) };
        if head.get_u64_le() != record_checksum(record) {
            return malformed("checksum of the record does not match");
        }
        head.advance(16);
        let found = Found {
            offset: self.offset,
            at: self.position,
            appended_at: head.get_i64_le(),
            payload_bytes: length - RECORD_HEADER_BYTES - receipt_bytes,
            body: at,
            end: at + length,
        };
        self.position = found.end;
        self.offset += 1;
        Ok(Step::Record(found))
    }
}

impl Found {
    /// The record, its payload a slice of `bytes`, the buffer that it was found in.
    pub fn decode(&self, bytes: &Bytes) -> Result<Record, Malformed> {
        let mut head = &bytes[self.body..self.body + RECORD_HEADER_BYTES];
        head.advance(4);
        let receipt_length = head.get_u32_le();
        let (checksum, id) = (head.get_u64_le(), head.get_u128_le());
        let payload = self.end - self.payload_bytes;
        let receipt = match receipt_length {
            NO_RECEIPT => None,
            _ => Some(
                Receipt::decode(&bytes.slice(self.body + RECORD_HEADER_BYTES..payload))
                    .map_err(|error| Malformed(error.to_string()))?,
            ),
        };
        let payload = bytes.slice(payload..self.end);
        Ok(Record { offset: self.offset, id, appended_at_us: self.appended_at, checksum, receipt, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 7;

    fn frame(first: u64, appended_at: i64, records: &[NewRecord]) -> Bytes {
        let mut body = Vec::new();
        encode_records(records, &mut body);
        let mut frame = Frame::with_capacity(body.len());
        frame.push(&body, records.len() as u32);
        Bytes::from(frame.finish(SEED, first, appended_at, |_, _| {}))
    }

    fn three() -> Vec<NewRecord> {
        vec![
            NewRecord { id: 1, receipt: None, payload: Bytes::from_static(b"one") },
            NewRecord { id: u128::MAX, receipt: Some(Receipt::default()), payload: Bytes::from_static(b"\0\xff") },
            NewRecord {
                id: 0,
                receipt: Some(Receipt { app: Some("a".to_owned()), ..Receipt::default() }),
                payload: Bytes::from_static(b"3"),
            },
        ]
    }

    fn walk_all(bytes: &Bytes, first: u64) -> Result<Vec<Record>, Malformed> {
        let mut walk = Walk::new(bytes, 0, first, SEED);
        let mut records = Vec::new();
        while let Step::Record(found) = walk.step()? {
            records.push(found.decode(bytes)?);
        }
        Ok(records)
    }

    #[test]
    fn records_come_back_as_they_went_in() {
        let records = walk_all(&frame(40, 99, &three()), 40).unwrap();
        assert_eq!(records.len(), 3);
        for (index, (record, sent)) in records.iter().zip(three()).enumerate() {
            assert_eq!((record.offset, record.appended_at_us), (40 + index as u64, 99));
            assert_eq!((record.id, &record.receipt, &record.payload), (sent.id, &sent.receipt, &sent.payload));
        }
    }

    #[test]
    fn a_checksum_depends_on_the_record_alone() {
        let of = |first, time, records: &[NewRecord]| walk_all(&frame(first, time, records), first).unwrap();
        let alone = of(0, 5, &three()[1..2]);
        let among = of(1_000, 5, &three());
        assert_eq!(alone[0].checksum, among[1].checksum);
        assert_ne!(alone[0].checksum, of(0, 6, &three()[1..2])[0].checksum, "the append time is part of it");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = frame(0, 5, &three());
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let bytes = Bytes::from(bytes);
            let noticed = match walk_all(&bytes, 0) {
                Err(_) => true,
                // A changed length may reach past the end of the buffer.
                Ok(records) => records.len() < 3,
            };
            assert!(noticed, "bit {bit}");
        }
    }

    #[test]
    fn a_short_buffer_asks_for_enough() {
        let whole = frame(0, 5, &three());
        for length in 0..whole.len() {
            let bytes = whole.slice(..length);
            let mut walk = Walk::new(&bytes, 0, 0, SEED);
            let needed = loop {
                if let Step::More(needed) = walk.step().unwrap() {
                    break walk.position() + needed;
                }
            };
            assert!(needed > length, "{needed} bytes asked for with {length} there");
        }
    }

    #[test]
    fn a_segment_header_of_another_version_is_named() {
        let header = SegmentHeader { log: LogId([3; 16]), partition: 2, first: 17, base_time: -4 };
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        let mut newer = header.encode();
        newer[8] = 2;
        assert!(SegmentHeader::decode(&newer).unwrap_err().0.contains("format 2"));
        for byte in 0..SEGMENT_HEADER_BYTES {
            let mut bytes = header.encode();
            bytes[byte] ^= 0x40;
            assert!(SegmentHeader::decode(&bytes).is_err(), "byte {byte}");
        }
    }
}
