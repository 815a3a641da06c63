//! Statistics of a data file, as the log keeps them: row count, and least, greatest and null count of the columns that
//! readers filter by. Only these columns: values of the others could be personal data, and the log is not the place for
//! it.
//!
//! Bounds always hold, but need not be tight: strings are cut to [`PREFIX_CHARS`] characters and times to milliseconds,
//! the lower bound down and the upper bound up.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute;
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, SecondsFormat};
use millrace_rows::schema::{OFFSET, PARTITION, REVISION, SUB};
use parquet::basic::LogicalType;
use parquet::data_type::ByteArray;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use serde_json::{Map, Value, json};

/// The columns with statistics.
pub(crate) const STATS_COLUMNS: [&str; 8] =
    [PARTITION, OFFSET, SUB, REVISION, "event_time", "event", "app", "device_id"];

/// Longest string bound, in characters: what other writers of Delta tables use.
const PREFIX_CHARS: usize = 32;

#[derive(Clone, Debug, Default)]
enum Bounds {
    #[default]
    None,
    Int(i64, i64),
    Time(i64, i64),
    Text(String, String),
}

/// Statistics of the rows seen so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileStats {
    rows: u64,
    columns: [(u64, Bounds); STATS_COLUMNS.len()],
}

impl FileStats {
    pub(crate) fn update(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        for (name, (nulls, bounds)) in STATS_COLUMNS.iter().zip(&mut self.columns) {
            match batch.column_by_name(name) {
                Some(column) => {
                    *nulls += column.null_count() as u64;
                    bounds.extend(column);
                }
                None => *nulls += batch.num_rows() as u64,
            }
        }
    }

    /// The statistics of a row group. `None` unless its own tell all of them.
    pub(crate) fn of_group(group: &RowGroupMetaData) -> Option<Self> {
        let mut stats = Self { rows: u64::try_from(group.num_rows()).ok()?, ..Self::default() };
        for (name, (nulls, bounds)) in STATS_COLUMNS.iter().zip(&mut stats.columns) {
            let Some(column) = group.columns().iter().find(|column| column.column_path().string() == *name) else {
                *nulls = stats.rows;
                continue;
            };
            let known = column.statistics().filter(|known| !known.is_min_max_deprecated())?;
            *nulls = known.null_count_opt()?;
            if *nulls < stats.rows {
                let is_time = matches!(column.column_descr().logical_type_ref(), Some(LogicalType::Timestamp { .. }));
                *bounds = Bounds::of(known, is_time)?;
            }
        }
        Some(stats)
    }

    /// Takes in other rows.
    pub(crate) fn join(&mut self, other: &Self) {
        self.rows += other.rows;
        for ((nulls, bounds), (others, other)) in self.columns.iter_mut().zip(&other.columns) {
            *nulls += others;
            bounds.join(other.clone());
        }
    }

    /// Nulls of a column; 0 of one without statistics.
    pub(crate) fn nulls(&self, name: &str) -> u64 {
        STATS_COLUMNS.iter().zip(&self.columns).find(|(known, _)| **known == name).map_or(0, |(_, (nulls, _))| *nulls)
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// The `stats` of an add action.
    pub(crate) fn to_json(&self) -> String {
        let (mut least, mut greatest, mut nulls) = (Map::new(), Map::new(), Map::new());
        for (name, (count, bounds)) in STATS_COLUMNS.iter().zip(&self.columns) {
            nulls.insert((*name).to_owned(), json!(count));
            let (low, high) = bounds.to_json();
            for (map, value) in [(&mut least, low), (&mut greatest, high)] {
                if let Some(value) = value {
                    map.insert((*name).to_owned(), value);
                }
            }
        }
        json!({"numRecords": self.rows, "minValues": least, "maxValues": greatest, "nullCount": nulls}).to_string()
    }
}

impl Bounds {
    /// Those that a column chunk has: for strings they may be cut, the upper one up, and so still hold.
    fn of(known: &Statistics, is_time: bool) -> Option<Self> {
        match known {
            Statistics::Int64(known) => {
                let (low, high) = (*known.min_opt()?, *known.max_opt()?);
                Some(if is_time { Self::Time(low, high) } else { Self::Int(low, high) })
            }
            Statistics::ByteArray(known) => {
                let text = |bytes: &ByteArray| bytes.as_utf8().ok().map(str::to_owned);
                Some(Self::Text(text(known.min_opt()?)?, text(known.max_opt()?)?))
            }
            _ => None,
        }
    }

