//! A made-up log and what each of its records becomes; slices of it; and what a history made from it must hold.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by a panic")]

pub mod rewriting;
pub mod timeline;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray, new_null_array};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use millrace_history::{HistoryReader, RowKey};
use millrace_keyspace::Keyspace;
use millrace_keyspace::conformance::place::Place;
use millrace_keyspace::memory::MemoryKeyspace;
use millrace_rows::canonical::RowEncoder;
use millrace_rows::schema::row_schema;
use millrace_rows::{Cursor, DeadLetter, LogId, Mark, Rewrite, Slice, StoreState};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub const ROOT: &str = "test";
pub const LOG: LogId = LogId([0x1d; 16]);

/// One finished row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub device: String,
    pub time: i64,
    pub kind: &'static str,
    pub event: &'static str,
    pub text: String,
}

/// What the chain made of a record. An empty list of rows: it was dropped.
#[derive(Clone, Debug)]
pub enum Outcome {
    Rows(Vec<Row>),
    Dead,
}

/// One partition of a log. Offsets that are missing are gaps.
#[derive(Clone, Debug)]
pub struct Log {
    pub partition: u32,
    pub records: BTreeMap<u64, Outcome>,
}

/// The keyspaces that a test runs on, one after the other, each with what must live as long: memory, and a new prefix of
/// FoundationDB where there is a cluster for tests.
pub async fn keyspaces(test: &str) -> Vec<(Arc<dyn Keyspace>, Option<Place>)> {
    let memory: Arc<dyn Keyspace> = Arc::new(MemoryKeyspace::default());
    let mut keyspaces = vec![(memory, None)];
    if let Some(place) = Place::cluster(test) {
        keyspaces.push((place.open(Default::default()).await.keyspace, Some(place)));
    }
    keyspaces
}

/// All pairs of a keyspace.
pub async fn dump(keyspace: &Arc<dyn Keyspace>) -> Vec<(Bytes, Bytes)> {
    let snapshot = keyspace.snapshot().await.unwrap();
    let (mut pairs, mut from) = (Vec::new(), Vec::new());
    loop {
        let page = snapshot.range(&from, &[0xff; 16], usize::MAX).await.unwrap();
        pairs.extend(page.pairs);
        match pairs.last() {
            Some((last, _)) if page.more => from = [last as &[u8], &[0]].concat(),
            _ => return pairs,
        }
    }
}

pub fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub fn mark(partition: u32, offset: u64) -> Mark {
    Mark::of(u128::from(partition) << 64 | u128::from(offset), 7)
}

const DEVICES: [&str; 6] = ["phone", "phone2", "tab\0let", "\0", "größe-💾", "a"];

/// Few devices and few times, so that rows meet; now and then a row that must be split.
pub fn random_row(random: &mut StdRng) -> Row {
    let length = match random.random_range(0..60) {
        0 => random.random_range(85_000..200_000),
        1 => random.random_range(5_000..40_000),
        _ => random.random_range(0..200),
    };
    Row {
        device: DEVICES[random.random_range(0..DEVICES.len())].to_owned(),
        time: if random.random_bool(0.3) {
            random.random_range(0..5)
        } else {
            random.random_range(0..4_000_000_000_000_000)
        },
        kind: ["track", "page"][random.random_range(0..2)],
        event: ["open", "close", "buy"][random.random_range(0..3)],
        text: "x".repeat(length),
    }
}

pub fn random_outcome(random: &mut StdRng) -> Outcome {
    match random.random_range(0..10) {
        0 => Outcome::Dead,
        1 | 2 => Outcome::Rows(Vec::new()),
        3 => Outcome::Rows((0..random.random_range(2..5)).map(|_| random_row(random)).collect()),
        _ => Outcome::Rows(vec![random_row(random)]),
    }
}

impl Log {
    /// `records` records from offset 0 on, with a gap now and then.
    pub fn random(partition: u32, records: usize, random: &mut StdRng) -> Self {
        let mut log = Self { partition, records: BTreeMap::new() };
        let mut offset = 0;
        for _ in 0..records {
            if random.random_bool(0.02) {
                offset += random.random_range(1..50);
            }
            log.records.insert(offset, random_outcome(random));
            offset += 1;
        }
        log
    }

