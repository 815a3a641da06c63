//! From a slice to the writes of its transactions. No I/O, no state: it runs on a blocking thread.

use std::ops::Range;

use arrow::array::{Array, AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use millrace_keyspace::{BATCH_BYTES_MAX, Write};
use millrace_rows::canonical::{RowEncoder, UnsupportedColumn};
use millrace_rows::{Cursor, DeadLetter, Mark, Slice, schema};

use crate::codec;
use crate::keys::Keys;
use crate::lineage::{self, LineageRow};
use crate::value::{CHUNK_BYTES, SplitHead, chunks, push_chunk_element};

/// Bytes of keys and values at which a transaction is cut, unless it is a single record.
pub const TRANSACTION_BYTES: usize = 800_000;
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

/// A slice that can't be stored: a fault of whoever made it, or a record beyond what its checks should let through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error("a slice of partition {partition} from offset {first}: {detail}")]
    Slice { partition: u32, first: u64, detail: String },
    #[error(
        "partition {partition}: the record at offset {offset} makes {bytes} bytes of rows, more than one transaction \
         holds ({BATCH_BYTES_MAX}): correct it with a chain that makes less of it"
    )]
    TooLarge { partition: u32, offset: u64, bytes: usize },
    #[error(transparent)]
    Column(#[from] UnsupportedColumn),
}

/// The columns that place a row.
struct Places<'a> {
    device: &'a StringArray,
    time: &'a TimestampMicrosecondArray,
    offset: &'a Int64Array,
    sub: &'a Int64Array,
    revision: &'a Int64Array,
}

/// Cuts a slice into transactions. There is at least one: the cursor moves even where nothing is left of the records.
pub(crate) fn cut(slice: &Slice, keys: &Keys, limits: Limits) -> Result<Vec<Part>, EncodeError> {
    let places = check(slice)?;
    let encoder = RowEncoder::new(&slice.rows)?;
    let mut parts = Vec::new();
    let mut open = Open::new(slice, keys, slice.first_read(), limits);
    let (mut row, mut dead) = (0, 0);
    loop {
        let offset_of = |row: usize| places.offset.value(row) as u64;
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
        if open.size() > limits.bytes && before.data > 0 {
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
    let numbers =
        |name| int64(&slice.rows, name).ok_or_else(|| fault(format!("column {name:?} is missing or has nulls")));
    let column = |name| {
        let column = slice.rows.column_by_name(name).filter(|column| column.null_count() == 0);
        column.ok_or_else(|| fault(format!("column {name:?} is missing or has nulls")))
    };
    let typed = |name: &str| fault(format!("column {name:?} is of another type"));
    let places = Places {
        device: column("device_id")?.as_string_opt().ok_or_else(|| typed("device_id"))?,
        time: column("event_time")?
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| typed("event_time"))?,
        offset: numbers(schema::OFFSET)?,
        sub: numbers(schema::SUB)?,
        revision: numbers(schema::REVISION)?,
    };
    let partition = numbers(schema::PARTITION)?;
    let offsets = slice.first_read()..slice.cursor.next;
    let covers = |offset: i64| u64::try_from(offset).is_ok_and(|offset| offsets.contains(&offset));
    let mut last = None;
    for row in 0..slice.rows.num_rows() {
        let place = (places.offset.value(row), places.sub.value(row));
        let sound = covers(place.0)
            && last < Some(place)
            && u32::try_from(place.1).is_ok()
            && partition.value(row) == i64::from(slice.partition)
            && places.revision.value(row) >= 0
            && places.time.value(row) >= 0;
        if !sound {
            return Err(fault(format!(
                "row {row} (partition {}, offset {}, sub {}, revision {}, event time {}) is out of order or out of range",
                partition.value(row),
                place.0,
                place.1,
                places.revision.value(row),
                places.time.value(row)
            )));
        }
        last = Some(place);
    }
    let letters_sound = slice.dead.is_sorted_by(|a, b| a.offset < b.offset)
        && slice.dead.iter().all(|dead| offsets.contains(&dead.offset));
    if !letters_sound {
        return Err(fault("the dead letters are out of order or out of range".to_owned()));
    }
    Ok(places)
}

fn int64<'a>(rows: &'a RecordBatch, name: &str) -> Option<&'a Int64Array> {
    rows.column_by_name(name)?.as_primitive_opt::<Int64Type>().filter(|column| column.null_count() == 0)
}

/// A transaction that is being filled: keys and values one after the other in one buffer, so that a row costs no
/// allocation of its own.
struct Open<'a> {
    slice: &'a Slice,
    keys: &'a Keys,
    limits: Limits,
    first: u64,
    data: Vec<u8>,
    /// Where the key and the value of each pair end.
    ends: Vec<(usize, usize)>,
    lineage: Vec<LineageRow<&'a str>>,
    /// Upper bound of the packed lineage's size.
    lineage_bytes: usize,
}

