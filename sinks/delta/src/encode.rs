//! One data file: rows to parquet, on a blocking thread.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::new_null_array;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use deltalake::logstore::object_store::buffered::BufWriter;
use deltalake::logstore::object_store::{ObjectStore, path::Path};
use millrace_rows::schema::EVENT_DATE;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;

use crate::error::without_answers;
use crate::local::create_directory;
use crate::names::{FILE_PREFIX, FILE_SUFFIX};
use crate::options::Compression;
use crate::split::date_of;
use crate::stats::{FileStats, STATS_COLUMNS};
use crate::table::Seen;

/// Most rows of a row group: the unit that a correction copies or rewrites.
pub(crate) const ROW_GROUP_ROWS_MAX: usize = 64 * 1024;

/// Columns whose values hardly ever repeat: a dictionary of them is built only to be thrown away.
const NO_DICTIONARY: [&str; 5] = ["event_id", "properties", "context", "envelope", "_offset"];

/// What went wrong with a data file.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {detail}")]
pub(crate) struct EncodeError {
    path: String,
    detail: String,
}

impl EncodeError {
    pub(crate) fn new(at: &str, detail: impl std::fmt::Display) -> Self {
        Self { path: at.to_owned(), detail: detail.to_string() }
    }
}

/// A complete data file, synced and not committed.
#[derive(Clone, Debug)]
pub(crate) struct StagedFile {
    /// Relative to the table.
    pub(crate) path: String,
    pub(crate) date: String,
    pub(crate) size: u64,
    pub(crate) rows: u64,
    pub(crate) stats: String,
    pub(crate) modified_ms: i64,
}

/// Where data files go, and how.
#[derive(Debug)]
pub(crate) struct Target {
    /// Directory of a local table.
    pub(crate) local: Option<PathBuf>,
    /// The table's object store, rooted at the table.
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) compression: Compression,
    pub(crate) file_bytes_max: u64,
    pub(crate) row_group_rows_max: usize,
    /// Files that are in no commit.
    pub(crate) created: Mutex<Uncommitted>,
}

/// Every path created since the last commit, for deletion if there is none.
#[derive(Debug, Default)]
pub(crate) struct Uncommitted {
    paths: Vec<String>,
    /// When the first of them was created.
    since: Option<Seen>,
}

impl Target {
    fn created(&self) -> MutexGuard<'_, Uncommitted> {
        self.created.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_created(&self) -> Vec<String> {
        std::mem::take(&mut *self.created()).paths
    }

    /// When the first file was created that is in no commit.
    pub(crate) fn created_since(&self) -> Option<Seen> {
        self.created().since
    }

    /// Forgets one path that was created: whoever takes it out deletes it.
    pub(crate) fn take_out(&self, path: &str) {
        self.created().paths.retain(|created| created != path);
    }
}

fn properties(compression: Compression, row_group_rows_max: usize) -> WriterProperties {
    let codec = match compression {
        Compression::Zstd => Codec::ZSTD(ZstdLevel::default()),
        Compression::Snappy => Codec::SNAPPY,
    };
    let mut properties = WriterProperties::builder()
        .set_compression(codec)
        .set_max_row_group_row_count(Some(row_group_rows_max.max(1)))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_created_by(concat!("millrace ", env!("CARGO_PKG_VERSION")).to_owned());
    for column in STATS_COLUMNS {
        properties = properties.set_column_statistics_enabled(ColumnPath::from(column), EnabledStatistics::Page);
    }
    for column in NO_DICTIONARY {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(column), false);
    }
    properties.build()
}

/// Encodes batches with the same settings as a data file. What the benchmark compares with.
#[doc(hidden)]
pub fn encode_only<W: Write + Send>(
    out: W,
    schema: SchemaRef,
    compression: Compression,
) -> Result<ArrowWriter<W>, String> {
    encode_with(out, schema, compression, ROW_GROUP_ROWS_MAX).map_err(|error| error.to_string())
}