    /// Every record one row.
    pub fn of_rows(partition: u32, rows: impl IntoIterator<Item = Row>) -> Self {
        let records = rows.into_iter().enumerate().map(|(offset, row)| (offset as u64, Outcome::Rows(vec![row])));
        Self { partition, records: records.collect() }
    }

    pub fn end(&self) -> u64 {
        self.records.keys().next_back().map_or(0, |last| last + 1)
    }

    /// A slice of at most `count` records from `first` on: a gap stands only at its start.
    pub fn slice(&self, first: u64, count: usize, applied: u64) -> Option<Slice> {
        let mut next = None;
        let records: Vec<u64> = self
            .records
            .range(first..)
            .map(|(offset, _)| *offset)
            .take_while(|offset| next.replace(offset + 1).is_none_or(|expected| expected == *offset))
            .take(count)
            .collect();
        let last = *records.last()?;
        let covered = first..last + 1;
        let rows = self.rows(covered.clone(), |_| applied);
        let marks: Arc<[Mark]> = records.iter().map(|offset| mark(self.partition, *offset)).collect();
        Some(Slice {
            partition: self.partition,
            first,
            cursor: Cursor { log: LOG, next: last + 1, mark: mark(self.partition, last) },
            applied,
            rows: batch(self.partition, &rows),
            dead: self.dead(covered.clone(), |_| applied),
            read: records.len() as u64,
            marks,
            dropped: self.records.range(covered).filter(|(_, o)| matches!(o, Outcome::Rows(r) if r.is_empty())).count()
                as u64,
        })
    }

    /// The records of `offsets` that `chosen` names, made again under `applied`.
    pub fn rewrite(&self, offsets: Range<u64>, chosen: impl Fn(u64) -> bool, applied: u64) -> Rewrite {
        let records = self.records.range(offsets.clone()).filter(|(offset, _)| chosen(**offset));
        let records = records.map(|(offset, outcome)| (*offset, outcome.clone())).collect();
        let chosen = Self { partition: self.partition, records };
        let dropped = chosen.records.values().filter(|outcome| matches!(outcome, Outcome::Rows(r) if r.is_empty()));
        Rewrite {
            partition: self.partition,
            applied,
            remade: chosen.records.keys().copied().collect(),
            rows: batch(self.partition, &chosen.rows(offsets.clone(), |_| applied)),
            dead: chosen.dead(offsets.clone(), |_| applied),
            dropped: dropped.count() as u64,
            offsets,
        }
    }

    /// The rows of some records, each made under the revision that is given for it.
    pub fn rows(&self, offsets: Range<u64>, revision: impl Fn(u64) -> u64) -> Vec<PlacedRow> {
        let mut placed = Vec::new();
        for (offset, outcome) in self.records.range(offsets) {
            if let Outcome::Rows(rows) = outcome {
                placed.extend(rows.iter().zip(0..).map(|(row, sub)| PlacedRow {
                    offset: *offset,
                    sub,
                    revision: revision(*offset),
                    row: row.clone(),
                }));
            }
        }
        placed
    }

    pub fn dead(&self, offsets: Range<u64>, revision: impl Fn(u64) -> u64) -> Vec<DeadLetter> {
        let dead = self.records.range(offsets).filter(|(_, outcome)| matches!(outcome, Outcome::Dead));
        dead.map(|(offset, _)| DeadLetter {
            offset: *offset,
            revision: revision(*offset),
            step: "check".into(),
            code: "bad_device_id".into(),
        })
        .collect()
    }
}

/// A row with its lineage.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedRow {
    pub offset: u64,
    pub sub: u32,
    pub revision: u64,
    pub row: Row,
}

impl PlacedRow {
    pub fn key(&self, partition: u32) -> RowKey {
        RowKey {
            device_id: self.row.device.clone(),
            event_time_us: self.row.time,
            partition,
            offset: self.offset,
            sub: self.sub,
        }
    }
}

