//! A slice's rows by `event_date`.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::record_batch::RecordBatch;
use chrono::{Days, NaiveDate};

const DAY_US: i64 = 86_400_000_000;

/// Days since 1970-01-01 of a time in µs.
pub(crate) fn day_of(time_us: i64) -> i32 {
    // The quotient of any i64 lies within ±106,751,992 days.
    time_us.div_euclid(DAY_US) as i32
}

/// The date of a day number, as it stands in paths and in the log.
pub(crate) fn date_of(day: i32) -> Option<NaiveDate> {
    let epoch = NaiveDate::default();
    let days = Days::new(u64::from(day.unsigned_abs()));
    if day < 0 { epoch.checked_sub_days(days) } else { epoch.checked_add_days(days) }
}

/// Splits rows by day, each part in the order that the rows had. Rows of one day only are passed on, not copied.
///
/// # Errors
/// When a row has no `event_time`.
pub(crate) fn by_day(rows: RecordBatch) -> Result<Vec<(i32, RecordBatch)>, String> {
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let times = rows
        .column_by_name("event_time")
        .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>())
        .ok_or("the rows have no event_time in µs")?;
    if times.null_count() > 0 {
        return Err("a row has no event_time; the check after the chain should have refused it".to_owned());
    }
    let first = day_of(times.value(0));
    if times.values().iter().all(|time| day_of(*time) == first) {
        return Ok(vec![(first, rows)]);
    }
    let mut by_day: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
    for (row, time) in times.values().iter().enumerate() {
        let row = u32::try_from(row).map_err(|_| "a slice has more than 2^32 rows")?;
        by_day.entry(day_of(*time)).or_default().push(row);
    }
    by_day
        .into_iter()
        .map(|(day, indices)| {
            let part = take_record_batch(&rows, &UInt32Array::from(indices)).map_err(|error| error.to_string())?;
            Ok((day, part))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};
    use arrow::datatypes::Int64Type;
    use std::sync::Arc;

    fn rows(times: &[Option<i64>]) -> RecordBatch {
        let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"));
        let offset: ArrayRef = Arc::new(Int64Array::from_iter_values(0..times.len() as i64));
        RecordBatch::try_from_iter([("event_time", time), ("_offset", offset)]).unwrap()
    }

    #[test]
    fn days_change_at_midnight_utc_on_either_side_of_1970() {
        assert_eq!(day_of(0), 0);
        assert_eq!(day_of(DAY_US - 1), 0);
        assert_eq!(day_of(DAY_US), 1);
        assert_eq!(day_of(-1), -1);
        assert_eq!(date_of(20_760).unwrap().to_string(), "2026-11-03");
        assert_eq!(date_of(-1).unwrap().to_string(), "1969-12-31");
        assert!(date_of(day_of(i64::MAX)).is_none());
    }

    #[test]
    fn parts_keep_the_order_and_lose_nothing() {
        let parts = by_day(rows(&[Some(DAY_US), Some(0), Some(DAY_US + 1), Some(1)])).unwrap();
        let offsets: Vec<(i32, Vec<i64>)> = parts
            .iter()
            .map(|(day, part)| (*day, part.column(1).as_primitive::<Int64Type>().values().to_vec()))
            .collect();
        assert_eq!(offsets, [(0, vec![1, 3]), (1, vec![0, 2])]);
        assert!(by_day(rows(&[])).unwrap().is_empty());
        assert!(by_day(rows(&[Some(1), None])).is_err());
    }
}
