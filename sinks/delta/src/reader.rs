//! Reading the table without a query engine: status, counts, and scans in bounded memory.
//!
//! A scan takes one snapshot of the table, leaves out the files that cannot hold what is asked for (by date, and by the
//! statistics on `_partition` and `_offset`), and reads the rest one after the other, one batch in memory at a time.
//! The list of files is in memory for as long as the scan lives: about 300 bytes a file.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Date32Array, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use chrono::NaiveDate;
use deltalake::kernel::{LogicalFileView, Snapshot};
use futures::TryStreamExt;
use millrace_rows::schema::{EVENT_DATE, OFFSET, PARTITION};
use millrace_rows::{Job, StoreError, StoreState};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicateFn, ParquetRecordBatchReader, RowFilter};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use serde::Deserialize;
use tokio::runtime::Handle;

use crate::encode::StagedFile;
use crate::error::{broken, from_library};
use crate::faults::UnreadableFile;
use crate::input;
use crate::table::Table;

/// What a scan reads.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    /// The columns, in this order; `event_date` is one of them. `None`: all of the table.
    pub columns: Option<Vec<String>>,
    /// Only these dates.
    pub dates: Option<RangeInclusive<NaiveDate>>,
    /// Only rows of this log partition with these offsets.
    pub offsets: Option<(u32, Range<u64>)>,
    /// Most rows of a batch.
    pub batch_rows: usize,
}

impl Default for ScanRequest {
    fn default() -> Self {
        Self { columns: None, dates: None, offsets: None, batch_rows: 8192 }
    }
}

impl ScanRequest {
    /// These columns of every row.
    pub fn columns<I: IntoIterator<Item = S>, S: Into<String>>(columns: I) -> Self {
        Self { columns: Some(columns.into_iter().map(Into::into).collect()), ..Self::default() }
    }
}

/// A table as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStatus {
    /// Newest version.
    pub version: u64,
    /// Data files in force.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows, as far as statistics tell.
    pub rows: u64,
    /// Files whose statistics give no row count; files of this crate always have one.
    pub files_without_row_count: u64,
    /// Its place in the log and in the timeline.
    pub state: StoreState,
}

/// A data file in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Path relative to the table.
    pub path: String,
    /// Date of its rows.
    pub date: Option<NaiveDate>,
    /// Bytes.
    pub bytes: u64,
    /// Rows, if its statistics tell.
    pub rows: Option<u64>,
    /// Least and greatest log partition, if its statistics tell.
    pub partitions: Option<(i64, i64)>,
    /// Least and greatest offset, if its statistics tell.
    pub offsets: Option<(i64, i64)>,
    /// Whether its statistics tell that no row is without partition or offset.
    pub has_lineage: bool,
}

/// What the statistics of an add action tell of its lineage.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct FileStatistics {
    num_records: Option<u64>,
    min_values: Lineage,
    max_values: Lineage,
    null_count: Lineage,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Lineage {
    #[serde(rename = "_partition")]
    partition: Option<i64>,
    #[serde(rename = "_offset")]
    offset: Option<i64>,
}

impl FileStatistics {
    /// Statistics that can't be read tell nothing.
    pub(crate) fn of(stats: Option<&str>) -> Self {
        stats.and_then(|stats| serde_json::from_str(stats).ok()).unwrap_or_default()
    }

    pub(crate) fn partitions(&self) -> Option<(i64, i64)> {
        self.min_values.partition.zip(self.max_values.partition)
    }

    pub(crate) fn offsets(&self) -> Option<(i64, i64)> {
        self.min_values.offset.zip(self.max_values.offset)
    }

    /// Whether every row has a partition and an offset, which the bounds do not tell.
    fn has_lineage(&self) -> bool {
        self.null_count.partition == Some(0) && self.null_count.offset == Some(0)
    }
}

impl DataFile {
    fn of(file: &LogicalFileView) -> Self {
        let stats = FileStatistics::of(file.stats().as_deref());
        let values = file.partition_values_map();
        Self {
            path: file.path().into_owned(),
            date: values.get(EVENT_DATE).and_then(|date| date.as_deref()?.parse().ok()),
            bytes: file.size().unsigned_abs(),
            rows: stats.num_records,
            partitions: stats.partitions(),
            offsets: stats.offsets(),
            has_lineage: stats.has_lineage(),
        }
    }