    fn extend(&mut self, column: &ArrayRef) {
        let seen = match column.data_type() {
            DataType::Int64 => {
                let values = column.as_primitive::<Int64Type>();
                compute::min(values).zip(compute::max(values)).map(|(low, high)| Self::Int(low, high))
            }
            DataType::Timestamp(_, _) => column
                .as_primitive_opt::<TimestampMicrosecondType>()
                .and_then(|values| compute::min(values).zip(compute::max(values)))
                .map(|(low, high)| Self::Time(low, high)),
            DataType::Utf8 => {
                let values = column.as_string::<i32>();
                compute::min_string(values)
                    .zip(compute::max_string(values))
                    .map(|(low, high)| Self::Text(low.to_owned(), high.to_owned()))
            }
            _ => None,
        };
        self.join(seen.unwrap_or_default());
    }

    fn join(&mut self, seen: Self) {
        *self = match (std::mem::take(self), seen) {
            (Self::Int(a, b), Self::Int(c, d)) => Self::Int(a.min(c), b.max(d)),
            (Self::Time(a, b), Self::Time(c, d)) => Self::Time(a.min(c), b.max(d)),
            (Self::Text(a, b), Self::Text(c, d)) => Self::Text(a.min(c), b.max(d)),
            (known, Self::None) => known,
            (_, seen) => seen,
        };
    }

    fn to_json(&self) -> (Option<Value>, Option<Value>) {
        match self {
            Self::None => (None, None),
            Self::Int(low, high) => (Some(json!(low)), Some(json!(high))),
            Self::Time(low, high) => {
                let up = high.checked_add(999).unwrap_or(*high);
                (time_ms(low.div_euclid(1000)).map(Value::String), time_ms(up.div_euclid(1000)).map(Value::String))
            }
            Self::Text(low, high) => (Some(json!(prefix(low))), upper_bound(high).map(Value::String)),
        }
    }
}

fn time_ms(ms: i64) -> Option<String> {
    DateTime::from_timestamp_millis(ms).map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn prefix(text: &str) -> &str {
    text.char_indices().nth(PREFIX_CHARS).map_or(text, |(at, _)| &text[..at])
}

/// The shortest string that is not less than any string with the same prefix as `text`. `None` if there is none: then
/// the column has no upper bound.
fn upper_bound(text: &str) -> Option<String> {
    let cut = prefix(text);
    if cut.len() == text.len() {
        return Some(text.to_owned());
    }
    let mut chars: Vec<char> = cut.chars().collect();
    while let Some(last) = chars.pop() {
        // The order of UTF-8 bytes is the order of code points; between them lie the surrogates, which are no chars.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            other => char::from_u32(u32::from(other) + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray, TimestampMicrosecondArray};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn batch(offsets: &[i64], times: &[i64], devices: &[Option<&str>]) -> RecordBatch {
        let columns: [(&str, ArrayRef); 3] = [
            ("_offset", Arc::new(Int64Array::from(offsets.to_vec()))),
            ("event_time", Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"))),
            ("device_id", Arc::new(StringArray::from(devices.to_vec()))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
    }

    #[test]
    fn bounds_widen_over_batches_and_times_are_rounded_outwards() {
        let mut stats = FileStats::default();
        stats.update(&batch(&[5, 6], &[1_500, 2_001], &[Some("b"), None]));
        stats.update(&batch(&[3], &[1_999], &[Some("a")]));
        let json: Value = serde_json::from_str(&stats.to_json()).unwrap();
        assert_eq!(json["numRecords"], 3);
        assert_eq!(json["minValues"]["_offset"], 3);
        assert_eq!(json["maxValues"]["_offset"], 6);
        assert_eq!(json["minValues"]["event_time"], "1970-01-01T00:00:00.001Z");
        assert_eq!(json["maxValues"]["event_time"], "1970-01-01T00:00:00.003Z");
        assert_eq!(json["minValues"]["device_id"], "a");
        assert_eq!(json["maxValues"]["device_id"], "b");
        assert_eq!(json["nullCount"]["device_id"], 1);
        assert_eq!(json["nullCount"]["app"], 3, "a column that is not there is null");
        assert!(json["minValues"].get("app").is_none());
        assert!(!stats.to_json().contains("user_id"), "no statistics of other columns");
    }

    proptest! {
        #[test]
        fn string_bounds_hold(texts in proptest::collection::vec("[ab\u{d7ff}\u{10ffff}]{0,70}", 1..6)) {
            for text in &texts {
                prop_assert!(prefix(text) <= text.as_str());
                prop_assert!(prefix(text).chars().count() <= PREFIX_CHARS);
                if let Some(bound) = upper_bound(text) {
                    prop_assert!(bound.as_str() >= text.as_str());
                    prop_assert!(bound.chars().count() <= PREFIX_CHARS);
                } else {
                    prop_assert!(text.chars().take(PREFIX_CHARS).all(|c| c == char::MAX));
                }
            }
        }
    }
}
