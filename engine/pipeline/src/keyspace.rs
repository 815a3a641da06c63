//! The keyspace of history and catalogue: which backend, and what is only one backend's.

use std::path::Path;
use std::sync::Arc;

use millrace_keyspace::embedded::{self, EmbeddedKeyspace};
#[cfg(feature = "foundationdb")]
use millrace_keyspace::foundationdb::{self, FoundationDbKeyspace};
use millrace_keyspace::{Keyspace, KeyspaceError};

/// Which keyspace an engine works on.
pub enum KeyspaceOptions {
    /// One in `<data dir>/keyspace`.
    Embedded(embedded::Options),
    /// One in a FoundationDB cluster.
    #[cfg(feature = "foundationdb")]
    FoundationDb(foundationdb::Options),
    /// One that is open already, and stays open when the engine stops: for tests of several engines over one keyspace.
    Shared(Arc<dyn Keyspace>),
}

impl Default for KeyspaceOptions {
    fn default() -> Self {
        Self::Embedded(embedded::Options::default())
    }
}

/// An open keyspace.
pub enum OpenKeyspace {
    /// In a directory.
    Embedded(Arc<EmbeddedKeyspace>),
    /// In a cluster.
    #[cfg(feature = "foundationdb")]
    FoundationDb(Arc<FoundationDbKeyspace>),
    /// Somebody else's.
    Shared(Arc<dyn Keyspace>),
}

/// What a keyspace says of itself.
#[derive(Clone, Copy)]
pub(crate) enum KeyspaceStats {
    /// `None` while it can't tell, as while it is opened again.
    Embedded(Option<embedded::Stats>),
    #[cfg(feature = "foundationdb")]
    FoundationDb(foundationdb::Stats),
    /// Nothing.
    Shared,
}

impl OpenKeyspace {
    /// Opens the keyspace of a data directory.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn open(data_dir: &Path, options: KeyspaceOptions) -> Result<Self, KeyspaceError> {
        Ok(match options {
            KeyspaceOptions::Embedded(options) => {
                Self::Embedded(Arc::new(EmbeddedKeyspace::open(data_dir.join("keyspace"), options).await?))
            }
            #[cfg(feature = "foundationdb")]
            KeyspaceOptions::FoundationDb(options) => {
                Self::FoundationDb(Arc::new(FoundationDbKeyspace::open(options).await?))
            }
            KeyspaceOptions::Shared(keyspace) => Self::Shared(keyspace),
        })
    }

    /// The keyspace, whatever it is.
    pub fn shared(&self) -> Arc<dyn Keyspace> {
        match self {
            Self::Embedded(keyspace) => keyspace.clone(),
            #[cfg(feature = "foundationdb")]
            Self::FoundationDb(keyspace) => keyspace.clone(),
            Self::Shared(keyspace) => keyspace.clone(),
        }
    }

    /// Closes what has to be closed: the files of a directory.
    pub async fn close(&self) {
        if let Self::Embedded(keyspace) = self {
            keyspace.close().await;
        }
    }

    pub(crate) async fn stats(&self) -> KeyspaceStats {
        match self {
            Self::Embedded(keyspace) => KeyspaceStats::Embedded(keyspace.stats().await.ok()),
            #[cfg(feature = "foundationdb")]
            Self::FoundationDb(keyspace) => KeyspaceStats::FoundationDb(keyspace.stats()),
            Self::Shared(_) => KeyspaceStats::Shared,
        }
    }
}
