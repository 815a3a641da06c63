//! The checks that every row passes after the last transform, whatever the chain did. A row that fails one never
//! reaches a store: its record becomes a dead letter of the step `check` with the code given here.

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

/// Longest `device_id`, `user_id`, `event_id` and `session_id`, in bytes.
pub const ID_BYTES_MAX: usize = 256;
/// Longest `event`, `type`, `app` in bytes: they stand in statistics and labels of the table.
pub const NAME_BYTES_MAX: usize = 1024;
/// Largest output of one log record over all its rows and text columns, in bytes.
pub const RECORD_OUTPUT_BYTES_MAX: usize = 512 * 1024;
/// Most rows that one log record may become.
pub const RECORD_ROWS_MAX: usize = 100;
/// First accepted `event_time`: 1970-01-01, in µs.
pub const EVENT_TIME_MIN_US: i64 = 0;
/// First `event_time` that is too late: 2101-01-01, in µs.
pub const EVENT_TIME_END_US: i64 = 4_133_980_800_000_000;

const BOUNDED: &[(&str, usize, bool, &str)] = &[
    ("event_id", ID_BYTES_MAX, true, "bad_event_id"),
    ("device_id", ID_BYTES_MAX, true, "bad_device_id"),
    ("user_id", ID_BYTES_MAX, false, "bad_user_id"),
    ("session_id", ID_BYTES_MAX, false, "bad_session_id"),
    ("type", NAME_BYTES_MAX, false, "bad_type"),
    ("event", NAME_BYTES_MAX, false, "bad_event"),
    ("app", NAME_BYTES_MAX, false, "bad_app"),
];

/// The rows of a finished batch that no store may see: (row, code), in row order, one code a row. Rows of one record
/// must be adjacent and have `_offset` set.
pub fn failures(batch: &RecordBatch) -> Vec<(usize, &'static str)> {
    let mut codes: Vec<Option<&'static str>> = vec![None; batch.num_rows()];
    let mut fail = |row: usize, code| {
        codes[row].get_or_insert(code);
    };
    for (name, bytes_max, required, code) in BOUNDED {
        let Some(column) = batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>()) else { continue };
        for row in 0..column.len() {
            let bad = if column.is_null(row) {
                *required
            } else {
                let length = column.value_length(row) as usize;
                length > *bytes_max || (*required && length == 0)
            };
            if bad {
                fail(row, *code);
            }
        }
    }
    for (name, code) in [("event_time", "bad_event_time"), ("received_at", "bad_received_at")] {
        let Some(column) = batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>())
        else {
            continue;
        };
        for row in 0..column.len() {
            if column.is_null(row) || !(EVENT_TIME_MIN_US..EVENT_TIME_END_US).contains(&column.value(row)) {
                fail(row, code);
            }
        }
    }
    record_limits(batch, &mut fail);
    codes.into_iter().enumerate().filter_map(|(row, code)| code.map(|code| (row, code))).collect()
}

/// Rows and bytes per log record.
fn record_limits(batch: &RecordBatch, fail: &mut impl FnMut(usize, &'static str)) {
    let texts: Vec<&StringArray> = batch
        .columns()
        .iter()
        .filter(|column| column.data_type() == &DataType::Utf8)
        .map(|column| column.as_string::<i32>())
        .collect();
    let Some(offsets) =
        batch.column_by_name(crate::schema::OFFSET).and_then(|c| c.as_primitive_opt::<arrow::datatypes::Int64Type>())
    else {
        return;
    };
    let mut start = 0;
    while start < batch.num_rows() {
        let mut end = start + 1;
        while end < batch.num_rows() && offsets.value(end) == offsets.value(start) {
            end += 1;
        }
        let bytes: usize =
            texts.iter().map(|text| (text.value_offsets()[end] - text.value_offsets()[start]) as usize).sum();
        if end - start > RECORD_ROWS_MAX {
            fail(start, "too_many_rows");
        } else if bytes > RECORD_OUTPUT_BYTES_MAX {
            fail(start, "too_large");
        }
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::row_schema;
    use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray, new_null_array};
    use std::sync::Arc;

    /// A batch of `rows` = (offset, device, event_time, properties).
    fn batch(rows: &[(i64, &str, i64, String)]) -> RecordBatch {
        let schema = row_schema(&[]);
        let columns = schema
            .fields()
            .iter()
            .map(|field| -> ArrayRef {
                let times = |t: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(t).with_timezone("UTC"));
                match field.name().as_str() {
                    "_offset" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0))),
                    "device_id" => Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1))),
                    "event_id" => Arc::new(StringArray::from_iter_values(rows.iter().map(|_| "e"))),
                    "properties" => Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.3))),
                    "event_time" => times(rows.iter().map(|r| r.2).collect()),
                    "received_at" => times(rows.iter().map(|_| 1).collect()),
                    _ => new_null_array(field.data_type(), rows.len()),
                }
            })
            .collect();
        RecordBatch::try_new(schema, columns).unwrap()
    }

    #[test]
    fn each_limit_has_its_code_and_good_rows_pass() {
        let long = "d".repeat(ID_BYTES_MAX + 1);
        let edge = "d".repeat(ID_BYTES_MAX);
        let p = String::new;
        let rows = batch(&[
            (0, "d", 0, p()),
            (1, "", 0, p()),
            (2, &long, 0, p()),
            (3, &edge, EVENT_TIME_END_US - 1, p()),
            (4, "d", EVENT_TIME_END_US, p()),
            (5, "d", -1, p()),
            (6, "d", 0, "x".repeat(RECORD_OUTPUT_BYTES_MAX)),
        ]);
        let expected = [
            (1, "bad_device_id"),
            (2, "bad_device_id"),
            (4, "bad_event_time"),
            (5, "bad_event_time"),
            (6, "too_large"),
        ];
        assert_eq!(failures(&rows), expected);
    }

    #[test]
    fn a_record_may_become_a_hundred_rows_and_no_more() {
        let rows = |n: usize| batch(&vec![(7, "d", 0, String::new()); n]);
        assert!(failures(&rows(RECORD_ROWS_MAX)).is_empty());
        assert_eq!(failures(&rows(RECORD_ROWS_MAX + 1)), [(0, "too_many_rows")]);
    }

    #[test]
    fn bytes_are_counted_over_all_rows_of_a_record() {
        let half = || "x".repeat(RECORD_OUTPUT_BYTES_MAX / 2);
        assert!(failures(&batch(&[(1, "d", 0, half()), (2, "d", 0, half())])).is_empty());
        assert_eq!(failures(&batch(&[(1, "d", 0, half()), (1, "d", 0, half())])), [(0, "too_large")]);
    }
}
