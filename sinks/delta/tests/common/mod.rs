//! Slices made from nothing but numbers, and the table read back.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod faulty;
mod place;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Date32Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use millrace_delta::{DeltaStore, Options, ScanRequest, TableReader};
use millrace_rows::canonical::RowEncoder;
use millrace_rows::schema::{AddedColumn, row_schema};
use millrace_rows::{ColumnType, Cursor, LogId, Mark, Rewrite, Slice, Store};

#[allow(unused_imports, reason = "as above")]
pub use place::*;

pub const LOG: LogId = LogId([0x5a; 16]);
pub const DAY_US: i64 = 86_400_000_000;
/// 2026-11-03.
pub const FIRST_DAY: i64 = 20_760;

/// (_partition, _offset, _sub).
pub type RowKey = (i64, i64, i64);

/// Mixes numbers into one that looks like none of them.
pub fn mix(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0x9e37_79b9_7f4a_7c15, |hash, number| {
        let mixed = (hash ^ number).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb)
    })
}

pub fn added(name: &str, ty: ColumnType) -> AddedColumn {
    AddedColumn { name: name.into(), ty }
}

/// Rows = (offset, sub, event_time). Every other value follows from these.
pub fn rows(partition: u32, revision: u64, rows: &[(u64, i64, i64)], added: &[AddedColumn]) -> RecordBatch {
    let schema = row_schema(added);
    let value = |row: &(u64, i64, i64), column: &str| {
        mix(&[u64::from(partition), row.0, row.1 as u64, column.len() as u64, u64::from(column.as_bytes()[0])])
    };
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let name = field.name().as_str();
        let ints = |of: &dyn Fn(&(u64, i64, i64)) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(of)));
        match name {
            "_partition" => ints(&|_| i64::from(partition)),
            "_offset" => ints(&|row| row.0 as i64),
            "_sub" => ints(&|row| row.1),
            "_revision" => ints(&|_| revision as i64),
            "event_time" | "received_at" => {
                let times = rows.iter().map(|row| row.2);
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
            }
            "event_id" => Arc::new(StringArray::from_iter_values(
                rows.iter().map(|row| format!("{partition}-{}-{}", row.0, row.1)),
            )),
            "device_id" => Arc::new(StringArray::from_iter_values(
                rows.iter().map(|row| format!("device-{:04}-{}", value(row, name) % 1000, "x".repeat(40))),
            )),
            "properties" => Arc::new(StringArray::from_iter_values(rows.iter().map(|row| {
                let number = value(row, name);
                format!("{{\"n\":{number},\"pad\":{:?}}}", format!("{number:x}").repeat(12))
            }))),
            _ => match ColumnType::of(field.data_type()).unwrap() {
                ColumnType::Int64 => ints(&|row| value(row, name) as i64),
                ColumnType::Float64 => {
                    Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| value(row, name) as f64 / 7.0)))
                }
                ColumnType::Bool => Arc::new(BooleanArray::from_iter(
                    rows.iter().map(|row| [None, Some(true), Some(false)][(value(row, name) % 3) as usize]),
                )),
                ColumnType::Timestamp => Arc::new(
                    TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.2 + 1)).with_timezone("UTC"),
                ),
                ColumnType::String => Arc::new(StringArray::from_iter(rows.iter().map(|row| {
                    let number = value(row, name);
                    (number % 4 != 0).then(|| format!("{name} {}", number % 20))
                }))),
            },
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}

pub fn cursor(next: u64) -> Cursor {
    Cursor { log: LOG, next, mark: if next == 0 { Mark::NONE } else { Mark::of(u128::from(next), next) } }
}

pub fn marks(first: u64, count: u64) -> Arc<[Mark]> {
    (first + 1..=first + count).map(|next| cursor(next).mark).collect()
}

/// A time of a record; its day follows from the offset and `days`.
pub fn time_of(partition: u32, offset: u64, days: u64) -> i64 {
    let day = FIRST_DAY + (mix(&[offset, u64::from(partition)]) % days) as i64;
    day * DAY_US + (offset as i64 % 86_400) * 1_000_000
}

/// Records that were made again, with these rows: (offset, sub, event_time).
pub fn rewrite(
    partition: u32,
    offsets: Range<u64>,
    applied: u64,
    remade: Vec<u64>,
    specs: &[(u64, i64, i64)],
) -> Rewrite {
    rewrite_with(partition, offsets, applied, remade, specs, &[])
}

