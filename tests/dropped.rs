//! A client that goes while it waits for an answer: what it asked for comes to its end all the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::sync::Arc;
use std::sync::mpsc;

use axum::body::Body;
use axum::http::Request;
use common::PATIENCE;
use common::corrections::{events, ingest, open};
use common::model::check;
use millrace_http::{Limits, Trust};
use millrace_pipeline::engine::Engine;
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// Sends a request, has the answer dropped while the keyspace commits for it, and lets the keyspace go on.
async fn dropped(engine: &Arc<Engine>, method: &str, path: &str, body: Value) {
    let routes = millrace_http::router(engine.clone(), Limits::default(), Trust::Offline);
    let (reached, mut commits) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    fail::cfg_callback("keyspace::write::fail", move || {
        let _ = reached.send(());
        // Until the other end is dropped.
        let _ = held.lock().unwrap().recv();
    })
    .unwrap();
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let answer = routes.oneshot(request.body(Body::from(body.to_string())).unwrap());
    tokio::select! {
        biased;
        answer = answer => panic!("answered before the keyspace was asked: {answer:?}"),
        commit = tokio::time::timeout(PATIENCE, commits.recv()) => assert!(matches!(commit, Ok(Some(())))),
    }
    // The answer is dropped by now.
    drop(go_on);
    fail::remove("keyspace::write::fail");
}

/// Waits until something is so that the engine is on its way to.
async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let comes = async {
        while !is().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, comes).await.unwrap_or_else(|_| panic!("{what} after {PATIENCE:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_does_not_wait_for_is_done_and_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let step = |mark: &str| {
        json!({
            "plugin": "rewrite-device-id@0.1.0", "config": {"rules": [{"from_prefix": "device-1", "to": mark}]},
        })
    };
    ingest(&engine, events(0..40)).await;
    engine.drain().await.unwrap();
    let head = engine.timeline().head();

    let chain = json!({"steps": [step("live")], "reason": "a client that hangs up"});
    dropped(&engine, "PUT", "/v1/pipeline", chain).await;
    until("the chain is in force", async || engine.timeline().head() == head + 1).await;
    // No slice is held back for it any more.
    ingest(&engine, events(40..80)).await;
    check(&engine, "live rows after an activation").await;

    let change = json!({"change": {"insert": {"step": step("past")}}, "reason": "another one"});
    dropped(&engine, "POST", "/v1/corrections", change).await;
    until("the correction is in force", async || engine.timeline().head() > head + 1).await;
    check(&engine, "corrected").await;
    let written = async || {
        let trail = engine.catalogue().audit_trail(100).await.unwrap();
        let mut actions: Vec<String> = trail.into_iter().map(|entry| entry.action).collect();
        actions.sort();
        actions
    };
    until("both are in the audit trail", async || written().await == ["correction.publish", "pipeline.activate"]).await;
    engine.stop().await.unwrap();
}

/// An append whose answer is lost is in force as soon as it is seen, by the one that appended it.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_answer_is_lost_is_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    ingest(&engine, events(0..40)).await;
    engine.drain().await.unwrap();
    let head = engine.timeline().head();
    // The stores commit nothing meanwhile.
    fail::cfg("keyspace::commit::unknown", "1*return").unwrap();
    let step = json!({
        "plugin": "rewrite-device-id@0.1.0", "config": {"rules": [{"from_prefix": "device-1", "to": "lost"}]},
    });
    let routes = millrace_http::router(engine.clone(), Limits::default(), Trust::Offline);
    let body = json!({"change": {"insert": {"step": step}}, "reason": "answered by nobody"});
    let request = Request::builder().method("POST").uri("/v1/corrections").header("content-type", "application/json");
    let answer = routes.oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
    fail::remove("keyspace::commit::unknown");
    println!("answered with {}", answer.status());
    until("the correction is in force", async || engine.timeline().head() > head).await;
    check(&engine, "corrected").await;
    engine.stop().await.unwrap();
}
