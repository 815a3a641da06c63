//! What a correction copies of the files that it takes out of force: the row groups that hold nothing of it.
//!
//! A file is spliced if it is one of this crate on this machine, has the columns that would be written, and its row
//! groups follow on each other by offset. Then a row group without a remade record and without a new row between its
//! bounds is copied; the rest is merged and encoded in its place. Files of which this can't be said are merged whole.
//!
//! The offsets of new rows of one date and log partition are in memory while it is planned: 8 bytes a row.

use std::sync::Arc;

use chrono::NaiveDate;
use millrace_rows::StoreError;
use millrace_rows::schema::OFFSET;
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::SchemaDescriptor;
use tokio::runtime::Handle;

use crate::error::broken;
use crate::merge::{self, Source, in_runs};
use crate::names::is_data_file;
use crate::reader::{DataFile, group_offsets};
use crate::splice::{Splice, Step};
use crate::stats::FileStats;
use crate::table::Table;

/// A row group of a file that can be spliced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// Least and greatest offset.
    bounds: (i64, i64),
    rows: u64,
    /// Rows of no remade record.
    kept: u64,
}

/// The row groups of a file, `kept` rows of each to stay; `None` if it is to be merged as a whole.
pub(crate) fn spliceable(
    table: &Table,
    file: &DataFile,
    metadata: &ParquetMetaData,
    written: &SchemaDescriptor,
    kept: &[u64],
) -> Option<Vec<Group>> {
    // The statistics of other writers are their business.
    let ours = table.local.is_some() && is_data_file(&file.path) && file.partition().is_some();
    if !ours || metadata.file_metadata().schema_descr().root_schema() != written.root_schema() {
        return None;
    }
    let mut groups = Vec::with_capacity(kept.len());
    for (group, kept) in metadata.row_groups().iter().zip(kept) {
        let stats = FileStats::of_group(group)?;
        if stats.nulls(OFFSET) != 0 {
            return None;
        }
        groups.push(Group { bounds: group_offsets(group)?, rows: stats.rows(), kept: *kept });
    }
    let follow = groups.is_sorted_by(|a, b| a.bounds.1 <= b.bounds.0);
    (follow && groups.iter().any(|group| group.kept == group.rows)).then_some(groups)
}

/// Rows of one date and log partition, on their way into other files.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) spliced: Vec<Splice>,
    /// What is merged as a whole.
    pub(crate) merged: Vec<Source>,
}

/// Parts old files and new ones of one date and log partition. New rows between the offsets of a file that is spliced go
/// into it; others to what is merged or, when there is nothing, into the spliced file that they are next to. Reads the
/// offsets of new rows. Blocks.
pub(crate) fn part(
    table: &Table,
    runtime: &Handle,
    (partition, date): (u32, NaiveDate),
    mut spliceable: Vec<(Source, Vec<Group>)>,
    mut merged: Vec<Source>,
    new: Vec<Source>,
    group_rows_max: u64,
) -> Result<Parts, StoreError> {
    let day = i32::try_from((date - NaiveDate::default()).num_days()).map_err(|_| broken(format!("date {date}")))?;
    let bounds = |groups: &[Group]| match groups {
        [first, .., last] => (first.bounds.0, last.bounds.1),
        [one] => one.bounds,
        [] => (i64::MIN, i64::MAX),
    };
    spliceable.sort_by_key(|(_, groups)| bounds(groups));
    let mut chosen: Vec<(Source, Vec<Group>)> = Vec::new();
    for (source, groups) in spliceable {
        let apart = chosen.last().is_none_or(|(_, before)| bounds(before).1 < bounds(&groups).0);
        let run = new.iter().chain([&source]).cloned().collect();
        if apart && in_runs(run).len() == 1 {
            chosen.push((source, groups));
        } else {
            merged.push(source);
        }
    }
    let mut parts = Parts::default();
    let mut offsets = Vec::new();
    if !chosen.is_empty() {
        for source in &new {
            merge::offsets(table, runtime, &source.file, &mut offsets)?;
        }
        offsets.sort_unstable();
    }
    let (mut claims, mut claimed) = (Vec::new(), 0);
    for (at, (source, groups)) in chosen.iter().enumerate() {
        let (mut low, mut high) = bounds(groups);
        if merged.is_empty() {
            low = if at == 0 { i64::MIN } else { low };
            high = chosen.get(at + 1).map_or(i64::MAX, |(_, next)| bounds(next).0 - 1);
        }
        claims.push((low, high));
        let here = between(&offsets, low, high);
        claimed += here.len();
        let steps = steps(groups, here, group_rows_max);
        let copied = |at: usize| steps.contains(&Step::Copy(at));
        let mut old = source.clone();
        old.groups = Some((0..groups.len()).filter(|at| !copied(*at)).collect());
        let mut sources = vec![old];
        if !here.is_empty() {
            sources.extend(new.iter().map(|source| source.clone().within(Arc::new(vec![(low, high)]))));
        }
        let sources = in_runs(sources).into_iter().flatten().collect();
        parts.spliced.push(Splice { old: source.file.clone(), key: (partition, day), steps, sources });
    }
    if claims.is_empty() {
        merged.extend(new);
    } else if claimed < offsets.len() {
        let others = Arc::new(outside(&claims));
        merged.extend(new.into_iter().map(|source| source.within(others.clone())));
    }
    parts.merged = merged;
    Ok(parts)
}

