//! Which job of a store comes next, and how much of it one commit takes: pure.

use std::collections::BTreeMap;
use std::ops::Range;

use millrace_rows::{Backlog, HeldBack, Job, Rewriter};
use millrace_timeline::Timeline;

use crate::progress::JobProgress;
use crate::rematerialize::REBUILD;

/// One commit's worth of a job.
pub(crate) struct Portion {
    /// The offsets that are made again, by partition.
    pub(crate) ranges: BTreeMap<u32, Range<u64>>,
    /// What the job covers after it.
    pub(crate) left: BTreeMap<u32, u64>,
    /// Records that the log has no more.
    pub(crate) frozen: u64,
}

/// The job that comes next: the lowest revision's, and a rebuild when there is no other.
pub(crate) fn next(backlog: &Backlog, rewriter: &dyn Rewriter) -> Option<Job> {
    let jobs = &backlog.jobs;
    jobs.iter().find(|job| job.revision != REBUILD).or(jobs.first()).map(|job| left_of(job, rewriter))
}

/// What a job covers beside what was made for it already.
pub(crate) fn left_of(job: &Job, rewriter: &dyn Rewriter) -> Job {
    if job.revision == REBUILD { HeldBack::left_of(job, &rewriter.held_back()) } else { job.clone() }
}

/// The next portion of a job: at most `records` offsets, from the job's end. `starts` is where the log begins.
///
/// What fits is one portion. Else partitions are cut at multiples of `records`: where the stores took a revision in at different
/// offsets they make the same from the first cut on.
pub(crate) fn cut(timeline: &Timeline, job: &Job, starts: &BTreeMap<u32, u64>, records: u64) -> Portion {
    let mut portion = Portion { ranges: BTreeMap::new(), left: BTreeMap::new(), frozen: 0 };
    let records = records.max(1);
    let ranges = job.below.iter().filter_map(|(partition, below)| {
        let range = timeline.job_range(job, *partition)?;
        let log_start = starts.get(partition).copied().unwrap_or(0);
        Some((partition, below, range.start.max(log_start), range))
    });
    let ranges: Vec<_> = ranges.collect();
    let whole: u64 = ranges.iter().map(|(_, _, start, range)| range.end.saturating_sub(*start)).sum();
    let mut room = records;
    for (partition, below, start, range) in ranges {
        if start >= range.end {
            portion.frozen += range.end - range.start;
            continue;
        }
        let cut = if whole <= records { start } else { (range.end - 1) / records * records };
        let taken = start.max(cut);
        if range.end - taken > room {
            portion.left.insert(*partition, *below);
            continue;
        }
        room -= range.end - taken;
        if taken > start {
            portion.left.insert(*partition, taken);
        } else {
            portion.frozen += start - range.start;
        }
        portion.ranges.insert(*partition, taken..range.end);
    }
    portion
}

/// What is left of a job.
pub(crate) fn job_progress(timeline: &Timeline, job: &Job) -> JobProgress {
    let left = job.below.keys().filter_map(|partition| Some((*partition, timeline.job_range(job, *partition)?)));
    JobProgress { revision: job.revision, left: left.collect(), ..JobProgress::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_timeline::{ChainSpec, Filter, Kind, OffsetRange, Ranges, Revision};
    use proptest::prelude::*;

    fn timeline(ranges: Ranges) -> Timeline {
        let revision = |id, kind, ranges| Revision {
            id,
            kind,
            ranges,
            filter: Filter::default(),
            group: None,
            chain: ChainSpec { semantics: 1, steps: vec![] },
            author: String::new(),
            reason: String::new(),
            created_at_us: 0,
        };
        let first = revision(1, Kind::Activate, Ranges::everything());
        Timeline::new(vec![first, revision(2, Kind::Correct, ranges)]).unwrap()
    }

    proptest! {
        #[test]
        fn portions_cover_a_job_once_from_its_end_and_stop_at_the_log(
            ranges in proptest::collection::btree_map(0..3u32, (0..40u64, proptest::option::of(1..40u64)), 1..3),
            below in proptest::collection::btree_map(0..3u32, 1..80u64, 1..3),
            starts in proptest::collection::btree_map(0..3u32, 0..60u64, 0..3),
            records in 1..30u64,
        ) {
            let partitions = ranges
                .into_iter()
                .map(|(p, (start, length))| (p, OffsetRange { start, end: length.map(|l| start + l) }))
                .collect();
            let timeline = timeline(Ranges { partitions, later_partitions: false });
            let whole = Job { revision: 2, below };
            let mut job = whole.clone();
            let mut made: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
            let mut frozen = 0;
            while !job.below.is_empty() {
                let portion = cut(&timeline, &job, &starts, records);
                let size: u64 = portion.ranges.values().map(|range| range.end - range.start).sum();
                prop_assert!(size <= records);
                prop_assert!(portion.left != job.below, "it comes to an end");
                let fits = job.below.keys().filter_map(|partition| {
                    let range = timeline.job_range(&job, *partition)?;
                    Some(range.end.saturating_sub(range.start.max(starts.get(partition).copied().unwrap_or(0))))
                });
                prop_assert!(fits.sum::<u64>() > records || portion.left.is_empty(), "what fits is one portion");
                for (partition, range) in portion.ranges {
                    made.entry(partition).or_default().extend(range);
                }
                frozen += portion.frozen;
                job.below = portion.left;
            }
            let mut expected_frozen = 0;
            for (partition, below) in &whole.below {
                let range = timeline.get(2).unwrap().ranges.of(*partition);
                let in_job = (0..*below).filter(|offset| range.is_some_and(|range| range.contains(*offset)));
                let start = starts.get(partition).copied().unwrap_or(0);
                let (kept, gone): (Vec<u64>, Vec<u64>) = in_job.partition(|offset| *offset >= start);
                expected_frozen += gone.len() as u64;
                let mut found = made.remove(partition).unwrap_or_default();
                found.sort_unstable();
                prop_assert_eq!(found, kept);
            }
            prop_assert!(made.is_empty());
            prop_assert_eq!(frozen, expected_frozen);
        }
    }
}
