//! The timeline: which chain is in force for which log record.
//!
//! ```text
//! rows = transform(log record, chain in force for it)
//! ```
//!
//! * [`revision`]: revisions and the pure functions over them.
//! * [`filter`]: which records of a range a revision is about.
//! * [`chain`]: what a revision pins: everything that can change a row.
//! * [`catalogue`]: where all of it is kept, with export and restore.
//! * [`plugins`], [`tables`]: what chains refer to.
//! * [`access`]: tokens, the audit trail, the pause; [`gaps`]: what the log lost and who accepted it.
//! * [`leases`]: which worker does what.
//! * [`verified`]: what a verification has vouched for.

pub mod access;
pub mod catalogue;
pub mod chain;
mod export;
pub mod filter;
pub mod gaps;
pub mod leases;
pub mod plugins;
pub mod revision;
pub mod tables;
pub mod verified;

pub use catalogue::{Catalogue, CatalogueError};
pub use chain::{ChainSpec, PluginRef, SEMANTICS_VERSION, StepSpec};
pub use filter::Filter;
pub use plugins::PluginEntry;
pub use revision::{Kind, OffsetRange, Ranges, Revision, Timeline, TimelineError};
pub use tables::{TableEntry, TableRef};
