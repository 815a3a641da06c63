//! What a verification has vouched for, so that the next one need not look again.
//!
//! ```text
//! ("v", store)    Verified
//! ```
//! under the deployment's root, as JSON, beside the catalogue and not in its export: it speaks of a store as it stood, and
//! an export may come back beside another. Without it everything is verified.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_keyspace::{Batch, Write};
use millrace_rows::LogId;
use serde::{Deserialize, Serialize};

use crate::catalogue::{Catalogue, CatalogueError, from_json, to_json};
use crate::revision::Timeline;

/// Rows of a store that were found as they must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The log that the offsets count in.
    pub log: LogId,
    /// The revision that the store had applied: what later ones cover was made again since.
    pub applied: u64,
    /// By partition: everything below this offset that could be verified.
    pub below: BTreeMap<u32, u64>,
}

impl Verified {
    /// The offset below which this still stands in a partition, for a store that has now applied `applied`.
    pub fn stands_below(&self, timeline: &Timeline, applied: u64, partition: u32) -> u64 {
        let later = timeline.revisions().iter().filter(|revision| self.applied < revision.id && revision.id <= applied);
        let changed = later.filter_map(|revision| revision.ranges.of(partition)).map(|range| range.start);
        changed.fold(self.below.get(&partition).copied().unwrap_or(0), u64::min)
    }
}

impl Catalogue {
    fn verified_key(&self, store: &str) -> Bytes {
        self.root.pack(&("v", store)).into()
    }

    /// What the last clean verification of a store vouched for.
    ///
    /// # Errors
    /// When the keyspace fails, or a later version wrote it.
    pub async fn verified(&self, store: &str) -> Result<Option<Verified>, CatalogueError> {
        let stored = self.keyspace().get(&self.verified_key(store)).await?;
        stored.map(|value| from_json(&value, "verified")).transpose()
    }

    /// Notes what a clean verification vouches for; `None`: nothing, since the store is being made again.
    ///
    /// # Errors
    /// When the keyspace fails.
    pub async fn set_verified(&self, store: &str, verified: Option<&Verified>) -> Result<(), CatalogueError> {
        let key = self.verified_key(store);
        let write = match verified {
            Some(verified) => Write::Put(key, to_json(verified)?),
            None => Write::Delete(key),
        };
        Ok(self.keyspace().commit(Batch { compares: vec![], writes: vec![write] }).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChainSpec, Filter, Kind, OffsetRange, Ranges, Revision};

    fn revision(id: u64, kind: Kind, ranges: Ranges) -> Revision {
        Revision {
            id,
            kind,
            ranges,
            filter: Filter::default(),
            group: None,
            chain: ChainSpec { semantics: 1, steps: vec![] },
            author: String::new(),
            reason: String::new(),
            created_at_us: 0,
        }
    }

    #[test]
    fn what_was_corrected_since_is_looked_at_again() {
        let only = |partition, start, end| Ranges {
            partitions: BTreeMap::from([(partition, OffsetRange { start, end: Some(end) })]),
            later_partitions: false,
        };
        let timeline = Timeline::new(vec![
            revision(1, Kind::Activate, Ranges::everything()),
            revision(2, Kind::Correct, only(0, 50, 60)),
            revision(3, Kind::Correct, only(0, 70, 80)),
        ]);
        let timeline = timeline.unwrap();
        let verified = Verified { log: LogId([1; 16]), applied: 1, below: BTreeMap::from([(0, 100), (1, 40)]) };
        assert_eq!(verified.stands_below(&timeline, 1, 0), 100);
        assert_eq!(verified.stands_below(&timeline, 2, 0), 50);
        assert_eq!(verified.stands_below(&timeline, 3, 1), 40, "of the other partition nothing changed");
        assert_eq!(verified.stands_below(&timeline, 3, 2), 0, "a partition that is new");
        let later = Verified { applied: 2, ..verified };
        assert_eq!(later.stands_below(&timeline, 3, 0), 70);
    }
}
