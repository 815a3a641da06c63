//! The state of the store as it stands in the keyspace, and the exact bytes that commits compare.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_keyspace::{Compare, Snapshot};
use millrace_rows::{Cursor, StoreState};

use crate::codec::{Applied, decode_cursor};
use crate::keys::Keys;
use crate::reader::ReadError;
use crate::scan::Scan;

const CURSOR_PAGE: usize = 1000;

/// What a writer last saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) applied: Applied,
    pub(crate) applied_bytes: Option<Bytes>,
    pub(crate) cursors: BTreeMap<u32, (Cursor, Bytes)>,
}

impl Seen {
    pub(crate) async fn read(snapshot: &dyn Snapshot, keys: &Keys) -> Result<Self, ReadError> {
        let applied_bytes = snapshot.get(&keys.applied()).await?;
        let applied = applied_bytes.as_deref().map(Applied::decode).transpose()?.unwrap_or_default();
        let mut cursors = BTreeMap::new();
        let mut scan = Scan::new(snapshot, keys.cursors_range(), CURSOR_PAGE);
        while let Some((key, value)) = scan.next().await? {
            cursors.insert(keys.parse_cursor(&key)?, (decode_cursor(&value)?, value));
        }
        if cursors.len() != applied.partitions as usize {
            return Err(ReadError::Broken(format!(
                "{} cursors, but the applied revision counts {}: somebody changed the keys",
                cursors.len(),
                applied.partitions
            )));
        }
        Ok(Self { applied, applied_bytes, cursors })
    }

    pub(crate) fn state(&self) -> StoreState {
        let cursors = self.cursors.iter().map(|(partition, (cursor, _))| (*partition, *cursor)).collect();
        StoreState { applied: self.applied.revision, cursors }
    }

    pub(crate) fn compare_applied(&self, keys: &Keys) -> Compare {
        Compare { key: keys.applied(), expected: self.applied_bytes.clone() }
    }

    pub(crate) fn compare_cursor(&self, keys: &Keys, partition: u32) -> Compare {
        let expected = self.cursors.get(&partition).map(|(_, bytes)| bytes.clone());
        Compare { key: keys.cursor(partition), expected }
    }
}
