//! Runs WebAssembly transforms over Arrow batches, bounded and row-exact.
//!
//! ```text
//! PluginHost::load(wasm) -> Plugin      size, imports and exports are checked, compiled or taken from the local cache
//! Plugin::manifest(config) -> Manifest  what it reads, writes and adds under that configuration
//! Chain::new(steps) -> Chain            every column that a step reads or writes is there, with its type
//! Chain::run(batch) -> ChainOutput      rows, dead letters, dropped records
//! ```
//!
//! # What a row becomes depends on that row alone
//!
//! * A guest has no clock, no randomness, no I/O. NaNs are canonical, relaxed SIMD is deterministic, fuel counts
//!   instructions. Every call has a fresh instance.
//! * A call that traps, answers with an error, meets a limit or returns something unsound is thrown away and its rows are
//!   called again in halves. Only a call of one row decides a row; its record becomes a dead letter with one of the codes
//!   `trap`, `out_of_fuel`, `out_of_memory`, `stack_overflow`, `bad_output`, `guest_error`, `output_too_large`.
//! * [`Limits`] are constants per call. None scales with the rows of a call.
//! * When one row of a record fails, the record's other rows leave with it.
//!
//! What says nothing about a row stops the chain instead: too many bad rows in a batch, the wall-clock backstop, a
//! failure of the machine ([`ChainStop`]).
//!
//! # Bounds
//!
//! [`HostOptions::concurrent_calls`] calls run at once and more wait. A call holds at most its limits of memory and, for
//! a moment, its output twice. Free text of guests is cut to 1 KiB a failure, [`HostOptions::bad_rows_max`] failures and
//! [`LOG_LINES_MAX`] log lines a batch; it may hold personal data, and this crate never logs it.

mod abi;
mod bisect;
mod cache;
mod call;
mod chain;
mod compiler;
mod error;
mod host;
mod lift;
mod limits;
mod lower;
mod manifest;
mod output;
mod plugin;
mod run;
mod tables;

pub use chain::{ADDED_COLUMNS_MAX, Chain, OnError, STEPS_MAX, StepSpec};
pub use compiler::{CompilerProcess, compile_stdin};
pub use error::{ChainError, ChainProblem, ChainStop, LoadError, ManifestError};
pub use host::PluginHost;
pub use limits::{CONFIG_BYTES_MAX, HostOptions, Limits, TABLE_ELEMENTS_MAX, WASM_STACK_BYTES};
pub use manifest::Manifest;
pub use output::{CHECK_STEP, CallPeak, ChainOutput, Dead, Difference, Dropped, Failure, LogLine, StepStats};
pub use plugin::Plugin;
pub use run::LOG_LINES_MAX;
pub use tables::{BoundTable, FUEL_PER_KEY, Tables};
