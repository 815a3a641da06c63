//! One batch on its way through a chain.
//!
//! Between steps a batch is its columns and, for each row, the number of its record; what became of records that are gone
//! stands in `fates`. A step works on rows, fates are of records: when one row of a record fails, the others leave with
//! it, at that step.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array, new_empty_array};
use arrow::compute::{concat, filter, filter_record_batch, take};
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use millrace_rows::check;
use millrace_rows::schema::{LINEAGE, OFFSET, PARTITION};

use crate::abi;
use crate::bisect::{self, Ended, Found};
use crate::call::{self, Stop};
use crate::chain::{OnError, Step};
use crate::error::ChainStop;
use crate::lift::{self, Checked};
use crate::lower::{self, PlainColumn};
use crate::output::{CHECK_STEP, CallPeak, ChainOutput, Dead, Dropped, Failure, LogLine, StepStats, add_dropped};

/// Most log lines kept of one batch.
pub const LOG_LINES_MAX: usize = 256;

/// Lineage columns of a batch that comes in: the revision is not among them.
const LINEAGE_SENT: usize = LINEAGE.len() - 1;

/// A batch between two steps.
pub(crate) struct Run {
    /// Base columns, then those added until now.
    columns: Vec<ArrayRef>,
    /// Record of each row, ascending.
    record: Vec<u32>,
    partition: i64,
    /// Offset of each record.
    offsets: Vec<i64>,
    /// Of each record; `None` while it is on its way.
    fates: Vec<Option<Fate>>,
    bad_rows_max: usize,
    failures: Vec<Failure>,
    logs: Vec<LogLine>,
    steps: Vec<StepStats>,
}

/// What the calls of a step cost together.
#[derive(Default)]
struct Cost {
    fuel: u64,
    output_bytes: u64,
    peak: CallPeak,
}

#[derive(Clone)]
struct Fate {
    dead: bool,
    step: Arc<str>,
    code: Arc<str>,
}

/// The rows that left a step, before failed records are taken out.
struct Merged {
    columns: Vec<ArrayRef>,
    /// For each row its row before the step; `None` where they are the same rows.
    kept: Option<UInt32Array>,
}

impl Run {
    /// `expected` has the base columns, those added before the chain, and the lineage without the revision.
    pub(crate) fn new(batch: &RecordBatch, expected: &Schema, bad_rows_max: usize) -> Result<Self, ChainStop> {
        let same = batch.num_columns() == expected.fields().len()
            && batch
                .schema_ref()
                .fields()
                .iter()
                .zip(expected.fields())
                .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
        if !same {
            return Err(ChainStop::Input("its columns are not those of the decoder".to_owned()));
        }
        let lineage = |name: &str| {
            let column = batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
            column
                .filter(|column| column.null_count() == 0)
                .ok_or_else(|| ChainStop::Input(format!("{name} has nulls")))
        };
        let (partitions, row_offsets) = (lineage(PARTITION)?, lineage(OFFSET)?);
        let partition = partitions.values().first().copied().unwrap_or(0);
        if partitions.values().iter().any(|p| *p != partition) {
            return Err(ChainStop::Input("it has rows of several partitions".to_owned()));
        }
        if row_offsets.values().first().is_some_and(|first| *first < 0) || !row_offsets.values().is_sorted() {
            return Err(ChainStop::Input("its offsets do not rise".to_owned()));
        }
        if u32::try_from(batch.num_rows()).is_err() {
            return Err(ChainStop::Input("it has more than 2^32 rows".to_owned()));
        }
        let mut offsets: Vec<i64> = Vec::with_capacity(batch.num_rows());
        let mut record = Vec::with_capacity(batch.num_rows());
        for offset in row_offsets.values() {
            if offsets.last() != Some(offset) {
                offsets.push(*offset);
            }
            record.push(offsets.len() as u32 - 1);
        }
        Ok(Self {
            columns: batch.columns()[..batch.num_columns() - LINEAGE_SENT].to_vec(),
            record,
            partition,
            fates: vec![None; offsets.len()],
            offsets,
            bad_rows_max,
            failures: Vec::new(),
            logs: Vec::new(),
            steps: Vec::new(),
        })
    }

