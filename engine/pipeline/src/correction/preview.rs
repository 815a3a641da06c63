//! A candidate over a range of the log, beside what is in force: shows what it would change, and writes nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use futures::TryStreamExt as _;
use millrace_timeline::Timeline;
use serde::Serialize;

use crate::correction::diff::Diff;
use crate::correction::plan::Planned;
use crate::correction::planning::Planning;
use crate::processor::{Processor, SliceError};
use crate::transform::Transformed;

/// Records that a preview looks at unless it is told otherwise, from the end of the range.
pub const PREVIEW_RECORDS: u64 = 100_000;
/// Records that a preview can be told to look at.
pub const PREVIEW_RECORDS_MAX: u64 = 5_000_000;

/// What a preview found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Preview {
    /// Revisions that the correction would append.
    pub revisions: usize,
    /// Offsets in the range, by partition.
    pub range: BTreeMap<u32, Range<u64>>,
    /// Records that were read.
    pub read: u64,
    /// Whether the range has more than were looked at.
    pub truncated: bool,
    /// What changes.
    #[serde(flatten)]
    pub diff: Diff,
    /// What the chain in force costs.
    pub cost_before: Cost,
    /// What the candidate costs.
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
    records: u64,
    nanos: u128,
    fuel: u64,
}

impl Sum {
    fn add(&mut self, outcome: &Transformed) {
        self.records += outcome.offsets.len() as u64;
        self.nanos += outcome.steps.iter().map(|step| step.took.as_nanos()).sum::<u128>();
        self.fuel += outcome.steps.iter().map(|step| step.fuel).sum::<u64>();
    }

    fn cost(&self) -> Cost {
        let records = self.records.max(1) as f64;
        Cost { ns_per_event: self.nanos as f64 / records, fuel_per_event: self.fuel as f64 / records }
    }
}

/// Runs the records of `range` that the plan covers through both, at most `records` of them from the range's end.
///
/// # Errors
/// As a replay.
pub(crate) async fn run(
    processor: &Arc<Processor>,
    timeline: &Timeline,
    planned: &[Planned],
    range: &BTreeMap<u32, Range<u64>>,
    records: u64,
    mask: u64,
) -> Result<Preview, SliceError> {
    let began = Instant::now();
    let planning = Planning::of(processor, timeline, planned).await?;
    let mut preview = Preview { revisions: planned.len(), range: range.clone(), ..Preview::default() };
    let (mut before_sum, mut after_sum) = (Sum::default(), Sum::default());
    // Each partition has a share; what one does not need is another's.
    let mut room = records.clamp(1, PREVIEW_RECORDS_MAX);
    let mut partitions_left = range.len() as u64;
    let mut by_length = Vec::with_capacity(range.len());
    for (partition, offsets) in range {
        // What has not come yet can't be shown.
        let end = processor.log().bounds(*partition).await?.end.min(offsets.end);
        by_length.push((partition, offsets.start.min(end)..end));
    }
    by_length.sort_by_key(|(_, offsets)| offsets.end - offsets.start);
    for (partition, offsets) in by_length {
        let share = room / partitions_left.max(1);
        partitions_left -= 1;
        let start = offsets.start.max(offsets.end.saturating_sub(share));
        preview.truncated |= start > offsets.start;
        room -= offsets.end - start;
        if start >= offsets.end {
            continue;
        }
        let after = planning.segments(planning.first(), *partition, start..offsets.end);
        let before = processor.segments_of(timeline, 1, timeline.head(), *partition, start..offsets.end).await?;
        // Two replays of the same batches: they read the same, since a replay's batches follow from the log alone.
        let candidate = processor.replay(*partition, start..offsets.end, after);
        let in_force = processor.replay(*partition, start..offsets.end, before);
        let (mut candidate, mut in_force) = (std::pin::pin!(candidate), std::pin::pin!(in_force));
        while let (Some(after), Some(before)) = (candidate.try_next().await?, in_force.try_next().await?) {
            if after.offsets != before.offsets {
                return Err(SliceError::Internal("two replays of one range were cut in different places".into()));
            }
            preview.read += after.read;
            after_sum.add(&after.outcome);
            before_sum.add(&before.outcome);
            let before = before.outcome.only(&after.outcome.offsets)?;
            preview.diff.add(*partition, &before, &after.outcome, mask);
        }
    }
    preview.cost_before = before_sum.cost();
    preview.cost_after = after_sum.cost();
    preview.seconds = began.elapsed().as_secs_f64();
    Ok(preview)
}
