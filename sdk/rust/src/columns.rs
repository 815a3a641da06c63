//! The plain columns that cross the boundary, as ordinary Rust types.
//!
//! They mirror `sdk/wit/transform.wit` one to one and own their buffers. In a guest the exported functions move
//! bindings' buffers in and out of them; a native caller (tests, goldens, benchmarks, the host's own tests) uses them
//! directly. So the path from columns to columns is the same code in both.

use std::fmt;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// UTF-8 text.
    String,
    /// Microseconds since 1970-01-01 UTC.
    Timestamp,
    /// Signed 64-bit integer.
    Int64,
    /// IEEE 754 double.
    Float64,
    /// True or false.
    Bool,
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::String => "string",
            Self::Timestamp => "timestamp",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Bool => "bool",
        })
    }
}

/// Text values: value `i` is `bytes[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// One entry more than there are rows; starts at 0, never falls, ends at the length of `bytes`.
    pub offsets: Vec<u32>,
    /// All values, one after the other.
    pub bytes: Vec<u8>,
}

/// The values of a column. A value whose row is null is there too and has no meaning.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// UTF-8 text.
    Text(Text),
    /// Integers and timestamps.
    Int64(Vec<i64>),
    /// Doubles.
    Float64(Vec<f64>),
    /// 0 or 1 each.
    Bool(Vec<u8>),
}

impl Values {
    /// What this is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Int64(_) => "int64 or timestamp",
            Self::Float64(_) => "float64",
            Self::Bool(_) => "bool",
        }
    }
}

/// A column with a value for each row.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its values.
    pub values: Values,
    /// Bit `i % 8` (lowest first) of byte `i / 8` is set where row `i` has a value; `None`: every row has one.
    pub validity: Option<Vec<u8>>,
}

impl Column {
    /// A text column from its values.
    pub fn text<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut text = Text { offsets: vec![0], bytes: Vec::new() };
        let mut present = Vec::new();
        for value in values {
            text.bytes.extend_from_slice(value.unwrap_or_default().as_bytes());
            // The boundary counts in u32; a column of 4 GiB or more can't be sent by any host.
            text.offsets.push(u32::try_from(text.bytes.len()).unwrap_or(u32::MAX));
            present.push(value.is_some());
        }
        Self { values: Values::Text(text), validity: validity(&present) }
    }

    /// A column of integers or timestamps.
    pub fn int64(values: impl IntoIterator<Item = Option<i64>>) -> Self {
        let (values, validity) = split(values);
        Self { values: Values::Int64(values), validity }
    }

    /// A column of doubles.
    pub fn float64(values: impl IntoIterator<Item = Option<f64>>) -> Self {
        let (values, validity) = split(values);
        Self { values: Values::Float64(values), validity }
    }

    /// A column of booleans.
    pub fn bool(values: impl IntoIterator<Item = Option<bool>>) -> Self {
        let (values, validity) = split(values.into_iter().map(|value| value.map(u8::from)));
        Self { values: Values::Bool(values), validity }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        match &self.values {
            Values::Text(text) => text.offsets.len().saturating_sub(1),
            Values::Int64(values) => values.len(),
            Values::Float64(values) => values.len(),
            Values::Bool(values) => values.len(),
        }
    }

    /// Whether `row` has a value.
    pub fn is_valid(&self, row: usize) -> bool {
        self.validity.as_ref().is_none_or(|bits| bits[row / 8] >> (row % 8) & 1 == 1)
    }

    /// The text at `row`; `None` if it is null, not text or not UTF-8.
    pub fn str(&self, row: usize) -> Option<&str> {
        std::str::from_utf8(self.bytes(row)?).ok()
    }

    /// The bytes of the text at `row`; `None` if it is null or not text.
    pub fn bytes(&self, row: usize) -> Option<&[u8]> {
        match &self.values {
            Values::Text(text) if self.is_valid(row) => {
                Some(&text.bytes[text.offsets[row] as usize..text.offsets[row + 1] as usize])
            }
            _ => None,
        }
    }

    /// The integer or timestamp at `row`; `None` if it is null or something else.
    pub fn int(&self, row: usize) -> Option<i64> {
        match &self.values {
            Values::Int64(values) if self.is_valid(row) => Some(values[row]),
            _ => None,
        }
    }

    /// The double at `row`; `None` if it is null or something else.
    pub fn float(&self, row: usize) -> Option<f64> {
        match &self.values {
            Values::Float64(values) if self.is_valid(row) => Some(values[row]),
            _ => None,
        }
    }

    /// The boolean at `row`; `None` if it is null or something else.
    pub fn flag(&self, row: usize) -> Option<bool> {
        match &self.values {
            Values::Bool(values) if self.is_valid(row) => Some(values[row] != 0),
            _ => None,
        }
    }
}

fn split<T: Default>(values: impl IntoIterator<Item = Option<T>>) -> (Vec<T>, Option<Vec<u8>>) {
    let mut present = Vec::new();
    let values = values
        .into_iter()
        .map(|value| {
            present.push(value.is_some());
            value.unwrap_or_default()
        })
        .collect();
    (values, validity(&present))
}

fn validity(present: &[bool]) -> Option<Vec<u8>> {
    if present.iter().all(|present| *present) {
        return None;
    }
    let bits = present.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
    Some(bits.collect())
}

/// The rows of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// How many there are.
    pub rows: u32,
    /// In the order of [`Manifest::reads`].
    pub columns: Vec<Column>,
}

/// A column that a plugin adds to the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: ColumnType,
}

/// What the host must know before it runs the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Name of the plugin.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// Columns sent in each batch, in this order.
    pub reads: Vec<String>,
    /// Columns returned from each call, in this order, before the added ones.
    pub writes: Vec<String>,
    /// New columns, returned in this order after the written ones.
    pub adds: Vec<AddedColumn>,
    /// Lookup tables that must be there.
    pub tables: Vec<String>,
    /// Codes of drops and failures.
    pub codes: Vec<String>,
}

/// A returned column.
#[derive(Clone, Debug, PartialEq)]
pub enum Returned {
    /// As it was sent, row for row.
    Unchanged,
    /// With a value for each row out.
    Column(Column),
}

/// A row that did not come out, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowOutcome {
    /// The row in.
    pub row: u32,
    /// Index into [`Manifest::codes`].
    pub code: u32,
}

/// The answer to one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// In the order of [`Manifest::writes`], then [`Manifest::adds`].
    pub columns: Vec<Returned>,
    /// For each row out the row in that it came from, never falling; `None`: each row in gave one row out.
    pub sources: Option<Vec<u32>>,
    /// Rows left out on purpose, ascending.
    pub dropped: Vec<RowOutcome>,
    /// Rows that could not be transformed, ascending.
    pub failed: Vec<RowOutcome>,
}
