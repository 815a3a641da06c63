//! Reads a range of the log again, and runs it through chains: what jobs, previews and `verify` have in common.
//!
//! A replay decides nothing about the live loops: it shares no cache with them, never pauses the chain, and computes at
//! most [`REPLAYS_MAX`] batches at a time over all that replay.

use std::ops::Range;
use std::sync::Arc;

use futures::stream::{self, Stream, TryStreamExt as _};
use millrace_decode::Decoder;
use millrace_log::{ReadLimit, Record};
use millrace_plugin_host::ChainStop;
use millrace_rows::{LogId, Rewrite};
use millrace_timeline::Timeline;

use crate::processor::{Processor, SliceError};
use crate::transform::{Segment, TransformError, Transformed, transform};

/// Batches that replays compute at the same time. One leaves the other processors to the live loops.
pub const REPLAYS_MAX: usize = 1;
/// Batches read ahead of the one that is being used.
pub(crate) const AHEAD: usize = 2;

/// A batch of the log, made again.
#[derive(Debug)]
pub struct Replayed {
    /// The offsets read.
    pub offsets: Range<u64>,
    /// Records read.
    pub read: u64,
    /// What they became.
    pub outcome: Transformed,
}

impl Replayed {
    /// What a store is to put in the place of the batch, made again under the revisions up to `applied`. What plugins said is not
    /// kept: it would push out what they say of live events.
    pub(crate) fn into_rewrite(self, partition: u32, applied: u64) -> Rewrite {
        let Self { offsets, outcome, .. } = self;
        Rewrite {
            partition,
            offsets,
            applied,
            remade: outcome.offsets,
            rows: outcome.rows,
            dead: outcome.dead,
            dropped: outcome.dropped,
        }
    }
}

impl Processor {
    /// The records of a range under `segments`, batch by batch in offset order.
    ///
    /// # Errors
    /// The stream ends with the first error: [`SliceError::Stopped`] where the chain would have to pause, and
    /// [`LogError::Gap`](millrace_log::LogError::Gap) where retention was faster.
    pub fn replay(
        &self,
        partition: u32,
        offsets: Range<u64>,
        segments: Vec<Segment>,
    ) -> impl Stream<Item = Result<Replayed, SliceError>> + Send + '_ {
        let segments: Arc<[Segment]> = segments.into();
        self.read_again(partition, offsets)
            .map_ok(move |records| self.run_again(partition, records, segments.clone()))
            .try_buffered(AHEAD)
    }

    pub(crate) fn read_again(
        &self,
        partition: u32,
        offsets: Range<u64>,
    ) -> impl Stream<Item = Result<Vec<Record>, SliceError>> + Send + '_ {
        stream::try_unfold(offsets.start, move |at| async move {
            if at >= offsets.end {
                return Ok(None);
            }
            let records = self.read_batch(partition, at..offsets.end).await?;
            Ok(records.last().map(|last| last.offset + 1).map(|next| (records, next)))
        })
    }

    /// The records at the beginning of a range that make one batch.
    ///
    /// # Errors
    /// As the log has them.
    pub(crate) async fn read_batch(&self, partition: u32, offsets: Range<u64>) -> Result<Vec<Record>, SliceError> {
        let most = usize::try_from(offsets.end - offsets.start).unwrap_or(usize::MAX).min(self.batch().records);
        let limit = ReadLimit { records: most, ..self.batch() };
        let mut records = self.log().read(partition, offsets.start, limit).await?;
        records.truncate(records.partition_point(|record| record.offset < offsets.end));
        Ok(records)
    }

    /// Runs records of a batch through `segments`.
    ///
    /// # Errors
    /// As for [`Self::replay`].
    pub(crate) async fn run_again(
        &self,
        partition: u32,
        records: Vec<Record>,
        segments: Arc<[Segment]>,
    ) -> Result<Replayed, SliceError> {
        let (slots, decoder, log) = (self.replays().clone(), self.decoder().clone(), self.log().id());
        // A task of its own: whoever holds a slot must come to its end, also while nobody looks at its stream.
        let run = tokio::spawn(async move {
            // Never closed: the semaphore lives as long as this.
            let _slot = slots.acquire().await.map_err(|error| SliceError::Internal(error.to_string()))?;
            let run = tokio::task::spawn_blocking(move || again(&decoder, &segments, log, partition, &records));
            run.await.map_err(|panic| SliceError::Internal(panic.to_string()))?
        });
        run.await.map_err(|panic| SliceError::Internal(panic.to_string()))?
    }

    /// What is in force for a range under a timeline, ready to run: of revisions from `least` on.
    ///
    /// # Errors
    /// [`SliceError::Chain`] when a chain can't be built.
    pub async fn segments_of(
        &self,
        timeline: &Timeline,
        least: u64,
        applied: u64,
        partition: u32,
        offsets: Range<u64>,
    ) -> Result<Vec<Segment>, SliceError> {
        let mut segments = Vec::new();
        for (offsets, revisions) in timeline.segments(applied, partition, offsets) {
            let mut candidates = Vec::with_capacity(revisions.len());
            for revision in revisions.into_iter().filter(|revision| revision.id >= least) {
                candidates.push(self.chains().candidate(revision).await?);
            }
            if !candidates.is_empty() {
                segments.push(Segment { offsets, candidates });
            }
        }
        Ok(segments)
    }
}

fn again(
    decoder: &Decoder,
    segments: &[Segment],
    log: LogId,
    partition: u32,
    records: &[Record],
) -> Result<Replayed, SliceError> {
    let read = records.len() as u64;
    let first = records.first().map_or(0, |record| record.offset);
    let offsets = first..records.last().map_or(first, |record| record.offset + 1);
    let outcome = transform(decoder, segments, log, partition, records).map_err(|error| {
        let place = format!("partition {partition}, offsets {} to {}", offsets.start, offsets.end.saturating_sub(1));
        match error {
            TransformError::Stop(stop @ ChainStop::Host { .. }) => SliceError::Host(stop.to_string()),
            TransformError::Stop(stop) => SliceError::Stopped(format!("{place}: {stop}")),
            TransformError::Arrow(error) => SliceError::Internal(format!("{place}: {error}")),
        }
    })?;
    Ok(Replayed { offsets, read, outcome })
}