/// The offsets outside of ascending ranges.
fn outside(ranges: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut outside = Vec::new();
    let mut from = Some(i64::MIN);
    for (low, high) in ranges {
        if let Some(from) = from.filter(|from| from < low) {
            outside.push((from, low - 1));
        }
        from = high.checked_add(1);
    }
    outside.extend(from.map(|from| (from, i64::MAX)));
    outside
}

/// Those of ascending offsets from `low` to `high`.
fn between(offsets: &[i64], low: i64, high: i64) -> &[i64] {
    let start = offsets.partition_point(|offset| *offset < low);
    let end = offsets.partition_point(|offset| *offset <= high);
    &offsets[start..end.max(start)]
}

/// How a file of these row groups and new rows of these offsets comes to be: in the order of the offsets, row groups
/// that are encoded about as large as each other, and none less than half full if it can have a neighbour's rows.
fn steps(groups: &[Group], new: &[i64], rows_max: u64) -> Vec<Step> {
    let rows_max = rows_max.max(1);
    let mut touched: Vec<bool> = groups
        .iter()
        .map(|group| group.kept < group.rows || !between(new, group.bounds.0, group.bounds.1).is_empty())
        .collect();
    spread(groups, &mut touched);
    let small = |(from, to, rows): (usize, usize, u64)| {
        let neighbour = if from > 0 { from - 1 } else { to };
        (rows > 0 && rows < rows_max / 2 && neighbour < groups.len()).then_some(neighbour)
    };
    for neighbour in runs(groups, new, &touched).into_iter().filter_map(small) {
        touched[neighbour] = true;
    }
    spread(groups, &mut touched);
    let mut steps = Vec::new();
    for (_, to, rows) in runs(groups, new, &touched) {
        let count = rows.div_ceil(rows_max);
        steps.extend((0..count).map(|at| Step::Encode(rows / count + u64::from(at < rows % count))));
        if to < groups.len() {
            steps.push(Step::Copy(to));
        }
    }
    steps
}

/// Rows of one record may lie in two row groups: then both are copied, or none.
fn spread(groups: &[Group], touched: &mut [bool]) {
    let joined = |at: usize| groups[at - 1].bounds.1 == groups[at].bounds.0;
    for at in (1..groups.len()).filter(|at| joined(*at)) {
        touched[at] |= touched[at - 1];
    }
    for at in (1..groups.len()).rev().filter(|at| joined(*at)) {
        touched[at - 1] |= touched[at];
    }
}

