//! Checkpoints, log clean-up and orphans: beside the commits, never in their way.
//!
//! A failure here is logged and counted and fails no commit. Several processes may maintain one table: a checkpoint of a
//! version is the same whoever writes it, and what one removes the other finds gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arrow::array::{Array, AsArray};
use chrono::{DateTime, Utc};
use deltalake::checkpoints::cleanup_expired_logs_for;
use deltalake::kernel::{DataType, PrimitiveType, StructField};
use deltalake::logstore::object_store::{self, ObjectStoreExt as _, path::Path};
use deltalake::table::config::TablePropertiesExt as _;
use futures::TryStreamExt;
use millrace_rows::StoreError;

use crate::compact::Compacted;
use crate::error::{from_library, unavailable};
use crate::local::stale_temporaries;
use crate::names::{file_name, is_data_file};
use crate::options::{LOG_RETENTION_MIN, Options};
use crate::table::{Table, kernel};

/// Maintenance of one table. Clones share their state.
#[derive(Clone)]
pub struct Maintainer(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) table: Arc<Table>,
    pub(crate) options: Options,
    checkpoint_every: u64,
    /// Held while something runs: one at a time in a process.
    running: tokio::sync::Mutex<()>,
    /// As `running`, for compaction: it takes its time, and checkpoints do not wait for it.
    pub(crate) compacting: tokio::sync::Mutex<()>,
    /// Version of the newest checkpoint known of, plus one; 0 is none.
    checkpoint: AtomicU64,
    /// After a failure, no checkpoint is started beside commits before this version.
    not_before: AtomicU64,
    pub(crate) counts: Counters,
}

#[derive(Default)]
pub(crate) struct Counters {
    checkpoints: AtomicU64,
    log_files_removed: AtomicU64,
    orphans_removed: AtomicU64,
    failures: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) files_compacted: AtomicU64,
}

/// What maintenance has done since the table was opened, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceCounts {
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Log entries and old checkpoints removed.
    pub log_files_removed: u64,
    /// Data files and temporary files that no log entry mentions, removed.
    pub orphans_removed: u64,
    /// Runs that failed.
    pub failures: u64,
    /// Commits that compacted files.
    pub compactions: u64,
    /// Files that went out of force in them.
    pub files_compacted: u64,
}

/// What one run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Version of the checkpoint that was written.
    pub checkpoint: Option<u64>,
    /// Log entries and old checkpoints removed.
    pub log_files_removed: usize,
    /// Orphans removed.
    pub orphans_removed: usize,
    /// Files compacted.
    pub compacted: Compacted,
}

impl Maintainer {
    pub(crate) fn new(table: Arc<Table>, options: &Options) -> Self {
        Self(Arc::new(Inner {
            table,
            checkpoint_every: options.checkpoint_every.max(1),
            options: options.clone(),
            running: tokio::sync::Mutex::new(()),
            compacting: tokio::sync::Mutex::new(()),
            checkpoint: AtomicU64::new(0),
            not_before: AtomicU64::new(0),
            counts: Counters::default(),
        }))
    }

