//! A reader that shares no code with our writer. Runs where `MILLRACE_TEST_DUCKDB_PYTHON` is the path of a Python that
//! has the packages `duckdb` and `duckdb-extension-delta`, both 1.5.5.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use common::*;
use millrace_delta::Options;
use millrace_rows::{ColumnType, Slice, Store};
use serde_json::{Value, json};

const PYTHON: &str = "MILLRACE_TEST_DUCKDB_PYTHON";

fn duckdb(python: &Path, table: &Path) -> Value {
    let script = Path::new("tests/duckdb_check.py");
    let output = Command::new(python).arg(script).arg(table).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the script must find.
fn summary(slices: &[Slice]) -> Value {
    let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
    let (mut count, mut chars, mut pruned) = (0, 0, 0);
    let mut times = Vec::new();
    let mut by_date: BTreeMap<String, u64> = BTreeMap::new();
    for rows in slices.iter().map(|slice| &slice.rows) {
        count += rows.num_rows();
        for name in ["_partition", "_offset", "_sub", "_revision"] {
            *sums.entry(name).or_default() +=
                rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().iter().sum::<i64>();
        }
        let time = rows.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>();
        for us in time.values() {
            times.push(*us);
            *by_date
                .entry(chrono::DateTime::from_timestamp_micros(*us).unwrap().date_naive().to_string())
                .or_default() += 1;
        }
        chars +=
            rows.column_by_name("properties").unwrap().as_string::<i32>().iter().flatten().map(str::len).sum::<usize>();
        let lineage = |name| rows.column_by_name(name).unwrap().as_primitive::<Int64Type>();
        let pairs = lineage("_partition").values().iter().zip(lineage("_offset").values());
        pruned += pairs.filter(|(partition, offset)| **partition == 1 && (10..25).contains(*offset)).count();
    }
    let (least, greatest) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    json!({
        "count": count,
        "sums": sums,
        "distinct": count,
        "event_time_us": [least, greatest],
        "properties_chars": chars,
        "misplaced": 0,
        "pruned": pruned,
        "latest": times.iter().filter(|time| *time == greatest).count(),
        "by_date": by_date,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_independent_reader_sees_the_same_rows() {
    let Some(python) = std::env::var_os(PYTHON).map(std::path::PathBuf::from) else {
        println!("skipped: {PYTHON} is not set to a Python with duckdb and duckdb-extension-delta");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut store = open_with(directory.path(), Options { checkpoint_every: 4, ..options() }).await;
    let mut slices = Vec::new();
    for n in 0..6u64 {
        for partition in 0..2 {
            let extra = if n < 3 { vec![] } else { vec![added("score", ColumnType::Float64)] };
            slices.push(slice_with(partition, n * 40, 40, 5, 0, &extra));
            store.stage(slices.last().unwrap().clone()).await.unwrap();
        }
        store.commit().await.unwrap();
    }
    let mut found = duckdb(&python, directory.path());
    let columns = found.as_object_mut().unwrap().remove("columns").unwrap();
    let columns: BTreeMap<String, String> =
        serde_json::from_value::<Vec<(String, String)>>(columns).unwrap().into_iter().collect();
    assert_eq!(columns["event_time"], "TIMESTAMP WITH TIME ZONE");
    assert_eq!((columns["event_date"].as_str(), columns["score"].as_str()), ("DATE", "DOUBLE"));
    assert_eq!(found, summary(&slices));

    // The same from a checkpoint.
    assert_eq!(store.maintainer().run().await.unwrap().checkpoint, Some(6));
    for entry in &entries(directory.path())[..6] {
        std::fs::remove_file(directory.path().join("_delta_log").join(entry)).unwrap();
    }
    let mut found = duckdb(&python, directory.path());
    found.as_object_mut().unwrap().remove("columns");
    assert_eq!(found, summary(&slices));
}
