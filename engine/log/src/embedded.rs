//! The embedded log: segment files on this machine.
//!
//! Files of our own and no key-value store, because nothing here ever changes: an LSM tree would only write the same
//! bytes over and over.
//!
//! # Files
//!
//! ```text
//! <dir>/log.json                        format, identity, partitions, time of creation (JSON); replaced whole
//! <dir>/log.lock                        locked by the process that has the log open
//! <dir>/<partition>/<first offset>.seg  a segment; the offset has 20 digits
//! <dir>/<partition>/<first offset>.idx  its index: a shortcut for the next start, rebuilt if missing or bad
//! ```
//!
//! Numbers are little endian; checksums are XXH3, 64 bits.
//!
//! ```text
//! segment   header, then frames
//! header    magic "MRLOGSEG" · version u32 = 1 · partition u32 · log id 16 bytes · first offset u64
//!           · append time of the last record before it i64 · 0 u64 · checksum of these u64                     64 bytes
//! frame     magic F7A3E14C u32 · records u32 · first offset u64 · append time i64 · bytes of the body u32 · 0 u32
//!           · checksum of the body u64 · checksum of these, seeded with log id and partition u64, then the body
//! body      records, back to back
//! record    length u32, all of it · length of the receipt u32, FFFFFFFF for none · checksum u64 of what follows,
//!           seeded with the two lengths · id u128 · append time i64 · receipt · payload
//! index     magic "MRLOGIDX" · version u32 = 1 · partition u32 · log id 16 bytes · first offset u64 · end offset u64
//!           · length of the segment u64 · last append time i64 · entries u32
//!           · entries: offset less the first u32 · position u32 · append time i64 · checksum of these u64
//! ```
//!
//! A record's length is always less than a frame's magic, so that a walk can begin at any record. The index has an entry
//! for every 64 KiB of a segment (it takes 1/4096 of the log, in memory too), and a read begins at the entry before the
//! record, or where the read before it ended. Records are checked one by one as they are read.
//!
//! # Writing
//!
//! Each partition has a writer thread. It takes all appends that wait (up to [`Options::frame_bytes`]), writes them as
//! one frame, calls fdatasync once, shows the records to readers, and answers. At most one frame per partition is
//! therefore in a file without being durable, always the last one. When the frame would make the segment too long, or
//! the segment is a day old, the segment's index is kept in its file and the next segment begun: file and directory are
//! durable before its first frame is written.
//!
//! * No space for the write: the file is cut back to the last frame, the appends get [`LogError::Full`], later ones may
//!   work.
//! * Any other failure: the partition takes no more appends ([`LogError::Closed`]) until the log is opened anew. After a
//!   failed fsync the frame may be durable or not: its appends get [`LogError::OutcomeUnknown`].
//!
//! # Recovery
//!
//! A frame counts whole or not at all. When the log is opened:
//!
//! * A new log, and each partition that is added, is complete before `log.json` says so; what is left of an attempt that
//!   did not come so far is begun anew.
//! * The last segment of a partition is read from the place on that its index file covers, if it has one (a clean close
//!   leaves one that covers all), frame by frame. A frame that is not whole and has no whole one after it is what a
//!   crash tore: it was never acknowledged; it is cut off, with one warning. The last frame is written once more and the
//!   file synced: it may be in the kernel's memory only.
//! * A last segment without a whole header never held a record and is begun anew.
//! * A frame that is not whole with whole ones after it, or in a part that an index file covers or in a segment that is
//!   followed by another, was durable once: [`LogError::Damaged`]. So is a segment that is missing between two others or
//!   shorter than its index file says. Segments that their index file covers are not read at the start; damage within
//!   them is found by the read that meets it.
//!
//! What can't be told from a torn write is damage of the very last frame after a crash.
//!
//! # Bounds
//!
//! Appends that wait: [`Options::queue_bytes`], further ones wait for room. Frames kept for readers at the end:
//! [`Options::tail_bytes`] per partition. One read: [`READ_BYTES_MAX`]. Threads: one per partition.
//!
//! # Failpoints (feature `failpoints`)
//!
//! | name | what happens |
//! |---|---|
//! | `log::append::torn` | half of the frame is written and synced, then the process aborts |
//! | `log::append::before_fsync` | the frame is written, then the process aborts |
//! | `log::append::after_fsync` | the frame is durable and not acknowledged, then the process aborts |
//! | `log::append::enospc` | half of the frame is written, then the disk is full |
//! | `log::append::fsync_error` | fdatasync fails |
//! | `log::roll::torn` | half of a segment's header is written and synced, then the process aborts |

