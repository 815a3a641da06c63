//! What a candidate does to rows: the two outcomes of the same records, compared. Pure.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use arrow::array::{Array, ArrayRef, AsArray as _};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use chrono::DateTime;
use millrace_rows::schema::{OFFSET, REVISION, SUB};
use serde::Serialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::transform::Transformed;

/// Most samples of changed values that a preview keeps.
pub const SAMPLES_MAX: usize = 20;
/// Most devices that are counted apart; past it the count is a lower bound, and says so.
pub const DEVICES_MAX: usize = 100_000;
/// Columns that a sample of a row shows which only one side gives, where they have a value.
const MAIN: [&str; 6] = ["type", "event", "event_time", "app", "device_id", "user_id"];
/// Columns whose text says nothing about a person and is shown as it is.
const SHOWN: [&str; 8] = ["type", "event", "app", "app_version", "platform", "os", "device_model", "locale"];

/// Rows of records before and after.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Diff {
    /// Records that were run through both.
    pub records: u64,
    /// Of those, the ones whose rows or dead letter differ.
    pub records_changed: u64,
    /// Rows before.
    pub rows_before: u64,
    /// Rows after.
    pub rows_after: u64,
    /// Rows that only the candidate gives.
    pub rows_added: u64,
    /// Rows that only the chain in force gives.
    pub rows_removed: u64,
    /// Rows of both with another value.
    pub rows_changed: u64,
    /// Rows with another value, by column.
    pub columns: BTreeMap<String, u64>,
    /// Records that would become dead letters, by step and code.
    pub dead_letters_made: BTreeMap<String, u64>,
    /// Records that would be dead letters no more, by step and code.
    pub dead_letters_cured: BTreeMap<String, u64>,
    /// Devices whose history changes.
    pub devices: u64,
    /// Whether there are more than were counted, [`DEVICES_MAX`].
    pub devices_at_least: bool,
    /// Dates of rows that change, before or after, as `YYYY-MM-DD`.
    pub dates: BTreeMap<String, u64>,
    /// Some changes, of as many partitions and kinds as there are. Text that could tell of a person is masked; the same text has the same mask within one preview.
    pub samples: Vec<Sample>,
    #[serde(skip)]
    seen: HashSet<u64>,
    #[serde(skip)]
    kept: Samples,
}

/// Samples while they are gathered: [`SAMPLES_MAX`] at the most, by partition and kind of change. Each of these gives up what
/// it has more than another, so what was seen first has no more than what comes later.
#[derive(Clone, Debug, Default)]
struct Samples {
    by_kind: BTreeMap<(u32, Change), Vec<Sample>>,
    total: usize,
}

impl Samples {
    /// The kind that would give up a sample for one of `kind`: the one with the most, if that has two more.
    fn richer(&self, kind: (u32, Change)) -> Option<(u32, Change)> {
        let has = self.by_kind.get(&kind).map_or(0, Vec::len);
        let (richest, samples) = self.by_kind.iter().max_by_key(|(_, samples)| samples.len())?;
        (samples.len() > has + 1).then_some(*richest)
    }

    fn wants(&self, partition: u32, change: Change) -> bool {
        self.total < SAMPLES_MAX || self.richer((partition, change)).is_some()
    }

    /// Keeps a sample that is wanted.
    fn keep(&mut self, sample: Sample) {
        let kind = (sample.partition, sample.change);
        if self.total < SAMPLES_MAX {
            self.total += 1;
        } else {
            let Some(richer) = self.richer(kind).and_then(|richer| self.by_kind.get_mut(&richer)) else { return };
            richer.pop();
        }
        self.by_kind.entry(kind).or_default().push(sample);
    }

    fn in_order(&mut self) -> Vec<Sample> {
        self.total = 0;
        let mut samples: Vec<Sample> = std::mem::take(&mut self.by_kind).into_values().flatten().collect();
        samples.sort_by_key(|sample| (sample.partition, sample.offset, sample.sub, sample.change));
        samples
    }
}

