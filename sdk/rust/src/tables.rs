//! Lookup tables: uploaded by an operator, pinned by the chain, asked for a whole column of keys in one call.
//!
//! Where the key is a column, [`Schema::lookup`](crate::Schema::lookup) gives a column of answers that is read like any
//! other. Keys that are computed are looked up in [`transform_batch`](crate::Transform::transform_batch) with
//! [`Table::lookup`].

use std::fmt;
use std::sync::Arc;

use crate::columns::{AddedColumn, Column};

/// What has lookup tables: a guest's host, or the tables of a golden case.
pub trait Tables: fmt::Debug + Send + Sync {
    /// The columns of a table, in its order; `None` where there is no table of this name.
    fn columns(&self, name: &str) -> Option<Vec<AddedColumn>>;

    /// For each of the columns in `wanted` a column with a value for each key; null where the key is, or the table has
    /// none. The error says what does not fit.
    fn lookup(&self, name: &str, keys: &Column, wanted: &[&str]) -> Result<Vec<Column>, String>;
}

/// A lookup table that the plugin declared: see [`Schema::table`](crate::Schema::table).
#[derive(Clone, Debug)]
pub struct Table {
    name: String,
    source: Arc<dyn Tables>,
}

impl Table {
    pub(crate) fn new(name: &str, source: Arc<dyn Tables>) -> Self {
        Self { name: name.to_owned(), source }
    }

    /// The name that the plugin knows it under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its columns with their types; `None` while there is no such table. A plugin may be described before its tables
    /// are uploaded, so `None` is no mistake: the host refuses a chain whose tables are missing.
    pub fn columns(&self) -> Option<Vec<AddedColumn>> {
        self.source.columns(&self.name)
    }

    /// Looks all keys up in one call: for each of the columns in `wanted` a column with a value for each key. A key that
    /// is null, or that the table does not have, gives nulls. There are no rows while the plugin is configured.
    pub fn lookup(&self, keys: &Column, wanted: &[&str]) -> Result<Vec<Column>, String> {
        let fault = |message: String| format!("lookup table {:?}: {message}", self.name);
        let found = self.source.lookup(&self.name, keys, wanted).map_err(fault)?;
        let rows = keys.rows();
        if found.len() != wanted.len() || found.iter().any(|column| column.rows() != rows) {
            return Err(fault("the answer is not as asked".to_owned()));
        }
        Ok(found)
    }
}

/// A lookup that is made before the first event of a batch.
#[derive(Debug)]
pub(crate) struct Lookup {
    pub(crate) table: Table,
    /// The slot of the key.
    pub(crate) key: usize,
    /// What is wanted, and the slot that gets it.
    pub(crate) wanted: Vec<(String, usize)>,
}

/// Natively, where nobody gave tables.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug)]
pub(crate) struct NoTables;

#[cfg(not(target_arch = "wasm32"))]
impl Tables for NoTables {
    fn columns(&self, _: &str) -> Option<Vec<AddedColumn>> {
        None
    }

    fn lookup(&self, name: &str, _: &Column, _: &[&str]) -> Result<Vec<Column>, String> {
        Err(format!("there is no table {name:?}"))
    }
}
