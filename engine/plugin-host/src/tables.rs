//! The `tables` interface: what a step may look up, and the two functions that a guest calls.
//!
//! A lookup is a whole column of keys in one call. It costs fuel like any work of the guest ([`FUEL_PER_KEY`] a key and one
//! unit a byte of text given back), and what it gives back counts against [`crate::Limits::output_bytes`], over all
//! lookups of a call. Both are part of the semantics.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_rows::ColumnType;
use millrace_rows::schema::AddedColumn;
use millrace_tables::Table;
use wasmtime::component::Linker;
use wasmtime::{StoreContextMut, Trap};

use crate::abi;
use crate::call::{CallState, LookupTooLarge};
use crate::lift;
use crate::lower::owned_column;

/// Fuel of finding one key.
pub const FUEL_PER_KEY: u64 = 200;
/// Name of the interface.
pub(crate) const TABLES_INTERFACE: &str = "millrace:transform/tables@1.1.0";

/// The lookup tables of a step, by the names that the plugin knows them under. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tables(Arc<BTreeMap<String, BoundTable>>);

/// A lookup table of a step.
#[derive(Clone, Debug)]
pub enum BoundTable {
    /// Its columns alone: enough for `describe`.
    Columns(Vec<AddedColumn>),
    /// With its rows, shared by all chains that pin it.
    Loaded(Arc<Table>),
}

impl FromIterator<(String, BoundTable)> for Tables {
    fn from_iter<T: IntoIterator<Item = (String, BoundTable)>>(tables: T) -> Self {
        Self(Arc::new(tables.into_iter().collect()))
    }
}

impl Tables {
    /// Whether a table of this name has its rows.
    pub(crate) fn is_loaded(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(BoundTable::Loaded(_)))
    }

    fn columns(&self, name: &str) -> Option<&[AddedColumn]> {
        self.0.get(name).map(|table| match table {
            BoundTable::Columns(columns) => columns.as_slice(),
            BoundTable::Loaded(table) => table.columns(),
        })
    }

    fn loaded(&self, name: &str) -> Result<&Arc<Table>, String> {
        match self.0.get(name) {
            Some(BoundTable::Loaded(table)) => Ok(table),
            Some(BoundTable::Columns(_)) => Err(format!("table {name:?} has no rows yet")),
            None => Err(format!("there is no table {name:?}")),
        }
    }
}

/// What a guest asks for: a table, keys, and the columns wanted.
type LookupParams = (String, abi::Column, Vec<String>);

pub(crate) fn add_to_linker(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    let mut tables = linker.instance(TABLES_INTERFACE)?;
    tables.func_wrap("columns", |store: StoreContextMut<'_, CallState>, (name,): (String,)| {
        let columns = store.data().tables().columns(&name).map(|columns| {
            let columns =
                columns.iter().map(|column| abi::AddedColumn { name: column.name.clone(), ty: column.ty.into() });
            columns.collect::<Vec<_>>()
        });
        Ok((columns,))
    })?;
    tables.func_wrap("lookup", |mut store: StoreContextMut<'_, CallState>, (name, keys, wanted): LookupParams| {
        if store.data().is_describing() {
            return Ok((Err("there are no rows in describe: look up in transform".to_owned()),));
        }
        let table = match store.data().tables().loaded(&name) {
            Ok(table) => table.clone(),
            Err(message) => return Ok((Err(message),)),
        };
        let rows = keys.values.len();
        let spend = |store: &mut StoreContextMut<'_, CallState>, fuel: u64| -> wasmtime::Result<()> {
            let left = store.get_fuel()?.checked_sub(fuel);
            store.set_fuel(left.unwrap_or(0))?;
            left.map(drop).ok_or_else(|| Trap::OutOfFuel.into())
        };
        // Before the work, not after it.
        spend(&mut store, FUEL_PER_KEY.saturating_mul(rows as u64))?;
        let found = match lift::array(keys, table.key_type(), rows) {
            Ok(keys) => table.find(keys.as_ref()).map_err(|error| error.to_string()),
            Err(message) => Err(format!("keys: {message}")),
        };
        let found = match found {
            Ok(found) => found,
            Err(message) => return Ok((Err(message),)),
        };
        let mut columns = Vec::with_capacity(wanted.len());
        for column in &wanted {
            let Some(place) = table.column(column) else {
                return Ok((Err(format!("table {name:?} has no column {column:?}")),));
            };
            let bytes = table.take_bytes(&found, place);
            if !store.data_mut().take_lookup_bytes(bytes) {
                return Err(LookupTooLarge.into());
            }
            spend(&mut store, bytes)?;
            match table.take(&found, place) {
                Ok(values) => columns.push(owned_column(values.as_ref(), table.columns()[place].ty)),
                Err(error) => return Ok((Err(error.to_string()),)),
            }
        }
        Ok((Ok::<Vec<abi::Column>, String>(columns),))
    })
}

impl From<ColumnType> for abi::ColumnType {
    fn from(ty: ColumnType) -> Self {
        match ty {
            ColumnType::String => Self::String,
            ColumnType::Timestamp => Self::Timestamp,
            ColumnType::Int64 => Self::Int64,
            ColumnType::Float64 => Self::Float64,
            ColumnType::Bool => Self::Bool,
        }
    }
}
