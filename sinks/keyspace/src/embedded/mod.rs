//! The keyspace in a directory of this machine, on the LSM tree of the `fjall` library.
//!
//! # Directory
//! ```text
//! FORMAT   "millrace-keyspace 1\n": written once, before anything else; another name or a later version is refused
//! LOCK     locked while a process has the directory open
//! db/      the library's files: journal (write-ahead log), tables, manifest
//! ```
//! A directory that was being created when the process died is created again at the next open: nothing can have been
//! committed to it.
//!
//! # Commits
//! One thread commits. It takes what is queued (at most [`GROUP_BATCHES_MAX`] batches or [`GROUP_BYTES_MAX`] bytes),
//! holds each batch's compares against the state that the batches before it left, writes each batch whole to the journal
//! and the memory table, then calls `fsync` once for all of them, then publishes the new state to readers, then answers.
//! So commits are serial, an answered one is durable, and a reader sees nothing that a crash could take back.
//! The queue holds [`Options::queue_batches`]; more committers wait for room.
//!
//! Batches committed in the background have a queue of their own, as long. A group takes them last: one beside others, as
//! many as it holds where there are none. They wait while 12 tables or more are in the top level, so that the
//! others seldom have to, but each [`BACKGROUND_WAIT_MAX`] one of them has its turn: they go on whatever comes in.
//!
//! Recovery is the library's: a batch stands in the journal between a start and an end marker with a checksum; at open the
//! journal is replayed up to the first batch that is not whole, and what follows is cut off.
//!
//! # Failure to write
//! The library refuses every write after one that failed, and its background threads end at their first error (full disk,
//! I/O error); only a new open gets it going again. This module does that without ending the process:
//! 1. Batches that were written but not yet synced are answered [`KeyspaceError::Unknown`], the batch that failed and those
//!    behind it [`KeyspaceError::Unavailable`]. From here on reads are answered `Unavailable` too, so that nobody reads
//!    a state that the reopened files contradict; snapshots taken before stay readable.
//! 2. The files are closed once the last such snapshot is dropped, and opened again: recovery decides what was committed.
//!    This is tried at once and then with a request that comes [`Options::reopen_pause`] or more after the last attempt.
//!
//! With the disk still full each round ends at step 1 again; once there is room, commits succeed without a restart.
//!
//! # Clears
//! The library has no range deletion. A clear looks up the keys of its range and removes each, in the same atomic batch;
//! one batch removes at most [`CLEAR_KEYS_MAX`](crate::CLEAR_KEYS_MAX) keys of [`CLEAR_KEY_BYTES_MAX`] bytes, a larger one
//! is refused as [`KeyspaceError::TooLarge`] and changes nothing.
//!
//! # Memory
//! Block cache + three write buffers + two queues of batches + one group. Before a group is written its thread waits for
//! flushes and compactions that lag behind (two full write buffers, or 16 tables in the top level), at most
//! [`BACKLOG_WAIT_MAX`], then answers `Unavailable`.
//!
//! # Failpoints (feature `failpoints`)
//! * `keyspace::commit::before`: abort before anything of the batch is written.
//! * `keyspace::commit::after`: abort when the batch is durable and not yet answered.
//! * `keyspace::commit::unknown`: the batch is committed; the answer is [`KeyspaceError::Unknown`].
//! * `keyspace::write::fail`: the write of the batch fails as on a full disk; nothing of it is written.
//! * `keyspace::sync::fail`: the group is written and its `fsync` fails.

mod committer;
mod directory;
mod effects;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fjall::Readable;
use tokio::sync::{mpsc, oneshot};

use crate::{Batch, Keyspace, KeyspaceError, PAGE_BYTES_MAX, PAGE_PAIRS_MAX, Page, Snapshot};
use committer::{Commit, Committer, Request};
use directory::{Directory, Files};

/// Most batches that share one `fsync`.
pub const GROUP_BATCHES_MAX: usize = 64;
/// Most bytes of batches that share one `fsync`: no batch is added to a group that has as many.
pub const GROUP_BYTES_MAX: usize = 4_000_000;
/// Most bytes of keys that the clears of one batch remove.
pub const CLEAR_KEY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a group waits for flushes and compactions that lag behind before it is refused.
pub const BACKLOG_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often a batch of the background has its turn, at the least, while merges lag behind.
pub const BACKGROUND_WAIT_MAX: Duration = Duration::from_secs(1);

