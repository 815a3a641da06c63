//! The device history: every row by (device, newest first), in a [`Keyspace`](millrace_keyspace::Keyspace).
//!
//! * [`HistoryStore`]: the [`Store`](millrace_rows::Store) that the engine's loop drives.
//! * [`HistoryRewriter`]: the [`Rewriter`](millrace_rows::Rewriter) that makes records again, beside the store.
//! * [`HistoryReader`]: queries: a device's page, dead letters, state, all rows; for verification the rows of a range of
//!   records as the lineage has them ([`HistoryView::materialized`]) and whether it covers each once
//!   ([`HistoryView::lineage_faults`]).
//! * [`keys`], [`lineage`], [`codec`], [`value`]: the stored form, for whoever rewrites part of it.
//!
//! # Keys
//! In FoundationDB's tuple encoding; `root` is a string.
//! ```text
//! (root, "h", device_id, i64::MAX - event_time_µs, partition, offset, sub)  row              millrace_rows::canonical
//! (root, "o", partition, first offset)                                      lineage          lineage
//! (root, "c", "cursor", partition)                                          cursor           codec
//! (root, "c", "applied")                                                    applied          codec
//! (root, "c", "job", revision)                                              job              codec
//! (root, "d", partition, offset)                                            dead letter      codec
//! ```
//! Every value starts with a version byte that is not 0. A row or lineage of more than 90,000 bytes is split: [`value`].
//!
//! # Transactions
//! A slice is cut at record boundaries into transactions of at most [`TRANSACTION_BYTES`] (a single larger record: of the
//! keyspace's 1 MB) and [`TRANSACTION_RECORDS_MAX`] records. Each writes the rows, the lineage and the dead letters of its
//! records together with the partition's cursor behind them, and compares the cursor and `applied` with the exact bytes
//! that this writer last saw. So each is exact in itself, and two writers fence each other.
//!
//! `applied` also holds the number of partitions that have a cursor: the first transaction of a partition changes it, so
//! that a writer that takes in a revision can't miss a partition which another writer has begun.
//!
//! # Rewriting
//! A record that is made again gives its old rows, which the lineage names, for its new ones in one transaction: within a
//! snapshot nobody sees it twice or not at all. What is put again under the same key is not cleared first; rows under other
//! keys, chunks that are too many and a dead letter that is cured are. Records that are not made again keep rows and
//! lineage entries as they are.
//!
//! A transaction swaps as many records as fit into [`REWRITE_TRANSACTION_BYTES`] and [`TRANSACTION_RECORDS_MAX`], of at most
//! 256 lineages. It compares `applied`, the job, and each lineage that it replaces with the
//! bytes that this rewriter read. So a revision that is taken in fences it, and of two rewriters one; the live loop writes
//! no lineage before a cursor and meets a rewriter only where a partition begins, which changes `applied`. Of the
//! transactions of one commit four at a time are under way: no two of them change the same lineage, and what is left of a
//! lineage that was too large for one waits until that one is committed. They begin while more is staged, but for records
//! whose lineage reaches behind what is staged. A job moves with the last of the transactions, when all others are
//! committed: after a crash in between it makes the same records again and ends the same.
//!
//! A lineage that would no longer be a single value is cut into several; none is written in chunks but that of a single
//! record. This is what makes it enough to compare the head of one that the live loop left in chunks. A single record may
//! use all of the keyspace's 1 MB; if its lineage leaves no room for that, it first gets one of its own, by a transaction
//! that changes no row. A record that still finds no room stops the rewriter with its place.
//!
//! A rebuild ends with a look at everything that is there (the module `sweep`): rows that no lineage names go, and dead letters of
//! records that have rows or that the store has not come to.
//!
//! # Recovery
//! There is none to do: a keyspace batch is there whole or not at all. After any error the store forgets what was staged;
//! `load` reads the cursors, which tell how far the commit came.
//!
//! # Failpoints (feature `failpoints`)
//! * `history::commit::before`: abort before a transaction is sent.
//! * `history::commit::between`: abort after a transaction is committed, before the next. `2*off->return` lets two pass.
//! * `history::take_in::before`, `history::take_in::after`: abort before and after the transaction that takes a revision in.
//! * `history::rewrite::last`: abort when all is swapped and the job has not moved.
//! * `history::rewrite::before`: abort before a transaction of a rewriter is sent.
//! * `history::rewrite::between`: abort after a transaction of a rewriter is committed, before the next; after the last
//!   one too.

pub mod codec;
mod encode;
mod faults;
pub mod keys;
pub mod lineage;
mod lookup;
mod materialized;
mod page_cursor;
mod pairs;
mod reader;
mod remade;
mod rewriter;
mod scan;
mod sound;
mod state;
mod store;
mod swap;
mod sweep;
mod transaction;
pub mod value;

pub use encode::{REWRITE_TRANSACTION_BYTES, TRANSACTION_BYTES, TRANSACTION_RECORDS_MAX};
pub use faults::{FAULTS_KEPT, StrayLetters};
pub use keys::{Keys, RowKey};
pub use materialized::{
    LINEAGES_MAX, LineageFaults, MATERIALIZED_BYTES_MAX, MATERIALIZED_RECORDS_MAX, MaterializedPage, MaterializedRow,
};
pub use reader::{
    Counts, DeadLetterPage, EventFilter, HistoryPage, HistoryReader, HistoryView, PAGE_BYTES_MAX, PAGE_KEYS_MAX,
    PAGE_ROWS_MAX, PAGE_SCAN_BYTES_MAX, PageRequest, ReadError, RowsPage, StoredRow,
};
pub use rewriter::{HistoryRewriter, REWRITE_RECORDS_MAX};
pub use store::HistoryStore;
