//! What a guest returned, checked. All of it is hostile until it has passed.
//!
//! The lists were copied out under [`crate::Limits::output_bytes`], so no size that a guest gives is ever allocated
//! unseen. Every rule holds row by row, so that a call of many rows breaks one exactly when one of its rows does, called
//! alone: otherwise the batch would decide what a row becomes.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use millrace_rows::ColumnType;
use millrace_rows::check::RECORD_ROWS_MAX;

use crate::abi;
use crate::call::{CallFailure, HostCode};

/// A column that a call must return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) ty: ColumnType,
    /// A new column, which can't be returned unchanged.
    pub(crate) added: bool,
}

/// The checked result of a call.
#[derive(Debug)]
pub(crate) struct Checked {
    /// For each row out its row in; `None` where every row in gave one row out.
    pub(crate) sources: Option<Vec<u32>>,
    /// (row, index of the code), ascending.
    pub(crate) dropped: Vec<(u32, u32)>,
    /// (row, index of the code), ascending.
    pub(crate) failed: Vec<(u32, u32)>,
    /// As expected, in order; `None` for a column that is as it was sent.
    pub(crate) columns: Vec<Option<ArrayRef>>,
    /// Size of all that was returned.
    pub(crate) bytes: u64,
}

/// Checks what a call of `rows` rows returned.
pub(crate) fn check(
    output: abi::Output,
    rows: usize,
    expected: &[Expected],
    codes: usize,
    bytes_max: u64,
) -> Result<Checked, CallFailure> {
    let bytes = output_bytes(&output);
    if bytes > bytes_max {
        return Err(too_large(format!("{bytes} bytes returned, {bytes_max} allowed")));
    }
    if output.columns.len() != expected.len() {
        return Err(CallFailure::bad_output(format!(
            "{} columns returned, {} in the manifest",
            output.columns.len(),
            expected.len()
        )));
    }
    account(rows, output.sources.as_deref(), &output.dropped, &output.failed, codes)?;
    let rows_out = output.sources.as_ref().map_or(rows, Vec::len);
    let columns = output
        .columns
        .into_iter()
        .zip(expected)
        .enumerate()
        .map(|(index, (returned, expected))| {
            match returned {
                abi::Returned::Unchanged if expected.added => Err("a new column is returned as unchanged".to_owned()),
                abi::Returned::Unchanged => Ok(None),
                abi::Returned::Column(column) => array(column, expected.ty, rows_out).map(Some),
            }
            .map_err(|problem| CallFailure::bad_output(format!("returned column {index}: {problem}")))
        })
        .collect::<Result<_, _>>()?;
    // Every row is accounted for once, so as many sources as rows and nothing else are the rows themselves.
    let identity = rows_out == rows && output.dropped.is_empty() && output.failed.is_empty();
    let sources = output.sources.filter(|_| !identity);
    let pairs = |outcomes: Vec<abi::Outcome>| outcomes.into_iter().map(|o| (o.row, o.code)).collect();
    Ok(Checked { sources, dropped: pairs(output.dropped), failed: pairs(output.failed), columns, bytes })
}

fn too_large(message: String) -> CallFailure {
    CallFailure::Guest(HostCode::OutputTooLarge, message)
}

/// Size of all lists, as the boundary lays them out.
fn output_bytes(output: &abi::Output) -> u64 {
    let columns: usize = output
        .columns
        .iter()
        .map(|returned| match returned {
            abi::Returned::Unchanged => 0,
            abi::Returned::Column(column) => {
                let values = match &column.values {
                    abi::Values::Text(text) => 4 * text.offsets.len() + text.bytes.len(),
                    abi::Values::Int64(values) => 8 * values.len(),
                    abi::Values::Float64(values) => 8 * values.len(),
                    abi::Values::Bool(values) => values.len(),
                };
                values + column.validity.as_ref().map_or(0, Vec::len)
            }
        })
        .sum();
    let sources = 4 * output.sources.as_ref().map_or(0, Vec::len);
    (columns + sources + 8 * (output.dropped.len() + output.failed.len())) as u64
}