/// One row that changes.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Log partition.
    pub partition: u32,
    /// Offset of the record.
    pub offset: u64,
    /// Number of the row among those of its record.
    pub sub: u32,
    /// Whether the row is added, removed or changed.
    pub change: Change,
    /// Columns with their values before and after: for changed rows those that change, else the main ones.
    pub columns: BTreeMap<String, [Option<String>; 2]>,
}

/// What happens to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only the candidate gives it.
    Added,
    /// Only the chain in force gives it.
    Removed,
    /// Both give it, with other values.
    Changed,
}

/// The columns of an outcome that are compared, and where its rows stand.
struct Side<'a> {
    columns: Vec<(&'a str, &'a ArrayRef)>,
    offsets: &'a [i64],
    subs: &'a [i64],
}

impl<'a> Side<'a> {
    fn of(rows: &'a RecordBatch) -> Option<Self> {
        let numbers = |name: &str| Some(&**rows.column_by_name(name)?.as_primitive_opt::<Int64Type>()?.values());
        let (offsets, subs) = (numbers(OFFSET)?, numbers(SUB)?);
        let schema = rows.schema_ref();
        let columns = schema.fields().iter().zip(rows.columns());
        let columns = columns.filter(|(field, _)| field.name() != REVISION);
        Some(Self { columns: columns.map(|(field, column)| (field.name().as_str(), column)).collect(), offsets, subs })
    }

    fn place(&self, row: usize) -> Option<(i64, i64)> {
        Some((*self.offsets.get(row)?, *self.subs.get(row)?))
    }

    fn column(&self, name: &str) -> Option<&'a ArrayRef> {
        self.columns.iter().find(|(column, _)| *column == name).map(|(_, column)| *column)
    }
}

impl Diff {
    /// Compares what the same records of a partition became. `mask` is a secret of this preview.
    pub fn add(&mut self, partition: u32, before: &Transformed, after: &Transformed, mask: u64) {
        self.records += after.offsets.len() as u64;
        self.rows_before += before.rows.num_rows() as u64;
        self.rows_after += after.rows.num_rows() as u64;
        let mut changed: HashSet<u64> = HashSet::new();
        self.dead_letters(before, after, &mut changed);
        // An outcome without rows may have no columns either.
        if let (Some(one), Some(two)) = (Side::of(&before.rows), Side::of(&after.rows)) {
            self.rows(partition, &one, &two, mask, &mut changed);
        }
        self.records_changed += changed.len() as u64;
        self.devices = self.seen.len() as u64;
    }

    fn dead_letters(&mut self, before: &Transformed, after: &Transformed, changed: &mut HashSet<u64>) {
        let letters = |outcome: &Transformed| -> BTreeMap<u64, String> {
            outcome.dead.iter().map(|dead| (dead.offset, format!("{}: {}", dead.step, dead.code))).collect()
        };
        let (one, two) = (letters(before), letters(after));
        for (offset, letter) in &two {
            if one.get(offset) != Some(letter) {
                *self.dead_letters_made.entry(letter.clone()).or_default() += 1;
                changed.insert(*offset);
            }
        }
        for (offset, letter) in &one {
            if two.get(offset) != Some(letter) {
                *self.dead_letters_cured.entry(letter.clone()).or_default() += 1;
                changed.insert(*offset);
            }
        }
    }

