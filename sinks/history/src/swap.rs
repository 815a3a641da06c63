//! What is written where records give way to the same records made again. No I/O, no state.

use std::ops::Range;

use bytes::Bytes;
use millrace_keyspace::{Batch, Compare, Write};

use crate::keys::{Keys, after};
use crate::lineage::{LineageRow, pack};
use crate::lookup::StoredLineage;
use crate::pairs::Pairs;
use crate::remade::Remade;
use crate::value::{chunk_key, chunks};

/// Puts the records of one lineage in the place of what they were. `old` are its rows; `remade` are covered by it and in
/// ascending order.
///
/// The lineage is compared even where it stays the same: it says which keys are there.
pub(crate) fn swap(
    keys: &Keys,
    partition: u32,
    stored: &StoredLineage,
    old: &[LineageRow<&str>],
    remade: &[Remade],
) -> Batch {
    let mut batch = Batch { compares: vec![compare(stored)], writes: Vec::with_capacity(2 * remade.len()) };
    let mut rows = Vec::with_capacity(old.len() + remade.len());
    let mut rest = old;
    for record in remade {
        let (before, behind) = rest.split_at(rest.partition_point(|row| row.offset < record.offset));
        let (gone, behind) = behind.split_at(behind.partition_point(|row| row.offset == record.offset));
        rows.extend_from_slice(before);
        rows.extend(record.rows.iter().map(LineageRow::borrowed));
        rest = behind;
        clear(keys, partition, gone, record, &mut batch.writes);
    }
    rows.extend_from_slice(rest);
    put(remade, &mut batch.writes);
    let mut values = Vec::new();
    pack(stored.offsets.clone(), &rows, &mut values);
    replace(keys, partition, stored, values, &mut batch.writes);
    batch
}

/// Puts a record that no lineage covers: it has no rows yet. If it has some now it gets a lineage of its own, so that they
/// are found.
pub(crate) fn add(keys: &Keys, partition: u32, record: &Remade) -> Batch {
    let key = keys.lineage(partition, record.offset);
    let mut batch = Batch { compares: vec![Compare { key: key.clone(), expected: None }], writes: Vec::new() };
    clear(keys, partition, &[], record, &mut batch.writes);
    put(std::slice::from_ref(record), &mut batch.writes);
    if !record.rows.is_empty() {
        let mut values = Vec::new();
        pack(record.offset..record.offset + 1, &record.rows, &mut values);
        put_lineages(keys, partition, values, &mut batch.writes);
    }
    batch
}

/// Cuts a lineage so that the record at `offset` has one of its own, and changes nothing else.
pub(crate) fn isolate(
    keys: &Keys,
    partition: u32,
    stored: &StoredLineage,
    old: &[LineageRow<&str>],
    offset: u64,
) -> Batch {
    let mut batch = Batch { compares: vec![compare(stored)], writes: Vec::new() };
    let Range { start, end } = stored.offsets;
    let mut values = Vec::new();
    let mut rest = old;
    for covered in [start..offset, offset..offset + 1, offset + 1..end] {
        let (within, behind) = rest.split_at(rest.partition_point(|row| row.offset < covered.end));
        if !covered.is_empty() {
            pack(covered, within, &mut values);
        }
        rest = behind;
    }
    replace(keys, partition, stored, values, &mut batch.writes);
    batch
}

pub(crate) fn compare(stored: &StoredLineage) -> Compare {
    Compare { key: stored.key.clone(), expected: Some(stored.stands.clone()) }
}

/// Removes what is left of a record where its new rows do not replace it: rows under other keys, chunks that are too many,
/// its dead letter.
fn clear(keys: &Keys, partition: u32, gone: &[LineageRow<&str>], record: &Remade, writes: &mut Vec<Write>) {
    for old in gone {
        let new = record.rows.binary_search_by_key(&old.sub, |row| row.sub).ok().map(|found| &record.rows[found]);
        let stays = new.filter(|new| new.device_id == old.device_id && new.event_time_us == old.event_time_us);
        let kept = stays.map_or(0, |new| new.chunks);
        if stays.is_some() && kept >= old.chunks {
            continue;
        }
        let mut key = Vec::new();
        keys.push_row(&mut key, old.device_id, old.event_time_us, partition, old.offset, old.sub);
        let end = after(&key).into();
        writes.push(match stays {
            None if old.chunks == 0 => Write::Delete(key.into()),
            None => Write::Clear(key.into(), end),
            Some(_) => Write::Clear(chunk_key(&key, kept).into(), end),
        });
    }
    // A record that had rows had no dead letter. For one that had none it is not worth a read to know, and what was read
    // would not be fenced: a lineage is the same whether a record was dropped or failed.
    if gone.is_empty() && !record.dead {
        writes.push(Write::Delete(keys.dead(partition, record.offset)));
    }
}

/// Bytes are shared with the record, not copied.
fn put(remade: &[Remade], writes: &mut Vec<Write>) {
    writes.extend(remade.iter().flat_map(|record| record.puts.iter().cloned()));
}

/// Puts `values` where a lineage stands; nothing if they are what stands there.
fn replace(
    keys: &Keys,
    partition: u32,
    stored: &StoredLineage,
    values: Vec<(Range<u64>, Vec<u8>)>,
    writes: &mut Vec<Write>,
) {
    if stored.chunks == 0
        && let [(_, value)] = values.as_slice()
        && stored.stands == *value
    {
        return;
    }
    // The first of the values stands under the same key.
    let kept = values.first().map_or(0, |(_, value)| chunks(value.len()));
    if kept < stored.chunks {
        let stale = chunk_key(&stored.key, kept as u32);
        writes.push(Write::Clear(stale.into(), Bytes::from(after(&stored.key))));
    }
    put_lineages(keys, partition, values, writes);
}

fn put_lineages(keys: &Keys, partition: u32, values: Vec<(Range<u64>, Vec<u8>)>, writes: &mut Vec<Write>) {
    let mut pairs = Pairs::default();
    for (covered, value) in values {
        pairs.push(&keys.lineage(partition, covered.start), &value);
    }
    writes.extend(pairs.into_writes());
}
