//! What only the embedded keyspace promises: its directory, its failures, its clears, its numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by a panic")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_keyspace::embedded::{EmbeddedKeyspace, Options};
use millrace_keyspace::{Batch, CLEAR_KEYS_MAX, Compare, Keyspace, KeyspaceError, Write};

async fn open(dir: &Path) -> Result<EmbeddedKeyspace, KeyspaceError> {
    EmbeddedKeyspace::open(dir, Options { reopen_pause: Duration::ZERO, ..Options::default() }).await
}

fn put(key: &str, value: &str) -> Batch {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Batch { compares: Vec::new(), writes: vec![Write::Put(bytes(key), bytes(value))] }
}

async fn get(keyspace: &EmbeddedKeyspace, key: &str) -> Option<Bytes> {
    keyspace.get(key.as_bytes()).await.unwrap()
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_close() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let keyspace = open(dir.path()).await.unwrap();
        for earlier in 0..round {
            assert_eq!(get(&keyspace, &format!("k{earlier}")).await.unwrap(), "v");
        }
        keyspace.commit(put(&format!("k{round}"), "v")).await.unwrap();
        keyspace.close().await;
        assert!(matches!(keyspace.commit(put("late", "v")).await, Err(KeyspaceError::Unavailable(_))));
        assert!(matches!(keyspace.get(b"k0").await, Err(KeyspaceError::Unavailable(_))));
        keyspace.close().await;
    }
}

#[tokio::test]
async fn a_snapshot_outlives_the_close() {
    let dir = tempfile::tempdir().unwrap();
    let keyspace = open(dir.path()).await.unwrap();
    keyspace.commit(put("a", "1")).await.unwrap();
    let snapshot = keyspace.snapshot().await.unwrap();
    keyspace.close().await;
    assert_eq!(snapshot.get(b"a").await.unwrap().unwrap(), "1");
    assert!(matches!(open(dir.path()).await, Err(KeyspaceError::Unavailable(_))), "the snapshot still reads the files");
    drop(snapshot);
    assert_eq!(get(&open(dir.path()).await.unwrap(), "a").await.unwrap(), "1");
}

#[tokio::test]
async fn a_directory_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let keyspace = open(dir.path()).await.unwrap();
    match open(dir.path()).await {
        Err(KeyspaceError::Unavailable(detail)) => assert!(detail.contains("is open in another process"), "{detail}"),
        other => panic!("{:?}", other.err()),
    }
    keyspace.commit(put("a", "1")).await.unwrap();
    keyspace.close().await;
    open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_later_format_or_another_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.unwrap().close().await;
    let refusal = async |dir: &Path| match open(dir).await {
        Err(KeyspaceError::Broken(detail)) => detail,
        other => panic!("{:?}", other.err()),
    };
    assert_eq!(fs::read_to_string(dir.path().join("FORMAT")).unwrap(), "millrace-keyspace 1\n");
    fs::write(dir.path().join("FORMAT"), "millrace-keyspace 2\n").unwrap();
    assert!(refusal(dir.path()).await.contains("format version 2, this build reads version 1"));
    fs::write(dir.path().join("FORMAT"), "something else\n").unwrap();
    assert!(refusal(dir.path()).await.contains("not a format marker"));

    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("thesis.txt"), "do not delete").unwrap();
    assert!(refusal(other.path()).await.contains("thesis.txt"));
    assert_eq!(fs::read_to_string(other.path().join("thesis.txt")).unwrap(), "do not delete");
}

#[tokio::test]
async fn a_creation_that_was_interrupted_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.unwrap().close().await;
    // As it stands when the process dies before the library's last step.
    fs::remove_file(dir.path().join("db/version")).unwrap();
    let keyspace = open(dir.path()).await.unwrap();
    keyspace.commit(put("a", "1")).await.unwrap();
    keyspace.close().await;
    // And before our marker is complete.
    let earlier = tempfile::tempdir().unwrap();
    fs::write(earlier.path().join("LOCK"), "").unwrap();
    fs::write(earlier.path().join("FORMAT.new"), "mill").unwrap();
    open(earlier.path()).await.unwrap();
}

