//! The store that the engine's loop drives.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use millrace_keyspace::{Batch, Keyspace, KeyspaceError, Write};
use millrace_rows::{Cursor, Job, Slice, Store, StoreError, StoreState};

use crate::codec::{Applied, encode_cursor, encode_job};
use crate::encode::{Limits, Part, cut};
use crate::keys::Keys;
use crate::reader::ReadError;
use crate::state::Seen;

pub(crate) const NAME: &str = "history";

/// The device history as a [`Store`]. Its keys and its transactions are described in the [crate's documentation](crate).
///
/// Memory: the encoded form of what is staged, which is what [`Store::staged_bytes`] counts.
pub struct HistoryStore {
    keyspace: Arc<dyn Keyspace>,
    keys: Arc<Keys>,
    limits: Limits,
    /// `None` before the first load and after an error.
    seen: Option<Seen>,
    staged: VecDeque<Part>,
    /// Where partitions with something staged stand after it.
    staged_cursors: BTreeMap<u32, Cursor>,
    staged_bytes: usize,
}

impl HistoryStore {
    /// A store with its keys below `root`. Reads nothing yet.
    pub fn new(keyspace: Arc<dyn Keyspace>, root: &str) -> Self {
        Self {
            keyspace,
            keys: Arc::new(Keys::new(root)),
            limits: Limits::default(),
            seen: None,
            staged: VecDeque::new(),
            staged_cursors: BTreeMap::new(),
            staged_bytes: 0,
        }
    }

    /// Cuts transactions smaller than [`TRANSACTION_BYTES`](crate::TRANSACTION_BYTES) and
    /// [`TRANSACTION_RECORDS_MAX`](crate::TRANSACTION_RECORDS_MAX), which stay the upper bounds. What is stored does not
    /// depend on it but for where lineages begin.
    #[must_use]
    pub fn with_transactions_of(mut self, bytes: usize, records: u64) -> Self {
        self.limits = Limits::at_most(bytes, records);
        self
    }

    fn forget(&mut self) {
        self.seen = None;
        self.staged.clear();
        self.staged_cursors.clear();
        self.staged_bytes = 0;
    }

    async fn try_load(&mut self) -> Result<StoreState, StoreError> {
        let snapshot = self.keyspace.snapshot().await.map_err(write_error)?;
        let seen = Seen::read(&*snapshot, &self.keys).await.map_err(read_error)?;
        let state = seen.state();
        self.seen = Some(seen);
        Ok(state)
    }

    async fn try_stage(&mut self, slice: Slice) -> Result<(), StoreError> {
        let seen = self.seen.as_ref().ok_or_else(not_loaded)?;
        if slice.applied != seen.applied.revision {
            return Err(fenced(format!(
                "a slice was made under revision {}, the store has applied {}",
                slice.applied, seen.applied.revision
            )));
        }
        let partition = slice.partition;
        let stands = self.staged_cursors.get(&partition).or(seen.cursors.get(&partition).map(|(cursor, _)| cursor));
        if let Some(stands) = stands {
            if stands.log != slice.cursor.log {
                return Err(broken(format!(
                    "partition {partition}: a slice of log {}, but the store was made from log {}",
                    slice.cursor.log, stands.log
                )));
            }
            if stands.next != slice.first {
                return Err(fenced(format!(
                    "partition {partition}: a slice from offset {}, the store stands at {}",
                    slice.first, stands.next
                )));
            }
        }
        let cursor = slice.cursor;
        let (keys, limits) = (self.keys.clone(), self.limits);
        let parts = tokio::task::spawn_blocking(move || cut(&slice, &keys, limits))
            .await
            .map_err(|error| broken(format!("encoding a slice of partition {partition} panicked: {error}")))?
            .map_err(|error| broken(error.to_string()))?;
        self.staged_bytes += parts.iter().map(|part| part.bytes).sum::<usize>();
        self.staged.extend(parts);
        self.staged_cursors.insert(partition, cursor);
        Ok(())
    }

