//! Which records of a range a revision is about.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Most columns that a filter names.
pub const FILTER_COLUMNS_MAX: usize = 8;
/// Most values that a filter lists for one column.
pub const FILTER_VALUES_MAX: usize = 1000;

/// A conjunction over *decoded* columns, as they are before any step: each named column must have one of its values. No
/// column: every record. A record that can't be decoded has no columns, so it matches an empty filter only.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Filter {
    /// Values by column.
    pub columns: BTreeMap<String, BTreeSet<String>>,
}

impl Filter {
    /// Whether it lets every record through.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// Adds that a column must have one of these values.
    #[must_use]
    pub fn with<S: Into<String>>(mut self, column: &str, values: impl IntoIterator<Item = S>) -> Self {
        self.columns.entry(column.to_owned()).or_default().extend(values.into_iter().map(Into::into));
        self
    }

    /// Whether a record with these columns matches; `get` gives a column's value, `None` where it is null.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.columns.iter().all(|(column, values)| get(column).is_some_and(|value| values.contains(value)))
    }

    /// The records that match both; `None` where there can be none.
    pub fn and(&self, other: &Self) -> Option<Self> {
        let mut both = self.clone();
        for (column, values) in &other.columns {
            match both.columns.get_mut(column) {
                None => {
                    both.columns.insert(column.clone(), values.clone());
                }
                Some(known) => {
                    known.retain(|value| values.contains(value));
                    if known.is_empty() {
                        return None;
                    }
                }
            }
        }
        Some(both)
    }

    /// Whether every record that matches `other` matches this: by what the filters say, not by what there is.
    pub fn covers(&self, other: &Self) -> bool {
        let lets_through = |(column, values): (&String, &BTreeSet<String>)| {
            other.columns.get(column).is_some_and(|narrower| narrower.is_subset(values))
        };
        self.columns.iter().all(lets_through)
    }

    /// What is wrong with it, if anything is.
    pub fn problem(&self) -> Option<String> {
        if self.columns.len() > FILTER_COLUMNS_MAX {
            return Some(format!("the filter names {} columns, more than {FILTER_COLUMNS_MAX}", self.columns.len()));
        }
        self.columns.iter().find_map(|(column, values)| match values.len() {
            0 => Some(format!("the filter lets no value of {column} through")),
            1..=FILTER_VALUES_MAX => None,
            many => Some(format!("the filter lists {many} values of {column}, more than {FILTER_VALUES_MAX}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_filter() -> impl Strategy<Value = Filter> {
        let values = proptest::collection::btree_set("[ab]{1,2}", 1..3);
        proptest::collection::btree_map("[xyz]", values, 0..3).prop_map(|columns| Filter { columns })
    }

    proptest! {
        #[test]
        fn a_conjunction_lets_through_what_both_do(
            one in any_filter(), two in any_filter(),
            row in proptest::collection::btree_map("[xyz]", "[ab]{1,2}", 0..4),
        ) {
            let get = |column: &str| row.get(column).map(String::as_str);
            let both = one.and(&two).is_some_and(|both| both.matches(get));
            prop_assert_eq!(both, one.matches(get) && two.matches(get));
            prop_assert!(!one.covers(&two) || !two.matches(get) || one.matches(get));
            prop_assert!(one.covers(&one) && Filter::default().covers(&one));
            prop_assert!(one.and(&two).is_none_or(|both| one.covers(&both) && two.covers(&both)));
        }
    }

    #[test]
    fn the_bounds_are_told() {
        assert_eq!(Filter::default().with("app", ["shop"]).problem(), None);
        assert!(Filter::default().with("app", Vec::<String>::new()).problem().is_some());
        assert!(Filter::default().with("app", (0..=FILTER_VALUES_MAX).map(|n| n.to_string())).problem().is_some());
    }
}
