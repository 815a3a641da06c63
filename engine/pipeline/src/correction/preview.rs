//! A candidate over a range of the log, beside what is in force: shows what it would change, and writes nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use futures::TryStreamExt as _;
use millrace_log::Record;
use serde::Serialize;

use crate::correction::diff::Diff;
use crate::correction::planning::Planning;
use crate::correction::{Plan, RangeFacts};
use crate::processor::{Processor, SliceError};
use crate::replay::AHEAD;
use crate::transform::{Segment, Transformed};

/// Records that a preview looks at unless it is told otherwise, from the end of the range.
pub const PREVIEW_RECORDS: u64 = 100_000;
/// Records that a preview can be told to look at.
pub const PREVIEW_RECORDS_MAX: u64 = 5_000_000;
/// Previews at the same time. They share one place for computing, so more would only hold more memory.
pub const PREVIEWS_MAX: usize = 2;

/// What a preview found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Preview {
    /// Revisions that the correction would append.
    pub revisions: usize,
    /// Offsets in the range, by partition.
    pub range: BTreeMap<u32, Range<u64>>,
    /// What else there is to say of the range.
    #[serde(flatten)]
    pub facts: RangeFacts,
    /// All that people should know of it, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Records that were read.
    pub read: u64,
    /// Whether the range has more than were looked at.
    pub truncated: bool,
    /// What changes.
    #[serde(flatten)]
    pub diff: Diff,
    /// What the chain in force costs for the records that the plan is about.
    pub cost_before: Cost,
    /// What the candidate costs for the same records.
    pub cost_after: Cost,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What chains cost over the records of a preview.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// Nanoseconds of the plugins, an event.
    pub ns_per_event: f64,
    /// Fuel an event.
    pub fuel_per_event: f64,
}

#[derive(Default)]
struct Sum {
    nanos: u128,
    fuel: u64,
}

impl Sum {
    fn add(&mut self, outcome: &Transformed) {
        self.nanos += outcome.steps.iter().map(|step| step.took.as_nanos()).sum::<u128>();
        self.fuel += outcome.steps.iter().map(|step| step.fuel).sum::<u64>();
    }

    fn cost(&self, records: u64) -> Cost {
        let records = records.max(1) as f64;
        Cost { ns_per_event: self.nanos as f64 / records, fuel_per_event: self.fuel as f64 / records }
    }
}

/// What a batch became under both.
struct Both {
    read: u64,
    before: Transformed,
    after: Transformed,
}

/// Runs records through the candidate, and those that it is about through what is in force.
async fn both(
    processor: &Processor,
    partition: u32,
    records: Vec<Record>,
    after: Arc<[Segment]>,
    before: Arc<[Segment]>,
) -> Result<Both, SliceError> {
    // Payloads are shared: this copies none.
    let replayed = processor.run_again(partition, records.clone(), after).await?;
    let (read, after) = (replayed.read, replayed.outcome);
    let mut covered = records;
    covered.retain(|record| after.offsets.binary_search(&record.offset).is_ok());
    let before = processor.run_again(partition, covered, before).await?.outcome;
    if before.offsets != after.offsets {
        return Err(SliceError::Internal("a chain in force passed records over".into()));
    }
    Ok(Both { read, before, after })
}

/// Runs the records that the plan covers through both, at most `records` of them from the range's end.
///
/// # Errors
/// As a replay.
pub(crate) async fn run(
    processor: &Arc<Processor>,
    plan: &Plan,
    records: u64,
    mask: u64,
) -> Result<Preview, SliceError> {
    let began = Instant::now();
    let Plan { timeline, range, facts, filter, revisions, .. } = plan;
    let planning = Planning::of(processor, timeline, revisions).await?;
    let (mut read, mut truncated, mut diff) = (0, false, Diff::default());
    let (mut before_sum, mut after_sum) = (Sum::default(), Sum::default());
    // Each partition has a share; what one does not need is another's.
    let mut room = records.clamp(1, PREVIEW_RECORDS_MAX);
    let mut partitions_left = range.len() as u64;
    let mut by_length = Vec::with_capacity(range.len());
    for (partition, offsets) in range {
        // What has not come yet can't be shown.
        let end = processor.log().bounds(*partition).await?.end.min(offsets.end);
        by_length.push((*partition, offsets.start.min(end)..end));
    }
    by_length.sort_by_key(|(_, offsets)| offsets.end - offsets.start);
    for (partition, offsets) in by_length {
        let share = room / partitions_left.max(1);
        partitions_left -= 1;
        let start = offsets.start.max(offsets.end.saturating_sub(share));
        truncated |= start > offsets.start;
        room -= offsets.end - start;
        if start >= offsets.end {
            continue;
        }
        let after: Arc<[Segment]> = planning.segments(planning.first(), partition, start..offsets.end).into();
        let before = processor.segments_of(timeline, 1, timeline.head(), partition, start..offsets.end).await?;
        let before: Arc<[Segment]> = before.into();
        let batches = processor
            .read_again(partition, start..offsets.end)
            .map_ok(|records| both(processor, partition, records, after.clone(), before.clone()))
            .try_buffered(AHEAD);
        let mut batches = std::pin::pin!(batches);
        while let Some(batch) = batches.try_next().await? {
            read += batch.read;
            after_sum.add(&batch.after);
            before_sum.add(&batch.before);
            // Not on a thread that others wait for.
            let compared = tokio::task::spawn_blocking(move || {
                diff.add(partition, &batch.before, &batch.after, mask);
                diff
            });
            diff = compared.await.map_err(|panic| SliceError::Internal(panic.to_string()))?;
        }
    }
    diff.finish();
    let mut notes = plan.notes();
    notes.extend(nothing_matched(read, diff.records, !filter.is_empty(), truncated));
    Ok(Preview {
        revisions: revisions.len(),
        range: range.clone(),
        facts: facts.clone(),
        notes,
        read,
        truncated,
        cost_before: before_sum.cost(diff.records),
        cost_after: after_sum.cost(diff.records),
        diff,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// What to say where no record was run through both.
fn nothing_matched(read: u64, matched: u64, filtered: bool, truncated: bool) -> Option<String> {
    let said = match (read, matched, filtered, truncated) {
        (_, 1.., ..) => return None,
        (0, ..) => "the log has no event of the range yet",
        (_, _, true, false) => "no event of the range matches the filter",
        (_, _, true, true) => "no event that was looked at matches the filter; the range has more",
        (_, _, false, _) => "the change is about no event that was looked at",
    };
    Some(said.to_owned())
}
