//! From the rows of a batch to bytes.

use arrow::array::{Array, AsArray, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

use super::{NAN_BITS, VERSION, ValueRef, code, hash};
use crate::schema::ColumnType;
use crate::varint;

/// A batch that has no canonical form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnsupportedColumn {
    /// A column is of none of our types.
    #[error("column {column:?} of type {data_type} has no canonical form")]
    Type {
        /// Its name.
        column: String,
        /// Its Arrow type.
        data_type: String,
    },
    /// A column has a name of more than 255 bytes.
    #[error("column {0:?} has no canonical form: its name is longer than 255 bytes")]
    Name(String),
    /// Two columns have the same name.
    #[error("two columns are named {0:?}")]
    Repeated(String),
}

enum Values<'a> {
    String(&'a StringArray),
    Timestamp(&'a TimestampMicrosecondArray),
    Int64(&'a Int64Array),
    Float64(&'a Float64Array),
    Bool(&'a BooleanArray),
}

impl<'a> Values<'a> {
    fn of(ty: ColumnType, array: &'a dyn Array) -> Self {
        match ty {
            ColumnType::String => Self::String(array.as_string()),
            ColumnType::Timestamp => Self::Timestamp(array.as_primitive::<TimestampMicrosecondType>()),
            ColumnType::Int64 => Self::Int64(array.as_primitive::<Int64Type>()),
            ColumnType::Float64 => Self::Float64(array.as_primitive::<Float64Type>()),
            ColumnType::Bool => Self::Bool(array.as_boolean()),
        }
    }

    fn get(&self, row: usize) -> ValueRef<'a> {
        match self {
            Self::String(values) => ValueRef::String(values.value(row)),
            Self::Timestamp(values) => ValueRef::Timestamp(values.value(row)),
            Self::Int64(values) => ValueRef::Int64(values.value(row)),
            Self::Float64(values) => ValueRef::Float64(values.value(row)),
            Self::Bool(values) => ValueRef::Bool(values.value(row)),
        }
    }
}

struct Column<'a> {
    head: Vec<u8>,
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

/// Encodes the rows of one batch. The work that depends only on the schema is done once.
pub struct RowEncoder<'a> {
    columns: Vec<Column<'a>>,
}

impl<'a> RowEncoder<'a> {
    /// # Errors
    /// [`UnsupportedColumn`], whether or not the column has values.
    pub fn new(batch: &'a RecordBatch) -> Result<Self, UnsupportedColumn> {
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let name = field.name().as_str();
            let ty = ColumnType::of(field.data_type()).ok_or_else(|| UnsupportedColumn::Type {
                column: name.to_owned(),
                data_type: field.data_type().to_string(),
            })?;
            let mut head = Vec::new();
            push_head(&mut head, name, ty).ok_or_else(|| UnsupportedColumn::Name(name.to_owned()))?;
            columns.push((name, Column { head, nulls: array.nulls(), values: Values::of(ty, array) }));
        }
        columns.sort_by_key(|column| column.0);
        if let Some(pair) = columns.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(UnsupportedColumn::Repeated(pair[0].0.to_owned()));
        }
        Ok(Self { columns: columns.into_iter().map(|(_, column)| column).collect() })
    }

    /// Appends row `row` to `out`.
    pub fn encode(&self, row: usize, out: &mut Vec<u8>) {
        out.push(VERSION);
        for Column { head, nulls, values } in &self.columns {
            if nulls.is_none_or(|nulls| nulls.is_valid(row)) {
                out.extend_from_slice(head);
                push_value(out, values.get(row));
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

/// Appends what stands before the value of a column; `None` if its name is too long.
pub(super) fn push_head(out: &mut Vec<u8>, name: &str, ty: ColumnType) -> Option<()> {
    let code = code(name, ty);
    out.push(code);
    if code == 0 {
        out.push(u8::try_from(name.len()).ok()?);
        out.extend_from_slice(name.as_bytes());
        out.push(match ty {
            ColumnType::String => 1,
            ColumnType::Timestamp => 2,
            ColumnType::Int64 => 3,
            ColumnType::Float64 => 4,
            ColumnType::Bool => 5,
        });
    }
    Some(())
}

#[inline]
pub(super) fn push_value(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::String(text) => varint::push_text(out, text),
        ValueRef::Timestamp(us) => out.extend_from_slice(&us.to_le_bytes()),
        ValueRef::Int64(number) => varint::push_signed(out, number),
        ValueRef::Float64(number) => {
            let bits = if number.is_nan() { NAN_BITS } else { number.to_bits() };
            out.extend_from_slice(&bits.to_le_bytes());
        }
        ValueRef::Bool(truth) => out.push(u8::from(truth)),
    }
}
