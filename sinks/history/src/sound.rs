//! The checks on rows and dead letters that the stored form relies on, for slices and for rewrites.

use arrow::array::{Array, AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use millrace_rows::{DeadLetter, schema};

/// The columns that place a row, of a batch that was found sound.
pub(crate) struct Places<'a> {
    device: &'a StringArray,
    time: &'a TimestampMicrosecondArray,
    offset: &'a Int64Array,
    sub: &'a Int64Array,
    revision: &'a Int64Array,
}

// The casts: `check` has seen that no number is negative, and that the number of a row among its record's fits.
impl<'a> Places<'a> {
    pub(crate) fn device(&self, row: usize) -> &'a str {
        self.device.value(row)
    }

    pub(crate) fn time(&self, row: usize) -> i64 {
        self.time.value(row)
    }

    pub(crate) fn offset(&self, row: usize) -> u64 {
        self.offset.value(row) as u64
    }

    pub(crate) fn sub(&self, row: usize) -> u32 {
        self.sub.value(row) as u32
    }

    pub(crate) fn revision(&self, row: usize) -> u64 {
        self.revision.value(row) as u64
    }
}

/// Checks that rows and dead letters are of the partition and of records that `covers` allows, in order, each place once,
/// and that no record has both; finds the columns that place a row. The error says what is wrong.
pub(crate) fn check<'a>(
    partition: u32,
    covers: impl Fn(u64) -> bool,
    rows: &'a RecordBatch,
    dead: &[DeadLetter],
) -> Result<Places<'a>, String> {
    let column = |name| {
        let column = rows.column_by_name(name).filter(|column| column.null_count() == 0);
        column.ok_or_else(|| format!("column {name:?} is missing or has nulls"))
    };
    let typed = |name: &str| format!("column {name:?} is of another type");
    let numbers = |name| column(name)?.as_primitive_opt::<Int64Type>().ok_or_else(|| typed(name));
    let places = Places {
        device: column("device_id")?.as_string_opt().ok_or_else(|| typed("device_id"))?,
        time: column("event_time")?
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| typed("event_time"))?,
        offset: numbers(schema::OFFSET)?,
        sub: numbers(schema::SUB)?,
        revision: numbers(schema::REVISION)?,
    };
    let partitions = numbers(schema::PARTITION)?;
    let mut last = None;
    for row in 0..rows.num_rows() {
        let place = (places.offset.value(row), places.sub.value(row));
        let sound = u64::try_from(place.0).is_ok_and(&covers)
            && last < Some(place)
            && u32::try_from(place.1).is_ok()
            && partitions.value(row) == i64::from(partition)
            && places.revision.value(row) >= 0
            && places.time.value(row) >= 0;
        if !sound {
            return Err(format!(
                "row {row} (partition {}, offset {}, sub {}, revision {}, event time {}) is out of order or out of range",
                partitions.value(row),
                place.0,
                place.1,
                places.revision.value(row),
                places.time.value(row)
            ));
        }
        last = Some(place);
    }
    let letters_sound =
        dead.is_sorted_by(|a, b| a.offset < b.offset) && dead.iter().all(|letter| covers(letter.offset));
    if !letters_sound {
        return Err("the dead letters are out of order or out of range".to_owned());
    }
    // A rewrite relies on it: where a record has rows it looks for no dead letter.
    let has_rows = |letter: &&DeadLetter| {
        let offsets = places.offset.values();
        offsets.binary_search_by(|offset| (*offset as u64).cmp(&letter.offset)).is_ok()
    };
    if let Some(letter) = dead.iter().find(has_rows) {
        return Err(format!("the record at offset {} has rows and a dead letter", letter.offset));
    }
    Ok(places)
}
