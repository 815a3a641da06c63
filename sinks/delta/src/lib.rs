//! The Delta Lake table: finished rows in parquet files by `event_date` and log partition, committed exactly once.
//!
//! * [`DeltaStore`] is the writer: it implements [`millrace_rows::Store`].
//! * [`DeltaRewriter`] works off the jobs that revisions leave, beside it: it implements [`millrace_rows::Rewriter`].
//! * [`Maintainer`] writes checkpoints, cleans up the log, removes orphans and compacts small files, beside the commits
//!   and never in their way.
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
//!     one commit: commitInfo (with a `millrace` object: counts per partition; of a correction also revision, author
//!     and reason), metaData if columns were added, txn markers, removes, adds
//! ```
//!
//! The place in the log and in the timeline is kept in `txn` actions, which survive checkpoints; see [`markers`] for
//! their names. Rows, cursors and `applied` are in the same commit entry, and an entry is created only if its version
//! does not exist: that is the whole of the exactly-once argument.
//!
//! # Commits
//!
//! A commit of live rows costs the same in a small and in a large table: it builds its entry from what is staged and puts it at the
//! next version; it never materializes the table's list of files. When another writer was first, the entries that won
//! are read and judged by our own rules ([`conflict`]), because the library's check is not safe beside compaction. A
//! put-if-absent at a version that log clean-up has removed would succeed wrongly; so a commit from a view older than
//! half of the log retention looks at the table again first.
//!
//! # Corrections
//!
//! A commit with the operation `CORRECT` exchanges the rows of records that were made again. New rows are staged in files
//! that nothing refers to. The commit then looks at one snapshot: every file that holds a row of these records goes out
//! of force, and its other rows are written again, merged in the order of the log with the new rows of their date and
//! log partition. Removes, adds, new columns and what is left of the job are one entry, so a reader of any version sees
//! every record once. The commit relies on `applied`, on its job, on each file that it removes being in force, and on
//! nobody else adding rows of its records; live commits between are gone along with.
//!
//! The cost follows what is made again, not the size of the files: files without a record of these are never touched,
//! and a row group of at most 64k rows that holds none of them, and has no new row between its offsets, is copied into
//! the new file undecoded (`numCopiedRowGroups` in the entry). This goes for files on this machine that have all columns
//! of the table and row groups apart by offset; any other, so any on an object store, is decoded and written again as a
//! whole.
//!
//! A rebuild, the correction of every record, is one such commit: [`DeltaRewriter`] holds back what it has made until nothing
//! is left (its bounds are in the module `rebuild`).
//!
//! # Compaction
//!
//! A commit with the operation `OPTIMIZE` puts the rows of small neighbouring files of one date and log partition into
//! one file, and says so (`dataChange` is false). It relies on each file that it removes being in force and on nothing
//! else. A table must be compacted by this crate alone: the library's own compaction, and that of other engines, may win
//! over a correction without looking at what it removed, and double rows.
//!
//! # How long files stay that are out of force
//!
//! The removal of orphans deletes a data file only when the log does not mention it any more. A removed file is mentioned
//! until a checkpoint is written after `delta.deletedFileRetentionDuration` (a table property; one week unless set).
//! So that is how long readers of an old version may go on reading. Travelling back to a version also takes its log entries:
//! they stay for `delta.logRetentionDuration` ([`Options::log_retention`], two days unless set).
//!
//! # Durability and recovery
//!
//! On a local table every file is written whole and synced before it gets its name, and the directory is synced after
//! ([`local`]): no reader and no power loss meets half a commit entry or half a checkpoint. Data files get their final
//! name at once, but nothing refers to them before the commit entry does. A crash leaves at most such orphans and
//! unnamed temporary files; [`Maintainer::remove_orphans`] removes them once they are old. Nothing has to be repaired at
//! start.
//!
//! # Object stores
//!
//! With the feature `s3` a table can be at `s3://bucket/prefix` ([`Options::storage`] says what comes from the
//! environment); [`DeltaStore::open_in`] takes any store that `object_store` has. An object has its name once it is
//! complete and durable. A commit entry is a conditional put (`If-None-Match: *`), and `open` makes sure that the store
//! keeps to it: it must refuse to put over `_millrace/put-if-absent`, which stays in the table's prefix.
//!
//! A put that failed may still have happened, or may yet happen: the answer was lost, or the request is on its way. What
//! was put by a layer below a second time is refused, by our own entry. So every entry has a unique id: an entry that is
//! in our place is read, and if the id is ours the commit has happened. If there was no answer the writer must load the
//! table again, and its files stay until they are orphans. An entry that arrives after that finds its version taken, or
//! moves markers that the next commit relies on.
//!
//! A data file is put as a whole up to 8 MiB, else in parts of 8 MiB, at most two on their way at once. Parts of a file
//! that goes into no commit are given up; after a crash they stay, without a name, until the bucket's lifecycle rule for
//! incomplete uploads. To read a file takes its bytes in memory as a whole.
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
//! | `delta::take_in::before`, `::after`, `::lost` | as those of a commit, where a revision is taken in | as those of a commit |
//! | `delta::rewrite::stage` | some rows of a correction are staged, perhaps in a file | abort |
//! | `delta::rewrite::staged` | the new rows of a correction are in files, the table was not looked at | abort |
//! | `delta::rewrite::before`, `::after`, `::lost` | as those of a commit, of a correction | as those of a commit |
//! | `delta::compact::before`, `::after`, `::lost` | as those of a commit, of a compaction | as those of a commit |
//! | `delta::maintain::fail` | before a checkpoint | the checkpoint fails |

mod affected;
mod columns;
mod compact;
pub mod conflict;
mod encode;
mod entry;
mod error;
mod faults;
mod groups;
mod input;
pub mod local;
mod maintain;
pub mod markers;
mod merge;
mod names;
mod offsets;
mod options;
mod place;
mod put;
pub mod reader;
mod rebuild;
mod rewriter;
#[cfg(feature = "s3")]
mod s3;
mod splice;
mod split;
mod staging;
mod stats;
mod store;
mod table;

pub use compact::Compacted;
#[doc(hidden)]
pub use encode::encode_only;
pub use faults::{FAULTS_KEPT, StrayRow, TableFaults, UnreadableFile, Why};
pub use maintain::{Maintained, Maintainer, MaintenanceCounts};
pub use options::{Compression, LOG_RETENTION_MIN, Options};
pub use reader::{Scan, ScanRequest, TableReader, TableStatus};
pub use rewriter::DeltaRewriter;
pub use store::DeltaStore;
