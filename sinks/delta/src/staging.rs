//! Rows on their way into the next commit.
//!
//! Rows of one log partition and date go into one file, in the order in which they come. They wait in memory until
//! there are enough of them to open a parquet writer for; encoding then runs on blocking threads, at most
//! `encoders` at a time, one at a time for each file.
//!
//! Bounds: at most `open_files_max` open writers, the oldest is closed when one more is needed; at most
//! `buffer_bytes_max` bytes of waiting rows, rows being encoded and open writers together, after each slice. Whoever
//! stages waits while they are exceeded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use deltalake::logstore::object_store::{ObjectStoreExt as _, path::Path};
use millrace_rows::StoreError;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::encode::{EncodeError, Encoded, FileWriter, StagedFile, Target, encode};
use crate::error::{fenced, without_answers};
use crate::local::sync_directory;
use crate::options::Options;
use crate::splice::{self, Splice};
use crate::table::{Seen, Table};

/// Log partition and day.
type Key = (u32, i32);

/// Most rows of a batch that was merged from smaller ones.
const MERGED_ROWS_MAX: usize = 1024;

/// Limits, from the options.
#[derive(Clone, Copy, Debug)]
struct Limits {
    open_files: usize,
    buffer_bytes: usize,
    write_bytes: usize,
    orphan_age: Duration,
}

#[derive(Default)]
struct Slot {
    waiting: Vec<RecordBatch>,
    waiting_bytes: usize,
    writer: Option<Box<FileWriter>>,
    writer_bytes: usize,
    /// Encoding in the background; it holds the writer.
    job: Option<JoinHandle<Result<Encoded, EncodeError>>>,
    job_bytes: usize,
    /// Whether the job completes the file.
    job_finishes: bool,
    /// Counts up with every writer opened: the least is the oldest.
    opened: u64,
}

impl Slot {
    /// Takes rows to those that wait. Small batches are merged with the one before if that is about as small: a batch of
    /// a few rows is mostly overhead. Each row is copied at most log2([`MERGED_ROWS_MAX`]) times.
    fn wait(&mut self, rows: RecordBatch) -> Result<(), EncodeError> {
        let mut rows = rows;
        while let Some(before) = self.waiting.pop_if(|before| {
            before.num_rows() <= 2 * rows.num_rows()
                && before.num_rows() + rows.num_rows() <= MERGED_ROWS_MAX
                && before.schema_ref() == rows.schema_ref()
        }) {
            self.waiting_bytes -= before.get_array_memory_size();
            let merged = concat_batches(rows.schema_ref(), [&before, &rows]);
            rows = merged.map_err(|error| EncodeError::new("merging waiting rows", error))?;
        }
        self.waiting_bytes += rows.get_array_memory_size();
        self.waiting.push(rows);
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.writer.is_some() || (self.job.is_some() && !self.job_finishes)
    }
}

/// See the module's documentation.
pub(crate) struct Staging {
    target: Arc<Target>,
    limits: Limits,
    encoders: Arc<Semaphore>,
    slots: BTreeMap<Key, Slot>,
    finished: Vec<StagedFile>,
    opened: u64,
    /// A file that is being spliced in the background.
    splicing: Option<JoinHandle<Result<Vec<StagedFile>, StoreError>>>,
}

impl Staging {
    /// Staging into a table.
    pub(crate) fn of(table: &Table, options: &Options) -> Self {
        let target = Target {
            local: table.local.clone(),
            store: table.log_store.object_store(None),
            compression: options.compression,
            file_bytes_max: options.file_bytes_max,
            row_group_rows_max: options.row_group_rows_max,
            created: Default::default(),
        };
        Self::new(Arc::new(target), options)
    }

    fn new(target: Arc<Target>, options: &Options) -> Self {
        Self {
            target,
            limits: Limits {
                open_files: options.open_files_max.max(1),
                buffer_bytes: options.buffer_bytes_max,
                write_bytes: options.write_bytes_min,
                orphan_age: options.orphan_age,
            },
            encoders: Arc::new(Semaphore::new(options.encoders.max(1))),
            slots: BTreeMap::new(),
            finished: Vec::new(),
            opened: 0,
            splicing: None,
        }
    }

