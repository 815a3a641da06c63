//! A keyspace in memory, for tests of what stands on keyspaces: it keeps the contract, and fails when it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use tokio::task::yield_now;

use crate::{Batch, Keyspace, KeyspaceError, PAGE_BYTES_MAX, PAGE_PAIRS_MAX, Page, Snapshot, Write};

type Map = BTreeMap<Bytes, Bytes>;

/// What happens to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None: it is carried out.
    Pass,
    /// It is carried out if its compares hold, and its outcome is reported as unknown.
    UnknownCommitted,
    /// It is not carried out, and its outcome is reported as unknown.
    UnknownLost,
    /// It is refused.
    Unavailable,
}

/// A keyspace in memory. Every batch is checked against the limits, as on any backend, and other tasks get their turn at
/// each snapshot and commit, so that a task that asks again and again starves nobody.
#[derive(Default)]
pub struct MemoryKeyspace {
    map: Mutex<Arc<Map>>,
    faults: Mutex<VecDeque<Fault>>,
}

impl MemoryKeyspace {
    /// The fate of the next commits, in order; those after them pass.
    pub fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        *lock(&self.faults) = faults.into_iter().collect();
    }

    /// All pairs.
    pub fn dump(&self) -> Vec<(Bytes, Bytes)> {
        lock(&self.map).iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn apply(map: &mut Arc<Map>, batch: Batch) -> Result<(), KeyspaceError> {
    if let Some(failed) = batch.compares.iter().find(|compare| map.get(&compare.key) != compare.expected.as_ref()) {
        return Err(KeyspaceError::Conflict { key: failed.key.clone() });
    }
    // Snapshots that are held keep the map as it was.
    let map = Arc::make_mut(map);
    for write in batch.writes {
        match write {
            Write::Put(key, value) => {
                map.insert(key, value);
            }
            Write::Delete(key) => {
                map.remove(&key);
            }
            Write::Clear(begin, end) => map.retain(|key, _| !(begin <= *key && *key < end)),
        }
    }
    Ok(())
}

#[async_trait]
impl Keyspace for MemoryKeyspace {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, KeyspaceError> {
        yield_now().await;
        Ok(Box::new(MemorySnapshot(lock(&self.map).clone())))
    }

    async fn commit(&self, batch: Batch) -> Result<(), KeyspaceError> {
        batch.check_limits()?;
        yield_now().await;
        let fault = lock(&self.faults).pop_front().unwrap_or(Fault::Pass);
        let unknown = || KeyspaceError::Unknown("planned".to_owned());
        match fault {
            Fault::Pass => apply(&mut lock(&self.map), batch),
            Fault::UnknownCommitted => apply(&mut lock(&self.map), batch).and_then(|()| Err(unknown())),
            Fault::UnknownLost => Err(unknown()),
            Fault::Unavailable => Err(KeyspaceError::Unavailable("planned".to_owned())),
        }
    }
}

struct MemorySnapshot(Arc<Map>);

#[async_trait]
impl Snapshot for MemorySnapshot {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KeyspaceError> {
        Ok(self.0.get(key).cloned())
    }

    async fn range(&self, begin: &[u8], end: &[u8], limit: usize) -> Result<Page, KeyspaceError> {
        let mut page = Page::default();
        if begin >= end {
            return Ok(page);
        }
        let mut bytes = 0;
        for (key, value) in self.0.range::<[u8], _>((std::ops::Bound::Included(begin), std::ops::Bound::Excluded(end)))
        {
            if page.pairs.len() == limit.min(PAGE_PAIRS_MAX) || bytes >= PAGE_BYTES_MAX {
                page.more = true;
                break;
            }
            bytes += key.len() + value.len();
            page.pairs.push((key.clone(), value.clone()));
        }
        Ok(page)
    }
}
