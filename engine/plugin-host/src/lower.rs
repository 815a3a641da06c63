//! Arrow arrays as the plain columns of the boundary.
//!
//! Values are borrowed wherever the layout is the same; offsets are rebased and bitmaps realigned where a range does not
//! start at 0. A guest sees nothing of rows outside its range, not even the spare bits of a bitmap.

use std::borrow::Cow;
use std::ops::Range;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use millrace_rows::ColumnType;

use crate::abi::{Column, ColumnIn, Text, TextIn, Values, ValuesIn};

/// A range of a column, ready to be sent.
pub(crate) struct PlainColumn<'a> {
    values: PlainValues<'a>,
    validity: Option<Vec<u8>>,
}

enum PlainValues<'a> {
    Text { offsets: Offsets, bytes: &'a [u8] },
    Int64(&'a [i64]),
    Float64(&'a [f64]),
    Bool(Vec<u8>),
}

enum Offsets {
    Shared(ScalarBuffer<u32>),
    Rebased(Vec<u32>),
}

impl<'a> PlainColumn<'a> {
    /// `array` must be of the Arrow type of `ty`, and `rows` within it.
    pub(crate) fn new(array: &'a dyn Array, ty: ColumnType, rows: Range<usize>) -> Self {
        let values = match ty {
            ColumnType::String => {
                let text = array.as_string::<i32>();
                let offsets = &text.value_offsets()[rows.start..=rows.end];
                let (first, last) = (offsets[0], offsets[rows.len()]);
                let bytes = &text.value_data()[first as usize..last as usize];
                let offsets = if first == 0 {
                    // Offsets are never negative, so they are the same bits as u32.
                    let shared = text.offsets().inner().inner().clone();
                    Offsets::Shared(ScalarBuffer::new(shared, rows.start, rows.len() + 1))
                } else {
                    Offsets::Rebased(offsets.iter().map(|offset| (offset - first) as u32).collect())
                };
                PlainValues::Text { offsets, bytes }
            }
            ColumnType::Timestamp => {
                PlainValues::Int64(&array.as_primitive::<TimestampMicrosecondType>().values()[rows.clone()])
            }
            ColumnType::Int64 => PlainValues::Int64(&array.as_primitive::<Int64Type>().values()[rows.clone()]),
            ColumnType::Float64 => PlainValues::Float64(&array.as_primitive::<Float64Type>().values()[rows.clone()]),
            ColumnType::Bool => PlainValues::Bool(bool_bytes(array.as_boolean(), rows.clone())),
        };
        let validity = array.nulls().and_then(|nulls| {
            let bits = nulls.inner().slice(rows.start, rows.len());
            (bits.count_set_bits() < rows.len()).then(|| bitmap(&bits))
        });
        Self { values, validity }
    }

    pub(crate) fn borrowed(&self) -> ColumnIn<'_> {
        let values = match &self.values {
            PlainValues::Text { offsets, bytes } => {
                let offsets: &[u32] = match offsets {
                    Offsets::Shared(offsets) => offsets,
                    Offsets::Rebased(offsets) => offsets,
                };
                ValuesIn::Text(TextIn { offsets, bytes })
            }
            PlainValues::Int64(values) => ValuesIn::Int64(values),
            PlainValues::Float64(values) => ValuesIn::Float64(values),
            PlainValues::Bool(values) => ValuesIn::Bool(values),
        };
        ColumnIn { values, validity: self.validity.as_deref() }
    }
}

/// A whole column with buffers of its own, for what a host's function gives back.
pub(crate) fn owned_column(array: &dyn Array, ty: ColumnType) -> Column {
    let plain = PlainColumn::new(array, ty, 0..array.len());
    let values = match plain.borrowed().values {
        ValuesIn::Text(text) => Values::Text(Text { offsets: text.offsets.to_vec(), bytes: text.bytes.to_vec() }),
        ValuesIn::Int64(values) => Values::Int64(values.to_vec()),
        ValuesIn::Float64(values) => Values::Float64(values.to_vec()),
        ValuesIn::Bool(values) => Values::Bool(values.to_vec()),
    };
    Column { values, validity: plain.validity }
}

fn bool_bytes(array: &BooleanArray, rows: Range<usize>) -> Vec<u8> {
    array.values().slice(rows.start, rows.len()).iter().map(u8::from).collect()
}

/// The bits from bit 0 on, with the spare bits of the last byte clear.
fn bitmap(bits: &BooleanBuffer) -> Vec<u8> {
    let aligned = bits.sliced();
    let bytes = bits.len().div_ceil(8);
    let mut copy = Cow::from(&aligned.as_slice()[..bytes]).into_owned();
    if let (Some(last), spare @ 1..) = (copy.last_mut(), bits.len() % 8) {
        *last &= (1 << spare) - 1;
    }
    copy
}

/// Cuts `rows` rows into ranges of at most `rows_max` rows and, but for single rows, `bytes_max` bytes of text.
pub(crate) fn chunks(
    columns: &[(&dyn Array, ColumnType)],
    rows: usize,
    rows_max: usize,
    bytes_max: u64,
) -> Vec<Range<usize>> {
    let texts: Vec<&[i32]> = columns
        .iter()
        .filter(|(_, ty)| *ty == ColumnType::String)
        .map(|(array, _)| array.as_string::<i32>().value_offsets())
        .collect();
    let bytes = |range: Range<usize>| -> u64 {
        texts.iter().map(|offsets| u64::from((offsets[range.end] - offsets[range.start]) as u32)).sum()
    };
    let mut chunks = Vec::with_capacity(rows.div_ceil(rows_max));
    let mut start = 0;
    while start < rows {
        let mut end = rows.min(start + rows_max);
        if bytes(start..end) > bytes_max {
            // Bytes grow with the rows: the last end that still fits, and one row at least.
            let fits = (start + 1..end).collect::<Vec<_>>().partition_point(|end| bytes(start..*end) <= bytes_max);
            end = start + fits.max(1);
        }
        chunks.push(start..end);
        start = end;
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn a_range_of_a_sliced_array_sends_its_own_rows_only() {
        let all: Vec<Option<String>> = (0..40).map(|n| (n % 3 != 0).then(|| "é".repeat(n))).collect();
        let bools: Vec<Option<bool>> = (0..40).map(|n| (n % 5 != 0).then_some(n % 2 == 0)).collect();
        let text: ArrayRef = Arc::new(StringArray::from(all.clone()));
        let flags: ArrayRef = Arc::new(BooleanArray::from(bools.clone()));
        for (skip, start, end) in [(0, 0, 40), (0, 0, 7), (0, 3, 21), (5, 0, 30), (7, 9, 9 + 17), (1, 2, 3)] {
            let sliced = (text.slice(skip, 40 - skip), flags.slice(skip, 40 - skip));
            let column = PlainColumn::new(&sliced.0, ColumnType::String, start..end);
            let column = column.borrowed();
            let ValuesIn::Text(TextIn { offsets, bytes }) = column.values else { panic!("text") };
            let rows = end - start;
            assert_eq!((offsets.len(), offsets[0], offsets[rows] as usize), (rows + 1, 0, bytes.len()));
            for row in 0..rows {
                let expected = &all[skip + start + row];
                let value = &bytes[offsets[row] as usize..offsets[row + 1] as usize];
                assert_eq!(value, expected.as_deref().unwrap_or("").as_bytes());
                let valid = column.validity.is_none_or(|bits| bits[row / 8] >> (row % 8) & 1 == 1);
                assert_eq!(valid, expected.is_some());
            }
            if let Some(bits) = column.validity {
                assert_eq!(bits.len(), rows.div_ceil(8));
                assert_eq!(usize::from(bits[(rows - 1) / 8]) >> ((rows - 1) % 8) >> 1, 0, "spare bits");
            }
            let column = PlainColumn::new(&sliced.1, ColumnType::Bool, start..end);
            let ValuesIn::Bool(values) = column.borrowed().values else { panic!("bool") };
            let expected: Vec<u8> =
                bools[skip + start..skip + end].iter().map(|value| u8::from(value.unwrap_or(false))).collect();
            let valid = |row: usize| column.validity.as_ref().is_none_or(|bits| bits[row / 8] >> (row % 8) & 1 == 1);
            for row in 0..rows {
                assert!(!valid(row) || values[row] == expected[row]);
            }
        }
    }

    #[test]
    fn no_validity_is_sent_where_the_range_has_no_null() {
        let numbers = Int64Array::from(vec![None, Some(1), Some(2)]);
        assert!(PlainColumn::new(&numbers, ColumnType::Int64, 0..3).validity.is_some());
        assert!(PlainColumn::new(&numbers, ColumnType::Int64, 1..3).validity.is_none());
        let floats = Float64Array::from(vec![1.5, 2.5]);
        let column = PlainColumn::new(&floats, ColumnType::Float64, 1..2);
        assert!(matches!(column.borrowed().values, ValuesIn::Float64([2.5])));
    }

    #[test]
    fn chunks_keep_both_bounds_and_cover_every_row() {
        let text = StringArray::from_iter_values((0..20).map(|n| "x".repeat(if n == 7 { 100 } else { 10 })));
        let columns = [(&text as &dyn Array, ColumnType::String)];
        assert_eq!(chunks(&columns, 20, 6, 1_000), [0..6, 6..12, 12..18, 18..20]);
        assert_eq!(chunks(&columns, 20, 20, 50), [0..5, 5..7, 7..8, 8..13, 13..18, 18..20]);
        assert_eq!(chunks(&[], 5, 2, 1), [0..2, 2..4, 4..5]);
        assert!(chunks(&columns, 0, 2, 1).is_empty());
    }
}
