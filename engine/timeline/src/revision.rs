//! Revisions and the pure functions over them. Nothing here reads a clock or a store.

use std::collections::BTreeMap;
use std::ops::Range;

use millrace_rows::Job;
use serde::{Deserialize, Serialize};

use crate::chain::ChainSpec;
use crate::filter::Filter;

/// Why a revision was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A chain for what comes from here on.
    Activate,
    /// A chain for records that were already there.
    Correct,
    /// The removal of a person.
    Erase,
}

/// A half-open range of offsets; without an end it goes on for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffsetRange {
    /// First offset in the range.
    pub start: u64,
    /// First offset past it; `None`: open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
}

impl OffsetRange {
    /// Whether the range holds `offset`.
    pub fn contains(&self, offset: u64) -> bool {
        self.start <= offset && self.end.is_none_or(|end| offset < end)
    }

    fn is_empty(&self) -> bool {
        self.end.is_some_and(|end| end <= self.start)
    }
}

/// The records that a revision is about: per partition one range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranges {
    /// Partitions named one by one.
    pub partitions: BTreeMap<u32, OffsetRange>,
    /// Whether partitions that are not named, because they were added later, are covered from offset 0.
    pub later_partitions: bool,
}

impl Ranges {
    /// Every record of every partition, now and later.
    pub fn everything() -> Self {
        Self { partitions: BTreeMap::new(), later_partitions: true }
    }

    /// Everything from the given offset of each partition on, and all of partitions added later.
    pub fn from_ends(ends: impl IntoIterator<Item = (u32, u64)>) -> Self {
        let partitions = ends.into_iter().map(|(p, start)| (p, OffsetRange { start, end: None })).collect();
        Self { partitions, later_partitions: true }
    }

    /// The range in one partition.
    pub fn of(&self, partition: u32) -> Option<OffsetRange> {
        match self.partitions.get(&partition) {
            Some(range) => Some(*range),
            None => self.later_partitions.then_some(OffsetRange { start: 0, end: None }),
        }
    }
}

/// One entry of the timeline. Never changed once appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    /// 1, 2, 3 …: a higher one wins where both cover a record.
    pub id: u64,
    /// Why it was appended.
    pub kind: Kind,
    /// Which offsets it covers.
    pub ranges: Ranges,
    /// Which records of them.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
    /// The first revision of the group that was appended with this one at once; `None`: it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u64>,
    /// What is in force for them.
    pub chain: ChainSpec,
    /// Who appended it.
    pub author: String,
    /// Why, in their words.
    pub reason: String,
    /// When, µs since 1970 UTC. For people: no decision depends on it.
    pub created_at_us: i64,
}

impl Revision {
    /// Whether it can stand in a timeline: checked before it is appended, since nothing takes it out again.
    ///
    /// # Errors
    /// When its filter can't be, or a range is empty.
    pub fn check(&self) -> Result<(), TimelineError> {
        if let Some(detail) = self.filter.problem() {
            return Err(TimelineError::Filter { revision: self.id, detail });
        }
        for (partition, range) in &self.ranges.partitions {
            if let (true, Some(end)) = (range.is_empty(), range.end) {
                let (revision, partition, start) = (self.id, *partition, range.start);
                return Err(TimelineError::EmptyRange { revision, partition, start, end });
            }
        }
        Ok(())
    }
}

/// A list of revisions that is no timeline.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TimelineError {
    /// An id is missing or doubled.
    #[error("revision {found} stands where revision {expected} should be")]
    Order {
        /// The id that belongs there.
        expected: u64,
        /// The id that is there.
        found: u64,
    },
    /// The first revision leaves records without a chain.
    #[error("revision 1 must cover every record of every partition")]
    FirstNotTotal,
    /// A filter that can't be.
    #[error("revision {revision}: {detail}")]
    Filter {
        /// The revision.
        revision: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// A range that holds nothing.
    #[error("revision {revision}: the range of partition {partition} is empty: {start} to {end}")]
    EmptyRange {
        /// The revision.
        revision: u64,
        /// The partition.
        partition: u32,
        /// First offset.
        start: u64,
        /// First offset past it.
        end: u64,
    },
}

