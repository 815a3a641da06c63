//! A chain that fails most events pauses before anything is decided, says why, and does not hold up the ingest.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use bytes::Bytes;
use millrace_pipeline::engine::Engine;
use millrace_pipeline::ingest::{Envelope, NewEvent};
use millrace_pipeline::pipeline::{PluginSource, StepSource};
use serde_json::json;

/// The rule finds nothing in events of this app: each of them fails.
fn events(app: &str, count: u64) -> Vec<NewEvent> {
    (0..count)
        .map(|n| {
            let event = json!({"anonymousId": format!("d-{}", n % 9), "event": "e", "context": {"app": {"name": app}}});
            NewEvent { payload: Bytes::from(event.to_string()), takes_received_at: false, id: None }
        })
        .collect()
}

async fn open(dir: &std::path::Path) -> std::sync::Arc<Engine> {
    let mut options = common::options(dir);
    options.delta_commit.age = std::time::Duration::from_millis(10);
    options.log.partitions = 1;
    let plugin = PluginSource::Named("rewrite-device-id@0.1.0".parse().unwrap());
    let rules = json!({"rules": [{"app": "broken", "to_path": "properties.hw_id"}]});
    options.pipeline = Some(vec![StepSource::new(plugin, rules)]);
    Engine::open(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_fails_most_events_pauses_and_decides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    for result in engine.ingest().accept(&Envelope::default(), events("broken", 1500)).await {
        result.unwrap();
    }
    engine.start().await;
    let reason = engine.drain().await.unwrap_err();
    assert!(reason.contains("paused") && reason.contains("offsets 0 to 1499"), "{reason}");
    let status = engine.status().await.unwrap();
    assert!(status.paused.is_some());
    let counts = engine.history().counts().await.unwrap();
    assert_eq!((counts.rows, counts.dead_letters), (0, 0), "nothing is decided");
    assert!(engine.metrics_text().await.unwrap().contains("millrace_chain_paused 1"));
    for result in engine.ingest().accept(&Envelope::default(), events("fine", 10)).await {
        result.expect("the log takes events all the same");
    }
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_fails_some_events_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    engine.start().await;
    for (app, count) in [("fine", 1500), ("broken", 40), ("fine", 10)] {
        for result in engine.ingest().accept(&Envelope::default(), events(app, count)).await {
            result.unwrap();
        }
    }
    engine.drain().await.unwrap();
    let counts = engine.history().counts().await.unwrap();
    assert_eq!((counts.rows, counts.dead_letters), (1510, 40));
    common::Audit::of_engine(&engine).await.assert_agree();
    engine.stop().await.unwrap();
}