pub(crate) fn encode_with<W: Write + Send>(
    out: W,
    schema: SchemaRef,
    compression: Compression,
    row_group_rows_max: usize,
) -> Result<ArrowWriter<W>, ParquetError> {
    let properties = properties(compression, row_group_rows_max);
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(out, schema, options)
}

/// A file on an object store that is no larger is put as a whole, a larger one in parts of this size.
const PART_BYTES: usize = 8 << 20;
/// Most parts of one file that are on their way at once.
const PARTS_MAX: usize = 2;

/// Where the bytes of one file go, and how many went.
pub(crate) struct Sink {
    to: Destination,
    written: u64,
}

enum Destination {
    Local(File),
    Remote(Box<Upload>),
}

/// An object on its way. Dropped before it is complete, it is given up: the store is told to forget the parts it has.
struct Upload {
    /// `None` once it is complete or given up.
    writer: Option<BufWriter>,
    runtime: Handle,
}

impl Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let writer = self.writer.as_mut().ok_or_else(|| io::Error::other("the upload is over"))?;
        self.runtime.block_on(writer.write(bytes))
    }

    fn complete(&mut self) -> io::Result<()> {
        // After a failure the parts may stay; the bucket's lifecycle rule removes them.
        let mut writer = self.writer.take().ok_or_else(|| io::Error::other("the upload is over"))?;
        self.runtime.block_on(writer.shutdown())
    }

    fn give_up(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        self.runtime.spawn(async move {
            if let Err(error) = writer.abort().await {
                let error = without_answers(error.to_string());
                tracing::warn!(error, "the parts of an upload stay; the bucket's lifecycle rule removes them");
            }
        });
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.to {
            Destination::Local(file) => file.write(bytes),
            Destination::Remote(upload) => upload.write(bytes),
        }?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Neither holds back bytes that a flush could bring further; `close` makes them durable.
        Ok(())
    }
}

impl Sink {
    /// Makes what was written durable.
    fn close(&mut self) -> io::Result<u64> {
        match &mut self.to {
            Destination::Local(file) => file.sync_all(),
            Destination::Remote(upload) => upload.complete(),
        }?;
        Ok(self.written)
    }

    /// Nothing more is written, whoever tries. Does not block.
    fn give_up(&mut self) {
        if let Destination::Remote(upload) = &mut self.to {
            upload.give_up();
        }
    }

    /// Most bytes that wait here in memory.
    fn memory(&self) -> usize {
        let most = (1 + PARTS_MAX) * PART_BYTES;
        match self.to {
            Destination::Local(_) => 0,
            Destination::Remote(_) => usize::try_from(self.written).map_or(most, |written| written.min(most)),
        }
    }
}

/// A data file that was created.
pub(crate) struct Created {
    pub(crate) path: String,
    date: String,
}

/// Creates a new data file for rows of one log partition and day.
pub(crate) fn create(target: &Target, partition: u32, day: i32) -> Result<(Created, Sink), EncodeError> {
    let date = date_of(day).ok_or_else(|| EncodeError::new(EVENT_DATE, format!("day {day} has no date")))?.to_string();
    let name = uuid::Uuid::now_v7();
    let path = format!("{EVENT_DATE}={date}/{FILE_PREFIX}{partition}-{name}{FILE_SUFFIX}");
    // Known before it exists: a file that is created and not known would stay.
    {
        let mut created = target.created();
        created.paths.push(path.clone());
        created.since.get_or_insert_with(Seen::now);
    }
    let to = match &target.local {
        Some(root) => {
            let file = root.join(&path);
            let directory = file.parent().unwrap_or(root);
            create_directory(directory)
                .and_then(|()| File::create_new(&file))
                .map(Destination::Local)
                .map_err(|error| EncodeError::new(&path, error))?
        }
        None => {
            let writer = BufWriter::with_capacity(target.store.clone(), Path::from(path.as_str()), PART_BYTES);
            let writer = Some(writer.with_max_concurrency(PARTS_MAX));
            Destination::Remote(Box::new(Upload { writer, runtime: Handle::current() }))
        }
    };
    Ok((Created { path, date }, Sink { to, written: 0 }))
}

