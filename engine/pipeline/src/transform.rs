//! From log records to finished rows: the one pure function that all stores, replays and checks share.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, Int64Array, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use millrace_decode::Decoder;
use millrace_log::Record;
use millrace_plugin_host::{CHECK_STEP, Chain, ChainStop, Dropped, Failure, LogLine, StepStats};
use millrace_rows::canonical::RowEncoder;
use millrace_rows::schema::{AddedColumn, OFFSET, added_columns, row_schema};
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
    /// Which steps dropped them, and why; once a segment.
    pub drops: Vec<Dropped>,
    /// Free text of failures: protected, never stored with the rows.
    pub failures: Vec<Failure>,
    /// What plugins logged: protected likewise.
    pub logs: Vec<LogLine>,
    /// What each step cost; once a segment.
    pub steps: Vec<StepStats>,
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
    let (mut dropped, mut plugin_failures, mut failures) = (0, 0, Vec::new());
    let (mut drops, mut logs, mut steps) = (Vec::new(), Vec::new(), Vec::new());
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
        plugin_failures += output.dead.iter().filter(|dead| &*dead.step != CHECK_STEP).count() as u64;
        dead.extend(output.dead.into_iter().map(|dead| DeadLetter {
            offset: dead.offset,
            revision,
            step: dead.step.to_string(),
            code: dead.code.to_string(),
        }));
        failures.extend(output.failures);
        drops.extend(output.dropped);
        logs.extend(output.logs);
        steps.extend(output.steps);
        pieces.push(with_revision(&output.rows, revision)?);
    }
    dead.sort_by_key(|dead| dead.offset);
    Ok(Transformed { rows: union(&pieces)?, dead, dropped, plugin_failures, drops, failures, logs, steps })
}

/// Transforms records again, cut at `cut`, and answers where the result differs from that of the whole: a plugin that
/// lets rows depend on the rows beside them must not go on.
///
/// # Errors
/// As [`transform`].
pub fn split_difference(
    decoder: &Decoder,
    segments: &[Segment],
    log: LogId,
    partition: u32,
    records: &[Record],
    cut: usize,
    whole: &Transformed,
) -> Result<Option<String>, TransformError> {
    let (before, behind) = records.split_at(cut.min(records.len()));
    let mut dead = whole.dead.iter();
    let (mut row, mut dropped) = (0, 0);
    let ours = RowEncoder::new(&whole.rows).map_err(|error| ArrowError::SchemaError(error.to_string()))?;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for part in [before, behind] {
        if part.is_empty() {
            continue;
        }
        let part = transform(decoder, segments, log, partition, part)?;
        dropped += part.dropped;
        for theirs in &part.dead {
            if dead.next() != Some(theirs) {
                return Ok(Some(format!("another outcome for the record at offset {}", theirs.offset)));
            }
        }
        let theirs = RowEncoder::new(&part.rows).map_err(|error| ArrowError::SchemaError(error.to_string()))?;
        for other in 0..part.rows.num_rows() {
            left.clear();
            right.clear();
            theirs.encode(other, &mut right);
            if row < whole.rows.num_rows() {
                ours.encode(row, &mut left);
            }
            if left != right {
                let offset = part.rows.column_by_name(OFFSET).and_then(|c| c.as_primitive_opt::<Int64Type>());
                let offset = offset.map_or(-1, |offsets| offsets.value(other));
                return Ok(Some(format!("other rows for the record at offset {offset}")));
            }
            row += 1;
        }
    }
    if row != whole.rows.num_rows() || dead.next().is_some() || dropped != whole.dropped {
        return Ok(Some("another number of rows, dead letters or dropped records".to_owned()));
    }
    Ok(None)
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
