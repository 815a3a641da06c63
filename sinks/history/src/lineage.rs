//! Which history keys each log record produced: what a correction swaps, what retention removes.
//!
//! One value for each transaction that the store committed, under the offset of the first record it read. It says for the
//! offsets `first..end` which rows they became; an offset without rows was dropped, became a dead letter, or is a gap.
//! Whoever makes records again replaces the values that cover them: by one each, or by several that cover the same offsets
//! where one would be too large to stay whole. The values of a partition follow each other without overlap, and `end - first` is at most
//! [`TRANSACTION_RECORDS_MAX`](crate::TRANSACTION_RECORDS_MAX): whoever wants the value that covers an offset begins to
//! read that many offsets before it.
//!
//! ```text
//! version  u8 = 1
//! span     varint: end - first
//! devices  varint count, then each: varint length, UTF-8 bytes; in the order in which rows name them first
//! rows     varint count, then each, in the order (offset, sub):
//!            varint offset  - offset of the row before   (the first: - first)
//!            varint sub
//!            varint index of the device
//!            zigzag event_time µs - that of the row before   (the first: - 0)
//!            zigzag revision - that of the row before   (the first: - 0)
//!            varint number of chunks, 0 for a row that is whole
//! ```
//! From this and its key each history key can be made: [`RowKey`] is (device, event_time, partition, offset, sub).

use std::collections::HashMap;
use std::ops::Range;

use millrace_rows::varint::{push, push_signed, push_text};

use crate::codec::{CodecError, body};
use crate::keys::RowKey;
use crate::value::chunks;

const VERSION: u8 = 1;
const WHAT: &str = "a lineage";

/// One row that a record became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineageRow<D = String> {
    /// Offset of the record.
    pub offset: u64,
    /// Number of the row among those of the record.
    pub sub: u32,
    /// The device under which it stands.
    pub device_id: D,
    /// Its time, µs.
    pub event_time_us: i64,
    /// The revision that made it.
    pub revision: u64,
    /// How many chunks its value has; 0: it is whole.
    pub chunks: u32,
}

impl<D: AsRef<str>> LineageRow<D> {
    /// Where the row stands.
    pub fn key(&self, partition: u32) -> RowKey {
        RowKey {
            device_id: self.device_id.as_ref().to_owned(),
            event_time_us: self.event_time_us,
            partition,
            offset: self.offset,
            sub: self.sub,
        }
    }

    /// The same with a device's name of its own.
    pub fn owned(&self) -> LineageRow {
        let Self { offset, sub, ref device_id, event_time_us, revision, chunks } = *self;
        LineageRow { offset, sub, device_id: device_id.as_ref().to_owned(), event_time_us, revision, chunks }
    }

    /// The same with the device's name of this.
    pub fn borrowed(&self) -> LineageRow<&str> {
        let Self { offset, sub, ref device_id, event_time_us, revision, chunks } = *self;
        LineageRow { offset, sub, device_id: device_id.as_ref(), event_time_us, revision, chunks }
    }
}

/// The lineage of the records that one transaction wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage<D = String> {
    /// The offsets that it covers.
    pub offsets: Range<u64>,
    /// Their rows, in the order (offset, sub).
    pub rows: Vec<LineageRow<D>>,
}

impl Lineage<&str> {
    /// The same with names of its own.
    pub fn owned(&self) -> Lineage {
        Lineage { offsets: self.offsets.clone(), rows: self.rows.iter().map(LineageRow::owned).collect() }
    }
}

/// Upper bound of what one row adds, without the name of a device that is new.
pub(crate) const ROW_BYTES_MAX: usize = 10 + 5 + 3 + 10 + 10 + 2;
/// Upper bound of what stands before devices and rows.
pub(crate) const HEAD_BYTES_MAX: usize = 1 + 10 + 5 + 5;
/// Upper bound of the length before a device's name.
pub(crate) const DEVICE_BYTES_MAX: usize = 3;

