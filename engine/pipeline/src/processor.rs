//! The transformed slice at a place of the log.
//!
//! Both stores ask here. The first to ask computes; the other finds the slice in a cache of bounded bytes, keyed by
//! (partition, first offset, revisions taken in), or, if it is far behind, computes it again. Whatever the cut, the rows
//! are the same, so a cut is only a matter of speed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use millrace_decode::Decoder;
use millrace_log::{EventLog, LogError, ReadLimit, Record};
use millrace_plugin_host::{ChainStop, LoadError};
use millrace_rows::{Cursor, Mark, Slice};
use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};
use tokio::sync::{RwLock, Semaphore, SemaphorePermit, watch};
use xxhash_rust::xxh3::xxh3_64;

use crate::chains::{ChainBuildError, Chains};
use crate::diagnostics::Diagnostics;
use crate::metrics::Metrics;
use crate::pause::{ENGINE, Pause};
use crate::replay::REPLAYS_MAX;
use crate::share::SharedBatches;
use crate::tables::TablesError;
use crate::transform::{TransformError, Transformed, split_difference, transform};
use millrace_timeline::Timeline;

/// What bounds the work on one slice.
#[derive(Clone, Debug)]
pub struct ProcessorOptions {
    /// Most records in a slice.
    pub batch_records: usize,
    /// Most payload bytes in a slice.
    pub batch_bytes: usize,
    /// Most bytes of transformed slices kept for the other store.
    pub cache_bytes: u64,
    /// Most slices computed at the same time.
    pub concurrency: usize,
    /// Share of records, 0 to 1, that plugins may fail over at least [`FAILURE_WINDOW_RECORDS`] before the chain pauses.
    pub failure_rate_max: f64,
    /// One of so many slices is computed again at another split, and the chain pauses where the rows differ; 0: none.
    pub split_check_every: u32,
}

impl Default for ProcessorOptions {
    fn default() -> Self {
        Self {
            batch_records: 4096,
            batch_bytes: 8 * 1024 * 1024,
            cache_bytes: 128 * 1024 * 1024,
            concurrency: std::thread::available_parallelism().map_or(2, usize::from),
            failure_rate_max: 0.5,
            split_check_every: 64,
        }
    }
}

/// Records over which the rate of plugin failures is looked at.
pub const FAILURE_WINDOW_RECORDS: u64 = 1000;

/// Why there is no slice.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    /// The log could not answer.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The chain in force can't be built.
    #[error(transparent)]
    Chain(#[from] ChainBuildError),
    /// The chain is paused. Nothing was decided.
    #[error("the chain is paused: {0}")]
    Paused(String),
    /// The chain would have to pause at records that are made again. The live loops are not concerned.
    #[error("the chain stops at {0}")]
    Stopped(String),
    /// The plugin host could not run just now.
    #[error("{0}")]
    Host(String),
    /// A defect of the engine.
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<arrow::error::ArrowError> for SliceError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl SliceError {
    /// Whether trying again later can help without anybody's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Log(error) => error.is_temporary(),
            // The keyspace, or the machine.
            Self::Chain(error) => matches!(
                error,
                ChainBuildError::Catalogue(_)
                    | ChainBuildError::Load { error: LoadError::Host { .. }, .. }
                    | ChainBuildError::Table { error: TablesError::Catalogue(_), .. }
            ),
            other => matches!(other, Self::Host(_)),
        }
    }
}

/// Slices are held back for an activation.
pub(crate) struct Activating<'a>(&'a watch::Sender<Option<Arc<PendingActivation>>>);

impl Drop for Activating<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct SliceKey {
    partition: u32,
    first: u64,
    applied: u64,
}

#[derive(Clone)]
struct SliceBytes;

impl Weighter<SliceKey, Arc<Slice>> for SliceBytes {
    fn weight(&self, _: &SliceKey, slice: &Arc<Slice>) -> u64 {
        slice.memory_bytes() as u64
    }
}

/// An empty cache of at most `bytes`. It has one shard: in shards, each with a share of the bytes, a busy log's slices of
/// several MiB would be too heavy for any.
fn slice_cache(bytes: u64) -> Cache<SliceKey, Arc<Slice>, SliceBytes> {
    /// A hint for sizing tables, no bound.
    const SLICES: usize = 256;
    let options = OptionsBuilder::new().shards(1).estimated_items_capacity(SLICES).weight_capacity(bytes).build();
    match options {
        Ok(options) => Cache::with_options(options, SliceBytes, Default::default(), Default::default()),
        // It fails only where a capacity is missing.
        Err(_) => Cache::with_weighter(SLICES, bytes, SliceBytes),
    }
}

