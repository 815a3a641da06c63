//! The keys, as the [crate's table](crate) gives them.

use std::ops::Range;

use bytes::Bytes;
use foundationdb_tuple::{Element, Subspace, TuplePack};

/// Where a row stands: its device, its time, and the log record that it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// The device.
    pub device_id: String,
    /// Time of the event, µs since 1970 UTC; never negative.
    pub event_time_us: i64,
    /// Log partition.
    pub partition: u32,
    /// Log offset.
    pub offset: u64,
    /// Number of the row among those its record became.
    pub sub: u32,
}

/// A key that is not what stands under its prefix.
#[derive(Debug, thiserror::Error)]
#[error("key {key} is no {what}: {detail}")]
pub struct KeyError {
    what: &'static str,
    key: String,
    detail: String,
}

/// Makes and reads the keys of one history.
#[derive(Clone, Debug)]
pub struct Keys {
    rows: Subspace,
    lineage: Subspace,
    cursors: Subspace,
    applied: Bytes,
    jobs: Subspace,
    dead: Subspace,
}

impl Keys {
    /// The keys below `root`.
    pub fn new(root: &str) -> Self {
        Self {
            rows: Subspace::from((root, "h")),
            lineage: Subspace::from((root, "o")),
            cursors: Subspace::from((root, "c", "cursor")),
            applied: Subspace::from((root, "c", "applied")).into_bytes().into(),
            jobs: Subspace::from((root, "c", "job")),
            dead: Subspace::from((root, "d")),
        }
    }

    /// Appends the key of a row. `event_time_us` must not be negative: newer rows then stand first.
    pub fn push_row(
        &self,
        out: &mut Vec<u8>,
        device_id: &str,
        event_time_us: i64,
        partition: u32,
        offset: u64,
        sub: u32,
    ) {
        out.extend_from_slice(self.rows.bytes());
        (device_id, inverted(event_time_us), partition, offset, sub).pack_into_vec(out);
    }

    /// The key of a row.
    pub fn row(&self, row: &RowKey) -> Vec<u8> {
        let mut key = Vec::new();
        self.push_row(&mut key, &row.device_id, row.event_time_us, row.partition, row.offset, row.sub);
        key
    }

    /// The keys of a row and its chunks: what to clear to remove it.
    pub fn row_range(&self, row: &RowKey) -> Range<Vec<u8>> {
        let key = self.row(row);
        let end = after(&key);
        key..end
    }

    /// Reads the key of a row back.
    ///
    /// # Errors
    /// [`KeyError`] for any other key, that of a chunk too.
    pub fn parse_row(&self, key: &[u8]) -> Result<RowKey, KeyError> {
        let (device_id, inverted, partition, offset, sub): (String, i64, u32, u64, u32) =
            unpack(&self.rows, key, "row key")?;
        // Inverting is its own inverse, and no i64 overflows it: the key of a time before 1970 does not unpack as i64.
        Ok(RowKey { device_id, event_time_us: i64::MAX - inverted.max(0), partition, offset, sub })
    }

    /// The rows of one device with `times.start <= event_time < times.end`, newest first.
    pub fn device_range(&self, device_id: &str, times: &Range<i64>) -> Range<Vec<u8>> {
        let device = self.rows.subspace(&device_id);
        let (from, to) = (times.start.max(0), times.end.max(0));
        if from >= to {
            return Vec::new()..Vec::new();
        }
        // A tuple's keys start with the bytes of each prefix of it, so the first key of a time is the prefix alone. As
        // u64: the time 0 has i64::MAX, and one more must still be a number.
        device.pack(&(inverted(to) as u64 + 1,))..device.pack(&(inverted(from) as u64 + 1,))
    }

    /// All rows.
    pub fn rows_range(&self) -> Range<Vec<u8>> {
        range(&self.rows)
    }

    /// The lineage of the records from `first` on that one transaction wrote.
    pub fn lineage(&self, partition: u32, first: u64) -> Bytes {
        self.lineage.pack(&(partition, first)).into()
    }

    /// Partition and first offset of a lineage key.
    ///
    /// # Errors
    /// [`KeyError`] for any other key.
    pub fn parse_lineage(&self, key: &[u8]) -> Result<(u32, u64), KeyError> {
        unpack(&self.lineage, key, "lineage key")
    }

    /// The lineages of one partition whose first offset is in `firsts`.
    pub fn lineage_range(&self, partition: u32, firsts: Range<u64>) -> Range<Vec<u8>> {
        self.lineage.pack(&(partition, firsts.start))..self.lineage.pack(&(partition, firsts.end))
    }

