//! The keyspace for tests passes the suite of every keyspace.

use std::sync::Arc;

use bytes::Bytes;
use millrace_keyspace::Keyspace;
use millrace_keyspace::memory::MemoryKeyspace;

async fn open(name: &'static str) -> (Arc<dyn Keyspace>, Bytes, ()) {
    (Arc::new(MemoryKeyspace::default()), Bytes::from(format!("{name}/")), ())
}

millrace_keyspace::conformance_tests!(open);
