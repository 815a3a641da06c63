//! Tries a plugin's component the way its author needs it: over golden cases, in the host that runs it in production.
//!
//! ```text
//! Workbench::new(options, limits)              a host to run plugins in
//! Workbench::run_case(plugin, case) -> CaseRun one case: what differs, and what it cost
//! Workbench::record(plugin, case, rows)        a case of rows that exist: the expectations are what comes out
//! Workbench::bench(plugin, case, input, …)     time, fuel, memory and output of an event, beside an empty plugin
//! ```
//!
//! The cases are those of `millrace_sdk::golden`, which run natively too. Here a case runs over the component: row by row,
//! which decides what becomes of each row (as in the host, only a call of one row decides a row); then as one batch, in
//! halves and at [`RANDOM_SPLITS`] random splits, always the same, which must give the same. What the host asks of every
//! event (an id, a device, times) is filled in where a row of a case does not speak of it, and is left out again of what
//! came out.
//!
//! What a run shows may be text of the guest and of events: it is for the plugin's author, on the author's own data.

mod bench;
mod case_run;
mod diff;
mod empty;
mod record;
mod rows;
mod splits;
mod tables;
mod usage;
mod workbench;

pub use bench::{Bench, BenchOptions, EVENTS_MAX, Timing};
pub use case_run::{CaseRun, LoggedLine, Outcome, Verdict};
pub use diff::Difference;
pub use rows::{Input, RowsError};
pub use splits::RANDOM_SPLITS;
pub use usage::{LimitUse, Usage};
pub use workbench::{CASE_ROWS_MAX, RunError, Workbench};