    /// The lineages of all partitions.
    pub fn lineages_range(&self) -> Range<Vec<u8>> {
        range(&self.lineage)
    }

    /// The cursor of one partition.
    pub fn cursor(&self, partition: u32) -> Bytes {
        self.cursors.pack(&(partition,)).into()
    }

    /// The partition of a cursor key.
    ///
    /// # Errors
    /// [`KeyError`] for any other key.
    pub fn parse_cursor(&self, key: &[u8]) -> Result<u32, KeyError> {
        unpack(&self.cursors, key, "cursor key").map(|(partition,)| partition)
    }

    /// All cursors.
    pub fn cursors_range(&self) -> Range<Vec<u8>> {
        range(&self.cursors)
    }

    /// The highest revision taken in.
    pub fn applied(&self) -> Bytes {
        self.applied.clone()
    }

    /// The job that taking in a revision left.
    pub fn job(&self, revision: u64) -> Bytes {
        self.jobs.pack(&(revision,)).into()
    }

    /// All jobs, in order of their revisions.
    pub fn jobs_range(&self) -> Range<Vec<u8>> {
        range(&self.jobs)
    }

    /// The dead letter of one record.
    pub fn dead(&self, partition: u32, offset: u64) -> Bytes {
        self.dead.pack(&(partition, offset)).into()
    }

    /// Appends the key of a dead letter.
    pub fn push_dead(&self, out: &mut Vec<u8>, partition: u32, offset: u64) {
        out.extend_from_slice(self.dead.bytes());
        (partition, offset).pack_into_vec(out);
    }

    /// Partition and offset of a dead letter's key.
    ///
    /// # Errors
    /// [`KeyError`] for any other key.
    pub fn parse_dead(&self, key: &[u8]) -> Result<(u32, u64), KeyError> {
        unpack(&self.dead, key, "dead letter's key")
    }

    /// The dead letters of one partition from an offset on.
    pub fn dead_range(&self, partition: u32, from: u64) -> Range<Vec<u8>> {
        self.dead.pack(&(partition, from))..self.dead.subspace(&partition).range().1
    }

    /// The dead letters of one partition in a range of offsets.
    pub fn dead_offsets_range(&self, partition: u32, offsets: Range<u64>) -> Range<Vec<u8>> {
        self.dead.pack(&(partition, offsets.start))..self.dead.pack(&(partition, offsets.end))
    }

    /// The dead letters of all partitions.
    pub fn all_dead_range(&self) -> Range<Vec<u8>> {
        range(&self.dead)
    }
}

/// The first key after `key` and everything that extends it by further tuple elements: their codes are all below 0xff.
pub fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0xff]].concat()
}

fn inverted(event_time_us: i64) -> i64 {
    i64::MAX - event_time_us.max(0)
}

fn range(subspace: &Subspace) -> Range<Vec<u8>> {
    let (begin, end) = subspace.range();
    begin..end
}

/// A key for messages: where a row's record is, and nothing of whose row it is.
pub(crate) fn shown(key: &[u8]) -> String {
    let elements: Vec<Element<'_>> = foundationdb_tuple::unpack(key).unwrap_or_default();
    let number = |at: usize| match elements.get(at) {
        Some(Element::Int(number)) => number.to_string(),
        _ => "?".to_owned(),
    };
    match elements.get(1) {
        Some(Element::String(part)) if part != "h" => millrace_keyspace::display_key(key),
        Some(_) => format!("of a row (partition {}, offset {}, sub {})", number(4), number(5), number(6)),
        None => format!("of {} bytes that are no tuple", key.len()),
    }
}

