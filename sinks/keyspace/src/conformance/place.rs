//! Where the keyspace of a test is, so that another process can open the same one: the tests that let a process die start
//! themselves as a child with the place in its environment.
//!
//! Tests of a cluster run where `MILLRACE_TEST_FDB` names a cluster file and the feature `foundationdb` is on. Each has a
//! prefix of its own, which is cleared when the place is dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::Keyspace;
use crate::embedded::{self, EmbeddedKeyspace};

/// Names the cluster file of the tests.
pub const CLUSTER_FILE: &str = "MILLRACE_TEST_FDB";
/// Tells a child the place: `directory:` and a path, or `cluster:` and a prefix.
const PLACE: &str = "MILLRACE_TEST_PLACE";

/// Where a keyspace is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A directory, with the embedded keyspace.
    Directory(PathBuf),
    /// A prefix of the tests' cluster.
    #[cfg(feature = "foundationdb")]
    Cluster(Arc<super::cluster::Scratch>),
}

/// An open keyspace of any backend.
pub struct Opened {
    /// The keyspace.
    pub keyspace: Arc<dyn Keyspace>,
    embedded: Option<Arc<EmbeddedKeyspace>>,
}

impl Opened {
    /// Closes it, so that another process can open it.
    pub async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.close().await;
        }
    }
}

impl Place {
    /// The directory, and a new prefix of the cluster where there is one for tests.
    pub fn all(test: &str, directory: &Path) -> Vec<Self> {
        [Self::Directory(directory.to_owned())].into_iter().chain(Self::cluster(test)).collect()
    }

    /// A new prefix of the cluster; where there is none for tests that is printed.
    pub fn cluster(test: &str) -> Option<Self> {
        #[cfg(feature = "foundationdb")]
        if let Some(scratch) = super::cluster::Scratch::new(test) {
            return Some(Self::Cluster(Arc::new(scratch)));
        }
        if cfg!(feature = "foundationdb") {
            println!("{test}: skipped on FoundationDB: {CLUSTER_FILE} names no cluster file");
        } else {
            println!("{test}: skipped on FoundationDB: built without the feature foundationdb");
        }
        None
    }

    /// Tells a child where the keyspace is.
    pub fn tell(&self, child: &mut Command) {
        let mut place = std::ffi::OsString::new();
        match self {
            Self::Directory(path) => {
                place.push("directory:");
                place.push(path);
            }
            #[cfg(feature = "foundationdb")]
            Self::Cluster(scratch) => {
                place.push("cluster:");
                place.push(&scratch.options().prefix);
            }
        }
        child.env(PLACE, place);
    }

    /// The place that this process was told.
    pub fn told() -> Self {
        let place = std::env::var(PLACE).expect("started by another test");
        match place.split_once(':').expect("a kind and a place") {
            ("directory", path) => Self::Directory(path.into()),
            #[cfg(feature = "foundationdb")]
            ("cluster", prefix) => Self::Cluster(Arc::new(super::cluster::Scratch::of_another_process(prefix))),
            (kind, _) => panic!("a child of this build knows no {kind}"),
        }
    }

    /// Opens it; `options` are for the embedded keyspace.
    pub async fn open(&self, options: embedded::Options) -> Opened {
        match self {
            Self::Directory(path) => {
                let embedded = Arc::new(EmbeddedKeyspace::open(path, options).await.unwrap());
                Opened { keyspace: embedded.clone(), embedded: Some(embedded) }
            }
            #[cfg(feature = "foundationdb")]
            Self::Cluster(scratch) => Opened { keyspace: Arc::new(scratch.open().await), embedded: None },
        }
    }
}