/// Rows as the engine hands them to a store.
pub fn batch(partition: u32, rows: &[PlacedRow]) -> RecordBatch {
    let text =
        |f: &dyn Fn(&PlacedRow) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(f))) };
    let number =
        |f: &dyn Fn(&PlacedRow) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(f))) };
    let time = |f: &dyn Fn(&PlacedRow) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(f)).with_timezone("UTC"))
    };
    let schema = row_schema(&[]);
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "event_id" => text(&|row| format!("e{}-{}", row.offset, row.sub)),
        "device_id" => text(&|row| row.row.device.clone()),
        "type" => text(&|row| row.row.kind.to_owned()),
        "event" => text(&|row| row.row.event.to_owned()),
        "properties" => text(&|row| row.row.text.clone()),
        "event_time" => time(&|row| row.row.time),
        "received_at" => time(&|_| 1),
        "_partition" => number(&|_| i64::from(partition)),
        "_offset" => number(&|row| row.offset as i64),
        "_sub" => number(&|row| i64::from(row.sub)),
        "_revision" => number(&|row| row.revision as i64),
        _ => new_null_array(field.data_type(), rows.len()),
    });
    let columns = columns.collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

/// The canonical bytes of rows.
pub fn encoded(partition: u32, rows: &[PlacedRow]) -> Vec<Vec<u8>> {
    let batch = batch(partition, rows);
    let encoder = RowEncoder::new(&batch).unwrap();
    let encode = |row| {
        let mut out = Vec::new();
        encoder.encode(row, &mut out);
        out
    };
    (0..rows.len()).map(encode).collect()
}

/// Checks that the history holds exactly what the logs below the cursors became, once: rows, dead letters, lineage.
pub async fn check_exact(
    keyspace: &Arc<dyn Keyspace>,
    logs: &[Log],
    state: &StoreState,
    revision: impl Fn(u32, u64) -> u64,
) {
    let reader = HistoryReader::new(keyspace.clone(), ROOT);
    let view = reader.view().await.unwrap();
    assert_eq!(view.state().await.unwrap(), *state);

    let mut expected: BTreeMap<Vec<u8>, (RowKey, Vec<u8>)> = BTreeMap::new();
    let keys = millrace_history::Keys::new(ROOT);
    for log in logs {
        let partition = log.partition;
        let Some(cursor) = state.cursors.get(&partition) else {
            assert!(view.lineages(partition, 0..u64::MAX, 1).await.unwrap().is_empty());
            continue;
        };
        let last = *log.records.range(..cursor.next).next_back().expect("a cursor stands behind a record").0;
        assert_eq!((last + 1, cursor.mark, cursor.log), (cursor.next, mark(partition, last), LOG));

        let rows = log.rows(0..cursor.next, |offset| revision(partition, offset));
        for (row, bytes) in rows.iter().zip(encoded(partition, &rows)) {
            let key = row.key(partition);
            expected.insert(keys.row(&key), (key, bytes));
        }
        let letters = view.dead_letters(partition, 0, 10_000).await.unwrap();
        assert_eq!(letters.letters, log.dead(0..cursor.next, |offset| revision(partition, offset)));
        assert_eq!(letters.next, None);

        // Every record read is covered by exactly one lineage, and the lineages name exactly the rows.
        let lineages = view.lineages(partition, 0..u64::MAX, usize::MAX).await.unwrap();
        let covered: Vec<u64> = lineages.iter().flat_map(|lineage| lineage.offsets.clone()).collect();
        assert_eq!(covered, log.records.range(..cursor.next).map(|(offset, _)| *offset).collect::<Vec<_>>());
        let named = lineages.iter().flat_map(|lineage| &lineage.rows);
        let named: Vec<_> = named.map(|row| (row.key(partition), row.revision)).collect();
        assert_eq!(named, rows.iter().map(|row| (row.key(partition), row.revision)).collect::<Vec<_>>());
    }

    let expected: Vec<_> = expected.into_values().collect();
    let mut found = Vec::new();
    let mut last = None;
    loop {
        let page = view.rows(last.as_ref(), 37).await.unwrap();
        found.extend(page.rows.into_iter().map(|row| (row.key, row.row.to_vec())));
        last = page.next;
        if last.is_none() {
            break;
        }
    }
    let places = |rows: &[(RowKey, Vec<u8>)]| rows.iter().map(|row| row.0.clone()).collect::<Vec<_>>();
    assert_eq!(places(&found), places(&expected));
    assert!(found == expected, "a row has other bytes than were written");
}
