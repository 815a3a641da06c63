//! What the tests of the embedded log share.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use millrace_log::embedded::{EmbeddedLog, Options, SEGMENT_BYTES_MIN};
use millrace_log::{EventLog, LogError, NewRecord, ReadLimit, Receipt, Record};

pub const ALL: ReadLimit = ReadLimit { records: usize::MAX, bytes: usize::MAX };
/// Length of a segment's header.
pub const HEADER_BYTES: u64 = 64;

/// A clock that stands where it was put.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub fn at(now: i64) -> Self {
        Self(Arc::new(AtomicI64::new(now)))
    }

    pub fn set(&self, now: i64) {
        self.0.store(now, Ordering::SeqCst);
    }

    pub fn advance(&self, by: i64) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }

    pub fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    /// One partition, the smallest segments, this clock.
    pub fn options(&self) -> Options {
        let clock = Arc::clone(&self.0);
        Options {
            partitions: 1,
            segment_bytes: SEGMENT_BYTES_MIN,
            clock: Arc::new(move || clock.load(Ordering::SeqCst)),
            ..Options::default()
        }
    }
}

pub fn options() -> Options {
    TestClock::at(1_000).options()
}

/// A record whose content follows from its number.
pub fn record(n: u64, payload_bytes: usize) -> NewRecord {
    let payload: Vec<u8> = (0..payload_bytes as u64).map(|byte| (byte.wrapping_mul(31) + n) as u8).collect();
    let receipt = n.is_multiple_of(3).then(|| Receipt { received_at_us: n as i64, ..Receipt::default() });
    NewRecord { id: (u128::from(n) << 64) | 7, receipt, payload: Bytes::from(payload) }
}

pub fn records(numbers: std::ops::Range<u64>, payload_bytes: usize) -> Vec<NewRecord> {
    numbers.map(|n| record(n, payload_bytes)).collect()
}

pub async fn read_all(log: &EmbeddedLog, partition: u32, from: u64) -> Result<Vec<Record>, LogError> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let next = all.last().map_or(from, |last| last.offset + 1);
        let read = log.read(partition, next, ALL).await?;
        if read.is_empty() {
            return Ok(all);
        }
        all.extend(read);
    }
}

/// Fails unless the records are those, from the offset `first` on.
pub fn assert_same(expected: &[NewRecord], first: u64, stored: &[Record]) {
    assert_eq!(expected.len(), stored.len());
    for ((offset, expected), stored) in (first..).zip(expected).zip(stored) {
        assert_eq!(stored.offset, offset);
        assert_eq!((expected.id, &expected.receipt), (stored.id, &stored.receipt), "offset {offset}");
        assert_eq!(expected.payload, stored.payload, "offset {offset}");
    }
    assert!(stored.is_sorted_by_key(|record| record.appended_at_us));
}

/// Segments of a partition, oldest first.
pub fn segments(dir: &Path, partition: u32) -> Vec<PathBuf> {
    files(dir, partition, "seg")
}

/// Files of a partition with this extension, in the order of their names.
pub fn files(dir: &Path, partition: u32, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join(partition.to_string())).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|of| of == extension));
    paths.sort();
    paths
}

pub fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The files as `kill -9` would leave them now: nothing that closing the log adds.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

pub fn flip(path: &Path, byte: u64, bit: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[byte as usize] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
}

pub fn cut(path: &Path, length: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}