    /// A file that is complete and in no commit.
    pub(crate) fn staged(file: &StagedFile) -> Self {
        let stats = FileStatistics::of(Some(&file.stats));
        Self {
            path: file.path.clone(),
            date: file.date.parse().ok(),
            bytes: file.size,
            rows: Some(file.rows),
            partitions: stats.partitions(),
            offsets: stats.offsets(),
            has_lineage: stats.has_lineage(),
        }
    }

    /// The log partition of all its rows, if its statistics tell and there is but one.
    pub(crate) fn partition(&self) -> Option<u32> {
        self.partitions.filter(|(low, high)| low == high).and_then(|(low, _)| u32::try_from(low).ok())
    }

    /// Whether a file can hold rows that a scan asks for.
    fn may_match(&self, request: &ScanRequest) -> bool {
        let date = request.dates.as_ref().is_none_or(|dates| self.date.is_some_and(|date| dates.contains(&date)));
        let offsets = request.offsets.as_ref().is_none_or(|(partition, offsets)| {
            let partition = i64::from(*partition);
            self.partitions.is_none_or(|(low, high)| (low..=high).contains(&partition))
                && self.offsets.is_none_or(|bounds| overlaps(bounds, offsets))
        });
        date && offsets
    }
}

fn overlaps((low, high): (i64, i64), offsets: &Range<u64>) -> bool {
    u64::try_from(high).is_ok_and(|high| high >= offsets.start) && u64::try_from(low).unwrap_or(0) < offsets.end
}

/// Reads one table.
#[derive(Clone)]
pub struct TableReader {
    pub(crate) table: Arc<Table>,
}

impl TableReader {
    /// The table at a path or URL, as [`crate::DeltaStore::open`] takes it, with [`crate::Options::storage`]. Creates nothing; whether there is a table shows at the first read.
    ///
    /// # Errors
    /// When the location makes no sense.
    pub fn open(location: &str, storage: &HashMap<String, String>) -> Result<Self, StoreError> {
        Ok(Self::of(Arc::new(Table::at(location, storage)?)))
    }

    pub(crate) fn of(table: Arc<Table>) -> Self {
        Self { table }
    }

    /// Version, size, and the table's place in the log.
    ///
    /// # Errors
    /// When the table can't be read.
    pub async fn status(&self) -> Result<TableStatus, StoreError> {
        let snapshot = self.table.snapshot().await?;
        let state = self.table.markers(&snapshot).await?.state().map_err(broken)?;
        let mut status =
            TableStatus { version: snapshot.version(), files: 0, bytes: 0, rows: 0, files_without_row_count: 0, state };
        self.each_file(&snapshot, |file| {
            status.files += 1;
            status.bytes += file.bytes;
            match file.rows {
                Some(rows) => status.rows += rows,
                None => status.files_without_row_count += 1,
            }
        })
        .await?;
        Ok(status)
    }

    /// The table's place in the log and in the timeline, and the work that revisions left in it.
    ///
    /// # Errors
    /// When the table can't be read.
    pub async fn position(&self) -> Result<(StoreState, Vec<Job>), StoreError> {
        let snapshot = self.table.snapshot().await?;
        let markers = self.table.markers(&snapshot).await?;
        let jobs = markers.jobs().into_iter().map(|(revision, below)| Job { revision, below }).collect();
        Ok((markers.state().map_err(broken)?, jobs))
    }

    /// Rows of each date, from statistics alone.
    ///
    /// # Errors
    /// When the table can't be read.
    pub async fn rows_by_date(&self) -> Result<BTreeMap<NaiveDate, u64>, StoreError> {
        let mut rows = BTreeMap::new();
        self.each_file(&self.table.snapshot().await?, |file| {
            if let Some(date) = file.date {
                *rows.entry(date).or_insert(0) += file.rows.unwrap_or(0);
            }
        })
        .await?;
        Ok(rows)
    }

    /// The files that can hold what `request` asks for, by date, log partition and offset.
    ///
    /// # Errors
    /// When the table can't be read.
    pub async fn files(&self, request: &ScanRequest) -> Result<Vec<DataFile>, StoreError> {
        self.files_of(&self.table.snapshot().await?, request).await
    }