    async fn try_commit(&mut self) -> Result<StoreState, StoreError> {
        // Taken until the end: if this future is dropped half way, the state must be loaded before anything else.
        let mut seen = self.seen.take().ok_or_else(not_loaded)?;
        while let Some(part) = self.staged.pop_front() {
            fail::fail_point!("history::commit::before", |_| std::process::abort());
            let (partition, cursor) = (part.partition, part.cursor);
            self.staged_bytes -= part.bytes;
            let cursor_bytes = encode_cursor(&cursor);
            let mut batch = Batch {
                compares: vec![seen.compare_applied(&self.keys), seen.compare_cursor(&self.keys, partition)],
                writes: part.writes,
            };
            batch.writes.push(Write::Put(self.keys.cursor(partition), cursor_bytes.clone()));
            let begins = !seen.cursors.contains_key(&partition);
            let applied = Applied { partitions: seen.applied.partitions + u32::from(begins), ..seen.applied };
            if begins {
                batch.writes.push(Write::Put(self.keys.applied(), applied.encode()));
            }
            self.keyspace.commit(batch).await.map_err(write_error)?;
            if begins {
                (seen.applied, seen.applied_bytes) = (applied, Some(applied.encode()));
            }
            seen.cursors.insert(partition, (cursor, cursor_bytes));
            fail::fail_point!("history::commit::between", |_| std::process::abort());
        }
        self.staged_cursors.clear();
        Ok(self.seen.insert(seen).state())
    }

    async fn try_take_in(&mut self, revision: u64, job: Option<Job>) -> Result<StoreState, StoreError> {
        let mut seen = self.seen.take().ok_or_else(not_loaded)?;
        if !self.staged.is_empty() {
            return Err(fenced(format!("revision {revision} can't be taken in while slices are staged")));
        }
        let applied = seen.applied.revision;
        if revision <= applied || job.as_ref().is_some_and(|job| job.revision <= applied || job.revision > revision) {
            return Err(fenced(format!("revision {revision} can't be taken in: the store has applied {applied}")));
        }
        let mut batch = Batch { compares: vec![seen.compare_applied(&self.keys)], writes: Vec::new() };
        // The job speaks of every partition's cursor: each must be where it was when the job was made.
        batch.compares.extend(seen.cursors.keys().map(|partition| seen.compare_cursor(&self.keys, *partition)));
        if let Some(job) = &job {
            let stands = |partition: &u32| seen.cursors.get(partition).map_or(0, |(cursor, _)| cursor.next);
            if let Some((partition, below)) = job.below.iter().find(|(partition, below)| **below != stands(partition)) {
                return Err(fenced(format!(
                    "the job is for partition {partition} below {below}, the store stands at {}",
                    stands(partition)
                )));
            }
            let value = encode_job(job).map_err(|error| broken(format!("the job of revision {revision}: {error}")))?;
            batch.writes.push(Write::Put(self.keys.job(job.revision), value));
        }
        let applied = Applied { revision, ..seen.applied };
        batch.writes.push(Write::Put(self.keys.applied(), applied.encode()));
        fail::fail_point!("history::take_in::before", |_| std::process::abort());
        self.keyspace.commit(batch).await.map_err(write_error)?;
        fail::fail_point!("history::take_in::after", |_| std::process::abort());
        (seen.applied, seen.applied_bytes) = (applied, Some(applied.encode()));
        Ok(self.seen.insert(seen).state())
    }

    /// After an error nothing is staged and the state must be loaded again.
    fn settle<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_err() {
            self.forget();
        }
        result
    }
}

#[async_trait]
impl Store for HistoryStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn load(&mut self) -> Result<StoreState, StoreError> {
        self.forget();
        self.try_load().await
    }

    async fn stage(&mut self, slice: Slice) -> Result<(), StoreError> {
        let result = self.try_stage(slice).await;
        self.settle(result)
    }

    fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    async fn commit(&mut self) -> Result<StoreState, StoreError> {
        let result = self.try_commit().await;
        self.settle(result)
    }

    async fn take_in(&mut self, revision: u64, job: Option<Job>) -> Result<StoreState, StoreError> {
        let result = self.try_take_in(revision, job).await;
        self.settle(result)
    }
}

pub(crate) fn not_loaded() -> StoreError {
    fenced("the state must be loaded first".to_owned())
}

pub(crate) fn fenced(detail: String) -> StoreError {
    StoreError::Fenced { store: NAME, detail }
}

pub(crate) fn broken(detail: String) -> StoreError {
    StoreError::Broken { store: NAME, detail }
}

pub(crate) fn write_error(error: KeyspaceError) -> StoreError {
    let detail = error.to_string();
    match error {
        KeyspaceError::Conflict { .. } => fenced(detail),
        KeyspaceError::Unavailable(_) | KeyspaceError::Unknown(_) => StoreError::Unavailable { store: NAME, detail },
        KeyspaceError::TooLarge(_) | KeyspaceError::Broken(_) => broken(detail),
    }
}

pub(crate) fn read_error(error: ReadError) -> StoreError {
    match error {
        ReadError::Unavailable(detail) => StoreError::Unavailable { store: NAME, detail },
        other => broken(other.to_string()),
    }
}