    pub(crate) fn step(&mut self, step: &Step) -> Result<(), ChainStop> {
        let rows = self.record.len();
        let mut cost = Cost::default();
        let began = Instant::now();
        let found = self.search(step, &mut cost)?;
        let took = began.elapsed();
        let (calls, discarded) = (found.calls, found.discarded);
        let mut failed: Vec<(usize, Arc<str>)> = Vec::new();
        let mut dropped: Vec<(usize, Arc<str>)> = Vec::new();
        for (range, piece) in &found.pieces {
            let named = |outcomes: &[(u32, u32)], into: &mut Vec<(usize, Arc<str>)>| {
                into.extend(
                    outcomes
                        .iter()
                        .map(|(row, code)| (range.start + *row as usize, step.codes[*code as usize].clone())),
                );
            };
            named(&piece.failed, &mut failed);
            named(&piece.dropped, &mut dropped);
        }
        for bad in &found.bad {
            failed.push((bad.row, bad.code.as_str().into()));
            self.failures.push(self.failure(step, bad));
        }
        // The first row of a record that failed names its code.
        failed.sort_by_key(|(row, _)| *row);
        if let (OnError::Halt, Some((row, code))) = (step.spec.on_error, failed.first()) {
            return Err(ChainStop::Halted {
                step: step.name.to_string(),
                offset: self.offsets[self.record[*row] as usize] as u64,
                code: code.to_string(),
                failures: std::mem::take(&mut self.failures),
            });
        }
        let merged = merge(&self.columns, step, found, rows)
            .map_err(|e| ChainStop::Host { step: step.name.to_string(), message: e.to_string() })?;
        let record = match &merged.kept {
            None => std::mem::take(&mut self.record),
            Some(kept) => kept.values().iter().map(|row| self.record[*row as usize]).collect(),
        };
        self.steps.push(StepStats {
            step: step.name.clone(),
            calls,
            discarded,
            rows_in: rows as u64,
            rows_out: record.len() as u64,
            rows_failed: failed.len() as u64,
            rows_dropped: dropped.len() as u64,
            fuel: cost.fuel,
            output_bytes: cost.output_bytes,
            peak: cost.peak,
            took,
        });
        let before = std::mem::replace(&mut self.record, record);
        self.columns = merged.columns;
        if merged.kept.is_some() {
            self.settle(step, &before, failed, dropped);
            self.remove_dead().map_err(|e| ChainStop::Host { step: step.name.to_string(), message: e.to_string() })?;
        }
        Ok(())
    }

    /// Calls the plugin over all rows.
    fn search(&mut self, step: &Step, cost: &mut Cost) -> Result<Found<Checked>, ChainStop> {
        let Self { columns, record, offsets, logs, failures, bad_rows_max, .. } = &mut *self;
        let limits = &step.spec.limits;
        let inputs: Vec<(&dyn Array, _)> =
            step.reads.iter().map(|(column, ty)| (columns[*column].as_ref(), *ty)).collect();
        let chunks = lower::chunks(&inputs, record.len(), limits.rows as usize, limits.input_bytes);
        let bad_max = bad_rows_max.saturating_sub(failures.len());
        let found = bisect::search(chunks, bad_max, |rows| {
            let plain: Vec<PlainColumn<'_>> =
                inputs.iter().map(|(array, ty)| PlainColumn::new(*array, *ty, rows.clone())).collect();
            let sent: Vec<abi::ColumnIn<'_>> = plain.iter().map(PlainColumn::borrowed).collect();
            let batch = abi::Batch { rows: rows.len() as u32, columns: &sent };
            let plugin = &step.spec.plugin;
            let (result, trace) =
                call::transform(plugin.host(), plugin.entry(), limits, &step.spec.tables, &step.spec.config, batch);
            cost.fuel += trace.describe_fuel + trace.fuel;
            let mut peak = CallPeak {
                fuel: trace.fuel,
                describe_fuel: trace.describe_fuel,
                memory_bytes: trace.memory_bytes,
                log_lines: trace.logs.len() as u32,
                output_bytes: 0,
            };
            let checked = result.and_then(|output| {
                lift::check(output, rows.len(), &step.expected, step.codes.len(), limits.output_bytes)
            });
            peak.output_bytes = checked.as_ref().map_or(0, |checked| checked.bytes);
            cost.output_bytes += peak.output_bytes;
            cost.peak.include(&peak);
            let checked = checked?;
            let offset = offsets[record[rows.start] as usize] as u64;
            let room = LOG_LINES_MAX.saturating_sub(logs.len());
            logs.extend(trace.logs.into_iter().take(room).map(|line| LogLine {
                step: step.name.clone(),
                offset,
                line,
            }));
            Ok(checked)
        });
        found.map_err(|ended| {
            let name = step.name.to_string();
            match ended {
                Ended::TooManyBadRows(bad) => {
                    let mut failures = std::mem::take(&mut self.failures);
                    failures.extend(bad.iter().map(|bad| self.failure(step, bad)));
                    ChainStop::TooManyBadRows { step: name, max: self.bad_rows_max, failures }
                }
                Ended::Stop(Stop::Backstop) => {
                    ChainStop::Backstop { step: name, after: step.spec.plugin.host().options().backstop }
                }
                Ended::Stop(Stop::Host(message)) => ChainStop::Host { step: name, message },
                Ended::Stop(Stop::Describe(code, message)) => {
                    ChainStop::Describe { step: name, code: code.as_str(), message }
                }
            }
        })
    }

