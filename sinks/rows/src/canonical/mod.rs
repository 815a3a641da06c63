//! The canonical byte form of one row.
//!
//! It is the value under a history key and the input of the row hash, so two stores hold the same row exactly when the
//! bytes are the same. The schema around a row does not matter: a null is absent, and columns stand in byte order of
//! their names. There is one form of a row, and bytes that no writer wrote are refused.
//!
//! ```text
//! version  u8 = 2
//! then for each column that is not null, in ascending byte order of the names:
//!   code   u8: n, the nth of KNOWN, counted from 1, which tells name and type; 0, a column that is none of them, and then
//!            name  u8 length, then UTF-8 bytes
//!            type  u8: 1 string, 2 timestamp, 3 int64, 4 float64, 5 bool
//!   value  string: varint length, then UTF-8 bytes
//!          timestamp (µs since 1970 UTC): i64 LE
//!          int64: varint, zigzag
//!          float64: IEEE 754 bits, LE (every NaN is written as the one quiet NaN 0x7ff8000000000000)
//!          bool: u8 0 or 1
//! ```
//! A varint is in base 128, low bits first, in as few bytes as it takes. All columns are in, lineage too.
//!
//! Version 1 has for every column name and type as behind code 0 (and no code), lengths as u32 LE and int64 as i64 LE. It
//! is read like version 2, and never written; [`current`] gives the form of today. A reader that meets another version
//! says so and reads no further.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::{Columns, DecodeError, columns, current, decode};
pub use encode::{RowEncoder, UnsupportedColumn};

use xxhash_rust::xxh3::xxh3_128;

use crate::schema::ColumnType;

/// The version byte that is written.
pub const VERSION: u8 = 2;

/// The version before, which is still read.
const NAMED: u8 = 1;

const NAN_BITS: u64 = 0x7ff8_0000_0000_0000;

/// The columns that have a code, in byte order of their names: the base and lineage columns and those of the stock plugins.
/// A part of version 2: another list is another version.
const KNOWN: &[(&str, ColumnType)] = &[
    ("_offset", ColumnType::Int64),
    ("_partition", ColumnType::Int64),
    ("_revision", ColumnType::Int64),
    ("_sub", ColumnType::Int64),
    ("app", ColumnType::String),
    ("app_version", ColumnType::String),
    ("context", ColumnType::String),
    ("device_id", ColumnType::String),
    ("device_model", ColumnType::String),
    ("envelope", ColumnType::String),
    ("event", ColumnType::String),
    ("event_id", ColumnType::String),
    ("event_time", ColumnType::Timestamp),
    ("ip", ColumnType::String),
    ("locale", ColumnType::String),
    ("os", ColumnType::String),
    ("platform", ColumnType::String),
    ("properties", ColumnType::String),
    ("received_at", ColumnType::Timestamp),
    ("referrer", ColumnType::String),
    ("session_id", ColumnType::String),
    ("time_suspect", ColumnType::Bool),
    ("type", ColumnType::String),
    ("ua_browser", ColumnType::String),
    ("ua_browser_major", ColumnType::Int64),
    ("ua_device_class", ColumnType::String),
    ("ua_os", ColumnType::String),
    ("url", ColumnType::String),
    ("user_agent", ColumnType::String),
    ("user_id", ColumnType::String),
];

/// The code of a column; 0 if it has none.
fn code(name: &str, ty: ColumnType) -> u8 {
    match KNOWN.binary_search_by_key(&name, |known| known.0) {
        // There are fewer than 255 of them.
        Ok(at) if KNOWN[at].1 == ty => at as u8 + 1,
        _ => 0,
    }
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

impl ValueRef<'_> {
    /// The type of its column.
    pub fn column_type(&self) -> ColumnType {
        match self {
            Self::String(_) => ColumnType::String,
            Self::Timestamp(_) => ColumnType::Timestamp,
            Self::Int64(_) => ColumnType::Int64,
            Self::Float64(_) => ColumnType::Float64,
            Self::Bool(_) => ColumnType::Bool,
        }
    }
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

/// The canonical hash of an encoded row.
pub fn hash(encoded: &[u8]) -> u128 {
    xxh3_128(encoded)
}
