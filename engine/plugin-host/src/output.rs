//! What a chain made of a batch.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;

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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A line that a plugin logged. Protected like [`Failure::message`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// `name@version` of the step.
    pub step: Arc<str>,
    /// First offset of the call.
    pub offset: u64,
    /// The line.
    pub line: String,
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
}
