//! From a key to the row that has it.

use std::net::IpAddr;

use arrow::array::{Array, AsArray, StringArray, UInt32Array};
use arrow::datatypes::Int64Type;
use hashbrown::HashTable;
use millrace_rows::ColumnType;
use xxhash_rust::xxh3::xxh3_64;

use crate::TableError;

/// Finds rows by key.
pub(crate) enum Index {
    /// Rows by the text of their key.
    Text(HashTable<u32>),
    /// Rows by their number.
    Int(HashTable<u32>),
    /// Ranges of addresses: those of IPv4, and those of IPv6.
    Ip { v4: Segments, v6: Segments },
    /// Ranges of integers.
    IntRange(Segments),
}

/// Ranges that do not overlap, ascending; both ends belong to them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Segments {
    starts: Vec<u128>,
    ends: Vec<u128>,
    rows: Vec<u32>,
}

/// A range as a row gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowRange {
    pub(crate) start: u128,
    pub(crate) end: u128,
    pub(crate) row: u32,
}

/// People count rows from 1.
fn row_number(row: u32) -> u64 {
    u64::from(row) + 1
}

pub(crate) fn text_hash(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

pub(crate) fn int_hash(number: i64) -> u64 {
    xxh3_64(&number.to_le_bytes())
}

/// An integer so that its order is that of the unsigned number.
pub(crate) fn int_place(number: i64) -> u128 {
    u128::from(number.cast_unsigned() ^ (1 << 63))
}

/// An address as a number, and whether it is one of IPv6. An IPv4 address within IPv6 is an IPv4 address.
pub(crate) fn ip_place(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), false),
        IpAddr::V6(v6) => (v6.to_bits(), true),
    }
}

impl Index {
    /// Of a column of keys, each of which may stand there once.
    pub(crate) fn of_keys(keys: &dyn Array, ty: ColumnType, column: &str) -> Result<Self, TableError> {
        let null = |row: usize| {
            TableError::Key(format!("row {} has no value in the key column {column:?}", row_number(row as u32)))
        };
        let twice = |first: u32, second: usize| {
            TableError::Key(format!(
                "rows {} and {} have the same key in column {column:?}: keys must be unique",
                row_number(first),
                row_number(second as u32)
            ))
        };
        if let Some(row) = (0..keys.len()).find(|row| keys.is_null(*row)) {
            return Err(null(row));
        }
        let mut table: HashTable<u32> = HashTable::with_capacity(keys.len());
        match ty {
            ColumnType::String => {
                let texts = keys.as_string::<i32>();
                for (row, text) in texts.iter().flatten().enumerate() {
                    let hash = text_hash(text);
                    if let Some(first) = table.find(hash, |other| texts.value(*other as usize) == text) {
                        return Err(twice(*first, row));
                    }
                    table.insert_unique(hash, row as u32, |row| text_hash(texts.value(*row as usize)));
                }
                Ok(Self::Text(table))
            }
            ColumnType::Int64 => {
                let numbers = keys.as_primitive::<Int64Type>();
                for (row, number) in numbers.values().iter().enumerate() {
                    let hash = int_hash(*number);
                    if let Some(first) = table.find(hash, |other| numbers.value(*other as usize) == *number) {
                        return Err(twice(*first, row));
                    }
                    table.insert_unique(hash, row as u32, |row| int_hash(numbers.value(*row as usize)));
                }
                Ok(Self::Int(table))
            }
            other => Err(TableError::Column(format!(
                "the key column {column:?} is of type {other}: a key is a string or int64"
            ))),
        }
    }

    /// The row of each key; null where there is none. `keys` has the type that [`Self::key_type`] says, `own` is the
    /// table's key column.
    pub(crate) fn find(&self, keys: &dyn Array, own: &dyn Array) -> UInt32Array {
        let texts = |find: &dyn Fn(&str) -> Option<u32>| -> UInt32Array {
            let keys: &StringArray = keys.as_string::<i32>();
            keys.iter().map(|key| key.and_then(find)).collect()
        };
        let numbers = |find: &dyn Fn(i64) -> Option<u32>| -> UInt32Array {
            keys.as_primitive::<Int64Type>().iter().map(|key| key.and_then(find)).collect()
        };
        match self {
            Self::Text(table) => {
                let own = own.as_string::<i32>();
                texts(&|key| table.find(text_hash(key), |row| own.value(*row as usize) == key).copied())
            }
            Self::Int(table) => {
                let own = own.as_primitive::<Int64Type>();
                numbers(&|key| table.find(int_hash(key), |row| own.value(*row as usize) == key).copied())
            }
            Self::Ip { v4, v6 } => texts(&|key| {
                let (place, is_v6) = ip_place(key.parse().ok()?);
                if is_v6 { v6.find(place) } else { v4.find(place) }
            }),
            Self::IntRange(segments) => numbers(&|key| segments.find(int_place(key))),
        }
    }