/// Every row in is kept, dropped or failed: one of them, and once.
fn account(
    rows: usize,
    sources: Option<&[u32]>,
    dropped: &[abi::Outcome],
    failed: &[abi::Outcome],
    codes: usize,
) -> Result<(), CallFailure> {
    let bad = |message: String| Err(CallFailure::bad_output(message));
    for (list, outcomes) in [("dropped", dropped), ("failed", failed)] {
        if !outcomes.is_sorted_by(|a, b| a.row < b.row) {
            return bad(format!("{list}: rows are not ascending"));
        }
        if outcomes.last().is_some_and(|last| last.row as usize >= rows) {
            return bad(format!("{list}: a row that was not sent"));
        }
        if outcomes.iter().any(|outcome| outcome.code as usize >= codes) {
            return bad(format!("{list}: a code that is not in the manifest"));
        }
    }
    let Some(sources) = sources else {
        if dropped.is_empty() && failed.is_empty() {
            return Ok(());
        }
        return bad("sources are missing although rows are dropped or failed".to_owned());
    };
    if !sources.is_sorted() {
        return bad("sources are not ascending".to_owned());
    }
    if sources.last().is_some_and(|last| *last as usize >= rows) {
        return bad("sources: a row that was not sent".to_owned());
    }
    let mut sources = sources.iter().peekable();
    let mut dropped = dropped.iter().map(|outcome| outcome.row).peekable();
    let mut failed = failed.iter().map(|outcome| outcome.row).peekable();
    for row in 0..rows as u32 {
        let mut copies = 0;
        while sources.next_if_eq(&&row).is_some() {
            copies += 1;
        }
        let fates = usize::from(copies > 0)
            + usize::from(dropped.next_if_eq(&row).is_some())
            + usize::from(failed.next_if_eq(&row).is_some());
        if fates != 1 {
            let what = if fates == 0 { "is neither kept nor dropped nor failed" } else { "has more than one outcome" };
            return bad(format!("a row {what}"));
        }
        // Per row and not over the batch: what a row may become can't depend on the rows beside it.
        if copies > RECORD_ROWS_MAX {
            return Err(too_large(format!("a row became {copies} rows, {RECORD_ROWS_MAX} allowed")));
        }
    }
    Ok(())
}

/// An array of one of our types from a column of `rows` values.
pub(crate) fn array(column: abi::Column, ty: ColumnType, rows: usize) -> Result<ArrayRef, String> {
    let nulls = match column.validity {
        None => None,
        Some(bits) if bits.len() != rows.div_ceil(8) => {
            return Err(format!("validity of {} bytes for {rows} rows", bits.len()));
        }
        Some(bits) => {
            let nulls = NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(bits), 0, rows));
            (nulls.null_count() > 0).then_some(nulls)
        }
    };
    let length = |values: usize| {
        if values == rows { Ok(()) } else { Err(format!("{values} values for {rows} rows")) }
    };
    Ok(match (column.values, ty) {
        (abi::Values::Text(text), ColumnType::String) => text_array(text, rows, nulls)?,
        (abi::Values::Int64(values), ColumnType::Int64) => {
            length(values.len())?;
            Arc::new(Int64Array::new(ScalarBuffer::from(values), nulls))
        }
        (abi::Values::Int64(values), ColumnType::Timestamp) => {
            length(values.len())?;
            Arc::new(TimestampMicrosecondArray::new(ScalarBuffer::from(values), nulls).with_timezone("UTC"))
        }
        (abi::Values::Float64(values), ColumnType::Float64) => {
            length(values.len())?;
            Arc::new(Float64Array::new(ScalarBuffer::from(values), nulls))
        }
        (abi::Values::Bool(values), ColumnType::Bool) => {
            length(values.len())?;
            if values.iter().any(|value| *value > 1) {
                return Err("a bool that is neither 0 nor 1".to_owned());
            }
            Arc::new(BooleanArray::new(BooleanBuffer::collect_bool(rows, |row| values[row] == 1), nulls))
        }
        (_, ty) => return Err(format!("the values are not those of a {ty} column")),
    })
}