    async fn files_of(&self, snapshot: &Snapshot, request: &ScanRequest) -> Result<Vec<DataFile>, StoreError> {
        let mut files = Vec::new();
        self.each_file(snapshot, |file| {
            if file.may_match(request) {
                files.push(file);
            }
        })
        .await?;
        files.sort_by(|a, b| {
            (a.date, a.partitions, a.offsets, &a.path).cmp(&(b.date, b.partitions, b.offsets, &b.path))
        });
        Ok(files)
    }

    pub(crate) async fn each_file(
        &self,
        snapshot: &Snapshot,
        mut each: impl FnMut(DataFile),
    ) -> Result<(), StoreError> {
        let wrong = |error| from_library("listing the table's files", &error);
        let mut files = snapshot.file_views(self.table.log_store.as_ref(), None);
        while let Some(file) = files.try_next().await.map_err(wrong)? {
            each(DataFile::of(&file));
        }
        Ok(())
    }

    /// Starts a scan. The iterator reads files: use it on a blocking thread.
    ///
    /// # Errors
    /// When the table can't be read or has no such column.
    pub async fn scan(&self, request: ScanRequest) -> Result<Scan, StoreError> {
        let snapshot = self.table.snapshot().await?;
        let table = snapshot.arrow_schema();
        let schema = match &request.columns {
            None => table,
            Some(names) => {
                let field = |name: &String| {
                    let field =
                        table.field_with_name(name).map_err(|_| broken(format!("the table has no column {name:?}")));
                    field.cloned()
                };
                Arc::new(Schema::new(names.iter().map(field).collect::<Result<Vec<Field>, _>>()?))
            }
        };
        let files = self.files_of(&snapshot, &request).await?;
        Ok(Scan {
            table: self.table.clone(),
            runtime: Handle::current(),
            version: snapshot.version(),
            request,
            schema,
            files: files.into(),
            current: None,
            unreadable: None,
        })
    }
}

/// Batches of a scan, file after file. Blocks while it reads.
pub struct Scan {
    pub(crate) table: Arc<Table>,
    pub(crate) runtime: Handle,
    version: u64,
    request: ScanRequest,
    schema: SchemaRef,
    files: VecDeque<DataFile>,
    current: Option<(DataFile, ParquetRecordBatchReader)>,
    /// Files that were passed over, where that is asked for.
    pub(crate) unreadable: Option<Vec<UnreadableFile>>,
}

impl Scan {
    /// Version of the table that is read.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Schema of the batches.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Files that are not read to their end yet.
    pub fn files_left(&self) -> usize {
        self.files.len() + usize::from(self.current.is_some())
    }

    fn open(&self, file: &DataFile) -> Result<ParquetRecordBatchReader, StoreError> {
        let wrong = |error: &dyn std::fmt::Display| broken(format!("{}: {error}", file.path));
        let mut builder = input::open(&self.table, &self.runtime, &file.path)?;
        let schema = builder.parquet_schema();
        let projection =
            ProjectionMask::columns(schema, self.schema.fields().iter().map(|field| field.name().as_str()));
        if let Some((partition, offsets)) = &self.request.offsets {
            let lineage = ProjectionMask::columns(schema, [PARTITION, OFFSET]);
            let groups = builder.metadata().row_groups().iter().enumerate();
            let groups = groups.filter(|(_, group)| group_may_match(group, offsets)).map(|(at, _)| at).collect();
            let (partition, offsets) = (i64::from(*partition), offsets.clone());
            let matches = ArrowPredicateFn::new(lineage, move |rows| {
                let column = |name| {
                    let column = rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
                    column.ok_or_else(|| arrow::error::ArrowError::SchemaError(format!("no column {name}")))
                };
                let rows = column(PARTITION)?.iter().zip(column(OFFSET)?.iter());
                let inside = |offset: Option<i64>| {
                    offset.and_then(|offset| u64::try_from(offset).ok()).is_some_and(|offset| offsets.contains(&offset))
                };
                let kept: Vec<bool> = rows.map(|(p, offset)| p == Some(partition) && inside(offset)).collect();
                Ok(BooleanArray::from(kept))
            });
            builder = builder.with_row_groups(groups).with_row_filter(RowFilter::new(vec![Box::new(matches)]));
        }
        builder
            .with_projection(projection)
            .with_batch_size(self.request.batch_rows.max(1))
            .build()
            .map_err(|error| wrong(&error))
    }