    /// What was done since the table was opened.
    pub fn counts(&self) -> MaintenanceCounts {
        let Counters { checkpoints, log_files_removed, orphans_removed, failures, compactions, files_compacted } =
            &self.0.counts;
        MaintenanceCounts {
            checkpoints: checkpoints.load(Ordering::Relaxed),
            log_files_removed: log_files_removed.load(Ordering::Relaxed),
            orphans_removed: orphans_removed.load(Ordering::Relaxed),
            failures: failures.load(Ordering::Relaxed),
            compactions: compactions.load(Ordering::Relaxed),
            files_compacted: files_compacted.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn saw_checkpoint(&self, version: Option<u64>) {
        self.0.checkpoint.fetch_max(version.map_or(0, |version| version + 1), Ordering::Relaxed);
    }

    pub(crate) fn is_checkpoint_due(&self, version: u64) -> bool {
        version + 1 >= self.0.checkpoint.load(Ordering::Relaxed) + self.0.checkpoint_every
    }

    /// Does all that is due: a checkpoint if there were enough commits, log clean-up, removal of orphans, and compaction
    /// unless [`Options::compaction`] says no. For a timer; an hour apart is often enough where commits start checkpoints themselves. Waits while another run is under way.
    ///
    /// # Errors
    /// When a step failed. It is logged and counted already, and the steps that follow it were not done.
    pub async fn run(&self) -> Result<Maintained, StoreError> {
        let running = self.0.running.lock().await;
        let done = async {
            let mut done = self.checkpoint_if_due().await?;
            done.orphans_removed = self.remove_orphans(self.0.options.orphan_age).await?;
            Ok(done)
        };
        let mut done = self.counted(done.await)?;
        drop(running);
        if self.0.options.compaction {
            done.compacted = self.compact().await?;
        }
        Ok(done)
    }

    /// Whether a commit that made `version` should start [`Self::run_beside_commits`].
    pub(crate) fn is_wanted(&self, version: u64) -> bool {
        self.is_checkpoint_due(version) && version >= self.0.not_before.load(Ordering::Relaxed)
    }

    /// A checkpoint and log clean-up, unless a run is under way. After a failure the next try is some commits later.
    pub(crate) async fn run_beside_commits(&self, version: u64) {
        if let Ok(_running) = self.0.running.try_lock()
            && self.counted(self.checkpoint_if_due().await).is_err()
        {
            self.0.not_before.store(version + self.0.checkpoint_every.div_ceil(10), Ordering::Relaxed);
        }
    }

    pub(crate) fn counted<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &done {
            self.0.counts.failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(table = self.0.table.location(), %error, "maintenance failed; it is tried again");
        }
        done
    }

    async fn checkpoint_if_due(&self) -> Result<Maintained, StoreError> {
        let snapshot = self.0.table.snapshot().await?;
        let kernel = kernel(&snapshot)?.snapshot().clone();
        self.saw_checkpoint(kernel.log_segment().checkpoint_version);
        let mut done = Maintained::default();
        let version = snapshot.version();
        if self.is_checkpoint_due(version) {
            fail::fail_point!("delta::maintain::fail", |_| Err(unavailable("the checkpoint failed (injected)")));
            let engine = self.0.table.log_store.engine(None);
            // Reads and writes files and holds the table's list of files: off the async threads.
            let written = tokio::task::spawn_blocking(move || kernel.checkpoint(engine.as_ref(), None).map(|_| ()));
            let wrong =
                |error: &dyn std::fmt::Display| unavailable(format!("checkpoint of version {version}: {error}"));
            written.await.map_err(|error| wrong(&error))?.map_err(|error| wrong(&error))?;
            self.saw_checkpoint(Some(version));
            self.0.counts.checkpoints.fetch_add(1, Ordering::Relaxed);
            done.checkpoint = Some(version);
        }
        let retention = snapshot.table_properties().log_retention_duration().max(LOG_RETENTION_MIN);
        let cutoff =
            Utc::now().timestamp_millis().saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
        let removed = cleanup_expired_logs_for(version, self.0.table.log_store.as_ref(), cutoff, None).await;
        done.log_files_removed = removed.map_err(|error| from_library("cleaning up the log", &error))?;
        self.0.counts.log_files_removed.fetch_add(done.log_files_removed as u64, Ordering::Relaxed);
        Ok(done)
    }

    /// Removes data files that are named like ours, are at least `older_than` old and stand in no log entry, whether as
    /// added or as removed; and temporary files of that age in the log's directory, if that is on this machine. Holds the paths of all old data
    /// files in memory while it runs.
    ///
    /// # Errors
    /// When the table can't be listed or read, or a file can't be deleted.
    pub async fn remove_orphans(&self, older_than: Duration) -> Result<usize, StoreError> {
        let table = &self.0.table;
        let before = SystemTime::now().checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
        // First the files, then the log: what is committed in between is in the log.
        let candidates = self.old_data_files(DateTime::<Utc>::from(before)).await?;
        let mut removed = 0;
        if !candidates.is_empty() {
            let snapshot = table.snapshot().await?;
            let path = || [StructField::nullable("path", DataType::Primitive(PrimitiveType::String))];
            let kinds: [(&str, &[StructField]); 2] = [("add", &path()), ("remove", &path())];
            let orphans = table
                .actions(&snapshot, &kinds, candidates, |candidates, batch| {
                    for column in batch.columns() {
                        let paths = column.as_struct().column(0).as_string::<i32>();
                        for row in (0..batch.num_rows()).filter(|row| column.is_valid(*row) && paths.is_valid(*row)) {
                            candidates.remove(file_name(paths.value(row)));
                        }
                    }
                })
                .await?;
            let store = table.log_store.object_store(None);
            for path in orphans.into_values() {
                match store.delete(&Path::from(path.as_str())).await {
                    Ok(()) => removed += 1,
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(unavailable(format!("removing the orphan {path}: {error}"))),
                }
            }
        }
        // An object has its name once it is complete: on an object store there are none. Parts of uploads that never were
        // completed have no name at all, and are the bucket's lifecycle rule's.
        if let Some(log) = table.local.as_ref().map(|root| root.join("_delta_log")) {
            let swept = tokio::task::spawn_blocking(move || {
                stale_temporaries(&log, before)?
                    .iter()
                    .try_fold(0, |n, path| std::fs::remove_file(path).map(|()| n + 1))
            });
            let swept = swept.await.map_err(std::io::Error::other).flatten();
            removed += swept.map_err(|error| unavailable(format!("removing temporary files: {error}")))?;
        }
        self.0.counts.orphans_removed.fetch_add(removed as u64, Ordering::Relaxed);
        Ok(removed)
    }

    /// Paths of old data files by their names.
    async fn old_data_files(&self, before: DateTime<Utc>) -> Result<HashMap<String, String>, StoreError> {
        let store = self.0.table.log_store.object_store(None);
        let listed = store.list(None).try_fold(HashMap::new(), async |mut found, file| {
            if file.last_modified < before && is_data_file(file.location.as_ref()) {
                found.insert(file_name(file.location.as_ref()).to_owned(), file.location.to_string());
            }
            Ok(found)
        });
        listed.await.map_err(|error| unavailable(format!("listing the table: {error}")))
    }
}
