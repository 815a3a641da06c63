//! Adds columns from a lookup table, by a key: a country by address, a product by its number.
//!
//! ```json
//! {"table": "countries", "key": "ip", "columns": {"country": "ip_country"}}
//! ```
//!
//! | option | default | |
//! |---|---|---|
//! | `table` | | the lookup table |
//! | `key` | | the column whose value is looked up, or a place in `properties`, `context` or `envelope`, as in `properties.cart.sku` |
//! | `key_type` | `string` | `int64` for tables whose keys are whole numbers |
//! | `columns` | | columns of the table, each with the name that it gets in the row |
//! | `missing` | keep | what becomes of an event for whose key the table has nothing: `drop` or `fail`, with the code `not_in_table` |
//! | `no_key` | keep | the same for an event without a key, with the code `no_key` |
//!
//! With no columns, and nothing else said, it does nothing.
//!
//! The columns that are added have the types of the table's. How keys are compared is the table's affair: exactly, or as
//! addresses and numbers that lie in ranges. The table has nothing for a key where it has no row, or where all of the
//! named columns are null in that row.
//!
//! At a place in a JSON column, a string and a number are both keys: `"42"` and `42` find the same row.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use millrace_sdk::columns::{AddedColumn, Column, ColumnType};
use millrace_sdk::json;
use millrace_sdk::tables::Table;
use millrace_sdk::{Code, Col, ColMut, Event, Outcome, Rows, Schema, Timestamp, Transform};

/// The options, see the [crate] documentation.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    table: Option<String>,
    key: Option<String>,
    #[serde(default)]
    key_type: KeyType,
    columns: BTreeMap<String, String>,
    missing: Option<Instead>,
    no_key: Option<Instead>,
}

#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum KeyType {
    #[default]
    String,
    Int64,
}

/// What becomes of an event in place of going on.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Instead {
    Drop,
    Fail,
}

/// The configured lookup, if there is one.
#[derive(Debug)]
pub struct EnrichTable(Option<Lookup>);

#[derive(Debug)]
struct Lookup {
    table: Table,
    key: Key,
    /// Columns of the table, and those that get their values.
    columns: Vec<(String, To)>,
    missing: Option<Outcome>,
    no_key: Option<Outcome>,
}

#[derive(Debug)]
enum Key {
    Text(Col<str>),
    Int(Col<i64>),
    TextAt(Col<[u8]>, String),
    IntAt(Col<[u8]>, String),
}

#[derive(Clone, Copy, Debug)]
enum To {
    Text(ColMut<[u8]>),
    Int(ColMut<i64>),
    Time(ColMut<Timestamp>),
    Float(ColMut<f64>),
    Bool(ColMut<bool>),
}

/// The columns that have places in them.
const DOCUMENTS: [&str; 3] = ["properties", "context", "envelope"];

impl Transform for EnrichTable {
    type Config = Config;
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn configure(config: Config, schema: &mut Schema) -> Result<Self, String> {
        let Config { table, key, key_type, columns, missing, no_key } = config;
        if columns.is_empty() && table.is_none() && key.is_none() && missing.is_none() && no_key.is_none() {
            return Ok(Self(None));
        }
        if columns.is_empty() {
            return Err("columns: name at least one, as in {\"country\": \"ip_country\"}".to_owned());
        }
        let key = key.ok_or("key: name the column whose value is looked up")?;
        let key = Key::new(&key, key_type, schema)?;
        let table = schema.table(&table.ok_or("table: name the lookup table")?);
        let known = table.columns();
        let mut names = BTreeSet::new();
        let columns = columns.into_iter().map(|(from, name)| {
            if !names.insert(name.clone()) {
                return Err(format!("columns: {name:?} would be added twice"));
            }
            let ty = type_of(&from, known.as_deref(), table.name())?;
            Ok((from, To::new(ty, &name, schema)))
        });
        let columns = columns.collect::<Result<_, _>>()?;
        let mut outcome = |instead: Option<Instead>, code: &str| {
            instead.map(|instead| match (instead, schema.code(code)) {
                (Instead::Drop, code) => Outcome::<Code>::Drop(code),
                (Instead::Fail, code) => Outcome::Fail(code),
            })
        };
        let missing = outcome(missing, "not_in_table");
        let no_key = outcome(no_key, "no_key");
        Ok(Self(Some(Lookup { table, key, columns, missing, no_key })))
    }

