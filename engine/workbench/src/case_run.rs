//! One case, run.

use std::ops::Range;

use arrow::record_batch::RecordBatch;
use millrace_plugin_host::{Chain, ChainOutput, Manifest};
use millrace_sdk::golden::{Case, Expected, Row};

use crate::diff::{Difference, differences};
use crate::rows::{outcomes, plain};
use crate::splits;
use crate::usage::Usage;
use crate::workbench::RunError;

/// What became of one row, called alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// In the words of a case.
    pub became: Expected,
    /// Where it ended in a trap, an error or a limit: what the guest said.
    pub message: Option<String>,
}

/// A line that the guest logged for one row, called alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedLine {
    /// The row.
    pub row: usize,
    /// The line.
    pub line: String,
}

/// A case that was run.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseRun {
    /// Whether it is as expected.
    pub verdict: Verdict,
    /// What became of each row; empty for a case of a configuration that must be refused.
    pub outcomes: Vec<Outcome>,
    /// What the guest logged, call by call of one row.
    pub logs: Vec<LoggedLine>,
    /// What it cost.
    pub usage: Usage,
}

/// Whether a case is as expected.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is.
    Passed,
    /// Something else came out.
    Differs(Vec<Difference>),
    /// The case has another number of expectations than rows.
    Count {
        /// Rows in.
        rows: usize,
        /// Expectations.
        expectations: usize,
    },
    /// A row becomes something else when other rows stand beside it: the plugin keeps state from row to row, or looks at
    /// its neighbours. The host would pause a chain with it.
    DependsOnNeighbours {
        /// The row.
        row: usize,
        /// How the rows were split.
        split: String,
        /// The rows of the call.
        call: Range<usize>,
        /// What becomes of it alone.
        alone: Expected,
        /// What became of it in that call; `None` where it was dropped, under a code that is not that of `alone`.
        beside: Option<Expected>,
    },
    /// The configuration was accepted, and the case says that it is refused.
    ConfigAccepted {
        /// The part of the message that the case expects.
        expected: String,
    },
    /// The configuration was refused with other words.
    ConfigRefused {
        /// The part of the message that the case expects.
        expected: String,
        /// The message.
        came_out: String,
    },
}

impl CaseRun {
    pub(crate) fn of_config(verdict: Verdict) -> Self {
        Self { verdict, outcomes: Vec::new(), logs: Vec::new(), usage: Usage::default() }
    }

    /// Runs rows one by one, then at all splits, and compares with what the case expects.
    pub(crate) fn run(chain: &Chain, batch: &RecordBatch, case: &Case) -> Result<Self, RunError> {
        let (manifest, rows) = (&chain.manifests()[0], &case.rows_in);
        let mut run = Self::of_config(Verdict::Passed);
        for row in 0..rows.len() {
            let output = chain.run(batch.slice(row, 1))?;
            run.usage.single(&output);
            run.usage.calls(&output);
            run.outcomes.push(alone(manifest, rows, row, &output));
            run.logs.extend(output.logs.into_iter().map(|logged| LoggedLine { row, line: logged.line }));
        }
        for (split, ranges) in splits::all(rows.len()) {
            for call in ranges {
                let output = chain.run(batch.slice(call.start, call.len()))?;
                if call.len() == rows.len() && run.usage.rows == 0 {
                    run.usage.whole(&output);
                }
                run.usage.calls(&output);
                if let Some((row, beside)) = first_difference(manifest, rows, &call, &output, &run.outcomes) {
                    let alone = run.outcomes[row].became.clone();
                    run.verdict = Verdict::DependsOnNeighbours { row, split, call, alone, beside };
                    return Ok(run);
                }
            }
        }
        run.verdict = if case.expect.len() != rows.len() {
            Verdict::Count { rows: rows.len(), expectations: case.expect.len() }
        } else {
            match differences(&plain(manifest, case), &run.outcomes) {
                differences if differences.is_empty() => Verdict::Passed,
                differences => Verdict::Differs(differences),
            }
        };
        Ok(run)
    }

    /// Whether the case is as expected.
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }

    /// The expectations that would be met.
    pub fn became(&self) -> Vec<Expected> {
        self.outcomes.iter().map(|outcome| outcome.became.clone()).collect()
    }
}

/// What became of a row that was called alone, which names its drop too.
fn alone(manifest: &Manifest, rows: &[Row], row: usize, output: &ChainOutput) -> Outcome {
    let became = outcomes(manifest, rows, output).swap_remove(row);
    let dropped = || Expected::Drop(output.dropped.first().map_or_else(String::new, |drop| drop.code.to_string()));
    Outcome {
        became: became.unwrap_or_else(dropped),
        message: output.failures.first().map(|failure| failure.message.clone()),
    }
}

/// The first row of a call that became something else than alone. Rows that are gone must be those that are dropped
/// alone, as many under each code.
fn first_difference(
    manifest: &Manifest,
    rows: &[Row],
    call: &Range<usize>,
    output: &ChainOutput,
    alone: &[Outcome],
) -> Option<(usize, Option<Expected>)> {
    let became = outcomes(manifest, rows, output);
    let mut dropped: Vec<(&str, u64)> = output.dropped.iter().map(|drop| (&*drop.code, drop.records)).collect();
    for row in call.clone() {
        match (&became[row], &alone[row].became) {
            (None, Expected::Drop(code)) => {
                match dropped.iter_mut().find(|(dropped, left)| dropped == code && *left > 0) {
                    Some((_, left)) => *left -= 1,
                    None => return Some((row, None)),
                }
            }
            (Some(beside), alone) if beside == alone => {}
            (beside, _) => return Some((row, beside.clone())),
        }
    }
    None
}