/// The bytes are valid UTF-8 and every offset is at a character: together that makes each value valid.
fn text_array(text: abi::Text, rows: usize, nulls: Option<NullBuffer>) -> Result<ArrayRef, String> {
    let abi::Text { offsets, bytes } = text;
    if offsets.len() != rows + 1 {
        return Err(format!("{} offsets for {rows} rows", offsets.len()));
    }
    if i32::try_from(bytes.len()).is_err() {
        return Err(format!("{} bytes in one column", bytes.len()));
    }
    if offsets[0] != 0 || offsets[rows] as usize != bytes.len() || !offsets.is_sorted() {
        return Err("offsets do not rise from 0 to the number of bytes".to_owned());
    }
    // No offset is past the bytes, whose number fits i32, so u32 and i32 are the same bits.
    let offsets = OffsetBuffer::new(ScalarBuffer::<i32>::new(Buffer::from_vec(offsets), 0, rows + 1));
    StringArray::try_new(offsets, Buffer::from_vec(bytes), nulls)
        .map(|array| Arc::new(array) as ArrayRef)
        .map_err(|_| "text is not valid UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};
    use proptest::prelude::*;

    fn outcome(row: u32) -> abi::Outcome {
        abi::Outcome { row, code: 0 }
    }

    fn accounted(rows: usize, sources: Option<&[u32]>, dropped: &[u32], failed: &[u32]) -> Result<(), CallFailure> {
        let outcomes = |rows: &[u32]| rows.iter().map(|row| outcome(*row)).collect::<Vec<_>>();
        account(rows, sources, &outcomes(dropped), &outcomes(failed), 1)
    }

    fn text(offsets: &[u32], bytes: &[u8], rows: usize) -> Result<ArrayRef, String> {
        let values = abi::Values::Text(abi::Text { offsets: offsets.to_vec(), bytes: bytes.to_vec() });
        array(abi::Column { values, validity: None }, ColumnType::String, rows)
    }

    #[test]
    fn every_row_has_one_outcome() {
        assert!(accounted(3, None, &[], &[]).is_ok());
        assert!(accounted(4, Some(&[0, 2, 2]), &[1], &[3]).is_ok());
        assert!(accounted(2, Some(&[]), &[0], &[1]).is_ok());
        for (sources, dropped, failed) in [
            (None, &[0][..], &[][..]),
            (Some(&[0, 1][..]), &[], &[]),
            (Some(&[0, 1, 2]), &[2], &[]),
            (Some(&[0]), &[1], &[1, 2]),
            (Some(&[0, 2, 1]), &[], &[]),
            (Some(&[0, 1, 2, 3]), &[], &[]),
            (Some(&[0]), &[2, 1], &[]),
            (Some(&[0]), &[1, 1, 2], &[]),
            (Some(&[0, 1, 2]), &[3], &[]),
        ] {
            let result = accounted(3, sources, dropped, failed);
            assert!(
                matches!(result, Err(CallFailure::Guest(HostCode::BadOutput, _))),
                "{sources:?} {dropped:?} {failed:?}"
            );
        }
        let result = account(1, Some(&[]), &[abi::Outcome { row: 0, code: 1 }], &[], 1);
        assert!(matches!(result, Err(CallFailure::Guest(HostCode::BadOutput, _))), "unknown code");
    }

    #[test]
    fn copies_are_bounded_per_row_and_not_over_the_batch() {
        let sources = [vec![0; RECORD_ROWS_MAX], vec![1]].concat();
        assert!(accounted(2, Some(&sources), &[], &[]).is_ok());
        let sources = [vec![0; RECORD_ROWS_MAX + 1], vec![1]].concat();
        let result = accounted(2, Some(&sources), &[], &[]);
        assert!(matches!(result, Err(CallFailure::Guest(HostCode::OutputTooLarge, _))));
    }

    #[test]
    fn text_must_be_whole() {
        let good = text(&[0, 2, 2, 3], "éa".as_bytes(), 3).unwrap();
        assert_eq!(good.as_string::<i32>().iter().collect::<Vec<_>>(), [Some("é"), Some(""), Some("a")]);
        assert!(text(&[0], b"", 0).is_ok());
        for (offsets, bytes, rows) in [
            (&[0, 1, 3][..], "éa".as_bytes(), 2),
            (&[0, 3, 2, 3], "éa".as_bytes(), 3),
            (&[1, 3], "éa".as_bytes(), 1),
            (&[0, 2], "éa".as_bytes(), 1),
            (&[0, 4], "éa".as_bytes(), 1),
            (&[0, u32::MAX, 3], "éa".as_bytes(), 2),
            (&[0, 1], b"\xff", 1),
            (&[0, 3], "éa".as_bytes(), 2),
            (&[], b"", 0),
            (&[], b"", 1),
        ] {
            assert!(text(offsets, bytes, rows).is_err(), "{offsets:?}");
        }
    }

    #[test]
    fn values_must_be_of_the_type_and_number() {
        let column = |values, validity: Option<&[u8]>| abi::Column { values, validity: validity.map(<[u8]>::to_vec) };
        let ok = array(column(abi::Values::Int64(vec![1; 9]), Some(&[0b1111_1110, 0xff])), ColumnType::Timestamp, 9)
            .unwrap();
        assert_eq!((ok.data_type(), ok.null_count()), (&ColumnType::Timestamp.data_type(), 1));
        assert!(array(column(abi::Values::Int64(vec![1; 9]), Some(&[0])), ColumnType::Int64, 9).is_err());
        assert!(array(column(abi::Values::Int64(vec![1; 8]), None), ColumnType::Int64, 9).is_err());
        assert!(array(column(abi::Values::Int64(vec![1]), None), ColumnType::Float64, 1).is_err());
        assert!(array(column(abi::Values::Bool(vec![2]), None), ColumnType::Bool, 1).is_err());
        assert!(
            array(column(abi::Values::Float64(vec![0.5]), Some(&[1])), ColumnType::Float64, 1)
                .unwrap()
                .nulls()
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_gives_sound_arrays(
            offsets in proptest::collection::vec(0u32..12, 0..6),
            bytes in proptest::collection::vec(prop_oneof![Just(b'a'), Just(0xc3), Just(0xa9), any::<u8>()], 0..12),
            sources in proptest::option::of(proptest::collection::vec(0u32..5, 0..6)),
            dropped in proptest::collection::vec((0u32..5, 0u32..3), 0..3),
            failed in proptest::collection::vec((0u32..5, 0u32..3), 0..3),
            rows in 1usize..5,
        ) {
            let outcomes = |list: Vec<(u32, u32)>| list.into_iter().map(|(row, code)| abi::Outcome { row, code }).collect();
            let column = abi::Column { values: abi::Values::Text(abi::Text { offsets, bytes }), validity: None };
            let output = abi::Output {
                columns: vec![abi::Returned::Column(column)],
                sources,
                dropped: outcomes(dropped),
                failed: outcomes(failed),
            };
            let expected = [Expected { ty: ColumnType::String, added: true }];
            if let Ok(checked) = check(output, rows, &expected, 2, 1_000) {
                let column = checked.columns[0].as_ref().unwrap();
                prop_assert_eq!(column.len(), checked.sources.as_ref().map_or(rows, Vec::len));
                prop_assert!(checked.sources != Some((0..rows as u32).collect()), "the rows themselves have no sources");
                for value in column.as_string::<i32>().iter().flatten() {
                    prop_assert!(std::str::from_utf8(value.as_bytes()).is_ok());
                }
            }
        }
    }
}