/// What is encoded between row groups that are copied: the first row group of it, the one after it, and its rows, which
/// may be none.
fn runs(groups: &[Group], new: &[i64], touched: &[bool]) -> Vec<(usize, usize, u64)> {
    let mut runs = Vec::new();
    let mut from = 0usize;
    for to in (0..=groups.len()).filter(|to| !touched.get(*to).copied().unwrap_or(false)) {
        let after = from.checked_sub(1).map_or(0, |before| new.partition_point(|o| *o <= groups[before].bounds.1));
        let before = groups.get(to).map_or(new.len(), |next| new.partition_point(|o| *o < next.bounds.0));
        let kept: u64 = groups[from..to].iter().map(|group| group.kept).sum();
        runs.push((from, to, kept + before.saturating_sub(after) as u64));
        from = to + 1;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use Step::{Copy, Encode};
    use proptest::prelude::*;

    fn group(low: i64, high: i64, rows: u64, kept: u64) -> Group {
        Group { bounds: (low, high), rows, kept }
    }

    #[test]
    fn what_nothing_falls_into_is_copied() {
        let all = |kept: [u64; 4]| (0..4).map(|n| group(n * 10, n * 10 + 8, 8, kept[n as usize])).collect::<Vec<_>>();
        let untouched = all([8; 4]);
        assert_eq!(steps(&untouched, &[], 8), [Copy(0), Copy(1), Copy(2), Copy(3)]);
        assert_eq!(steps(&all([4, 8, 8, 0]), &[], 8), [Encode(4), Copy(1), Copy(2)]);
        assert_eq!(steps(&all([8, 5, 8, 8]), &[13, 14, 18, 19], 8), [Copy(0), Encode(5), Encode(4), Copy(2), Copy(3)]);
        assert_eq!(steps(&untouched, &[25], 8), [Copy(0), Copy(1), Encode(5), Encode(4), Copy(3)]);
        assert_eq!(steps(&untouched, &[9, 9, 9, 9], 8), [Copy(0), Encode(4), Copy(1), Copy(2), Copy(3)], "between");
        assert_eq!(steps(&untouched, &[-1, 50], 8), [Encode(5), Encode(4), Copy(1), Copy(2), Encode(5), Encode(4)]);
        assert_eq!(steps(&all([8, 8, 1, 8]), &[], 8), [Copy(0), Encode(5), Encode(4), Copy(3)], "none is tiny");
        let joined = [group(0, 5, 8, 8), group(5, 5, 8, 8), group(5, 9, 8, 7), group(10, 12, 8, 8)];
        assert_eq!(steps(&joined, &[], 16), [Encode(12), Encode(11), Copy(3)]);
    }

    #[test]
    fn ranges_and_what_is_outside_of_them_are_everything() {
        assert_eq!(outside(&[(3, 5), (6, 9)]), [(i64::MIN, 2), (10, i64::MAX)]);
        assert_eq!(outside(&[(i64::MIN, 5), (8, i64::MAX)]), [(6, 7)]);
    }

    proptest! {
        #[test]
        fn no_row_is_forgotten(
            shape in proptest::collection::vec((0i64..3, 0i64..6, 1u64..9, 0u64..9), 1..8),
            new in proptest::collection::vec(-3i64..60, 0..30),
            rows_max in 1u64..12,
        ) {
            let (mut at, mut groups) = (0, Vec::new());
            for (gap, span, rows, gone) in shape {
                groups.push(group(at + gap, at + gap + span, rows, rows.saturating_sub(gone)));
                at += gap + span;
            }
            let mut new = new;
            new.sort_unstable();
            let steps = steps(&groups, &new, rows_max);
            let mut rows = 0;
            for step in &steps {
                match step {
                    Copy(at) => {
                        prop_assert_eq!(groups[*at].kept, groups[*at].rows);
                        prop_assert!(between(&new, groups[*at].bounds.0, groups[*at].bounds.1).is_empty());
                        rows += groups[*at].rows;
                    }
                    Encode(count) => {
                        prop_assert!(*count > 0 && *count <= rows_max);
                        rows += count;
                    }
                }
            }
            prop_assert_eq!(rows, groups.iter().map(|group| group.kept).sum::<u64>() + new.len() as u64);
        }
    }
}
