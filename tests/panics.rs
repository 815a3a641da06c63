//! A loop that panics is told of, and who waits for it waits no longer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::Request;
use common::corrections::{events, ingest};
use common::{PATIENCE, options};
use millrace_http::{Limits, Trust};
use millrace_log::embedded::EmbeddedLog;
use millrace_log::{EventLog, LogError, NewRecord, ReadLimit, Record};
use millrace_pipeline::engine::Engine;
use millrace_rows::{Job, LogId, Slice, Store, StoreError, StoreState};
use serde_json::Value;
use tower::ServiceExt as _;

/// A store whose loop panics.
struct Panics(Box<dyn Store>);

#[async_trait]
impl Store for Panics {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    async fn load(&mut self) -> Result<StoreState, StoreError> {
        self.0.load().await
    }

    async fn stage(&mut self, _: Slice) -> Result<(), StoreError> {
        panic!("planned, of device-7")
    }

    fn staged_bytes(&self) -> usize {
        self.0.staged_bytes()
    }

    async fn commit(&mut self) -> Result<StoreState, StoreError> {
        self.0.commit().await
    }

    async fn take_in(&mut self, revision: u64, job: Option<Job>) -> Result<StoreState, StoreError> {
        self.0.take_in(revision, job).await
    }
}

/// A log of which the reader of one partition panics.
struct PanickingLog(EmbeddedLog);

#[async_trait]
impl EventLog for PanickingLog {
    fn id(&self) -> LogId {
        self.0.id()
    }

    fn partitions(&self) -> u32 {
        self.0.partitions()
    }

    async fn bounds(&self, partition: u32) -> Result<Range<u64>, LogError> {
        self.0.bounds(partition).await
    }

    async fn append(&self, partition: u32, records: Vec<NewRecord>) -> Result<Range<u64>, LogError> {
        self.0.append(partition, records).await
    }

    async fn read(&self, partition: u32, from: u64, limit: ReadLimit) -> Result<Vec<Record>, LogError> {
        self.0.read(partition, from, limit).await
    }

    async fn offset_at(&self, partition: u32, time_us: i64) -> Result<u64, LogError> {
        self.0.offset_at(partition, time_us).await
    }

    async fn wait_past(&self, partition: u32, offset: u64) -> Result<(), LogError> {
        self.0.wait_past(partition, offset).await?;
        assert_ne!(partition, 1, "planned");
        Ok(())
    }

    async fn release(&self, partition: u32, below: u64) -> Result<(), LogError> {
        self.0.release(partition, below).await
    }
}

async fn readiness(engine: &Arc<Engine>) -> (u16, Value) {
    let routes = millrace_http::router(engine.clone(), Limits::default(), Trust::Offline);
    let answer = routes.oneshot(Request::get("/readyz").body(Body::empty()).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

/// Why the stores do not get to the log's end.
async fn stopped(engine: &Engine) -> String {
    tokio::time::timeout(PATIENCE, engine.drain()).await.expect("somebody still waits").unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_panics_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(options(dir.path())).await.unwrap();
    engine.start_with(|store| if store.name() == "delta" { Box::new(Panics(store)) } else { store }).await;
    assert_eq!(readiness(&engine).await.0, 200);
    ingest(&engine, events(0..40)).await;
    let told = stopped(&engine).await;
    assert!(told.contains("delta") && told.contains("a panic"), "{told}");
    let ended = engine.status().await.unwrap().ended;
    assert!(ended.len() == 1 && ended[0].starts_with("the loop of delta"), "{ended:?}");
    let (status, answer) = readiness(&engine).await;
    assert_eq!(status, 503, "{answer}");
    let reasons = answer["error"]["detail"]["reasons"].to_string();
    assert!(reasons.contains("the loop of delta") && !reasons.contains("device-7"), "{reasons}");
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_reader_panics_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let log = millrace_log::embedded::Options { partitions: 2, ..Default::default() };
    let log = PanickingLog(EmbeddedLog::open(dir.path().join("log"), log).unwrap());
    let options = millrace_pipeline::engine::EngineOptions { shared_log: Some(Arc::new(log)), ..options(dir.path()) };
    let engine = Engine::open(options).await.unwrap();
    engine.start().await;
    ingest(&engine, events(0..40)).await;
    let told = stopped(&engine).await;
    assert!(told.contains("partition 1") && told.contains("a panic"), "{told}");
    assert_eq!(readiness(&engine).await.0, 503);
    engine.stop().await.unwrap();
}
