//! What a chain made of a batch.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use millrace_rows::canonical::RowEncoder;
use millrace_rows::schema::OFFSET;

/// Name of the host's own checks after the last step, where a dead letter names a step.
pub const CHECK_STEP: &str = "check";

/// The result of [`crate::Chain::run`]. Every record of the batch is in exactly one place: it has rows in `rows`, or it
/// is in `dead`, or it is counted in `dropped`.
#[derive(Clone, Debug)]
pub struct ChainOutput {
    /// The base columns, those that the chain added, `_partition`, `_offset` and `_sub`, numbered from 0 in each record.
    pub rows: RecordBatch,
    /// Records that failed, in log order.
    pub dead: Vec<Dead>,
    /// Records of which the chain dropped every row, by the step and the code that took the last of them.
    pub dropped: Vec<Dropped>,
    /// Protected: free text about rows that ended in a trap, an error or a limit, at most
    /// [`crate::HostOptions::bad_rows_max`] of them.
    pub failures: Vec<Failure>,
    /// Protected: what plugins logged in calls that succeeded, at most [`crate::LOG_LINES_MAX`] lines.
    pub logs: Vec<LogLine>,
    /// What each step cost.
    pub steps: Vec<StepStats>,
}

impl ChainOutput {
    /// Records that the chain dropped on purpose.
    pub fn dropped_records(&self) -> u64 {
        self.dropped.iter().map(|dropped| dropped.records).sum()
    }
}

/// Where two outputs of the same records are not the same: some plugin lets rows depend on the rows beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Difference {
    /// The rows differ, first at this offset; `None` where a column is missing or of another type.
    #[error("rows differ at offset {0:?}")]
    Rows(Option<u64>),
    /// Not the same records are dead letters, or not for the same reason; the first at this offset.
    #[error("dead letters differ at offset {0}")]
    Dead(u64),
    /// Not as many records were dropped at a step under a code.
    #[error("dropped records differ")]
    Dropped,
}

impl ChainOutput {
    /// Compares this output with those of a split of the same batch, in order: rows by their canonical form, dead letters
    /// and dropped records. What a run costs and logs may differ.
    ///
    /// # Errors
    /// The first [`Difference`].
    pub fn check_same(&self, parts: &[ChainOutput]) -> Result<(), Difference> {
        let mut dead = self.dead.iter();
        for theirs in parts.iter().flat_map(|part| &part.dead) {
            match dead.next() {
                Some(ours) if ours == theirs => {}
                Some(ours) => return Err(Difference::Dead(ours.offset.min(theirs.offset))),
                None => return Err(Difference::Dead(theirs.offset)),
            }
        }
        if let Some(ours) = dead.next() {
            return Err(Difference::Dead(ours.offset));
        }
        let mut dropped: Vec<Dropped> = Vec::new();
        for theirs in parts.iter().flat_map(|part| &part.dropped) {
            add_dropped(&mut dropped, &theirs.step, &theirs.code, theirs.records);
        }
        dropped.sort_by(|a, b| (&a.step, &a.code).cmp(&(&b.step, &b.code)));
        if dropped != self.dropped {
            return Err(Difference::Dropped);
        }
        self.same_rows(parts)
    }

    fn same_rows(&self, parts: &[ChainOutput]) -> Result<(), Difference> {
        let encoder = |rows| RowEncoder::new(rows).map_err(|_| Difference::Rows(None));
        let offset = |rows: &RecordBatch, row: usize| {
            let offsets = rows.column_by_name(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>());
            Difference::Rows(offsets.map(|offsets| offsets.value(row) as u64))
        };
        let ours = encoder(&self.rows)?;
        let (mut at, mut left, mut right) = (0, Vec::new(), Vec::new());
        for part in parts {
            let theirs = encoder(&part.rows)?;
            for row in 0..part.rows.num_rows() {
                if at == self.rows.num_rows() {
                    return Err(offset(&part.rows, row));
                }
                left.clear();
                right.clear();
                ours.encode(at, &mut left);
                theirs.encode(row, &mut right);
                if left != right {
                    return Err(offset(&self.rows, at));
                }
                at += 1;
            }
        }
        if at < self.rows.num_rows() { Err(offset(&self.rows, at)) } else { Ok(()) }
    }
}

