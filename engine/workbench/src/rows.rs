//! Between the rows of a case and the columns of the host.

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Float64Type, Int64Type, Schema, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use millrace_plugin_host::{ChainOutput, Manifest};
use millrace_rows::ColumnType;
use millrace_rows::schema::{AddedColumn, OFFSET, PARTITION, SUB, decoded_schema, find};
use millrace_sdk::golden::{self, Case, Expected, Row};
use serde_json::{Value, json};

/// Lineage columns of a decoded batch.
const LINEAGE_COLUMNS: usize = 3;

/// Why rows are none that a plugin could get.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowsError {
    /// A column that the host would not send.
    #[error("row {row} has the column {column:?}, which the plugin does not read; it reads {}", reads.join(", "))]
    NotRead {
        /// The row.
        row: usize,
        /// The column.
        column: String,
        /// What the plugin reads.
        reads: Vec<String>,
    },
    /// A null where the engine leaves none.
    #[error("{0}")]
    Null(String),
    /// A value of another type than its column's.
    #[error("row {row}: column {column:?} is {ty} and can't hold {value}{}", form(*ty))]
    Type {
        /// The row.
        row: usize,
        /// The column.
        column: String,
        /// The column's type.
        ty: ColumnType,
        /// The value.
        value: Value,
    },
    /// The columns make no batch.
    #[error("putting rows together: {0}")]
    Arrow(#[from] ArrowError),
}

/// How values of a type are written, where that must be said.
fn form(ty: ColumnType) -> String {
    if ty == ColumnType::Timestamp { format!(": {}", golden::TIME_FORM) } else { String::new() }
}

/// Rows as the decoder, and the steps before the plugin, would give them.
#[derive(Clone, Debug)]
pub struct Input {
    pub(crate) batch: RecordBatch,
    /// Columns of the batch that steps before the plugin add.
    pub(crate) added: Vec<AddedColumn>,
}

impl Input {
    /// The rows of a case. Columns that the plugin reads and no event has are taken for those of steps before it; their
    /// types are those of their values, text where there is none.
    ///
    /// # Errors
    /// [`RowsError`] names row and column.
    pub fn of_rows(rows: &[Row], reads: &[String]) -> Result<Self, RowsError> {
        for (row, values) in rows.iter().enumerate() {
            if let Some(column) = values.keys().find(|name| !reads.contains(name)) {
                return Err(RowsError::NotRead { row, column: column.clone(), reads: reads.to_vec() });
            }
        }
        golden::check_nulls(rows).map_err(RowsError::Null)?;
        let added: Vec<AddedColumn> = reads
            .iter()
            .filter(|name| find(name).is_none())
            .map(|name| AddedColumn { name: name.clone(), ty: type_of(name, rows) })
            .collect();
        let mut fields = decoded_schema().fields().to_vec();
        let at = fields.len() - LINEAGE_COLUMNS;
        let new = added.iter().map(|column| Arc::new(Field::new(&column.name, column.ty.data_type(), true)));
        fields.splice(at..at, new);
        let columns = fields.iter().map(|field| column(field, rows)).collect::<Result<Vec<ArrayRef>, RowsError>>()?;
        Ok(Self { batch: RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?, added })
    }

    /// Rows of which the plugin may read a part only: what it does not read is left out.
    ///
    /// # Errors
    /// [`RowsError`] names row and column.
    pub fn projected(rows: &[Row], reads: &[String]) -> Result<Self, RowsError> {
        Self::of_rows(&project(rows, reads), reads)
    }