impl Created {
    pub(crate) fn error(&self, detail: impl std::fmt::Display) -> EncodeError {
        EncodeError::new(&self.path, detail)
    }

    /// Makes what was written durable.
    pub(crate) fn complete(&self, sink: &mut Sink, stats: &FileStats) -> Result<StagedFile, EncodeError> {
        let size = sink.close().map_err(|error| self.error(error))?;
        fail::fail_point!("delta::stage::written", |_| std::process::abort());
        Ok(StagedFile {
            path: self.path.clone(),
            date: self.date.clone(),
            size,
            rows: stats.rows(),
            stats: stats.to_json(),
            modified_ms: chrono::Utc::now().timestamp_millis(),
        })
    }
}

/// An open data file.
pub(crate) struct FileWriter {
    created: Created,
    schema: SchemaRef,
    writer: ArrowWriter<Sink>,
    stats: FileStats,
}

impl FileWriter {
    fn create(target: &Target, partition: u32, day: i32, schema: &SchemaRef) -> Result<Self, EncodeError> {
        let (created, sink) = create(target, partition, day)?;
        let writer = encode_with(sink, schema.clone(), target.compression, target.row_group_rows_max);
        let writer = writer.map_err(|error| created.error(error))?;
        Ok(Self { created, schema: schema.clone(), writer, stats: FileStats::default() })
    }

    /// Whether every column of `schema` is one of this file.
    fn holds(&self, schema: &SchemaRef) -> bool {
        self.schema == *schema || schema.fields().iter().all(|field| self.schema.field_with_name(field.name()).is_ok())
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        let created = &self.created;
        fail::fail_point!("delta::stage::full", |_| Err(created.error("No space left on device (injected)")));
        let padded = pad(batch, &self.schema).map_err(|error| created.error(error))?;
        self.writer.write(&padded).map_err(|error| created.error(error))?;
        self.stats.update(&padded);
        Ok(())
    }

    fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Bytes that the open file holds in memory.
    pub(crate) fn memory(&self) -> usize {
        self.writer.memory_size() + self.writer.inner().memory()
    }

    fn finish(mut self) -> Result<StagedFile, EncodeError> {
        self.writer.finish().map_err(|error| self.created.error(error))?;
        self.created.complete(self.writer.inner_mut(), &self.stats)
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        // A parquet writer that is dropped writes what it holds back, and this may be a thread that must not block.
        self.writer.inner_mut().give_up();
    }
}

/// The batch with the columns of `schema`; those it lacks are null.
fn pad(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, arrow::error::ArrowError> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let columns = schema.fields().iter().map(|field| {
        batch
            .column_by_name(field.name())
            .cloned()
            .unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()))
    });
    RecordBatch::try_new(schema.clone(), columns.collect())
}

/// What one run of [`encode`] leaves.
pub(crate) struct Encoded {
    pub(crate) writer: Option<Box<FileWriter>>,
    pub(crate) finished: Vec<StagedFile>,
}

/// Writes batches of one log partition and one day into `writer`, or into a new file; and completes the file when
/// `finish` says so, when it is large enough, or when a batch has columns that it lacks.
pub(crate) fn encode(
    target: &Target,
    (partition, day): (u32, i32),
    writer: Option<Box<FileWriter>>,
    batches: Vec<RecordBatch>,
    finish: bool,
) -> Result<Encoded, EncodeError> {
    let mut encoded = Encoded { writer, finished: Vec::new() };
    for batch in batches {
        if let Some(open) = encoded.writer.take_if(|open| !open.holds(batch.schema_ref())) {
            encoded.finished.push(open.finish()?);
        }
        let mut open = match encoded.writer.take() {
            Some(open) => open,
            None => Box::new(FileWriter::create(target, partition, day, batch.schema_ref())?),
        };
        open.write(&batch)?;
        if open.bytes() >= target.file_bytes_max {
            encoded.finished.push(open.finish()?);
        } else {
            encoded.writer = Some(open);
        }
    }
    if finish && let Some(open) = encoded.writer.take() {
        encoded.finished.push(open.finish()?);
    }
    Ok(encoded)
}
