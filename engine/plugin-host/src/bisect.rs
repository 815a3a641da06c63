//! The search for bad rows: a call that fails is thrown away and its rows are called again in halves.

use std::ops::Range;

use crate::call::{CallFailure, HostCode, Stop};

/// A row that failed when it was called alone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadRow {
    pub(crate) row: usize,
    pub(crate) code: HostCode,
    pub(crate) message: String,
}

/// What became of the rows of a step.
#[derive(Debug)]
pub(crate) struct Found<T> {
    /// Results of the calls that succeeded, in row order; with the bad rows they cover every row once.
    pub(crate) pieces: Vec<(Range<usize>, T)>,
    pub(crate) bad: Vec<BadRow>,
    pub(crate) calls: u64,
    pub(crate) discarded: u64,
}

/// Why the search ended early.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The bad row that was one too many is the last.
    TooManyBadRows(Vec<BadRow>),
    Stop(Stop),
}

/// Calls `call` for each of `chunks`, and where it fails for smaller and smaller parts, until a single row decides.
///
/// For k bad rows among n that makes at most 2k·log2(n) + k calls beside one a chunk, and the results do not depend on
/// where the chunks begin.
pub(crate) fn search<T>(
    mut chunks: Vec<Range<usize>>,
    bad_max: usize,
    mut call: impl FnMut(Range<usize>) -> Result<T, CallFailure>,
) -> Result<Found<T>, Ended> {
    chunks.reverse();
    let mut found = Found { pieces: Vec::with_capacity(chunks.len()), bad: Vec::new(), calls: 0, discarded: 0 };
    while let Some(rows) = chunks.pop() {
        found.calls += 1;
        match call(rows.clone()) {
            Ok(result) => found.pieces.push((rows, result)),
            Err(CallFailure::Stop(stop)) => return Err(Ended::Stop(stop)),
            Err(CallFailure::Guest(code, message)) => {
                found.discarded += 1;
                if rows.len() > 1 {
                    let middle = rows.start + rows.len() / 2;
                    chunks.push(middle..rows.end);
                    chunks.push(rows.start..middle);
                } else {
                    found.bad.push(BadRow { row: rows.start, code, message });
                    if found.bad.len() > bad_max {
                        return Err(Ended::TooManyBadRows(found.bad));
                    }
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn run(rows: usize, bad: &BTreeSet<usize>, bad_max: usize) -> Result<Found<()>, Ended> {
        search(std::iter::once(0..rows).collect(), bad_max, |range| {
            if bad.range(range).next().is_some() {
                Err(CallFailure::Guest(HostCode::Trap, String::new()))
            } else {
                Ok(())
            }
        })
    }

    #[test]
    fn one_too_many_ends_it_and_so_does_a_stop() {
        let bad: BTreeSet<usize> = (0..5).collect();
        assert_eq!(run(100, &bad, 5).unwrap().bad.len(), 5);
        assert!(matches!(run(100, &bad, 4), Err(Ended::TooManyBadRows(found)) if found.len() == 5));
        let stop =
            search(std::iter::once(0..9).collect(), 9, |_| -> Result<(), _> { Err(CallFailure::Stop(Stop::Backstop)) });
        assert_eq!(stop.unwrap_err(), Ended::Stop(Stop::Backstop));
    }

    proptest! {
        #[test]
        fn it_finds_exactly_the_bad_rows_in_few_calls(rows in 1usize..5_000, bad in proptest::collection::btree_set(0usize..5_000, 0..40)) {
            let bad: BTreeSet<usize> = bad.into_iter().filter(|row| *row < rows).collect();
            let found = run(rows, &bad, 64).unwrap();
            prop_assert_eq!(found.bad.iter().map(|b| b.row).collect::<BTreeSet<_>>(), bad.clone());
            let mut covered: Vec<usize> = found.pieces.iter().flat_map(|(range, ())| range.clone()).collect();
            prop_assert!(covered.is_sorted(), "pieces are in row order");
            covered.extend(&bad);
            covered.sort_unstable();
            prop_assert_eq!(covered, (0..rows).collect::<Vec<_>>());
            let log2 = u64::from(usize::BITS - (rows - 1).leading_zeros());
            let k = bad.len() as u64;
            prop_assert!(found.calls <= (2 * k * log2 + k).max(1), "{} calls for {k} of {rows}", found.calls);
        }
    }
}
