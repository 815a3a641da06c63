//! The event log: raw events in the order in which they came, the source of truth that every store is computed from.
//!
//! * [`EventLog`] is what the engine needs of a log; [`embedded::EmbeddedLog`] keeps it in segment files on this
//!   machine.
//! * [`Receipt`] is what the ingest tier knows of an event beside its bytes.
//! * [`check_append`] holds the limits that are the same on every log.
//! * `conformance` (feature `conformance`) is the suite that every implementation passes.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod embedded;
mod limits;
mod receipt;

pub use limits::{APPEND_BYTES_MAX, PAYLOAD_BYTES_MAX, RECEIPT_BYTES_MAX, RECORD_OVERHEAD_BYTES, check_append};
pub use receipt::{Receipt, ReceiptError};

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use millrace_rows::{Cursor, LogId, Mark};

/// A record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// Identity of the record, chosen by the producer. The log does not de-duplicate by it.
    pub id: u128,
    /// What the ingest tier adds; `None` for a raw producer.
    pub receipt: Option<Receipt>,
    /// The event's own bytes, 1 byte to [`PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
}

/// A record as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the partition.
    pub offset: u64,
    /// Identity as the producer gave it.
    pub id: u128,
    /// When the log took it, µs since 1970 UTC. Never falls within a partition.
    pub appended_at_us: i64,
    /// Checksum of the record as this log computes it: the same at every read.
    pub checksum: u64,
    /// What the ingest tier added.
    pub receipt: Option<Receipt>,
    /// The event's own bytes, verbatim.
    pub payload: Bytes,
}

impl Record {
    /// The fingerprint that a cursor keeps of the last record consumed.
    pub fn mark(&self) -> Mark {
        Mark::of(self.id, self.checksum)
    }
}

/// How much one read may return. A read returns at least one record if there is any, however large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// Most records.
    pub records: usize,
    /// Most payload bytes.
    pub bytes: usize,
}

impl LogError {
    /// Whether the same may succeed after a pause, without anybody's help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Unavailable(_))
    }
}

/// Why a log did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The topic has no such partition.
    #[error("the log has no partition {partition}: it has {partitions}, counted from 0")]
    NoSuchPartition {
        /// The one asked for.
        partition: u32,
        /// How many there are.
        partitions: u32,
    },
    /// What was asked for lies below the first record that retention kept. The reader must decide: nothing is skipped
    /// in silence.
    #[error("partition {partition}: offsets {asked} to {} were trimmed by retention; the log starts at {first}", first - 1)]
    Gap {
        /// The partition.
        partition: u32,
        /// The offset asked for.
        asked: u64,
        /// The first offset that is still there.
        first: u64,
    },
    /// The reader stands past the end: the log lost records that the reader had seen.
    #[error("partition {partition}: offset {asked} lies past the log's end {end}: the log was truncated")]
    PastEnd {
        /// The partition.
        partition: u32,
        /// The offset asked for.
        asked: u64,
        /// The offset that the next record gets.
        end: u64,
    },
    /// The disk budget or the disk is full. Nothing was appended; try again when space is free.
    #[error("the log is full: {0}")]
    Full(String),
    /// A record or batch is too large or empty. Nothing was appended.
    #[error("record refused: {0}")]
    Refused(String),
    /// The log's server can't be reached or does not answer. Nothing was appended. Try again after a pause.
    #[error("the log is not available: {0}")]
    Unavailable(String),
    /// The log is closed or stopped after a failure to write; restart to recover.
    #[error("the log is closed: {0}")]
    Closed(String),
    /// Writing failed in a way that leaves open whether the records are in the log. Look for them (by id) at the log's
    /// end, once it works again, before sending them anew.
    #[error("partition {partition}: it is not known whether the records were appended: {detail}")]
    OutcomeUnknown {
        /// The partition.
        partition: u32,
        /// What failed.
        detail: String,
    },
    /// The log can't be opened as asked: in use, of another format, or of another shape than the options say.
    #[error("{0}")]
    Unusable(String),
    /// Stored bytes are damaged.
    #[error("partition {partition}, offset {offset}: the log is damaged: {detail}")]
    Damaged {
        /// The partition.
        partition: u32,
        /// The record, or the first one that can't be read.
        offset: u64,
        /// What is wrong and where.
        detail: String,
    },
    /// Reading or writing failed for another reason.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, and to which file.
        context: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// A partitioned, append-only log of events.
