//! Whether a correction is about any record at all: a look at the log before it is published.

use std::sync::Arc;

use futures::TryStreamExt as _;
use millrace_timeline::{ChainSpec, SEMANTICS_VERSION};

use crate::correction::preview::PREVIEW_RECORDS;
use crate::correction::{CorrectionError, Plan};
use crate::engine::Engine;
use crate::processor::SliceError;
use crate::transform::{Candidate, Segment};

/// Whether records of a range match the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matches {
    /// Some do.
    Some,
    /// None of all that the log has, and the range ends there.
    None,
    /// None of those that were looked at, so many; the range has more.
    NoneOf(u64),
    /// None of all that the log has; the range also holds what is to come.
    NoneYet,
}

impl Engine {
    /// Looks whether a plan is about any record: decodes the last records of each revision's ranges until one matches its
    /// filter, [`PREVIEW_RECORDS`] at the most. Without a filter nothing is read.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn look_for_matches(&self, plan: &Plan) -> Result<Matches, CorrectionError> {
        let nothing = ChainSpec { semantics: SEMANTICS_VERSION, steps: vec![] };
        let chain = self.processor().chains().build(&nothing).await.map_err(SliceError::from)?;
        let (mut looked_at, mut skipped) = (0, false);
        for planned in &plan.revisions {
            for (partition, range) in &planned.ranges.partitions {
                let bounds = self.log().bounds(*partition).await?;
                let end = range.end.unwrap_or(bounds.end).min(bounds.end);
                let first = range.start.max(bounds.start);
                let start = first.max(end.saturating_sub(PREVIEW_RECORDS.saturating_sub(looked_at)));
                if planned.filter.is_empty() && first < end {
                    return Ok(Matches::Some);
                }
                skipped |= first < start && first < end;
                if start >= end {
                    continue;
                }
                let candidates =
                    vec![Candidate { revision: 0, filter: planned.filter.clone(), chain: Arc::clone(&chain) }];
                let segments = vec![Segment { offsets: start..end, candidates }];
                let mut batches = std::pin::pin!(self.processor().replay(*partition, start..end, segments));
                while let Some(batch) = batches.try_next().await? {
                    if !batch.outcome.offsets.is_empty() {
                        return Ok(Matches::Some);
                    }
                    looked_at += batch.read;
                }
            }
        }
        Ok(match (skipped, plan.facts.ahead.is_empty()) {
            (true, _) => Matches::NoneOf(looked_at),
            (false, true) => Matches::None,
            (false, false) => Matches::NoneYet,
        })
    }
}
