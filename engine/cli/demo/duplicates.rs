//! Counts the rows of a store, and those that should not be there twice.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use millrace_history::HistoryReader;
use millrace_rows::canonical::{Value, decode};
use xxhash_rust::xxh3::xxh3_128;

/// Rows read at a time.
const PAGE_ROWS: usize = 2000;

/// Rows, and those that share (partition, offset, sub) or event_id with one before. It remembers each: about 60 bytes a
/// row, which is why only the demo counts in this way.
#[derive(Default)]
pub struct Seen {
    /// Rows in all.
    pub rows: u64,
    /// Those that were there before.
    pub duplicates: u64,
    places: HashSet<(i64, i64, i64)>,
    ids: HashSet<u128>,
}

impl Seen {
    /// Counts a row.
    pub fn add(&mut self, place: (i64, i64, i64), event_id: &str) {
        let new_place = self.places.insert(place);
        let new_id = self.ids.insert(xxh3_128(event_id.as_bytes()));
        self.rows += 1;
        self.duplicates += u64::from(!new_place || !new_id);
    }
}

/// Reads the whole history, page by page.
pub async fn of_history(history: &HistoryReader) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut behind = None;
    loop {
        let page = history.rows(behind.as_ref(), PAGE_ROWS).await?;
        for stored in &page.rows {
            let columns = decode(&stored.row).context("a row of the history")?;
            let id = columns.iter().find_map(|(name, value)| match value {
                Value::String(id) if name == "event_id" => Some(id.as_str()),
                _ => None,
            });
            let place = (stored.key.partition.into(), i64::try_from(stored.key.offset)?, stored.key.sub.into());
            seen.add(place, id.context("a row without event_id")?);
        }
        behind = page.next;
        if behind.is_none() {
            return Ok(seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_place_or_id_is_a_duplicate() {
        let mut seen = Seen::default();
        seen.add((0, 0, 0), "a");
        seen.add((0, 0, 1), "b");
        seen.add((0, 0, 1), "c");
        seen.add((0, 1, 0), "a");
        assert_eq!((seen.rows, seen.duplicates), (4, 2));
    }
}
