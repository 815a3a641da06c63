//! From a slice to the writes of its transactions. No I/O, no state: it runs on a blocking thread.

use std::ops::Range;

use millrace_keyspace::{BATCH_BYTES_MAX, Write};
use millrace_rows::canonical::{RowEncoder, UnsupportedColumn};
use millrace_rows::{Cursor, DeadLetter, Mark, Slice};

use crate::keys::Keys;
use crate::lineage::{self, LineageRow};
use crate::pairs::{Filled, Pairs};
use crate::sound::{self, Places};

/// Bytes of keys and values at which a transaction is cut, unless it is a single record.
pub const TRANSACTION_BYTES: usize = 800_000;
/// Bytes of keys and values at which a transaction that makes records again is cut, unless it is a single record: so much
/// more that what one transaction of the live loop wrote can give way, as a rule, in one.
pub const REWRITE_TRANSACTION_BYTES: usize = 950_000;
/// Most log records of one transaction, those without rows counted.
pub const TRANSACTION_RECORDS_MAX: u64 = 8192;

/// Room for what the store adds to each transaction: the cursor and `applied`, compared and written. A root's name is a
/// part of each of their keys.
const STATE_BYTES: usize = 4096;

/// Where transactions are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) bytes: usize,
    pub(crate) records: u64,
}

impl Limits {
    /// Where transactions that make records again are cut.
    pub(crate) fn of_rewrites() -> Self {
        Self { bytes: REWRITE_TRANSACTION_BYTES, ..Self::default() }
    }

    /// Cuts earlier than by default, never later.
    pub(crate) fn at_most(bytes: usize, records: u64) -> Self {
        let most = Self::default();
        Self { bytes: bytes.min(most.bytes), records: records.clamp(1, most.records) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: TRANSACTION_BYTES, records: TRANSACTION_RECORDS_MAX }
    }
}

/// One transaction but for its compares and its cursor.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) partition: u32,
    pub(crate) writes: Vec<Write>,
    /// Where the partition stands after it.
    pub(crate) cursor: Cursor,
    /// Bytes of keys and values.
    pub(crate) bytes: usize,
}

/// Rows that can't be stored: a fault of whoever made it, or a record beyond what its checks should let through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error("a slice of partition {partition} from offset {first}: {detail}")]
    Slice { partition: u32, first: u64, detail: String },
    #[error("records {offsets:?} of partition {partition}, made again: {detail}")]
    Rewrite { partition: u32, offsets: Range<u64>, detail: String },
    #[error(
        "partition {partition}: the record at offset {offset} makes {bytes} bytes of rows, more than one transaction \
         holds ({BATCH_BYTES_MAX}): correct it with a chain that makes less of it"
    )]
    TooLarge { partition: u32, offset: u64, bytes: usize },
    #[error(transparent)]
    Column(#[from] UnsupportedColumn),
}

/// Cuts a slice into transactions. There is at least one: the cursor moves even where nothing is left of the records.
pub(crate) fn cut(slice: &Slice, keys: &Keys, limits: Limits) -> Result<Vec<Part>, EncodeError> {
    let places = check(slice)?;
    let encoder = RowEncoder::new(&slice.rows)?;
    let mut parts = Vec::new();
    let mut open = Open::new(slice, keys, slice.first_read(), limits);
    let (mut row, mut dead) = (0, 0);
    loop {
        let offset_of = |row: usize| places.offset(row);
        let with_row = (row < slice.rows.num_rows()).then(|| offset_of(row));
        let with_dead = slice.dead.get(dead).map(|dead| dead.offset);
        let Some(offset) = with_row.into_iter().chain(with_dead).min() else { break };
        open = close_full(open, &mut parts, offset)?;

        let before = open.mark();
        while row < slice.rows.num_rows() && offset_of(row) == offset {
            open.push_row(&places, &encoder, row);
            row += 1;
        }
        while let Some(letter) = slice.dead.get(dead).filter(|dead| dead.offset == offset) {
            open.push_dead(letter);
            dead += 1;
        }
        if open.size() > limits.bytes && !before.pairs.is_empty() {
            let next = open.split_off(before, offset);
            parts.push(open.close(offset)?);
            open = next;
        }
    }
    open = close_full(open, &mut parts, slice.cursor.next.saturating_sub(1))?;
    parts.push(open.close(slice.cursor.next)?);
    Ok(parts)
}

