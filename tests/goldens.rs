//! The golden cases of the stock plugins, run over the components in the real host: those that are committed, or those in
//! `MILLRACE_PLUGINS_DIR` (`plugins/build --check` builds them). The plugins' own tests run the same cases natively.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use millrace_plugin_host::{
    BoundTable, Chain, ChainOutput, HostOptions, Limits, Manifest, Plugin, PluginHost, StepSpec, Tables,
};
use millrace_rows::ColumnType;
use millrace_rows::schema::decoded_schema;
use millrace_sdk::golden::{Case, CaseTable, Expected, MemoryTables, Row, paths};
use millrace_sdk::tables::Tables as _;
use millrace_tables::{Format, Lookup, Table, Upload};
use serde_json::{Value, json};

/// What the host asks of every row, given to rows of a case that do not speak of it.
fn default_of(column: &str, offset: usize) -> Value {
    match column {
        "event_id" => json!(format!("event-{offset}")),
        "device_id" => json!("a-device"),
        "event_time" | "received_at" => json!(1_700_000_000_000_000i64),
        "_offset" => json!(offset),
        "_partition" | "_sub" => json!(0),
        _ => Value::Null,
    }
}

/// The rows of a case as the decoder would give them.
fn decoded(rows: &[Row]) -> RecordBatch {
    let schema = decoded_schema();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let values: Vec<Value> = (0..)
            .zip(rows)
            .map(|(offset, row)| match row.get(field.name()) {
                Some(value) if !value.is_null() => value.clone(),
                _ => default_of(field.name(), offset),
            })
            .collect();
        match ColumnType::of(field.data_type()).expect("one of our types") {
            ColumnType::String => Arc::new(StringArray::from_iter(values.iter().map(Value::as_str))),
            ColumnType::Timestamp => {
                let times: TimestampMicrosecondArray = values.iter().map(Value::as_i64).collect();
                Arc::new(times.with_timezone("UTC"))
            }
            ColumnType::Bool => Arc::new(BooleanArray::from_iter(values.iter().map(Value::as_bool))),
            ColumnType::Int64 => Arc::new(Int64Array::from_iter(values.iter().map(Value::as_i64))),
            ColumnType::Float64 => panic!("no base column is a float"),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).expect("a decoded batch")
}

