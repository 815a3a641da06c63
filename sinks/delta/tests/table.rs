//! What is staged and committed is what is read back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Date32Type, Int64Type};
use common::*;
use millrace_delta::{DeltaStore, Options, ScanRequest};
use millrace_rows::{ColumnType, Cursor, Job, LogId, Mark, Slice, Store, StoreError};
use proptest::prelude::*;

#[tokio::test]
async fn rows_cursors_and_applied_are_in_one_commit() {
    let directory = place();
    let mut store = open(directory.path()).await;
    let slices = [slice(0, 0, 50, 3), slice(1, 5, 20, 1), slice(0, 50, 10, 3)];
    for slice in &slices {
        store.stage(slice.clone()).await.unwrap();
    }
    assert!(store.staged_bytes() >= slices.iter().map(Slice::memory_bytes).sum());
    assert_eq!(store.reader().status().await.unwrap().files, 0, "staged rows are not visible");
    let state = store.commit().await.unwrap();
    assert_eq!(state.cursors, [(0, cursor(60)), (1, cursor(25))].into());
    assert_eq!(store.staged_bytes(), 0);
    assert_eq!(store.commit().await.unwrap(), state, "nothing staged, nothing written");

    let status = store.reader().status().await.unwrap();
    assert_eq!((status.version, status.rows, status.state.clone()), (1, 80, state.clone()));
    assert_eq!(status.files, 4, "one file for each log partition and date");
    assert_eq!(status.files_without_row_count, 0);
    assert_eq!(read_table(&store.reader()).await, expected(&slices));
    assert_eq!(open(directory.path()).await.load().await.unwrap(), state);

    let entry = entry(directory.path(), 1);
    let info: serde_json::Value = serde_json::from_str(entry.lines().next().unwrap()).unwrap();
    let ours = &info["commitInfo"]["millrace"];
    assert_eq!(ours["applied"], 0);
    let counts = serde_json::json!({"first": 0, "next": 60, "read": 60, "rows": 60, "dropped": 0, "dead": 0});
    assert_eq!(ours["partitions"]["0"], counts);
    assert!(!entry.contains("ip 1"), "no values of other columns in the log");
}

#[tokio::test]
async fn the_log_has_no_values_but_of_the_columns_named() {
    let directory = place();
    let mut store = open(directory.path()).await;
    store.stage(slice(0, 0, 30, 1)).await.unwrap();
    store.commit().await.unwrap();
    let entry = entry(directory.path(), 1);
    let add: serde_json::Value = serde_json::from_str(entry.lines().last().unwrap()).unwrap();
    let stats: serde_json::Value = serde_json::from_str(add["add"]["stats"].as_str().unwrap()).unwrap();
    let mut names: Vec<&str> = stats["nullCount"].as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["_offset", "_partition", "_revision", "_sub", "app", "device_id", "event", "event_time"]);
    assert_eq!(stats["maxValues"]["_offset"], 29);
    let longest = stats["maxValues"]["device_id"].as_str().unwrap().chars().count();
    assert!(longest <= 32, "bounds are cut");
}

#[tokio::test]
async fn a_slice_that_does_not_follow_is_fenced_and_load_starts_again() {
    let directory = place();
    let mut store = open(directory.path()).await;
    store.stage(slice(0, 0, 10, 1)).await.unwrap();
    store.commit().await.unwrap();

    let gap = store.stage(slice(0, 11, 5, 1)).await;
    assert!(matches!(gap, Err(StoreError::Fenced { .. })), "{gap:?}");
    let forgotten = store.commit().await;
    assert!(matches!(forgotten, Err(StoreError::Fenced { .. })), "nothing goes on before load: {forgotten:?}");
    store.load().await.unwrap();
    let revision = store.stage(slice_with(0, 10, 5, 1, 1, &[])).await;
    assert!(matches!(revision, Err(StoreError::Fenced { .. })), "{revision:?}");
    store.load().await.unwrap();
    let mut other = slice(0, 10, 5, 1);
    other.cursor = Cursor { log: LogId([1; 16]), next: 15, mark: Mark::NONE };
    let other = store.stage(other).await;
    assert!(matches!(other, Err(StoreError::Broken { .. })), "another log: {other:?}");

    // Staged rows before an error are gone, their files too.
    store.load().await.unwrap();
    let before = data_files(directory.path());
    store.stage(slice(0, 10, 5, 1)).await.unwrap();
    assert!(store.stage(slice(0, 10, 5, 1)).await.is_err());
    store.load().await.unwrap();
    assert_eq!(data_files(directory.path()), before);
    store.stage(slice(0, 10, 5, 1)).await.unwrap();
    assert_eq!(store.commit().await.unwrap().cursors[&0], cursor(15));
}

