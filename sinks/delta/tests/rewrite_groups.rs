//! A correction copies the row groups that it does not concern, and what it writes is as if it had not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use common::*;
use millrace_delta::{DeltaStore, Options, ScanRequest};
use millrace_rows::schema::AddedColumn;
use millrace_rows::{ColumnType, Job, Reason, Rewrite, Rewriter, Store};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::file::metadata::PageIndexPolicy;
use serde_json::Value;

/// Rows of a row group in these tests.
const GROUP: u64 = 100;

struct World {
    directory: tempfile::TempDir,
    store: DeltaStore,
    model: BTreeMap<RowKey, Vec<u8>>,
    next: u64,
    applied: u64,
}

impl World {
    /// A table with rows of the first day, in one file for each of `counts`.
    async fn of(counts: &[u64]) -> Self {
        Self::with(counts, options()).await
    }

    async fn with(counts: &[u64], options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { row_group_rows_max: GROUP as usize, ..options };
        let mut store = open_with(directory.path(), options).await;
        let (mut model, mut next) = (BTreeMap::new(), 0);
        for count in counts {
            let slice = slice(0, next, *count, 1);
            canonical(std::slice::from_ref(&slice.rows), &mut model);
            store.stage(slice).await.unwrap();
            store.commit().await.unwrap();
            next += count;
        }
        Self { directory, store, model, next, applied: 0 }
    }

    /// Commits records that were made again under a revision of its own, checks the table, and tells how many row groups
    /// were copied.
    async fn correct(&mut self, rewrite: impl Fn(u64) -> Rewrite) -> u64 {
        self.applied += 1;
        let job = Job { revision: self.applied, below: [(0, self.next)].into() };
        self.store.take_in(self.applied, Some(job)).await.unwrap();
        let rewrite = rewrite(self.applied);
        replace(&mut self.model, &rewrite);
        let mut rewriter = self.store.rewriter();
        rewriter.load().await.unwrap();
        rewriter.stage(rewrite).await.unwrap();
        rewriter.commit(self.applied, &BTreeMap::new(), &Reason::default()).await.unwrap();
        self.check().await;
        let entry = newest_entry(self.directory.path());
        entry.iter().filter_map(|action| action.get("add")).for_each(|add| check_file(self.directory.path(), add));
        let copied = &entry[0]["commitInfo"]["operationMetrics"]["numCopiedRowGroups"];
        copied.as_str().unwrap().parse().unwrap()
    }

    /// Everything is there, and is found by its offset.
    async fn check(&self) {
        let reader = self.store.reader();
        assert!(read_table(&reader).await == self.model);
        assert_eq!(reader.status().await.unwrap().rows as usize, self.model.len());
        for start in (0..self.next).step_by(137) {
            let request = ScanRequest { offsets: Some((0, start..start + 137)), ..ScanRequest::default() };
            let found: usize = scan(&reader, request).await.iter().map(|rows| rows.num_rows()).sum();
            let expected = self.model.range((0, start as i64, 0)..(0, start as i64 + 137, 0)).count();
            assert_eq!(found, expected, "{start}");
        }
    }

    /// Least and greatest offset of each file, by day.
    async fn files(&self) -> Vec<(i64, (i64, i64))> {
        let files = self.store.reader().files(&ScanRequest::default()).await.unwrap();
        let day = |date: chrono::NaiveDate| (date - chrono::NaiveDate::default()).num_days() - FIRST_DAY;
        files.iter().map(|file| (day(file.date.unwrap()), file.offsets.unwrap())).collect()
    }
}