fn unpack<'k, T: foundationdb_tuple::TupleUnpack<'k>>(
    subspace: &Subspace,
    key: &'k [u8],
    what: &'static str,
) -> Result<T, KeyError> {
    subspace.unpack(key).map_err(|error| KeyError { what, key: shown(key), detail: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_message_has_a_device() {
        let keys = Keys::new("r");
        let row = RowKey { device_id: "user:ada".into(), event_time_us: 7, partition: 3, offset: 41, sub: 2 };
        let key = keys.row(&row);
        assert_eq!(shown(&key), "of a row (partition 3, offset 41, sub 2)");
        for cut in 0..key.len() {
            assert!(!shown(&key[..cut]).contains("ada"), "{cut} bytes");
            let told = keys.parse_row(&key[..cut]).unwrap_err().to_string();
            assert!(!told.contains("ada"), "{told}");
        }
        let chunk = [&key[..], &[0x15, 1]].concat();
        assert_eq!(shown(&chunk), "of a row (partition 3, offset 41, sub 2)");
        assert_eq!(shown(&keys.lineage(3, 41)), millrace_keyspace::display_key(&keys.lineage(3, 41)));
    }

    fn device() -> impl Strategy<Value = String> {
        prop_oneof![
            ".{0,12}",
            proptest::collection::vec(prop_oneof![Just('\0'), Just('a'), Just('ÿ'), Just('\u{10ffff}')], 0..4)
                .prop_map(|chars| chars.into_iter().collect()),
        ]
    }

    fn row_key() -> impl Strategy<Value = RowKey> {
        let time = prop_oneof![0..4_133_980_800_000_000_i64, 0..3_i64, Just(255), Just(256), Just(65_536)];
        let offset = prop_oneof![any::<u64>(), 0..300_u64];
        (device(), time, prop_oneof![any::<u32>(), 0..3_u32], offset, 0..300_u32).prop_map(
            |(device_id, event_time_us, partition, offset, sub)| RowKey {
                device_id,
                event_time_us,
                partition,
                offset,
                sub,
            },
        )
    }

    fn place(row: &RowKey) -> (&str, std::cmp::Reverse<i64>, u32, u64, u32) {
        (&row.device_id, std::cmp::Reverse(row.event_time_us), row.partition, row.offset, row.sub)
    }

    #[test]
    fn the_bytes_are_pinned() {
        let row = RowKey { device_id: "d\0".into(), event_time_us: 1, partition: 0, offset: 300, sub: 1 };
        let expected = b"\x02r\0\x02h\0\x02d\0\xff\0\x1c\x7f\xff\xff\xff\xff\xff\xff\xfe\x14\x16\x01\x2c\x15\x01";
        assert_eq!(Keys::new("r").row(&row), expected);
        assert_eq!(&*Keys::new("r").applied(), b"\x02r\0\x02c\0\x02applied\0");
        assert_eq!(&*Keys::new("r").cursor(7), b"\x02r\0\x02c\0\x02cursor\0\x15\x07");
        assert_eq!(&*Keys::new("r").job(2), b"\x02r\0\x02c\0\x02job\0\x15\x02");
        assert_eq!(&*Keys::new("r").lineage(1, 0), b"\x02r\0\x02o\0\x15\x01\x14");
        assert_eq!(&*Keys::new("r").dead(1, 256), b"\x02r\0\x02d\0\x15\x01\x16\x01\0");
    }

    #[test]
    fn other_keys_are_refused_by_name() {
        let keys = Keys::new("r");
        let error = keys.parse_row(&keys.dead(1, 2)).unwrap_err().to_string();
        assert!(error.contains("is no row key"), "{error}");
        assert!(keys.parse_dead(&keys.lineage(1, 2)).is_err());
        assert!(keys.parse_cursor(&keys.applied()).is_err());
    }

    proptest! {
        #[test]
        fn keys_round_trip_and_order_newest_first(a in row_key(), b in row_key(), same_device in any::<bool>()) {
            let mut b = b;
            if same_device {
                b.device_id.clone_from(&a.device_id);
            }
            let keys = Keys::new("root");
            prop_assert_eq!(keys.parse_row(&keys.row(&a)).unwrap(), a.clone());
            // Strings order by their UTF-8 bytes, as in Rust; a zero byte inside one does not change that.
            prop_assert_eq!(keys.row(&a).cmp(&keys.row(&b)), place(&a).cmp(&place(&b)));
        }

        #[test]
        fn a_device_range_holds_exactly_its_rows(row in row_key(), other in device(), from in any::<i64>(), to in any::<i64>(), near in any::<bool>()) {
            let keys = Keys::new("root");
            let times = if near { row.event_time_us..row.event_time_us + 1 } else { from..to };
            let key = keys.row(&row);
            prop_assert_eq!(
                keys.device_range(&row.device_id, &times).contains(&key),
                times.contains(&row.event_time_us)
            );
            prop_assert_eq!(keys.device_range(&other, &(0..i64::MAX)).contains(&key), other == row.device_id);
            prop_assert!(keys.rows_range().contains(&key));
        }

        #[test]
        fn a_row_range_holds_its_chunks_and_no_other_row(a in row_key(), b in row_key(), chunk in 0..2000_u32) {
            let keys = Keys::new("root");
            let range = keys.row_range(&a);
            prop_assert!(range.contains(&keys.row(&a)));
            prop_assert!(range.contains(&crate::value::chunk_key(&keys.row(&a), chunk)));
            prop_assert_eq!(range.contains(&keys.row(&b)), a == b);
        }
    }
}
