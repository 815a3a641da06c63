//! The catalogue: timeline, plugins, import positions and the identity of the deployment's log.
//!
//! It is a component of its own beside the two stores, with its own prefix: a rebuild of a store never touches it, and
//! it can be exported and restored by itself.
//!
//! Keys are FoundationDB tuples under `(root, "k")`, values are JSON but for plugin bytes:
//! ```text
//! ("format")                      1
//! ("log")                         identity of the log that the timeline's offsets count in
//! ("revision", id)                Revision
//! ("plugin", name, version)       PluginEntry: the pointer, written after the bytes that it points to
//! ("table", name, version)        TableEntry: the same for a lookup table
//! ("blob", sha256, chunk)         bytes of a plugin or a table, BLOB_CHUNK_BYTES each
//! ("import", id)                  ImportPosition: how far an import has come
//! ("token", id)                   TokenEntry
//! ("audit", number)               AuditEntry, the newest AUDIT_ENTRIES_MAX of them
//! ("audit-next")                  number of the next one
//! ("pause")                       PauseEntry, while the chain stands
//! ("gap", partition, from, store)  GapEntry: records that retention took before the store had them
//! ```
//! Revisions are appended with a compare on their own key (absent) and the one before (there), so two writers can't
//! both append number n.

use std::sync::Arc;

use bytes::Bytes;
use foundationdb_tuple::{Subspace, TuplePack, TupleUnpack};
use millrace_keyspace::{Batch, Compare, Keyspace, KeyspaceError, Pair, Snapshot, Write, prefix_end};
use millrace_rows::LogId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::plugins::PLUGIN_BYTES_MAX;
use crate::revision::{Revision, Timeline, TimelineError};

/// Version of the layout above.
pub const FORMAT: u32 = 1;
/// Bytes of a plugin in one value.
pub const BLOB_CHUNK_BYTES: usize = 90_000;
/// Largest revision, in bytes of its JSON: what fits into one value, and some room.
pub const REVISION_BYTES_MAX: usize = 95_000;

/// Most bytes of the revisions that are appended at once: half of a transaction.
pub const GROUP_BYTES_MAX: usize = 500_000;

/// Why the catalogue did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The keyspace failed.
    #[error("catalogue: {0}")]
    Keyspace(#[from] KeyspaceError),
    /// The revisions stored are no timeline.
    #[error("catalogue: {0}")]
    Timeline(#[from] TimelineError),
    /// A value that this build can't read.
    #[error("catalogue: {what} can't be read: {detail}; it may be damaged or written by a later version")]
    Unreadable {
        /// Which value.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Another writer appended the same revision first.
    #[error("revision {0} exists already: read the timeline again")]
    RevisionExists(u64),
    /// The same name and version with other bytes.
    #[error("plugin {name}@{version} exists with other content (sha256 {stored}): give the new one a new version")]
    PluginDiffers {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
        /// Digest of what is stored.
        stored: String,
    },
    /// A plugin or table that revisions refer to can't be deleted.
    #[error("{what} is in use by revision {}: a replay needs it", revisions.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))]
    InUse {
        /// The plugin or table.
        what: String,
        /// The revisions.
        revisions: Vec<u64>,
    },
    /// No such table, or its bytes are gone or damaged.
    #[error("table {0} is not in the catalogue, or its bytes are damaged")]
    NoSuchTable(String),
    /// No such token.
    #[error("there is no token {0}")]
    NoSuchToken(String),
    /// A revision larger than [`REVISION_BYTES_MAX`].
    #[error(
        "the revision has {0} bytes with its configurations and its filter: the limit is {REVISION_BYTES_MAX}; put long lists \
         into a lookup table"
    )]
    RevisionTooLarge(usize),
    /// Revisions larger than [`GROUP_BYTES_MAX`] together.
    #[error(
        "the {revisions} revisions of this change have more than {GROUP_BYTES_MAX} bytes, the limit for what is appended at \
         once: correct a shorter range, or give all of it one chain first"
    )]
    GroupTooLarge {
        /// How many there are.
        revisions: usize,
    },
    /// No such plugin, or its bytes are gone or damaged.
    #[error("plugin {0} is not in the catalogue, or its bytes are damaged")]
    NoSuchPlugin(String),
    /// Larger than [`crate::plugins::PLUGIN_BYTES_MAX`].
    #[error("plugin of {0} bytes: the limit is {PLUGIN_BYTES_MAX}")]
    PluginTooLarge(usize),
    /// The catalogue belongs to another log.
    #[error(
        "the catalogue belongs to log {catalogue}, this is log {log}: the data directories of two deployments are mixed, \
         or the log was created anew"
    )]
    OtherLog {
        /// The log that the catalogue's offsets count in.
        catalogue: LogId,
        /// The log that is there.
        log: LogId,
    },
    /// A restore that can't be done.
    #[error("restore: {0}")]
    Restore(String),
    /// Reading or writing the export file failed.
    #[error("export file: {0}")]
    File(#[from] std::io::Error),
}