    fn failure(&self, step: &Step, bad: &bisect::BadRow) -> Failure {
        Failure {
            offset: self.offsets[self.record[bad.row] as usize] as u64,
            step: step.name.clone(),
            code: bad.code.as_str(),
            message: bad.message.clone(),
        }
    }

    /// Writes down the fates of records that ended at this step. `before` is the record of each row before it.
    fn settle(&mut self, step: &Step, before: &[u32], failed: Vec<(usize, Arc<str>)>, dropped: Vec<(usize, Arc<str>)>) {
        for (row, code) in failed {
            let fate = &mut self.fates[before[row] as usize];
            fate.get_or_insert_with(|| Fate { dead: true, step: step.name.clone(), code });
        }
        if dropped.is_empty() {
            return;
        }
        let mut has_rows = vec![false; self.fates.len()];
        for record in &self.record {
            has_rows[*record as usize] = true;
        }
        for (row, code) in dropped {
            let record = before[row] as usize;
            if !has_rows[record] {
                self.fates[record].get_or_insert_with(|| Fate { dead: false, step: step.name.clone(), code });
            }
        }
    }

    /// Takes out the rows of records whose fate is known.
    fn remove_dead(&mut self) -> Result<(), ArrowError> {
        if self.record.iter().all(|record| self.fates[*record as usize].is_none()) {
            return Ok(());
        }
        let alive: BooleanArray =
            self.record.iter().map(|record| Some(self.fates[*record as usize].is_none())).collect();
        for column in &mut self.columns {
            *column = filter(column.as_ref(), &alive)?;
        }
        self.record.retain(|record| self.fates[*record as usize].is_none());
        Ok(())
    }

    /// Numbers the rows of each record, checks them, and tells what became of everything.
    pub(crate) fn finish(mut self, schema: &SchemaRef) -> Result<ChainOutput, ChainStop> {
        let fault = |e: ArrowError| ChainStop::Host { step: CHECK_STEP.to_owned(), message: e.to_string() };
        let mut sub = Vec::with_capacity(self.record.len());
        for (row, record) in self.record.iter().enumerate() {
            let next = if row > 0 && self.record[row - 1] == *record { sub[row - 1] + 1 } else { 0 };
            sub.push(next);
        }
        let offsets = self.record.iter().map(|record| self.offsets[*record as usize]);
        let mut columns = std::mem::take(&mut self.columns);
        columns.push(Arc::new(Int64Array::from_value(self.partition, self.record.len())));
        columns.push(Arc::new(Int64Array::from_iter_values(offsets)));
        columns.push(Arc::new(Int64Array::from(sub)));
        let mut rows = RecordBatch::try_new(schema.clone(), columns).map_err(fault)?;
        let failures = check::failures(&rows);
        if !failures.is_empty() {
            let step: Arc<str> = CHECK_STEP.into();
            for (row, code) in failures {
                let fate = &mut self.fates[self.record[row] as usize];
                fate.get_or_insert_with(|| Fate { dead: true, step: step.clone(), code: code.into() });
            }
            let alive: BooleanArray =
                self.record.iter().map(|record| Some(self.fates[*record as usize].is_none())).collect();
            rows = filter_record_batch(&rows, &alive).map_err(fault)?;
        }
        let mut dead = Vec::new();
        let mut dropped: Vec<Dropped> = Vec::new();
        for (fate, offset) in self.fates.into_iter().zip(&self.offsets) {
            match fate {
                None => {}
                Some(Fate { dead: true, step, code }) => dead.push(Dead { offset: *offset as u64, step, code }),
                Some(Fate { dead: false, step, code }) => add_dropped(&mut dropped, &step, &code, 1),
            }
        }
        dropped.sort_by(|a, b| (&a.step, &a.code).cmp(&(&b.step, &b.code)));
        Ok(ChainOutput { rows, dead, dropped, failures: self.failures, logs: self.logs, steps: self.steps })
    }
}

