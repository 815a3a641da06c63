//! From log records to finished rows: the one pure function that all stores, replays and checks share.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, new_null_array};
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use millrace_decode::Decoder;
use millrace_log::Record;
use millrace_plugin_host::{CHECK_STEP, Chain, ChainStop, Failure};
use millrace_rows::schema::{AddedColumn, added_columns, row_schema};
use millrace_rows::{DeadLetter, LogId};

/// A piece of the timeline: a range of offsets and what is in force for it.
#[derive(Clone)]
pub struct Segment {
    /// The offsets.
    pub offsets: Range<u64>,
    /// The revision in force.
    pub revision: u64,
    /// Its chain, ready to run.
    pub chain: Arc<Chain>,
}

/// What records became.
#[derive(Debug)]
pub struct Transformed {
    /// Finished rows, in the order (`_offset`, `_sub`).
    pub rows: RecordBatch,
    /// Records that failed, in offset order.
    pub dead: Vec<DeadLetter>,
    /// Records that the chain dropped on purpose.
    pub dropped: u64,
    /// Records whose failure was a plugin's, not the decoder's.
    pub plugin_failures: u64,
    /// Free text of failures: protected, never stored with the rows.
    pub failures: Vec<Failure>,
    /// Fuel used by all steps.
    pub fuel: u64,
}

/// Why records could not be transformed. Nothing was decided about any of them.
#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    /// The chain has to be paused.
    #[error(transparent)]
    Stop(#[from] ChainStop),
    /// Batches could not be put together: a defect.
    #[error("putting rows together: {0}")]
    Arrow(#[from] ArrowError),
}

/// Decodes `records` of one partition and runs each through the chain in force for it.
///
/// The result depends on each record by itself, never on the records beside it. `segments` must cover the records'
/// offsets in ascending order; records outside of all segments are not looked at.
///
/// # Errors
/// [`TransformError::Stop`] when the chain must pause: nothing is decided then.
pub fn transform(
    decoder: &Decoder,
    segments: &[Segment],
    log: LogId,
    partition: u32,
    records: &[Record],
) -> Result<Transformed, TransformError> {
    let mut pieces = Vec::with_capacity(segments.len());
    let mut dead = Vec::new();
    let (mut dropped, mut plugin_failures, mut fuel, mut failures) = (0, 0, 0, Vec::new());
    for segment in segments {
        let start = records.partition_point(|record| record.offset < segment.offsets.start);
        let end = records.partition_point(|record| record.offset < segment.offsets.end);
        if start == end {
            continue;
        }
        let decoded = decoder.decode(&records[start..end], partition, log);
        let revision = segment.revision;
        dead.extend(decoded.dead.into_iter().map(|(offset, code)| DeadLetter {
            offset,
            revision,
            step: "decode".into(),
            code: code.into(),
        }));
        let output = segment.chain.run(decoded.batch)?;
        dropped += output.dropped_records();
        fuel += output.steps.iter().map(|step| step.fuel).sum::<u64>();
        plugin_failures += output.dead.iter().filter(|dead| &*dead.step != CHECK_STEP).count() as u64;
        dead.extend(output.dead.into_iter().map(|dead| DeadLetter {
            offset: dead.offset,
            revision,
            step: dead.step.to_string(),
            code: dead.code.to_string(),
        }));
        failures.extend(output.failures);
        pieces.push(with_revision(&output.rows, revision)?);
    }
    dead.sort_by_key(|dead| dead.offset);
    Ok(Transformed { rows: union(&pieces)?, dead, dropped, plugin_failures, failures, fuel })
}

/// Adds the `_revision` column behind the rest.
fn with_revision(rows: &RecordBatch, revision: u64) -> Result<RecordBatch, ArrowError> {
    // Revisions count activations and corrections: i64 holds them.
    let revisions: ArrayRef = Arc::new(Int64Array::from_value(revision as i64, rows.num_rows()));
    let columns = rows.columns().iter().cloned().chain([revisions]).collect();
    RecordBatch::try_new(row_schema(&added_columns(rows.schema_ref())), columns)
}

/// Puts batches together whose chains added different columns.
fn union(pieces: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
    let mut added: Vec<AddedColumn> = Vec::new();
    for column in pieces.iter().flat_map(|piece| added_columns(piece.schema_ref())) {
        if !added.contains(&column) {
            added.push(column);
        }
    }
    let schema = row_schema(&added);
    let padded = pieces
        .iter()
        .map(|piece| {
            let columns = schema
                .fields()
                .iter()
                .map(|field| match piece.column_by_name(field.name()) {
                    Some(column) => column.clone(),
                    None => new_null_array(field.data_type(), piece.num_rows()),
                })
                .collect();
            RecordBatch::try_new(schema.clone(), columns)
        })
        .collect::<Result<Vec<_>, _>>()?;
    match padded.as_slice() {
        [one] => Ok(one.clone()),
        many => concat_batches(&schema, many),
    }
}
