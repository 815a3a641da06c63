//! The canonical byte form of one row.
//!
//! It is the value under a history key and the input of the row hash, so two stores hold the same row exactly when the
//! bytes are the same. The schema around a row does not matter: a null is absent, and columns stand in byte order of
//! their names.
//!
//! ```text
//! version  u8 = 1
//! then for each column that is not null, in ascending byte order of the names:
//!   name   u8 length, then the bytes
//!   type   u8: 1 string, 2 timestamp, 3 int64, 4 float64, 5 bool
//!   value  string: u32 LE length, then UTF-8 bytes
//!          timestamp (µs since 1970 UTC), int64: i64 LE
//!          float64: IEEE 754 bits, LE (every NaN is written as the one quiet NaN 0x7ff8000000000000)
//!          bool: u8 0 or 1
//! ```
//!
//! All columns are in, lineage too. A reader that meets another version says so and reads no further.

use arrow::array::{Array, AsArray, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use xxhash_rust::xxh3::xxh3_128;

use crate::schema::ColumnType;

/// The version byte that is written.
pub const VERSION: u8 = 1;

const NAN_BITS: u64 = 0x7ff8_0000_0000_0000;

/// A batch that has no canonical form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("column {column:?} of type {data_type} has no canonical form")]
pub struct UnsupportedColumn {
    column: String,
    data_type: String,
}

/// Bytes that are no canonical row.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Written by another version of this format.
    #[error("row format version {0} is not known to this build (it reads version {VERSION})")]
    Version(u8),
    /// Cut short or damaged.
    #[error("row is damaged at byte {0}")]
    Damaged(usize),
}

/// One value of a decoded row.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// [`ColumnType::String`].
    String(String),
    /// [`ColumnType::Timestamp`], in µs.
    Timestamp(i64),
    /// [`ColumnType::Int64`].
    Int64(i64),
    /// [`ColumnType::Float64`].
    Float64(f64),
    /// [`ColumnType::Bool`].
    Bool(bool),
}

enum Column<'a> {
    String(&'a StringArray),
    Timestamp(&'a TimestampMicrosecondArray),
    Int64(&'a Int64Array),
    Float64(&'a Float64Array),
    Bool(&'a BooleanArray),
}

/// Encodes the rows of one batch. The work that depends only on the schema is done once.
pub struct RowEncoder<'a> {
    columns: Vec<(Vec<u8>, &'a dyn Array, Column<'a>)>,
}

impl<'a> RowEncoder<'a> {
    /// # Errors
    /// When the batch has a column that is of none of our types, or whose name is longer than 255 bytes.
    pub fn new(batch: &'a RecordBatch) -> Result<Self, UnsupportedColumn> {
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let unsupported =
                || UnsupportedColumn { column: field.name().clone(), data_type: field.data_type().to_string() };
            let (tag, column) = match ColumnType::of(field.data_type()).ok_or_else(unsupported)? {
                ColumnType::String => (1, Column::String(array.as_string())),
                ColumnType::Timestamp => (2, Column::Timestamp(array.as_primitive::<TimestampMicrosecondType>())),
                ColumnType::Int64 => (3, Column::Int64(array.as_primitive::<Int64Type>())),
                ColumnType::Float64 => (4, Column::Float64(array.as_primitive::<Float64Type>())),
                ColumnType::Bool => (5, Column::Bool(array.as_boolean())),
            };
            let length = u8::try_from(field.name().len()).map_err(|_| unsupported())?;
            let mut head = vec![length];
            head.extend_from_slice(field.name().as_bytes());
            head.push(tag);
            columns.push((head, array.as_ref(), column));
        }
        columns.sort_by(|a, b| a.0[1..a.0.len() - 1].cmp(&b.0[1..b.0.len() - 1]));
        Ok(Self { columns })
    }

    /// Appends row `row` to `out`.
    pub fn encode(&self, row: usize, out: &mut Vec<u8>) {
        out.push(VERSION);
        for (head, array, column) in &self.columns {
            if array.is_null(row) {
                continue;
            }
            out.extend_from_slice(head);
            match column {
                Column::String(values) => {
                    let value = values.value(row);
                    // A string of an Arrow array with 32-bit offsets is never longer than i32::MAX.
                    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                    out.extend_from_slice(value.as_bytes());
                }
                Column::Timestamp(values) => out.extend_from_slice(&values.value(row).to_le_bytes()),
                Column::Int64(values) => out.extend_from_slice(&values.value(row).to_le_bytes()),
                Column::Float64(values) => {
                    let value = values.value(row);
                    let bits = if value.is_nan() { NAN_BITS } else { value.to_bits() };
                    out.extend_from_slice(&bits.to_le_bytes());
                }
                Column::Bool(values) => out.push(u8::from(values.value(row))),
            }
        }
    }

    /// Hash of row `row`; `buffer` is scratch space.
    pub fn hash(&self, row: usize, buffer: &mut Vec<u8>) -> u128 {
        buffer.clear();
        self.encode(row, buffer);
        hash(buffer)
    }
}

/// The canonical hash of an encoded row.
pub fn hash(encoded: &[u8]) -> u128 {
    xxh3_128(encoded)
}

/// One value of a row that is read in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueRef<'a> {
    /// [`ColumnType::String`].
    String(&'a str),
    /// [`ColumnType::Timestamp`], in µs.
    Timestamp(i64),
    /// [`ColumnType::Int64`].
    Int64(i64),
    /// [`ColumnType::Float64`].
    Float64(f64),
    /// [`ColumnType::Bool`].
    Bool(bool),
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::String(text) => Self::String(text.to_owned()),
            ValueRef::Timestamp(us) => Self::Timestamp(us),
            ValueRef::Int64(number) => Self::Int64(number),
            ValueRef::Float64(number) => Self::Float64(number),
            ValueRef::Bool(truth) => Self::Bool(truth),
        }
    }
}

