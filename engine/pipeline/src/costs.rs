//! What each plugin cost since the start, for those who run it and those who wrote it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use millrace_plugin_host::{Dropped, StepStats};
use serde::Serialize;

/// Most steps that are kept apart; further ones are not counted.
const STEPS_MAX: usize = 1024;

/// What the calls of one step cost, over all chains that have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StepCost {
    /// Calls, those included that were thrown away and made again in parts.
    pub calls: u64,
    /// Calls thrown away.
    pub discarded: u64,
    /// Rows in.
    pub rows_in: u64,
    /// Rows out.
    pub rows_out: u64,
    /// Rows that it failed.
    pub rows_failed: u64,
    /// Rows that it dropped.
    pub rows_dropped: u64,
    /// Fuel.
    pub fuel: u64,
    /// Time by the clock, in seconds.
    pub seconds: f64,
    /// Records of which it dropped every row, by its codes.
    pub dropped: BTreeMap<String, u64>,
}

/// Costs by `name@version`.
#[derive(Debug, Default)]
pub struct Costs(Mutex<BTreeMap<String, StepCost>>);

impl Costs {
    /// Adds what a batch cost.
    pub fn add(&self, steps: &[StepStats], dropped: &[Dropped]) {
        let mut costs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for step in steps {
            if costs.len() >= STEPS_MAX && !costs.contains_key(&*step.step) {
                continue;
            }
            let cost = costs.entry(step.step.to_string()).or_default();
            cost.calls += step.calls;
            cost.discarded += step.discarded;
            cost.rows_in += step.rows_in;
            cost.rows_out += step.rows_out;
            cost.rows_failed += step.rows_failed;
            cost.rows_dropped += step.rows_dropped;
            cost.fuel += step.fuel;
            cost.seconds += step.took.as_secs_f64();
        }
        for dropped in dropped {
            if let Some(cost) = costs.get_mut(&*dropped.step) {
                *cost.dropped.entry(dropped.code.to_string()).or_default() += dropped.records;
            }
        }
    }

    /// All costs.
    pub fn snapshot(&self) -> BTreeMap<String, StepCost> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The costs of one step.
    pub fn of(&self, step: &str) -> Option<StepCost> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(step).cloned()
    }
}
