//! Takes away what no record accounts for: the last thing that a rebuild does.
//!
//! Every row stands under a key that the lineage of its record names, and a record with rows has no dead letter. Making a
//! record again leaves it so, but nothing leads to a row that no lineage names: one that something else has written, or that
//! is there because a lineage was lost.
//!
//! To look every row up would cost more than to make it again. So keys are counted first, and added up as hashes, by
//! windows of [`WINDOW`] offsets: those that are there, and those that the lineages name. Both are read once from end to end,
//! page by page, each page in a snapshot of its own because a cluster's lives for seconds. Records that come in meanwhile are
//! left out; what else changes makes windows look different that are not. Only rows of windows that differ are looked up, in
//! the snapshot in which they are seen, and what is taken away compares the lineage, or that there is none, with what was seen
//! there.
//!
//! Memory: a page, the strays of one transaction, and 48 bytes for each window that has rows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use millrace_keyspace::{BATCH_BYTES_MAX, Batch, Compare, Keyspace, Pair, Snapshot, Write};
use millrace_rows::{StoreError, canonical};

use crate::keys::{KeyError, Keys, RowKey, after};
use crate::lineage;
use crate::lookup::covering;
use crate::reader::ReadError;
use crate::scan::Scan;
use crate::state::Seen;
use crate::store::{read_error, write_error};
use crate::swap::compare;

/// Offsets of a window.
const WINDOW: u64 = 65_536;
/// Values that are read in one snapshot.
const PAGE_VALUES: usize = 2000;
/// Bytes after which a page ends.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Partition, and number of the window.
type Place = (u32, u64);

/// Number and sum of hashes of the keys of each window.
#[derive(Debug, Default)]
struct Account(BTreeMap<Place, (u64, u128)>);

impl Account {
    fn add(&mut self, partition: u32, offset: u64, key: &[u8]) {
        let (count, sum) = self.0.entry((partition, offset / WINDOW)).or_default();
        *count += 1;
        *sum = sum.wrapping_add(canonical::hash(key));
    }

    /// The windows that differ.
    fn differing(&self, other: &Self) -> BTreeSet<Place> {
        let places = self.0.keys().chain(other.0.keys());
        places.filter(|place| self.0.get(place) != other.0.get(place)).copied().collect()
    }
}

/// What was taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) rows: u64,
    pub(crate) dead_letters: u64,
}

/// Takes away rows that no lineage names, and dead letters of records that have rows. Each transaction compares `compares`,
/// too. `ends` is where the store stood before, by partition.
///
/// # Errors
/// [`StoreError::Fenced`] when something changed that a transaction compares.
pub(crate) async fn sweep(
    keyspace: &Arc<dyn Keyspace>,
    keys: &Keys,
    ends: &BTreeMap<u32, u64>,
    compares: &[Compare],
) -> Result<Swept, StoreError> {
    let suspects = suspects(keyspace, keys, ends).await?;
    let rows = if suspects.is_empty() { 0 } else { rows(keyspace, keys, &suspects, compares).await? };
    Ok(Swept { rows, dead_letters: dead_letters(keyspace, keys, compares).await? })
}

/// The windows that may have rows which no lineage names.
async fn suspects(
    keyspace: &Arc<dyn Keyspace>,
    keys: &Keys,
    ends: &BTreeMap<u32, u64>,
) -> Result<BTreeSet<Place>, StoreError> {
    let (mut there, mut named, mut beyond) = (Account::default(), Account::default(), BTreeSet::new());
    let end = |partition: u32| ends.get(&partition).copied().unwrap_or(0);
    let mut pages = Pages::of(keyspace, keys.rows_range());
    while let Some((snapshot, page)) = pages.next().await? {
        let mut stands = None;
        for (key, _) in page {
            let RowKey { partition, offset, .. } = parsed(keys.parse_row(&key))?;
            if offset < end(partition) {
                there.add(partition, offset, &key);
                continue;
            }
            // It came in meanwhile, or the store has not come so far.
            let stands = match &mut stands {
                Some(stands) => stands,
                none => none.insert(Seen::read(&*snapshot, keys).await.map_err(read_error)?),
            };
            if stands.cursors.get(&partition).is_none_or(|(cursor, _)| cursor.next <= offset) {
                beyond.insert((partition, offset / WINDOW));
            }
        }
    }
    let mut pages = Pages::of(keyspace, keys.lineages_range());
    while let Some((_, page)) = pages.next().await? {
        for (key, value) in page {
            let (partition, first) = parsed(keys.parse_lineage(&key))?;
            let lineage = lineage::decode(first, &value).map_err(ReadError::from).map_err(read_error)?;
            let mut row_key = Vec::new();
            for row in lineage.rows.iter().filter(|row| row.offset < end(partition)) {
                row_key.clear();
                keys.push_row(&mut row_key, row.device_id, row.event_time_us, partition, row.offset, row.sub);
                named.add(partition, row.offset, &row_key);
            }
        }
    }
    beyond.extend(there.differing(&named));
    Ok(beyond)
}