mod files;
mod format;
mod index;
mod open;
mod options;
mod partition;
mod read;
mod retention;
mod scan;
mod stats;
mod tail;
mod writer;

pub use options::{Clock, Options, PARTITIONS_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
pub use read::READ_BYTES_MAX;
pub use retention::Trimmed;
pub use stats::{PartitionStats, Stats};

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use millrace_rows::LogId;
use tokio::sync::{Semaphore, oneshot, watch};

use self::files::{lock, read_lock, write_lock};
use self::format::encode_records;
use self::partition::Partition;
use self::retention::Space;
use self::stats::{Counters, count};
use self::writer::{Append, Command, Writer};
use crate::{EventLog, LogError, NewRecord, ReadLimit, Record, check_append};

/// How long a log that is dropped waits for its writers. They end after the frame that they are writing and those that
/// wait; should the disk hang, they are left to themselves, and the directory stays locked until they end.
const DROP_WAIT: Duration = Duration::from_secs(5);

/// A log in segment files; see the [module](self).
///
/// Dropping it does what [`EmbeddedLog::close`] does, waiting at most 5 seconds.
pub struct EmbeddedLog {
    id: LogId,
    space: Arc<Space>,
    queue: Arc<Semaphore>,
    /// Each partition's writer; `None` once the log is closed.
    senders: RwLock<Option<Vec<mpsc::Sender<Command>>>>,
    running: Arc<Running>,
}

impl EmbeddedLog {
    /// Opens the log in `dir`, creating it if there is none. Blocks while it recovers; call it before serving, or on a
    /// blocking thread.
    ///
    /// # Errors
    /// [`LogError::Unusable`] when the log is open elsewhere or does not fit the options, [`LogError::Damaged`] when it
    /// is damaged.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self, LogError> {
        let opened = open::open(dir.as_ref(), &options)?;
        let dir_lock = Arc::new(opened.lock);
        let trimming = Arc::new(Mutex::new(()));
        let (mut partitions, mut ends, mut files) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        for (number, recovered) in (0..).zip(opened.partitions) {
            bytes += recovered.segments.iter().map(|(_, index)| index.length).sum::<u64>();
            let counters = Counters::default();
            count(&counters.torn_bytes, recovered.torn_bytes);
            let (sender, end) = watch::channel(recovered.segments.last().map_or(0, |(_, index)| index.end));
            let trimming = Arc::clone(&trimming);
            partitions.push(Arc::new(Partition::new(
                number,
                recovered.dir,
                recovered.seed,
                recovered.segments,
                end,
                trimming,
                options.tail_bytes,
                counters,
            )));
            ends.push(sender);
            files.push(recovered.active);
        }
        let queue = Arc::new(Semaphore::new(options.queue_bytes));
        let (bytes, trimmed_early) = (AtomicU64::new(bytes), AtomicU64::new(0));
        let space = Arc::new(Space { partitions, bytes, trimmed_early, trimming, options });
        let running = Arc::new(Running::default());
        let mut senders = Vec::new();
        for ((partition, end), file) in space.partitions.iter().zip(ends).zip(files) {
            let Some(segment) = read_lock(&partition.segments).back().cloned() else { continue };
            let (space, partition) = (Arc::clone(&space), Arc::clone(partition));
            let writer = Writer { partition, space, log: opened.id, segment, file, end: Some(end) };
            senders.push(spawn(writer, &running, Arc::clone(&dir_lock))?);
        }
        Ok(Self { id: opened.id, space, queue, senders: RwLock::new(Some(senders)), running })
    }

    /// Takes no more appends, writes those that wait, and lets another process have the log. Afterwards every call is
    /// answered [`LogError::Closed`].
    ///
    /// # Errors
    /// [`LogError::Closed`] when a partition had stopped after a failure to write.
    pub async fn close(&self) -> Result<(), LogError> {
        self.stop();
        let running = Arc::clone(&self.running);
        blocking(move || {
            running.wait(Duration::MAX);
            Ok(())
        })
        .await?;
        self.space.partitions.iter().try_for_each(|partition| partition.closed())
    }

    /// Deletes what retention lets go at the time `now_us`, sealing segments that are older than
    /// [`Options::segment_age`] first. It also happens whenever a segment is full; to be called now and then for
    /// partitions that few records come to.
    ///
    /// # Errors
    /// [`LogError::Io`] when a file can't be deleted.
    pub async fn trim(&self, now_us: i64) -> Result<Trimmed, LogError> {
        for partition in 0..self.partitions() {
            let (done, rolled) = oneshot::channel();
            self.send(partition, Command::Roll { now: now_us, done })?;
            rolled.await.map_err(|_| closed())?;
        }
        let space = Arc::clone(&self.space);
        blocking(move || space.trim(now_us)).await
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let log_closed = read_lock(&self.senders).is_none();
        let partitions = self.space.partitions.iter().map(|partition| {
            let bounds = partition.bounds();
            let segments = read_lock(&partition.segments);
            let counters = &partition.counters;
            PartitionStats {
                first: bounds.start,
                end: bounds.end,
                released: get(&partition.released),
                segments: segments.len() as u64,
                bytes: segments.iter().map(|segment| read_lock(&segment.index).length).sum(),
                appends: get(&counters.appends),
                records: get(&counters.records),
                frames: get(&counters.frames),
                fsyncs: get(&counters.fsyncs),
                trimmed: get(&counters.trimmed),
                torn_bytes: get(&counters.torn_bytes),
                closed: log_closed || partition.closed.get().is_some(),
            }
        });
        Stats {
            partitions: partitions.collect(),
            bytes: get(&self.space.bytes),
            queue_bytes: self.space.options.queue_bytes - self.queue.available_permits(),
            trimmed_early: get(&self.space.trimmed_early),
        }
    }

    /// Lets the writers end once they have drained their queues.
    fn stop(&self) {
        // Appends that wait for room are answered, too.
        self.queue.close();
        write_lock(&self.senders).take();
    }

    /// The partition, if the log is open and has it.
    fn partition(&self, number: u32) -> Result<&Arc<Partition>, LogError> {
        if read_lock(&self.senders).is_none() {
            return Err(closed());
        }
        let partitions = self.partitions();
        self.space.partitions.get(number as usize).ok_or(LogError::NoSuchPartition { partition: number, partitions })
    }

    fn send(&self, partition: u32, command: Command) -> Result<(), LogError> {
        let senders = read_lock(&self.senders);
        let sender = senders.as_ref().and_then(|senders| senders.get(partition as usize)).ok_or_else(closed)?;
        sender.send(command).map_err(|_| closed())
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.stop();
        if !self.running.wait(DROP_WAIT) {
            tracing::warn!("the log's writers have not ended yet; its directory stays locked until they do");
        }
    }
}