/// Computes slices.
pub struct Processor {
    log: Arc<dyn EventLog>,
    decoder: Arc<Decoder>,
    chains: Chains,
    timeline: watch::Receiver<Arc<Timeline>>,
    cache: Cache<SliceKey, Arc<Slice>, SliceBytes>,
    slots: Semaphore,
    replays: Arc<Semaphore>,
    shared: Arc<SharedBatches>,
    options: ProcessorOptions,
    failures: FailureWindow,
    pause: Pause,
    diagnostics: Arc<Diagnostics>,
    /// Held for reading while a slice is cut, and for writing while an activation finds out where it begins.
    cutting: RwLock<()>,
    /// Where the activation under way begins, before the timeline has it.
    pending: watch::Sender<Option<Arc<PendingActivation>>>,
    /// Held for reading while a slice is made, and for writing by whoever must know what was made until now.
    computing: RwLock<()>,
    /// Past the last record of any slice that was made, by partition.
    seen: Mutex<BTreeMap<u32, u64>>,
    metrics: Arc<Metrics>,
}

/// An activation that is being appended to the timeline.
struct PendingActivation {
    /// The revision that it follows: stores that have taken in no more than that must not pass its beginning.
    head: u64,
    starts: BTreeMap<u32, u64>,
}

/// Where an activation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationStart {
    /// At the log's end.
    End,
    /// At the first record that no store has been given: for a chain that stands before a record that it can't pass.
    Unseen,
}