/// Takes away the rows of these windows that no lineage names.
async fn rows(
    keyspace: &Arc<dyn Keyspace>,
    keys: &Keys,
    suspects: &BTreeSet<Place>,
    compares: &[Compare],
) -> Result<u64, StoreError> {
    let mut found = 0;
    let mut pages = Pages::of(keyspace, keys.rows_range());
    while let Some((snapshot, page)) = pages.next().await? {
        let mut strays = Strays::new(compares);
        for (key, _) in page {
            let row = parsed(keys.parse_row(&key))?;
            if !suspects.contains(&(row.partition, row.offset / WINDOW)) {
                continue;
            }
            if let Some(compares) = stray(&*snapshot, keys, &row).await.map_err(read_error)? {
                found += 1;
                let end = after(&key).into();
                strays.push(keyspace, compares, Write::Clear(key, end)).await?;
            }
        }
        strays.commit(keyspace).await?;
    }
    Ok(found)
}

/// Takes away dead letters of records that have rows, and of records that the store has not come to.
async fn dead_letters(keyspace: &Arc<dyn Keyspace>, keys: &Keys, compares: &[Compare]) -> Result<u64, StoreError> {
    let mut found = 0;
    let mut pages = Pages::of(keyspace, keys.all_dead_range());
    while let Some((snapshot, page)) = pages.next().await? {
        let mut strays = Strays::new(compares);
        for (key, _) in page {
            let (partition, offset) = parsed(keys.parse_dead(&key))?;
            let relies_on = match covering(&*snapshot, keys, partition, offset, 0).await.map_err(read_error)? {
                None => {
                    let stands = Seen::read(&*snapshot, keys).await.map_err(read_error)?;
                    // A record that failed needs no lineage.
                    if stands.cursors.get(&partition).is_some_and(|(cursor, _)| offset < cursor.next) {
                        continue;
                    }
                    vec![stands.compare_cursor(keys, partition)]
                }
                Some(lineage) => {
                    if lineage.rows().map_err(read_error)?.iter().all(|row| row.offset != offset) {
                        continue;
                    }
                    vec![compare(&lineage)]
                }
            };
            found += 1;
            strays.push(keyspace, relies_on, Write::Delete(key)).await?;
        }
        strays.commit(keyspace).await?;
    }
    Ok(found)
}

fn parsed<T>(key: Result<T, KeyError>) -> Result<T, StoreError> {
    key.map_err(|error| read_error(error.into()))
}

/// If no lineage names a row: what must be as it is for that to stay so.
async fn stray(snapshot: &dyn Snapshot, keys: &Keys, row: &RowKey) -> Result<Option<Vec<Compare>>, ReadError> {
    let RowKey { device_id, event_time_us, partition, offset, sub } = row;
    if let Some(found) = covering(snapshot, keys, *partition, *offset, 0).await? {
        let named = found.rows()?.iter().any(|named| {
            (named.offset, named.sub) == (*offset, *sub)
                && named.device_id == device_id
                && named.event_time_us == *event_time_us
        });
        return Ok((!named).then(|| vec![compare(&found)]));
    }
    // The live loop moves the cursor when it writes the record; a rewriter gives it a lineage of its own.
    let cursor = Seen::read(snapshot, keys).await?.compare_cursor(keys, *partition);
    Ok(Some(vec![cursor, Compare { key: keys.lineage(*partition, *offset), expected: None }]))
}

/// A transaction that takes strays away.
struct Strays<'a> {
    compares: &'a [Compare],
    batch: Batch,
}

impl<'a> Strays<'a> {
    fn new(compares: &'a [Compare]) -> Self {
        Self { compares, batch: Batch { compares: compares.to_vec(), writes: Vec::new() } }
    }

    async fn push(
        &mut self,
        keyspace: &Arc<dyn Keyspace>,
        compares: Vec<Compare>,
        write: Write,
    ) -> Result<(), StoreError> {
        for compare in compares {
            if !self.batch.compares.contains(&compare) {
                self.batch.compares.push(compare);
            }
        }
        self.batch.writes.push(write);
        // One more adds a lineage's value and a key at the most.
        if self.batch.size_bytes() > BATCH_BYTES_MAX / 2 {
            self.commit(keyspace).await?;
        }
        Ok(())
    }

    async fn commit(&mut self, keyspace: &Arc<dyn Keyspace>) -> Result<(), StoreError> {
        let empty = Batch { compares: self.compares.to_vec(), writes: Vec::new() };
        let batch = std::mem::replace(&mut self.batch, empty);
        if batch.writes.is_empty() {
            return Ok(());
        }
        keyspace.commit_background(batch).await.map_err(write_error)
    }
}

/// Reads a range of any length.
struct Pages<'a> {
    keyspace: &'a Arc<dyn Keyspace>,
    rest: Option<Range<Vec<u8>>>,
}

impl<'a> Pages<'a> {
    fn of(keyspace: &'a Arc<dyn Keyspace>, range: Range<Vec<u8>>) -> Self {
        Self { keyspace, rest: Some(range) }
    }

    /// The next keys with their whole values, and the snapshot that they were read in.
    async fn next(&mut self) -> Result<Option<(Box<dyn Snapshot>, Vec<Pair>)>, StoreError> {
        let Some(range) = self.rest.take() else { return Ok(None) };
        let snapshot = self.keyspace.snapshot().await.map_err(write_error)?;
        let mut scan = Scan::new(&*snapshot, range.clone(), PAGE_VALUES);
        let mut page = Vec::new();
        while page.len() < PAGE_VALUES && scan.scanned_bytes() < PAGE_BYTES {
            let Some(pair) = scan.next().await.map_err(read_error)? else { return Ok(Some((snapshot, page))) };
            page.push(pair);
        }
        self.rest = page.last().map(|(last, _)| after(last)..range.end);
        Ok(Some((snapshot, page)))
    }
}