fn newest_entry(table: &Path) -> Vec<Value> {
    let entry = table.join("_delta_log").join(entries(table).last().unwrap());
    std::fs::read_to_string(entry).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn read(builder: ParquetRecordBatchReaderBuilder<std::fs::File>) -> RecordBatch {
    let schema = builder.schema().clone();
    let batches = builder.build().unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

/// A file is in order, its row groups are full or nearly, its indexes lead to its rows, and its statistics hold.
fn check_file(table: &Path, add: &Value) {
    let open = || {
        let file = std::fs::File::open(table.join(add["path"].as_str().unwrap())).unwrap();
        assert_eq!(file.metadata().unwrap().len(), add["size"].as_u64().unwrap());
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).unwrap()
    };
    let builder = open();
    let groups: Vec<i64> = builder.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    let full = GROUP as i64 / 2..=GROUP as i64;
    assert!(groups[..groups.len() - 1].iter().all(|rows| full.contains(rows)), "{groups:?}");
    let rows = read(builder);
    let every_ninth = (0..rows.num_rows() / 9).flat_map(|_| [RowSelector::skip(8), RowSelector::select(1)]);
    let selection = RowSelection::from(every_ninth.collect::<Vec<_>>());
    let ninth: arrow::array::UInt32Array = (8..rows.num_rows() as u32).step_by(9).collect();
    let expected = arrow::compute::take_record_batch(&rows, &ninth).unwrap();
    assert_eq!(read(open().with_row_selection(selection)), expected);

    let column = |name: &str| rows.column_by_name(name).unwrap().clone();
    let ints = |name: &str| column(name).as_primitive::<Int64Type>().values().to_vec();
    let keys: Vec<_> = ints("_offset").into_iter().zip(ints("_sub")).collect();
    assert!(keys.is_sorted_by(|a, b| a < b), "the order of the log");

    let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
    assert_eq!(stats["numRecords"], rows.num_rows());
    let bounds = |name: &str| (stats["minValues"][name].clone(), stats["maxValues"][name].clone());
    for name in ["_partition", "_offset", "_sub", "_revision"] {
        let (low, high) = (ints(name).into_iter().min().unwrap(), ints(name).into_iter().max().unwrap());
        assert_eq!(bounds(name), (low.into(), high.into()), "{name}");
    }
    for name in ["event", "app", "device_id"] {
        let (low, high) = bounds(name);
        let column = column(name);
        for text in column.as_string::<i32>().iter().flatten() {
            assert!(low.as_str().unwrap() <= text && text <= high.as_str().unwrap(), "{name}: {low} {text} {high}");
        }
        assert_eq!(stats["nullCount"][name], column.null_count(), "{name}");
    }
    let (low, high) = bounds("event_time");
    let ms = |time: &Value| chrono::DateTime::parse_from_rfc3339(time.as_str().unwrap()).unwrap().timestamp_millis();
    let times = column("event_time").as_primitive::<TimestampMicrosecondType>().values().to_vec();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert_eq!((ms(&low), ms(&high)), (first.div_euclid(1000), (last + 999).div_euclid(1000)));
}

/// Records made again with `count` rows each, all of one day.
fn remade(
    revision: u64,
    offsets: impl IntoIterator<Item = u64>,
    day: i64,
    count: i64,
    added: &[AddedColumn],
) -> Rewrite {
    let offsets: Vec<u64> = offsets.into_iter().collect();
    let time = |offset: u64| (FIRST_DAY + day) * DAY_US + offset as i64 * 1_000_001;
    let specs: Vec<_> = offsets.iter().flat_map(|o| (0..count).map(|sub| (*o, sub, time(*o)))).collect();
    let range = offsets[0]..offsets[offsets.len() - 1] + 1;
    rewrite_with(0, range, revision, offsets, &specs, added)
}

#[tokio::test]
async fn row_groups_without_a_record_of_a_correction_are_copied() {
    let cases: [(&[(u64, u64)], u64); 6] = [
        (&[(0, 50)], 19),
        (&[(950, 1050)], 18),
        (&[(1950, 2000)], 19),
        (&[(5, 6), (505, 507), (1999, 2000)], 17),
        (&[(100, 200)], 19),
        (&[(0, 2000)], 0),
    ];
    for (ranges, copied) in cases {
        let mut world = World::of(&[2000]).await;
        for _ in 0..2 {
            let offsets = ranges.iter().flat_map(|(start, end)| *start..*end);
            let found = world.correct(|revision| remade(revision, offsets.clone(), 0, 1, &[])).await;
            assert_eq!(found, copied, "{ranges:?}");
        }
        assert_eq!(world.files().await, [(0, (0, 1999))], "{ranges:?}");
    }
    // A row group that is out of the question by its bounds, and one whose bounds hold what it does not have.
    let mut world = World::of(&[2000]).await;
    assert_eq!(world.correct(|revision| remade(revision, 230..260, 1, 1, &[])).await, 19);
    assert_eq!(world.correct(|revision| remade(revision, (240..250).chain([505]), 1, 1, &[])).await, 19);
}

#[tokio::test]
async fn a_large_range_stays_beside_what_it_was_taken_out_of() {
    // A replay from the end, piece by piece: what is left is copied, what is new is not touched again.
    let mut world = World::of(&[2000]).await;
    assert_eq!(world.correct(|revision| remade(revision, 1550..2000, 0, 1, &[])).await, 15);
    assert_eq!(world.files().await, [(0, (0, 1549)), (0, (1550, 1999))]);
    assert_eq!(world.correct(|revision| remade(revision, 1100..1550, 0, 1, &[])).await, 11);
    assert_eq!(world.files().await, [(0, (0, 1099)), (0, (1100, 1549)), (0, (1550, 1999))]);
    // Out of two files at once, from the end of one and the beginning of the other.
    assert_eq!(world.correct(|revision| remade(revision, 800..1300, 0, 1, &[])).await, 11);
    assert_eq!(world.files().await, [(0, (0, 799)), (0, (800, 1299)), (0, (1300, 1549)), (0, (1550, 1999))]);
    // With rows that stay on both sides, with a gap, or with few rows it is one file again.
    for offsets in [(100..600).collect::<Vec<_>>(), (0..800).filter(|n| *n != 9).collect(), (700..800).collect()] {
        world.correct(|revision| remade(revision, offsets.clone(), 0, 1, &[])).await;
        assert_eq!(world.files().await[0], (0, (0, 799)));
    }
}

#[tokio::test]
async fn rows_come_and_go_between_dates_and_in_number() {
    let mut world = World::of(&[2000]).await;
    assert_eq!(world.correct(|revision| remade(revision, 300..320, 1, 1, &[])).await, 19);
    assert_eq!(world.files().await, [(0, (0, 1999)), (1, (300, 319))]);
    // Some come back, with others of that file.
    assert_eq!(world.correct(|revision| remade(revision, 310..330, 0, 1, &[])).await, 19);
    assert_eq!(world.files().await, [(0, (0, 1999)), (1, (300, 309))]);
    // All of a date goes.
    assert_eq!(world.correct(|revision| remade(revision, 300..310, 0, 1, &[])).await, 0);
    // More rows than a row group takes, and hardly any.
    assert_eq!(world.correct(|revision| remade(revision, 700..800, 0, 3, &[])).await, 19);
    assert_eq!(world.correct(|revision| remade(revision, 1500..1597, 0, 0, &[])).await, 20);
    assert_eq!(world.correct(|revision| remade(revision, 0..100, 0, 0, &[])).await, 21);
    assert_eq!(world.correct(|revision| remade(revision, 1900..2000, 0, 0, &[])).await, 20);
    // Nothing of a file stays as it was.
    assert_eq!(world.correct(|revision| remade(revision, (0..2000).step_by(3), 2, 2, &[])).await, 0);
}

#[tokio::test]
async fn what_has_other_columns_is_written_again_and_copied_from_then_on() {
    let mut world = World::of(&[1000]).await;
    let columns = [added("browser", ColumnType::String), added("score", ColumnType::Float64)];
    assert_eq!(world.correct(|revision| remade(revision, 350..360, 0, 1, &columns)).await, 0);
    assert_eq!(world.correct(|revision| remade(revision, 355..365, 0, 1, &columns)).await, 9);
}

#[tokio::test]
async fn each_of_several_files_gets_the_rows_between_its_offsets() {
    let mut world = World::of(&[1000, 1000]).await;
    assert_eq!(world.correct(|revision| remade(revision, 950..1050, 0, 1, &[])).await, 18);
    assert_eq!(world.files().await, [(0, (0, 999)), (0, (1000, 1999))]);
    // One of a single row group is merged as a whole.
    let mut world = World::of(&[1000, 60, 1000]).await;
    assert_eq!(world.correct(|revision| remade(revision, 950..1005, 0, 2, &[])).await, 9);
    assert_eq!(world.files().await, [(0, (0, 999)), (0, (1000, 1059)), (0, (1060, 2059))]);
    // New rows that no file has between its offsets go where they are least in the way.
    assert_eq!(world.correct(|revision| remade(revision, 1040..1080, 1, 1, &[])).await, 9);
    assert_eq!(world.correct(|revision| remade(revision, 1050..1090, 0, 1, &[])).await, 9);
    assert_eq!(world.files().await.len(), 4);
}

#[tokio::test]
async fn a_file_that_grows_too_large_is_parted_between_row_groups() {
    let options = Options { file_bytes_max: 80 << 10, ..options() };
    let mut world = World::with(&[1000], options).await;
    let before = world.files().await;
    let copied = world.correct(|revision| remade(revision, 500..600, 0, 20, &[])).await;
    assert!(copied >= 9, "{copied}");
    let files = world.files().await;
    assert!(files.len() > before.len() + 1, "{files:?}");
    assert!(files.is_sorted_by(|a, b| a.1.1 <= b.1.0), "{files:?}");
}
