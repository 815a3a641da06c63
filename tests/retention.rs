//! The log is trimmed once both stores have what it holds, after a restart too, and never before.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{PATIENCE, event};
use millrace_pipeline::engine::Engine;
use millrace_pipeline::ingest::{Envelope, NewEvent};

const MONTHS_US: i64 = 100 * 24 * 3600 * 1_000_000;

async fn open(dir: &std::path::Path) -> Arc<Engine> {
    let mut options = common::options(dir);
    options.log.partitions = 1;
    options.log.segment_bytes = 16 * 1024;
    options.delta_commit.age = Duration::from_millis(10);
    Engine::open(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_stores_have_is_trimmed_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    for round in 0..20 {
        let events = (0..20)
            .map(|n| {
                let payload = Bytes::from(event(&format!("{round}-{n}"), "device", n).to_string());
                NewEvent { payload, takes_received_at: false, id: None }
            })
            .collect();
        for result in engine.ingest().accept(&Envelope::default(), events).await {
            result.unwrap();
        }
    }
    let later = (engine.clock())() + MONTHS_US;
    assert_eq!(engine.log().trim(later).await.unwrap().segments, 0, "no store has anything yet");
    engine.start().await;
    engine.drain().await.unwrap();
    engine.stop().await.unwrap();
    drop(engine);

    let engine = open(dir.path()).await;
    assert_eq!(engine.log().trim(later).await.unwrap().segments, 0, "nobody has said how far the stores are");
    engine.start().await;
    let deadline = Instant::now() + PATIENCE;
    while engine.log().trim(later).await.unwrap().segments == 0 {
        assert!(Instant::now() < deadline, "nothing is ever trimmed");
        tokio::task::yield_now().await;
    }
    assert!(engine.log().bounds(0).await.unwrap().start > 0);
    engine.drain().await.unwrap();
    engine.stop().await.unwrap();
}
