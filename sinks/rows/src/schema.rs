//! The columns of an event row.
//!
//! A row has the base columns in the order of [`BASE`], then the typed columns that the chain's plugins added, in the
//! order in which the steps added them, then the lineage columns of [`LINEAGE`]. Times are UTC microseconds.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

/// The type of a column. The variants are all that crosses the plugin boundary and all that a store must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

impl ColumnType {
    /// The Arrow type that carries this column.
    pub fn data_type(self) -> DataType {
        match self {
            Self::String => DataType::Utf8,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Bool => DataType::Boolean,
        }
    }

    /// The column type that an Arrow type stands for, if it is one of ours.
    pub fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Utf8 => Some(Self::String),
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => Some(Self::Timestamp),
            DataType::Int64 => Some(Self::Int64),
            DataType::Float64 => Some(Self::Float64),
            DataType::Boolean => Some(Self::Bool),
            _ => None,
        }
    }

    /// The name in manifests and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Timestamp => "timestamp",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Bool => "bool",
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ColumnType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::String, Self::Timestamp, Self::Int64, Self::Float64, Self::Bool]
            .into_iter()
            .find(|ty| ty.name() == text)
            .ok_or_else(|| format!("{text:?} is no column type: use string, timestamp, int64, float64 or bool"))
    }
}

/// One base or lineage column.
#[derive(Clone, Copy, Debug)]
pub struct ColumnDef {
    /// Its name in every store.
    pub name: &'static str,
    /// Its type.
    pub ty: ColumnType,
    /// Whether a plugin may write it.
    pub writable: bool,
}

const fn column(name: &'static str, ty: ColumnType) -> ColumnDef {
    ColumnDef { name, ty, writable: true }
}

const fn fixed(name: &'static str, ty: ColumnType) -> ColumnDef {
    ColumnDef { name, ty, writable: false }
}

/// The columns that the decoder fills, in their order.
pub const BASE: &[ColumnDef] = &[
    fixed("event_id", ColumnType::String),
    column("device_id", ColumnType::String),
    column("user_id", ColumnType::String),
    column("session_id", ColumnType::String),
    column("type", ColumnType::String),
    column("event", ColumnType::String),
    column("event_time", ColumnType::Timestamp),
    fixed("received_at", ColumnType::Timestamp),
    column("time_suspect", ColumnType::Bool),
    column("app", ColumnType::String),
    column("app_version", ColumnType::String),
    column("platform", ColumnType::String),
    column("os", ColumnType::String),
    column("device_model", ColumnType::String),
    column("locale", ColumnType::String),
    column("ip", ColumnType::String),
    column("user_agent", ColumnType::String),
    column("url", ColumnType::String),
    column("referrer", ColumnType::String),
    column("properties", ColumnType::String),
    column("context", ColumnType::String),
    column("envelope", ColumnType::String),
];

/// The columns by which a row is traced to its log record and to the revision that made it. Plugins never write them.
pub const LINEAGE: &[ColumnDef] = &[
    fixed(PARTITION, ColumnType::Int64),
    fixed(OFFSET, ColumnType::Int64),
    fixed(SUB, ColumnType::Int64),
    fixed(REVISION, ColumnType::Int64),
];

/// Log partition of the record.
pub const PARTITION: &str = "_partition";
/// Log offset of the record.
pub const OFFSET: &str = "_offset";
/// Number of the row among those its record became: 0, 1, 2 …
pub const SUB: &str = "_sub";
/// Revision of the timeline under which the row was made.
pub const REVISION: &str = "_revision";
/// UTC date of `event_time`; the Delta table's partition column, never part of a row in memory.
pub const EVENT_DATE: &str = "event_date";

/// A column that a plugin adds to the row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AddedColumn {
    /// Its name: see [`check_added_name`].
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub ty: ColumnType,
}

/// The definition of a base or lineage column.
pub fn find(name: &str) -> Option<&'static ColumnDef> {
    BASE.iter().chain(LINEAGE).find(|column| column.name == name)
}

/// Whether a plugin may add a column of this name: 1 to 64 characters of `a-z 0-9 _`, starting with a letter, and not
/// the name of a column that exists in every row.
pub fn check_added_name(name: &str) -> Result<(), String> {
    let legal = name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !legal {
        return Err(format!("column name {name:?} must be 1 to 64 characters of a-z 0-9 _ and start with a letter"));
    }
    if find(name).is_some() || name == EVENT_DATE {
        return Err(format!("column {name:?} exists in every row and can't be added"));
    }
    Ok(())
}

fn fields(columns: &[ColumnDef]) -> impl Iterator<Item = Field> + '_ {
    columns.iter().map(|column| Field::new(column.name, column.ty.data_type(), true))
}

/// Schema of a decoded batch, before the chain: the base columns and all lineage but the revision.
pub fn decoded_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> =
        LazyLock::new(|| Arc::new(Schema::new(fields(BASE).chain(fields(&LINEAGE[..3])).collect::<Vec<_>>())));
    SCHEMA.clone()
}

/// Schema of a finished row: base, added and lineage columns. Every field is nullable: [`crate::check`] decides which
/// values must be there.
pub fn row_schema(added: &[AddedColumn]) -> SchemaRef {
    let added = added.iter().map(|column| Field::new(&column.name, column.ty.data_type(), true));
    Arc::new(Schema::new(fields(BASE).chain(added).chain(fields(LINEAGE)).collect::<Vec<_>>()))
}

/// The columns of `schema` that are neither base nor lineage.
pub fn added_columns(schema: &Schema) -> Vec<AddedColumn> {
    schema
        .fields()
        .iter()
        .filter(|field| find(field.name()).is_none())
        .filter_map(|field| ColumnType::of(field.data_type()).map(|ty| AddedColumn { name: field.name().clone(), ty }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_types_round_trip() {
        let mut names: Vec<_> = BASE.iter().chain(LINEAGE).map(|c| c.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), BASE.len() + LINEAGE.len());
        for column in BASE {
            assert_eq!(ColumnType::of(&column.ty.data_type()), Some(column.ty));
            assert_eq!(column.ty.name().parse(), Ok(column.ty));
        }
    }

    #[test]
    fn added_names_can_not_shadow_or_break_a_store() {
        assert!(check_added_name("ua_browser").is_ok());
        for bad in ["", "9a", "_x", "Ünicode", "a b", "device_id", "event_date", "_offset", &"a".repeat(65)] {
            assert!(check_added_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn added_columns_are_found_again() {
        let added = vec![AddedColumn { name: "ua_browser".into(), ty: ColumnType::String }];
        assert_eq!(added_columns(&row_schema(&added)), added);
    }
}