// On one thread: all tasks have queued their batch, as far as the queue has room, before the first is answered.
#[tokio::test]
async fn concurrent_commits_share_an_fsync() {
    let dir = tempfile::tempdir().unwrap();
    let keyspace = Arc::new(open(dir.path()).await.unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let keyspace = keyspace.clone();
        tasks.spawn(async move { keyspace.commit(put(&format!("{n:03}"), "v")).await.unwrap() });
    }
    tasks.join_all().await;
    let batch = Batch {
        compares: vec![Compare { key: "000".into(), expected: None }],
        writes: vec![Write::Delete("001".into())],
    };
    assert!(matches!(keyspace.commit(batch).await, Err(KeyspaceError::Conflict { .. })));
    let stats = keyspace.stats().await.unwrap();
    assert_eq!((stats.commits, stats.conflicts, stats.reopens), (200, 1, 0));
    assert_eq!(stats.committed_bytes, 200 * 4);
    assert!((1..=200).contains(&stats.fsyncs), "{stats:?}");
    assert!(stats.fsyncs < 200, "200 commits queued at once were synced one by one: {stats:?}");
    assert!(stats.disk_bytes > 0 && stats.write_buffer_bytes > 0);
    assert_eq!(stats.cache_capacity_bytes, Options::default().cache_bytes);
}

#[tokio::test]
async fn a_clear_of_too_many_keys_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let keyspace = open(dir.path()).await.unwrap();
    let keys: Vec<usize> = (0..=CLEAR_KEYS_MAX).collect();
    for chunk in keys.chunks(50_000) {
        let writes = chunk.iter().map(|n| Write::Put(format!("{n:08}").into(), Bytes::new())).collect();
        keyspace.commit(Batch { compares: Vec::new(), writes }).await.unwrap();
    }
    let clear = |begin: &'static str, end: &'static str| {
        keyspace.commit(Batch {
            compares: Vec::new(),
            writes: vec![Write::Put("other".into(), Bytes::new()), Write::Clear(begin.into(), end.into())],
        })
    };
    assert!(matches!(clear("0", "1").await, Err(KeyspaceError::TooLarge(_))));
    assert_eq!(get(&keyspace, "00000000").await, Some(Bytes::new()));
    assert_eq!(get(&keyspace, "other").await, None);
    clear("00000001", "1").await.unwrap();
    let page = keyspace.snapshot().await.unwrap().range(b"0", b"1", 10).await.unwrap();
    assert_eq!(page.pairs.len(), 1);
    assert!(!page.more);
}

#[tokio::test]
async fn more_than_memory_holds_is_flushed_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { write_buffer_bytes: 1, cache_bytes: 1024 * 1024, ..Options::default() };
    let keyspace = EmbeddedKeyspace::open(dir.path(), options.clone()).await.unwrap();
    let value = Bytes::from(vec![9; 900]);
    for batch in 0..60 {
        let writes = (0..1000).map(|n| Write::Put(format!("{n:04}/{batch:03}").into(), value.clone())).collect();
        keyspace.commit(Batch { compares: Vec::new(), writes }).await.unwrap();
    }
    // A few buffers of 1 MiB stay, not the 54 MB that were written; how soon is up to the threads that flush.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stats = keyspace.stats().await.unwrap();
        if stats.write_buffer_bytes < 16 * 1024 * 1024 {
            break;
        }
        assert!(Instant::now() < deadline, "{stats:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    keyspace.close().await;
    let keyspace = EmbeddedKeyspace::open(dir.path(), options).await.unwrap();
    let snapshot = keyspace.snapshot().await.unwrap();
    let (mut from, mut count) = (Vec::new(), 0);
    loop {
        let page = snapshot.range(&from, b"9999/999", usize::MAX).await.unwrap();
        count += page.pairs.len();
        assert!(page.pairs.iter().all(|(_, found)| *found == value));
        if !page.more {
            break;
        }
        from = [&page.pairs.last().unwrap().0[..], &[0]].concat();
    }
    assert_eq!(count, 60_000);
}