/// Reads a row back: its columns in byte order of their names.
///
/// # Errors
/// [`DecodeError`] on bytes that were not written by this format; never panics.
pub fn decode(bytes: &[u8]) -> Result<Vec<(String, Value)>, DecodeError> {
    columns(bytes)?.map(|column| column.map(|(name, value)| (name.to_owned(), value.into()))).collect()
}

/// Reads the columns of a row one by one, in byte order of their names, without copying: to look at a few of them.
///
/// # Errors
/// As [`decode`]: for the version here, for damage at the column where it is met; nothing comes after that.
pub fn columns(bytes: &[u8]) -> Result<Columns<'_>, DecodeError> {
    let mut reader = Reader { bytes, at: 0 };
    match reader.take(1)? {
        [VERSION] => Ok(Columns { reader }),
        other => Err(DecodeError::Version(other[0])),
    }
}

/// The columns of an encoded row: see [`columns`].
pub struct Columns<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Columns<'a> {
    type Item = Result<(&'a str, ValueRef<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.at >= self.reader.bytes.len() {
            return None;
        }
        let column = self.reader.column();
        if column.is_err() {
            self.reader.at = self.reader.bytes.len();
        }
        Some(column)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(length).ok_or(DecodeError::Damaged(self.at))?;
        let taken = self.bytes.get(self.at..end).ok_or(DecodeError::Damaged(self.at))?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| DecodeError::Damaged(at))
    }

    fn text(&mut self, length: usize) -> Result<&'a str, DecodeError> {
        let at = self.at;
        std::str::from_utf8(self.take(length)?).map_err(|_| DecodeError::Damaged(at))
    }

    fn column(&mut self) -> Result<(&'a str, ValueRef<'a>), DecodeError> {
        let length = usize::from(self.take(1)?[0]);
        let name = self.text(length)?;
        let value = match self.take(1)?[0] {
            1 => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                ValueRef::String(self.text(length)?)
            }
            2 => ValueRef::Timestamp(i64::from_le_bytes(self.array()?)),
            3 => ValueRef::Int64(i64::from_le_bytes(self.array()?)),
            4 => ValueRef::Float64(f64::from_bits(u64::from_le_bytes(self.array()?))),
            5 => match self.take(1)?[0] {
                0 => ValueRef::Bool(false),
                1 => ValueRef::Bool(true),
                _ => return Err(DecodeError::Damaged(self.at)),
            },
            _ => return Err(DecodeError::Damaged(self.at)),
        };
        Ok((name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, new_null_array};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
    }

    fn encoded(batch: &RecordBatch, row: usize) -> Vec<u8> {
        let mut out = Vec::new();
        RowEncoder::new(batch).unwrap().encode(row, &mut out);
        out
    }

    #[test]
    fn bytes_are_pinned() {
        let row = batch(vec![
            ("b", Arc::new(Int64Array::from(vec![Some(-2)])) as ArrayRef),
            ("a", Arc::new(StringArray::from(vec![Some("hé")]))),
            ("c", Arc::new(BooleanArray::from(vec![None::<bool>]))),
        ]);
        let expected = b"\x01\x01a\x01\x03\0\0\0h\xc3\xa9\x01b\x03\xfe\xff\xff\xff\xff\xff\xff\xff";
        assert_eq!(encoded(&row, 0), expected);
    }

    #[test]
    fn names_sort_by_bytes_not_by_length() {
        let one = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
        let row = batch(vec![("b", one()), ("aa", one())]);
        let names: Vec<_> = decode(&encoded(&row, 0)).unwrap().into_iter().map(|c| c.0).collect();
        assert_eq!(names, ["aa", "b"]);
    }

    #[test]
    fn order_and_null_columns_do_not_change_the_hash() {
        let a = || Arc::new(StringArray::from(vec!["x"])) as ArrayRef;
        let b = || Arc::new(Float64Array::from(vec![f64::NAN])) as ArrayRef;
        let one = batch(vec![("a", a()), ("b", b())]);
        let two = batch(vec![
            ("b", Arc::new(Float64Array::from(vec![-f64::NAN])) as ArrayRef),
            ("later", new_null_array(&ColumnType::Timestamp.data_type(), 1)),
            ("a", a()),
        ]);
        let hash = |batch: &RecordBatch| RowEncoder::new(batch).unwrap().hash(0, &mut Vec::new());
        assert_eq!(hash(&one), hash(&two));
    }

    #[test]
    fn columns_end_at_the_first_damage() {
        let row = batch(vec![
            ("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
            ("b", Arc::new(StringArray::from(vec!["text"]))),
        ]);
        let bytes = encoded(&row, 0);
        let names = |bytes: &[u8]| columns(bytes).unwrap().map(|c| c.map(|c| c.0.to_owned())).collect::<Vec<_>>();
        assert_eq!(names(&bytes), [Ok("a".to_owned()), Ok("b".to_owned())]);
        let cut = names(&bytes[..bytes.len() - 1]);
        assert_eq!((cut.len(), &cut[0]), (2, &Ok("a".to_owned())));
        assert!(matches!(cut[1], Err(DecodeError::Damaged(_))));
    }

    #[test]
    fn a_version_from_the_future_is_named() {
        assert_eq!(decode(&[9, 1]), Err(DecodeError::Version(9)));
        assert_eq!(decode(&[]), Err(DecodeError::Damaged(0)));
    }

    proptest! {
        #[test]
        fn round_trip(text in any::<Option<String>>(), n in any::<Option<i64>>(), f in any::<Option<f64>>(), b in any::<Option<bool>>()) {
            let row = batch(vec![
                ("s", Arc::new(StringArray::from(vec![text.clone()])) as ArrayRef),
                ("t", Arc::new(TimestampMicrosecondArray::from(vec![n]).with_timezone("UTC"))),
                ("i", Arc::new(Int64Array::from(vec![n]))),
                ("f", Arc::new(Float64Array::from(vec![f]))),
                ("b", Arc::new(BooleanArray::from(vec![b]))),
            ]);
            let mut expected = Vec::new();
            expected.extend(b.map(|b| ("b".to_owned(), Value::Bool(b))));
            expected.extend(f.map(|f| ("f".to_owned(), Value::Float64(f))));
            expected.extend(n.map(|n| ("i".to_owned(), Value::Int64(n))));
            expected.extend(text.map(|t| ("s".to_owned(), Value::String(t))));
            expected.extend(n.map(|n| ("t".to_owned(), Value::Timestamp(n))));
            prop_assert_eq!(decode(&encoded(&row, 0)).unwrap(), expected);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let mut versioned = vec![VERSION];
            versioned.extend(bytes);
            let _ = decode(&versioned);
        }
    }
}