/// Packs the rows of `offsets`, which must be in the order (offset, sub).
pub fn encode<D: AsRef<str>>(offsets: Range<u64>, rows: &[LineageRow<D>]) -> Vec<u8> {
    let mut index = HashMap::with_capacity(rows.len());
    let mut devices = Vec::new();
    for row in rows {
        let device = row.device_id.as_ref();
        index.entry(device).or_insert_with(|| {
            devices.push(device);
            devices.len() as u64 - 1
        });
    }
    let mut out = Vec::with_capacity(HEAD_BYTES_MAX + rows.len() * 16 + devices.len() * 40);
    out.push(VERSION);
    push(&mut out, offsets.end - offsets.start);
    push(&mut out, devices.len() as u64);
    devices.iter().for_each(|device| push_text(&mut out, device));
    push(&mut out, rows.len() as u64);
    let (mut offset, mut time, mut revision) = (offsets.start, 0_i64, 0_u64);
    for row in rows {
        push(&mut out, row.offset - offset);
        push(&mut out, row.sub.into());
        push(&mut out, index[row.device_id.as_ref()]);
        push_signed(&mut out, row.event_time_us.wrapping_sub(time));
        push_signed(&mut out, row.revision.wrapping_sub(revision) as i64);
        push(&mut out, row.chunks.into());
        (offset, time, revision) = (row.offset, row.event_time_us, row.revision);
    }
    out
}

/// Packs the rows of `offsets` into as many values as it takes for each to stay whole: to have at most
/// [`CHUNK_BYTES`](crate::value::CHUNK_BYTES). A single record that needs more gets it. Each value stands with the
/// offsets that it covers; they follow each other and cover `offsets`.
pub(crate) fn pack<D: AsRef<str>>(offsets: Range<u64>, rows: &[LineageRow<D>], out: &mut Vec<(Range<u64>, Vec<u8>)>) {
    let value = encode(offsets.clone(), rows);
    if chunks(value.len()) == 0 || offsets.end - offsets.start <= 1 {
        out.push((offsets, value));
        return;
    }
    // A value that is too large has rows. Halves of more than one offset each come to an end.
    let middle = rows[rows.len() / 2].offset;
    let cut = if middle > offsets.start { middle } else { middle + 1 };
    let (before, behind) = rows.split_at(rows.partition_point(|row| row.offset < cut));
    pack(offsets.start..cut, before, out);
    pack(cut..offsets.end, behind, out);
}

/// The offsets that the lineage which stands under `first` covers.
///
/// # Errors
/// [`CodecError`] on bytes that do not begin as this format does.
pub fn covered(first: u64, value: &[u8]) -> Result<Range<u64>, CodecError> {
    let span = body(WHAT, value)?.number();
    let end = span.and_then(|span| first.checked_add(span));
    end.map(|end| first..end).ok_or(CodecError::Damaged(WHAT))
}

