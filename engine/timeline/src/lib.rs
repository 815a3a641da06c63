//! The timeline: which chain is in force for which log record.
//!
//! ```text
//! rows = transform(log record, chain in force for it)
//! ```
//!
//! * [`revision`]: revisions and the pure functions over them.
//! * [`chain`]: what a revision pins: everything that can change a row.
//! * [`catalogue`]: where timeline and plugins are kept, with export and restore.

pub mod catalogue;
pub mod chain;
mod export;
pub mod revision;

pub use catalogue::{Catalogue, CatalogueError};
pub use chain::{ChainSpec, PluginRef, SEMANTICS_VERSION, StepSpec};
pub use revision::{Kind, OffsetRange, Ranges, Revision, Timeline, TimelineError};
