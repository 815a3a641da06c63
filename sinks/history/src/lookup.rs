//! Finds the lineage that covers a record, with the bytes by which a commit can tell that it is still the same.

use std::ops::Range;

use bytes::Bytes;
use millrace_keyspace::Snapshot;

use crate::TRANSACTION_RECORDS_MAX;
use crate::keys::Keys;
use crate::lineage::{self, LineageRow};
use crate::reader::ReadError;
use crate::scan::Scan;
use crate::value::{SplitHead, chunks};

/// How far before the offset the key of the lineage that covers it is looked for: near first, because all lineages of the
/// range are read to find its last. No lineage is longer than the last of these.
const REACHES: [u64; 3] = [16, 256, TRANSACTION_RECORDS_MAX];

/// Pairs asked of the keyspace at a time.
const PAGE_PAIRS: usize = 300;

/// A lineage as it stands in the keyspace.
#[derive(Debug)]
pub(crate) struct StoredLineage {
    pub(crate) key: Bytes,
    /// What stands under the key: the value, or the head of a value in chunks.
    pub(crate) stands: Bytes,
    /// Number of its chunks; 0: it is whole.
    pub(crate) chunks: usize,
    /// The offsets that it covers.
    pub(crate) offsets: Range<u64>,
    /// The value.
    whole: Bytes,
}

impl StoredLineage {
    /// Its rows.
    pub(crate) fn rows(&self) -> Result<Vec<LineageRow<&str>>, ReadError> {
        Ok(lineage::decode(self.offsets.start, &self.whole)?.rows)
    }
}

/// The lineage that covers `offset`; `None` when none does. It must not begin before `from`: 0, or the end of another
/// lineage.
pub(crate) async fn covering(
    snapshot: &dyn Snapshot,
    keys: &Keys,
    partition: u32,
    offset: u64,
    from: u64,
) -> Result<Option<StoredLineage>, ReadError> {
    for reach in REACHES {
        let begin = offset.saturating_sub(reach - 1).max(from);
        let range = keys.lineage_range(partition, begin..offset.saturating_add(1));
        let mut scan = Scan::new(snapshot, range, PAGE_PAIRS);
        let mut last = None;
        while let Some(pair) = scan.next().await? {
            last = Some(pair);
        }
        if let Some((key, value)) = last {
            // Lineages do not overlap: if this one ends before the offset, so do all before it.
            let offsets = lineage::covered(keys.parse_lineage(&key)?.1, &value)?;
            if offsets.end <= offset {
                return Ok(None);
            }
            let chunks = chunks(value.len());
            // A scan takes no head but the one that belongs to the value.
            let head = || Bytes::copy_from_slice(&SplitHead::of(value.len()).encode());
            let stands = if chunks == 0 { value.clone() } else { head() };
            return Ok(Some(StoredLineage { key, stands, chunks, offsets, whole: value }));
        }
        if begin == from {
            break;
        }
    }
    Ok(None)
}
