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
            .map(|column| types::AddedColumn {
                name: column.name.clone(),
                ty: match column.ty {
                    columns::ColumnType::String => types::ColumnType::String,
                    columns::ColumnType::Timestamp => types::ColumnType::Timestamp,
                    columns::ColumnType::Int64 => types::ColumnType::Int64,
                    columns::ColumnType::Float64 => types::ColumnType::Float64,
                    columns::ColumnType::Bool => types::ColumnType::Bool,
                },
            })
            .collect(),
        tables: manifest.tables.clone(),
        codes: manifest.codes.clone(),
    }
}

pub fn batch(batch: types::Batch) -> columns::Batch {
    let columns = batch.columns.into_iter().map(|column| columns::Column {
        values: match column.values {
            types::Values::Text(types::Text { offsets, bytes }) => {
                columns::Values::Text(columns::Text { offsets, bytes })
            }
            types::Values::Int64(values) => columns::Values::Int64(values),
            types::Values::Float64(values) => columns::Values::Float64(values),
            types::Values::Bool(values) => columns::Values::Bool(values),
        },
        validity: column.validity,
    });
    columns::Batch { rows: batch.rows, columns: columns.collect() }
}

pub fn output(output: columns::Output) -> types::Output {
    let column = |column: columns::Column| types::Column {
        values: match column.values {
            columns::Values::Text(columns::Text { offsets, bytes }) => {
                types::Values::Text(types::Text { offsets, bytes })
            }
            columns::Values::Int64(values) => types::Values::Int64(values),
            columns::Values::Float64(values) => types::Values::Float64(values),
            columns::Values::Bool(values) => types::Values::Bool(values),
        },
        validity: column.validity,
    };
    let outcomes = |outcomes: Vec<columns::RowOutcome>| {
        outcomes.into_iter().map(|outcome| types::Outcome { row: outcome.row, code: outcome.code }).collect()
    };
    types::Output {
        columns: output
            .columns
            .into_iter()
            .map(|returned| match returned {
                columns::Returned::Unchanged => types::Returned::Unchanged,
                columns::Returned::Column(values) => types::Returned::Column(column(values)),
            })
            .collect(),
        sources: output.sources,
        dropped: outcomes(output.dropped),
        failed: outcomes(output.failed),
    }
}
