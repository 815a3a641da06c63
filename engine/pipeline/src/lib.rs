//! From the log to both stores.
//!
//! ```text
//!            ┌──────────── ingest ── dedup window
//!            ▼
//!           log ── processor (read → decode → chain) ── slice cache
//!                      │                        │
//!               materialize(delta)       materialize(history)      one loop a store, each with its own pace
//! ```
//!
//! * [`ingest`]: events into the log, each once; acknowledged when durable.
//! * [`processor`]: the transformed slice at a place of the log; computed once, shared by both stores.
//! * [`materialize`]: the loop that keeps one store up to date.
//! * [`replay`]: a range of the log through chains once more; [`rematerialize`]: the loop that works off what revisions leave
//!   behind a store's cursors.
//! * [`registry`], [`tables`], [`pipeline`]: what is uploaded, and how it comes into force; [`trial`]: how it is tried first.
//! * [`correction`]: a candidate chain for records of the past: planned, shown, brought into force; [`staging`]: made ahead.
//! * [`verify`]: recomputes what the stores must hold, and compares.
//! * [`tokens`]: who may do what.
//! * [`pause`], [`diagnostics`], [`costs`]: what operators and authors see of plugins that go wrong.
//! * [`leases`]: which of several workers does what; [`roles`]: what a process does at all.
//! * [`log`]: the log that an engine runs on; [`gaps`]: what it lost before a store had it.
//! * [`progress`]: how far each store has come, for status, metrics and the log's retention.
//! * [`keyspace`]: which keyspace history and catalogue are in.
//! * [`engine`]: puts the parts together for one machine.

pub mod chains;
pub mod correction;
pub mod costs;
pub mod dedup;
pub mod diagnostics;
pub mod engine;
mod follow;
pub mod gaps;
mod give_way;
mod housekeeping;
pub mod ingest;
pub mod keyspace;
pub mod leases;
pub mod log;
mod loops;
pub mod materialize;
pub mod metrics;
pub mod pause;
pub mod pipeline;
mod portion;
pub mod processor;
pub mod progress;
pub mod registry;
mod remake;
pub mod rematerialize;
pub mod replay;
pub mod roles;
pub mod samples;
pub mod secrets;
mod share;
pub mod staging;
pub mod status;
pub mod stock;
pub mod tables;
pub mod tokens;
pub mod transform;
pub mod trial;
pub mod verify;

use std::sync::Arc;

/// Gives the time, µs since 1970 UTC. Injected, so that no test depends on the time of day.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
    })
}
