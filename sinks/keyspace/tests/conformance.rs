//! The embedded keyspace passes the suite of every keyspace.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by a panic")]

use std::sync::Arc;

use bytes::Bytes;
use millrace_keyspace::Keyspace;
use millrace_keyspace::embedded::{EmbeddedKeyspace, Options};
use tempfile::TempDir;

async fn open(name: &'static str) -> (Arc<dyn Keyspace>, Bytes, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    // The smallest write buffer: the larger checks also read from tables.
    let options = Options { write_buffer_bytes: 1, ..Options::default() };
    let keyspace = EmbeddedKeyspace::open(dir.path(), options).await.unwrap();
    (Arc::new(keyspace), Bytes::from(format!("{name}/")), dir)
}

millrace_keyspace::conformance_tests!(open);
