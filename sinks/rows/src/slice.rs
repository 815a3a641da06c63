//! What a store commits.

use std::ops::Range;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::position::{Cursor, Mark};

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
    /// Fingerprints of the records read, `read` of them, in offset order. A gap of the log stands only at the start of a
    /// slice (the loop ends a slice where a gap begins), so they belong to the last `read` offsets of the range. A store
    /// with small transactions needs them to leave a checkable cursor in the middle of a slice.
    pub marks: Arc<[Mark]>,
    /// Records that the chain dropped on purpose.
    pub dropped: u64,
}

impl Slice {
    /// The offsets that this slice covers.
    pub fn offsets(&self) -> Range<u64> {
        self.first..self.cursor.next
    }

    /// Offset of the first record read; the end of the range when none was. Before it there is only a gap.
    pub fn first_read(&self) -> u64 {
        self.cursor.next.saturating_sub(self.marks.len() as u64)
    }

    /// Where a store stands once it has this slice up to and with the record at `offset`; `None` when the slice read no
    /// such record.
    pub fn cursor_after(&self, offset: u64) -> Option<Cursor> {
        let record = usize::try_from(offset.checked_sub(self.first_read())?).ok()?;
        let mark = *self.marks.get(record)?;
        Some(Cursor { log: self.cursor.log, next: offset + 1, mark })
    }

    /// Memory that the slice holds, in bytes; what caches and commit policies count.
    pub fn memory_bytes(&self) -> usize {
        let dead: usize =
            self.dead.iter().map(|dead| size_of::<DeadLetter>() + dead.step.len() + dead.code.len()).sum();
        size_of::<Self>() + self.rows.get_array_memory_size() + size_of_val(&*self.marks) + dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::LogId;
    use crate::schema::row_schema;

    #[test]
    fn a_cursor_in_the_middle_carries_the_mark_of_the_record_before_it() {
        let marks: Vec<Mark> = (1..=3).map(|id| Mark::of(id, 0)).collect();
        let log = LogId([7; 16]);
        let slice = Slice {
            partition: 0,
            first: 10,
            // Offsets 10 to 13 are a gap; 14, 15 and 16 were read.
            cursor: Cursor { log, next: 17, mark: marks[2] },
            applied: 1,
            rows: RecordBatch::new_empty(row_schema(&[])),
            dead: Vec::new(),
            read: 3,
            marks: marks.clone().into(),
            dropped: 3,
        };
        assert_eq!(slice.first_read(), 14);
        assert_eq!(slice.cursor_after(13), None);
        assert_eq!(slice.cursor_after(14), Some(Cursor { log, next: 15, mark: marks[0] }));
        assert_eq!(slice.cursor_after(16), Some(slice.cursor));
        assert_eq!(slice.cursor_after(17), None);
    }
}
