//! What a caller can choose.

use std::collections::HashMap;
use std::time::Duration;

use crate::encode::ROW_GROUP_ROWS_MAX;

/// Compression of the parquet pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard, level 1: a little over half the size of snappy for about a tenth more processor time.
    Zstd,
    /// Snappy: the fastest.
    Snappy,
}

/// How to write a table. The defaults suit one machine with live traffic and imports of months of history.
#[derive(Clone, Debug)]
pub struct Options {
    /// Options of the object store over those of the environment, under `object_store`'s names (`aws_endpoint`). For
    /// programs that use this crate: where Millrace itself puts them is the environment alone. Unused for local tables.
    pub storage: HashMap<String, String>,
    /// Most parquet writers open at once; when one more is needed, the oldest is closed and its file is complete.
    pub open_files_max: usize,
    /// Most bytes held in memory for rows that are not yet in a file: batches that wait and open writers together. One
    /// slice may exceed it while it is being taken in.
    pub buffer_bytes_max: usize,
    /// Rows of one file wait in memory until they are so many bytes: a slice with few rows for each of many dates opens
    /// no writer for them.
    pub write_bytes_min: usize,
    /// Size at which a file is closed and the next begun, within one commit.
    pub file_bytes_max: u64,
    /// Most files encoded at the same time, each on a blocking thread.
    pub encoders: usize,
    /// Compression of the data files.
    pub compression: Compression,
    /// How long a new table keeps its log entries; at least [`LOG_RETENTION_MIN`]. An existing table keeps its own.
    pub log_retention: Duration,
    /// Commits between two checkpoints.
    pub checkpoint_every: u64,
    /// Whether commits start a checkpoint in the background when one is due. Without it, call
    /// [`crate::Maintainer::run`] on a timer.
    pub background_maintenance: bool,
    /// Age at which a data file that no log entry mentions counts as left behind by a crash. Rows that were staged half as
    /// long ago are not committed, but staged again.
    pub orphan_age: Duration,
    /// Most records that a rewriter's loop should stage for one commit. The rewriter holds up to 16 bytes for each, and
    /// their rows are in files.
    pub rewrite_records_max: u64,
    /// Most files that a rebuild holds back until all of it is there: one more, and it is committed in several pieces.
    pub rebuild_files_max: usize,
    /// Whether [`crate::Maintainer::run`] compacts too.
    pub compaction: bool,
    /// Size that compaction brings files to, at most half of `file_bytes_max`. Only files smaller than half of it are
    /// compacted.
    pub compact_bytes: u64,
    /// Fewest such files that a date and log partition must have before any of them are compacted.
    pub compact_files_min: usize,
    /// Most rows of a row group: the unit that a correction copies or rewrites. For tests.
    #[doc(hidden)]
    pub row_group_rows_max: usize,
}

/// The shortest log retention that a table may have: half of it bounds the age of the view that a commit starts from.
pub const LOG_RETENTION_MIN: Duration = Duration::from_secs(24 * 3600);

impl Default for Options {
    fn default() -> Self {
        Self {
            storage: HashMap::new(),
            open_files_max: 64,
            buffer_bytes_max: 256 << 20,
            write_bytes_min: 4 << 20,
            file_bytes_max: 256 << 20,
            encoders: std::thread::available_parallelism().map_or(1, |n| n.get().min(8)),
            compression: Compression::Zstd,
            log_retention: 2 * LOG_RETENTION_MIN,
            checkpoint_every: 100,
            background_maintenance: true,
            orphan_age: Duration::from_secs(24 * 3600),
            rewrite_records_max: 1_000_000,
            rebuild_files_max: 10_000,
            compaction: true,
            compact_bytes: 128 << 20,
            compact_files_min: 4,
            row_group_rows_max: ROW_GROUP_ROWS_MAX,
        }
    }
}