/// How an [`EmbeddedKeyspace`] uses memory and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Capacity of the cache of table blocks, in bytes. Default 64 MiB.
    pub cache_bytes: u64,
    /// Size at which a write buffer is written out as a table, in bytes; up to three are in memory. Taken into 1 MiB to
    /// 256 MiB. Default 64 MiB.
    pub write_buffer_bytes: u64,
    /// Most batches that wait for the commit thread, each at most 1 MB, and as many of the background. At least 1. Default 64.
    pub queue_batches: usize,
    /// Shortest pause between two attempts to reopen the files after a failed write. Default 1 s.
    pub reopen_pause: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 * 1024 * 1024,
            write_buffer_bytes: 64 * 1024 * 1024,
            queue_batches: 64,
            reopen_pause: Duration::from_secs(1),
        }
    }
}

/// Numbers for metrics. The counts are since the open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes on disk: journals and tables. Each journal is allocated in steps of 64 MB, sparse where the file system can.
    pub disk_bytes: u64,
    /// Bytes in write buffers.
    pub write_buffer_bytes: u64,
    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Capacity of the block cache, in bytes.
    pub cache_capacity_bytes: u64,
    /// Full write buffers that wait to be written out; commits wait at 2.
    pub full_write_buffers: u64,
    /// Tables in the top level. They are merged from 8 on; batches of the background wait at 12, all others at 16.
    pub top_tables: u64,
    /// Merges of tables that are under way.
    pub merges: u64,
    /// Batches committed.
    pub commits: u64,
    /// Batches refused because a compare did not hold.
    pub conflicts: u64,
    /// `fsync` calls for commits: fewer than commits where committers were grouped.
    pub fsyncs: u64,
    /// Bytes of committed batches.
    pub committed_bytes: u64,
    /// Times that the files were opened again after a failed write.
    pub reopens: u64,
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    conflicts: AtomicU64,
    fsyncs: AtomicU64,
    committed_bytes: AtomicU64,
    reopens: AtomicU64,
}

/// A durable state, and the files that it is read from.
struct View {
    at: fjall::Snapshot,
    files: Arc<Files>,
}

/// What the commit thread and the readers share.
struct Shared {
    /// The state that readers see. `None` while the files are closed.
    view: RwLock<Option<Arc<View>>>,
    /// Why there is no view.
    down: Mutex<String>,
    counters: Counters,
}

impl Shared {
    fn view(&self) -> Option<Arc<View>> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, files: &Arc<Files>) {
        let view = View { at: files.db.snapshot(), files: files.clone() };
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(view));
    }

    fn take_down(&self, reason: &str) {
        *self.down.lock().unwrap_or_else(PoisonError::into_inner) = reason.to_owned();
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn unavailable(&self) -> KeyspaceError {
        KeyspaceError::Unavailable(self.down.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// A keyspace in a directory: see the [module](self). One process has it open at a time.
pub struct EmbeddedKeyspace {
    requests: mpsc::Sender<Request>,
    background: mpsc::Sender<Commit>,
    shared: Arc<Shared>,
}

impl EmbeddedKeyspace {
    /// Opens the keyspace in `dir`; creates both where there is none. Replays the journal, which can take seconds.
    ///
    /// # Errors
    /// [`KeyspaceError::Unavailable`] when another process has it open or the files can't be read or written now,
    /// [`KeyspaceError::Broken`] when the directory holds something else, a later format or damaged files.
    pub async fn open(dir: impl Into<PathBuf>, options: Options) -> Result<Self, KeyspaceError> {
        let dir = dir.into();
        blocking(move || {
            let directory = Directory::open(&dir, options.clone())?;
            let files = Arc::new(directory.open_files()?);
            let shared = Arc::new(Shared {
                view: RwLock::new(None),
                down: Mutex::new("the keyspace is closed".to_owned()),
                counters: Counters::default(),
            });
            shared.publish(&files);
            let (requests, queue) = mpsc::channel(options.queue_batches.max(1));
            let (background, waiting) = mpsc::channel(options.queue_batches.max(1));
            let committer = Committer::new(directory, files, shared.clone(), queue, waiting);
            std::thread::Builder::new()
                .name("keyspace-commit".to_owned())
                .spawn(move || committer.run())
                .map_err(|error| KeyspaceError::Unavailable(format!("the commit thread did not start: {error}")))?;
            Ok(Self { requests, background, shared })
        })
        .await
    }

    /// Commits what is queued, then closes the files. Where a snapshot is held it waits for that, a second at the most, and
    /// leaves it to the last one. Later calls are answered [`KeyspaceError::Unavailable`]. Dropping the keyspace does the
    /// same without waiting for it.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.requests.send(Request::Close(done)).await.is_ok() {
            // An error means that the thread ended before it answered: then the files are closed as well.
            let _ = closed.await;
        }
    }

    /// Numbers for metrics.
    ///
    /// # Errors
    /// [`KeyspaceError::Unavailable`] while the files are closed.
    pub async fn stats(&self) -> Result<Stats, KeyspaceError> {
        let view = self.view()?;
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counted = Stats {
            commits: read(&counters.commits),
            conflicts: read(&counters.conflicts),
            fsyncs: read(&counters.fsyncs),
            committed_bytes: read(&counters.committed_bytes),
            reopens: read(&counters.reopens),
            ..Stats::default()
        };
        blocking(move || {
            let Files { data, db, .. } = &*view.files;
            Ok(Stats {
                full_write_buffers: data.sealed_memtable_count() as u64,
                top_tables: data.l0_table_count() as u64,
                merges: db.active_compactions() as u64,
                disk_bytes: db.disk_space().map_err(|error| directory::error("measuring the disk space", &error))?,
                write_buffer_bytes: db.write_buffer_size(),
                cache_bytes: db.cache_size(),
                cache_capacity_bytes: db.cache_capacity(),
                ..counted
            })
        })
        .await
    }

    fn view(&self) -> Result<Arc<View>, KeyspaceError> {
        self.shared.view().ok_or_else(|| {
            // Asks for an attempt to reopen. A full queue holds requests that ask for the same.
            let _ = self.requests.try_send(Request::Wake);
            self.shared.unavailable()
        })
    }
}

#[async_trait]
impl Keyspace for EmbeddedKeyspace {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, KeyspaceError> {
        Ok(Box::new(EmbeddedSnapshot(self.view()?)))
    }

    async fn commit(&self, batch: Batch) -> Result<(), KeyspaceError> {
        batch.check_limits()?;
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request::Commit(Commit { batch, answer })).await.is_err() {
            return Err(closed());
        }
        answered.await.unwrap_or_else(|_| Err(not_answered()))
    }

    async fn commit_background(&self, batch: Batch) -> Result<(), KeyspaceError> {
        batch.check_limits()?;
        let (answer, answered) = oneshot::channel();
        if self.background.send(Commit { batch, answer }).await.is_err() {
            return Err(closed());
        }
        // The thread waits at the other queue. Where that is full it does not, and comes by.
        let _ = self.requests.try_send(Request::Wake);
        answered.await.unwrap_or_else(|_| Err(not_answered()))
    }
}

