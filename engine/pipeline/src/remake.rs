//! The batches of a job, in order: made again, or taken from the other store's job, which has made the same, or from what was
//! staged before the correction was published.

use std::ops::Range;
use std::sync::Arc;

use futures::stream::{self, Stream, TryStreamExt as _};
use millrace_log::Record;
use millrace_rows::Rewrite;

use crate::metrics::{BatchOutcome, Metrics};
use crate::processor::{Processor, SliceError};
use crate::progress::Progress;
use crate::replay::AHEAD;
use crate::share::{Begun, Making, Reader, Shared, Stretch};
use crate::staging::{StagedBatch, Staging};
use crate::transform::Segment;

/// What makes the records of one stretch again, for one store.
pub(crate) struct Remaker {
    pub(crate) processor: Arc<Processor>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) staging: Arc<Staging>,
    pub(crate) of: Stretch,
    pub(crate) end: u64,
    /// What is in force there.
    pub(crate) segments: Arc<[Segment]>,
    pub(crate) store: &'static str,
    /// Tells what the other store has before it.
    pub(crate) progress: Progress,
}

impl Remaker {
    /// The batches.
    pub(crate) fn run(self) -> impl Stream<Item = Result<Rewrite, SliceError>> + Send {
        let reader = self.processor.shared().reader(self.of);
        let at = self.of.start;
        stream::try_unfold((Arc::new(self), reader, at), |(this, mut reader, at)| async move {
            let Some((batch, end)) = this.next(&mut reader, at).await? else { return Ok(None) };
            Ok::<_, SliceError>(Some((this.clone().finish(batch, at..end), (this, reader, end))))
        })
        .try_buffered(AHEAD)
    }

    /// The batch from `at` on, and the offset behind it.
    async fn next(self: &Arc<Self>, reader: &mut Reader, at: u64) -> Result<Option<(Batch, u64)>, SliceError> {
        let end = self.end;
        if at >= end {
            return Ok(None);
        }
        if let Some(staged) = self.staging.find(self.of, at, end) {
            let end = staged.offsets.end;
            return Ok(Some((Batch::Staged(staged), end)));
        }
        if let Some(shared) = reader.take(at, end) {
            let end = shared.end;
            return Ok(Some((Batch::Theirs(shared), end)));
        }
        reader.keep_pace().await;
        let records = self.processor.read_batch(self.of.partition, at..end).await?;
        let Some(end) = records.last().map(|last| last.offset + 1) else { return Ok(None) };
        let making = match reader.begin(at..end, self.is_wanted()) {
            Begun::Mine(making) => making,
            Begun::Theirs(shared) => {
                let end = shared.end;
                return Ok(Some((Batch::Theirs(shared), end)));
            }
        };
        // It comes to its end also while this store commits: the other may wait for it.
        let task = tokio::spawn(self.clone().make(records, making));
        Ok(Some((Batch::Mine(task), end)))
    }

    /// Whether another store has this job before it, too.
    fn is_wanted(&self) -> bool {
        let progress = self.progress.snapshot();
        progress.iter().any(|(name, store)| *name != self.store && store.jobs.contains_key(&self.of.revision))
    }

    async fn finish(self: Arc<Self>, batch: Batch, offsets: Range<u64>) -> Result<Rewrite, SliceError> {
        match batch {
            Batch::Mine(task) => {
                self.metrics.batch_remade(BatchOutcome::Made);
                task.await.map_err(|panic| SliceError::Internal(panic.to_string()))?
            }
            Batch::Theirs(shared) => match shared.made().await {
                Some(rewrite) => {
                    self.metrics.batch_remade(BatchOutcome::Shared);
                    Ok(rewrite)
                }
                None => self.make_again(offsets).await,
            },
            Batch::Staged(staged) => match staged.read().await {
                Ok(rewrite) => {
                    self.metrics.batch_remade(BatchOutcome::Staged);
                    Ok(rewrite)
                }
                Err(error) => {
                    tracing::warn!(error, "a staged batch can't be read; it is made again");
                    self.make_again(offsets).await
                }
            },
        }
    }

    async fn make_again(self: Arc<Self>, offsets: Range<u64>) -> Result<Rewrite, SliceError> {
        self.metrics.batch_remade(BatchOutcome::Made);
        let records = self.processor.read_batch(self.of.partition, offsets).await?;
        self.make(records, None).await
    }

    async fn make(self: Arc<Self>, records: Vec<Record>, making: Option<Making>) -> Result<Rewrite, SliceError> {
        let Stretch { partition, applied, .. } = self.of;
        let batch = self.processor.run_again(partition, records, self.segments.clone()).await?;
        let rewrite = batch.into_rewrite(partition, applied);
        if let Some(making) = making {
            making.made(&rewrite);
        }
        Ok(rewrite)
    }
}

enum Batch {
    Mine(tokio::task::JoinHandle<Result<Rewrite, SliceError>>),
    Theirs(Shared),
    Staged(StagedBatch),
}
