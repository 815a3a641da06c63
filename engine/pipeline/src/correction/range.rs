//! From a range as it is asked for to offsets.
//!
//! `Engine::resolve` asks the log; what follows from its answers is `offsets_of` and `Resolved::of`, which are pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use millrace_log::ReadLimit;
use millrace_timeline::Filter;
use serde::Serialize;

use crate::correction::CorrectionError;
use crate::engine::Engine;

/// The largest offset that a range may name: rows carry theirs as signed 64-bit numbers.
pub const OFFSET_MAX: u64 = i64::MAX.unsigned_abs();

/// One end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// An offset, the same in each partition.
    Offset(u64),
    /// A time, µs since 1970: when the log took a record.
    Time(i64),
}

/// Which records a correction is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSource {
    /// The first; `None`: the log's first.
    pub from: Option<Bound>,
    /// Past the last; `None`: the log's end at the moment.
    pub to: Option<Bound>,
    /// The last so many of each partition, instead of the two above.
    pub last: Option<u64>,
    /// Only these partitions; none: all.
    pub partitions: BTreeSet<u32>,
    /// Only records whose decoded columns have these values.
    pub filter: Filter,
}

/// What a range came to that its offsets alone do not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RangeFacts {
    /// Offsets of the range that the log does not hold yet, by partition: the correction holds for events to come there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ahead: BTreeMap<u32, Range<u64>>,
    /// Partitions that have fewer offsets than the last so many that were asked for, with how many they have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fewer: BTreeMap<u32, u64>,
}

impl RangeFacts {
    /// The same in sentences, for people.
    pub fn notes(&self) -> Vec<String> {
        let ahead = by_value(self.ahead.iter().map(|(partition, range)| (*partition, range.end.saturating_sub(1))));
        let ahead: Vec<String> =
            ahead.into_iter().map(|(last, partitions)| format!("offset {last} of {partitions}")).collect();
        let fewer = by_value(self.fewer.iter().map(|(partition, have)| (*partition, *have)));
        let fewer: Vec<String> =
            fewer.into_iter().map(|(have, partitions)| format!("{have} in {partitions}")).collect();
        let mut notes = Vec::new();
        if !ahead.is_empty() {
            notes.push(format!("it also holds for events to come, up to {}", ahead.join(", and ")));
        }
        if !fewer.is_empty() {
            notes.push(format!(
                "the log has fewer events than the last so many that were asked for: {}",
                fewer.join(", ")
            ));
        }
        notes
    }
}

/// Partitions of which the same is to be said, in words.
fn by_value<T: Ord>(of: impl Iterator<Item = (u32, T)>) -> BTreeMap<T, String> {
    let mut partitions: BTreeMap<T, Vec<String>> = BTreeMap::new();
    for (partition, value) in of {
        partitions.entry(value).or_default().push(partition.to_string());
    }
    let words = |list: Vec<String>| match list.as_slice() {
        [one] => format!("partition {one}"),
        many => format!("partitions {}", many.join(", ")),
    };
    partitions.into_iter().map(|(value, list)| (value, words(list))).collect()
}

/// A range in offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The offsets, by partition; none is empty.
    pub(crate) offsets: BTreeMap<u32, Range<u64>>,
    pub(crate) facts: RangeFacts,
}

/// What the log says of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    /// First offset stored, and the one that the next record gets.
    bounds: Range<u64>,
    /// When the log took the first that it has, µs since 1970, if it has one.
    first_us: Option<i64>,
    /// Where a range begins that begins at a time.
    from_time: Option<u64>,
    /// Where one ends that ends at a time.
    to_time: Option<u64>,
}

fn wrong(detail: impl Into<String>) -> CorrectionError {
    CorrectionError::Range(detail.into())
}

/// What is wrong with a range whatever the log holds.
fn check(source: &RangeSource) -> Result<(), CorrectionError> {
    if source.last.is_some() && (source.from.is_some() || source.to.is_some()) {
        return Err(wrong("give either last, or from and to"));
    }
    if source.last == Some(0) {
        return Err(wrong("the last 0 events are none: give a number from 1 on"));
    }
    for (name, bound) in [("from", source.from), ("to", source.to)] {
        if let Some(Bound::Offset(offset)) = bound
            && offset > OFFSET_MAX
        {
            return Err(wrong(format!("{name}: {offset} is no offset: the largest is {OFFSET_MAX}")));
        }
    }
    match (source.from, source.to) {
        (Some(Bound::Offset(from)), Some(Bound::Offset(to))) if from >= to => {
            Err(wrong(format!("the range {from} to {to} is empty: to is the offset past the last")))
        }
        (Some(Bound::Time(from)), Some(Bound::Time(to))) if from >= to => {
            Err(wrong("the range is empty: it ends before it begins"))
        }
        _ => Ok(()),
    }
}

