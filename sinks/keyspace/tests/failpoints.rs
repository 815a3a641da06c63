//! Failed writes and unknown outcomes. In a binary of its own, and one at a time: failpoints are global to the process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by a panic")]

use std::time::Duration;

use bytes::Bytes;
use fail::FailScenario;
use millrace_keyspace::conformance::place::Place;
use millrace_keyspace::embedded::{EmbeddedKeyspace, Options};
use millrace_keyspace::{Batch, Keyspace, KeyspaceError, Write};
use tempfile::TempDir;

async fn open() -> (EmbeddedKeyspace, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { reopen_pause: Duration::ZERO, ..Options::default() };
    (EmbeddedKeyspace::open(dir.path(), options).await.unwrap(), dir)
}

async fn put(keyspace: &dyn Keyspace, key: &'static str) -> Result<(), KeyspaceError> {
    let writes = vec![Write::Put(Bytes::from_static(key.as_bytes()), Bytes::from_static(b"v"))];
    keyspace.commit(Batch { compares: Vec::new(), writes }).await
}

async fn has(keyspace: &dyn Keyspace, key: &str) -> bool {
    keyspace.get(key.as_bytes()).await.unwrap().is_some()
}

#[tokio::test]
async fn an_unknown_outcome_was_committed() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    for place in Place::all("an_unknown_outcome", dir.path()) {
        let opened = place.open(Options::default()).await;
        let keyspace = &*opened.keyspace;
        fail::cfg("keyspace::commit::unknown", "1*return").unwrap();
        assert!(matches!(put(keyspace, "a").await, Err(KeyspaceError::Unknown(_))));
        assert!(has(keyspace, "a").await);
        put(keyspace, "b").await.unwrap();
    }
    scenario.teardown();
}

#[tokio::test]
async fn a_failed_write_wrote_nothing_and_the_keyspace_heals() {
    let scenario = FailScenario::setup();
    let (keyspace, _dir) = open().await;
    put(&keyspace, "a").await.unwrap();
    fail::cfg("keyspace::write::fail", "1*return").unwrap();
    match put(&keyspace, "b").await {
        Err(KeyspaceError::Unavailable(detail)) => assert!(detail.contains("no space left"), "{detail}"),
        other => panic!("{other:?}"),
    }
    put(&keyspace, "c").await.unwrap();
    assert_eq!([has(&keyspace, "a").await, has(&keyspace, "b").await, has(&keyspace, "c").await], [true, false, true]);
    assert_eq!(keyspace.stats().await.unwrap().reopens, 1);
    scenario.teardown();
}

#[tokio::test]
async fn after_a_failed_sync_nobody_reads_a_state_that_recovery_may_contradict() {
    let scenario = FailScenario::setup();
    let (keyspace, _dir) = open().await;
    put(&keyspace, "a").await.unwrap();
    let held = keyspace.snapshot().await.unwrap();
    fail::cfg("keyspace::sync::fail", "1*return").unwrap();
    assert!(matches!(put(&keyspace, "b").await, Err(KeyspaceError::Unknown(_))));
    // The held snapshot keeps the files open: no view until it is gone.
    assert!(matches!(keyspace.snapshot().await, Err(KeyspaceError::Unavailable(_))));
    assert!(matches!(put(&keyspace, "c").await, Err(KeyspaceError::Unavailable(_))));
    assert_eq!(held.get(b"a").await.unwrap().unwrap(), "v");
    assert_eq!(held.get(b"b").await.unwrap(), None);
    drop(held);
    put(&keyspace, "d").await.unwrap();
    // The bytes had reached the journal, so recovery kept the batch.
    assert!(has(&keyspace, "b").await && !has(&keyspace, "c").await && has(&keyspace, "d").await);
    scenario.teardown();
}