impl Processor {
    /// A processor over `log` for the chains of `timeline`.
    pub fn new(
        log: Arc<dyn EventLog>,
        chains: Chains,
        timeline: watch::Receiver<Arc<Timeline>>,
        options: ProcessorOptions,
        pause: Pause,
        diagnostics: Arc<Diagnostics>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            log,
            decoder: Arc::new(Decoder::default()),
            chains,
            timeline,
            cache: slice_cache(options.cache_bytes),
            slots: Semaphore::new(options.concurrency.max(1)),
            replays: Arc::new(Semaphore::new(REPLAYS_MAX)),
            shared: SharedBatches::new(),
            failures: FailureWindow::new(options.failure_rate_max),
            pause,
            diagnostics,
            cutting: RwLock::new(()),
            computing: RwLock::new(()),
            pending: watch::Sender::new(None),
            seen: Mutex::default(),
            options,
            metrics,
        }
    }

    /// The log that slices are made of.
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// The timeline as it is now, and its changes.
    pub fn timeline(&self) -> watch::Receiver<Arc<Timeline>> {
        self.timeline.clone()
    }

    /// The slice that starts at `first`, for a store that has taken in revisions up to `applied`. The log must hold at
    /// least one record there.
    pub async fn slice(&self, partition: u32, first: u64, applied: u64) -> Result<Arc<Slice>, SliceError> {
        let key = SliceKey { partition, first, applied };
        let mut computed = false;
        let slice = self
            .cache
            .get_or_insert_async(&key, async {
                computed = true;
                self.compute(key).await.map(Arc::new)
            })
            .await?;
        self.metrics.slice_requested(computed);
        Ok(slice)
    }

    /// The switch that pauses.
    pub fn pause(&self) -> &Pause {
        &self.pause
    }

    /// Chains ready to run.
    pub fn chains(&self) -> &Chains {
        &self.chains
    }

    /// What a batch holds at the most.
    pub(crate) fn batch(&self) -> ReadLimit {
        ReadLimit { records: self.options.batch_records, bytes: self.options.batch_bytes }
    }

    pub(crate) fn replays(&self) -> &Arc<Semaphore> {
        &self.replays
    }

    pub(crate) fn shared(&self) -> &Arc<SharedBatches> {
        &self.shared
    }

    /// The decoder.
    pub fn decoder(&self) -> &Arc<Decoder> {
        &self.decoder
    }

    /// The failure rate that paused the chain is accepted, until it has once been under its limit again.
    pub(crate) fn accept_failures(&self) {
        self.failures.accepted.store(true, Ordering::Relaxed);
    }

    async fn stand(&self, reason: String) -> SliceError {
        if let Err(error) = self.pause.pause(ENGINE, &reason).await {
            tracing::error!(%error, "the pause could not be kept: a restart would undo it");
        }
        SliceError::Paused(reason)
    }

    /// Finds out where an activation behind revision `head` begins in each partition, and holds slices under `head` and
    /// before back from there until what it gives is dropped: when the activation stands in the timeline that this processor
    /// sees, or nowhere.
    ///
    /// `cursors` are where the furthest store stands. The log's ends are those of this moment, and no slice has passed
    /// them: slices are not cut meanwhile.
    ///
    /// # Errors
    /// When the log can't tell its ends.
    pub(crate) async fn begin_activation(
        &self,
        head: u64,
        start: ActivationStart,
        cursors: &BTreeMap<u32, u64>,
    ) -> Result<(BTreeMap<u32, u64>, Activating<'_>), LogError> {
        // Whoever asks for the first unseen record has paused the chain: what is under way ends, nothing new begins.
        let _made = match start {
            ActivationStart::Unseen => Some(self.computing.write().await),
            ActivationStart::End => None,
        };
        let _cutting = self.cutting.write().await;
        let mut starts = BTreeMap::new();
        for partition in 0..self.log.partitions() {
            let begins = match start {
                ActivationStart::End => self.log.bounds(partition).await?.end,
                ActivationStart::Unseen => {
                    let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).copied();
                    let cursor = cursors.get(&partition).copied();
                    seen.into_iter().chain(cursor).max().unwrap_or(0)
                }
            };
            starts.insert(partition, begins);
        }
        self.pending.send_replace(Some(Arc::new(PendingActivation { head, starts: starts.clone() })));
        Ok((starts, Activating(&self.pending)))
    }

    /// The offset that slices for `applied` must not pass, if there is one.
    fn limit(&self, partition: u32, applied: u64) -> Option<u64> {
        let planned = self.pending.borrow().as_ref().filter(|pending| applied <= pending.head).map(|pending| {
            // A partition that was added meanwhile is the new chain's from its beginning.
            pending.starts.get(&partition).copied().unwrap_or(0)
        });
        self.timeline.borrow().limit(applied, partition).into_iter().chain(planned).min()
    }

    /// Reads the records of a slice. Waits while a slice that begins there would have to be made under a later revision:
    /// the store that asks takes that in first, and asks again.
    async fn cut(&self, key: SliceKey) -> Result<(Vec<Record>, SemaphorePermit<'_>), SliceError> {
        let SliceKey { partition, first, applied } = key;
        let read = self.batch();
        let (mut timeline, mut pending) = (self.timeline.clone(), self.pending.subscribe());
        loop {
            timeline.mark_unchanged();
            pending.mark_unchanged();
            // Never closed: the semaphore lives as long as the processor.
            let slot = self.slots.acquire().await.map_err(|error| SliceError::Internal(error.to_string()))?;
            let cutting = self.cutting.read().await;
            let limit = self.limit(partition, applied);
            if limit.is_none_or(|limit| first < limit) {
                let mut records = self.log.read(partition, first, read).await?;
                if let Some(limit) = limit {
                    records.truncate(records.partition_point(|record| record.offset < limit));
                }
                if records.is_empty() {
                    return Err(SliceError::Internal(format!("partition {partition} has no record at offset {first}")));
                }
                return Ok((records, slot));
            }
            drop((cutting, slot));
            // Errors mean that the engine is gone: whoever waits is dropped with it.
            tokio::select! {
                _ = timeline.changed() => {}
                _ = pending.changed() => {}
                reason = self.pause.wait_paused() => return Err(SliceError::Paused(reason)),
            }
        }
    }

    /// Bytes of slices held for a store that has not asked yet.
    pub fn cached_bytes(&self) -> u64 {
        self.cache.weight()
    }

    async fn compute(&self, key: SliceKey) -> Result<Slice, SliceError> {
        let SliceKey { partition, first, applied } = key;
        let _computing = self.computing.read().await;
        if let Some(pause) = self.pause.get() {
            return Err(SliceError::Paused(pause.reason));
        }
        let (records, _slot) = self.cut(key).await?;
        let Some(last) = records.last() else { return Err(SliceError::Internal("an empty slice was cut".into())) };
        let offsets = first..last.offset + 1;
        let timeline = self.timeline.borrow().clone();
        let segments = self.segments_of(&timeline, 1, applied, partition, offsets.clone()).await?;
        let cursor = Cursor { log: self.log.id(), next: offsets.end, mark: last.mark() };
        let marks: Arc<[Mark]> = records.iter().map(Record::mark).collect();
        let read = records.len() as u64;

        let (decoder, log, check_at) =
            (self.decoder.clone(), cursor.log, self.split_check(partition, first, records.len()));
        let transformed = tokio::task::spawn_blocking(move || {
            let whole = transform(&decoder, &segments, log, partition, &records)?;
            let difference = match check_at {
                Some(cut) => split_difference(&decoder, &segments, log, partition, &records, cut, &whole)?,
                None => None,
            };
            Ok((whole, difference))
        })
        .await
        .map_err(|panic| SliceError::Internal(panic.to_string()))?;
        let place = || format!("partition {partition}, offsets {} to {}", offsets.start, offsets.end - 1);
        let (transformed, difference) = match transformed {
            Ok(transformed) => transformed,
            // The machine's fault, not the chain's: the same batch may pass later.
            Err(TransformError::Stop(stop @ ChainStop::Host { .. })) => return Err(SliceError::Host(stop.to_string())),
            Err(TransformError::Stop(mut stop)) => {
                if let ChainStop::TooManyBadRows { failures, .. } | ChainStop::Halted { failures, .. } = &mut stop {
                    self.diagnostics.add(partition, std::mem::take(failures), Vec::new());
                }
                return Err(self.stand(format!("{}: {stop}", place())).await);
            }
            Err(error @ TransformError::Arrow(_)) => return Err(SliceError::Internal(error.to_string())),
        };
        let Transformed { rows, dead, dropped, plugin_failures, drops, failures, logs, steps, .. } = transformed;
        let failed = failures.len() as u64;
        self.diagnostics.add(partition, failures, logs);
        self.metrics.costs().add(&steps, &drops);
        if let Some(difference) = difference {
            let reason = "a plugin lets rows depend on the rows beside them";
            return Err(self.stand(format!("{}: {reason}: another split gave {difference}", place())).await);
        }
        if let Some(rate) = self.failures.add(read, plugin_failures) {
            let rates = (rate * 100.0, self.options.failure_rate_max * 100.0);
            let reason = format!(
                "plugins failed {:.0}% of the records at {}, over the limit of {:.0}%",
                rates.0,
                place(),
                rates.1
            );
            return Err(self.stand(reason).await);
        }
        let fuel = steps.iter().map(|step| step.fuel).sum();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen_to = seen.entry(partition).or_default();
        *seen_to = (*seen_to).max(offsets.end);
        drop(seen);
        self.metrics.slice_computed(read, rows.num_rows() as u64, &dead, &drops, failed, fuel);
        Ok(Slice { partition, first, cursor, applied, rows, dead, read, dropped, marks })
    }

    /// Where a slice is cut to be computed again, if it is one of those. It follows from the slice's place: no chance is
    /// needed, and a plugin can't know it.
    fn split_check(&self, partition: u32, first: u64, records: usize) -> Option<usize> {
        let every = u64::from(self.options.split_check_every);
        let place = xxh3_64(&[&partition.to_le_bytes()[..], &first.to_le_bytes()].concat());
        (records > 1 && every > 0 && place.is_multiple_of(every))
            .then(|| 1 + ((place / every) % (records as u64 - 1)) as usize)
    }
}