/// Reads the lineage that stands under `first` back. The names of devices are those of `value`.
///
/// # Errors
/// [`CodecError`] on bytes that this format did not write.
pub fn decode(first: u64, value: &[u8]) -> Result<Lineage<&str>, CodecError> {
    let mut reader = body(WHAT, value)?;
    let mut read = || {
        let end = first.checked_add(reader.number()?)?;
        let devices = (0..reader.number()?).map(|_| reader.text()).collect::<Option<Vec<_>>>()?;
        let (mut offset, mut time, mut revision) = (first, 0_i64, 0_u64);
        let count = reader.number()?;
        let mut rows = Vec::new();
        for _ in 0..count {
            offset = offset.checked_add(reader.number()?).filter(|offset| *offset < end)?;
            let sub = u32::try_from(reader.number()?).ok()?;
            let device_id = *devices.get(usize::try_from(reader.number()?).ok()?)?;
            time = time.wrapping_add(reader.signed()?);
            revision = revision.wrapping_add(reader.signed()? as u64);
            let chunks = u32::try_from(reader.number()?).ok()?;
            rows.push(LineageRow { offset, sub, device_id, event_time_us: time, revision, chunks });
        }
        Some(Lineage { offsets: first..end, rows })
    };
    let lineage = read();
    lineage.filter(|_| reader.0.is_empty()).ok_or(CodecError::Damaged(WHAT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(offset: u64, sub: u32, device: &str, time: i64, revision: u64) -> LineageRow {
        LineageRow { offset, sub, device_id: device.to_owned(), event_time_us: time, revision, chunks: 0 }
    }

    #[test]
    fn the_bytes_are_pinned() {
        let rows = [row(10, 0, "a", 100, 1), row(10, 1, "b", 99, 1), row(13, 0, "a", 100, 2)];
        let expected = b"\x01\x05\x02\x01a\x01b\x03\
            \x00\x00\x00\xc8\x01\x02\x00\
            \x00\x01\x01\x01\x00\x00\
            \x03\x00\x00\x02\x02\x00";
        assert_eq!(encode(10..15, &rows), expected);
    }

    #[test]
    fn an_offset_outside_and_an_unknown_device_are_damage() {
        let good = encode(10..15, &[row(14, 0, "a", 0, 1)]);
        assert!(decode(10, &good).is_ok());
        let mut outside = good.clone();
        outside[1] = 4;
        assert_eq!(decode(10, &outside), Err(CodecError::Damaged(WHAT)));
        let mut device = good.clone();
        device[8] = 1;
        assert_eq!(decode(10, &device), Err(CodecError::Damaged(WHAT)));
        assert_eq!(decode(10, &[9]), Err(CodecError::Version { what: WHAT, found: 9 }));
    }

    proptest! {
        #[test]
        fn lineage_round_trips_within_its_bound(
            first in 0..u64::MAX / 2,
            steps in proptest::collection::vec((0..9000_u64, 0..100_u32, ".{0,9}", any::<i64>(), any::<u64>(), 0..6_u32), 0..40),
        ) {
            let mut offset = first;
            let rows: Vec<_> = steps
                .into_iter()
                .map(|(step, sub, device_id, event_time_us, revision, chunks)| {
                    offset += step;
                    LineageRow { offset, sub, device_id, event_time_us, revision, chunks }
                })
                .collect();
            let value = encode(first..offset + 1, &rows);
            let names: usize = rows.iter().map(|row| row.device_id.len() + DEVICE_BYTES_MAX).sum();
            prop_assert!(value.len() <= HEAD_BYTES_MAX + rows.len() * ROW_BYTES_MAX + names);
            prop_assert_eq!(covered(first, &value), Ok(first..offset + 1));
            prop_assert_eq!(decode(first, &value).unwrap().owned(), Lineage { offsets: first..offset + 1, rows });
        }

        #[test]
        fn packed_values_stay_whole_and_cover_what_they_should(
            first in 0..1_000_000_u64,
            records in proptest::collection::vec((0..20_u64, 0..60_u32, 1..300_usize), 0..20),
            behind in 0..100_u64,
        ) {
            let mut rows = Vec::new();
            let mut offset = first;
            for (step, count, device) in records {
                offset += step;
                let named = |sub: u32| row(offset, sub, &format!("{sub:0device$}"), i64::from(sub), 1);
                rows.extend((0..count).map(named));
                offset += 1;
            }
            let offsets = first..offset + behind;
            let mut packed = Vec::new();
            pack(offsets.clone(), &rows, &mut packed);
            let (mut at, mut found) = (offsets.start, Vec::new());
            for (covered, value) in packed {
                prop_assert_eq!(covered.start, at);
                prop_assert!(chunks(value.len()) == 0 || covered.end - covered.start == 1);
                let lineage = decode(covered.start, &value).unwrap();
                prop_assert_eq!(&lineage.offsets, &covered);
                found.extend(lineage.owned().rows);
                at = covered.end;
            }
            prop_assert_eq!(at, offsets.end);
            prop_assert!(found == rows);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(7, &[&[VERSION], &bytes[..]].concat());
        }
    }
}