    /// Bytes held in memory.
    pub(crate) fn buffered(&self) -> usize {
        self.slots.values().map(|slot| slot.waiting_bytes + slot.writer_bytes + slot.job_bytes).sum()
    }

    /// Most rows of a row group.
    pub(crate) fn group_rows_max(&self) -> u64 {
        self.target.row_group_rows_max as u64
    }

    /// Takes rows of one log partition, by day.
    pub(crate) async fn add(&mut self, partition: u32, parts: Vec<(i32, RecordBatch)>) -> Result<(), EncodeError> {
        for (day, rows) in parts {
            let key = (partition, day);
            let slot = self.slots.entry(key).or_default();
            slot.wait(rows)?;
            if slot.waiting_bytes >= self.limits.write_bytes {
                self.start(key, false).await?;
            }
        }
        self.shrink().await
    }

    /// Writes a file that takes row groups from another as they are; `finish` returns it with the others.
    pub(crate) async fn splice(
        &mut self,
        table: &Arc<Table>,
        schema: &SchemaRef,
        splice: Splice,
    ) -> Result<(), StoreError> {
        let (target, table, schema) = (self.target.clone(), table.clone(), schema.clone());
        let write = move || splice::write(&table, &Handle::current(), &target, &schema, splice);
        // Awaited in its place: if the caller gives up here, the job is not lost.
        let ended = self.splicing.insert(tokio::task::spawn_blocking(write)).await;
        self.splicing = None;
        self.finished.extend(ended.map_err(|error| EncodeError::new("splicing", error))??);
        Ok(())
    }

    /// Completes every file and syncs the directories they are in. What it returns can be committed.
    pub(crate) async fn finish(&mut self) -> Result<Vec<StagedFile>, EncodeError> {
        let keys: Vec<Key> = self.slots.keys().copied().collect();
        for key in &keys {
            self.start(*key, true).await?;
        }
        for key in keys {
            self.settle(key).await?;
        }
        self.slots.clear();
        let mut files = std::mem::take(&mut self.finished);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        if let Some(root) = self.target.local.clone() {
            sync_directories(root, &files).await?;
        }
        Ok(files)
    }

    /// When the first file was created that is in no commit.
    pub(crate) fn since(&self) -> Option<Seen> {
        self.target.created_since()
    }

    /// Whether what is staged may be committed.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when files are so old that they may be removed as orphans before they are in the log, or were:
    /// whoever staged them waited for something, a paused chain for one.
    pub(crate) fn check_age(&self) -> Result<(), StoreError> {
        let age = self.since().map(|since| since.age(&Seen::now()));
        if age.is_some_and(|age| age >= self.limits.orphan_age / 2) {
            return Err(fenced("rows were staged too long ago: their files count as left behind soon"));
        }
        Ok(())
    }

    /// Forgets everything staged. Files that were written are deleted, unless `keep_files`: then they may be part of a
    /// commit whose outcome is unknown, and are left to the removal of orphans.
    pub(crate) async fn forget(&mut self, keep_files: bool) {
        for slot in std::mem::take(&mut self.slots).into_values() {
            if let Some(job) = slot.job {
                // What it wrote is forgotten with the rest, and its error with it.
                let _ = job.await;
            }
        }
        if let Some(job) = self.splicing.take() {
            let _ = job.await;
        }
        self.finished.clear();
        let created = self.target.take_created();
        if keep_files {
            return;
        }
        delete(&self.target, &created).await;
    }

    /// Deletes complete files that go into no commit.
    pub(crate) async fn discard(&mut self, files: &[StagedFile]) {
        let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
        delete(&self.target, &paths).await;
        for path in &paths {
            self.target.take_out(path);
        }
    }

    /// After a commit: what was created is part of the table.
    pub(crate) fn committed(&mut self) {
        self.target.take_created();
    }

    /// Starts to encode what waits for `key`.
    async fn start(&mut self, key: Key, finish: bool) -> Result<(), EncodeError> {
        self.settle(key).await?;
        let Some(slot) = self.slots.get(&key) else { return Ok(()) };
        if slot.writer.is_none() && slot.waiting.is_empty() {
            return Ok(());
        }
        if slot.writer.is_none() {
            while self.slots.values().filter(|slot| slot.is_open()).count() >= self.limits.open_files {
                self.close_oldest(key).await?;
            }
        }
        self.spawn(key, finish).await
    }

