//! The keyspace on FoundationDB passes the suite of every keyspace, and keeps to its prefix. Runs where
//! `MILLRACE_TEST_FDB` names the cluster file of a cluster for tests.
#![cfg(feature = "foundationdb")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by a panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_keyspace::conformance::place::Place;
use millrace_keyspace::foundationdb::{FoundationDbKeyspace, Options, Tls};
use millrace_keyspace::{Batch, CLEAR_KEYS_MAX, Keyspace, KeyspaceError, Write};

async fn open(name: &'static str) -> Option<(Arc<dyn Keyspace>, Bytes, Place)> {
    let place = Place::cluster(name)?;
    let keyspace = place.open(Default::default()).await.keyspace;
    Some((keyspace, Bytes::from(format!("{name}/")), place))
}

millrace_keyspace::conformance_tests!(open);

fn put(key: &'static str, value: &'static str) -> Write {
    Write::Put(Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()))
}

async fn commit(keyspace: &dyn Keyspace, writes: Vec<Write>) {
    keyspace.commit(Batch { compares: Vec::new(), writes }).await.unwrap();
}

async fn all(keyspace: &dyn Keyspace) -> Vec<(Bytes, Bytes)> {
    let page = keyspace.snapshot().await.unwrap().range(b"", &[0xff; 16], 100).await.unwrap();
    assert!(!page.more);
    page.pairs
}

/// Keys with every first byte, system keys' too, stay below the prefix and out of a prefix that begins alike.
#[tokio::test]
async fn keyspaces_of_one_cluster_do_not_meet() {
    let Some((one, _, place)) = open("keyspaces_do_not_meet").await else { return };
    let Place::Cluster(scratch) = &place else { panic!("{place:?}") };
    let longer = format!("{}x", scratch.options().prefix);
    let two = FoundationDbKeyspace::open(Options { prefix: longer, ..scratch.options().clone() }).await.unwrap();
    let keys = [&b"\0"[..], b"a", b"\xff", b"\xff\xff/status/json"].map(Bytes::from_static);
    let writes: Vec<_> = keys.iter().map(|key| Write::Put(key.clone(), Bytes::from_static(b"one"))).collect();
    commit(&*one, writes).await;
    assert!(all(&two).await.is_empty());
    commit(&two, vec![put("a", "two")]).await;
    assert_eq!(all(&*one).await.into_iter().map(|pair| pair.0).collect::<Vec<_>>(), keys);
    assert_eq!(one.get(b"a").await.unwrap().as_deref(), Some(&b"one"[..]));
    commit(&*one, vec![Write::Clear(Bytes::new(), Bytes::from_static(&[0xff; 16]))]).await;
    assert_eq!(all(&two).await.len(), 1);
    commit(&two, vec![Write::Delete(Bytes::from_static(b"a"))]).await;
    assert_eq!((two.stats().commits, two.stats().conflicts), (2, 0));
}

/// A clear is a range's, however many keys it has.
#[tokio::test]
async fn a_clear_removes_more_keys_than_are_read() {
    let Some((keyspace, _, _place)) = open("a_clear_removes_any_number").await else { return };
    let keys = CLEAR_KEYS_MAX + 10;
    for chunk in (0..keys).collect::<Vec<_>>().chunks(10_000) {
        let writes = chunk.iter().map(|n| Write::Put(format!("{n:08}").into(), Bytes::from_static(b"x")));
        commit(&*keyspace, writes.collect()).await;
    }
    commit(&*keyspace, vec![Write::Clear(Bytes::from_static(b"0"), Bytes::from_static(b"1"))]).await;
    assert!(all(&*keyspace).await.is_empty());
}

/// A snapshot that is read for too long says so, and another one goes on.
#[tokio::test]
async fn a_snapshot_ends_with_an_error_that_says_what_to_do() {
    let Some((keyspace, _, _place)) = open("a_snapshot_ends").await else { return };
    commit(&*keyspace, vec![put("a", "1")]).await;
    let snapshot = keyspace.snapshot().await.unwrap();
    let begun = Instant::now();
    let error = loop {
        // Versions go on with commits, also of others.
        commit(&*keyspace, vec![put("a", "2")]).await;
        match snapshot.get(b"a").await {
            Ok(value) => assert_eq!(value.as_deref(), Some(&b"1"[..])),
            Err(error) => break error,
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "a snapshot that does not end");
    };
    assert!(matches!(&error, KeyspaceError::Unavailable(detail) if detail.contains("snapshot")), "{error}");
    assert_eq!(keyspace.get(b"a").await.unwrap().as_deref(), Some(&b"2"[..]));
}

/// A cluster that does not answer, and options that are wrong, fail in time and in words.
#[tokio::test]
async fn what_can_not_be_opened_says_why() {
    let Some((_, _, place)) = open("what_can_not_be_opened").await else { return };
    let Place::Cluster(scratch) = &place else { panic!("{place:?}") };
    let good = scratch.options();
    let error = async |options: Options| FoundationDbKeyspace::open(options).await.err().unwrap();
    let dir = tempfile::tempdir().unwrap();

    let missing = error(Options { cluster_file: dir.path().join("none"), ..good.clone() }).await;
    assert!(matches!(&missing, KeyspaceError::Unavailable(detail) if detail.contains("cluster file")), "{missing}");

    // Nobody listens at a port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = dir.path().join("fdb.cluster");
    std::fs::write(&nobody, format!("test:test@127.0.0.1:{port}\n")).unwrap();
    let begun = Instant::now();
    let timeout = Duration::from_secs(1);
    let down = error(Options { cluster_file: nobody, timeout, ..good.clone() }).await;
    assert!(matches!(&down, KeyspaceError::Unavailable(detail) if detail.contains("1031")), "{down}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());

    let nameless = error(Options { prefix: String::new(), ..good.clone() }).await;
    assert!(matches!(nameless, KeyspaceError::Broken(_)), "{nameless}");
    let tls = Tls { certificate: "a".into(), key: "b".into(), ca: None, verify_peers: None };
    let other = error(Options { tls: Some(tls), ..good.clone() }).await;
    assert!(matches!(&other, KeyspaceError::Broken(detail) if detail.contains("TLS")), "{other}");
}