/// Counts dropped records under their step and code.
pub(crate) fn add_dropped(dropped: &mut Vec<Dropped>, step: &Arc<str>, code: &Arc<str>, records: u64) {
    match dropped.iter_mut().find(|d| d.step == *step && d.code == *code) {
        Some(dropped) => dropped.records += records,
        None => dropped.push(Dropped { step: step.clone(), code: code.clone(), records }),
    }
}

/// A record that reaches no store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Its offset.
    pub offset: u64,
    /// `name@version` of the step, or [`CHECK_STEP`].
    pub step: Arc<str>,
    /// A code of the plugin's manifest, of the host, or of the checks.
    pub code: Arc<str>,
}

/// Records dropped at one step under one code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// `name@version` of the step.
    pub step: Arc<str>,
    /// A code of the plugin's manifest.
    pub code: Arc<str>,
    /// How many.
    pub records: u64,
}

/// Why a row ended in a trap, an error or a limit. The message is the guest's and may hold personal data: show it only
/// where raw data may be read, and never keep it for long.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    /// Offset of the record.
    pub offset: u64,
    /// `name@version` of the step.
    pub step: Arc<str>,
    /// The host's code.
    pub code: &'static str,
    /// The end of what the guest logged in that call, then the trap; at most 1 KiB.
    pub message: String,
}

impl fmt::Debug for Failure {
    /// Leaves the message out, so that it is in no log by accident.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, step, code, message: _ } = self;
        f.debug_struct("Failure")
            .field("offset", offset)
            .field("step", step)
            .field("code", code)
            .finish_non_exhaustive()
    }
}

/// A line that a plugin logged. Protected like [`Failure::message`].
#[derive(Clone, PartialEq, Eq)]
pub struct LogLine {
    /// `name@version` of the step.
    pub step: Arc<str>,
    /// First offset of the call.
    pub offset: u64,
    /// The line.
    pub line: String,
}

impl fmt::Debug for LogLine {
    /// Leaves the line out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, offset, line: _ } = self;
        f.debug_struct("LogLine").field("step", step).field("offset", offset).finish_non_exhaustive()
    }
}

/// What one step cost in one batch. Calls, fuel and time depend on the batch; rows do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepStats {
    /// `name@version`.
    pub step: Arc<str>,
    /// Calls made, those included that were thrown away.
    pub calls: u64,
    /// Calls thrown away.
    pub discarded: u64,
    /// Rows that came to the step.
    pub rows_in: u64,
    /// Rows that left it, before those of failed records were taken out.
    pub rows_out: u64,
    /// Rows that the step failed, by a declared code or a host code.
    pub rows_failed: u64,
    /// Rows that it dropped.
    pub rows_dropped: u64,
    /// Fuel of all calls.
    pub fuel: u64,
    /// Bytes that all calls returned that were not thrown away.
    pub output_bytes: u64,
    /// The most that any one call took, those included that were thrown away.
    pub peak: CallPeak,
    /// Time by the clock, waiting for a free call included.
    pub took: Duration,
}

/// The most that one call took of what [`crate::Limits`] bounds; each figure may be of another call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallPeak {
    /// Fuel of `transform`.
    pub fuel: u64,
    /// Fuel of instantiation and `describe`.
    pub describe_fuel: u64,
    /// Memory of the instance, over all its memories. Growth that was refused is not in it.
    pub memory_bytes: u64,
    /// Bytes returned. Output that was refused is not in it.
    pub output_bytes: u64,
    /// Log lines kept.
    pub log_lines: u32,
}

impl CallPeak {
    /// Takes another call or step in.
    pub fn include(&mut self, other: &Self) {
        self.fuel = self.fuel.max(other.fuel);
        self.describe_fuel = self.describe_fuel.max(other.describe_fuel);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        self.output_bytes = self.output_bytes.max(other.output_bytes);
        self.log_lines = self.log_lines.max(other.log_lines);
    }
}