    fn step(&mut self) -> Result<Option<RecordBatch>, StoreError> {
        loop {
            let Some((file, mut reader)) = self.current.take() else {
                let Some(file) = self.files.pop_front() else { return Ok(None) };
                match self.open(&file) {
                    Ok(reader) => self.current = Some((file, reader)),
                    Err(error) => self.pass_over(&file, error)?,
                }
                continue;
            };
            let rows = match reader.next() {
                None => continue,
                Some(Ok(rows)) => fit(&self.schema, &file, &rows),
                Some(Err(error)) => Err(broken(format!("{}: {error}", file.path))),
            };
            match rows {
                Ok(rows) => {
                    self.current = Some((file, reader));
                    if rows.num_rows() > 0 {
                        return Ok(Some(rows));
                    }
                }
                Err(error) => self.pass_over(&file, error)?,
            }
        }
    }
}

impl Iterator for Scan {
    type Item = Result<RecordBatch, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if matches!(step, Some(Err(_))) {
            // After an error there is nothing more: a part of a file would look like all of it.
            self.files.clear();
            self.current = None;
        }
        step
    }
}

/// A batch of one file with the columns of `schema`: those that the file lacks are null.
pub(crate) fn fit(schema: &SchemaRef, file: &DataFile, rows: &RecordBatch) -> Result<RecordBatch, StoreError> {
    let fit = |field: &Arc<Field>| {
        if field.name() == EVENT_DATE {
            let days = file.date.map(|date| (date - NaiveDate::default()).num_days() as i32);
            return Ok(Arc::new(Date32Array::from(vec![days; rows.num_rows()])) as _);
        }
        match rows.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
        }
    };
    let columns = schema.fields().iter().map(fit).collect::<Result<Vec<_>, _>>();
    columns
        .and_then(|columns| {
            let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
            RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        })
        .map_err(|error| broken(format!("{}: {error}", file.path)))
}

/// Least and greatest offset of a row group, if its statistics tell.
pub(crate) fn group_offsets(group: &RowGroupMetaData) -> Option<(i64, i64)> {
    let column = group.columns().iter().find(|column| column.column_path().string() == OFFSET)?;
    match column.statistics()? {
        Statistics::Int64(stats) => stats.min_opt().copied().zip(stats.max_opt().copied()),
        _ => None,
    }
}

fn group_may_match(group: &RowGroupMetaData, offsets: &Range<u64>) -> bool {
    group_offsets(group).is_none_or(|bounds| overlaps(bounds, offsets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(date: &str, offsets: Option<(i64, i64)>) -> DataFile {
        DataFile {
            path: String::new(),
            date: date.parse().ok(),
            bytes: 0,
            rows: None,
            partitions: offsets.map(|_| (2, 2)),
            offsets,
            has_lineage: true,
        }
    }

    #[test]
    fn a_file_is_left_out_only_if_it_can_not_match() {
        let date = |text: &str| text.parse::<NaiveDate>().unwrap();
        let request = ScanRequest {
            dates: Some(date("2026-11-02")..=date("2026-11-03")),
            offsets: Some((2, 10..20)),
            ..ScanRequest::default()
        };
        for (name, offsets, expected) in [
            ("2026-11-03", Some((19, 30)), true),
            ("2026-11-03", Some((20, 30)), false),
            ("2026-11-03", Some((0, 10)), true),
            ("2026-11-03", Some((0, 9)), false),
            ("2026-11-03", None, true),
            ("2026-11-04", Some((10, 20)), false),
        ] {
            assert_eq!(file(name, offsets).may_match(&request), expected, "{name} {offsets:?}");
        }
        let other = ScanRequest { offsets: Some((3, 10..20)), ..ScanRequest::default() };
        assert!(!file("2026-11-03", Some((10, 20))).may_match(&other), "another log partition");
        assert!(file("2026-11-03", None).may_match(&other), "unknown");
    }
}