    /// The type of the keys that are looked up.
    pub(crate) fn key_type(&self) -> ColumnType {
        match self {
            Self::Text(_) | Self::Ip { .. } => ColumnType::String,
            Self::Int(_) | Self::IntRange(_) => ColumnType::Int64,
        }
    }
}

impl Segments {
    /// Cuts ranges that lie within one another into ranges that do not overlap: the inner one wins.
    pub(crate) fn of(mut ranges: Vec<RowRange>) -> Result<Self, TableError> {
        ranges.sort_by(|a, b| a.start.cmp(&b.start).then(b.end.cmp(&a.end)).then(a.row.cmp(&b.row)));
        let mut segments = Self::default();
        let mut open: Vec<RowRange> = Vec::new();
        // The first place that no segment covers yet; `None` past the last place that there is.
        let mut next = Some(0);
        for range in ranges {
            segments.close(&mut open, &mut next, Some(range.start));
            if let Some(outer) = open.last() {
                if (outer.start, outer.end) == (range.start, range.end) {
                    return Err(TableError::Key(format!(
                        "rows {} and {} have the same range",
                        row_number(outer.row),
                        row_number(range.row)
                    )));
                }
                if outer.end < range.end {
                    return Err(TableError::Key(format!(
                        "the ranges of rows {} and {} overlap and neither lies within the other",
                        row_number(outer.row),
                        row_number(range.row)
                    )));
                }
                if let Some(next) = next.filter(|next| *next < range.start) {
                    segments.push(next, range.start - 1, outer.row);
                }
            }
            next = Some(range.start);
            open.push(range);
        }
        segments.close(&mut open, &mut next, None);
        Ok(segments)
    }

    /// Ends the open ranges that end before `start`, or all.
    fn close(&mut self, open: &mut Vec<RowRange>, next: &mut Option<u128>, start: Option<u128>) {
        while let Some(range) = open.pop_if(|range| start.is_none_or(|start| range.end < start)) {
            if let Some(from) = next.filter(|from| *from <= range.end) {
                self.push(from, range.end, range.row);
            }
            *next = range.end.checked_add(1);
        }
    }

    fn push(&mut self, start: u128, end: u128, row: u32) {
        self.starts.push(start);
        self.ends.push(end);
        self.rows.push(row);
    }

    pub(crate) fn find(&self, place: u128) -> Option<u32> {
        let after = self.starts.partition_point(|start| *start <= place);
        let at = after.checked_sub(1)?;
        (place <= self.ends[at]).then(|| self.rows[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(list: &[(u128, u128)]) -> Vec<RowRange> {
        (0..).zip(list).map(|(row, (start, end))| RowRange { start: *start, end: *end, row }).collect()
    }

    #[test]
    fn the_inner_range_wins_and_what_is_between_belongs_to_the_outer() {
        let segments = Segments::of(ranges(&[(10, 99), (20, 29), (25, 29), (30, 39), (200, u128::MAX)])).unwrap();
        for (place, row) in [
            (9, None),
            (10, Some(0)),
            (19, Some(0)),
            (20, Some(1)),
            (24, Some(1)),
            (25, Some(2)),
            (29, Some(2)),
            (30, Some(3)),
            (39, Some(3)),
            (40, Some(0)),
            (99, Some(0)),
            (100, None),
            (u128::MAX, Some(4)),
        ] {
            assert_eq!(segments.find(place), row, "{place}");
        }
    }

    #[test]
    fn ranges_that_cross_or_repeat_are_refused() {
        let crossing = Segments::of(ranges(&[(10, 20), (15, 25)])).unwrap_err().to_string();
        assert!(crossing.contains("rows 1 and 2 overlap"), "{crossing}");
        let same = Segments::of(ranges(&[(10, 20), (1, 2), (10, 20)])).unwrap_err().to_string();
        assert!(same.contains("rows 1 and 3 have the same range"), "{same}");
    }

    proptest! {
        #[test]
        fn segments_agree_with_the_smallest_range_that_holds_a_place(
            cuts in proptest::collection::vec((0..8u32, 0..256u128), 0..24), probe in 0..256u128,
        ) {
            // Aligned blocks, as networks are: any two are nested or apart.
            let mut list: Vec<(u128, u128)> = cuts
                .into_iter()
                .map(|(bits, at)| {
                    let start = at >> bits << bits;
                    (start, start + (1 << bits) - 1)
                })
                .collect();
            list.sort_unstable();
            list.dedup();
            let segments = Segments::of(ranges(&list)).unwrap();
            let expected = (0..)
                .zip(&list)
                .filter(|(_, (start, end))| (*start..=*end).contains(&probe))
                .min_by_key(|(_, (start, end))| end - start)
                .map(|(row, _)| row);
            prop_assert_eq!(segments.find(probe), expected);
        }

        #[test]
        fn integers_keep_their_order(a: i64, b: i64) {
            prop_assert_eq!(a.cmp(&b), int_place(a).cmp(&int_place(b)));
        }
    }
}