/// The append-only list of revisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    revisions: Vec<Revision>,
}

impl Timeline {
    /// A timeline of revisions in the order of their ids.
    ///
    /// # Errors
    /// When the ids are not 1, 2, 3 …, the first does not cover everything, or a range is empty.
    pub fn new(revisions: Vec<Revision>) -> Result<Self, TimelineError> {
        for (expected, revision) in (1..).zip(&revisions) {
            if revision.id != expected {
                return Err(TimelineError::Order { expected, found: revision.id });
            }
            if expected == 1 && (revision.ranges != Ranges::everything() || !revision.filter.is_empty()) {
                return Err(TimelineError::FirstNotTotal);
            }
            revision.check()?;
        }
        Ok(Self { revisions })
    }

    /// The highest revision's id; 0 when there is none yet.
    pub fn head(&self) -> u64 {
        self.revisions.len() as u64
    }

    /// All revisions, lowest id first.
    pub fn revisions(&self) -> &[Revision] {
        &self.revisions
    }

    /// One revision.
    pub fn get(&self, id: u64) -> Option<&Revision> {
        id.checked_sub(1).and_then(|index| self.revisions.get(usize::try_from(index).ok()?))
    }

    /// Whether it has exactly these revisions under their numbers.
    pub fn has(&self, revisions: &[Revision]) -> bool {
        revisions.iter().all(|revision| self.get(revision.id) == Some(revision))
    }

    /// The revisions of which one is in force for a record, for a store that has taken in revisions up to `applied`:
    /// those that cover its offset, highest first, down to the first without a filter. Empty only where `applied` is 0.
    pub fn candidates(&self, applied: u64, partition: u32, offset: u64) -> Vec<&Revision> {
        let taken_in = self.revisions.len().min(usize::try_from(applied).unwrap_or(usize::MAX));
        let covers = |revision: &&Revision| revision.ranges.of(partition).is_some_and(|range| range.contains(offset));
        let mut candidates = Vec::new();
        for revision in self.revisions[..taken_in].iter().rev().filter(covers) {
            candidates.push(revision);
            if revision.filter.is_empty() {
                break;
            }
        }
        candidates
    }

    /// The revision in force for one record: the highest one of which range and filter both match. `matches` tells
    /// whether the record matches a filter; it is not asked for empty ones. `None` only where `applied` is 0.
    pub fn in_force_for(
        &self,
        applied: u64,
        partition: u32,
        offset: u64,
        matches: impl Fn(&Filter) -> bool,
    ) -> Option<&Revision> {
        let candidates = self.candidates(applied, partition, offset);
        candidates.into_iter().find(|revision| revision.filter.is_empty() || matches(&revision.filter))
    }

    /// The revision in force for a record that no filter matches.
    pub fn in_force(&self, applied: u64, partition: u32, offset: u64) -> Option<&Revision> {
        self.in_force_for(applied, partition, offset, |_| false)
    }

    /// The revision in force for what comes next, in any partition.
    pub fn current(&self) -> Option<&Revision> {
        self.in_force(self.head(), u32::MAX, u64::MAX)
    }

    /// The activation before the last one: what to go back to. A correction is none: what it brings into force is for records of
    /// the past.
    pub fn previous_activation(&self) -> Option<&Revision> {
        self.revisions.iter().rev().filter(|revision| revision.kind == Kind::Activate).nth(1)
    }

    /// Cuts a range of offsets into the longest pieces that have the same candidates throughout, in offset order.
    pub fn segments(&self, applied: u64, partition: u32, offsets: Range<u64>) -> Vec<(Range<u64>, Vec<&Revision>)> {
        // What is in force can change only where some range begins or ends.
        let mut cuts: Vec<u64> = self
            .revisions
            .iter()
            .filter_map(|revision| revision.ranges.of(partition))
            .flat_map(|range| [Some(range.start), range.end])
            .flatten()
            .filter(|cut| offsets.start < *cut && *cut < offsets.end)
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        cuts.push(offsets.end);
        let mut segments: Vec<(Range<u64>, Vec<&Revision>)> = Vec::new();
        let mut start = offsets.start;
        for end in cuts.into_iter().filter(|end| offsets.start < *end) {
            let candidates = self.candidates(applied, partition, start);
            let ids = |revisions: &[&Revision]| revisions.iter().map(|revision| revision.id).collect::<Vec<_>>();
            match segments.last_mut() {
                Some((range, last)) if range.end == start && ids(last) == ids(&candidates) => range.end = end,
                _ if candidates.is_empty() => {}
                _ => segments.push((start..end, candidates)),
            }
            start = end;
        }
        segments
    }