    fn rows(&mut self, partition: u32, one: &Side<'_>, two: &Side<'_>, mask: u64, changed: &mut HashSet<u64>) {
        let names: Vec<&str> = {
            let mut names: Vec<&str> = two.columns.iter().map(|(name, _)| *name).collect();
            names.extend(one.columns.iter().map(|(name, _)| *name).filter(|name| two.column(name).is_none()));
            names
        };
        let columns: Vec<_> = names.iter().map(|name| (*name, one.column(name), two.column(name))).collect();
        let (mut i, mut j) = (0, 0);
        loop {
            let (left, right) = (one.place(i), two.place(j));
            let place = match (left, right) {
                (Some(left), Some(right)) => left.min(right),
                (Some(place), None) | (None, Some(place)) => place,
                (None, None) => return,
            };
            let at = |change| Sample {
                partition,
                offset: place.0.unsigned_abs(),
                sub: u32::try_from(place.1).unwrap_or(0),
                change,
                columns: BTreeMap::new(),
            };
            let shown = |name: &str, column: &Option<&ArrayRef>, row| column.and_then(|c| shown(name, c, row, mask));
            if left == right {
                let differ = columns.iter().filter(|(_, before, after)| !same(*before, i, *after, j));
                let differ: Vec<_> = differ.collect();
                if !differ.is_empty() {
                    for (name, ..) in &differ {
                        *self.columns.entry((*name).to_owned()).or_default() += 1;
                    }
                    self.rows_changed += 1;
                    self.touch(one, i);
                    self.touch(two, j);
                    self.keep(at(Change::Changed), changed, || {
                        let values = differ.iter().map(|(name, before, after)| {
                            ((*name).to_owned(), [shown(name, before, i), shown(name, after, j)])
                        });
                        values.collect()
                    });
                }
                i += 1;
                j += 1;
            } else if left == Some(place) {
                self.rows_removed += 1;
                self.touch(one, i);
                self.keep(at(Change::Removed), changed, || {
                    let values =
                        MAIN.iter().map(|name| ((*name).to_owned(), [shown(name, &one.column(name), i), None]));
                    values.filter(|(_, [before, _])| before.is_some()).collect()
                });
                i += 1;
            } else {
                self.rows_added += 1;
                self.touch(two, j);
                self.keep(at(Change::Added), changed, || {
                    let values =
                        MAIN.iter().map(|name| ((*name).to_owned(), [None, shown(name, &two.column(name), j)]));
                    values.filter(|(_, [_, after])| after.is_some()).collect()
                });
                j += 1;
            }
        }
    }

    /// Counts a record that changes, and keeps a sample of it where one is wanted: only then are its values read.
    fn keep(
        &mut self,
        sample: Sample,
        changed: &mut HashSet<u64>,
        columns: impl FnOnce() -> BTreeMap<String, [Option<String>; 2]>,
    ) {
        changed.insert(sample.offset);
        if self.kept.wants(sample.partition, sample.change) {
            self.kept.keep(Sample { columns: columns(), ..sample });
        }
    }

    /// Puts samples in their order. To be called once all is added.
    pub fn finish(&mut self) {
        self.samples = self.kept.in_order();
    }

    fn touch(&mut self, side: &Side<'_>, row: usize) {
        let device = side.column("device_id").and_then(|column| column.as_string_opt::<i32>());
        if let Some(device) = device.filter(|device| device.is_valid(row)) {
            let hash = xxh3_64(device.value(row).as_bytes());
            if self.seen.len() < DEVICES_MAX {
                self.seen.insert(hash);
            } else if !self.seen.contains(&hash) {
                self.devices_at_least = true;
            }
        }
        let time = side.column("event_time").and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        if let Some(time) = time.filter(|time| time.is_valid(row))
            && let Some(time) = DateTime::from_timestamp_micros(time.value(row))
        {
            *self.dates.entry(time.date_naive().to_string()).or_default() += 1;
        }
    }
}

/// Whether two cells are the same; a column that is not there is null.
fn same(before: Option<&ArrayRef>, i: usize, after: Option<&ArrayRef>, j: usize) -> bool {
    let null = |column: Option<&ArrayRef>, row: usize| column.is_none_or(|column| column.is_null(row));
    match (before, after) {
        (Some(one), Some(two)) if one.is_valid(i) && two.is_valid(j) => match (one.data_type(), two.data_type()) {
            (DataType::Utf8, DataType::Utf8) => one.as_string::<i32>().value(i) == two.as_string::<i32>().value(j),
            (DataType::Int64, DataType::Int64) => {
                one.as_primitive::<Int64Type>().value(i) == two.as_primitive::<Int64Type>().value(j)
            }
            (DataType::Float64, DataType::Float64) => {
                let (x, y) = (one.as_primitive::<Float64Type>().value(i), two.as_primitive::<Float64Type>().value(j));
                x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan())
            }
            (DataType::Boolean, DataType::Boolean) => one.as_boolean().value(i) == two.as_boolean().value(j),
            (DataType::Timestamp(..), DataType::Timestamp(..)) => {
                one.as_primitive::<TimestampMicrosecondType>().value(i)
                    == two.as_primitive::<TimestampMicrosecondType>().value(j)
            }
            _ => false,
        },
        (one, two) => null(one, i) && null(two, j),
    }
}

