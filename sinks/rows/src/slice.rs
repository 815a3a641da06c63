//! What a store commits.

use std::ops::Range;

use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::position::Cursor;

/// A log record that reached no store, and why. It carries no payload and no free text: those could hold personal data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Offset of the record in its partition.
    pub offset: u64,
    /// Revision that decided it.
    pub revision: u64,
    /// Where it failed: `decode`, `check`, or the step as `plugin@version`.
    pub step: String,
    /// Why, as a short constant code of that step.
    pub code: String,
}

/// A contiguous range of one log partition after the chain: the unit that is computed once, cached, and committed by
/// each store on its own.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The log partition.
    pub partition: u32,
    /// First offset consumed.
    pub first: u64,
    /// Where a store stands once it has this slice; `cursor.next` is the end of the range.
    pub cursor: Cursor,
    /// Highest revision that the loop took into account: a store must have exactly this one applied.
    pub applied: u64,
    /// Finished rows in the order (`_offset`, `_sub`), with the schema of [`crate::schema::row_schema`].
    pub rows: RecordBatch,
    /// Records that failed, in offset order.
    pub dead: Vec<DeadLetter>,
    /// Log records read. Less than the length of the range where the log has gaps.
    pub read: u64,
    /// Records that the chain dropped on purpose.
    pub dropped: u64,
}

impl Slice {
    /// The offsets that this slice covers.
    pub fn offsets(&self) -> Range<u64> {
        self.first..self.cursor.next
    }

    /// Memory that the slice holds, in bytes; what caches and commit policies count.
    pub fn memory_bytes(&self) -> usize {
        let dead: usize =
            self.dead.iter().map(|dead| size_of::<DeadLetter>() + dead.step.len() + dead.code.len()).sum();
        size_of::<Self>() + self.rows.get_array_memory_size() + dead
    }
}
