//! Deletes the oldest segments: what may go is decided by pure functions, then done file by file.
//!
//! A segment may go when it is sealed (another one follows it) and wholly below the offset up to which its partition was
//! released. Retention lets it go when its last record is older than the age, or, oldest first over all partitions,
//! while the log is larger than the size. Segments of a partition go oldest first, each deletion durable before the
//! next, so that a crash leaves no hole.

use std::fs;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::files::{Context, lock, read_lock, sync_dir};
use super::open::{index_path, segment_path};
use super::options::{Options, micros};
use super::partition::Partition;
use super::stats::count;
use crate::LogError;

/// What a trim deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The oldest segment of a partition, if it is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Oldest {
    first: u64,
    end: u64,
    bytes: u64,
    last_time: i64,
}

/// Whether every record of the segment was released.
fn releasable(segment: &Oldest, released: u64) -> bool {
    segment.end <= released
}

/// Whether the segment's last record is older than `age` at the time `now`.
fn expired(segment: &Oldest, now: i64, age: i64) -> bool {
    segment.last_time < now.saturating_sub(age)
}

/// Of the oldest segments of the partitions, those that may go, the one to go first: that with the oldest end.
fn first_to_go(candidates: impl Iterator<Item = (usize, Oldest)>) -> Option<(usize, Oldest)> {
    candidates.min_by_key(|(partition, segment)| (segment.last_time, *partition))
}

/// The partitions of a log as retention and the disk budget see them.
pub(super) struct Space {
    pub partitions: Vec<Arc<Partition>>,
    /// Bytes of all segments, and of frames about to be written.
    pub bytes: AtomicU64,
    pub trimmed_early: AtomicU64,
    pub trimming: Arc<Mutex<()>>,
    pub options: Options,
}

impl Space {
    /// Trims what retention lets go at the time `now`. Blocks.
    pub fn trim(&self, now: i64) -> Result<Trimmed, LogError> {
        let _trimming = lock(&self.trimming);
        let mut trimmed = Trimmed::default();
        let age = micros(self.options.retention_age);
        for partition in &self.partitions {
            while let Some(segment) = candidate(partition).filter(|segment| expired(segment, now, age)) {
                self.delete(partition, segment, &mut trimmed)?;
            }
        }
        if let Some(most) = self.options.retention_bytes {
            self.trim_to(most, &mut trimmed)?;
        }
        Ok(trimmed)
    }

    /// Deletes what may go, oldest first, until the log has no more than `most` bytes or nothing may go.
    fn trim_to(&self, most: u64, trimmed: &mut Trimmed) -> Result<(), LogError> {
        while self.bytes.load(Ordering::Acquire) > most {
            let candidates = self.partitions.iter().enumerate();
            let candidates = candidates.filter_map(|(number, partition)| Some((number, candidate(partition)?)));
            let Some((number, segment)) = first_to_go(candidates) else { break };
            self.delete(&self.partitions[number], segment, trimmed)?;
        }
        Ok(())
    }

    /// Counts `bytes` more against the disk budget, trimming if need be; `false` if there is no room.
    pub fn reserve(&self, bytes: u64, now: i64) -> Result<bool, LogError> {
        let Some(budget) = self.options.disk_budget_bytes else {
            self.bytes.fetch_add(bytes, Ordering::AcqRel);
            return Ok(true);
        };
        let take = || {
            let fits = |taken: u64| taken.checked_add(bytes).filter(|after| *after <= budget);
            self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
        };
        if take() {
            return Ok(true);
        }
        if bytes > budget {
            return Ok(false);
        }
        self.trim(now)?;
        let mut early = Trimmed::default();
        {
            let _trimming = lock(&self.trimming);
            self.trim_to(budget - bytes, &mut early)?;
        }
        if early.segments > 0 {
            count(&self.trimmed_early, early.segments);
            tracing::warn!(
                segments = early.segments,
                bytes = early.bytes,
                "the disk budget is used up: trimmed records before their retention age"
            );
        }
        Ok(take())
    }

    /// Gives back what was reserved and not written, or was deleted.
    pub fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    fn delete(&self, partition: &Partition, segment: Oldest, trimmed: &mut Trimmed) -> Result<(), LogError> {
        let path = segment_path(&partition.dir, segment.first);
        fs::remove_file(&path).context("removing", &path)?;
        // From here on the file is gone, so that the segment leaves the list whatever else fails.
        partition.drop_oldest();
        self.give_back(segment.bytes);
        count(&partition.counters.trimmed, 1);
        trimmed.segments += 1;
        trimmed.bytes += segment.bytes;
        tracing::info!(
            partition = partition.number,
            first = segment.first,
            end = segment.end,
            bytes = segment.bytes,
            "trimmed a segment of the embedded log"
        );
        let index = index_path(&partition.dir, segment.first);
        match fs::remove_file(&index) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("removing", &index)?,
            _ => {}
        }
        sync_dir(&partition.dir).context("syncing", &partition.dir)
    }
}

/// The oldest segment of the partition, if it may go.
fn candidate(partition: &Partition) -> Option<Oldest> {
    let released = partition.released.load(Ordering::Acquire);
    let segments = read_lock(&partition.segments);
    if segments.len() < 2 {
        return None;
    }
    let segment = segments.front()?;
    let index = read_lock(&segment.index);
    let oldest = Oldest { first: segment.first, end: index.end, bytes: index.length, last_time: index.last_time };
    releasable(&oldest, released).then_some(oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(end: u64, last_time: i64) -> Oldest {
        Oldest { first: 0, end, bytes: 1, last_time }
    }

    #[test]
    fn a_segment_goes_only_when_all_of_it_is_released() {
        assert!(!releasable(&segment(10, 0), 9));
        assert!(releasable(&segment(10, 0), 10));
    }

    #[test]
    fn the_age_is_that_of_the_last_record() {
        assert!(!expired(&segment(10, 100), 150, 50), "exactly as old");
        assert!(expired(&segment(10, 100), 151, 50));
        assert!(!expired(&segment(10, -5), 0, i64::MAX), "an age without bound");
    }

    #[test]
    fn the_oldest_end_goes_first() {
        let candidates = [(0, segment(5, 30)), (1, segment(5, 20)), (2, segment(5, 20))];
        assert_eq!(first_to_go(candidates.into_iter()), Some((1, segment(5, 20))));
        assert_eq!(first_to_go(std::iter::empty()), None);
    }
}
