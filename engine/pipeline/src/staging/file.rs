//! One batch of a staged correction in a file.
//!
//! # Format
//! A parquet file with the rows, columns as they are in memory. Under the key [`KEY`] its footer has JSON:
//! ```text
//! {"partition": 0, "offsets": [first, past the last], "applied": revision, "remade": [[first, past the last], …],
//!  "dead": [DeadLetter, …], "dropped": 0}
//! ```
//! Files are written once and never synced: none of them outlives the process that wrote it.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use millrace_rows::{DeadLetter, Rewrite};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::{Deserialize, Serialize};

const KEY: &str = "millrace.rewrite";

#[derive(Serialize, Deserialize)]
struct About {
    partition: u32,
    offsets: Range<u64>,
    applied: u64,
    remade: Vec<Range<u64>>,
    dead: Vec<DeadLetter>,
    dropped: u64,
}

fn failed(error: impl std::fmt::Display) -> ParquetError {
    ParquetError::General(error.to_string())
}

/// Writes a batch, and gives the bytes of its file.
pub(crate) fn write(path: &Path, rewrite: &Rewrite) -> Result<u64> {
    let about = About {
        partition: rewrite.partition,
        offsets: rewrite.offsets.clone(),
        applied: rewrite.applied,
        remade: runs(&rewrite.remade),
        dead: rewrite.dead.clone(),
        dropped: rewrite.dropped,
    };
    let about = serde_json::to_string(&about).map_err(failed)?;
    // It is read once or twice, soon: what dictionaries and statistics spare is less than what they cost.
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_key_value_metadata(Some(vec![KeyValue::new(KEY.to_owned(), about)]))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, rewrite.rows.schema(), Some(properties))?;
    writer.write(&rewrite.rows)?;
    let file = writer.into_inner()?;
    Ok(file.metadata()?.len())
}

/// Reads a batch back.
pub(crate) fn read(path: &Path) -> Result<Rewrite> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    let about = builder.metadata().file_metadata().key_value_metadata();
    let about = about.into_iter().flatten().find(|pair| pair.key == KEY).and_then(|pair| pair.value.as_deref());
    let about: About = serde_json::from_str(about.ok_or_else(|| failed("no batch is described"))?).map_err(failed)?;
    let rows = usize::try_from(builder.metadata().file_metadata().num_rows()).map_err(failed)?;
    // What the footer says is no part of the rows' schema.
    let schema = Arc::new(Schema::new(builder.schema().fields().clone()));
    let batches = builder.with_batch_size(rows.max(1)).build()?;
    let batches = batches.map(|batch| RecordBatch::try_new(schema.clone(), batch?.columns().to_vec()));
    let batches = batches.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Rewrite {
        partition: about.partition,
        offsets: about.offsets,
        applied: about.applied,
        remade: about.remade.into_iter().flatten().collect(),
        rows: concat_batches(&schema, &batches)?,
        dead: about.dead,
        dropped: about.dropped,
    })
}

/// Ascending offsets as ranges.
fn runs(offsets: &[u64]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for &offset in offsets {
        match runs.last_mut() {
            Some(run) if run.end == offset => run.end += 1,
            _ => runs.push(offset..offset + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::new_null_array;
    use millrace_rows::schema::row_schema;

    fn rewrite(rows: usize) -> Rewrite {
        let schema = row_schema(&[]);
        let columns = schema.fields().iter().map(|field| match field.is_nullable() {
            true => new_null_array(field.data_type(), rows),
            false => arrow::array::make_array(arrow::array::ArrayData::new_null(field.data_type(), rows)),
        });
        // Columns that can't be null have values of some kind: those behind a null are the type's zero.
        let columns = columns.map(|column| {
            let data = column.to_data().into_builder().nulls(None).build().unwrap();
            arrow::array::make_array(data)
        });
        let dead = DeadLetter { offset: 12, revision: 3, step: "a@1.0.0".into(), code: "bad".into() };
        Rewrite {
            partition: 2,
            offsets: 5..20,
            applied: 4,
            remade: vec![5, 6, 7, 12, 19],
            rows: RecordBatch::try_new(schema.clone(), columns.collect()).unwrap(),
            dead: vec![dead],
            dropped: 1,
        }
    }

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        for rows in [0, 3] {
            let path = dir.path().join(format!("{rows}.parquet"));
            let written = rewrite(rows);
            let bytes = write(&path, &written).unwrap();
            assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
            let read = read(&path).unwrap();
            assert_eq!(read.rows, written.rows);
            assert_eq!((read.partition, read.offsets, read.applied), (2, 5..20, 4));
            assert_eq!((read.remade, read.dead, read.dropped), (written.remade, written.dead, 1));
        }
    }

    #[test]
    fn what_is_no_batch_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut.parquet");
        write(&path, &rewrite(3)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        read(&path).unwrap_err();
        read(&dir.path().join("none.parquet")).unwrap_err();
    }
}
