//! The Delta Lake table: finished rows in parquet files by `event_date` and log partition, committed exactly once.
//!
//! * [`DeltaStore`] is the writer: it implements [`millrace_rows::Store`].
//! * [`Maintainer`] writes checkpoints, cleans up the log and removes orphans, beside the commits and never in their way.
//! * [`reader`] reads a table file by file in bounded memory, without a query engine.
//!
//! # Format of the table
//!
//! Plain Delta protocol, reader 1 / writer 2, partitioned by `event_date` (UTC date of `event_time`). Columns are the
//! base and lineage columns of [`millrace_rows::schema`], then what plugins added; all nullable; times are UTC µs.
//!
//! ```text
//! event_date=2026-11-03/millrace-<log partition>-<uuid v7>.parquet
//!     rows of one log partition and one date in the order (_offset, _sub); row groups of at most 64k rows
//! _delta_log/<version>.json
//!     one commit: commitInfo (with a `millrace` object: counts per partition), txn markers, adds, metaData if columns
//!     were added
//! ```
//!
//! The place in the log and in the timeline is kept in `txn` actions, which survive checkpoints; see [`markers`] for
//! their names. Rows, cursors and `applied` are in the same commit entry, and an entry is created only if its version
//! does not exist: that is the whole of the exactly-once argument.
//!
//! # Commits
//!
//! A commit costs the same in a small and in a large table: it builds its entry from what is staged and puts it at the
//! next version; it never materializes the table's list of files. When another writer was first, the entries that won
//! are read and judged by our own rules ([`conflict`]), because the library's check is not safe beside compaction. A
//! put-if-absent at a version that log clean-up has removed would succeed wrongly; so a commit from a view older than
//! half of the log retention looks at the table again first.
//!
//! # Durability and recovery
//!
//! On a local table every file is written whole and synced before it gets its name, and the directory is synced after
//! ([`local`]): no reader and no power loss meets half a commit entry or half a checkpoint. Data files get their final
//! name at once, but nothing refers to them before the commit entry does. A crash leaves at most such orphans and
//! unnamed temporary files; [`Maintainer::remove_orphans`] removes them once they are old. Nothing has to be repaired at
//! start.
//!
//! # Failpoints
//!
//! With the feature `failpoints`:
//!
//! | name | where | effect |
//! |---|---|---|
//! | `delta::stage::written` | a data file is complete and synced, not committed | abort |
//! | `delta::stage::full` | before a batch is encoded | the write fails as on a full disk |
//! | `delta::commit::before` | files and directories are synced, the entry is not written | abort |
//! | `delta::commit::after` | the entry is durable, the caller does not know | abort |
//! | `delta::commit::lost` | the entry is durable | the answer is lost: the put reports an error |
//! | `delta::maintain::fail` | before a checkpoint | the checkpoint fails |

mod columns;
mod compact;
pub mod conflict;
mod encode;
mod entry;
mod error;
mod input;
pub mod local;
mod maintain;
pub mod markers;
mod merge;
mod names;
mod offsets;
mod options;
mod put;
pub mod reader;
mod rewriter;
mod split;
mod staging;
mod stats;
mod store;
mod table;

pub use compact::Compacted;
#[doc(hidden)]
pub use encode::encode_only;
pub use maintain::{Maintained, Maintainer, MaintenanceCounts};
pub use options::{Compression, LOG_RETENTION_MIN, Options};
pub use reader::{Scan, ScanRequest, TableReader, TableStatus};
pub use rewriter::DeltaRewriter;
pub use store::DeltaStore;