    /// A batch of the decoder.
    pub fn decoded(batch: RecordBatch) -> Self {
        Self { batch, added: Vec::new() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.batch.num_rows()
    }
}

/// The columns that are read, of those that are not null.
pub(crate) fn project(rows: &[Row], reads: &[String]) -> Vec<Row> {
    let projected = |row: &Row| -> Row {
        let read = reads.iter().filter_map(|name| Some((name.clone(), row.get(name)?.clone())));
        read.filter(|(_, value)| !value.is_null()).collect()
    };
    rows.iter().map(projected).collect()
}

/// What the host asks of every row, given to rows of a case that do not speak of it: the same as natively.
fn default_of(column: &str, offset: usize) -> Value {
    match column {
        OFFSET => json!(offset),
        PARTITION | SUB => json!(0),
        _ => golden::always(column).unwrap_or_default(),
    }
}

/// As the cases that run natively have it: whole numbers are int64 unless another of the column is not whole.
fn type_of(column: &str, rows: &[Row]) -> ColumnType {
    let mut values = rows.iter().filter_map(|row| row.get(column)).filter(|value| !value.is_null());
    match values.next() {
        Some(Value::Bool(_)) => ColumnType::Bool,
        Some(Value::Number(first)) if first.is_i64() && values.all(Value::is_i64) => ColumnType::Int64,
        Some(Value::Number(_)) => ColumnType::Float64,
        _ => ColumnType::String,
    }
}

fn column(field: &Field, rows: &[Row]) -> Result<ArrayRef, RowsError> {
    let name = field.name();
    let ty = ColumnType::of(field.data_type()).unwrap_or(ColumnType::String);
    let values: Vec<Value> = rows
        .iter()
        .enumerate()
        .map(|(offset, row)| match row.get(name) {
            Some(value) if ty == ColumnType::Timestamp => {
                golden::time_of(value).map_or_else(|| value.clone(), Value::from)
            }
            Some(value) if !value.is_null() => value.clone(),
            _ => default_of(name, offset),
        })
        .collect();
    let fits = |value: &Value| match ty {
        ColumnType::String => value.is_string(),
        ColumnType::Timestamp | ColumnType::Int64 => value.is_i64(),
        ColumnType::Float64 => value.is_number(),
        ColumnType::Bool => value.is_boolean(),
    };
    if let Some(row) = values.iter().position(|value| !value.is_null() && !fits(value)) {
        return Err(RowsError::Type { row, column: name.clone(), ty, value: values[row].clone() });
    }
    Ok(match ty {
        ColumnType::String => Arc::new(StringArray::from_iter(values.iter().map(Value::as_str))),
        ColumnType::Timestamp => {
            let times: TimestampMicrosecondArray = values.iter().map(Value::as_i64).collect();
            Arc::new(times.with_timezone("UTC"))
        }
        ColumnType::Bool => Arc::new(BooleanArray::from_iter(values.iter().map(Value::as_bool))),
        ColumnType::Int64 => Arc::new(Int64Array::from_iter(values.iter().map(Value::as_i64))),
        ColumnType::Float64 => Arc::new(Float64Array::from_iter(values.iter().map(Value::as_f64))),
    })
}

/// One value, as a case writes it; null where there is no such column.
fn value(batch: &RecordBatch, column: &str, row: usize) -> Value {
    let Some(array) = batch.column_by_name(column).filter(|array| array.is_valid(row)) else { return Value::Null };
    match ColumnType::of(array.data_type()) {
        Some(ColumnType::String) => json!(array.as_string::<i32>().value(row)),
        Some(ColumnType::Timestamp) => json!(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        Some(ColumnType::Int64) => json!(array.as_primitive::<Int64Type>().value(row)),
        Some(ColumnType::Float64) => json!(array.as_primitive::<Float64Type>().value(row)),
        Some(ColumnType::Bool) => json!(array.as_boolean().value(row)),
        None => Value::Null,
    }
}

/// Expectations as [`outcomes`] would have them.
pub(crate) fn plain(manifest: &Manifest, case: &Case) -> Vec<Expected> {
    let added = |column: &str| manifest.adds.iter().find(|added| added.name == column).map(|added| added.ty);
    let is_time =
        |column: &str| find(column).map(|base| base.ty).or_else(|| added(column)) == Some(ColumnType::Timestamp);
    case.expect.iter().zip(&case.rows_in).map(|(expected, row_in)| expected.plain(row_in, is_time)).collect()
}

/// What became of each of `rows_in`, in the words of a case; `None` for those that are not in `output` or are gone
/// without a name: the host counts drops and does not name the rows.
pub(crate) fn outcomes(manifest: &Manifest, rows_in: &[Row], output: &ChainOutput) -> Vec<Option<Expected>> {
    let added = manifest.adds.iter().map(|column| &column.name);
    let columns: Vec<&String> = manifest.writes.iter().chain(added).collect();
    let mut outcomes: Vec<Option<Expected>> = vec![None; rows_in.len()];
    for row in 0..output.rows.num_rows() {
        // Offsets are places in `rows_in`.
        let offset = value(&output.rows, OFFSET, row).as_u64().unwrap_or(0) as usize;
        let Some(outcome) = outcomes.get_mut(offset) else { continue };
        let kept = columns.iter().map(|column| ((*column).clone(), value(&output.rows, column, row))).collect();
        if let Expected::Keep(rows) = outcome.get_or_insert_with(|| Expected::Keep(Vec::new())) {
            rows.push(kept);
        }
    }
    for (outcome, row_in) in outcomes.iter_mut().zip(rows_in) {
        *outcome = outcome.take().map(|outcome| outcome.plain(row_in, |_| false));
    }
    for dead in &output.dead {
        if let Some(outcome) = outcomes.get_mut(dead.offset as usize) {
            *outcome = Some(Expected::Fail(dead.code.to_string()));
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use millrace_rows::schema::{BASE, ColumnDef};

    use super::*;

    fn rows(rows: Value) -> Vec<Row> {
        serde_json::from_value(rows).unwrap()
    }

    fn input(given: Value, reads: &[&str]) -> Result<Input, RowsError> {
        Input::of_rows(&rows(given), &reads.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_row_has_what_the_host_asks_for() {
        let input =
            input(json!([{"ip": "::1"}, {"device_id": "d", "event_time": 5}]), &["ip", "device_id", "event_time"])
                .unwrap();
        assert_eq!(input.batch.schema(), decoded_schema());
        assert_eq!(millrace_rows::check::failures(&input.batch), []);
        let cell = |column, row| value(&input.batch, column, row);
        assert_eq!((cell("ip", 0), cell("ip", 1)), (json!("::1"), Value::Null));
        assert_eq!((cell("device_id", 0), cell("device_id", 1)), (json!("a-device"), json!("d")));
        assert_eq!((cell("event_time", 1), cell("_offset", 1)), (json!(5), json!(1)));
    }

    #[test]
    fn what_no_event_is_without_is_filled_in_as_natively() {
        let given = rows(json!([{}, {"event_time": "2023-11-14T22:13:20Z", "received_at": "1970-01-01T00:00:05Z"}]));
        let reads: Vec<String> =
            ["event_id", "device_id", "event_time", "received_at"].iter().map(|name| (*name).to_owned()).collect();
        let input = Input::of_rows(&given, &reads).unwrap();
        for name in &reads {
            assert_eq!(Some(value(&input.batch, name, 0)), golden::always(name), "{name}");
        }
        assert_eq!(value(&input.batch, "event_time", 1), json!(1_700_000_000_000_000i64));
        assert_eq!(value(&input.batch, "received_at", 1), json!(5_000_000));
        // All that the engine checks for presence, and no more.
        for column in decoded_schema().fields().iter().filter(|field| !field.name().starts_with('_')) {
            let is_there = input.batch.column_by_name(column.name()).unwrap().is_valid(0);
            assert_eq!(is_there, golden::always(column.name()).is_some(), "{}", column.name());
        }
    }

    /// The table that authors read, in the README of the Rust SDK.
    #[test]
    fn the_documented_columns_are_those_of_the_row() {
        let readme = include_str!("../../../sdk/rust/README.md");
        let table = readme.lines().skip_while(|line| !line.starts_with("| column |")).skip(2);
        let documented: Vec<(&str, &str, bool, bool)> = table
            .map_while(|line| {
                let cells: Vec<&str> =
                    line.strip_prefix("| ")?.split(" | ").map(|cell| cell.trim_matches('`')).collect();
                Some((cells[0], cells[1], cells[2] == "never", !cells[3].contains("Can't be written")))
            })
            .collect();
        let gives = |column: &ColumnDef| match column.ty {
            _ if ["properties", "context", "envelope"].contains(&column.name) => "Option<json::Value>",
            ColumnType::String => "Option<&str>",
            ColumnType::Timestamp => "Option<Timestamp>",
            ColumnType::Bool => "Option<bool>",
            ColumnType::Int64 | ColumnType::Float64 => unreachable!("no column of the base is one"),
        };
        let expected: Vec<_> = BASE
            .iter()
            .map(|column| (column.name, gives(column), golden::always(column.name).is_some(), column.writable))
            .collect();
        assert_eq!(documented, expected);
    }

    #[test]
    fn columns_of_earlier_steps_have_the_types_of_their_values() {
        let reads = ["flag", "count", "share", "text", "none", "ip"];
        let given = json!([{"count": 1, "share": 1}, {"flag": true, "share": 0.5, "text": "x", "none": null}]);
        let input = input(given, &reads).unwrap();
        let types: Vec<_> = input.added.iter().map(|column| (column.name.as_str(), column.ty.name())).collect();
        let expected =
            [("flag", "bool"), ("count", "int64"), ("share", "float64"), ("text", "string"), ("none", "string")];
        assert_eq!(types, expected);
        assert_eq!(value(&input.batch, "share", 0), json!(1.0));
        assert_eq!(value(&input.batch, "_offset", 1), json!(1));
    }

    #[test]
    fn rows_that_no_plugin_gets_are_refused_by_row_and_column() {
        let error = |given, reads: &[&str]| input(given, reads).unwrap_err().to_string();
        let message = error(json!([{}, {"ip": "::1"}]), &["url", "event"]);
        assert_eq!(message, "row 1 has the column \"ip\", which the plugin does not read; it reads url, event");
        let message = error(json!([{"ip": 7}]), &["ip"]);
        assert_eq!(message, "row 0: column \"ip\" is string and can't hold 7");
        let message = error(json!([{"event_time": "now"}]), &["event_time"]);
        assert!(message.contains("is timestamp and can't hold \"now\": a time is a whole number"), "{message}");
        let message = error(json!([{}, {"device_id": null}]), &["device_id"]);
        assert!(message.starts_with("row 1: column \"device_id\" can't be null"), "{message}");
        assert!(error(json!([{"event_time": 0.5}]), &["event_time"]).contains("can't hold 0.5"));
        assert!(
            error(json!([{"score": 1}, {"score": "x"}]), &["score"]).contains("row 1: column \"score\" is float64")
        );
    }
}