/// A value as a preview shows it; `None` for null.
fn shown(name: &str, column: &ArrayRef, row: usize, mask: u64) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Utf8 => {
            let text = column.as_string::<i32>().value(row);
            if SHOWN.contains(&name) {
                text.chars().take(80).collect()
            } else {
                let mut masked = String::new();
                // Writing to a String does not fail.
                let _ = write!(masked, "text of {} bytes #{:08x}", text.len(), masked_hash(text, mask));
                masked
            }
        }
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).to_string(),
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Timestamp(..) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            DateTime::from_timestamp_micros(micros).map_or_else(|| micros.to_string(), |time| time.to_rfc3339())
        }
        other => format!("a value of type {other}"),
    })
}

/// 32 bits of a hash under a secret of the preview: they tell whether two texts are the same, and nothing else.
fn masked_hash(text: &str, mask: u64) -> u32 {
    (xxh3_64_with_seed(text.as_bytes(), mask) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};
    use millrace_rows::DeadLetter;

    use super::*;

    type Row = (i64, i64, &'static str, Option<i64>);

    fn outcome(offsets: &[u64], rows: &[Row], dead: &[(u64, &str)]) -> Transformed {
        let schema = Schema::new(vec![
            Field::new("device_id", DataType::Utf8, true),
            Field::new("added", DataType::Int64, true),
            Field::new(OFFSET, DataType::Int64, true),
            Field::new(SUB, DataType::Int64, true),
            Field::new(REVISION, DataType::Int64, true),
        ]);
        let numbers = |of: fn(&Row) -> i64| Arc::new(rows.iter().map(|row| Some(of(row))).collect::<Int64Array>());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| Some(row.2)).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| row.3).collect::<Int64Array>()),
            numbers(|row| row.0),
            numbers(|row| row.1),
            numbers(|row| row.0 * 7),
        ];
        let dead = dead.iter().map(|(offset, code)| DeadLetter {
            offset: *offset,
            revision: 1,
            step: "step".into(),
            code: (*code).into(),
        });
        Transformed {
            offsets: offsets.to_vec(),
            rows: RecordBatch::try_new(Arc::new(schema), columns).unwrap(),
            dead: dead.collect(),
            dropped: 0,
            plugin_failures: 0,
            drops: vec![],
            failures: vec![],
            logs: vec![],
            steps: vec![],
        }
    }

    #[test]
    fn rows_are_matched_by_their_place_and_told_apart_by_their_values() {
        let before = outcome(
            &[1, 2, 3, 4, 5],
            &[(1, 0, "a", None), (2, 0, "b", Some(1)), (3, 0, "c", None), (3, 1, "c", None)],
            &[(4, "old"), (5, "same")],
        );
        let after = outcome(
            &[1, 2, 3, 4, 5],
            &[(1, 0, "a", None), (2, 0, "x", Some(2)), (3, 0, "c", None), (4, 0, "d", None)],
            &[(2, "new"), (5, "same")],
        );
        let mut diff = Diff::default();
        diff.add(7, &before, &after, 1);
        diff.finish();
        assert_eq!((diff.records, diff.records_changed), (5, 3));
        assert_eq!((diff.rows_before, diff.rows_after), (4, 4));
        assert_eq!((diff.rows_added, diff.rows_removed, diff.rows_changed), (1, 1, 1));
        assert_eq!(diff.columns, [("added".to_owned(), 1), ("device_id".to_owned(), 1)].into());
        assert_eq!(diff.dead_letters_made, [("step: new".to_owned(), 1)].into());
        assert_eq!(diff.dead_letters_cured, [("step: old".to_owned(), 1)].into());
        assert_eq!(diff.devices, 4, "b, x, c and d");
        let changed = &diff.samples[0];
        assert_eq!((changed.partition, changed.offset, changed.change), (7, 2, Change::Changed));
        assert_eq!(changed.columns["added"], [Some("1".to_owned()), Some("2".to_owned())]);
        let device = changed.columns["device_id"][1].as_deref().unwrap();
        assert!(device.starts_with("text of 1 bytes #"), "masked: {device}");
        let (removed, added) = (&diff.samples[1], &diff.samples[2]);
        assert_eq!((removed.change, added.change), (Change::Removed, Change::Added));
        let [Some(before), None] = &removed.columns["device_id"] else { panic!("{removed:?}") };
        let [None, Some(after)] = &added.columns["device_id"] else { panic!("{added:?}") };
        assert!(before.starts_with("text of 1 bytes #") && after.starts_with("text of 1 bytes #"), "masked");
        assert_eq!(removed.columns.len(), 1, "what is null is not shown: {removed:?}");
    }

    /// An outcome with one row of a device for each offset.
    fn rows_of(offsets: Range<u64>, device: &'static str) -> Transformed {
        let rows: Vec<Row> = offsets.clone().map(|offset| (i64::try_from(offset).unwrap(), 0, device, None)).collect();
        outcome(&offsets.collect::<Vec<_>>(), &rows, &[])
    }

    #[test]
    fn samples_are_of_all_partitions_and_kinds() {
        let nothing = |offsets: Range<u64>| outcome(&offsets.collect::<Vec<_>>(), &[], &[]);
        let mut diff = Diff::default();
        // The first partition alone would fill them all.
        for partition in 0..3 {
            diff.add(partition, &rows_of(0..100, "a"), &rows_of(0..100, "b"), 1);
        }
        diff.add(3, &nothing(0..100), &rows_of(0..100, "b"), 1);
        diff.add(3, &rows_of(100..200, "a"), &nothing(100..200), 1);
        diff.finish();
        let count = |partition, change| {
            diff.samples.iter().filter(|sample| (sample.partition, sample.change) == (partition, change)).count()
        };
        assert_eq!(diff.samples.len(), SAMPLES_MAX);
        for (partition, change) in
            [(0, Change::Changed), (1, Change::Changed), (2, Change::Changed), (3, Change::Added), (3, Change::Removed)]
        {
            assert_eq!(count(partition, change), SAMPLES_MAX / 5, "partition {partition}, {change:?}");
        }
        let places: Vec<_> = diff.samples.iter().map(|sample| (sample.partition, sample.offset)).collect();
        assert!(places.is_sorted(), "{places:?}");
    }

    #[test]
    fn more_partitions_than_samples_have_one_each_as_far_as_they_go() {
        let mut diff = Diff::default();
        for partition in 0..50 {
            diff.add(partition, &rows_of(0..30, "a"), &rows_of(0..30, "b"), 1);
        }
        diff.finish();
        let partitions: HashSet<u32> = diff.samples.iter().map(|sample| sample.partition).collect();
        assert_eq!((diff.samples.len(), partitions.len()), (SAMPLES_MAX, SAMPLES_MAX));
    }

    #[test]
    fn a_count_of_devices_that_is_a_bound_says_so() {
        let mut diff = Diff::default();
        diff.seen.extend(0..u64::try_from(DEVICES_MAX).unwrap() - 2);
        diff.add(0, &rows_of(0..10, "a"), &rows_of(0..10, "b"), 1);
        assert_eq!((diff.devices, diff.devices_at_least), (DEVICES_MAX as u64, false));
        diff.add(0, &rows_of(10..20, "a"), &rows_of(10..20, "b"), 1);
        assert!(!diff.devices_at_least, "both are counted already");
        diff.add(0, &rows_of(20..21, "a"), &rows_of(20..21, "c"), 1);
        assert_eq!((diff.devices, diff.devices_at_least), (DEVICES_MAX as u64, true));
    }

    #[test]
    fn samples_are_bounded() {
        let offsets: Vec<u64> = (0..100).collect();
        let rows: Vec<Row> = (0..100).map(|offset| (offset, 0, "a", None)).collect();
        let mut diff = Diff::default();
        diff.add(0, &outcome(&offsets, &rows, &[]), &outcome(&offsets, &[], &[]), 1);
        diff.finish();
        assert_eq!((diff.rows_removed, diff.samples.len()), (100, SAMPLES_MAX));
    }
}
