//! Lookup tables: uploaded as CSV, NDJSON or Parquet, typed, and indexed by an exact key or by ranges.
//!
//! ```text
//! Upload (bytes, format, lookup, types) ── Table::from_upload ── Table ── to_stored ── bytes of a blob
//!                                                                 │  ▲────── open ────────┘
//!                                                                 └ find(keys) → rows, take(rows, column) → values
//! ```
//!
//! # Kinds of lookup ([`Lookup`])
//!
//! * `key`: a column of text or integers, each value once.
//! * `cidr`: a column of networks, `203.0.113.0/24` or `2001:db8::/32`; an address finds the most specific one.
//! * `range`: two columns, both ends included: IP addresses or integers. Ranges may lie within one another, the inner one
//!   wins; ranges that overlap otherwise are refused.
//!
//! # Stored form
//!
//! One Parquet file, zstd, of the table's columns in their order; its key-value metadata has [`LOOKUP_METADATA`] with the
//! lookup as JSON. The digest of these bytes is what a chain pins.
//!
//! # Bounds
//!
//! An upload has at most [`UPLOAD_BYTES_MAX`] bytes, [`ROWS_MAX`] rows, [`COLUMNS_MAX`] columns, and in memory
//! [`MEMORY_BYTES_MAX`] bytes. Messages name rows by number and columns by name, never a value: tables may hold personal
//! data.

mod index;
mod read;
mod table;

pub use read::{Format, Upload};
pub use table::{LOOKUP_METADATA, Lookup, Table};

/// Largest upload and largest stored form, in bytes.
pub const UPLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most rows of a table.
pub const ROWS_MAX: usize = 5_000_000;
/// Most columns of a table.
pub const COLUMNS_MAX: usize = 64;
/// Most memory of a table's columns, in bytes.
pub const MEMORY_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Why a table was refused or can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Larger than a bound.
    #[error("the table has {found} {what}, the limit is {max}")]
    TooLarge {
        /// Of what there is too much.
        what: &'static str,
        /// How much there is, as far as it was counted.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// The bytes are not of the format.
    #[error("the file can't be read as {format}: {detail}")]
    Format {
        /// The format.
        format: Format,
        /// Where and what.
        detail: String,
    },
    /// A column that the lookup or the types name is not there, or of a type that can't serve.
    #[error("{0}")]
    Column(String),
    /// Rows that can't be keys, by their numbers (the first row behind a header is 1).
    #[error("{0}")]
    Key(String),
    /// Stored bytes that this build can't read.
    #[error("the stored table can't be read: {0}")]
    Stored(String),
}