/// The offsets that a range means in one partition; empty where it has none there.
fn offsets_of(source: &RangeSource, partition: u32, found: &Found) -> Result<Range<u64>, CorrectionError> {
    let Range { start: first, end } = found.bounds;
    let from = match (source.last, source.from) {
        (Some(last), _) => end.saturating_sub(last).max(first),
        (None, None) => first,
        (None, Some(Bound::Offset(from))) if from < first => {
            return Err(CorrectionError::BelowHorizon { partition, from, first });
        }
        (None, Some(Bound::Offset(from))) => from,
        (None, Some(Bound::Time(from_us))) => match found.first_us {
            // Records before the first were there: some of them may have come after that time.
            Some(first_us) if first > 0 && from_us < first_us => {
                return Err(CorrectionError::TimeBelowHorizon { partition, from_us, first, first_us });
            }
            _ => found.from_time.unwrap_or(end),
        },
    };
    let to = match source.to {
        None => end,
        Some(Bound::Offset(to)) => to,
        Some(Bound::Time(_)) => found.to_time.unwrap_or(end),
    };
    Ok(from..to.max(from))
}

impl Resolved {
    fn of(source: &RangeSource, found: &BTreeMap<u32, Found>) -> Result<Self, CorrectionError> {
        let mut resolved = Self::default();
        for (partition, found) in found {
            let range = offsets_of(source, *partition, found)?;
            if range.is_empty() {
                continue;
            }
            let Range { start: first, end } = found.bounds;
            if range.end > end {
                resolved.facts.ahead.insert(*partition, range.start.max(end)..range.end);
            }
            if source.last.is_some_and(|last| last > end - first) {
                resolved.facts.fewer.insert(*partition, end - first);
            }
            resolved.offsets.insert(*partition, range);
        }
        if resolved.offsets.is_empty() { Err(holds_nothing(source, found)) } else { Ok(resolved) }
    }
}

/// Why a range holds nothing in any partition.
fn holds_nothing(source: &RangeSource, found: &BTreeMap<u32, Found>) -> CorrectionError {
    for (partition, Found { bounds, to_time, .. }) in found {
        let below = match source.to {
            Some(Bound::Offset(to)) => to <= bounds.start,
            Some(Bound::Time(_)) => to_time.is_some_and(|to| to <= bounds.start),
            None => false,
        };
        if below && bounds.start > 0 {
            return CorrectionError::AllBelowHorizon { partition: *partition, first: bounds.start };
        }
    }
    let bounds =
        by_value(found.iter().map(|(partition, Found { bounds, .. })| (*partition, (bounds.start, bounds.end))));
    let bounds = bounds.into_iter().map(|((first, end), partitions)| match first < end {
        true => format!("offsets {first} to {} in {partitions}", end - 1),
        false => format!("nothing before offset {end} in {partitions}"),
    });
    wrong(format!("the range holds no record of the log, which has {}", bounds.collect::<Vec<_>>().join(", ")))
}

