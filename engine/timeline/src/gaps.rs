//! Gaps of the log that an operator accepted: which store goes on without which records, by whose decision.

use millrace_keyspace::{Batch, Write};
use serde::{Deserialize, Serialize};

use crate::catalogue::{Catalogue, CatalogueError, from_json, to_json};

/// A gap that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapEntry {
    /// The store that goes on behind it.
    pub store: String,
    /// The partition.
    pub partition: u32,
    /// First offset whose record the store never had.
    pub from: u64,
    /// Past the last one.
    pub to: u64,
    /// When, µs since 1970 UTC.
    pub at_us: i64,
    /// Who accepted it: a token's name.
    pub who: String,
    /// Why, for people.
    pub reason: String,
}

impl Catalogue {
    /// Notes an accepted gap. The same one again replaces the note.
    pub async fn put_gap(&self, gap: &GapEntry) -> Result<(), CatalogueError> {
        let key = self.key(&("gap", gap.partition, gap.from, gap.store.as_str()));
        let batch = Batch { compares: vec![], writes: vec![Write::Put(key, to_json(gap)?)] };
        Ok(self.keyspace().commit(batch).await?)
    }

    /// Every gap that was accepted, by partition and offset.
    pub async fn gaps(&self) -> Result<Vec<GapEntry>, CatalogueError> {
        let pairs = self.scan(&self.space.subspace(&("gap",))).await?;
        pairs.iter().map(|(_, value)| from_json(value, "accepted gap")).collect()
    }
}