/// How far an import has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportPosition {
    /// Lines from the start of the file that are durably in the log or were refused.
    pub lines: u64,
}

/// Timeline and plugins over a keyspace.
#[derive(Clone)]
pub struct Catalogue {
    keyspace: Arc<dyn Keyspace>,
    /// Everything of this deployment.
    pub(crate) root: Subspace,
    pub(crate) space: Subspace,
}

impl Catalogue {
    /// The catalogue under `root` of a keyspace; writes its format there when it is new.
    ///
    /// # Errors
    /// When the keyspace fails or holds a later format.
    pub async fn open(keyspace: Arc<dyn Keyspace>, root: &str) -> Result<Self, CatalogueError> {
        let root = Subspace::all().subspace(&(root,));
        let catalogue = Self { keyspace, space: root.subspace(&("k",)), root };
        match catalogue.get::<u32>(&("format",), "format").await? {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(CatalogueError::Unreadable {
                    what: "format".into(),
                    detail: format!("version {other}, this build reads version {FORMAT}"),
                });
            }
            None => {
                let key = catalogue.key(&("format",));
                let batch = Batch {
                    compares: vec![Compare { key: key.clone(), expected: None }],
                    writes: vec![Write::Put(key, to_json(&FORMAT)?)],
                };
                catalogue.keyspace.commit(batch).await?;
            }
        }
        Ok(catalogue)
    }

    /// Ties the catalogue to a log, or checks that it is tied to this one.
    ///
    /// # Errors
    /// [`CatalogueError::OtherLog`] when it is tied to another.
    pub async fn bind_log(&self, log: LogId) -> Result<(), CatalogueError> {
        match self.get::<LogId>(&("log",), "log").await? {
            Some(bound) if bound == log => Ok(()),
            Some(catalogue) => Err(CatalogueError::OtherLog { catalogue, log }),
            None => {
                let key = self.key(&("log",));
                let batch = Batch {
                    compares: vec![Compare { key: key.clone(), expected: None }],
                    writes: vec![Write::Put(key, to_json(&log)?)],
                };
                Ok(self.keyspace.commit(batch).await?)
            }
        }
    }

    /// The whole timeline.
    pub async fn timeline(&self) -> Result<Timeline, CatalogueError> {
        let pairs = self.scan(&self.space.subspace(&("revision",))).await?;
        let revisions =
            pairs.iter().map(|(_, value)| from_json::<Revision>(value, "revision")).collect::<Result<Vec<_>, _>>()?;
        Ok(Timeline::new(revisions)?)
    }

    /// Whether the timeline has a revision: a look of one key.
    pub async fn has_revision(&self, id: u64) -> Result<bool, CatalogueError> {
        Ok(self.keyspace.get(&self.key(&("revision", id))).await?.is_some())
    }

    /// Appends a revision after the timeline's head.
    ///
    /// # Errors
    /// As [`Self::append_all`].
    pub async fn append(&self, revision: &Revision) -> Result<(), CatalogueError> {
        self.append_all(std::slice::from_ref(revision)).await
    }

    /// Appends revisions after the timeline's head, all of them or none.
    ///
    /// # Errors
    /// [`CatalogueError::RevisionExists`] when another writer was first, as [`check_sizes`] when one of
    /// them does not fit into a value or all of them into a transaction.
    pub async fn append_all(&self, revisions: &[Revision]) -> Result<(), CatalogueError> {
        let Some(first) = revisions.first().map(|revision| revision.id) else { return Ok(()) };
        let mut batch = Batch::default();
        if first > 1 {
            let before = self.key(&("revision", first - 1));
            let expected = self.keyspace.get(&before).await?;
            if expected.is_none() {
                return Err(TimelineError::Order { expected: first - 1, found: first }.into());
            }
            batch.compares.push(Compare { key: before, expected });
        }
        let values = encoded(revisions)?;
        for ((expected, revision), value) in (first..).zip(revisions).zip(values) {
            if revision.id != expected {
                return Err(TimelineError::Order { expected, found: revision.id }.into());
            }
            revision.check()?;
            let key = self.key(&("revision", revision.id));
            batch.compares.push(Compare { key: key.clone(), expected: None });
            for pointer in self.pointers(revision).await? {
                if !batch.compares.iter().any(|compare| compare.key == pointer.key) {
                    batch.compares.push(pointer);
                }
            }
            batch.writes.push(Write::Put(key, value));
        }
        match self.keyspace.commit(batch).await {
            Err(KeyspaceError::Conflict { .. }) => Err(CatalogueError::RevisionExists(first)),
            other => Ok(other?),
        }
    }

    /// Compares that hold while everything that a revision refers to is there.
    async fn pointers(&self, revision: &Revision) -> Result<Vec<Compare>, CatalogueError> {
        let mut pointers = Vec::new();
        for step in &revision.chain.steps {
            let plugin = &step.plugin;
            let key = self.key(&("plugin", plugin.name.as_str(), plugin.version.as_str()));
            let expected = self.keyspace.get(&key).await?;
            if expected.is_none() {
                return Err(CatalogueError::NoSuchPlugin(plugin.to_string()));
            }
            pointers.push(Compare { key, expected });
            for table in &step.tables {
                let key = self.key(&("table", table.name.as_str(), table.version));
                let expected = self.keyspace.get(&key).await?;
                if expected.is_none() {
                    return Err(CatalogueError::NoSuchTable(table.to_string()));
                }
                pointers.push(Compare { key, expected });
            }
        }
        Ok(pointers)
    }

    /// Stores bytes under their digest.
    pub(crate) async fn put_blob(&self, sha256: &str, bytes: &[u8]) -> Result<(), CatalogueError> {
        for (index, chunk) in (0u64..).zip(bytes.chunks(BLOB_CHUNK_BYTES)) {
            let key = self.key(&("blob", sha256, index));
            let writes = vec![Write::Put(key, Bytes::copy_from_slice(chunk))];
            self.keyspace.commit(Batch { compares: vec![], writes }).await?;
        }
        Ok(())
    }

    /// The bytes with this digest; `None` where they are gone or damaged.
    pub(crate) async fn blob(&self, sha256: &str) -> Result<Option<Vec<u8>>, CatalogueError> {
        let pairs = self.scan_blobs(Some(sha256)).await?;
        let bytes: Vec<u8> = pairs.iter().flat_map(|(_, chunk)| chunk.iter().copied()).collect();
        Ok((hex_sha256(&bytes) == sha256).then_some(bytes))
    }

    /// Removes the bytes with this digest, unless another plugin or table has the same. A crash before it leaves bytes
    /// that nothing points to: the next upload of the same bytes takes them up.
    pub(crate) async fn drop_blob(&self, sha256: &str) -> Result<(), CatalogueError> {
        let plugins = self.plugins().await?;
        let tables = self.tables().await?;
        let shared = plugins.iter().any(|(_, entry)| entry.sha256 == sha256)
            || tables.iter().any(|(_, entry)| entry.sha256 == sha256);
        if shared {
            return Ok(());
        }
        let space = self.space.subspace(&("blob", sha256));
        let begin = Bytes::copy_from_slice(space.bytes());
        let writes = vec![Write::Clear(begin, prefix_end(space.bytes()).unwrap_or_default())];
        Ok(self.keyspace.commit(Batch { compares: vec![], writes }).await?)
    }

    /// How far the import `id` has come.
    pub async fn import_position(&self, id: &str) -> Result<ImportPosition, CatalogueError> {
        Ok(self.get(&("import", id), "import position").await?.unwrap_or_default())
    }

    /// Notes how far the import `id` has come.
    pub async fn set_import_position(&self, id: &str, position: ImportPosition) -> Result<(), CatalogueError> {
        let writes = vec![Write::Put(self.key(&("import", id)), to_json(&position)?)];
        Ok(self.keyspace.commit(Batch { compares: vec![], writes }).await?)
    }

    pub(crate) fn keyspace(&self) -> &dyn Keyspace {
        self.keyspace.as_ref()
    }

    pub(crate) fn unpack<'de, T: TupleUnpack<'de>>(&self, key: &'de [u8]) -> Result<T, CatalogueError> {
        self.space.unpack(key).map_err(|error| CatalogueError::Unreadable {
            what: millrace_keyspace::display_key(key),
            detail: error.to_string(),
        })
    }

    pub(crate) fn key<T: TuplePack>(&self, tuple: &T) -> Bytes {
        self.space.pack(tuple).into()
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        tuple: &impl TuplePack,
        what: &str,
    ) -> Result<Option<T>, CatalogueError> {
        let key = self.key(tuple);
        self.keyspace.get(&key).await?.map(|value| from_json(&value, what)).transpose()
    }

    /// Every pair below a subspace, of one moment. The catalogue is small: plugins and revisions, not events.
    pub(crate) async fn scan(&self, space: &Subspace) -> Result<Vec<Pair>, CatalogueError> {
        let snapshot = self.keyspace.snapshot().await?;
        let mut pairs = Vec::new();
        // A tuple prefix is never all 0xff bytes.
        let end = prefix_end(space.bytes()).unwrap_or_default();
        scan_range(&*snapshot, space.bytes(), &end, &mut pairs).await?;
        Ok(pairs)
    }

    /// Every pair but those of blobs, of one moment: those before blobs, and those behind.
    pub(crate) async fn scan_without_blobs(&self) -> Result<(Vec<Pair>, Vec<Pair>), CatalogueError> {
        let snapshot = self.keyspace.snapshot().await?;
        let blobs = self.space.subspace(&("blob",));
        let ends = [&blobs, &self.space].map(|space| prefix_end(space.bytes()).unwrap_or_default());
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        scan_range(&*snapshot, self.space.bytes(), blobs.bytes(), &mut before).await?;
        scan_range(&*snapshot, &ends[0], &ends[1], &mut behind).await?;
        Ok((before, behind))
    }

    /// Every pair of blobs, or of one. Each page is of its own moment, since what is read can be long and a snapshot lives
    /// for seconds: a blob's pairs never change, they come and go.
    pub(crate) async fn scan_blobs(&self, sha256: Option<&str>) -> Result<Vec<Pair>, CatalogueError> {
        let space = match sha256 {
            Some(sha256) => self.space.subspace(&("blob", sha256)),
            None => self.space.subspace(&("blob",)),
        };
        let mut begin = Bytes::copy_from_slice(space.bytes());
        let end = prefix_end(space.bytes()).unwrap_or_default();
        let mut pairs = Vec::new();
        loop {
            let snapshot = self.keyspace.snapshot().await?;
            let page = snapshot.range(&begin, &end, millrace_keyspace::PAGE_PAIRS_MAX).await?;
            pairs.extend(page.pairs);
            match pairs.last() {
                Some(last) if page.more => begin = behind(last),
                _ => return Ok(pairs),
            }
        }
    }
}

