//! A file put together from row groups of another, copied as they are, and from rows that are encoded between them.
//!
//! A column chunk goes from file to file in small pieces. Of rows there is one row group in memory, encoded, and a few
//! batches of the merge that they come from, which runs on a thread of its own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use millrace_rows::StoreError;
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, compute_leaves};
use parquet::bloom_filter::Sbbf;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::writer::SerializedFileWriter;
use tokio::runtime::Handle;

use crate::encode::{Created, Sink, StagedFile, Target, create, encode_with};
use crate::error::broken;
use crate::input::{self, Input};
use crate::merge::{Merge, Source};
use crate::reader::DataFile;
use crate::stats::FileStats;
use crate::table::Table;

/// What comes next into the file: always at least one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// This row group of the old file.
    Copy(usize),
    /// A row group of so many of the rows.
    Encode(u64),
}

/// How a file comes to be.
#[derive(Debug)]
pub(crate) struct Splice {
    /// The file that row groups are copied from.
    pub(crate) old: DataFile,
    /// Log partition and day.
    pub(crate) key: (u32, i32),
    pub(crate) steps: Vec<Step>,
    /// Where the rows come from; together they have as many as the steps take.
    pub(crate) sources: Vec<Source>,
}

impl Splice {
    /// Row groups that are copied.
    pub(crate) fn copied(&self) -> u64 {
        self.steps.iter().filter(|step| matches!(step, Step::Copy(_))).count() as u64
    }
}

/// Rows of a merge, in portions.
struct Rows {
    batches: Receiver<Result<RecordBatch, StoreError>>,
    rest: Option<RecordBatch>,
}

impl Rows {
    /// The next rows, at most `most`. `None` at the end.
    fn next(&mut self, most: u64) -> Result<Option<RecordBatch>, StoreError> {
        let next = match self.rest.take() {
            Some(rest) => rest,
            // A thread that panicked sent less than there is, and its panic is passed on.
            None => match self.batches.recv() {
                Ok(batch) => batch?,
                Err(_) => return Ok(None),
            },
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if next.num_rows() > most {
            self.rest = Some(next.slice(most, next.num_rows() - most));
            return Ok(Some(next.slice(0, most)));
        }
        Ok(Some(next))
    }
}

/// The file that is written, open.
struct Open {
    created: Created,
    writer: SerializedFileWriter<Sink>,
    factory: ArrowRowGroupWriterFactory,
    stats: FileStats,
    groups: usize,
}

impl Open {
    fn create(target: &Target, (partition, day): (u32, i32), schema: &SchemaRef) -> Result<Self, StoreError> {
        let (created, sink) = create(target, partition, day)?;
        let writer = encode_with(sink, schema.clone(), target.compression, target.row_group_rows_max)
            .and_then(|writer| writer.into_serialized_writer());
        let (writer, factory) = writer.map_err(|error| created.error(error))?;
        Ok(Self { created, writer, factory, stats: FileStats::default(), groups: 0 })
    }

    /// Writes a row group of the next `count` rows.
    fn encode(&mut self, rows: &mut Rows, count: u64) -> Result<(), StoreError> {
        let created = &self.created;
        let wrong = |error: ParquetError| created.error(error);
        let mut columns = self.factory.create_column_writers(self.groups).map_err(wrong)?;
        let mut left = count;
        while left > 0 {
            let batch = rows.next(left)?;
            let batch = batch.ok_or_else(|| broken(format!("{}: {left} rows are missing", created.path)))?;
            fail::fail_point!("delta::stage::full", |_| Err(created
                .error("No space left on device (injected)")
                .into()));
            let mut writers = columns.iter_mut();
            for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                let leaves = compute_leaves(field, column).map_err(wrong)?;
                for (leaf, writer) in leaves.iter().zip(&mut writers) {
                    writer.write(leaf).map_err(wrong)?;
                }
            }
            self.stats.update(&batch);
            left -= batch.num_rows() as u64;
        }
        let mut group = self.writer.next_row_group().map_err(wrong)?;
        for column in columns {
            column.close().and_then(|column| column.append_to_row_group(&mut group)).map_err(wrong)?;
        }
        group.close().map_err(wrong)?;
        self.groups += 1;
        Ok(())
    }

    /// Copies a row group of another file of the same schema, with its indexes.
    fn copy(&mut self, input: &Input, old: &ParquetMetaData, at: usize) -> Result<(), StoreError> {
        let created = &self.created;
        let wrong = |error: ParquetError| created.error(error);
        let group = old.row_group(at);
        let stats = FileStats::of_group(group);
        let stats = stats.ok_or_else(|| broken(format!("{}: a row group lost its statistics", created.path)))?;
        let column_index = old.column_index().and_then(|groups| groups.get(at));
        let offset_index = old.offset_index().and_then(|groups| groups.get(at));
        let mut out = self.writer.next_row_group().map_err(wrong)?;
        for (number, column) in group.columns().iter().enumerate() {
            let chunk = ColumnCloseResult {
                bytes_written: u64::try_from(column.compressed_size()).unwrap_or(0),
                rows_written: stats.rows(),
                metadata: column.clone(),
                bloom_filter: Sbbf::read_from_column_chunk(column, input).map_err(wrong)?,
                column_index: column_index.and_then(|columns| columns.get(number)).cloned(),
                offset_index: offset_index.and_then(|columns| columns.get(number)).cloned(),
            };
            out.append_column(input, chunk).map_err(wrong)?;
        }
        out.close().map_err(wrong)?;
        self.stats.join(&stats);
        self.groups += 1;
        Ok(())
    }

    fn finish(self) -> Result<StagedFile, StoreError> {
        let mut sink = self.writer.into_inner().map_err(|error| self.created.error(error))?;
        Ok(self.created.complete(&mut sink, &self.stats)?)
    }
}

/// Writes what `splice` says, into one file or, where it grows too large, into several. Blocks.
pub(crate) fn write(
    table: &Arc<Table>,
    runtime: &Handle,
    target: &Target,
    schema: &SchemaRef,
    splice: Splice,
) -> Result<Vec<StagedFile>, StoreError> {
    let Splice { old, key, steps, sources } = splice;
    let wrong = |error: ParquetError| broken(format!("{}: {error}", old.path));
    let input = input::bytes_of(table, runtime, &old.path)?;
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
    let metadata = reader.parse_and_finish(&input).map_err(wrong)?;
    let merge = Merge::new(table.clone(), runtime.clone(), schema.clone(), sources);
    std::thread::scope(|scope| {
        let (send, batches) = sync_channel(2);
        scope.spawn(move || {
            for batch in merge {
                // Whoever waits for it has given up.
                if send.send(batch).is_err() {
                    return;
                }
            }
        });
        let mut rows = Rows { batches, rest: None };
        let (mut files, mut open): (Vec<StagedFile>, Option<Open>) = (Vec::new(), None);
        for step in steps {
            let mut file = match open.take() {
                Some(file) => file,
                None => Open::create(target, key, schema)?,
            };
            match step {
                Step::Copy(at) => file.copy(&input, &metadata, at)?,
                Step::Encode(count) => file.encode(&mut rows, count)?,
            }
            if file.writer.bytes_written() as u64 >= target.file_bytes_max {
                files.push(file.finish()?);
            } else {
                open = Some(file);
            }
        }
        if let Some(rest) = rows.next(1)? {
            return Err(broken(format!("{}: {} rows are too many", old.path, rest.num_rows())));
        }
        if let Some(file) = open {
            files.push(file.finish()?);
        }
        Ok(files)
    })
}
