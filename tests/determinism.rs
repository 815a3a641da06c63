//! The same rows in every process: 100,000 events through a chain of all stock plugins, under 50 random splits, in two
//! processes, one that compiles the plugins and one that finds them compiled.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use millrace_decode::Decoder;
use millrace_log::{Receipt, Record};
use millrace_pipeline::stock;
use millrace_plugin_host::{BoundTable, Chain, HostOptions, Limits, PluginHost, StepSpec};
use millrace_rows::LogId;
use millrace_rows::canonical::RowEncoder;
use millrace_tables::{Format, Lookup, Table, Upload};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};

const EVENTS: u64 = 100_000;
const SPLITS: usize = 50;
const BATCH: usize = 4096;

fn records() -> Vec<Record> {
    let agents = [
        "Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0",
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "curl/8.0",
    ];
    (0..EVENTS)
        .map(|n| {
            let event = json!({
                "type": "track", "messageId": format!("m-{n}"), "anonymousId": format!("device-{}", n % 997),
                "userId": if n % 13 == 0 { format!("ada{n}@example.com") } else { format!("u-{n}") },
                "event": "e", "timestamp": "2026-01-01T00:00:00Z",
                "properties": {"note": format!("call 4111 1111 1111 1111 {n}"), "n": n},
                "context": {
                    "ip": format!("203.0.{}.{}", n % 200, n % 251), "userAgent": agents[(n % 3) as usize],
                    "app": {"name": if n % 50 == 0 { "broken" } else { "shop" }},
                },
            });
            Record {
                offset: n,
                id: u128::from(n) + 1,
                appended_at_us: 1_767_225_600_000_000,
                checksum: n,
                receipt: Some(Receipt { received_at_us: 1_767_225_600_000_000, ..Receipt::default() }),
                payload: Bytes::from(event.to_string()),
            }
        })
        .collect()
}

fn chain(host: &PluginHost) -> Chain {
    let step = |wasm: &[u8], config: serde_json::Value| {
        StepSpec::new(host.load(wasm).expect("a stock plugin loads"), config.to_string(), Limits::default())
    };
    let csv = include_bytes!("../plugins/enrich-table/tables/country-by-ip.csv");
    let upload = Upload {
        bytes: Bytes::from_static(csv),
        format: Format::Csv,
        lookup: Lookup::Cidr("network".into()),
        types: Default::default(),
    };
    let table = BoundTable::Loaded(std::sync::Arc::new(Table::from_upload(&upload).expect("a table")));
    let enrich = json!({"table": "countries", "key": "ip", "columns": {"country": "ip_country"}});
    let steps = vec![
        step(stock::PII_SCRUB, json!({"key": "0123456789abcdef0123456789abcdef"})),
        step(stock::DROP_BOTS, json!({"keep": ["curl"]})),
        step(stock::ENRICH_USER_AGENT, json!({})),
        StepSpec {
            tables: [("countries".to_owned(), table)].into_iter().collect(),
            ..step(stock::ENRICH_TABLE, enrich)
        },
        step(stock::REWRITE_DEVICE_ID, json!({"rules": [{"app": "broken", "to_path": "properties.hw_id"}]})),
    ];
    Chain::new(host, steps).expect("the chain fits")
}

/// The digest of rows, dead letters and drops, cut at `cuts`.
fn digest(chain: &Chain, batch: &RecordBatch, cuts: &[usize]) -> String {
    let mut hasher = Sha256::new();
    let (mut dead, mut dropped, mut start, mut encoded) = (Vec::new(), 0, 0, Vec::new());
    for end in cuts.iter().copied().chain([batch.num_rows()]) {
        if start == end {
            continue;
        }
        let output = chain.run(batch.slice(start, end - start)).expect("nothing stops the chain");
        let encoder = RowEncoder::new(&output.rows).expect("canonical rows");
        for row in 0..output.rows.num_rows() {
            encoded.clear();
            encoder.encode(row, &mut encoded);
            hasher.update(&encoded);
        }
        dropped += output.dropped_records();
        dead.extend(output.dead);
        start = end;
    }
    assert!(dead.len() > 1000 && dropped > 10_000, "there are failures and drops: {} {dropped}", dead.len());
    hasher.update(format!("{dead:?} {dropped}"));
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What one process does: all digests that it finds, which are one.
#[test]
#[ignore = "run by the test below, as a process of its own"]
fn one_process() {
    let (cache, seed) = (std::env::var("MILLRACE_TEST_CACHE").unwrap(), std::env::var("MILLRACE_SEED").unwrap());
    let options = HostOptions { cache_dir: Some(cache.into()), ..HostOptions::default() };
    let chain = chain(&PluginHost::new(options).expect("a host"));
    let decoded = Decoder::default().decode(&records(), 0, LogId([7; 16])).batch;
    let whole: Vec<usize> = (1..decoded.num_rows().div_ceil(BATCH)).map(|n| n * BATCH).collect();
    let first = digest(&chain, &decoded, &whole);
    let mut random = StdRng::seed_from_u64(seed.parse().unwrap());
    for _ in 0..SPLITS / 2 {
        let mut cuts: Vec<usize> =
            (0..random.random_range(20..80)).map(|_| random.random_range(0..decoded.num_rows())).collect();
        cuts.sort_unstable();
        assert_eq!(digest(&chain, &decoded, &cuts), first, "cut at {cuts:?}");
    }
    println!("digest {first}");
}

fn start(cache: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["one_process", "--exact", "--ignored", "--nocapture"])
        .env("MILLRACE_TEST_CACHE", cache)
        .env("MILLRACE_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process starts")
}

#[test]
fn two_processes_and_fifty_splits_give_the_same_rows() {
    let seed = common::seed(23);
    let cold = tempfile::tempdir().unwrap();
    // The second finds what other tests of this build have compiled, or what it compiles itself at first.
    let processes = [start(&cold.path().join("aot"), seed), start(&common::compiled_dir(), seed + 1)];
    let digests = processes.map(|process| {
        let output = process.wait_with_output().expect("the process ends");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{text}");
        text.lines().find_map(|line| line.split_once("digest ")).expect("a digest").1.to_owned()
    });
    assert_eq!(digests[0], digests[1]);
    println!("{EVENTS} events, {SPLITS} splits, two processes: {}", digests[0]);
}