/// Closes transactions that have their full number of records until `offset` fits.
fn close_full<'a>(mut open: Open<'a>, parts: &mut Vec<Part>, offset: u64) -> Result<Open<'a>, EncodeError> {
    while offset.saturating_sub(open.first) >= open.limits.records {
        let end = open.first + open.limits.records;
        let next = Open::new(open.slice, open.keys, end, open.limits);
        parts.push(open.close(end)?);
        open = next;
    }
    Ok(open)
}

/// Checks what the stored form relies on and finds the columns that place a row.
fn check(slice: &Slice) -> Result<Places<'_>, EncodeError> {
    let fault = |detail: String| EncodeError::Slice { partition: slice.partition, first: slice.first, detail };
    if slice.marks.len() as u64 != slice.read || slice.first_read() < slice.first || slice.cursor.next < slice.first {
        return Err(fault(format!(
            "{} marks for {} records read in the offsets {:?}",
            slice.marks.len(),
            slice.read,
            slice.offsets()
        )));
    }
    if slice.marks.last().is_some_and(|mark| *mark != slice.cursor.mark || *mark == Mark::NONE) {
        return Err(fault("the cursor's mark is not that of the last record read".to_owned()));
    }
    let offsets = slice.first_read()..slice.cursor.next;
    sound::check(slice.partition, |offset| offsets.contains(&offset), &slice.rows, &slice.dead).map_err(fault)
}

/// A transaction that is being filled.
struct Open<'a> {
    slice: &'a Slice,
    keys: &'a Keys,
    limits: Limits,
    first: u64,
    pairs: Pairs,
    lineage: Vec<LineageRow<&'a str>>,
    /// Upper bound of the packed lineage's size.
    lineage_bytes: usize,
}

/// How far an [`Open`] was filled.
#[derive(Clone, Copy)]
struct Before {
    pairs: Filled,
    lineage: usize,
    lineage_bytes: usize,
}

impl<'a> Open<'a> {
    fn new(slice: &'a Slice, keys: &'a Keys, first: u64, limits: Limits) -> Self {
        let room = slice.rows.get_array_memory_size().min(limits.bytes);
        Self {
            slice,
            keys,
            limits,
            first,
            pairs: Pairs::with_capacity(room),
            lineage: Vec::new(),
            lineage_bytes: lineage::HEAD_BYTES_MAX,
        }
    }

    fn mark(&self) -> Before {
        Before { pairs: self.pairs.mark(), lineage: self.lineage.len(), lineage_bytes: self.lineage_bytes }
    }

    fn size(&self) -> usize {
        self.pairs.bytes() + self.lineage_bytes + STATE_BYTES
    }

    /// Moves what was added since `mark` to a new transaction that begins at `first`.
    fn split_off(&mut self, mark: Before, first: u64) -> Self {
        let mut next = Self::new(self.slice, self.keys, first, self.limits);
        self.pairs.move_since(mark.pairs, &mut next.pairs);
        next.lineage.extend(self.lineage.drain(mark.lineage..));
        next.lineage_bytes += self.lineage_bytes - mark.lineage_bytes;
        self.lineage_bytes = mark.lineage_bytes;
        next
    }

    fn push_row(&mut self, places: &Places<'a>, encoder: &RowEncoder<'_>, row: usize) {
        let lineage = self.pairs.push_row(self.keys, self.slice.partition, places, encoder, row);
        self.lineage_bytes += lineage::ROW_BYTES_MAX + lineage::DEVICE_BYTES_MAX + lineage.device_id.len();
        self.lineage.push(lineage);
    }

    fn push_dead(&mut self, letter: &DeadLetter) {
        self.pairs.push_dead(self.keys, self.slice.partition, letter);
    }

    /// Ends the transaction in front of the record at `end`.
    fn close(mut self, end: u64) -> Result<Part, EncodeError> {
        let slice = self.slice;
        let cursor = if end == slice.cursor.next { Some(slice.cursor) } else { slice.cursor_after(end - 1) };
        let cursor = cursor.ok_or_else(|| EncodeError::Slice {
            partition: slice.partition,
            first: slice.first,
            detail: format!("no mark of the record before offset {end}"),
        })?;
        if self.first < end {
            let key = self.keys.lineage(slice.partition, self.first);
            self.pairs.push(&key, &lineage::encode(self.first..end, &self.lineage));
        }
        let bytes = self.pairs.bytes();
        if bytes + STATE_BYTES > BATCH_BYTES_MAX {
            // Only a single record can: everything else is cut far below.
            let offset = self.lineage.first().map_or(self.first, |row| row.offset);
            return Err(EncodeError::TooLarge { partition: slice.partition, offset, bytes });
        }
        Ok(Part { partition: slice.partition, writes: self.pairs.into_writes(), cursor, bytes })
    }
}