fn value(batch: &RecordBatch, column: &str, row: usize) -> Value {
    let array = batch.column_by_name(column).unwrap_or_else(|| panic!("no column {column}"));
    if array.is_null(row) {
        return Value::Null;
    }
    match ColumnType::of(array.data_type()).expect("one of our types") {
        ColumnType::String => json!(array.as_string::<i32>().value(row)),
        ColumnType::Timestamp => json!(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        ColumnType::Int64 => json!(array.as_primitive::<Int64Type>().value(row)),
        ColumnType::Float64 => json!(array.as_primitive::<Float64Type>().value(row)),
        ColumnType::Bool => json!(array.as_boolean().value(row)),
    }
}

/// What became of each row, in the words of a case.
fn outcomes(manifest: &Manifest, rows_in: &[Row], output: &ChainOutput) -> Vec<Option<Expected>> {
    let columns: Vec<&str> = manifest
        .writes
        .iter()
        .map(String::as_str)
        .chain(manifest.adds.iter().map(|column| column.name.as_str()))
        .collect();
    let mut outcomes: Vec<Option<Expected>> = vec![None; rows_in.len()];
    for row in 0..output.rows.num_rows() {
        let offset = value(&output.rows, "_offset", row).as_u64().expect("an offset") as usize;
        let given = |column: &str| rows_in[offset].get(column).is_some_and(|value| !value.is_null());
        let kept: Row = columns
            .iter()
            .map(|column| ((*column).to_owned(), value(&output.rows, column, row)))
            .filter(|(column, value)| !value.is_null() && (given(column) || *value != default_of(column, offset)))
            .collect();
        match outcomes[offset].get_or_insert_with(|| Expected::Keep(Vec::new())) {
            Expected::Keep(rows) => rows.push(kept),
            other => panic!("row {offset} came out and has {other}"),
        }
    }
    for dead in &output.dead {
        assert!(outcomes[dead.offset as usize].replace(Expected::Fail(dead.code.to_string())).is_none());
    }
    outcomes
}

/// The lookup tables of a case, as the host has them.
fn tables(case: &Case) -> Tables {
    let memory = MemoryTables::new(&case.tables).expect("tables");
    let table = |(name, table): (&String, &CaseTable)| {
        let lookup = match (&table.key, &table.cidr) {
            (Some(column), None) => Lookup::Key(column.clone()),
            (_, column) => Lookup::Cidr(column.clone().expect("a column to look up")),
        };
        let types = memory.columns(name).expect("the table").into_iter();
        let types = types.map(|column| (column.name, column.ty.to_string().parse().expect("a type"))).collect();
        let bytes = table.to_ndjson();
        let upload = Upload { bytes: bytes.as_bytes(), format: Format::Ndjson, lookup, types };
        (name.clone(), BoundTable::Loaded(Arc::new(Table::from_upload(&upload).expect("a table"))))
    };
    case.tables.iter().map(table).collect()
}

fn check(host: &PluginHost, plugin: &Plugin, case: &Case) {
    let config = case.config.to_string();
    let tables = tables(case);
    let manifest = match (plugin.manifest_with(&config, &Limits::default(), &tables), &case.config_error) {
        (Err(refused), Some(part)) => {
            assert!(refused.to_string().contains(part), "refused with {refused}, expected {part:?}");
            return;
        }
        (Ok(_), Some(part)) => panic!("the configuration was accepted, expected an error with {part:?}"),
        (manifest, None) => manifest.expect("the configuration is accepted"),
    };
    let step = StepSpec { tables, ..StepSpec::new(plugin.clone(), config, Limits::default()) };
    let chain = Chain::new(host, vec![step]).expect("one step fits");
    let output = chain.run(decoded(&case.rows_in)).expect("the chain runs");
    let mut dropped: Vec<(String, u64)> =
        output.dropped.iter().map(|dropped| (dropped.code.to_string(), dropped.records)).collect();
    for (row, (found, expected)) in outcomes(&manifest, &case.rows_in, &output).iter().zip(&case.expect).enumerate() {
        match (found, expected) {
            // The host counts drops and does not name the rows.
            (None, Expected::Drop(code)) => {
                let count = dropped.iter_mut().find(|(dropped, _)| dropped == code).expect("a drop of this code");
                count.1 = count.1.checked_sub(1).expect("as many drops of this code");
            }
            (Some(found), expected) => {
                let without_nulls = |expected: &Expected| match expected {
                    Expected::Keep(rows) => Expected::Keep(
                        rows.iter()
                            .map(|row| {
                                row.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect()
                            })
                            .collect(),
                    ),
                    other => other.clone(),
                };
                assert_eq!(found, &without_nulls(expected), "row {row}");
            }
            (None, expected) => panic!("row {row} is gone, expected {expected}"),
        }
    }
}

#[test]
fn components_do_what_the_cases_say() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins");
    let built = std::env::var_os("MILLRACE_PLUGINS_DIR").map_or_else(|| sources.clone(), PathBuf::from);
    let options = HostOptions { cache_dir: Some(common::compiled_dir()), ..HostOptions::default() };
    let host = PluginHost::new(options).expect("a host");
    for name in ["pii-scrub", "enrich-user-agent", "rewrite-device-id", "enrich-table", "drop-bots"] {
        let path = built.join(name).join(format!("{name}.wasm"));
        let wasm = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let plugin = host.load(&wasm).expect("the component loads");
        let cases = paths(&sources.join(name).join("cases")).expect("cases");
        for case in &cases {
            println!("{}", case.display());
            check(&host, &plugin, &Case::load(case).expect("a case"));
        }
        println!("{name}: {} cases", cases.len());
        assert!(cases.len() >= 2, "{name} has cases");
    }
}