    async fn spawn(&mut self, key: Key, finish: bool) -> Result<(), EncodeError> {
        let closed = |error| EncodeError::new("starting to encode", error);
        let permit = self.encoders.clone().acquire_owned().await.map_err(closed)?;
        self.opened += 1;
        let Some(slot) = self.slots.get_mut(&key) else { return Ok(()) };
        let writer = slot.writer.take();
        if writer.is_none() {
            slot.opened = self.opened;
        }
        let batches = std::mem::take(&mut slot.waiting);
        slot.job_bytes = slot.waiting_bytes + slot.writer_bytes;
        (slot.waiting_bytes, slot.writer_bytes, slot.job_finishes) = (0, 0, finish);
        let target = self.target.clone();
        slot.job = Some(tokio::task::spawn_blocking(move || {
            let encoded = encode(&target, key, writer, batches, finish);
            drop(permit);
            encoded
        }));
        Ok(())
    }

    /// Waits for the job of `key`, if there is one.
    async fn settle(&mut self, key: Key) -> Result<(), EncodeError> {
        let Some(slot) = self.slots.get_mut(&key) else { return Ok(()) };
        // Awaited in its place: if the caller gives up here, the job is not lost.
        let Some(job) = &mut slot.job else { return Ok(()) };
        let ended = job.await;
        slot.job = None;
        slot.job_bytes = 0;
        let encoded = ended.map_err(|error| EncodeError::new("encoding", error))??;
        slot.writer_bytes = encoded.writer.as_ref().map_or(0, |writer| writer.memory());
        slot.writer = encoded.writer;
        self.finished.extend(encoded.finished);
        Ok(())
    }

    async fn close_oldest(&mut self, but: Key) -> Result<(), EncodeError> {
        let open = self.slots.iter().filter(|(key, slot)| **key != but && slot.is_open());
        let Some(oldest) = open.min_by_key(|(_, slot)| slot.opened).map(|(key, _)| *key) else { return Ok(()) };
        self.settle(oldest).await?;
        if self.slots.get(&oldest).is_some_and(|slot| slot.writer.is_some()) {
            self.spawn(oldest, true).await?;
            self.settle(oldest).await?;
        }
        Ok(())
    }

    /// Brings what is buffered below its bound: rows into writers first, then writers into files.
    async fn shrink(&mut self) -> Result<(), EncodeError> {
        while self.buffered() > self.limits.buffer_bytes {
            let jobs: Vec<Key> =
                self.slots.iter().filter(|(_, slot)| slot.job.is_some()).map(|(key, _)| *key).collect();
            if !jobs.is_empty() {
                for key in jobs {
                    self.settle(key).await?;
                }
                continue;
            }
            let writers: usize = self.slots.values().map(|slot| slot.writer_bytes).sum();
            let fullest = self.slots.iter().max_by_key(|(_, slot)| slot.waiting_bytes);
            match fullest.filter(|(_, slot)| slot.waiting_bytes > 0).map(|(key, _)| *key) {
                Some(key) if writers <= self.limits.buffer_bytes / 2 => self.start(key, false).await?,
                _ if self.slots.values().any(Slot::is_open) => self.close_oldest((u32::MAX, i32::MIN)).await?,
                Some(key) => self.start(key, true).await?,
                None => break,
            }
        }
        Ok(())
    }
}

async fn delete(target: &Target, paths: &[String]) {
    for path in paths {
        match target.store.delete(&Path::from(path.as_str())).await {
            Ok(()) | Err(deltalake::ObjectStoreError::NotFound { .. }) => {}
            Err(error) => {
                let error = without_answers(error.to_string());
                tracing::warn!(path, error, "a staged file was not deleted; it is removed as an orphan later")
            }
        }
    }
}

async fn sync_directories(root: PathBuf, files: &[StagedFile]) -> Result<(), EncodeError> {
    let dates: BTreeSet<String> = files.iter().filter_map(|file| Some(file.path.split_once('/')?.0.into())).collect();
    let synced = tokio::task::spawn_blocking(move || {
        dates
            .iter()
            .try_for_each(|date| sync_directory(&root.join(date)).map_err(|error| EncodeError::new(date, error)))
    });
    synced.await.map_err(|error| EncodeError::new("syncing directories", error))?
}