/// The writers that have not ended.
#[derive(Default)]
struct Running {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Running {
    /// Waits until the last writer has ended; `false` if that takes longer than `most`.
    fn wait(&self, most: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(lock(&self.count), most, |count| *count > 0);
        let (_count, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}

/// What a writer holds until it ends, even by a panic: its place among those that run, and the directory's lock.
struct Guard {
    running: Arc<Running>,
    lock: Option<Arc<File>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // First, so that the directory is free once nobody runs any more.
        self.lock = None;
        *lock(&self.running.count) -= 1;
        self.running.changed.notify_all();
    }
}

/// Starts a writer.
fn spawn(writer: Writer, running: &Arc<Running>, dir_lock: Arc<File>) -> Result<mpsc::Sender<Command>, LogError> {
    let (sender, queue) = mpsc::channel();
    *lock(&running.count) += 1;
    let guard = Guard { running: Arc::clone(running), lock: Some(dir_lock) };
    let name = format!("log-writer-{}", writer.partition.number);
    let run = move || {
        let _guard = guard;
        writer.run(&queue);
    };
    match std::thread::Builder::new().name(name).spawn(run) {
        Ok(_) => Ok(sender),
        Err(source) => Err(LogError::Io { context: "starting a thread to write the log".to_owned(), source }),
    }
}

fn closed() -> LogError {
    LogError::Closed("it was closed by this process".to_owned())
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(run).await.unwrap_or_else(|error| {
        Err(LogError::Io { context: "the log's task did not come to its end".to_owned(), source: error.into() })
    })
}

#[async_trait]
impl EventLog for EmbeddedLog {
    fn id(&self) -> LogId {
        self.id
    }

