//! What is kept of a window's rows.

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Date32Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use millrace_rows::canonical::{self, RowEncoder};
use millrace_rows::schema::{EVENT_DATE, OFFSET, SUB};

use super::VerifyError;
use super::compare::Print;

const DAY_US: i64 = 86_400_000_000;

/// What a window must hold, or holds.
#[derive(Default)]
pub(super) struct Window {
    pub(super) rows: Vec<Print>,
    /// Offset, and hash of revision, step and code.
    pub(super) dead: Vec<(u64, u128)>,
    /// Rows in the wrong place of the store.
    pub(super) misplaced: Vec<(u64, u32)>,
}

/// Place and hash of each row.
pub(super) fn prints(rows: &RecordBatch, out: &mut Vec<Print>) -> Result<(), VerifyError> {
    let number = |name: &str| {
        let column = rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
        column.ok_or_else(|| VerifyError::Internal(format!("rows without {name}")))
    };
    if rows.num_rows() == 0 {
        return Ok(());
    }
    let (offsets, subs) = (number(OFFSET)?, number(SUB)?);
    let encoder = RowEncoder::new(rows).map_err(|error| VerifyError::Internal(error.to_string()))?;
    let mut buffer = Vec::new();
    for row in 0..rows.num_rows() {
        let sub = u32::try_from(subs.value(row)).unwrap_or(u32::MAX);
        out.push((offsets.value(row).unsigned_abs(), sub, encoder.hash(row, &mut buffer)));
    }
    Ok(())
}

/// Rows of a table whose partition is not the date of their time.
pub(super) fn misplaced(batch: &RecordBatch, out: &mut Vec<(u64, u32)>) {
    let numbers = |name: &str| batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let dates = batch.column_by_name(EVENT_DATE).and_then(|column| column.as_primitive_opt::<Date32Type>());
    let times = batch.column_by_name("event_time");
    let times = times.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let (Some(dates), Some(times), Some(offsets), Some(subs)) = (dates, times, numbers(OFFSET), numbers(SUB)) else {
        return;
    };
    for row in 0..batch.num_rows() {
        let right = dates.is_valid(row)
            && times.is_valid(row)
            && i64::from(dates.value(row)) == times.value(row).div_euclid(DAY_US);
        if !right {
            out.push((offsets.value(row).unsigned_abs(), u32::try_from(subs.value(row)).unwrap_or(u32::MAX)));
        }
    }
}

pub(super) fn dead_hash(dead: &millrace_rows::DeadLetter) -> u128 {
    canonical::hash(format!("{}\0{}\0{}", dead.revision, dead.step, dead.code).as_bytes())
}