#[tokio::test]
async fn a_revision_is_taken_in_with_its_job_and_only_in_turn() {
    let directory = place();
    let mut store = open(directory.path()).await;
    store.stage(slice(3, 0, 10, 1)).await.unwrap();
    store.commit().await.unwrap();
    let state = store.take_in(1, None).await.unwrap();
    assert_eq!(state.applied, 1);
    let job = Job { revision: 2, below: [(3, 10)].into() };
    assert_eq!(store.take_in(2, Some(job.clone())).await.unwrap().applied, 2);
    store.load().await.unwrap();
    assert_eq!(store.jobs().await.unwrap(), [job]);
    for (revision, first, below) in [(2, 2, 10), (3, 2, 10), (3, 4, 10), (3, 3, 9)] {
        let job = Job { revision: first, below: [(3, below)].into() };
        let out_of_turn = store.take_in(revision, Some(job)).await;
        assert!(matches!(out_of_turn, Err(StoreError::Fenced { .. })), "{out_of_turn:?}");
        assert_eq!(store.load().await.unwrap().applied, 2);
    }
    store.stage(slice_with(3, 10, 5, 1, 2, &[])).await.unwrap();
    assert!(store.take_in(3, None).await.is_err(), "nothing may be staged");
    store.load().await.unwrap();
    store.stage(slice_with(3, 10, 5, 1, 2, &[])).await.unwrap();
    assert_eq!(store.commit().await.unwrap().applied, 2);
}

#[tokio::test]
async fn a_new_column_comes_with_the_rows_that_have_it() {
    let directory = place();
    let mut store = open(directory.path()).await;
    let (browser, score) = (added("browser", ColumnType::String), added("score", ColumnType::Float64));
    let plain = slice(0, 0, 20, 1);
    let first = slice_with(0, 20, 20, 1, 0, std::slice::from_ref(&browser));
    let both = slice_with(0, 40, 20, 1, 0, &[browser.clone(), score.clone()]);
    let narrow = slice_with(0, 60, 20, 1, 0, std::slice::from_ref(&score));
    let slices = [plain, first, both, narrow];
    for slice in &slices {
        store.stage(slice.clone()).await.unwrap();
    }
    store.commit().await.unwrap();
    assert_eq!(read_table(&store.reader()).await, expected(&slices), "in one commit");
    assert_eq!(entries(directory.path()).len(), 2, "schema and rows are one commit");

    // The table has the columns now: no schema change with the next commit.
    let next = slice_with(0, 80, 5, 1, 0, &[browser, score]);
    store.stage(next.clone()).await.unwrap();
    store.commit().await.unwrap();
    let entry = entry(directory.path(), 2);
    assert!(!entry.contains("metaData"));
    let mut reopened = open(directory.path()).await;
    let wrong = reopened.stage(slice_with(0, 85, 5, 1, 0, &[added("score", ColumnType::Int64)])).await;
    let Err(StoreError::Broken { detail, .. }) = wrong else { panic!("{wrong:?}") };
    assert!(detail.contains("\"score\" is int64 in the slice and float64 in the table"), "{detail}");
    assert_eq!(read_table(&reopened.reader()).await, expected(slices.iter().chain([&next])));
}

