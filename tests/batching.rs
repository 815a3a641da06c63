//! The same rows whatever the batching: random records, good, bad and poisonous, through the real chain in random splits.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use millrace_decode::Decoder;
use millrace_log::{Receipt, Record};
use millrace_pipeline::stock;
use millrace_pipeline::transform::{Segment, transform};
use millrace_plugin_host::{Chain, HostOptions, Limits, PluginHost, StepSpec};
use millrace_rows::{DeadLetter, LogId};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

const LOG: LogId = LogId([7; 16]);
const RECORDS: u64 = 3000;
const SPLITS: usize = 50;

/// Everything that one revision of the chain needs, with a rule that fails some rows.
fn chain(host: &PluginHost, suffix: &str) -> Arc<Chain> {
    let step = |wasm: &[u8], config: serde_json::Value| {
        StepSpec::new(host.load(wasm).expect("a stock plugin loads"), config.to_string(), Limits::default())
    };
    let rules = json!({"rules": [{"app": "broken", "to_path": "properties.hw_id"}, {"app": "fixed", "to": format!("one-{suffix}")}]});
    let steps = vec![
        step(stock::PII_SCRUB, json!({"key": "0123456789abcdef0123456789abcdef"})),
        step(stock::ENRICH_USER_AGENT, json!({})),
        step(stock::REWRITE_DEVICE_ID, rules),
    ];
    Arc::new(Chain::new(host, steps).expect("the chain fits"))
}

fn pick<'a>(random: &mut StdRng, choices: &[&'a str]) -> &'a str {
    choices.choose(random).copied().unwrap_or_default()
}

fn record(offset: u64, random: &mut StdRng) -> Record {
    let agents =
        ["Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0", "curl/8.0", "", "\u{0}\u{1f600}"];
    let long = "x".repeat(random.random_range(0..3000));
    let kind = pick(random, &["track", "page"]);
    let user = pick(random, &["ada@example.com", "u-1"]);
    let time = pick(random, &["2026-01-01T00:00:00Z", "1970-01-01", "later"]);
    let note = pick(random, &["4111 1111 1111 1111", "a@b.example", &long]);
    let ip = pick(random, &["203.0.113.9", "2001:db8::1", "no ip"]);
    let agent = pick(random, &agents);
    let payload = match random.random_range(0..20) {
        0 => "{".to_owned(),
        1 => json!({"event": "no device"}).to_string(),
        2 => format!("{{\"anonymousId\":\"deep\",\"properties\":{}1{}}}", "[".repeat(100), "]".repeat(100)),
        3 => String::from_utf8_lossy(&[b'{', 0xff, b'}']).into_owned(),
        // The plugin can't find what its rule asks for: a failed row.
        4 => json!({"anonymousId": "a", "context": {"app": {"name": "broken"}}, "properties": {}}).to_string(),
        5 => json!({"anonymousId": "a", "context": {"app": {"name": "broken"}}, "properties": {"hw_id": "hw-1"}})
            .to_string(),
        6 => json!({"anonymousId": "a", "context": {"app": {"name": "fixed"}}}).to_string(),
        _ => json!({
            "type": kind, "messageId": format!("m-{offset}"), "userId": user, "timestamp": time,
            "properties": {"note": note}, "context": {"ip": ip, "userAgent": agent},
        })
        .to_string(),
    };
    let receipt =
        random.random_bool(0.8).then(|| Receipt { received_at_us: 1_767_225_600_000_000, ..Receipt::default() });
    Record {
        offset,
        id: u128::from(offset) + 1,
        appended_at_us: 1_767_225_600_000_000,
        checksum: offset,
        receipt,
        payload: Bytes::from(payload),
    }
}

/// Rows, dead letters and drops of the records, cut at `cuts`.
fn run(segments: &[Segment], records: &[Record], cuts: &[usize]) -> (RecordBatch, Vec<DeadLetter>, u64) {
    let (mut batches, mut dead, mut dropped) = (Vec::new(), Vec::new(), 0);
    let mut start = 0;
    for end in cuts.iter().copied().chain([records.len()]) {
        if start == end {
            continue;
        }
        let part =
            transform(&Decoder::default(), segments, LOG, 3, &records[start..end]).expect("nothing pauses the chain");
        batches.push(part.rows);
        dead.extend(part.dead);
        dropped += part.dropped;
        start = end;
    }
    let schema = batches[0].schema();
    (concat_batches(&schema, &batches).expect("one schema"), dead, dropped)
}

#[test]
fn rows_do_not_depend_on_how_records_are_batched() {
    let mut random = StdRng::seed_from_u64(common::seed(11));
    let options = HostOptions { cache_dir: Some(common::compiled_dir()), ..HostOptions::default() };
    let host = PluginHost::new(options).expect("a host");
    let records: Vec<Record> = (0..RECORDS).map(|offset| record(offset, &mut random)).collect();
    // Two revisions, so that batches lie across their border, too.
    let border = RECORDS / 3;
    let segments =
        [Segment::of(0..border, 1, chain(&host, "first")), Segment::of(border..RECORDS, 2, chain(&host, "second"))];
    let (rows, dead, dropped) = run(&segments, &records, &[]);
    let by = |step: &str| dead.iter().filter(|dead| dead.step.starts_with(step)).count();
    assert!(by("decode") > 100 && by("rewrite-device-id") > 20, "the poison is in it: {dead:?}");
    assert_eq!(rows.num_rows() + dead.len(), records.len());
    for _ in 0..SPLITS {
        let mut cuts: Vec<usize> =
            (0..random.random_range(1..60)).map(|_| random.random_range(0..records.len())).collect();
        cuts.sort_unstable();
        let split = run(&segments, &records, &cuts);
        assert!(split.0 == rows, "rows differ when cut at {cuts:?}");
        assert_eq!((split.1, split.2), (dead.clone(), dropped), "when cut at {cuts:?}");
    }
    // One by one: what alone decides a row.
    let every: Vec<usize> = (1..300).collect();
    let alone = run(&segments, &records[..300], &every);
    assert!(alone.0 == run(&segments, &records[..300], &[]).0);
}
