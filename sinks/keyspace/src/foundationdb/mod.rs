//! The keyspace in a FoundationDB cluster (feature `foundationdb`, which needs FoundationDB's client library to link and
//! to run: `docs/foundationdb.md`).
//!
//! # Keys
//! Every key stands below a prefix: the keyspace's name as a tuple of one string. Several pipelines, and other layers that
//! encode their keys as tuples, share a cluster. The limits are the trait's; the longest key leaves room for the prefix.
//!
//! # Snapshots
//! A transaction whose read version is there when it is handed out; reads are snapshot reads, which make no conflicts. It
//! reads for about five seconds, then answers [`Unavailable`](crate::KeyspaceError::Unavailable): whoever reads a long
//! range goes on from the last key in a new snapshot. A page is put together from answers of about 80 kB.
//!
//! # Commits
//! A transaction of its own: the compared keys are read (so that whoever else writes one of them in the meantime makes it
//! conflict), compared in order, the writes are made, the transaction is committed. A key that differs is answered
//! [`Conflict`](crate::KeyspaceError::Conflict). What FoundationDB says was certainly not committed (a conflict with another
//! transaction, a read version that is too old, a storage server behind, a proxy short of memory, …) is tried again from
//! the reads on, at most 20 times and within [`Options::timeout`]: a compare that another writer made untrue is found there.
//!
//! Whatever does *not* say that nothing was committed is answered [`Unknown`](crate::KeyspaceError::Unknown) and never
//! tried again here: a batch is a compare and a set, so a second attempt would take its own first one for somebody else's.
//! That is `commit_unknown_result` (1021), `cluster_version_changed` (1039), and a timeout or cancellation while the commit
//! was under way. Callers read back what their compares name. After a timeout the commit may even happen after that was
//! read; then the caller's next batch, which compares the same keys, or the late one conflicts: never do both take effect.
//! The same holds where the future of a commit is dropped.
//!
//! Clears are FoundationDB's range clears: they remove any number of keys.
//!
//! # Time
//! [`Options::timeout`] bounds each commit with its further attempts, and each snapshot from its beginning: with the cluster
//! down no call waits longer.
//!
//! # The client library
//! One network thread serves the process. It is started by the first open and stopped when the process exits; what is
//! set for it (TLS) is the same for every keyspace of the process. The library keeps what it has found in the way of
//! coordinators in the cluster file, which must be writable for that.
//!
//! # Failpoints (feature `failpoints`)
//! `keyspace::commit::before`, `keyspace::commit::after` and `keyspace::commit::unknown`, as in
//! [`embedded`](crate::embedded).

#[cfg(feature = "foundationdb")]
mod client;
mod layout;
#[cfg(feature = "foundationdb")]
mod network;
mod outcome;

use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "foundationdb")]
pub use client::FoundationDbKeyspace;
pub use layout::PREFIX_NAME_BYTES_MAX;

/// Shortest and longest [`Options::timeout`].
pub const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);

/// Which cluster, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The cluster file: where the coordinators are.
    pub cluster_file: PathBuf,
    /// The name below which all keys stand, 1 to [`PREFIX_NAME_BYTES_MAX`] bytes without a zero byte. One for each
    /// pipeline. Default `millrace`.
    pub prefix: String,
    /// Longest time for a commit or the life of a snapshot. Taken into [`TIMEOUTS`]. Default 10 s, which outlasts the
    /// recovery of a cluster that lost a process.
    pub timeout: Duration,
    /// TLS, where the coordinators in the cluster file are marked `:tls`. The same for every keyspace of the process.
    pub tls: Option<Tls>,
}

impl Options {
    /// Defaults for a cluster.
    pub fn at(cluster_file: impl Into<PathBuf>) -> Self {
        Self {
            cluster_file: cluster_file.into(),
            prefix: "millrace".to_owned(),
            timeout: Duration::from_secs(10),
            tls: None,
        }
    }
}

/// What the two sides of a connection know each other by. The password of a key that has one is taken from the environment
/// variable `FDB_TLS_PASSWORD` by the client library itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM: this process's certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// PEM: the key of the certificate.
    pub key: PathBuf,
    /// PEM: the authorities that the cluster's certificates are checked by. `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// What a certificate of the cluster must say, in FoundationDB's words, as in `Check.Valid=1,S.O=Example`. `None`: that
    /// it is valid.
    pub verify_peers: Option<String>,
}

/// Numbers for metrics, since the open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches committed.
    pub commits: u64,
    /// Bytes of committed batches.
    pub committed_bytes: u64,
    /// Batches refused because a compare did not hold.
    pub conflicts: u64,
    /// Commits and snapshots that were tried once more.
    pub retries: u64,
    /// Commits whose outcome was not known.
    pub unknown: u64,
}
