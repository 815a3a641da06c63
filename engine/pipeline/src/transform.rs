//! From log records to finished rows: the one pure function that all stores, replays and checks share.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, Int64Array, new_null_array};
use arrow::compute::{SortColumn, concat_batches, filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use millrace_decode::Decoder;
use millrace_log::Record;
use millrace_plugin_host::{CHECK_STEP, Chain, ChainStop, Dropped, Failure, LogLine, StepStats};
use millrace_rows::canonical::RowEncoder;
use millrace_rows::schema::{AddedColumn, OFFSET, SUB, added_columns, row_schema};
use millrace_rows::{DeadLetter, LogId};
use millrace_timeline::Filter;

/// A piece of the timeline: a range of offsets and what is in force in it.
#[derive(Clone)]
pub struct Segment {
    /// The offsets.
    pub offsets: Range<u64>,
    /// The revisions of which the first whose filter a record matches is in force for it. A record that matches none is
    /// not looked at.
    pub candidates: Vec<Candidate>,
}

/// A revision that may be in force.
#[derive(Clone)]
pub struct Candidate {
    /// The revision.
    pub revision: u64,
    /// Which records it is about.
    pub filter: Filter,
    /// Its chain, ready to run.
    pub chain: Arc<Chain>,
}

impl Segment {
    /// A piece in which one revision is in force for every record.
    pub fn of(offsets: Range<u64>, revision: u64, chain: Arc<Chain>) -> Self {
        Self { offsets, candidates: vec![Candidate { revision, filter: Filter::default(), chain }] }
    }
}

/// What records became.
#[derive(Debug)]
pub struct Transformed {
    /// Offsets of the records that were looked at, ascending: all of them, unless no candidate matched one.
    pub offsets: Vec<u64>,
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

impl Transformed {
    /// What became of some of the records: `offsets`, ascending.
    ///
    /// # Errors
    /// When rows can't be taken apart: a defect.
    pub fn only(self, offsets: &[u64]) -> Result<Self, ArrowError> {
        if self.offsets == offsets {
            return Ok(self);
        }
        let kept = |offset: &u64| offsets.binary_search(offset).is_ok();
        let mask: BooleanArray = offsets_of(&self.rows).map(|offset| Some(kept(&offset))).collect();
        Ok(Self {
            rows: filter_record_batch(&self.rows, &mask)?,
            dead: self.dead.into_iter().filter(|dead| kept(&dead.offset)).collect(),
            offsets: self.offsets.into_iter().filter(kept).collect(),
            ..self
        })
    }
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
/// offsets in ascending order; records outside of all segments are not looked at, nor those that no filter lets through.
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
    let mut out = Collected::default();
    for segment in segments {
        let start = records.partition_point(|record| record.offset < segment.offsets.start);
        let end = records.partition_point(|record| record.offset < segment.offsets.end);
        let records = &records[start..end];
        if records.is_empty() {
            continue;
        }
        let decoded = decoder.decode(records, partition, log);
        match segment.candidates.as_slice() {
            [only] if only.filter.is_empty() => {
                out.looked_at(records.iter().map(|record| record.offset));
                out.undecodable(decoded.dead, only.revision);
                out.run(only, decoded.batch)?;
            }
            candidates => {
                // What can't be decoded matches no filter.
                if let Some(unfiltered) = candidates.iter().find(|candidate| candidate.filter.is_empty()) {
                    out.looked_at(decoded.dead.iter().map(|(offset, _)| *offset));
                    out.undecodable(decoded.dead, unfiltered.revision);
                }
                for (candidate, rows) in apart(candidates, &decoded.batch)? {
                    out.looked_at(offsets_of(&rows));
                    out.run(candidate, rows)?;
                }
            }
        }
    }
    out.finish()
}

/// The decoded records by the candidate that is in force for them; in their order within each.
fn apart<'a>(
    candidates: &'a [Candidate],
    batch: &RecordBatch,
) -> Result<Vec<(&'a Candidate, RecordBatch)>, ArrowError> {
    let mut left = vec![true; batch.num_rows()];
    let mut parts = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let columns: Vec<_> = candidate
            .filter
            .columns
            .keys()
            .map(|name| (name, batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>())))
            .collect();
        let taken: BooleanArray = (0..batch.num_rows())
            .map(|row| {
                let value = |name: &str| {
                    let (_, column) = columns.iter().find(|(column, _)| *column == name)?;
                    column.filter(|column| column.is_valid(row)).map(|column| column.value(row))
                };
                let takes = left[row] && candidate.filter.matches(value);
                left[row] &= !takes;
                Some(takes)
            })
            .collect();
        if taken.true_count() > 0 {
            parts.push((candidate, filter_record_batch(batch, &taken)?));
        }
    }
    Ok(parts)
}

fn offsets_of(rows: &RecordBatch) -> impl Iterator<Item = u64> {
    let offsets = rows.column_by_name(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>());
    // The decoder's own column: never null, never negative.
    offsets.into_iter().flat_map(|offsets| offsets.values().iter().map(|offset| *offset as u64))
}

/// What chains gave, piece by piece.
#[derive(Default)]
struct Collected {
    offsets: Vec<u64>,
    pieces: Vec<RecordBatch>,
    dead: Vec<DeadLetter>,
    dropped: u64,
    plugin_failures: u64,
    drops: Vec<Dropped>,
    failures: Vec<Failure>,
    logs: Vec<LogLine>,
    steps: Vec<StepStats>,
}

impl Collected {
    fn looked_at(&mut self, offsets: impl Iterator<Item = u64>) {
        self.offsets.extend(offsets);
    }

    fn undecodable(&mut self, dead: Vec<(u64, &'static str)>, revision: u64) {
        self.dead.extend(dead.into_iter().map(|(offset, code)| DeadLetter {
            offset,
            revision,
            step: "decode".into(),
            code: code.into(),
        }));
    }

    fn run(&mut self, candidate: &Candidate, rows: RecordBatch) -> Result<(), TransformError> {
        let revision = candidate.revision;
        let output = candidate.chain.run(rows)?;
        self.dropped += output.dropped_records();
        self.plugin_failures += output.dead.iter().filter(|dead| &*dead.step != CHECK_STEP).count() as u64;
        self.dead.extend(output.dead.into_iter().map(|dead| DeadLetter {
            offset: dead.offset,
            revision,
            step: dead.step.to_string(),
            code: dead.code.to_string(),
        }));
        self.failures.extend(output.failures);
        self.drops.extend(output.dropped);
        self.logs.extend(output.logs);
        self.steps.extend(output.steps);
        self.pieces.push(with_revision(&output.rows, revision)?);
        Ok(())
    }

    fn finish(self) -> Result<Transformed, TransformError> {
        let Self { mut offsets, pieces, mut dead, dropped, plugin_failures, drops, failures, logs, steps } = self;
        dead.sort_by_key(|dead| dead.offset);
        let mixed = !offsets.is_sorted();
        offsets.sort_unstable();
        let rows = union(&pieces)?;
        let rows = if mixed { in_order(&rows)? } else { rows };
        Ok(Transformed { offsets, rows, dead, dropped, plugin_failures, drops, failures, logs, steps })
    }
}

/// The rows in the order (`_offset`, `_sub`).
fn in_order(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let column = |name: &str| {
        let values = rows.column_by_name(name).cloned();
        let values = values.ok_or_else(|| ArrowError::SchemaError(format!("no column {name}")))?;
        Ok::<_, ArrowError>(SortColumn { values, options: None })
    };
    let order = lexsort_to_indices(&[column(OFFSET)?, column(SUB)?], None)?;
    take_record_batch(rows, &order)
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