    fn partitions(&self) -> u32 {
        // At most PARTITIONS_MAX.
        self.space.partitions.len() as u32
    }

    async fn bounds(&self, partition: u32) -> Result<Range<u64>, LogError> {
        Ok(self.partition(partition)?.bounds())
    }

    /// A call that is dropped before it returned may have appended its records, all of them, or none.
    async fn append(&self, partition: u32, records: Vec<NewRecord>) -> Result<Range<u64>, LogError> {
        let bytes = check_append(&records)?;
        self.partition(partition)?.closed()?;
        let room = bytes.min(self.space.options.queue_bytes) as u32;
        let room = Arc::clone(&self.queue).acquire_many_owned(room).await.map_err(|_| closed())?;
        let mut encoded = Vec::with_capacity(bytes);
        encode_records(&records, &mut encoded);
        let (reply, answer) = oneshot::channel();
        let append = Append { records: encoded, count: records.len() as u32, reply, room };
        self.send(partition, Command::Append(append))?;
        answer.await.unwrap_or_else(|_| {
            let detail = "the writer ended without an answer".to_owned();
            Err(LogError::OutcomeUnknown { partition, detail })
        })
    }

    async fn read(&self, partition: u32, from: u64, limit: ReadLimit) -> Result<Vec<Record>, LogError> {
        let partition = Arc::clone(self.partition(partition)?);
        let end = partition.check_from(from)?.end;
        if from == end {
            return Ok(Vec::new());
        }
        if let Some(records) = partition.read_tail(from, limit, end)? {
            return Ok(records);
        }
        blocking(move || partition.read_file(from, limit, end)).await
    }

    async fn offset_at(&self, partition: u32, time_us: i64) -> Result<u64, LogError> {
        let partition = Arc::clone(self.partition(partition)?);
        let end = partition.bounds().end;
        blocking(move || partition.offset_at(time_us, end)).await
    }

    async fn wait_past(&self, partition: u32, offset: u64) -> Result<(), LogError> {
        let partition = self.partition(partition)?;
        let mut end = partition.end.clone();
        // The sender goes when the partition closes, after a failure or by `close`.
        if end.wait_for(|end| *end > offset).await.is_err() {
            partition.closed()?;
            return Err(closed());
        }
        Ok(())
    }

    async fn release(&self, partition: u32, below: u64) -> Result<(), LogError> {
        self.partition(partition)?.release(below)
    }
}