#[tokio::test]
async fn scans_prune_and_project() {
    let directory = place();
    let mut store = open(directory.path()).await;
    let slices: Vec<Slice> = (0..4).map(|n| slice(n % 2, u64::from(n / 2) * 100, 100, 4)).collect();
    for slice in &slices {
        store.stage(slice.clone()).await.unwrap();
        store.commit().await.unwrap();
    }
    let reader = store.reader();
    let day = |n: i64| chrono::NaiveDate::default() + chrono::Days::new((FIRST_DAY + n) as u64);
    let request = ScanRequest {
        dates: Some(day(1)..=day(2)),
        offsets: Some((1, 150..160)),
        ..ScanRequest::columns(["_offset", "event_date", "device_id"])
    };
    assert!(reader.files(&request).await.unwrap().len() <= 2, "one commit of one log partition, two dates");
    let batches = scan(&reader, request).await;
    let mut seen = BTreeMap::new();
    for batch in &batches {
        assert_eq!(
            batch.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
            ["_offset", "event_date", "device_id"]
        );
        let (offsets, dates) =
            (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Date32Type>());
        seen.extend((0..batch.num_rows()).map(|row| (offsets.value(row), i64::from(dates.value(row)))));
        assert_eq!(batch.column(2).null_count(), 0);
    }
    let expected: BTreeMap<i64, i64> = (150..160u64)
        .map(|offset| (offset as i64, FIRST_DAY + (mix(&[offset, 1]) % 4) as i64))
        .filter(|(_, day)| (FIRST_DAY + 1..=FIRST_DAY + 2).contains(day))
        .collect();
    assert!(!expected.is_empty());
    assert_eq!(seen, expected);
    let by_date = reader.rows_by_date().await.unwrap();
    assert_eq!((by_date.len(), by_date.values().sum::<u64>()), (4, 400));
    assert!(reader.scan(ScanRequest::columns(["nope"])).await.is_err());
}

#[tokio::test]
async fn months_of_history_fit_into_bounded_memory_and_few_files() {
    let directory = place();
    let limits = Options { open_files_max: 8, buffer_bytes_max: 8 << 20, write_bytes_min: 1 << 20, ..options() };
    let mut store = open_with(directory.path(), limits).await;
    let slices: Vec<Slice> = (0..60).map(|n| slice(n % 3, u64::from(n / 3) * 300, 300, 177)).collect();
    for slice in &slices {
        store.stage(slice.clone()).await.unwrap();
        assert!(store.buffered_bytes() <= 8 << 20, "{} bytes", store.buffered_bytes());
    }
    store.commit().await.unwrap();
    let status = store.reader().status().await.unwrap();
    assert_eq!(status.rows, 18_000);
    // A file for each slice and date would be about 8,600.
    assert!(status.files <= 3 * 3 * 177, "{} files: rows of one date were scattered", status.files);
    assert_eq!(read_table(&store.reader()).await, expected(&slices));
    assert_eq!(data_files(directory.path()).len() as u64, status.files, "no file is left over");
}

