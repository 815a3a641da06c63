//! Ordered keys with range reads and atomic batches that compare several keys: what the device history and the catalogue
//! need, no more. Backends: a directory of one machine, a FoundationDB cluster.
//!
//! The limits are FoundationDB's on every backend, so that what runs on one machine runs on a cluster.
//!
//! * [`Keyspace`], [`Snapshot`], [`Batch`]: the contract.
//! * [`embedded::EmbeddedKeyspace`]: keeps the keys in a directory of this machine.
//! * `foundationdb::FoundationDbKeyspace` (feature `foundationdb`): keeps them in a cluster.
//! * `conformance` (feature of the same name): the suite that every backend passes, and with it `memory`, a keyspace for
//!   tests of what stands on keyspaces: it fails when it is told to.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod embedded;
mod failpoints;
// The parts of it that need no client library are tested without the feature.
#[cfg(any(feature = "foundationdb", test))]
pub mod foundationdb;
#[cfg(feature = "conformance")]
pub mod memory;

use async_trait::async_trait;
use bytes::Bytes;

/// Longest key that is written or compared, in bytes: FoundationDB's 10,000 less what a backend puts before it. The shortest
/// has one byte.
pub const KEY_BYTES_MAX: usize = 9_900;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 100_000;
/// Largest sum of keys and values in one [`Batch`], in bytes: writes, compares and both ends of cleared ranges.
pub const BATCH_BYTES_MAX: usize = 1_000_000;
/// Most pairs that one [`Snapshot::range`] call returns.
pub const PAGE_PAIRS_MAX: usize = 10_000;
/// Most bytes of keys and values after which a range page ends.
pub const PAGE_BYTES_MAX: usize = 1_000_000;

/// Most keys that the clears of one batch remove on every backend.
pub const CLEAR_KEYS_MAX: usize = 100_000;

/// A pair of a key and its value.
pub type Pair = (Bytes, Bytes);

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// The value it must have; `None`: it must be absent.
    pub expected: Option<Bytes>,
}

/// A change of one key or of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put(Bytes, Bytes),
    /// Removes a key, whether it is there or not.
    Delete(Bytes),
    /// Removes every key in `[begin, end)`; nothing where `end` is not after `begin`.
    ///
    /// A backend may refuse with [`KeyspaceError::TooLarge`] to remove more than [`CLEAR_KEYS_MAX`] keys in one batch.
    /// To remove more, read a page of the range, clear up to its last key, and go on.
    Clear(Bytes, Bytes),
}

/// Writes that happen together, in order, if every compare holds; else not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// What must be true at the commit.
    pub compares: Vec<Compare>,
    /// What changes. A later write of the same key wins.
    pub writes: Vec<Write>,
}

impl Batch {
    /// Bytes that count against [`BATCH_BYTES_MAX`].
    pub fn size_bytes(&self) -> usize {
        let compares = self.compares.iter().map(|c| c.key.len() + c.expected.as_ref().map_or(0, Bytes::len));
        let writes = self.writes.iter().map(|write| match write {
            Write::Put(key, value) => key.len() + value.len(),
            Write::Delete(key) => key.len(),
            Write::Clear(begin, end) => begin.len() + end.len(),
        });
        compares.chain(writes).sum()
    }

