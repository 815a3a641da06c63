//! What can be set of the embedded log.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::format::FRAME_BODY_BYTES_MAX;
use crate::LogError;

/// Tells the time, µs since 1970 UTC.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Most partitions of an embedded log. Each has a writer thread of its own.
pub const PARTITIONS_MAX: u32 = 1024;
/// Smallest segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 4 * 1024;
/// Largest segment, in bytes. A segment can be longer by one append.
pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What can be set of an [`EmbeddedLog`](super::EmbeddedLog). Not kept with the log, but for the number of partitions.
#[derive(Clone)]
pub struct Options {
    /// Partitions, 1 to [`PARTITIONS_MAX`]; 4 if not set. An existing log with fewer gets more; one with more is refused.
    pub partitions: u32,
    /// Size after which a segment is sealed and the next one begins, [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`];
    /// 64 MiB if not set. What retention deletes at once.
    pub segment_bytes: u64,
    /// Age of a segment's first record after which the segment is sealed; 1 day if not set. Bounds how much longer than
    /// `retention_age` a record stays in a partition that few records come to.
    pub segment_age: Duration,
    /// Age after which records may be trimmed; 30 days if not set.
    pub retention_age: Duration,
    /// Size of the whole log above which records may be trimmed, oldest first; no such size if not set.
    pub retention_bytes: Option<u64>,
    /// Size that the whole log never exceeds; no such size if not set. Before it is exceeded, released segments are
    /// trimmed, oldest first, even if retention would have kept them; if that frees too little, the append is answered
    /// [`LogError::Full`]. What is trimmed is whole segments: leave room for several of them in each partition. Counts
    /// segments; their index files take 1/4096 more, and a partition's last segment may exceed it by its header.
    pub disk_budget_bytes: Option<u64>,
    /// Most bytes of appends that wait to be written, all partitions together; 64 MiB if not set. Further appends wait
    /// for room. An append counts at most this much, so that the largest one gets its turn.
    pub queue_bytes: usize,
    /// Bytes after which a group commit takes no further append, up to 16 MiB; 4 MiB if not set.
    pub frame_bytes: usize,
    /// Most bytes of the newest frames, per partition, that are kept in memory for readers at the end; 4 MiB if not set,
    /// 0 for none.
    pub tail_bytes: usize,
    /// The clock that append times come from; the system's if not set.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            partitions: 4,
            segment_bytes: 64 * 1024 * 1024,
            segment_age: Duration::from_hours(24),
            retention_age: Duration::from_hours(24 * 30),
            retention_bytes: None,
            disk_budget_bytes: None,
            queue_bytes: 64 * 1024 * 1024,
            frame_bytes: 4 * 1024 * 1024,
            tail_bytes: 4 * 1024 * 1024,
            clock: Arc::new(system_time_us),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("partitions", &self.partitions)
            .field("segment_bytes", &self.segment_bytes)
            .field("segment_age", &self.segment_age)
            .field("retention_age", &self.retention_age)
            .field("retention_bytes", &self.retention_bytes)
            .field("disk_budget_bytes", &self.disk_budget_bytes)
            .field("queue_bytes", &self.queue_bytes)
            .field("frame_bytes", &self.frame_bytes)
            .field("tail_bytes", &self.tail_bytes)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Most bytes that `queue_bytes` may be.
    pub const QUEUE_BYTES_MAX: usize = 1024 * 1024 * 1024;

    pub(super) fn check(&self) -> Result<(), LogError> {
        let bounds = [
            ("partitions", u64::from(self.partitions), 1, u64::from(PARTITIONS_MAX)),
            ("segment_bytes", self.segment_bytes, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX),
            ("queue_bytes", self.queue_bytes as u64, 1, Self::QUEUE_BYTES_MAX as u64),
            ("frame_bytes", self.frame_bytes as u64, 1, FRAME_BODY_BYTES_MAX as u64),
        ];
        for (name, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err(LogError::Unusable(format!("log option {name} is {value}: it must be {least} to {most}")));
            }
        }
        Ok(())
    }
}

/// A duration in µs, the unit of append times.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn system_time_us() -> i64 {
    // Before 1970 only with a clock that is not set: 0, and append times don't fall anyway.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_bounds_are_named() {
        assert!(Options::default().check().is_ok());
        let refused = |options: Options| options.check().unwrap_err().to_string();
        assert!(refused(Options { partitions: 0, ..Options::default() }).contains("partitions is 0"));
        assert!(refused(Options { segment_bytes: 1, ..Options::default() }).contains("segment_bytes is 1"));
        assert!(refused(Options { queue_bytes: 0, ..Options::default() }).contains("queue_bytes"));
        assert!(refused(Options { frame_bytes: usize::MAX, ..Options::default() }).contains("frame_bytes"));
    }
}
