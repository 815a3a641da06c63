//! What a verification has vouched for, so that the next one need not look again.
//!
//! ```text
//! ("v", store)    {"generation": number, "verified": Verified or null}
//! ```
//! under the deployment's root, as JSON, beside the catalogue and not in its export: it speaks of a store as it stood, and
//! an export may come back beside another. Without it everything is verified.
//!
//! Forgetting counts the generation up, also where nothing was noted. A verification notes only if the value is still the
//! one that it began with: what was forgotten meanwhile stays so.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_keyspace::{Batch, Compare, KeyspaceError, Write};
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
    /// The offset below which this still stands in a partition, for a store that has now applied `applied`; 0 if `timeline`
    /// ends before that: what the revisions that are not known here cover can't be told.
    pub fn stands_below(&self, timeline: &Timeline, applied: u64, partition: u32) -> u64 {
        if timeline.head() < applied {
            return 0;
        }
        let later = timeline.revisions().iter().filter(|revision| self.applied < revision.id && revision.id <= applied);
        let changed = later.filter_map(|revision| revision.ranges.of(partition)).map(|range| range.start);
        changed.fold(self.below.get(&partition).copied().unwrap_or(0), u64::min)
    }
}

/// The value as it is stored. One of an earlier format has neither field: it vouches for nothing.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Stored {
    generation: u64,
    verified: Option<Verified>,
}

/// What was noted of a store when it was read.
#[derive(Clone, Debug)]
pub struct Noted {
    /// What the last clean verification vouched for; `None`: nothing, or it was forgotten.
    pub verified: Option<Verified>,
    generation: u64,
    bytes: Option<Bytes>,
}

/// Times that forgetting is tried while verifications note something at the same moment.
const TRIES_MAX: usize = 10;

impl Catalogue {
    fn verified_key(&self, store: &str) -> Bytes {
        self.root.pack(&("v", store)).into()
    }

    /// What is noted of a store.
    ///
    /// # Errors
    /// When the keyspace fails, or a later version wrote it.
    pub async fn verified(&self, store: &str) -> Result<Noted, CatalogueError> {
        let bytes = self.keyspace().get(&self.verified_key(store)).await?;
        let stored = bytes.as_deref().map(|value| from_json::<Stored>(value, "verified")).transpose()?;
        let Stored { generation, verified } = stored.unwrap_or_default();
        Ok(Noted { verified, generation, bytes })
    }

    /// Notes what a clean verification vouches for that began when `began` was noted. Whether it is: not if that has changed
    /// since.
    ///
    /// # Errors
    /// When the keyspace fails.
    pub async fn note_verified(&self, store: &str, began: &Noted, verified: Verified) -> Result<bool, CatalogueError> {
        let stored = Stored { generation: began.generation, verified: Some(verified) };
        self.swap_verified(store, began, &stored).await
    }

    /// Notes that nothing is vouched for, since a store is being made again.
    ///
    /// # Errors
    /// When the keyspace fails.
    pub async fn forget_verified(&self, store: &str) -> Result<(), CatalogueError> {
        for _ in 0..TRIES_MAX {
            let began = self.verified(store).await?;
            let stored = Stored { generation: began.generation + 1, verified: None };
            if self.swap_verified(store, &began, &stored).await? {
                return Ok(());
            }
        }
        let detail = format!("what was verified of {store} changes all the time: try again");
        Err(KeyspaceError::Unavailable(detail).into())
    }

    async fn swap_verified(&self, store: &str, began: &Noted, stored: &Stored) -> Result<bool, CatalogueError> {
        let key = self.verified_key(store);
        let batch = Batch {
            compares: vec![Compare { key: key.clone(), expected: began.bytes.clone() }],
            writes: vec![Write::Put(key, to_json(stored)?)],
        };
        match self.keyspace().commit(batch).await {
            Ok(()) => Ok(true),
            Err(KeyspaceError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
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
        assert_eq!(verified.stands_below(&timeline, 4, 1), 0, "a revision that is not known here");
        let later = Verified { applied: 2, ..verified };
        assert_eq!(later.stands_below(&timeline, 3, 0), 70);
    }

    #[test]
    fn what_an_earlier_format_noted_vouches_for_nothing() {
        let verified = Verified { log: LogId([1; 16]), applied: 1, below: BTreeMap::from([(0, 100)]) };
        let earlier = from_json::<Stored>(&to_json(&verified).unwrap(), "verified").unwrap();
        assert_eq!((earlier.generation, earlier.verified), (0, None));
        let stored = Stored { generation: 3, verified: Some(verified.clone()) };
        let read = from_json::<Stored>(&to_json(&stored).unwrap(), "verified").unwrap();
        assert_eq!((read.generation, read.verified), (3, Some(verified)));
    }
}
