//! What a run took, and how near it came to the limits.

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use millrace_plugin_host::{CallPeak, ChainOutput, Limits};
use millrace_rows::check::RECORD_ROWS_MAX;
use millrace_rows::schema::SUB;
use serde::Serialize;

/// What rows cost. Times are not in it: it is the same at every run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Rows in.
    pub rows: u64,
    /// Calls for all rows as one batch, those included that the host threw away.
    pub calls: u64,
    /// Fuel of `transform` for all rows as one batch, without what configuring an instance takes.
    pub fuel: u64,
    /// Fuel of `transform` for the dearest row, called alone.
    pub fuel_row_max: u64,
    /// Bytes returned for all rows as one batch.
    pub output_bytes: u64,
    /// Log lines kept of all rows as one batch.
    pub log_lines: u64,
    /// Most rows that came out of one.
    pub rows_out_max: u64,
    /// The most that one call took, at any split.
    pub peak: CallPeak,
    /// Codes of the limits that calls of one row met.
    pub met: Vec<&'static str>,
}

/// One limit, and how much of it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LimitUse {
    /// The name, as in a step's `limits`.
    pub limit: &'static str,
    /// The most that one call used.
    pub used: u64,
    /// The limit.
    pub max: u64,
    /// Whether a call of one row ended because of it.
    pub met: bool,
}

impl LimitUse {
    /// Part of the limit that was used.
    pub fn share(&self) -> f64 {
        self.used as f64 / self.max.max(1) as f64
    }
}

impl Usage {
    /// Fuel of `transform` for one row, on average.
    pub fn fuel_per_row(&self) -> u64 {
        self.fuel / self.rows.max(1)
    }

    /// Takes in what all rows cost as one batch.
    pub(crate) fn whole(&mut self, output: &ChainOutput) {
        for step in &output.steps {
            self.rows += step.rows_in;
            self.calls += step.calls;
            // Describe does the same in every call, since it sees the configuration alone.
            self.fuel += step.fuel.saturating_sub(step.calls * step.peak.describe_fuel);
            self.output_bytes += step.output_bytes;
        }
        self.log_lines += output.logs.len() as u64;
    }

    /// Takes in what one row cost that was called alone.
    pub(crate) fn single(&mut self, output: &ChainOutput) {
        for step in &output.steps {
            self.fuel_row_max = self.fuel_row_max.max(step.peak.fuel);
        }
        for failure in &output.failures {
            let is_limit = ["out_of_fuel", "out_of_memory", "output_too_large"].contains(&failure.code);
            if is_limit && !self.met.contains(&failure.code) {
                self.met.push(failure.code);
            }
        }
    }

    /// Takes in the calls of any run.
    pub(crate) fn calls(&mut self, output: &ChainOutput) {
        output.steps.iter().for_each(|step| self.peak.include(&step.peak));
        let sub = output.rows.column_by_name(SUB).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let last = sub.and_then(|sub| sub.values().iter().max());
        self.rows_out_max = self.rows_out_max.max(last.map_or(0, |last| *last as u64 + 1));
    }

    /// Takes in other rows.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.calls += other.calls;
        self.fuel += other.fuel;
        self.fuel_row_max = self.fuel_row_max.max(other.fuel_row_max);
        self.output_bytes += other.output_bytes;
        self.log_lines += other.log_lines;
        self.rows_out_max = self.rows_out_max.max(other.rows_out_max);
        self.peak.include(&other.peak);
        for code in &other.met {
            if !self.met.contains(code) {
                self.met.push(code);
            }
        }
    }

    /// How near one call came to each limit.
    pub fn of_limits(&self, limits: &Limits) -> Vec<LimitUse> {
        let peak = &self.peak;
        let line = |limit, used, max, code| {
            let met = self.met.contains(&code);
            // What was refused is not in the peak.
            LimitUse { limit, used: if met { max } else { used }, max, met }
        };
        vec![
            line("memory_bytes", peak.memory_bytes, limits.memory_bytes, "out_of_memory"),
            line("fuel", peak.fuel, limits.fuel, "out_of_fuel"),
            line("describe_fuel", peak.describe_fuel, limits.describe_fuel, ""),
            line("output_bytes", peak.output_bytes, limits.output_bytes, "output_too_large"),
            line("log_lines", peak.log_lines.into(), limits.log_lines.into(), ""),
            line("rows_out", self.rows_out_max, RECORD_ROWS_MAX as u64, ""),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_was_met_is_full_although_what_it_refused_is_not_counted() {
        let mut usage =
            Usage { peak: CallPeak { memory_bytes: 10, fuel: 30, ..CallPeak::default() }, ..Usage::default() };
        usage.add(&Usage { met: vec!["out_of_memory"], ..Usage::default() });
        let limits = Limits { memory_bytes: 100, fuel: 40, ..Limits::default() };
        let uses = usage.of_limits(&limits);
        assert_eq!(uses[0], LimitUse { limit: "memory_bytes", used: 100, max: 100, met: true });
        assert_eq!((uses[1].share(), uses[1].met), (0.75, false));
    }
}