    /// The last of the revisions that a store takes in together with `first`: those of a group come into force at once.
    pub fn taken_in_with(&self, first: u64) -> u64 {
        self.together(first).last().map_or(first, |revision| revision.id)
    }

    /// `first` and the later revisions of its group.
    fn together(&self, first: u64) -> impl Iterator<Item = &Revision> {
        let group = self.get(first).and_then(|revision| revision.group);
        let from = usize::try_from(first.saturating_sub(1)).unwrap_or(usize::MAX).min(self.revisions.len());
        let of_it = move |revision: &&Revision| revision.id == first || (group.is_some() && revision.group == group);
        self.revisions[from..].iter().take_while(of_it)
    }

    /// What `first` and the later revisions of its group cover in one partition, from the least offset to the greatest. An open
    /// end is `None`.
    fn covered_together(&self, first: u64, partition: u32) -> Option<OffsetRange> {
        let ranges = self.together(first).filter_map(|revision| revision.ranges.of(partition));
        ranges.reduce(|one, two| OffsetRange {
            start: one.start.min(two.start),
            end: one.end.zip(two.end).map(|(one, two)| one.max(two)),
        })
    }

    /// Where a job's work in one partition begins and ends: what its revision and the later ones of its group cover, below
    /// what is left of it.
    pub fn job_range(&self, job: &Job, partition: u32) -> Option<Range<u64>> {
        let range = self.covered_together(job.revision, partition)?;
        let below = *job.below.get(&partition)?;
        let end = range.end.map_or(below, |end| end.min(below));
        (range.start < end).then_some(range.start..end)
    }

    /// Whether the rows of these records are the same under `applied` as under `before`: no revision in between covers any of
    /// them.
    pub fn is_unchanged(&self, before: u64, applied: u64, partition: u32, offsets: &Range<u64>) -> bool {
        let mut between = self.revisions.iter().filter(|revision| before < revision.id && revision.id <= applied);
        let covers = |range: OffsetRange| {
            range.start < offsets.end && range.end.is_none_or(|end| offsets.start < end) && !offsets.is_empty()
        };
        !between.any(|revision| revision.ranges.of(partition).is_some_and(covers))
    }

    /// The offset that a store which has taken in revisions up to `applied` must not pass in a partition: where a later
    /// activation begins. Up to there nothing changes for it; from there on it takes the activation in first, so an
    /// activation leaves nothing behind a cursor.
    pub fn limit(&self, applied: u64, partition: u32) -> Option<u64> {
        let later = self.revisions.iter().filter(|revision| revision.id > applied && revision.kind == Kind::Activate);
        later.filter_map(|revision| revision.ranges.of(partition)).map(|range| range.start).min()
    }

    /// The offset below which no revision that a store with `applied` has not taken in has anything to make again.
    pub fn needed_from(&self, applied: u64, partition: u32) -> u64 {
        let later = self.revisions.iter().filter(|revision| revision.id > applied && revision.kind != Kind::Activate);
        later.filter_map(|revision| revision.ranges.of(partition)).map(|range| range.start).min().unwrap_or(u64::MAX)
    }