fn closed() -> KeyspaceError {
    KeyspaceError::Unavailable("the keyspace is closed".to_owned())
}

fn not_answered() -> KeyspaceError {
    KeyspaceError::Unknown("the commit thread ended before it answered".to_owned())
}

struct EmbeddedSnapshot(Arc<View>);

#[async_trait]
impl Snapshot for EmbeddedSnapshot {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KeyspaceError> {
        if key.is_empty() {
            return Ok(None);
        }
        let (view, key) = (self.0.clone(), key.to_vec());
        blocking(move || {
            let value =
                view.at.get(&view.files.data, &key).map_err(|error| directory::error("reading a key", &error))?;
            // A copy: what the library returns keeps the block or batch alive that it is a part of.
            Ok(value.map(|value| Bytes::copy_from_slice(&value)))
        })
        .await
    }

    async fn range(&self, begin: &[u8], end: &[u8], limit: usize) -> Result<Page, KeyspaceError> {
        if begin >= end {
            return Ok(Page::default());
        }
        let (view, begin, end) = (self.0.clone(), begin.to_vec(), end.to_vec());
        blocking(move || read_page(&view, &begin, &end, limit.min(PAGE_PAIRS_MAX))).await
    }
}

fn read_page(view: &View, begin: &[u8], end: &[u8], limit: usize) -> Result<Page, KeyspaceError> {
    let mut page = Page::default();
    let mut bytes = 0;
    for pair in view.at.range(&view.files.data, begin..end) {
        // One pair more than wanted is looked at, so that `more` is exact.
        if page.pairs.len() == limit || bytes >= PAGE_BYTES_MAX {
            page.more = true;
            break;
        }
        let (key, value) = pair.into_inner().map_err(|error| directory::error("reading a range", &error))?;
        bytes += key.len() + value.len();
        page.pairs.push((key.into(), value.into()));
    }
    Ok(page)
}

/// Runs file work away from the async workers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KeyspaceError> + Send + 'static,
) -> Result<T, KeyspaceError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(if error.is_panic() {
            KeyspaceError::Broken(format!("reading panicked: {error}"))
        } else {
            KeyspaceError::Unavailable("the process is shutting down".to_owned())
        })
    })
}