#[tokio::test]
async fn rows_keep_their_order_within_a_file_and_row_groups_are_bounded() {
    let directory = place();
    let mut store = open(directory.path()).await;
    for n in 0..7 {
        store.stage(slice(0, n * 10_000, 10_000, 1)).await.unwrap();
    }
    store.commit().await.unwrap();
    let [file] = data_files(directory.path()).try_into().unwrap();
    let input = bytes_of(directory.path(), &file);
    let parquet = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(input).unwrap();
    let groups: Vec<i64> = parquet.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [65_536, 4_464]);
    for column in parquet.metadata().row_group(0).columns() {
        let name = column.column_path().string();
        let known = ["_partition", "_offset", "_sub", "_revision", "event_time", "event", "app", "device_id"];
        assert_eq!(column.statistics().is_some(), known.contains(&name.as_str()), "{name}");
    }
    let offsets: Vec<i64> = parquet
        .build()
        .unwrap()
        .flat_map(|batch| {
            batch.unwrap().column_by_name("_offset").unwrap().as_primitive::<Int64Type>().values().to_vec()
        })
        .collect();
    assert!(offsets.iter().copied().eq(0..70_000), "in offset order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_survive_checkpoints_and_log_clean_up() {
    let Some(directory) = place_unless_s3("it sets the times of files") else { return };
    let mut store = open_with(directory.path(), Options { checkpoint_every: 10, ..options() }).await;
    let mut slices = vec![slice(9, 0, 5, 1)];
    store.stage(slices[0].clone()).await.unwrap();
    store.commit().await.unwrap();
    store.take_in(1, None).await.unwrap();
    for n in 0..24 {
        slices.push(slice_with(0, n * 5, 5, 2, 1, &[]));
        store.stage(slices.last().unwrap().clone()).await.unwrap();
        store.commit().await.unwrap();
        if n == 11 {
            // Everything so far is two and a half days old.
            let log = directory.path().join("_delta_log");
            assert_eq!(store.maintainer().run().await.unwrap().checkpoint, Some(14));
            for entry in std::fs::read_dir(log).unwrap() {
                let file = std::fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
                file.set_modified(SystemTime::now() - Duration::from_secs(60 * 3600)).unwrap();
            }
        }
    }
    let done = store.maintainer().run().await.unwrap();
    assert_eq!(done.checkpoint, Some(26));
    assert!(done.log_files_removed > 10, "{done:?}");
    assert!(entries(directory.path())[0].as_str() > "00000000000000000010.json", "the first entries are gone");
    assert_eq!(store.maintainer().run().await.unwrap().checkpoint, None, "not due again");

    let mut reopened = open(directory.path()).await;
    let state = reopened.load().await.unwrap();
    assert_eq!((state.applied, state.cursors[&9], state.cursors[&0]), (1, cursor(5), cursor(120)));
    assert_eq!(read_table(&reopened.reader()).await, expected(&slices));
    slices.push(slice_with(0, 120, 5, 2, 1, &[]));
    reopened.stage(slices.last().unwrap().clone()).await.unwrap();
    reopened.commit().await.unwrap();
    assert_eq!(read_table(&store.reader()).await, expected(&slices));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_old_files_that_no_entry_mentions_are_orphans() {
    let Some(directory) = place_unless_s3("it sets the times of files") else { return };
    let mut store = open(directory.path()).await;
    store.stage(slice(0, 0, 10, 2)).await.unwrap();
    store.commit().await.unwrap();
    let kept = data_files(directory.path());
    let day = directory.path().join("event_date=2026-11-03");
    let orphan = |uuid: u128| day.join(format!("millrace-0-{}.parquet", uuid::Uuid::from_u128(uuid)));
    std::fs::write(orphan(1), "left behind").unwrap();
    std::fs::write(day.join("part-00000-somebody-else.parquet"), "not ours").unwrap();
    std::fs::write(directory.path().join("_delta_log/00000000000000000002.json#123"), "half an entry").unwrap();

    let maintainer = store.maintainer();
    assert_eq!(maintainer.remove_orphans(Duration::from_secs(3600)).await.unwrap(), 0, "too young");
    for path in kept.iter().map(|file| directory.path().join(file)).chain([orphan(1)]) {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    }
    let temporary = directory.path().join("_delta_log/00000000000000000002.json#123");
    let file = std::fs::File::options().write(true).open(&temporary).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    assert_eq!(maintainer.remove_orphans(Duration::from_secs(3600)).await.unwrap(), 2);
    assert!(!orphan(1).exists() && !temporary.exists());
    assert!(day.join("part-00000-somebody-else.parquet").exists());
    assert!(kept.iter().all(|file| directory.path().join(file).exists()));
    assert_eq!(maintainer.counts().orphans_removed, 2);
    assert_eq!(read_table(&store.reader()).await, expected(&[slice(0, 0, 10, 2)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_run_beside_commits_in_the_background() {
    let directory = place();
    let options = Options { background_maintenance: true, checkpoint_every: 5, ..Options::default() };
    let mut store = open_with(directory.path(), options).await;
    let slices: Vec<Slice> = (0..60).map(|n| slice(0, n * 3, 3, 1)).collect();
    for slice in &slices {
        store.stage(slice.clone()).await.unwrap();
        store.commit().await.unwrap();
    }
    // Whatever runs in the background ends before this begins.
    store.maintainer().run().await.unwrap();
    let counts = store.maintainer().counts();
    assert!(counts.checkpoints >= 2 && counts.failures == 0, "{counts:?}");
    assert_eq!(open(directory.path()).await.load().await.unwrap().cursors[&0], cursor(180));
    assert_eq!(read_table(&store.reader()).await, expected(&slices));
}

#[tokio::test]
async fn a_table_in_an_object_store_works_the_same() {
    let slices = [slice(0, 0, 50, 3), slice(1, 0, 20, 1)];
    let mut store = DeltaStore::open("memory:///events", options()).await.unwrap();
    store.load().await.unwrap();
    for slice in &slices {
        store.stage(slice.clone()).await.unwrap();
    }
    let state = store.commit().await.unwrap();
    assert_eq!(store.load().await.unwrap(), state);
    assert_eq!(read_table(&store.reader()).await, expected(&slices));
}

/// A slice for a property: partition, number of records, days, rows per record, whether it has an added column.
type Spec = (u32, u64, u64, i64, bool, bool);

fn spec() -> impl Strategy<Value = Spec> {
    (0..3u32, 0..40u64, 1..8u64, 0..3i64, any::<bool>(), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the slices and wherever the commits: what is read back is what went in.
    #[test]
    fn any_slices_in_any_commits_read_back_equal(
        specs in proptest::collection::vec(spec(), 1..14),
        open_files_max in 1..4usize,
        write_bytes_min in 0..60_000usize,
        buffer_bytes_max in 10_000..400_000usize,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let directory = place();
            let limits = Options { open_files_max, write_bytes_min, buffer_bytes_max, file_bytes_max: 60_000, ..options() };
            let mut store = open_with(directory.path(), limits).await;
            let mut next = BTreeMap::new();
            let mut slices = Vec::new();
            for (partition, count, days, per_record, with_added, then_commit) in specs {
                let first = *next.get(&partition).unwrap_or(&0);
                next.insert(partition, first + count);
                let rows: Vec<(u64, i64, i64)> = (first..first + count)
                    .flat_map(|offset| (0..per_record).map(move |sub| (offset, sub)))
                    .map(|(offset, sub)| {
                        let day = FIRST_DAY + (mix(&[offset, sub as u64]) % days) as i64;
                        (offset, sub, day * DAY_US + sub)
                    })
                    .collect();
                let extra = [added("extra", ColumnType::Int64)];
                let slice = Slice {
                    partition,
                    first,
                    cursor: cursor(first + count),
                    applied: 0,
                    rows: common::rows(partition, 1, &rows, if with_added { &extra } else { &[] }),
                    dead: Vec::new(),
                    read: count,
                    marks: marks(first, count),
                    dropped: 0,
                };
                store.stage(slice.clone()).await.unwrap();
                slices.push(slice);
                if then_commit {
                    store.commit().await.unwrap();
                }
            }
            let state = store.commit().await.unwrap();
            assert_eq!(state.cursors, next.iter().map(|(partition, next)| (*partition, cursor(*next))).collect());
            assert_eq!(store.load().await.unwrap(), state);
            assert_eq!(read_table(&store.reader()).await, expected(&slices));
        });
    }
}
