//! From bytes to a row, of every version that is read.

use std::borrow::Cow;

use super::encode::{push_head, push_value};
use super::{KNOWN, NAMED, NAN_BITS, VERSION, Value, ValueRef, code};
use crate::schema::ColumnType;
use crate::varint::Reader;

/// Bytes that are no canonical row.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Written by another version of this format.
    #[error("row format version {0} is not known to this build (it reads versions {NAMED} to {VERSION})")]
    Version(u8),
    /// Cut short or damaged: the column that begins at this byte can't be read.
    #[error("row is damaged at byte {0}")]
    Damaged(usize),
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
    match bytes {
        [version @ (NAMED | VERSION), rest @ ..] => {
            Ok(Columns { version: *version, bytes: bytes.len(), rest: Reader(rest), last: None })
        }
        [other, ..] => Err(DecodeError::Version(*other)),
        [] => Err(DecodeError::Damaged(0)),
    }
}

/// A stored row in the form that is written today: to compare it with a row that was just made. Bytes that are of that
/// version already are given back as they are, unread.
///
/// # Errors
/// As [`decode`], on bytes of another version.
pub fn current(bytes: &[u8]) -> Result<Cow<'_, [u8]>, DecodeError> {
    if bytes.first() == Some(&VERSION) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut columns = columns(bytes)?;
    let mut out = vec![VERSION];
    loop {
        let at = columns.at();
        let Some(column) = columns.next() else { return Ok(Cow::Owned(out)) };
        let (name, value) = column?;
        push_head(&mut out, name, value.column_type()).ok_or(DecodeError::Damaged(at))?;
        push_value(&mut out, value);
    }
}

/// The columns of an encoded row: see [`columns`].
pub struct Columns<'a> {
    version: u8,
    /// Length of the whole row.
    bytes: usize,
    rest: Reader<'a>,
    /// Name of the column before.
    last: Option<&'a str>,
}

impl<'a> Columns<'a> {
    fn at(&self) -> usize {
        self.bytes - self.rest.0.len()
    }

    /// The next column; `None` if it is not one that a writer wrote.
    fn column(&mut self) -> Option<(&'a str, ValueRef<'a>)> {
        let rest = &mut self.rest;
        let (name, ty) = match if self.version == NAMED { 0 } else { rest.byte()? } {
            0 => {
                let length = usize::from(rest.byte()?);
                let name = std::str::from_utf8(rest.take(length)?).ok()?;
                let ty = match rest.byte()? {
                    1 => ColumnType::String,
                    2 => ColumnType::Timestamp,
                    3 => ColumnType::Int64,
                    4 => ColumnType::Float64,
                    5 => ColumnType::Bool,
                    _ => return None,
                };
                if self.version != NAMED && code(name, ty) != 0 {
                    return None;
                }
                (name, ty)
            }
            code => *KNOWN.get(usize::from(code) - 1)?,
        };
        if self.last.is_some_and(|last| last >= name) {
            return None;
        }
        self.last = Some(name);
        let value = match ty {
            ColumnType::String if self.version == NAMED => {
                let length = u32::from_le_bytes(rest.array()?) as usize;
                ValueRef::String(std::str::from_utf8(rest.take(length)?).ok()?)
            }
            ColumnType::String => ValueRef::String(rest.text()?),
            ColumnType::Timestamp => ValueRef::Timestamp(i64::from_le_bytes(rest.array()?)),
            ColumnType::Int64 if self.version == NAMED => ValueRef::Int64(i64::from_le_bytes(rest.array()?)),
            ColumnType::Int64 => ValueRef::Int64(rest.signed()?),
            ColumnType::Float64 => {
                let number = f64::from_bits(u64::from_le_bytes(rest.array()?));
                if number.is_nan() && number.to_bits() != NAN_BITS {
                    return None;
                }
                ValueRef::Float64(number)
            }
            ColumnType::Bool => match rest.byte()? {
                0 => ValueRef::Bool(false),
                1 => ValueRef::Bool(true),
                _ => return None,
            },
        };
        Some((name, value))
    }
}

impl<'a> Iterator for Columns<'a> {
    type Item = Result<(&'a str, ValueRef<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.0.is_empty() {
            return None;
        }
        let at = self.at();
        let column = self.column().ok_or(DecodeError::Damaged(at));
        if column.is_err() {
            self.rest = Reader(&[]);
        }
        Some(column)
    }
}