/// Watches the share of records that plugins fail.
struct FailureWindow {
    rate_max: f64,
    /// Somebody has looked and lets it be, until the rate has been under its limit once.
    accepted: AtomicBool,
    records: AtomicU64,
    failed: AtomicU64,
}

impl FailureWindow {
    fn new(rate_max: f64) -> Self {
        Self { rate_max, accepted: AtomicBool::new(false), records: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    /// Counts a slice. Gives the rate when the window is full and its rate is over the limit.
    fn add(&self, records: u64, failed: u64) -> Option<f64> {
        let records = self.records.fetch_add(records, Ordering::Relaxed) + records;
        let failed = self.failed.fetch_add(failed, Ordering::Relaxed) + failed;
        if records < FAILURE_WINDOW_RECORDS {
            return None;
        }
        self.records.store(0, Ordering::Relaxed);
        self.failed.store(0, Ordering::Relaxed);
        let rate = failed as f64 / records as f64;
        if rate <= self.rate_max {
            self.accepted.store(false, Ordering::Relaxed);
            return None;
        }
        (!self.accepted.load(Ordering::Relaxed)).then_some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_rate_counts_over_a_thousand_records_and_starts_again() {
        let window = FailureWindow::new(0.5);
        assert_eq!(window.add(999, 999), None, "too few to judge");
        assert_eq!(window.add(1, 0), Some(0.999));
        assert_eq!(window.add(2000, 1000), None, "at the limit, not over it");
        assert_eq!(window.add(2000, 1001), Some(0.5005));
        window.accepted.store(true, Ordering::Relaxed);
        assert_eq!(window.add(2000, 2000), None, "accepted");
        assert_eq!(window.add(2000, 0), None);
        assert_eq!(window.add(2000, 2000), Some(1.0), "it was under its limit meanwhile");
    }
}
