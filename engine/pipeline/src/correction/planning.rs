//! A plan as it would stand in the timeline.

use std::ops::Range;

use millrace_timeline::Timeline;

use crate::correction::plan::{self, Asked, Planned};
use crate::processor::{Processor, SliceError};
use crate::transform::{Candidate, Segment};

/// A plan as it would stand in the timeline, with its chains ready to run: not by way of the chains of real revisions, which
/// are kept by number.
pub(crate) struct Planning {
    timeline: Timeline,
    head: u64,
    candidates: Vec<Candidate>,
}

impl Planning {
    pub(crate) async fn of(processor: &Processor, before: &Timeline, planned: &[Planned]) -> Result<Self, SliceError> {
        let head = before.head();
        let later = plan::revisions(head, planned, Asked::default());
        let mut candidates = Vec::with_capacity(later.len());
        for revision in &later {
            let chain = processor.chains().build(&revision.chain).await?;
            candidates.push(Candidate { revision: revision.id, filter: revision.filter.clone(), chain });
        }
        let timeline = Timeline::new([before.revisions(), &later].concat());
        let timeline = timeline.map_err(|error| SliceError::Internal(error.to_string()))?;
        Ok(Self { timeline, head, candidates })
    }

    /// Its first revision.
    pub(crate) fn first(&self) -> u64 {
        self.head + 1
    }

    /// Its last revision.
    pub(crate) fn last(&self) -> u64 {
        self.timeline.head()
    }

    /// What its job will be in a partition that a store has up to `end`.
    pub(crate) fn job_range(&self, partition: u32, end: u64) -> Option<Range<u64>> {
        let job = self.timeline.job(self.first(), &[(partition, end)].into())?;
        self.timeline.job_range(&job, partition)
    }

    /// What the plan brings into force for a range, by revisions from `least` on, and nothing of what is in force already.
    pub(crate) fn segments(&self, least: u64, partition: u32, offsets: Range<u64>) -> Vec<Segment> {
        let pieces = self.timeline.segments(self.last(), partition, offsets);
        let pieces = pieces.into_iter().filter_map(|(offsets, revisions)| {
            let planned = revisions.into_iter().filter(|revision| revision.id >= least).filter_map(|revision| {
                let index = revision.id.checked_sub(self.head + 1)?;
                self.candidates.get(usize::try_from(index).ok()?).cloned()
            });
            let candidates: Vec<Candidate> = planned.collect();
            (!candidates.is_empty()).then_some(Segment { offsets, candidates })
        });
        pieces.collect()
    }
}