    /// What taking in `revision`, with the later ones of its group, leaves to do for a store whose cursors are `cursors`: the
    /// part of their ranges that is already written. `None` when that is nothing.
    pub fn job(&self, revision: u64, cursors: &BTreeMap<u32, u64>) -> Option<Job> {
        if revision <= 1 {
            // Nothing was written before revision 1.
            return None;
        }
        let covered = |partition| self.covered_together(revision, partition);
        let below: BTreeMap<u32, u64> = cursors
            .iter()
            .filter(|(partition, next)| covered(**partition).is_some_and(|range| range.start < **next))
            .map(|(partition, next)| (*partition, *next))
            .collect();
        (!below.is_empty()).then_some(Job { revision, below })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn revision(id: u64, ranges: Ranges) -> Revision {
        Revision {
            id,
            kind: if id == 1 { Kind::Activate } else { Kind::Correct },
            ranges,
            filter: Filter::default(),
            group: None,
            chain: ChainSpec { semantics: 1, steps: vec![] },
            author: "test".into(),
            reason: "test".into(),
            created_at_us: 0,
        }
    }

    fn any_ranges() -> impl Strategy<Value = Ranges> {
        let range = (0..40u64, proptest::option::of(1..20u64))
            .prop_map(|(start, length)| OffsetRange { start, end: length.map(|length| start + length) });
        (proptest::collection::btree_map(0..3u32, range, 0..3), any::<bool>())
            .prop_map(|(partitions, later_partitions)| Ranges { partitions, later_partitions })
    }

    fn any_filter() -> impl Strategy<Value = Filter> {
        prop_oneof![
            Just(Filter::default()),
            Just(Filter::default().with("app", ["a"])),
            Just(Filter::default().with("app", ["a", "b"])),
        ]
    }

    fn any_timeline() -> impl Strategy<Value = Timeline> {
        proptest::collection::vec((any_ranges(), any_filter()), 0..6).prop_map(|later| {
            let all = std::iter::once((Ranges::everything(), Filter::default())).chain(later);
            let revisions = (1..).zip(all).map(|(id, (ranges, filter))| Revision { filter, ..revision(id, ranges) });
            Timeline::new(revisions.collect()).unwrap()
        })
    }

    fn matching<'a>(app: &'a str) -> impl Fn(&Filter) -> bool + 'a {
        move |filter| filter.matches(|_| Some(app))
    }

    proptest! {
        #[test]
        fn segments_agree_with_in_force_and_tile_the_range(
            timeline in any_timeline(), applied in 1..8u64, partition in 0..4u32, start in 0..60u64, length in 0..60u64,
        ) {
            let segments = timeline.segments(applied, partition, start..start + length);
            let mut at = start;
            for (range, candidates) in &segments {
                prop_assert_eq!(range.start, at);
                prop_assert!(range.start < range.end);
                for offset in range.clone() {
                    for app in ["a", "b", "c"] {
                        let found = candidates.iter().find(|r| r.filter.is_empty() || matching(app)(&r.filter));
                        let expected = timeline.in_force_for(applied, partition, offset, matching(app));
                        prop_assert_eq!(found.unwrap().id, expected.unwrap().id);
                    }
                }
                at = range.end;
            }
            prop_assert_eq!(at, start + length);
            prop_assert!(segments.windows(2).all(|pair| pair[0].1 != pair[1].1), "as long as possible");
        }

        #[test]
        fn the_highest_that_matches_is_in_force(
            timeline in any_timeline(), applied in 1..8u64, partition in 0..4u32, offset in 0..80u64,
        ) {
            for app in ["a", "b", "c"] {
                let naive = timeline.revisions().iter().filter(|revision| {
                    revision.id <= applied
                        && revision.ranges.of(partition).is_some_and(|range| range.contains(offset))
                        && revision.filter.matches(|_| Some(app))
                });
                let found = timeline.in_force_for(applied, partition, offset, matching(app));
                prop_assert_eq!(found.map(|r| r.id), naive.max_by_key(|r| r.id).map(|r| r.id));
            }
        }

        #[test]
        fn a_revision_not_taken_in_changes_nothing(timeline in any_timeline(), partition in 0..4u32, offset in 0..80u64) {
            let first = timeline.in_force(1, partition, offset).unwrap();
            prop_assert_eq!(first.id, 1);
        }

        #[test]
        fn up_to_the_limit_no_later_activation_changes_anything(
            timeline in any_timeline(), applied in 1..8u64, partition in 0..4u32,
        ) {
            let mut revisions = timeline.revisions().to_vec();
            revisions.iter_mut().for_each(|revision| revision.kind = Kind::Activate);
            let timeline = Timeline::new(revisions).unwrap();
            let limit = timeline.limit(applied, partition).unwrap_or(200);
            for offset in 0..limit.min(200) {
                let now = timeline.in_force(applied, partition, offset).map(|revision| revision.id);
                let later = timeline.in_force(u64::MAX, partition, offset).map(|revision| revision.id);
                prop_assert_eq!(now, later);
            }
        }

        #[test]
        fn job_and_live_loop_share_a_revision_without_overlap(
            timeline in any_timeline(), cursors in proptest::collection::btree_map(0..4u32, 0..80u64, 0..4),
        ) {
            // None of them is of a group.
            for id in 2..=timeline.head() {
                let ranges = &timeline.get(id).unwrap().ranges;
                let job = timeline.job(id, &cursors);
                for (partition, next) in &cursors {
                    let written = (0..*next).any(|o| ranges.of(*partition).is_some_and(|r| r.contains(o)));
                    let in_job = job.as_ref().is_some_and(|job| job.below.contains_key(partition));
                    prop_assert_eq!(in_job, written);
                }
            }
        }
    }

    #[test]
    fn a_group_is_taken_in_at_once_and_leaves_one_job() {
        let ranges = |partition, start, end| Ranges {
            partitions: BTreeMap::from([(partition, OffsetRange { start, end })]),
            later_partitions: false,
        };
        let mut revisions = vec![revision(1, Ranges::everything())];
        let pieces = [ranges(0, 10, Some(20)), ranges(0, 30, Some(40)), ranges(1, 5, None), ranges(0, 0, Some(90))];
        revisions.extend(
            (2..)
                .zip(pieces)
                .map(|(id, ranges)| Revision { group: Some(if id < 5 { 2 } else { 5 }), ..revision(id, ranges) }),
        );
        let timeline = Timeline::new(revisions).unwrap();
        let with: Vec<u64> = (0..7).map(|first| timeline.taken_in_with(first)).collect();
        assert_eq!(with, [0, 1, 4, 4, 4, 5, 6]);
        let cursors = BTreeMap::from([(0, 35), (1, 7), (2, 9)]);
        let job = timeline.job(2, &cursors).unwrap();
        assert_eq!(job, Job { revision: 2, below: BTreeMap::from([(0, 35), (1, 7)]) });
        let range = |partition| timeline.job_range(&job, partition);
        assert_eq!((range(0), range(1), range(2)), (Some(10..35), Some(5..7), None));
        // A store that an earlier version has brought into the middle of a group.
        assert_eq!(timeline.job(3, &cursors).unwrap().below, BTreeMap::from([(0, 35), (1, 7)]));
        assert_eq!(timeline.job(3, &BTreeMap::from([(0, 30)])), None);
        assert_eq!(timeline.job(4, &cursors).unwrap().below, BTreeMap::from([(1, 7)]));
    }

    #[test]
    fn going_back_passes_over_corrections() {
        let kinds = [Kind::Activate, Kind::Correct, Kind::Activate, Kind::Correct, Kind::Correct];
        let revisions = (1..).zip(kinds).map(|(id, kind)| Revision { kind, ..revision(id, Ranges::everything()) });
        let revisions: Vec<_> = revisions.collect();
        let before = |count: usize| {
            Timeline::new(revisions[..count].to_vec()).unwrap().previous_activation().map(|revision| revision.id)
        };
        assert_eq!([before(0), before(1), before(2), before(3), before(5)], [None, None, None, Some(1), Some(1)]);
    }

    #[test]
    fn what_is_no_timeline_is_refused() {
        assert_eq!(
            Timeline::new(vec![revision(2, Ranges::everything())]),
            Err(TimelineError::Order { expected: 1, found: 2 })
        );
        assert_eq!(Timeline::new(vec![revision(1, Ranges::from_ends([(0, 5)]))]), Err(TimelineError::FirstNotTotal));
        let empty = Ranges {
            partitions: BTreeMap::from([(0, OffsetRange { start: 5, end: Some(5) })]),
            later_partitions: false,
        };
        assert!(matches!(
            Timeline::new(vec![revision(1, Ranges::everything()), revision(2, empty)]),
            Err(TimelineError::EmptyRange { revision: 2, .. })
        ));
    }
}
