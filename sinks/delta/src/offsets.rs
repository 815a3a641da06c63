//! Sets of log offsets, compact where they lie together.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

/// Ascending offsets as ranges that neither touch nor overlap: 16 bytes a range, whatever its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offsets(Vec<Range<u64>>);

impl Offsets {
    /// Appends an offset. False, and nothing is done, unless it is greater than all that are in already.
    pub(crate) fn push(&mut self, offset: u64) -> bool {
        let Some(end) = offset.checked_add(1) else { return false };
        match self.0.last_mut() {
            Some(last) if offset < last.end => return false,
            Some(last) if offset == last.end => last.end = end,
            _ => self.0.push(offset..end),
        }
        true
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The offsets from the least to the greatest, if none of them is missing.
    pub(crate) fn one_range(&self) -> Option<&Range<u64>> {
        self.0.first().filter(|_| self.0.len() == 1)
    }

    /// Whether `offset` is in.
    pub(crate) fn contains(&self, offset: u64) -> bool {
        self.overlaps(&(offset..=offset))
    }

    /// Whether any offset of `bounds` is in.
    pub(crate) fn overlaps(&self, bounds: &RangeInclusive<u64>) -> bool {
        let at = self.0.partition_point(|range| range.end <= *bounds.start());
        self.0.get(at).is_some_and(|range| range.start <= *bounds.end())
    }

    /// Whether a file or row group with these statistics on offsets may hold one of them. Without statistics it may.
    pub(crate) fn may_be_in(&self, bounds: Option<(i64, i64)>) -> bool {
        let Some((low, high)) = bounds else { return !self.is_empty() };
        let low = u64::try_from(low).unwrap_or(0);
        u64::try_from(high).is_ok_and(|high| low <= high && self.overlaps(&(low..=high)))
    }
}

impl Offsets {
    /// Appends offsets that are all greater than those that are in already; others are left out.
    pub(crate) fn append(&mut self, later: Self) {
        for range in later.0 {
            match self.0.last_mut() {
                Some(last) if range.start < last.end => {}
                Some(last) if range.start == last.end => last.end = range.end,
                _ => self.0.push(range),
            }
        }
    }

    /// Whether every offset of `bounds` is in.
    fn has_all(&self, bounds: &RangeInclusive<u64>) -> bool {
        let at = self.0.partition_point(|range| range.end <= *bounds.start());
        self.0.get(at).is_some_and(|range| range.start <= *bounds.start() && *bounds.end() < range.end)
    }
}

impl FromIterator<u64> for Offsets {
    /// Takes what ascends and leaves out the rest.
    fn from_iter<I: IntoIterator<Item = u64>>(offsets: I) -> Self {
        let mut set = Self::default();
        for offset in offsets {
            set.push(offset);
        }
        set
    }
}

/// Records that were made again, by log partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remade(pub(crate) BTreeMap<u32, Offsets>);

impl Remade {
    /// Whether a row with this lineage gives way.
    pub(crate) fn has(&self, partition: i64, offset: i64) -> bool {
        let offsets = u32::try_from(partition).ok().and_then(|partition| self.0.get(&partition));
        offsets.zip(u64::try_from(offset).ok()).is_some_and(|(offsets, offset)| offsets.contains(offset))
    }

    /// Whether every record of a partition between these offsets, both included, was made again. Without bounds there is no
    /// telling.
    pub(crate) fn has_all_between(&self, partition: Option<u32>, offsets: Option<(i64, i64)>) -> bool {
        let remade = partition.and_then(|partition| self.0.get(&partition));
        remade.zip(offsets).is_some_and(|(remade, (low, high))| {
            let bounds = u64::try_from(low).ok().zip(u64::try_from(high).ok());
            bounds.is_some_and(|(low, high)| low <= high && remade.has_all(&(low..=high)))
        })
    }

    /// Whether a file or row group with these statistics may hold rows that give way. Without statistics it may.
    pub(crate) fn may_be_in(&self, partitions: Option<(i64, i64)>, offsets: Option<(i64, i64)>) -> bool {
        let (low, high) = partitions.unwrap_or((0, i64::MAX));
        let clamp = |bound: i64| u32::try_from(bound.max(0)).unwrap_or(u32::MAX);
        low <= high && self.0.range(clamp(low)..=clamp(high)).any(|(_, remade)| remade.may_be_in(offsets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn neighbours_become_one_range_and_nothing_goes_back() {
        let mut set = Offsets::default();
        assert!([3, 4, 5, 9].into_iter().all(|offset| set.push(offset)));
        assert_eq!(set.one_range(), None);
        assert_eq!([7, 8].into_iter().collect::<Offsets>().one_range(), Some(&(7..9)));
        assert!(!set.push(9) && !set.push(2) && !set.push(u64::MAX));
        assert_eq!(set.0, [3..6, 9..10]);
        assert!(set.may_be_in(Some((-5, 3))) && !set.may_be_in(Some((6, 8))) && !set.may_be_in(Some((-5, -1))));
        let remade = Remade([(2, set.clone())].into());
        assert!(remade.has(2, 9) && !remade.has(2, 8) && !remade.has(3, 9) && !remade.has(-1, 9) && !remade.has(2, -1));
        assert!(remade.may_be_in(Some((0, i64::MAX)), Some((5, 5))) && remade.may_be_in(None, None));
        assert!(!remade.may_be_in(Some((3, 4)), None) && !remade.may_be_in(Some((4, 0)), None));
        assert!(set.may_be_in(None) && !Offsets::default().may_be_in(None));
        assert!(remade.has_all_between(Some(2), Some((3, 5))) && remade.has_all_between(Some(2), Some((9, 9))));
        for not_all in [(3, 6), (5, 9), (2, 3), (6, 6), (-1, 3), (5, 3)] {
            assert!(!remade.has_all_between(Some(2), Some(not_all)), "{not_all:?}");
        }
        assert!(!remade.has_all_between(Some(2), None) && !remade.has_all_between(None, Some((3, 5))));
        set.append([10, 11, 14].into_iter().collect());
        assert_eq!(set.0, [3..6, 9..12, 14..15]);
        set.append([13, 20].into_iter().collect());
        assert_eq!(set.0, [3..6, 9..12, 14..15, 20..21]);
    }

    proptest! {
        #[test]
        fn it_is_the_set_of_what_was_pushed(set in proptest::collection::btree_set(0u64..60, 0..30), low in 0u64..60, span in 0u64..9) {
            let offsets: Offsets = set.iter().copied().collect();
            let model: BTreeSet<u64> = (0..70).filter(|offset| offsets.contains(*offset)).collect();
            prop_assert_eq!(&model, &set);
            prop_assert_eq!(offsets.overlaps(&(low..=low + span)), set.range(low..=low + span).next().is_some());
        }
    }
}
