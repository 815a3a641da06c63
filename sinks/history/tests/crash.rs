//! The process dies inside a commit of several transactions: what is in the keyspace is exactly what the cursor says, and
//! consumption goes on from there. The child is this test binary itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by a panic")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use millrace_history::HistoryStore;
use millrace_keyspace::Keyspace;
use millrace_keyspace::conformance::place::Place;
use millrace_keyspace::conformance::seed;
use millrace_rows::Store;
use support::{Log, ROOT, check_exact};

const SEED: &str = "MILLRACE_CRASH_SEED";
const RECORDS_PER_TRANSACTION: u64 = 10;
const SIGABRT: i32 = 6;

fn log(seed: u64) -> Log {
    Log::random(0, 120, &mut support::random(seed))
}

/// Consumes the log from where the store stands, in slices of 50 records that are several transactions each.
async fn consume(keyspace: Arc<dyn Keyspace>, log: &Log) {
    let mut store = HistoryStore::new(keyspace, ROOT).with_transactions_of(usize::MAX, RECORDS_PER_TRANSACTION);
    let mut state = store.load().await.unwrap();
    while let Some(slice) = log.slice(state.cursors.get(&0).map_or(0, |cursor| cursor.next), 50, 0) {
        store.stage(slice).await.unwrap();
        state = store.commit().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "the child of the other tests"]
async fn child() {
    let scenario = fail::FailScenario::setup();
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    consume(Place::told().open(Default::default()).await.keyspace, &log(seed)).await;
    scenario.teardown();
}

/// Lets the child die `times` times, then finishes its work and checks all of it.
async fn survive(failpoints: &str, times: usize) {
    let dir = tempfile::tempdir().unwrap();
    for place in Place::all("history_crash", dir.path()) {
        survive_at(&place, failpoints, times).await;
    }
}

async fn survive_at(place: &Place, failpoints: &str, times: usize) {
    let seed = seed();
    let log = log(seed);
    let mut last = 0;
    for _ in 0..times {
        let mut child = Command::new(std::env::current_exe().unwrap());
        place.tell(&mut child);
        let status = child
            .args(["--exact", "child", "--ignored", "--test-threads=1"])
            .env(SEED, seed.to_string())
            .env("FAILPOINTS", failpoints)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(SIGABRT), "{failpoints}");
        let opened = place.open(Default::default()).await;
        let keyspace = opened.keyspace.clone();
        let state = HistoryStore::new(keyspace.clone(), ROOT).load().await.unwrap();
        let next = state.cursors.get(&0).map_or(0, |cursor| cursor.next);
        assert!(next > last, "{failpoints}: stuck at {last}");
        last = next;
        check_exact(&keyspace, std::slice::from_ref(&log), &state, |_, _| 0).await;
        opened.close().await;
    }
    assert!(last < log.end(), "the child had died before the end each time");
    let keyspace = place.open(Default::default()).await.keyspace;
    consume(keyspace.clone(), &log).await;
    let state = HistoryStore::new(keyspace.clone(), ROOT).load().await.unwrap();
    assert_eq!(state.cursors[&0].next, log.end());
    check_exact(&keyspace, &[log], &state, |_, _| 0).await;
}

#[tokio::test]
async fn dying_before_a_transaction() {
    survive("history::commit::before=2*off->return", 3).await;
}

#[tokio::test]
async fn dying_between_the_transactions_of_a_slice() {
    survive("history::commit::between=1*off->return", 3).await;
}

#[tokio::test]
async fn dying_when_the_keyspace_has_committed_and_nobody_knows() {
    survive("keyspace::commit::after=1*off->return", 3).await;
}
