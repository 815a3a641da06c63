//! What differs between what must be there and what is: pure.

use std::collections::BTreeMap;

/// Place and hash of a row: (offset, sub, hash).
pub(super) type Print = (u64, u32, u128);

/// A row that is not there.
pub(super) const MISSING: &str = "missing";

/// What differs between two lists of rows, each in order.
pub(super) fn differences(expected: &[Print], found: &[Print]) -> Vec<(u64, u32, &'static str)> {
    let mut differences = Vec::new();
    let (mut i, mut j) = (0, 0);
    loop {
        let place = |print: &Print| (print.0, print.1);
        match (expected.get(i), found.get(j)) {
            (None, None) => return differences,
            (Some(one), Some(two)) if place(one) == place(two) => {
                if one.2 != two.2 {
                    differences.push((one.0, one.1, "another value"));
                }
                i += 1;
                j += 1;
            }
            (Some(one), two) if two.is_none_or(|two| place(one) < place(two)) => {
                differences.push((one.0, one.1, MISSING));
                i += 1;
            }
            (_, Some(two)) => {
                let doubled = j > 0 && place(&found[j - 1]) == place(two);
                differences.push((two.0, two.1, if doubled { "doubled" } else { "should not be there" }));
                j += 1;
            }
            // Covered above: without a second there is nothing that the first is not smaller than.
            (Some(_), None) => i += 1,
        }
    }
}

pub(super) fn dead_differences(expected: &[(u64, u128)], found: &[(u64, u128)]) -> Vec<(u64, u32, &'static str)> {
    let (one, two): (BTreeMap<u64, u128>, BTreeMap<u64, u128>) =
        (expected.iter().copied().collect(), found.iter().copied().collect());
    let missing = one.keys().filter(|offset| !two.contains_key(*offset)).map(|o| (*o, 0, "a dead letter is missing"));
    let other = two.iter().filter(|(offset, hash)| one.get(*offset) != Some(*hash));
    missing.chain(other.map(|(offset, _)| (*offset, 0, "a dead letter that should not be so"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_is_told() {
        let expected = [(1, 0, 10), (2, 0, 20), (3, 0, 30), (4, 0, 40)];
        assert!(differences(&expected, &expected).is_empty());
        let found = [(1, 0, 10), (1, 0, 10), (2, 0, 21), (4, 0, 40), (5, 1, 50)];
        assert_eq!(
            differences(&expected, &found),
            [(1, 0, "doubled"), (2, 0, "another value"), (3, 0, "missing"), (5, 1, "should not be there")]
        );
        assert_eq!(differences(&expected, &[]).len(), 4);
        assert_eq!(differences(&[], &found).len(), 5);
    }

    #[test]
    fn dead_letters_are_compared_too() {
        assert!(dead_differences(&[(1, 5)], &[(1, 5)]).is_empty());
        assert_eq!(dead_differences(&[(1, 5), (2, 6)], &[(2, 7), (3, 8)]).len(), 3);
    }
}