/// Puts the results of a step's calls together.
fn merge(columns: &[ArrayRef], step: &Step, found: Found<Checked>, rows: usize) -> Result<Merged, ArrowError> {
    let identity = found.bad.is_empty() && found.pieces.iter().all(|(_, piece)| piece.sources.is_none());
    let kept = (!identity).then(|| {
        let mut kept = Vec::with_capacity(rows);
        for (range, piece) in &found.pieces {
            match &piece.sources {
                None => kept.extend(range.start as u32..range.end as u32),
                Some(sources) => kept.extend(sources.iter().map(|row| range.start as u32 + row)),
            }
        }
        UInt32Array::from(kept)
    });
    let mut merged: Vec<ArrayRef> = Vec::with_capacity(columns.len() + step.expected.len() - step.writes.len());
    for (index, column) in columns.iter().enumerate() {
        let written = step.writes.iter().position(|write| *write == index);
        let returned = written.filter(|position| found.pieces.iter().any(|(_, p)| p.columns[*position].is_some()));
        merged.push(match (returned, &kept) {
            (Some(position), _) => join(&found, position, Some(column), column.data_type())?,
            (None, None) => column.clone(),
            (None, Some(kept)) => take_rows(column, kept)?,
        });
    }
    for (position, expected) in step.expected.iter().enumerate().skip(step.writes.len()) {
        merged.push(join(&found, position, None, &expected.ty.data_type())?);
    }
    Ok(Merged { columns: merged, kept })
}

/// One returned column of all calls; `before` is it before the step, for the calls that left it unchanged.
fn join(
    found: &Found<Checked>,
    position: usize,
    before: Option<&ArrayRef>,
    data_type: &DataType,
) -> Result<ArrayRef, ArrowError> {
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(found.pieces.len());
    for (range, piece) in &found.pieces {
        match (&piece.columns[position], before) {
            (Some(array), _) => arrays.push(array.clone()),
            (None, Some(before)) => {
                let sent = before.slice(range.start, range.len());
                arrays.push(match &piece.sources {
                    None => sent,
                    Some(sources) => take_rows(&sent, &UInt32Array::from(sources.clone()))?,
                });
            }
            (None, None) => return Err(ArrowError::ComputeError("a new column is missing".to_owned())),
        }
    }
    match arrays.as_slice() {
        [] => Ok(new_empty_array(data_type)),
        [array] => Ok(array.clone()),
        arrays => {
            fits(arrays.iter().map(text_bytes).sum())?;
            concat(&arrays.iter().map(|array| array.as_ref()).collect::<Vec<_>>())
        }
    }
}

fn take_rows(column: &ArrayRef, rows: &UInt32Array) -> Result<ArrayRef, ArrowError> {
    if let Some(text) = column.as_string_opt::<i32>() {
        let offsets = text.value_offsets();
        let length = |row: &u32| (offsets[*row as usize + 1] - offsets[*row as usize]) as usize;
        fits(rows.values().iter().map(length).sum())?;
    }
    take(column.as_ref(), rows, None)
}

fn text_bytes(array: &ArrayRef) -> usize {
    array.as_string_opt::<i32>().map_or(0, |text| {
        let offsets = text.value_offsets();
        (offsets[text.len()] - offsets[0]) as usize
    })
}

/// A column of text holds at most 2 GiB.
fn fits(bytes: usize) -> Result<(), ArrowError> {
    if i32::try_from(bytes).is_ok() {
        return Ok(());
    }
    Err(ArrowError::ComputeError(format!("a column of {bytes} bytes: run smaller batches")))
}