///
/// The contract, checked for every implementation by the conformance suite:
/// * offsets of a partition are dense: 0, 1, 2 …; a record is never changed;
/// * an `append` that returned `Ok` is durable, and its records are adjacent and in order; one that failed appended
///   nothing that a reader ever sees (an unknown outcome, where an implementation has one, is its own error);
/// * reads see a record only after it is durable;
/// * `appended_at_us` never falls within a partition.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// Identity of this log: changes when the log is created anew.
    fn id(&self) -> LogId;

    /// Number of partitions.
    fn partitions(&self) -> u32;

    /// First offset still stored, and the offset that the next record gets.
    async fn bounds(&self, partition: u32) -> Result<Range<u64>, LogError>;

    /// Appends records, all or none, and returns their offsets once they are durable.
    async fn append(&self, partition: u32, records: Vec<NewRecord>) -> Result<Range<u64>, LogError>;

    /// Reads records from `from` on. Empty when `from` is the end.
    ///
    /// # Errors
    /// [`LogError::Gap`] below the first stored offset, [`LogError::PastEnd`] past the end.
    async fn read(&self, partition: u32, from: u64, limit: ReadLimit) -> Result<Vec<Record>, LogError>;

    /// The first offset whose record was appended at `time_us` or later; the end when there is none.
    async fn offset_at(&self, partition: u32, time_us: i64) -> Result<u64, LogError>;

    /// Returns once the partition's end is past `offset` (at once if it is).
    async fn wait_past(&self, partition: u32, offset: u64) -> Result<(), LogError>;

    /// Tells the log how far every store has come: nothing at or past it may be trimmed. Logs with a retention of their
    /// own ignore it.
    async fn release(&self, partition: u32, below: u64) -> Result<(), LogError>;
}

/// What a cursor found when it was held against the log.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The cursor comes from another log.
    #[error(
        "partition {partition}: the cursor belongs to log {cursor}, this is log {log}: the topic was created anew, or the \
         store belongs to another deployment"
    )]
    OtherLog {
        /// The partition.
        partition: u32,
        /// The log in the cursor.
        cursor: LogId,
        /// The log that is there.
        log: LogId,
    },
    /// The last record consumed is not the one that the log has at its offset.
    #[error(
        "partition {partition}: the record at offset {offset} is not the one that was consumed: the log was truncated and \
         its offsets were used again"
    )]
    OffsetReused {
        /// The partition.
        partition: u32,
        /// Offset of the last record consumed.
        offset: u64,
    },
    /// The log could not answer, or has a gap or an end that the cursor contradicts.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Holds a cursor against the log before reading goes on from it: the log must be the same, and the last record consumed
/// must still be the record at its offset. When retention trimmed exactly up to the cursor there is nothing to compare.
pub async fn check_resume(log: &dyn EventLog, partition: u32, cursor: &Cursor) -> Result<(), ResumeError> {
    if cursor.log != log.id() {
        return Err(ResumeError::OtherLog { partition, cursor: cursor.log, log: log.id() });
    }
    let bounds = log.bounds(partition).await?;
    if cursor.next > bounds.end {
        return Err(LogError::PastEnd { partition, asked: cursor.next, end: bounds.end }.into());
    }
    if cursor.next < bounds.start {
        return Err(LogError::Gap { partition, asked: cursor.next, first: bounds.start }.into());
    }
    if cursor.mark == Mark::NONE || cursor.next == bounds.start {
        return Ok(());
    }
    let last = log.read(partition, cursor.next - 1, ReadLimit { records: 1, bytes: 1 }).await?;
    match last.first() {
        Some(record) if record.mark() == cursor.mark => Ok(()),
        _ => Err(ResumeError::OffsetReused { partition, offset: cursor.next - 1 }),
    }
}
