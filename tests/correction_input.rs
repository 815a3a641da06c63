//! What a correction or a preview is asked for, over HTTP: bad ranges, filters and chains are refused before anything starts;
//! what is unusual about a range is said in the answer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;
#[path = "../engine/plugin-host/tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use common::corrections::{events, ingest, rewrite};
use common::model::check;
use futures::FutureExt as _;
use millrace_http::{Limits, Trust};
use millrace_pipeline::correction::{Bound, ChangeSource, CorrectionSource, RangeSource};
use millrace_pipeline::engine::Engine;
use millrace_pipeline::pipeline::{PluginSource, StepSource};
use serde_json::{Value, json};
use support::Guest;
use tower::ServiceExt as _;

/// 2026-11-03T10:00:00Z, µs since 1970.
const BEGAN_US: i64 = 1_793_700_000_000_000;
const SECOND_US: i64 = 1_000_000;
const MONTHS_US: i64 = 100 * 24 * 3600 * SECOND_US;

/// An engine whose time is what a test says.
struct Bench {
    engine: Arc<Engine>,
    now: Arc<AtomicI64>,
    routes: Router,
}

impl Bench {
    async fn open(dir: &Path, partitions: u32) -> Self {
        Self::open_with(dir, partitions, None).await
    }

    async fn open_with(dir: &Path, partitions: u32, pipeline: Option<Vec<StepSource>>) -> Self {
        let now = Arc::new(AtomicI64::new(BEGAN_US));
        let clock = {
            let now = now.clone();
            Arc::new(move || now.load(Ordering::SeqCst))
        };
        let mut options = common::options(dir);
        (options.clock, options.log.clock) = (clock.clone(), clock);
        options.log.partitions = partitions;
        options.pipeline = pipeline;
        options.log.segment_bytes = 16 * 1024;
        options.delta_commit.age = Duration::from_millis(5);
        options.processor.batch_records = 16;
        let engine = Engine::open(options).await.unwrap();
        engine.start().await;
        let routes = millrace_http::router(engine.clone(), Limits::default(), Trust::Offline);
        Self { engine, now, routes }
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let answer = self.routes.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{method} {path}: {status}, no JSON: {text}")))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask("GET", path, &Value::Null).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Takes in events, a second after those before.
    async fn ingest(&self, numbers: std::ops::Range<usize>) {
        self.now.fetch_add(SECOND_US, Ordering::SeqCst);
        ingest(&self.engine, events(numbers)).await;
        self.engine.drain().await.unwrap();
    }

    /// Trims the log as far as it goes.
    async fn trim(&self) {
        let deadline = std::time::Instant::now() + common::PATIENCE;
        while self.engine.log().trim(BEGAN_US + MONTHS_US).await.unwrap().segments == 0 {
            assert!(std::time::Instant::now() < deadline, "nothing is ever trimmed");
            tokio::task::yield_now().await;
        }
    }
}

fn insert(plugin: &str) -> Value {
    json!({"insert": {"step": {"plugin": plugin, "config": {"rules": [{"from_prefix": "device-1", "to": "mended"}]}}}})
}

/// A change that can be.
fn fine() -> Value {
    insert("rewrite-device-id@0.1.0")
}

fn time(us: i64) -> Value {
    json!(chrono::DateTime::from_timestamp_micros(us).unwrap().to_rfc3339())
}

/// Asks for a preview and for a correction, and gives both errors.
async fn refused(bench: &Bench, body: &Value) -> Vec<(u16, String, String)> {
    let head = bench.engine.timeline().head();
    let mut found = Vec::new();
    for path in ["/v1/previews", "/v1/corrections"] {
        let mut body = body.clone();
        if path == "/v1/corrections" {
            body["reason"] = json!("test");
        }
        let (status, answer) = bench.ask("POST", path, &body).await;
        let error =
            |key: &str| answer["error"][key].as_str().unwrap_or_else(|| panic!("{path} {body}: {answer}")).to_owned();
        found.push((status, error("code"), error("message")));
        assert_eq!(bench.engine.timeline().head(), head, "{path} {body}: nothing is appended");
    }
    assert_eq!(bench.get("/v1/corrections").await, json!({"corrections": []}));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_is_refused_by_preview_and_correct_alike() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), 2).await;
    for round in 0..4 {
        bench.ingest(round * 100..(round + 1) * 100).await;
    }
    bench.trim().await;
    bench.ingest(400..500).await;
    let bounds = bench.engine.log().bounds(0).await.unwrap();
    assert!(bounds.start > 5, "{bounds:?}");
    let reader = Guest { name: "reader", reads: vec!["word_length"], ..Guest::default() };
    bench.engine.upload_plugin(reader.wasm(), &json!({}), "test").await.unwrap();
    let replace = |old: &str, new: &str| json!({"replace": {"step": old, "by": new}});
    let of = |change: Value, range: Value| json!({"change": change, "range": range});
    let (late, later) = (time(BEGAN_US + 3 * SECOND_US), time(BEGAN_US + 4 * SECOND_US));
    for (body, status, code, words) in [
        // Below the horizon.
        (of(fine(), json!({"from": 0})), 422, "below_horizon", "begins at offset 0, the log at"),
        (of(fine(), json!({"from": bounds.start - 1})), 422, "below_horizon", "what retention removed"),
        (
            of(fine(), json!({"from": time(BEGAN_US)})),
            422,
            "below_horizon",
            "begins at 2026-11-03T10:00:00Z, the log at",
        ),
        (of(fine(), json!({"from": time(0), "to": late})), 422, "below_horizon", "1970-01-01T00:00:00Z"),
        (of(fine(), json!({"to": 5})), 422, "below_horizon", "retention has removed all of the range"),
        (of(fine(), json!({"to": time(BEGAN_US)})), 422, "below_horizon", "retention has removed all of the range"),
        // Ranges of nothing.
        (of(fine(), json!({"from": 9, "to": 5})), 422, "bad_range", "9 to 5 is empty"),
        (of(fine(), json!({"from": 5, "to": 5})), 422, "bad_range", "5 to 5 is empty"),
        (of(fine(), json!({"from": later, "to": late})), 422, "bad_range", "ends before it begins"),
        (of(fine(), json!({"from": 1_000_000})), 422, "bad_range", "holds no record of the log, which has offsets"),
        (of(fine(), json!({"from": time(BEGAN_US + MONTHS_US)})), 422, "bad_range", "holds no record"),
        (of(fine(), json!({"last": 0})), 422, "bad_range", "from 1 on"),
        (of(fine(), json!({"last": 5, "from": 0})), 422, "bad_range", "either last"),
        (of(fine(), json!({"partitions": [2]})), 422, "bad_range", "no partition 2"),
        // Ends that are none.
        (of(fine(), json!({"to": u64::MAX})), 422, "bad_range", "to: 18446744073709551615 is no offset"),
        (of(fine(), json!({"from": i64::MAX as u64 + 1})), 422, "bad_range", "the largest is 9223372036854775807"),
        (of(fine(), json!({"from": -1})), 400, "bad_range", "range.from: -1 is neither an offset"),
        (of(fine(), json!({"from": 1.5})), 400, "bad_range", "range.from: 1.5 is neither an offset"),
        (of(fine(), json!({"to": "yesterday"})), 400, "bad_range", "range.to: \"yesterday\" is neither an offset"),
        (of(fine(), json!({"to": [1]})), 400, "bad_range", "range.to: [1] is neither an offset"),
        (of(fine(), json!({"last": -1})), 400, "bad_body", "-1"),
        // Chains.
        (of(insert("nobody@1.0.0"), json!({})), 422, "bad_pipeline", "no plugin nobody@1.0.0 in the catalogue"),
        (of(insert("pii-scrub@9.9.9"), json!({})), 422, "bad_pipeline", "no plugin pii-scrub@9.9.9 in the catalogue"),
        (of(insert("pii-scrub"), json!({})), 422, "bad_pipeline", "pii-scrub"),
        (
            of(replace("pii-scrub@0.1.0", "pii-scrub@9.9.9"), json!({})),
            422,
            "bad_pipeline",
            "no plugin pii-scrub@9.9.9",
        ),
        (of(replace("nobody@1.0.0", "pii-scrub@0.1.0"), json!({})), 422, "nothing_to_do", "nobody@1.0.0"),
        (of(json!({"remove": "nobody@1.0.0"}), json!({})), 422, "nothing_to_do", "nobody@1.0.0"),
        (of(insert("reader@1.0.0"), json!({})), 422, "bad_pipeline", "it reads column"),
        (of(json!({"chain": [{"plugin": "reader@1.0.0"}]}), json!({})), 422, "bad_pipeline", "it reads column"),
        (json!({"change": fine(), "filter": {"ua_os": ["x"]}}), 422, "bad_filter", "a filter can't be on"),
        (json!({"change": fine(), "filter": {"app": []}}), 422, "bad_filter", "lets no value of app through"),
    ] {
        for found in refused(&bench, &body).await {
            assert_eq!((found.0, found.1.as_str()), (status, code), "{body}: {}", found.2);
            assert!(found.2.contains(words), "{body}: {}", found.2);
            let alone = body["change"].get("insert").is_some() && !words.contains("it reads");
            assert!(!alone || !found.2.contains("step 1") && !found.2.contains("wasm ="), "{body}: {}", found.2);
        }
    }
    // What a correction alone is asked for.
    for (reason, code) in [(" ", "no_reason"), ("two\nlines", "bad_reason"), ("a \u{1b}[31mred one", "bad_reason")] {
        let body = json!({"change": fine(), "reason": reason});
        let (status, answer) = bench.ask("POST", "/v1/corrections", &body).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(code)), "{answer}");
    }
    assert_eq!(bench.get("/v1/corrections").await, json!({"corrections": []}));
    // What the log has is corrected: from its first record on, by offset and by time.
    let first =
        bench.engine.log().read(0, bounds.start, millrace_log::ReadLimit { records: 1, bytes: 1 }).await.unwrap();
    for range in [
        json!({"from": bounds.start, "partitions": [0]}),
        json!({"from": time(first[0].appended_at_us), "partitions": [0]}),
    ] {
        let (status, answer) = bench.ask("POST", "/v1/previews", &of(fine(), range)).await;
        assert_eq!((status, &answer["range"]["0"]["start"]), (200, &json!(bounds.start)), "{answer}");
    }
    bench.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_when_the_log_took_a_record_at_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), 1).await;
    for round in 0..3 {
        bench.ingest(round * 10..(round + 1) * 10).await;
    }
    let at = |second: i64| Bound::Time(BEGAN_US + second * SECOND_US);
    for (from, to, expected) in [
        (Some(at(2)), Some(at(3)), 10..20),
        (Some(at(2)), None, 10..30),
        (None, Some(at(2)), 0..10),
        // Nothing was ever removed: there were no records before.
        (Some(Bound::Time(1)), Some(at(2)), 0..10),
        (Some(at(1)), Some(at(99)), 0..30),
        (Some(Bound::Offset(5)), Some(at(3)), 5..20),
        (Some(at(2)), Some(Bound::Offset(12)), 10..12),
    ] {
        let change = ChangeSource::Insert { step: rewrite("mended"), before: None };
        let range = RangeSource { from, to, ..RangeSource::default() };
        let plan = bench.engine.plan_correction(CorrectionSource { change, range }).await.unwrap();
        assert_eq!(plan.range, [(0, expected)].into(), "{from:?} to {to:?}");
    }
    bench.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_costs_what_the_same_records_cost_now_and_then() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), 1).await;
    bench.ingest(0..60).await;
    let device = json!({"device_id": ["device-1"]});
    let (status, all) = bench.ask("POST", "/v1/previews", &json!({"change": fine()})).await;
    assert_eq!((status, &all["records"]), (200, &json!(60)), "{all}");
    // One event by its filter among sixty, or by its offset alone: what is in force costs the same.
    let (_, filtered) = bench
        .ask("POST", "/v1/previews", &json!({"change": fine(), "range": {"from": 0, "to": 7}, "filter": device}))
        .await;
    let (_, one) = bench.ask("POST", "/v1/previews", &json!({"change": fine(), "range": {"from": 1, "to": 2}})).await;
    assert_eq!((&filtered["records"], &one["records"]), (&json!(1), &json!(1)), "{filtered} {one}");
    for cost in ["cost_before", "cost_after"] {
        assert_eq!(filtered[cost]["fuel_per_event"], one[cost]["fuel_per_event"], "{cost}");
        assert!(one[cost]["fuel_per_event"].as_f64().unwrap() > 0.0);
    }
    assert!(
        one["cost_before"]["fuel_per_event"].as_f64() > all["cost_before"]["fuel_per_event"].as_f64(),
        "a call of one event costs more than its share of a batch, else this compares nothing"
    );
    bench.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_ahead_of_the_log_says_so_wherever_it_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), 2).await;
    bench.ingest(0..100).await;
    let ends = bench.engine.log_ends().await.unwrap();
    let status = bench.get("/v1/status").await;
    assert!(status.get("ahead").is_none() && bench.get("/v1/pipeline").await["ahead"] == json!([]), "{status}");
    let to = i64::MAX;
    let mut body = json!({"change": fine(), "range": {"to": to}});
    let ahead = json!({"0": {"start": ends[&0], "end": to}, "1": {"start": ends[&1], "end": to}});
    let note = format!("it also holds for events to come, up to offset {} of partitions 0, 1", to - 1);
    let (status, preview) = bench.ask("POST", "/v1/previews", &body).await;
    assert_eq!((status, &preview["ahead"], &preview["notes"]), (200, &ahead, &json!([note])), "{preview}");
    body["reason"] = json!("also what comes");
    let (status, corrected) = bench.ask("POST", "/v1/corrections", &body).await;
    assert_eq!((status, &corrected["ahead"], &corrected["notes"]), (202, &ahead, &json!([note])), "{corrected}");
    let id = corrected["id"].as_u64().unwrap();
    check(&bench.engine, "corrected").await;

    for path in ["/v1/status", "/v1/pipeline"] {
        let answer = bench.get(path).await;
        let places = answer["ahead"].as_array().unwrap();
        assert_eq!(places.len(), 2, "{path}: {answer}");
        assert_eq!((&places[1]["partition"], &places[1]["until"]), (&json!(1), &json!(to)), "{path}");
        let revisions = places[1]["revisions"].as_array().unwrap();
        assert_eq!((revisions.len(), &revisions[0]["revision"]), (1, &json!(id)), "{path}");
        let chain = revisions[0]["chain"].as_array().unwrap();
        assert_eq!(chain.last().unwrap(), "rewrite-device-id@0.1.0", "{path}");
    }
    // What is left and the total count events that are there.
    let shown = bench.get(&format!("/v1/corrections/{id}")).await;
    for store in ["delta", "history"] {
        assert_eq!(
            (&shown["stores"][store]["left"], &shown["stores"][store]["total"]),
            (&json!(0), &json!(100)),
            "{shown}"
        );
    }
    bench.ingest(100..150).await;
    check(&bench.engine, "and what came").await;
    let page = bench.get("/v1/devices/mended/events?limit=1000").await;
    let mended = (0..150).filter(|n| n % 7 == 1).count();
    assert_eq!(page["events"].as_array().unwrap().len(), mended, "those that came later, too");
    bench.engine.stop().await.unwrap();
}

