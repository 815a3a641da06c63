//! The transformed slice at a place of the log.
//!
//! Both stores ask here. The first to ask computes; the other finds the slice in a cache of bounded bytes, keyed by
//! (partition, first offset, revisions taken in), or, if it is far behind, computes it again. Whatever the cut, the rows
//! are the same, so a cut is only a matter of speed.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use millrace_decode::Decoder;
use millrace_log::{EventLog, LogError, ReadLimit, Record};
use millrace_plugin_host::ChainStop;
use millrace_rows::{Cursor, Mark, Slice};
use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};
use tokio::sync::{Semaphore, watch};

use crate::chains::{ChainBuildError, Chains};
use crate::metrics::Metrics;
use crate::transform::{Segment, TransformError, Transformed, transform};
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
}

impl Default for ProcessorOptions {
    fn default() -> Self {
        Self {
            batch_records: 4096,
            batch_bytes: 8 * 1024 * 1024,
            cache_bytes: 128 * 1024 * 1024,
            concurrency: std::thread::available_parallelism().map_or(2, usize::from),
            failure_rate_max: 0.5,
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
    /// The plugin host could not run just now.
    #[error("{0}")]
    Host(String),
    /// A defect of the engine.
    #[error("internal error: {0}")]
    Internal(String),
}

impl SliceError {
    /// Whether trying again later can help without anybody's doing.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Log(LogError::Io { .. }) | Self::Chain(ChainBuildError::Catalogue(_)) | Self::Host(_))
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
    options: ProcessorOptions,
    failures: FailureWindow,
    /// Why the chain is paused, once it is. Computing resumes with a restart of the engine.
    paused: OnceLock<String>,
    metrics: Arc<Metrics>,
}

impl Processor {
    /// A processor over `log` for the chains of `timeline`.
    pub fn new(
        log: Arc<dyn EventLog>,
        decoder: Decoder,
        chains: Chains,
        timeline: watch::Receiver<Arc<Timeline>>,
        options: ProcessorOptions,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            log,
            decoder: Arc::new(decoder),
            chains,
            timeline,
            cache: slice_cache(options.cache_bytes),
            slots: Semaphore::new(options.concurrency.max(1)),
            failures: FailureWindow::new(options.failure_rate_max),
            paused: OnceLock::new(),
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

    /// Why the chain is paused, if it is.
    pub fn paused(&self) -> Option<&str> {
        self.paused.get().map(String::as_str)
    }

    fn pause(&self, reason: String) -> SliceError {
        let reason = self.paused.get_or_init(|| {
            tracing::error!(reason, "the chain is paused");
            reason
        });
        SliceError::Paused(reason.clone())
    }

    /// Bytes of slices held for a store that has not asked yet.
    pub fn cached_bytes(&self) -> u64 {
        self.cache.weight()
    }

    async fn compute(&self, key: SliceKey) -> Result<Slice, SliceError> {
        let SliceKey { partition, first, applied } = key;
        if let Some(reason) = self.paused() {
            return Err(SliceError::Paused(reason.to_owned()));
        }
        // Never closed: the semaphore lives as long as the processor.
        let _slot = self.slots.acquire().await.map_err(|error| SliceError::Internal(error.to_string()))?;
        let limit = ReadLimit { records: self.options.batch_records, bytes: self.options.batch_bytes };
        let records = self.log.read(partition, first, limit).await?;
        let Some(last) = records.last() else {
            return Err(SliceError::Internal(format!("partition {partition} has no record at offset {first}")));
        };
        let offsets = first..last.offset + 1;
        let segments = self.segments(applied, partition, offsets.clone()).await?;
        let cursor = Cursor { log: self.log.id(), next: offsets.end, mark: last.mark() };
        let marks: Arc<[Mark]> = records.iter().map(Record::mark).collect();
        let read = records.len() as u64;

        let decoder = self.decoder.clone();
        let log = cursor.log;
        let transformed = tokio::task::spawn_blocking(move || transform(&decoder, &segments, log, partition, &records))
            .await
            .map_err(|panic| SliceError::Internal(panic.to_string()))?;
        let Transformed { rows, dead, dropped, plugin_failures, failures, fuel } = match transformed {
            Ok(transformed) => transformed,
            // The machine's fault, not the chain's: the same batch may pass later.
            Err(TransformError::Stop(stop @ ChainStop::Host { .. })) => return Err(SliceError::Host(stop.to_string())),
            Err(TransformError::Stop(stop)) => {
                return Err(self.pause(format!(
                    "partition {partition}, offsets {} to {}: {stop}",
                    offsets.start,
                    offsets.end - 1
                )));
            }
            Err(error @ TransformError::Arrow(_)) => return Err(SliceError::Internal(error.to_string())),
        };
        if let Some(rate) = self.failures.add(read, plugin_failures) {
            return Err(self.pause(format!(
                "plugins failed {:.0}% of the records at partition {partition}, offsets {} to {}, over the limit of {:.0}%",
                rate * 100.0,
                offsets.start,
                offsets.end - 1,
                self.options.failure_rate_max * 100.0,
            )));
        }
        self.metrics.slice_computed(read, rows.num_rows() as u64, &dead, dropped, failures.len() as u64, fuel);
        Ok(Slice { partition, first, cursor, applied, rows, dead, read, dropped, marks })
    }

    /// The chains in force for a range of offsets, ready to run.
    async fn segments(
        &self,
        applied: u64,
        partition: u32,
        offsets: Range<u64>,
    ) -> Result<Vec<Segment>, ChainBuildError> {
        let timeline = self.timeline.borrow().clone();
        let mut segments = Vec::new();
        for (offsets, revision) in timeline.segments(applied, partition, offsets) {
            segments.push(Segment { offsets, revision: revision.id, chain: self.chains.get(revision).await? });
        }
        Ok(segments)
    }
}

/// Watches the share of records that plugins fail.
struct FailureWindow {
    rate_max: f64,
    records: AtomicU64,
    failed: AtomicU64,
}

impl FailureWindow {
    fn new(rate_max: f64) -> Self {
        Self { rate_max, records: AtomicU64::new(0), failed: AtomicU64::new(0) }
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
        (rate > self.rate_max).then_some(rate)
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
    }
}
