//! What the tests share: records and a readable form of rows.
#![allow(dead_code, reason = "every test file takes what it needs")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use millrace_decode::Decoder;
use millrace_log::{Receipt, Record};
use millrace_rows::{ColumnType, LogId};
use serde_json::{Map, Value, json};

pub const LOG: LogId = LogId([0xab; 16]);
/// 2026-03-01T12:00:00Z.
pub const RECEIVED_AT: i64 = 1_772_366_400_000_000;
pub const APPENDED_AT: i64 = RECEIVED_AT + 7_000;

/// The least that a receipt has.
pub fn receipt() -> Receipt {
    Receipt { received_at_us: RECEIVED_AT, ..Receipt::default() }
}

pub fn record(offset: u64, payload: &[u8], receipt: Option<Receipt>) -> Record {
    Record {
        offset,
        id: 0x1234_5678_9abc_def0,
        appended_at_us: APPENDED_AT,
        checksum: 0,
        receipt,
        payload: Bytes::copy_from_slice(payload),
    }
}

/// One row as JSON: every column that is not null; times as µs; the texts of JSON columns as they are.
pub fn row_json(batch: &RecordBatch, row: usize) -> Value {
    let mut values = Map::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if column.is_null(row) {
            continue;
        }
        let value = match ColumnType::of(field.data_type()).unwrap() {
            ColumnType::String => json!(column.as_string::<i32>().value(row)),
            ColumnType::Timestamp => json!(column.as_primitive::<TimestampMicrosecondType>().value(row)),
            ColumnType::Int64 => json!(column.as_primitive::<Int64Type>().value(row)),
            ColumnType::Bool => json!(column.as_boolean().value(row)),
            ColumnType::Float64 => unreachable!("no decoded column is a float"),
        };
        values.insert(field.name().clone(), value);
    }
    Value::Object(values)
}

/// The row of one event, or its code.
pub fn decode_one(payload: &str, receipt: Option<Receipt>) -> Result<Value, &'static str> {
    let decoded = Decoder::default().decode(&[record(0, payload.as_bytes(), receipt)], 0, LOG);
    match decoded.dead[..] {
        [] => Ok(row_json(&decoded.batch, 0)),
        [(0, code)] => Err(code),
        _ => panic!("one record, and {:?}", decoded.dead),
    }
}
