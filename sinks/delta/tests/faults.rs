//! Rows of the table that are of no record, and data files that can't be read, are told of.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use common::*;
use millrace_delta::{FAULTS_KEPT, Options, ScanRequest, TableReader, Why};
use millrace_rows::{Store, StoreError};
use parquet::arrow::ArrowWriter;

/// Adds a file of nothing but lineage, with these statistics.
fn plant(table: &Path, version: u64, name: &str, lineage: [&[Option<i64>]; 2], stats: Option<&str>) {
    let path = format!("event_date=2026-11-03/{name}.parquet");
    std::fs::create_dir_all(table.join("event_date=2026-11-03")).unwrap();
    let fields = ["_partition", "_offset"].map(|name| Field::new(name, DataType::Int64, true));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let columns = lineage.map(|values| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef).to_vec();
    let mut writer = ArrowWriter::try_new(File::create(table.join(&path)).unwrap(), schema.clone(), None).unwrap();
    writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
    writer.close().unwrap();
    add(table, version, &path, stats);
}

fn add(table: &Path, version: u64, path: &str, stats: Option<&str>) {
    let add = serde_json::json!({"add": {
        "path": path, "partitionValues": {"event_date": "2026-11-03"}, "size": 1000, "modificationTime": 1,
        "dataChange": true, "stats": stats,
    }});
    std::fs::write(table.join(format!("_delta_log/{version:020}.json")), format!("{add}\n")).unwrap();
}

async fn faults(reader: &TableReader) -> millrace_delta::TableFaults {
    reader.faults(2).await.unwrap()
}

#[tokio::test]
async fn nothing_is_read_where_statistics_account_for_every_row() {
    let directory = place();
    let mut store = open_with(directory.path(), Options { checkpoint_every: 10, ..options() }).await;
    for round in 0..30 {
        for partition in 0..2 {
            store.stage(slice(partition, round * 40, 40, 2)).await.unwrap();
        }
        store.commit().await.unwrap();
        // After checkpoints as well.
        if round % 10 == 9 {
            store.maintainer().run().await.unwrap();
        }
        let faults = faults(&store.reader()).await;
        assert_eq!((faults.files_read, faults.strays), (0, 0), "{faults:?}");
    }
    assert!(directory.path().join("_delta_log/_last_checkpoint").exists());
}

#[tokio::test]
async fn rows_of_no_record_are_told_with_their_reason() {
    let directory = place();
    let mut store = open(directory.path()).await;
    for partition in 0..2 {
        store.stage(slice(partition, 0, 40, 1)).await.unwrap();
    }
    store.commit().await.unwrap();
    let reader = store.reader();
    let bounds = r#"{"numRecords":3,"minValues":{"_partition":0,"_offset":1},"maxValues":{"_partition":0,"_offset":2}"#;
    // Bounds say nothing about nulls.
    plant(
        directory.path(),
        2,
        "nulls",
        [&[Some(0), None, Some(0)], &[None, Some(1), Some(2)]],
        Some(&format!("{bounds}}}")),
    );
    plant(directory.path(), 3, "negative", [&[Some(-1), Some(1)], &[Some(3), Some(-7)]], None);
    plant(directory.path(), 4, "past", [&[Some(1), Some(1)], &[Some(39), Some(40)]], None);
    plant(directory.path(), 5, "strange", [&[Some(2), Some(0)], &[Some(0), Some(0)]], None);
    let found = faults(&reader).await;
    assert_eq!((found.version, found.files_read, found.strays), (5, 4, 6), "{found:?}");
    let mut told: Vec<_> = found.first.iter().map(|row| (row.partition, row.offset, row.why)).collect();
    told.sort_by_key(|row| (row.0, row.1));
    let expected = [
        (None, Some(1), Why::NoPlace),
        (Some(-1), Some(3), Why::NoPlace),
        (Some(0), None, Why::NoPlace),
        (Some(1), Some(-7), Why::NoPlace),
        (Some(1), Some(40), Why::PastCursor),
        (Some(2), Some(0), Why::NoSuchPartition),
    ];
    assert_eq!(told, expected);
    assert!(found.first[0].file.starts_with("event_date=2026-11-03/"));

    let many = vec![Some(7); 100];
    plant(directory.path(), 6, "many", [&many, &many], None);
    let found = faults(&reader).await;
    assert_eq!((found.strays, found.first.len()), (106, FAULTS_KEPT), "counted, and a few are kept");
}

#[tokio::test]
async fn a_file_that_can_not_be_read_is_passed_over_where_that_is_asked_for() {
    let directory = place();
    let mut store = open(directory.path()).await;
    store.stage(slice(0, 0, 40, 1)).await.unwrap();
    store.commit().await.unwrap();
    let reader = store.reader();
    add(directory.path(), 2, "event_date=2026-11-03/gone.parquet", None);
    add(directory.path(), 3, "event_date=2026-11-03/damaged.parquet", None);
    std::fs::create_dir_all(directory.path().join("event_date=2026-11-03")).unwrap();
    std::fs::write(directory.path().join("event_date=2026-11-03/damaged.parquet"), b"no parquet").unwrap();
    let names = |files: &[millrace_delta::UnreadableFile]| {
        let mut names: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
        names.sort();
        names
    };
    let both = ["event_date=2026-11-03/damaged.parquet", "event_date=2026-11-03/gone.parquet"];
    assert_eq!(names(&faults(&reader).await.unreadable), both);

    let scan = reader.scan(ScanRequest::default()).await.unwrap();
    let error = tokio::task::spawn_blocking(move || scan.collect::<Result<Vec<_>, _>>().unwrap_err()).await.unwrap();
    assert!(matches!(error, StoreError::Broken { .. } | StoreError::Unavailable { .. }), "{error}");
    let mut scan = reader.scan(ScanRequest::default()).await.unwrap().past_unreadable();
    let (rows, unreadable) = tokio::task::spawn_blocking(move || {
        let rows: usize = (&mut scan).map(|batch| batch.unwrap().num_rows()).sum();
        (rows, scan.unreadable().to_vec())
    })
    .await
    .unwrap();
    assert_eq!((rows, names(&unreadable)), (40, both.map(str::to_owned).to_vec()));
    assert!(unreadable.iter().all(|file| file.may_hold(7) && file.detail.starts_with(&file.path)), "{unreadable:?}");
}