    /// Holds the batch against the limits: what every backend does before anything else.
    ///
    /// # Errors
    /// [`KeyspaceError::TooLarge`] that names the key or the size.
    pub fn check_limits(&self) -> Result<(), KeyspaceError> {
        let key = |key: &Bytes| match key.len() {
            0 => Err(KeyspaceError::TooLarge("an empty key".to_owned())),
            1..=KEY_BYTES_MAX => Ok(()),
            long => Err(too_large(&format!("key {}", display_key(key)), long, KEY_BYTES_MAX)),
        };
        // The end of a cleared range is the successor of a longest key at most.
        let bound = |bound: &Bytes| match bound.len() {
            0..=KEY_BYTES_MAX => Ok(()),
            length if length == KEY_BYTES_MAX + 1 => Ok(()),
            long => Err(too_large(&format!("range bound {}", display_key(bound)), long, KEY_BYTES_MAX + 1)),
        };
        let value = |key: &Bytes, value: &Bytes| match value.len() {
            0..=VALUE_BYTES_MAX => Ok(()),
            long => Err(too_large(&format!("the value of key {}", display_key(key)), long, VALUE_BYTES_MAX)),
        };
        for compare in &self.compares {
            key(&compare.key)?;
            // A longer expectation holds nowhere, and says so as a conflict.
        }
        for write in &self.writes {
            match write {
                Write::Put(k, v) => key(k).and_then(|()| value(k, v))?,
                Write::Delete(k) => key(k)?,
                Write::Clear(begin, end) => bound(begin).and_then(|()| bound(end))?,
            }
        }
        match self.size_bytes() {
            0..=BATCH_BYTES_MAX => Ok(()),
            long => Err(too_large("the batch", long, BATCH_BYTES_MAX)),
        }
    }
}

fn too_large(what: &str, bytes: usize, max: usize) -> KeyspaceError {
    KeyspaceError::TooLarge(format!("{what} has {bytes} bytes, at most {max} are allowed"))
}

/// A page of a range read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Pairs in the order asked for.
    pub pairs: Vec<Pair>,
    /// Whether the range may hold more after the last pair.
    pub more: bool,
}

/// Why a keyspace did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KeyspaceError {
    /// A compare did not hold. Nothing was written.
    #[error("key {} is not what was expected", display_key(.key))]
    Conflict {
        /// The first key that differed.
        key: Bytes,
    },
    /// A key, value or batch over the limits. Nothing was written.
    #[error("over the keyspace's limits: {0}")]
    TooLarge(String),
    /// Can't be reached, has no room, or took too long. Nothing was written; try again after a pause.
    #[error("keyspace not available: {0}")]
    Unavailable(String),
    /// Whether the batch was committed is not known. Read back before trying again.
    #[error("the outcome of the commit is unknown: {0}")]
    Unknown(String),
    /// Damaged, or of a format this build does not know: an operator has to look.
    #[error("keyspace broken: {0}")]
    Broken(String),
}

/// A key as text for messages: ASCII as it is, the rest escaped, cut at 64 bytes.
pub fn display_key(key: &[u8]) -> String {
    let shown = key.get(..64).unwrap_or(key).escape_ascii().to_string();
    if key.len() > 64 { format!("{shown}…") } else { shown }
}

/// The end of the range of all keys that start with `prefix`; `None` where no key is behind it.
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// Ordered keys on some backend. Keys order by unsigned bytes.
///
/// No call blocks a tokio worker: a backend that reads files does it on blocking threads.
#[async_trait]
pub trait Keyspace: Send + Sync + 'static {
    /// A consistent view of this moment. Cheap; hold it no longer than a few seconds (FoundationDB gives up after five).
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, KeyspaceError>;

    /// Commits a batch. On `Ok` it is durable and every later snapshot sees it.
    async fn commit(&self, batch: Batch) -> Result<(), KeyspaceError>;

    /// Commits a batch that gives way: where the keyspace can't take all, those of [`Self::commit`] come first. Else the
    /// same.
    async fn commit_background(&self, batch: Batch) -> Result<(), KeyspaceError> {
        self.commit(batch).await
    }

    /// The value of one key, at this moment.
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KeyspaceError> {
        self.snapshot().await?.get(key).await
    }
}

/// A consistent view of a keyspace.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// The value of one key.
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KeyspaceError>;

    /// The first `limit` pairs of `[begin, end)` in key order, fewer where the page's limits end it, but at least one if
    /// there is any and `limit` is not 0. Empty where `end` is not after `begin`.
    ///
    /// To read on, begin after the last key: append a zero byte to it.
    async fn range(&self, begin: &[u8], end: &[u8], limit: usize) -> Result<Page, KeyspaceError>;
}
