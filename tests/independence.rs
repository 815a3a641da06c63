//! One store stands still; the other's lag stays flat.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use common::{Audit, PATIENCE, event};
use millrace_pipeline::engine::Engine;
use millrace_pipeline::ingest::{Envelope, NewEvent};
use millrace_rows::{Job, Slice, Store, StoreError, StoreState};
use tokio::sync::watch;

/// A store whose commits wait while the gate is closed.
struct Gated {
    inner: Box<dyn Store>,
    open: watch::Receiver<bool>,
}

#[async_trait]
impl Store for Gated {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn load(&mut self) -> Result<StoreState, StoreError> {
        self.inner.load().await
    }

    async fn stage(&mut self, slice: Slice) -> Result<(), StoreError> {
        self.inner.stage(slice).await
    }

    fn staged_bytes(&self) -> usize {
        self.inner.staged_bytes()
    }

    async fn commit(&mut self) -> Result<StoreState, StoreError> {
        self.open.wait_for(|open| *open).await.expect("the gate outlives the store");
        self.inner.commit().await
    }

    async fn take_in(&mut self, revision: u64, job: Option<Job>) -> Result<StoreState, StoreError> {
        self.inner.take_in(revision, job).await
    }
}

async fn send(engine: &Engine, round: u64) {
    let events = (0..200)
        .map(|n| {
            let event = event(&format!("{round}-{n}"), &format!("device-{}", n % 20), n);
            NewEvent { payload: Bytes::from(event.to_string()), takes_received_at: false, id: None }
        })
        .collect();
    for result in engine.ingest().accept(&Envelope::default(), events).await {
        result.expect("the log takes every event");
    }
}

/// Waits until one store has all that is in the log.
async fn wait_for(engine: &Engine, store: &str) {
    let ends = engine.log_ends().await.unwrap();
    let mut progress = engine.progress().subscribe();
    let arrived = progress.wait_for(|stores| {
        ends.iter().all(|(partition, end)| {
            stores[store].partitions.get(partition).is_some_and(|partition| partition.next >= *end)
        })
    });
    tokio::time::timeout(PATIENCE, arrived).await.unwrap_or_else(|_| panic!("{store} does not arrive")).unwrap();
}

async fn stalled_store_does_not_hold_up(stalled: &'static str, other: &'static str) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = common::options(dir.path());
    options.delta_commit.age = std::time::Duration::from_millis(20);
    // The other store must not live on a cache that the stalled one fills.
    options.processor.cache_bytes = 1024 * 1024;
    let engine = Engine::open(options).await.unwrap();
    let (gate, open) = watch::channel(false);
    engine
        .start_with(|inner| {
            if inner.name() == stalled {
                Box::new(Gated { inner, open: open.clone() }) as Box<dyn Store>
            } else {
                inner
            }
        })
        .await;
    let mut lags = Vec::new();
    for round in 0..30 {
        send(&engine, round).await;
        wait_for(&engine, other).await;
        let status = engine.status().await.unwrap();
        lags.push((status.stores[other].lag_events, status.stores[stalled].lag_events));
    }
    assert!(lags.iter().all(|(other, _)| *other == 0), "{lags:?}");
    assert_eq!(lags.last().unwrap().1, 30 * 200, "the stalled store committed nothing");

    gate.send_replace(true);
    engine.drain().await.unwrap();
    Audit::of_engine(&engine).await.assert_agree();
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn history_goes_on_while_delta_stands() {
    stalled_store_does_not_hold_up("delta", "history").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_goes_on_while_history_stands() {
    stalled_store_does_not_hold_up("history", "delta").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_is_computed_once_for_both_stores() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(common::options(dir.path())).await.unwrap();
    for round in 0..20 {
        send(&engine, round).await;
    }
    engine.start().await;
    engine.drain().await.unwrap();
    let metrics = engine.metrics_text().await.unwrap();
    let counted = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let records = counted("millrace_transformed_records_total");
    assert_eq!(records, 20.0 * 200.0, "each record went through the chain once");
    assert!(counted("millrace_log_fsyncs_total") >= 20.0 && counted("millrace_keyspace_up") == 1.0);
    assert!(counted("millrace_log_bytes") > 0.0 && counted("millrace_keyspace_commits_total") > 0.0);
    engine.stop().await.unwrap();
    drop(Arc::clone(&engine));
}