/// What reaches ahead outlasts a restart with the same chain in the configuration; somebody who sets that chain ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_ahead_of_the_log_ends_where_somebody_sets_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let step = |name: &str, config| StepSource::new(PluginSource::Named(name.parse().unwrap()), config);
    let chain = || {
        vec![step("pii-scrub@0.1.0", json!({"key": {"$secret": "pii@1"}})), step("enrich-user-agent@0.1.0", json!({}))]
    };
    let bench = Bench::open(dir.path(), 1).await;
    bench.ingest(0..20).await;
    let body = json!({"change": fine(), "range": {"to": 1000}, "reason": "also what comes"});
    assert_eq!(bench.ask("POST", "/v1/corrections", &body).await.0, 202);
    bench.engine.stop().await.unwrap();
    drop(bench);

    let bench = Bench::open_with(dir.path(), 1, Some(chain())).await;
    let shown = bench.get("/v1/pipeline").await;
    assert_eq!((&shown["revision"], &shown["ahead"][0]["until"]), (&json!(1), &json!(1000)), "{shown}");
    let body = json!({"revision": 1, "reason": "no more of it"});
    for changed in [true, false] {
        let (status, shown) = bench.ask("PUT", "/v1/pipeline", &body).await;
        assert_eq!((status, &shown["changed"], &shown["revision"]), (200, &json!(changed), &json!(3)), "{shown}");
        assert_eq!(shown["ahead"], json!([]), "{shown}");
    }
    bench.ingest(20..40).await;
    check(&bench.engine, "what came after is the chain's").await;
    let page = bench.get("/v1/devices/mended/events?limit=1000").await;
    assert_eq!(page["events"].as_array().unwrap().len(), (0..20).filter(|n| n % 7 == 1).count());
    bench.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_there_is_and_filters_of_nothing_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), 1).await;
    bench.ingest(0..30).await;
    let (_, preview) = bench.ask("POST", "/v1/previews", &json!({"change": fine(), "range": {"last": 1000}})).await;
    assert_eq!((&preview["fewer"], &preview["read"]), (&json!({"0": 30}), &json!(30)), "{preview}");
    assert!(preview["notes"][0].as_str().unwrap().ends_with("asked for: 30 in partition 0"), "{preview}");

    let nobody = json!({"change": fine(), "filter": {"device_id": ["nobody"]}});
    let (_, preview) = bench.ask("POST", "/v1/previews", &nobody).await;
    assert_eq!(preview["notes"], json!(["no event of the range matches the filter"]), "{preview}");
    assert_eq!((&preview["records"], &preview["cost_before"]["ns_per_event"]), (&json!(0), &json!(0.0)));
    let head = bench.engine.timeline().head();
    let mut correct = nobody.clone();
    correct["reason"] = json!("nothing");
    for stage in [false, true] {
        correct["stage"] = json!(stage);
        let (status, answer) = bench.ask("POST", "/v1/corrections", &correct).await;
        assert_eq!((status, &answer["error"]["code"]), (422, &json!("nothing_to_do")), "{answer}");
        assert_eq!(bench.engine.timeline().head(), head);
    }
    // It may match what comes.
    correct["stage"] = json!(false);
    correct["range"] = json!({"to": 1000});
    let (status, answer) = bench.ask("POST", "/v1/corrections", &correct).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(answer["notes"][1], "no event that the log has by now matches the filter", "{answer}");
    bench.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_are_none_are_answered_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), 1).await;
    for (method, path) in [
        ("GET", "/v1/corrections/abc"),
        ("DELETE", "/v1/corrections/abc"),
        ("DELETE", "/v1/corrections/-1"),
        ("POST", "/v1/corrections/1.5/publish"),
    ] {
        let (status, answer) = bench.ask(method, path, &Value::Null).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("bad_id")), "{method} {path}: {answer}");
    }
    let (status, answer) = bench.ask("DELETE", "/v1/corrections/99", &Value::Null).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("not_found")), "{answer}");
    bench.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn previews_beyond_their_places_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), 1).await;
    bench.ingest(0..10).await;
    let body = json!({"change": fine()});
    let mut under_way: Vec<_> = (0..2).map(|_| Box::pin(bench.ask("POST", "/v1/previews", &body))).collect();
    for preview in &mut under_way {
        // Looked at once, it has its place.
        assert!(preview.as_mut().now_or_never().is_none());
    }
    let (status, answer) = bench.ask("POST", "/v1/previews", &body).await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("busy")), "{answer}");
    for (status, answer) in futures::future::join_all(under_way).await {
        assert_eq!((status, &answer["records"]), (200, &json!(10)), "{answer}");
    }
    assert_eq!(bench.ask("POST", "/v1/previews", &body).await.0, 200, "the places are free again");
    bench.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_come_in_pages_with_a_word_for_each_store() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), 1).await;
    bench.ingest(0..10).await;
    for _ in 0..2 {
        let body = json!({"change": fine(), "reason": "once more"});
        assert_eq!(bench.ask("POST", "/v1/corrections", &body).await.0, 202);
        check(&bench.engine, "corrected").await;
    }
    let ids = |page: &Value| -> Vec<u64> {
        page["revisions"].as_array().unwrap().iter().map(|revision| revision["revision"].as_u64().unwrap()).collect()
    };
    let all = bench.get("/v1/revisions").await;
    assert_eq!((ids(&all), &all["next"]), (vec![3, 2, 1], &Value::Null), "{all}");
    let first = bench.get("/v1/revisions?limit=2").await;
    assert_eq!((ids(&first), &first["next"]), (vec![3, 2], &json!(2)));
    let second = bench.get("/v1/revisions?limit=2&after=2").await;
    assert_eq!((ids(&second), &second["next"]), (vec![1], &Value::Null));
    assert_eq!(all["revisions"][0]["state"], json!({"delta": "applied", "history": "applied"}));
    let step = |page: &Value| page["revisions"][0]["steps"][0].clone();
    assert!(step(&all).get("manifest").is_none() && step(&all)["plugin"].is_string(), "{all}");
    assert!(step(&bench.get("/v1/revisions?manifests=true").await)["manifest"].is_object());
    for (path, code) in
        [("limit=0", "bad_limit"), ("limit=1001", "bad_limit"), ("after=x", "bad_query"), ("colour=red", "bad_query")]
    {
        let (status, answer) = bench.ask("GET", &format!("/v1/revisions?{path}"), &Value::Null).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(code)), "{answer}");
    }
    bench.engine.stop().await.unwrap();
}