    fn transform_batch(&self, rows: &mut Rows<'_>) -> Result<(), String> {
        self.0.as_ref().map_or(Ok(()), |lookup| lookup.enrich(rows))
    }
}

impl Lookup {
    fn enrich(&self, rows: &mut Rows<'_>) -> Result<(), String> {
        let keys = self.key.column(rows);
        let wanted: Vec<&str> = self.columns.iter().map(|(from, _)| from.as_str()).collect();
        let found = self.table.lookup(&keys, &wanted)?;
        for row in 0..rows.len() {
            if found.iter().any(|column| column.is_valid(row)) {
                rows.visit(row, |event| {
                    for ((_, to), from) in self.columns.iter().zip(&found) {
                        to.set(event, from, row);
                    }
                    Outcome::Keep
                });
            } else if let Some(outcome) = if keys.is_valid(row) { self.missing } else { self.no_key } {
                rows.visit(row, |_| outcome);
            }
        }
        Ok(())
    }
}

/// The type of a table's column; text while there is no table, which the host finds missing before it runs anything.
fn type_of(column: &str, known: Option<&[AddedColumn]>, table: &str) -> Result<ColumnType, String> {
    let Some(known) = known else { return Ok(ColumnType::String) };
    let found = known.iter().find(|known| known.name == column);
    found.map(|known| known.ty).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|known| known.name.as_str()).collect();
        format!("columns: lookup table {table:?} has no column {column:?}; it has {}", names.join(", "))
    })
}

impl Key {
    fn new(key: &str, ty: KeyType, schema: &mut Schema) -> Result<Self, String> {
        match (key.split_once('.'), ty) {
            (None, KeyType::String) => Ok(Self::Text(schema.read(key))),
            (None, KeyType::Int64) => Ok(Self::Int(schema.read(key))),
            (Some((document, path)), ty) if DOCUMENTS.contains(&document) && !path.is_empty() => {
                let (document, path) = (schema.read(document), path.to_owned());
                Ok(match ty {
                    KeyType::String => Self::TextAt(document, path),
                    KeyType::Int64 => Self::IntAt(document, path),
                })
            }
            _ => Err(format!(
                "key: {key:?} must be a column, or properties, context or envelope and a place in it, as in \
                 \"properties.cart.sku\""
            )),
        }
    }

    /// The keys of all rows.
    fn column(&self, rows: &Rows<'_>) -> Column {
        let all = 0..rows.len();
        match self {
            Self::Text(column) => {
                let view = rows.column(*column);
                Column::text(all.map(|row| view.get(row)))
            }
            Self::Int(column) => {
                let view = rows.column(*column);
                Column::int64(all.map(|row| view.get(row)))
            }
            Self::TextAt(document, path) => {
                let view = rows.column(*document);
                let keys: Vec<_> = all.map(|row| text(view.get(row)?, path)).collect();
                Column::text(keys.iter().map(Option::as_deref))
            }
            Self::IntAt(document, path) => {
                let view = rows.column(*document);
                Column::int64(all.map(|row| text(view.get(row)?, path)?.parse().ok()))
            }
        }
    }
}

/// What stands at a place: the content of a string, or a number as it is written.
fn text<'a>(doc: &'a [u8], path: &str) -> Option<Cow<'a, str>> {
    let value = json::get(doc, path)?;
    value.as_str().or_else(|| {
        value.as_f64()?;
        std::str::from_utf8(value.raw()).ok().map(Cow::Borrowed)
    })
}

impl To {
    fn new(ty: ColumnType, name: &str, schema: &mut Schema) -> Self {
        match ty {
            ColumnType::String => Self::Text(schema.add(name)),
            ColumnType::Int64 => Self::Int(schema.add(name)),
            ColumnType::Timestamp => Self::Time(schema.add(name)),
            ColumnType::Float64 => Self::Float(schema.add(name)),
            ColumnType::Bool => Self::Bool(schema.add(name)),
        }
    }

    fn set(self, event: &mut Event<'_>, from: &Column, row: usize) {
        match self {
            Self::Text(to) => event.set_opt(to, from.bytes(row)),
            Self::Int(to) => event.set_opt(to, from.int(row)),
            Self::Time(to) => event.set_opt(to, from.int(row).map(Timestamp)),
            Self::Float(to) => event.set_opt(to, from.float(row)),
            Self::Bool(to) => event.set_opt(to, from.flag(row)),
        }
    }
}

millrace_sdk::export!(EnrichTable);

#[cfg(test)]
mod tests;