pub fn rewrite_with(
    partition: u32,
    offsets: Range<u64>,
    applied: u64,
    remade: Vec<u64>,
    specs: &[(u64, i64, i64)],
    added: &[AddedColumn],
) -> Rewrite {
    let rows = rows(partition, applied, specs, added);
    Rewrite { partition, offsets, applied, remade, rows, dead: Vec::new(), dropped: 0 }
}

/// All records of a range made again, with one row each, in `days` days.
pub fn rewrite_all(partition: u32, offsets: Range<u64>, applied: u64, days: u64) -> Rewrite {
    let specs: Vec<_> = offsets.clone().map(|offset| (offset, 0, time_of(partition, offset, days))).collect();
    rewrite(partition, offsets.clone(), applied, offsets.collect(), &specs)
}

/// What a rewrite does to a table, in the simplest way.
pub fn replace(table: &mut BTreeMap<RowKey, Vec<u8>>, rewrite: &Rewrite) {
    let partition = i64::from(rewrite.partition);
    for offset in &rewrite.remade {
        let record = (partition, *offset as i64, i64::MIN)..=(partition, *offset as i64, i64::MAX);
        let gone: Vec<RowKey> = table.range(record).map(|(key, _)| *key).collect();
        for key in gone {
            table.remove(&key);
        }
    }
    canonical(std::slice::from_ref(&rewrite.rows), table);
}

/// A slice with one row a record; the row's day follows from its offset and `days`.
pub fn slice(partition: u32, first: u64, count: u64, days: u64) -> Slice {
    slice_with(partition, first, count, days, 0, &[])
}

pub fn slice_with(partition: u32, first: u64, count: u64, days: u64, applied: u64, added: &[AddedColumn]) -> Slice {
    let specs: Vec<_> = (first..first + count).map(|offset| (offset, 0, time_of(partition, offset, days))).collect();
    Slice {
        partition,
        first,
        cursor: cursor(first + count),
        applied,
        rows: rows(partition, applied.max(1), &specs, added),
        dead: Vec::new(),
        read: count,
        marks: marks(first, count),
        dropped: 0,
    }
}

/// No background work: what a test does is all that happens.
pub fn options() -> Options {
    Options { background_maintenance: false, compaction: false, ..Options::default() }
}

pub async fn open(table: &Path) -> DeltaStore {
    open_with(table, options()).await
}

pub async fn open_with(table: &Path, options: Options) -> DeltaStore {
    let mut store = DeltaStore::open(table.to_str().unwrap(), options).await.unwrap();
    store.load().await.unwrap();
    store
}

/// The canonical form of every row of some batches. Panics on a row that is there twice.
pub fn canonical(batches: &[RecordBatch], into: &mut BTreeMap<RowKey, Vec<u8>>) {
    for batch in batches {
        let lineage = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec();
        let keys = (lineage("_partition"), lineage("_offset"), lineage("_sub"));
        let encoder = RowEncoder::new(batch).unwrap();
        for row in 0..batch.num_rows() {
            let mut bytes = Vec::new();
            encoder.encode(row, &mut bytes);
            let key = (keys.0[row], keys.1[row], keys.2[row]);
            assert!(into.insert(key, bytes).is_none(), "row {key:?} is there twice");
        }
    }
}

pub async fn scan(reader: &TableReader, request: ScanRequest) -> Vec<RecordBatch> {
    let scan = reader.scan(request).await.unwrap();
    tokio::task::spawn_blocking(move || scan.collect::<Result<Vec<_>, _>>().unwrap()).await.unwrap()
}

/// Every row of the table, without `event_date`, which must be the date of `event_time`.
pub async fn read_table(reader: &TableReader) -> BTreeMap<RowKey, Vec<u8>> {
    let mut all = BTreeMap::new();
    for batch in scan(reader, ScanRequest::default()).await {
        let dates = batch.column_by_name("event_date").unwrap().as_primitive::<Date32Type>();
        let times = batch.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>();
        let same = |(date, time): (&i32, &i64)| i64::from(*date) == time.div_euclid(DAY_US);
        assert!(dates.values().iter().zip(times.values()).all(same), "a row lies under another date");
        let keep: Vec<usize> = batch
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, f)| f.name() != "event_date")
            .map(|(at, _)| at)
            .collect();
        canonical(&[batch.project(&keep).unwrap()], &mut all);
    }
    all
}

pub fn expected<'a>(slices: impl IntoIterator<Item = &'a Slice>) -> BTreeMap<RowKey, Vec<u8>> {
    let mut all = BTreeMap::new();
    for slice in slices {
        canonical(std::slice::from_ref(&slice.rows), &mut all);
    }
    all
}
