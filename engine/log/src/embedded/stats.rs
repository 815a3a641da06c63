//! Numbers for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// State of an embedded log. Counts begin at 0 when the log is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Each partition, by number.
    pub partitions: Vec<PartitionStats>,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Bytes of appends that wait to be written or are being written.
    pub queue_bytes: usize,
    /// Segments trimmed because of the disk budget although retention would have kept them.
    pub trimmed_early: u64,
}

/// State of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionStats {
    /// First offset still stored.
    pub first: u64,
    /// Offset that the next record gets.
    pub end: u64,
    /// Nothing at or past it may be trimmed.
    pub released: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of its segments.
    pub bytes: u64,
    /// Appends acknowledged.
    pub appends: u64,
    /// Records acknowledged.
    pub records: u64,
    /// Frames written: group commits.
    pub frames: u64,
    /// Calls of fsync and fdatasync on segments.
    pub fsyncs: u64,
    /// Segments trimmed.
    pub trimmed: u64,
    /// Bytes of a torn write that were cut off when the log was opened.
    pub torn_bytes: u64,
    /// Whether the partition takes no more appends, because of a failure or because the log was closed.
    pub closed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub appends: AtomicU64,
    pub records: AtomicU64,
    pub frames: AtomicU64,
    pub fsyncs: AtomicU64,
    pub trimmed: AtomicU64,
    pub torn_bytes: AtomicU64,
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