impl Engine {
    /// The offsets that a range means.
    pub(crate) async fn resolve(&self, source: &RangeSource) -> Result<Resolved, CorrectionError> {
        check(source)?;
        let partitions = self.log().partitions();
        if let Some(partition) = source.partitions.iter().find(|partition| **partition >= partitions) {
            return Err(wrong(format!("there is no partition {partition}: the log has {partitions}, counted from 0")));
        }
        let asked = |partition: &u32| source.partitions.is_empty() || source.partitions.contains(partition);
        let mut found = BTreeMap::new();
        for partition in (0..partitions).filter(asked) {
            let bounds = self.log().bounds(partition).await?;
            let (mut first_us, mut from_time, mut to_time) = (None, None, None);
            if let Some(Bound::Time(time)) = source.from {
                from_time = Some(self.log().offset_at(partition, time).await?);
                if bounds.start > 0 && !bounds.is_empty() {
                    let one = ReadLimit { records: 1, bytes: 1 };
                    let records = self.log().read(partition, bounds.start, one).await?;
                    first_us = records.first().map(|record| record.appended_at_us);
                }
            }
            if let Some(Bound::Time(time)) = source.to {
                to_time = Some(self.log().offset_at(partition, time).await?);
            }
            found.insert(partition, Found { bounds, first_us, from_time, to_time });
        }
        Resolved::of(source, &found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bounds: Range<u64>) -> Found {
        Found { bounds, first_us: Some(1000), from_time: None, to_time: None }
    }

    fn offsets(from: Option<u64>, to: Option<u64>) -> RangeSource {
        let bound = |offset: Option<u64>| offset.map(Bound::Offset);
        RangeSource { from: bound(from), to: bound(to), ..RangeSource::default() }
    }

    fn resolved(source: &RangeSource, found: &[Found]) -> Result<Resolved, String> {
        check(source).map_err(|error| error.to_string())?;
        Resolved::of(source, &(0..).zip(found.iter().cloned()).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_lies_ahead_of_the_log_is_told() {
        let range = resolved(&offsets(None, Some(OFFSET_MAX)), &[found(0..10), found(0..10), found(0..0)]).unwrap();
        assert_eq!(range.facts.ahead, [(0, 10..OFFSET_MAX), (1, 10..OFFSET_MAX), (2, 0..OFFSET_MAX)].into());
        let last = OFFSET_MAX - 1;
        let note = format!("it also holds for events to come, up to offset {last} of partitions 0, 1, 2");
        assert_eq!(range.facts.notes(), [note]);
        let range = resolved(&offsets(Some(5), Some(20)), &[found(0..30), found(0..10), found(0..3)]).unwrap();
        assert_eq!(range.facts.ahead, [(1, 10..20), (2, 5..20)].into());
        let error = resolved(&offsets(None, Some(u64::MAX)), &[found(0..10)]).unwrap_err();
        assert!(error.contains("to: 18446744073709551615 is no offset: the largest is 9223372036854775807"), "{error}");
    }

    #[test]
    fn a_range_below_the_horizon_is_no_range_of_what_is_left() {
        let log = [found(100..200)];
        let error = resolved(&offsets(Some(5), None), &log).unwrap_err();
        assert!(error.contains("begins at offset 5, the log at 100"), "{error}");
        for to in [5, 100] {
            let error = resolved(&offsets(None, Some(to)), &log).unwrap_err();
            assert!(error.contains("retention has removed all of the range") && error.contains("100"), "{error}");
        }
        assert_eq!(resolved(&offsets(None, Some(101)), &log).unwrap().offsets, [(0, 100..101)].into());
        let at = |time, from_time| {
            let source = RangeSource { from: Some(Bound::Time(time)), ..RangeSource::default() };
            resolved(&source, &[Found { from_time: Some(from_time), ..log[0].clone() }])
        };
        let error = at(999, 100).unwrap_err();
        assert!(error.contains("1970-01-01T00:00:00.000999Z") && error.contains("00:00:00.001Z"), "{error}");
        assert_eq!(at(1000, 100).unwrap().offsets, [(0, 100..200)].into());
        // Nothing was ever removed: there were no records at that time.
        let source = RangeSource { from: Some(Bound::Time(1)), ..RangeSource::default() };
        let new = Found { from_time: Some(0), ..found(0..10) };
        assert_eq!(resolved(&source, &[new]).unwrap().offsets, [(0, 0..10)].into());
        let source = RangeSource { to: Some(Bound::Time(1)), ..RangeSource::default() };
        let error = resolved(&source, &[Found { to_time: Some(100), ..log[0].clone() }]).unwrap_err();
        assert!(error.contains("retention has removed all of the range"), "{error}");
    }

    #[test]
    fn the_last_so_many_are_what_there_is() {
        let last = |last| RangeSource { last: Some(last), ..RangeSource::default() };
        let range = resolved(&last(50), &[found(0..10), found(100..200), found(0..50)]).unwrap();
        assert_eq!(range.offsets, [(0, 0..10), (1, 150..200), (2, 0..50)].into());
        assert_eq!(range.facts.fewer, [(0, 10)].into());
        assert!(range.facts.notes()[0].ends_with("10 in partition 0"), "{:?}", range.facts.notes());
        assert!(resolved(&last(u64::MAX), &[found(0..10)]).is_ok());
        assert!(resolved(&last(0), &[found(0..10)]).unwrap_err().contains("from 1 on"));
    }
}