/// How far an [`Open`] was filled.
#[derive(Clone, Copy)]
struct Filled {
    data: usize,
    ends: usize,
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
            data: Vec::with_capacity(room),
            ends: Vec::new(),
            lineage: Vec::new(),
            lineage_bytes: lineage::HEAD_BYTES_MAX,
        }
    }

    fn mark(&self) -> Filled {
        Filled {
            data: self.data.len(),
            ends: self.ends.len(),
            lineage: self.lineage.len(),
            lineage_bytes: self.lineage_bytes,
        }
    }

    fn size(&self) -> usize {
        self.data.len() + self.lineage_bytes + STATE_BYTES
    }

    /// Moves what was added since `mark` to a new transaction that begins at `first`.
    fn split_off(&mut self, mark: Filled, first: u64) -> Self {
        let mut next = Self::new(self.slice, self.keys, first, self.limits);
        next.data.extend_from_slice(&self.data[mark.data..]);
        next.ends.extend(self.ends.drain(mark.ends..).map(|(key, value)| (key - mark.data, value - mark.data)));
        next.lineage.extend(self.lineage.drain(mark.lineage..));
        next.lineage_bytes += self.lineage_bytes - mark.lineage_bytes;
        self.data.truncate(mark.data);
        self.lineage_bytes = mark.lineage_bytes;
        next
    }

    fn push_row(&mut self, places: &Places<'a>, encoder: &RowEncoder<'_>, row: usize) {
        let (device_id, event_time_us) = (places.device.value(row), places.time.value(row));
        // Checked above: neither is negative, and the number of a row fits.
        let (offset, sub) = (places.offset.value(row) as u64, places.sub.value(row) as u32);
        let start = self.data.len();
        self.keys.push_row(&mut self.data, device_id, event_time_us, self.slice.partition, offset, sub);
        let key_end = self.data.len();
        encoder.encode(row, &mut self.data);
        let chunks = self.finish_value(start, key_end);
        let revision = places.revision.value(row) as u64;
        self.lineage.push(LineageRow { offset, sub, device_id, event_time_us, revision, chunks });
        self.lineage_bytes += lineage::ROW_BYTES_MAX + lineage::DEVICE_BYTES_MAX + device_id.len();
    }

    fn push_dead(&mut self, letter: &DeadLetter) {
        self.keys.push_dead(&mut self.data, self.slice.partition, letter.offset);
        let key_end = self.data.len();
        codec::push_dead(&mut self.data, letter);
        self.ends.push((key_end, self.data.len()));
    }

    /// Ends the pair whose key stands at `start..key_end` and whose value is the rest; splits it if it must be. Returns
    /// the number of chunks.
    fn finish_value(&mut self, start: usize, key_end: usize) -> u32 {
        let length = self.data.len() - key_end;
        if chunks(length) == 0 {
            self.ends.push((key_end, self.data.len()));
            return 0;
        }
        let value = self.data.split_off(key_end);
        let head = SplitHead::of(length);
        self.data.extend_from_slice(&head.encode());
        self.ends.push((key_end, self.data.len()));
        for (chunk, bytes) in (0..head.chunks).zip(value.chunks(CHUNK_BYTES)) {
            self.data.extend_from_within(start..key_end);
            push_chunk_element(&mut self.data, chunk);
            let key_end = self.data.len();
            self.data.extend_from_slice(bytes);
            self.ends.push((key_end, self.data.len()));
        }
        head.chunks
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
            let start = self.data.len();
            self.data.extend_from_slice(&self.keys.lineage(slice.partition, self.first));
            let key_end = self.data.len();
            self.data.extend_from_slice(&lineage::encode(self.first..end, &self.lineage));
            self.finish_value(start, key_end);
        }
        let bytes = self.data.len();
        if bytes + STATE_BYTES > BATCH_BYTES_MAX {
            // Only a single record can: everything else is cut far below.
            let offset = self.lineage.first().map_or(self.first, |row| row.offset);
            return Err(EncodeError::TooLarge { partition: slice.partition, offset, bytes });
        }
        // The keyspace may keep the buffer for as long as a write buffer lives: not much more than what is in it.
        if self.data.capacity() > bytes + bytes / 4 {
            self.data.shrink_to_fit();
        }
        let data = Bytes::from(self.data);
        let mut start = 0;
        let put = |(key_end, end): (usize, usize)| {
            let pair: Range<usize> = start..end;
            start = end;
            Write::Put(data.slice(pair.start..key_end), data.slice(key_end..pair.end))
        };
        let writes = self.ends.into_iter().map(put).collect();
        Ok(Part { partition: slice.partition, writes, cursor, bytes })
    }
}
