//! Samples of the stored stream for authors' tests: decoded events with personal data masked.
//!
//! They go through the stock scrubber with a key of this process, so that one identifier has one mask within a sample and
//! leads nowhere. An event that the scrubber fails is left out.

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use millrace_log::{LogError, ReadLimit};
use millrace_plugin_host::{Chain, Limits, StepSpec};
use millrace_rows::ColumnType;
use millrace_rows::schema::BASE;
use serde_json::{Map, Value, json};

use crate::engine::Engine;
use crate::stock;

/// Most events of one sample.
pub const SAMPLE_EVENTS_MAX: usize = 1000;

/// Why there is no sample.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The log: a partition or an offset that is not there.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The scrubber could not run.
    #[error("the scrubber could not run: {0}")]
    Scrub(String),
}

/// Rows of a sample, and where to go on.
#[derive(Debug)]
pub struct Sample {
    /// A map of column names to values for each event; times in µs, JSON columns as text, nulls left out.
    pub rows: Vec<Map<String, Value>>,
    /// The offset behind the last event that was looked at; `None` at the log's end.
    pub next: Option<u64>,
}

impl Engine {
    /// Where a sample of `most` events at the log's end begins.
    ///
    /// # Errors
    /// When the log has no such partition.
    pub async fn sample_start(&self, partition: u32, most: u64) -> Result<u64, SampleError> {
        let bounds = self.log().bounds(partition).await?;
        Ok(bounds.end.saturating_sub(most).max(bounds.start))
    }

    /// Decodes events of a partition and masks their personal data.
    ///
    /// # Errors
    /// When the log does not hold the offset, or the scrubber can't run.
    pub async fn sample(&self, partition: u32, from: u64, most: usize) -> Result<Sample, SampleError> {
        let bounds = self.log().bounds(partition).await?;
        if from >= bounds.end {
            return Ok(Sample { rows: Vec::new(), next: None });
        }
        let limit = ReadLimit { records: most.min(SAMPLE_EVENTS_MAX), bytes: 4 * 1024 * 1024 };
        let records = self.log().read(partition, from, limit).await?;
        let next = records.last().map(|last| last.offset + 1).filter(|next| *next < bounds.end);
        let (host, decoder, log) = (self.host.clone(), self.processor().decoder().clone(), self.log().id());
        let config = json!({"key": self.sample_key}).to_string();
        let rows = tokio::task::spawn_blocking(move || {
            let scrub = host.load(stock::PII_SCRUB).map_err(|error| error.to_string())?;
            let step = StepSpec::new(scrub, config, Limits::default());
            let chain = Chain::new(&host, vec![step]).map_err(|error| error.to_string())?;
            let output = chain.run(decoder.decode(&records, partition, log).batch).map_err(|stop| stop.to_string())?;
            Ok(rows_of(&output.rows))
        });
        let rows = rows.await.unwrap_or_else(|panic| Err(panic.to_string())).map_err(SampleError::Scrub)?;
        Ok(Sample { rows, next })
    }
}

fn rows_of(batch: &RecordBatch) -> Vec<Map<String, Value>> {
    let mut rows: Vec<Map<String, Value>> = vec![Map::new(); batch.num_rows()];
    for definition in BASE {
        let Some(column) = batch.column_by_name(definition.name) else { continue };
        for (row, values) in rows.iter_mut().enumerate().filter(|(row, _)| !column.is_null(*row)) {
            let value = match definition.ty {
                ColumnType::String => json!(column.as_string::<i32>().value(row)),
                ColumnType::Timestamp => json!(column.as_primitive::<TimestampMicrosecondType>().value(row)),
                ColumnType::Int64 => json!(column.as_primitive::<Int64Type>().value(row)),
                ColumnType::Float64 => json!(column.as_primitive::<Float64Type>().value(row)),
                ColumnType::Bool => json!(column.as_boolean().value(row)),
            };
            values.insert(definition.name.to_owned(), value);
        }
    }
    rows
}
