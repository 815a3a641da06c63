//! The component's side of the boundary: moves the bindings' buffers in and out of plain columns.

#![allow(unsafe_code, missing_docs, clippy::all, reason = "generated bindings call and export C functions")]

use crate::columns;

wit_bindgen::generate!({
    path: "../wit",
    world: "transform-plugin",
    pub_export_macro: true,
    export_macro_name: "__export_component",
    default_bindings_module: "::millrace_sdk::guest",
    runtime_path: "::millrace_sdk::guest::wit_bindgen::rt",
});

#[doc(hidden)]
pub use wit_bindgen;

use millrace::transform::types;

pub fn log(message: &str) {
    millrace::transform::host::log(message);
}

/// Lets the plugin's author read why an event trapped: by itself a panic says nothing, there is no standard error here.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| log(&panic.to_string())));
}

pub fn manifest(manifest: &columns::Manifest) -> types::Manifest {
    types::Manifest {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        reads: manifest.reads.clone(),
        writes: manifest.writes.clone(),
        adds: manifest
            .adds
            .iter()
            .map(|column| types::AddedColumn { name: column.name.clone(), ty: column.ty.into() })
            .collect(),
        tables: manifest.tables.clone(),
        codes: manifest.codes.clone(),
    }
}

/// The host's lookup tables.
#[derive(Debug)]
pub struct HostTables;

impl crate::tables::Tables for HostTables {
    fn columns(&self, name: &str) -> Option<Vec<columns::AddedColumn>> {
        let columns = millrace::transform::tables::columns(name)?;
        Some(
            columns
                .into_iter()
                .map(|column| columns::AddedColumn { name: column.name, ty: column.ty.into() })
                .collect(),
        )
    }

    fn lookup(&self, name: &str, keys: &columns::Column, wanted: &[&str]) -> Result<Vec<columns::Column>, String> {
        let wanted: Vec<String> = wanted.iter().map(|column| (*column).to_owned()).collect();
        let found = millrace::transform::tables::lookup(name, &keys.clone().into(), &wanted)?;
        Ok(found.into_iter().map(columns::Column::from).collect())
    }
}

impl From<types::ColumnType> for columns::ColumnType {
    fn from(ty: types::ColumnType) -> Self {
        match ty {
            types::ColumnType::String => Self::String,
            types::ColumnType::Timestamp => Self::Timestamp,
            types::ColumnType::Int64 => Self::Int64,
            types::ColumnType::Float64 => Self::Float64,
            types::ColumnType::Bool => Self::Bool,
        }
    }
}

impl From<columns::ColumnType> for types::ColumnType {
    fn from(ty: columns::ColumnType) -> Self {
        match ty {
            columns::ColumnType::String => Self::String,
            columns::ColumnType::Timestamp => Self::Timestamp,
            columns::ColumnType::Int64 => Self::Int64,
            columns::ColumnType::Float64 => Self::Float64,
            columns::ColumnType::Bool => Self::Bool,
        }
    }
}

impl From<types::Column> for columns::Column {
    fn from(column: types::Column) -> Self {
        let values = match column.values {
            types::Values::Text(types::Text { offsets, bytes }) => {
                columns::Values::Text(columns::Text { offsets, bytes })
            }
            types::Values::Int64(values) => columns::Values::Int64(values),
            types::Values::Float64(values) => columns::Values::Float64(values),
            types::Values::Bool(values) => columns::Values::Bool(values),
        };
        Self { values, validity: column.validity }
    }
}

impl From<columns::Column> for types::Column {
    fn from(column: columns::Column) -> Self {
        let values = match column.values {
            columns::Values::Text(columns::Text { offsets, bytes }) => {
                types::Values::Text(types::Text { offsets, bytes })
            }
            columns::Values::Int64(values) => types::Values::Int64(values),
            columns::Values::Float64(values) => types::Values::Float64(values),
            columns::Values::Bool(values) => types::Values::Bool(values),
        };
        Self { values, validity: column.validity }
    }
}

pub fn batch(batch: types::Batch) -> columns::Batch {
    columns::Batch { rows: batch.rows, columns: batch.columns.into_iter().map(columns::Column::from).collect() }
}

pub fn output(output: columns::Output) -> types::Output {
    let outcomes = |outcomes: Vec<columns::RowOutcome>| {
        outcomes.into_iter().map(|outcome| types::Outcome { row: outcome.row, code: outcome.code }).collect()
    };
    types::Output {
        columns: output
            .columns
            .into_iter()
            .map(|returned| match returned {
                columns::Returned::Unchanged => types::Returned::Unchanged,
                columns::Returned::Column(column) => types::Returned::Column(column.into()),
            })
            .collect(),
        sources: output.sources,
        dropped: outcomes(output.dropped),
        failed: outcomes(output.failed),
    }
}