async fn scan_range(
    snapshot: &dyn Snapshot,
    begin: &[u8],
    end: &[u8],
    pairs: &mut Vec<Pair>,
) -> Result<(), KeyspaceError> {
    let mut begin = Bytes::copy_from_slice(begin);
    loop {
        let page = snapshot.range(&begin, end, millrace_keyspace::PAGE_PAIRS_MAX).await?;
        pairs.extend(page.pairs);
        match pairs.last() {
            Some(last) if page.more => begin = behind(last),
            _ => return Ok(()),
        }
    }
}

/// Where to read on behind a pair.
fn behind(last: &Pair) -> Bytes {
    [last.0.as_ref(), &[0]].concat().into()
}

/// Whether revisions can be appended at once: before anything is done for them.
///
/// # Errors
/// [`CatalogueError::RevisionTooLarge`], [`CatalogueError::GroupTooLarge`].
pub fn check_sizes(revisions: &[Revision]) -> Result<(), CatalogueError> {
    encoded(revisions).map(drop)
}

fn encoded(revisions: &[Revision]) -> Result<Vec<Bytes>, CatalogueError> {
    let values = revisions.iter().map(to_json).collect::<Result<Vec<_>, _>>()?;
    if let Some(large) = values.iter().map(Bytes::len).find(|bytes| *bytes > REVISION_BYTES_MAX) {
        return Err(CatalogueError::RevisionTooLarge(large));
    }
    if values.iter().map(Bytes::len).sum::<usize>() > GROUP_BYTES_MAX {
        return Err(CatalogueError::GroupTooLarge { revisions: revisions.len() });
    }
    Ok(values)
}

/// SHA-256 in lower-case hexadecimal digits, as the catalogue writes digests.
pub fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn from_json<T: DeserializeOwned>(value: &[u8], what: &str) -> Result<T, CatalogueError> {
    serde_json::from_slice(value)
        .map_err(|error| CatalogueError::Unreadable { what: what.to_owned(), detail: error.to_string() })
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Bytes, CatalogueError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| CatalogueError::Unreadable { what: "value".into(), detail: error.to_string() })
}
