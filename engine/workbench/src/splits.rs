//! The splits at which a case is run: what a row becomes must not depend on them.

use std::ops::Range;

/// Random splits at which a case is run, beside one batch and two halves. The seeds are fixed: a case that passes once
/// passes again.
pub const RANDOM_SPLITS: u64 = 4;

/// Splits of `rows` rows into batches, each with its name.
pub(crate) fn all(rows: usize) -> Vec<(String, Vec<Range<usize>>)> {
    let whole = ("as one batch".to_owned(), std::iter::once(0..rows).collect());
    let halves = ("in halves".to_owned(), vec![0..rows / 2, rows / 2..rows]);
    let random = (1..=RANDOM_SPLITS).map(|seed| (format!("at random split {seed}"), random(rows, seed)));
    [whole, halves].into_iter().chain(random).collect()
}

fn random(rows: usize, seed: u64) -> Vec<Range<usize>> {
    let mut state = seed;
    let mut ranges = Vec::new();
    let mut start = 0;
    while start < rows {
        let left = (rows - start) as u64;
        // At least one row, and less than `left + 1`: it fits what `left` was made of.
        let length = 1 + (split_mix(&mut state) % left) as usize;
        ranges.push(start..start + length);
        start += length;
    }
    ranges
}

/// The next number of the SplitMix64 sequence.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_split_covers_every_row_once_and_repeats() {
        for rows in [0, 1, 2, 3, 100] {
            let splits = all(rows);
            assert_eq!(splits.len(), 2 + RANDOM_SPLITS as usize);
            for (name, ranges) in &splits {
                let covered: Vec<usize> = ranges.iter().cloned().flatten().collect();
                assert_eq!(covered, (0..rows).collect::<Vec<_>>(), "{name} of {rows}");
            }
            assert_eq!(splits, all(rows));
        }
        assert_ne!(random(100, 1), random(100, 2));
    }
}
